"""The compact form: one spelling for each token, and one error for everything else."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi import InvalidTokenError
from obo_asgi.jws import MAX_TOKEN_BYTES, Compact, parse_compact

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def token(header: bytes = b"{}", claims: bytes = b"{}", signature: bytes = b"signature") -> str:
    return ".".join(map(encode, (header, claims, signature)))


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=6), VALUES, max_size=4)
TOKENS = st.builds(
    lambda header, claims, signature: token(
        json.dumps(header).encode(), json.dumps(claims, ensure_ascii=False).encode(), signature
    ),
    OBJECTS,
    OBJECTS,
    st.binary(min_size=1, max_size=40),
)


def refuse(text: str, code: str = "malformed") -> InvalidTokenError:
    with pytest.raises(InvalidTokenError) as caught:
        parse_compact(text)
    assert code == caught.value.code
    return caught.value


@given(OBJECTS, OBJECTS, st.binary(min_size=1, max_size=40))
def test_a_canonical_token_is_taken_apart(
    header: dict[str, Any], claims: dict[str, Any], signature: bytes
) -> None:
    """Header, claims and signature come out as they went in."""
    text = token(json.dumps(header).encode(), json.dumps(claims).encode(), signature)

    assert Compact(header, claims, text.rpartition(".")[0].encode(), signature) == parse_compact(
        text
    )


@given(TOKENS, st.data())
def test_another_spelling_is_refused(text: str, data: st.DataObject) -> None:
    """A character put into a token makes it another token or none, never the same."""
    at = data.draw(st.integers(0, len(text)))
    more = data.draw(st.sampled_from(["=", "==", "\n", "\r", " ", "+", "/", ".", "\0", "é", "%3D"]))

    refuse(text[:at] + more + text[at:])


@given(TOKENS, st.integers(0, 2), st.integers(1, 15))
def test_spare_bits_are_refused(text: str, index: int, bits: int) -> None:
    """Of the spellings that lax decoders read as the same bytes, one alone is accepted."""
    parts = text.split(".")
    part = parts[index]
    last = ALPHABET[ALPHABET.index(part[-1]) ^ bits]
    parts[index] = part[:-1] + last
    if decode(parts[index]) == decode(part):
        refuse(".".join(parts))


@given(st.text() | st.text(ALPHABET + ".=", max_size=60) | TOKENS)
def test_what_is_accepted_has_one_spelling(text: str) -> None:
    """Any text is refused with InvalidTokenError, or is rebuilt from its parts exactly."""
    try:
        compact = parse_compact(text)
    except InvalidTokenError:
        return
    assert text == f"{compact.signing_input.decode()}.{encode(compact.signature)}"
    assert json.loads(decode(text.split(".")[0])) == compact.header
    assert json.loads(decode(text.split(".")[1])) == compact.claims


@given(st.binary(max_size=60))
def test_any_bytes_inside_are_an_object_or_refused(data: bytes) -> None:
    """Whatever the parts hold, the outcome is a dict or InvalidTokenError."""
    with suppress(InvalidTokenError):
        assert isinstance(parse_compact(token(data)).header, dict)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="a dot"),
        pytest.param("..", id="empty parts"),
        pytest.param("." * 30_000, id="many dots"),
        pytest.param("e30.e30", id="two parts"),
        pytest.param("e30.e30.", id="no signature"),
        pytest.param(".e30.eA", id="no header"),
        pytest.param("e30.e30.eA.eA", id="four parts"),
        pytest.param("e30.e30.eA.eA.eA", id="encrypted (five parts)"),
        pytest.param("e30=.e30.eA", id="padding"),
        pytest.param("e30.e30.eA==", id="padding at the end"),
        pytest.param(" e30.e30.eA", id="space before"),
        pytest.param("e30.e30.eA\n", id="newline after"),
        pytest.param("e3\n0.e30.eA", id="newline inside"),
        pytest.param("e30.e30.+/+/", id="the other base64 alphabet"),
        pytest.param("e30.e30.eB", id="spare bits"),
        pytest.param("e30.e30.A", id="one character"),
        pytest.param("e30A0.e30.eA", id="five characters"),
        pytest.param("é30.e30.eA", id="not ASCII"),
        pytest.param("e30.e30.\ud800", id="a surrogate"),
        pytest.param("\u043530.e30.eA", id="a Cyrillic letter"),
    ],
)
def test_a_wrong_form_is_refused(text: str) -> None:
    """Only three canonical base64url parts are a token."""
    refuse(text)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"[]", id="array"),
        pytest.param(b'"x"', id="string"),
        pytest.param(b"null", id="null"),
        pytest.param(b"1", id="number"),
        pytest.param(b"{}{}", id="two objects"),
        pytest.param(b"{} x", id="rest"),
        pytest.param(b"{'a':1}", id="single quotes"),
        pytest.param(b'{"a":1,}', id="trailing comma"),
        pytest.param(b'{"exp":NaN}', id="NaN"),
        pytest.param(b'{"exp":Infinity}', id="Infinity"),
        pytest.param(b'{"exp":1e400}', id="a number beyond floats"),
        pytest.param(b'{"exp":' + b"9" * 9_000 + b"}", id="9,000 digits"),
        pytest.param(b"[" * 20_000, id="deep arrays"),
        pytest.param(b'{"a":' * 4_000 + b"1" + b"}" * 4_000, id="deep objects"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param("{}".encode("utf-16"), id="UTF-16"),
        pytest.param("{}".encode("utf-16-le"), id="UTF-16 without mark"),
        pytest.param("{}".encode("utf-32"), id="UTF-32"),
        pytest.param(b'{"a":"\xff"}', id="not UTF-8"),
        pytest.param(b'{"a":"\xc0\xae"}', id="overlong UTF-8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="an encoded surrogate"),
        pytest.param(b'{"a":"\\ud800"}', id="an escaped surrogate"),
        pytest.param(b'{"a":"\x00"}', id="a raw control character"),
    ],
)
def test_what_is_not_a_json_object_in_utf8_is_refused(data: bytes) -> None:
    """A header and a payload have to be strict JSON objects in UTF-8."""
    assert "header" in str(refuse(token(data)))
    assert "payload" in str(refuse(token(claims=data)))


@pytest.mark.parametrize("size", [MAX_TOKEN_BYTES + 1, 1024 * 1024])
def test_a_large_token_is_refused_unread(size: int) -> None:
    """A token beyond the limit is refused by its length alone."""
    text = token(b'{"a":"' + b"x" * size + b'"}')[:size]

    assert size == len(text)
    refuse(text, "size")


def test_a_token_of_the_largest_size_is_read() -> None:
    """The limit itself is still allowed."""
    text = "e30.e30."
    text += "A" * (MAX_TOKEN_BYTES - len(text))

    assert MAX_TOKEN_BYTES == len(text)
    assert bytes((MAX_TOKEN_BYTES - 8) * 3 // 4) == parse_compact(text).signature


def test_nothing_of_the_token_is_in_an_error() -> None:
    """A refusal repeats neither the token nor what stands in it."""
    error = refuse(token(b'{"alg":"alice@example.com"'))

    assert "alice" not in f"{error} {error!r} {vars(error)}"
    assert (None, None) == (error.__cause__, error.__context__)


def test_a_parsed_token_does_not_show_itself() -> None:
    """Neither repr nor str nor a format shows claims or signature."""
    compact = parse_compact(token(claims=b'{"name":"alice"}'))

    assert {"Compact(***)"} == {repr(compact), str(compact), f"{compact}"}
