"""URLs that a token may travel to: whatever comes in, it stays inside the API's base URL."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi import ConfigurationError
from obo_asgi._urls import check_base_url, is_loopback, join_url, origin

BASES = [
    "https://api.example.com",
    "https://api.example.com/v1.0",
    "http://127.0.0.1:8000/api",
    "https://[2001:db8::1]:8443/a/b",
]
PIECES = [
    *("https://", "http://", "HTTPS://", "ftp://", "javascript:", "//", "/", "\\", "@", ":", ";"),
    *("..", ".", "%2e", "%2E%2e", "%252e", "%25252e", "%2f", "%252f", "%5c", "%255C", "%3b", "%40"),
    *("?", "#", "%3f", "%23", "%", "%00", "%0d%0a", "%250a", "%zz", "\t", "\n", "\x7f", " ", "é"),
    *("api.example.com", "API.EXAMPLE.COM", "evil.example", "127.0.0.1", "[2001:db8::1]", "..;x"),
    *(":443", ":8000", ":8443", ":80", "v1.0", "/v1.0/", "api", "/a/b", "me", "\uff0e", "\uff0f"),
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
UNDER = st.builds("{}{}".format, st.sampled_from(BASES), HOSTILE)


def depths(path: str) -> Iterator[str]:
    """Give a path as it reads after each round of percent-decoding."""
    while True:
        yield path
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded


def resolved(path: str) -> str:
    """Resolve a path as the laxest server would: backslashes, parameters, dot segments."""
    segments = path.replace("\\", "/").split("/")
    return posixpath.normpath("/" + "/".join(segment.partition(";")[0] for segment in segments))


def assert_inside(base: str, url: str) -> None:
    ours, theirs = httpx.URL(base), httpx.URL(url)
    assert (ours.scheme, ours.host, ours.port) == (theirs.scheme, theirs.host, theirs.port)
    assert (b"", "") == (theirs.userinfo, theirs.fragment)
    fence = ours.path.rstrip("/")
    for path in [theirs.path, urlsplit(urljoin(base, url)).path, *depths(urlsplit(url).path)]:
        assert not any(character < " " or character == "\x7f" for character in path)
        assert (resolved(path) + "/").replace("//", "/").startswith(fence + "/")


@given(st.sampled_from(BASES), HOSTILE | UNDER | st.text(max_size=30))
def test_a_joined_url_never_leaves_the_base(base: str, url: str) -> None:
    """Any input is refused, or joins to a URL of the same origin inside the base path."""
    try:
        joined = join_url(base, url)
    except ConfigurationError:
        return
    assert_inside(base, joined)


@given(
    st.sampled_from(BASES),
    st.lists(st.from_regex(r"[A-Za-z0-9_~()'!$&*+,=-]{1,8}", fullmatch=True), max_size=4),
    st.booleans(),
)
def test_a_plain_path_is_appended_to_the_base(
    base: str, segments: list[str], has_slash: bool
) -> None:
    """A path without special characters joins to the base as it is, slash or not."""
    path = "/".join(segments)

    expected = f"{base}/{path}" if path else base
    assert expected == join_url(base, "/" * has_slash + path)
    assert expected == join_url(base, expected)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("me", "https://api.example.com/v1.0/me"),
        ("/me", "https://api.example.com/v1.0/me"),
        ("", "https://api.example.com/v1.0"),
        ("/", "https://api.example.com/v1.0"),
        ("?$top=1", "https://api.example.com/v1.0?$top=1"),
        ("me?next=https://evil.example/../", "https://api.example.com/v1.0/me?next=https://evil.example/../"),
        ("users/a@b.example", "https://api.example.com/v1.0/users/a@b.example"),
        ("drive/root:/a.txt:/content", "https://api.example.com/v1.0/drive/root:/a.txt:/content"),
        ("me/..a/b..", "https://api.example.com/v1.0/me/..a/b.."),
        ("me/", "https://api.example.com/v1.0/me/"),
        ("a%2Fb%20c%25", "https://api.example.com/v1.0/a%2Fb%20c%25"),
        ("100%25252525", "https://api.example.com/v1.0/100%25252525"),
        ("é", "https://api.example.com/v1.0/é"),
        ("javascript:x", "https://api.example.com/v1.0/javascript:x"),
        ("https://api.example.com/v1.0", "https://api.example.com/v1.0"),
        ("https://api.example.com/v1.0?$skip=1", "https://api.example.com/v1.0?$skip=1"),
        ("HTTPS://API.example.com:443/v1.0/me", "HTTPS://API.example.com:443/v1.0/me"),
    ],
)  # fmt: skip
def test_a_url_inside_is_accepted(url: str, expected: str) -> None:
    """Paths, queries and absolute URLs of the API join as httpx users expect."""
    assert expected == join_url("https://api.example.com/v1.0", url)


@pytest.mark.parametrize(
    "url",
    [
        "//evil.example",
        "//api.example.com/v1.0/me",
        "///me",
        "https://evil.example/v1.0/me",
        "http://api.example.com/v1.0/me",
        "https://api.example.com:444/v1.0/me",
        "https://api.example.com.evil.example/v1.0/me",
        "https://sub.api.example.com/v1.0/me",
        "https://user@api.example.com/v1.0/me",
        "https://@api.example.com/v1.0/me",
        "https://api.example.com@evil.example/v1.0/me",
        "https://api.example.com/v1.0beta/me",
        "https://api.example.com/beta/me",
        "https://api.example.com/",
        "https://api.example.com",
        "https://api.example.com/V1.0/me",
        "https://api.example.com/v1.0/../beta",
        "https://api.example.com/v1.0/%2e%2e/beta",
        "https://api.example.com:port/v1.0",
        "https://[::1/v1.0",
        "https://",
        "ftp://api.example.com/v1.0",
        "wss://api.example.com/v1.0",
        "..",
        "../beta",
        "me/../../beta",
        "me/./x",
        ".",
        "%2e%2e/beta",
        "%252e%252e/beta",
        "%25252e./beta",
        "..%2fbeta",
        "..%252fbeta",
        "..;/beta",
        "..;x=1/beta",
        "..%3b/beta",
        "..%5cbeta",
        "..\\beta",
        "\\evil.example",
        "/\\evil.example",
        "me%5c..",
        "me\r\nx: y",
        "me%0d%0ax",
        "me%250a",
        "me\x00",
        "\tme",
        "me\x7f",
        "me#fragment",
        "https://api.example.com/v1.0/me#",
    ],
)  # fmt: skip
def test_a_url_outside_is_refused(url: str) -> None:
    """Other origins, other paths, dot segments at any depth and smuggled characters fail."""
    with pytest.raises(ConfigurationError, match="downstream URL"):
        join_url("https://api.example.com/v1.0", url)


def test_port_zero_is_a_port_of_its_own() -> None:
    """A URL with the port 0 is not of the origin with the default port."""
    with pytest.raises(ConfigurationError):
        join_url("https://api.example.com", "https://api.example.com:0/me")


@pytest.mark.parametrize("levels", [8, 32_000])
def test_a_deeply_encoded_path_is_refused(levels: int) -> None:
    """What is encoded more often than any server decodes is refused, before it takes time."""
    before = time.process_time()
    with pytest.raises(ConfigurationError, match="downstream URL"):
        join_url("https://api.example.com", "%" + "25" * levels)

    assert 0.5 > time.process_time() - before


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("localhost", True),
        ("localhost.", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("2130706433", False),
        ("127.1", False),
        ("", False),
        (None, False),
    ],
)
def test_is_loopback(host: str | None, expected: bool) -> None:
    """Only addresses of this machine in their usual form, and its one name, are loopback."""
    assert expected is is_loopback(host)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://API.example.com/x", ("https", "api.example.com", 443)),
        ("HTTP://127.0.0.1", ("http", "127.0.0.1", 80)),
        ("https://[::1]:8443/x?y", ("https", "::1", 8443)),
        ("wss://h", ("wss", "h", 0)),
        ("/path", ("", "", 0)),
    ],
)
def test_origin(url: str, expected: tuple[str, str, int]) -> None:
    """Scheme and host in small letters and the port, given or implied, make an origin."""
    assert expected == origin(url)
    assert expected == origin(urlsplit(url))


@given(HOSTILE | UNDER | st.text(max_size=30), st.booleans())
def test_an_accepted_base_url_is_safe(url: str, loopback_http: bool) -> None:
    """A base URL is refused, or it is https (or http on this machine) and a plain path."""
    try:
        base = check_base_url(url, name="base_url", loopback_http=loopback_http)
    except ConfigurationError:
        return
    parts = urlsplit(base)
    assert parts.scheme == "https" or (loopback_http and is_loopback(parts.hostname))
    assert (None, None, "", "") == (parts.username, parts.password, parts.query, parts.fragment)
    assert not base.endswith("/")
    assert base == check_base_url(base, name="base_url", loopback_http=loopback_http)
