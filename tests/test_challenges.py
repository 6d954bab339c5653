"""Challenges: one header line that any parser reads back, whatever the values are."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from typing import Any

import httpx
import httpx2
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi import InteractionRequiredError
from obo_asgi.challenges import (
    Challenge,
    bearer_challenge,
    encode_claims,
    parse_challenge,
    raise_for_challenge,
)

PARAMETER = re.compile(r'(?:^|, )([a-z_]+)="([\x20-\x21\x23-\x5b\x5d-\x7e]*)"')
NAMES = ["error", "error_description", "scope", "claims", "authorization_uri"]


def read(challenge: str) -> dict[str, str]:
    """Read a challenge back, insisting that every character of it belongs to a parameter."""
    scheme, _, rest = challenge.partition(" ")
    assert "Bearer" == scheme
    assert "" == PARAMETER.sub("", rest)
    pairs = PARAMETER.findall(rest)
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


@given(st.dictionaries(st.sampled_from(NAMES), st.none() | st.text()))
def test_any_value_makes_one_readable_line(parameters: dict[str, str | None]) -> None:
    """Each given parameter stands there once, without quotes, backslashes or controls inside."""
    parsed = read(bearer_challenge(**parameters))

    expected = {name: value for name, value in parameters.items() if value is not None}
    assert {"realm", *expected} == parsed.keys()
    for name, value in expected.items():
        assert re.sub(r'[^ -~]|["\\]', "?", value) == parsed[name]


@given(st.dictionaries(st.sampled_from(NAMES), st.from_regex(r"[ !#-\[\]-~]*", fullmatch=True)))
def test_what_can_be_quoted_is_not_changed(parameters: dict[str, str]) -> None:
    """Printable ASCII without quote and backslash comes back as it went in."""
    assert {"realm": "", **parameters} == read(bearer_challenge(**parameters))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('a", error="x', "a?, error=?x"),
        ("a\r\nSet-Cookie: x", "a??Set-Cookie: x"),
        ("a\\", "a?"),
        ("a\x00\x1f\x7f\x85\u2028", "a?????"),
        ("é", "?"),
        ("\ud800", "?"),
        ("", ""),
    ],
    ids=ascii,
)
def test_a_hostile_value_is_defused(value: str, expected: str) -> None:
    """A value cannot end its quotes, its line or the ASCII range."""
    assert f'Bearer realm="", error="{expected}"' == bearer_challenge(error=value)


def test_a_challenge_needs_no_parameter() -> None:
    """Without a parameter the challenge is the empty realm, as Entra's is."""
    assert 'Bearer realm=""' == bearer_challenge()
    assert 'Bearer realm=""' == bearer_challenge(error=None)


def test_the_realm_can_be_given() -> None:
    """A realm of one's own stands in the place of the empty one."""
    assert 'Bearer realm="api", error="x"' == bearer_challenge(realm="api", error="x")


@given(st.dictionaries(st.text(), st.text()))
def test_claims_survive_the_header(claims: dict[str, str]) -> None:
    """Claims are carried as base64 of their JSON, which a challenge does not change."""
    text = json.dumps(claims, ensure_ascii=False)

    carried = read(bearer_challenge(claims=encode_claims(text)))["claims"]
    assert text == b64decode(carried, validate=True).decode()


# --- Understanding them again ---------------------------------------------------------------------

CLAIMS = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'


def response(*lines: str, status: int = 401, library: Any = httpx, **body: Any) -> Any:
    headers = [("WWW-Authenticate", line) for line in lines]
    return library.Response(status, headers=headers, json=body)


def understood(*lines: str, **options: Any) -> Challenge | None:
    return parse_challenge(response(*lines, **options))


TEXTS = ("error", "error_description", "authorization_uri", "resource_metadata")
QUOTABLE = st.from_regex(r"[!#-\[\]-~]{1,20}", fullmatch=True)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(TEXTS, QUOTABLE)),
    st.lists(QUOTABLE, max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=2),
    st.sampled_from([httpx, httpx2]),
    st.sampled_from([401, 403]),
)
def test_what_is_built_here_is_understood(
    named: dict[str, str], scopes: list[str], claims: dict[str, str], library: Any, status: int
) -> None:
    """A challenge of ours comes out of an answer as it was meant, with httpx and with httpx2."""
    text = json.dumps(claims, ensure_ascii=False)
    line = bearer_challenge(**named, scope=" ".join(scopes) or None, claims=encode_claims(text))

    expected = Challenge(**named, scopes=tuple(scopes), claims=text)
    assert expected == understood(line, library=library, status=status)


@pytest.mark.parametrize(
    ("challenged", "expected"),
    [
        pytest.param(
            response(
                'Bearer Claims="{\\"a\\":1}", consentUri="https://a/b", scopes="a/x,a/y"',
                status=403,
            ),
            Challenge(
                error="insufficient_claims",
                scopes=("a/x", "a/y"),
                claims='{"a":1}',
                consent_uri="https://a/b",
            ),
            id="Microsoft.Identity.Web's, claims",
        ),
        pytest.param(
            response('Bearer consentUri="https://a/b", scopes="a/x"', status=403),
            Challenge(error="consent_required", scopes=("a/x",), consent_uri="https://a/b"),
            id="Microsoft.Identity.Web's, consent",
        ),
        pytest.param(
            response(
                f'Bearer realm="", error="insufficient_claims", claims="{encode_claims(CLAIMS)}"'
            ),
            Challenge(error="insufficient_claims", claims=CLAIMS),
            id="Entra's",
        ),
        pytest.param(
            response(
                error="consent_required",
                error_description="why",
                scopes=["a/x", 7, ""],
                consent_uri="https://a/b",
            ),
            Challenge(
                error="consent_required",
                error_description="why",
                scopes=("a/x",),
                consent_uri="https://a/b",
            ),
            id="a body alone",
        ),
        pytest.param(
            response("Bearer error=interaction_required", scope="a/x a/y", claims=CLAIMS),
            Challenge(error="interaction_required", scopes=("a/x", "a/y"), claims=CLAIMS),
            id="a header that leaves things to the body",
        ),
        pytest.param(
            response('Bearer error="x", scope="a/x"', error="consent_required", scopes=["a/y"]),
            Challenge(error="x", scopes=("a/x",)),
            id="a header that says it itself",
        ),
        pytest.param(
            response("Bearer error=invalid_token", "Basic", "Bearer error=consent_required"),
            Challenge(error="consent_required"),
            id="the one that the user can meet",
        ),
        pytest.param(
            response('Bearer error="a", Bearer error="b"'),
            Challenge(error="a"),
            id="else the first one",
        ),
        pytest.param(response("Basic", "Negotiate abc="), None, id="other schemes"),
        pytest.param(response(error="invalid_token"), None, id="a body that is no challenge"),
        pytest.param(response("Bearer error=x", status=400), None, id="another status"),
        pytest.param(
            httpx.Response(401, content=b"[" * 60_000), None, id="a body that nests beyond reason"
        ),
        pytest.param(
            httpx.Response(401, json={"error": "consent_required", "more": "x" * 70_000}),
            None,
            id="a body beyond 64 KiB",
        ),
        pytest.param(
            response(
                f'Bearer error="consent_required", error_description="{"x" * 5000}", '
                f'scope="{"a" * 300} {" ".join(map(str, range(40)))}"'
            ),
            Challenge(error="consent_required", scopes=tuple(map(str, range(32)))),
            id="texts and scopes beyond reason",
        ),
    ],
)
def test_an_answer_is_understood(challenged: Any, expected: Challenge | None) -> None:
    """The header counts, then the body; what is not for us, or is too much, is left out."""
    assert expected == parse_challenge(challenged)


@pytest.mark.parametrize("is_read", [True, False])
def test_requests_answers_are_understood(is_read: bool) -> None:
    """An answer of requests is understood too; a body that is still to come is left alone."""
    answer = requests.Response()
    answer.status_code = 401
    answer.headers["www-authenticate"] = 'Basic realm="a", Bearer error="interaction_required"'
    answer.raw = io.BytesIO(b'{"scopes":["a/x"]}')
    if is_read:
        _ = answer.content

    expected = Challenge(error="interaction_required", scopes=("a/x",) if is_read else ())
    assert expected == parse_challenge(answer)
    assert b'{"scopes":["a/x"]}' == answer.content


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
def test_a_stream_is_left_alone(library: Any) -> None:
    """A body that has not been read stays so, and the header is understood without it."""
    stream = library.Response(
        401,
        headers={"WWW-Authenticate": "Bearer error=login_required"},
        stream=httpx.ByteStream(b""),
    )

    assert Challenge(error="login_required") == parse_challenge(stream)
    assert not stream.is_stream_consumed


@given(st.lists(st.text(st.characters(codec="latin-1")), max_size=3), st.binary(max_size=40))
def test_no_answer_is_an_error(lines: list[str], body: bytes) -> None:
    """Whatever an API answers, there is a challenge or none."""
    headers = [(b"www-authenticate", line.encode("latin-1")) for line in lines]
    challenge = parse_challenge(httpx.Response(401, headers=headers, content=body))

    assert challenge is None or isinstance(challenge, Challenge)


def test_a_challenge_is_raised_as_the_error_of_its_like() -> None:
    """What the user can meet is raised, with scopes, claims and pages; everything else is not."""
    line = bearer_challenge(
        error="consent_required", scope="a/x", claims=encode_claims(CLAIMS), consent_uri="https://a"
    )
    with pytest.raises(InteractionRequiredError) as caught:
        raise_for_challenge(response(line, status=403))
    error = caught.value

    assert (("a/x",), CLAIMS, "https://a", None, True) == (
        error.scopes,
        error.claims_challenge,
        error.consent_uri,
        error.authorization_uri,
        error.needs_consent,
    )
    for other in (response("Bearer error=invalid_token"), response(), response(line, status=200)):
        raise_for_challenge(other)
