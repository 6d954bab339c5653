"""Challenges: one header line that any parser reads back, whatever the values are."""

from __future__ import annotations

import json
import re
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi.challenges import bearer_challenge, encode_claims

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
