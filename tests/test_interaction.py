"""Interaction: claims that travel whole, demands that add up, and one page for one app."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obo_asgi._http import CHALLENGE
from obo_asgi.errors import AccessDeniedError, InteractionRequiredError
from obo_asgi.interaction import (
    MAX_CLAIMS,
    authorize_url,
    consent_url,
    decode_claims,
    encode_claims,
    find_interactions,
    merge_claims,
    merge_interactions,
    read_claims,
)

TENANT = "aaaaaaaa-1111-4111-8111-111111111111"
CLIENT = "cccccccc-3333-4333-8333-333333333333"
PAGE = f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/authorize"
RETURN = "https://app.example.com/consented"

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2)
    ),
    max_leaves=4,
)
CLAIMS = st.builds(
    json.dumps, st.dictionaries(st.text(max_size=8), JSON, max_size=3), ensure_ascii=st.booleans()
)
BASE64 = st.text("ABYZabyz0189+/-_= \n$é", max_size=30)


@settings(max_examples=50)
@given(CLAIMS, st.sampled_from([b64encode, urlsafe_b64encode]), st.booleans())
def test_claims_survive_every_alphabet(claims: str, encode: Any, has_padding: bool) -> None:
    """Claims come out as they went in, from both alphabets, padded or not, and as they are."""
    carried = encode(claims.encode()).decode()

    assert claims == decode_claims(encode_claims(claims))
    assert claims == decode_claims(carried if has_padding else carried.rstrip("="))
    assert claims == decode_claims(claims)


def test_both_alphabets_differ_somewhere() -> None:
    """The letters in which the alphabets of base64 differ are read in either form."""
    claims = '{"a":"~~~???"}'
    text = encode_claims(claims)

    assert {"+", "/"} <= set(text)
    assert claims == decode_claims(text.replace("+", "-").replace("/", "_").rstrip("="))


@given(st.text(max_size=30) | BASE64 | BASE64.map("e30{}".format))
def test_any_text_is_claims_or_none(text: str) -> None:
    """Whatever a header carries, what is taken for claims is a JSON object; nothing raises."""
    claims = decode_claims(text)

    assert claims is None or isinstance(json.loads(claims), dict)


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


NO_CLAIMS = [
    *("", "null", "[]", '"claims"', "1", "{", "{}{}", '{"a":}', "{'a':1}", "e30"),
    pytest.param('{"a":NaN}', id="NaN"),
    pytest.param('{"a":1e999}', id="beyond every number"),
    pytest.param('{"a":"\ud800"}', id="half a character"),
    pytest.param('{"a":"\\ud800"}', id="half a character, escaped"),
    pytest.param('{"a":"' + "x" * MAX_CLAIMS + '"}', id="long"),
    pytest.param('{"a":' + "1" * 5000 + "}", id="a long number"),
    pytest.param(nested(17), id="deep"),
    pytest.param('{"a":' + "[" * 17 + "]" * 17 + "}", id="deep in lists"),
    pytest.param(nested(1500), id="deeper than the stack"),
]


@pytest.mark.parametrize("claims", NO_CLAIMS)
def test_what_is_no_object_of_a_sane_size_is_no_claims(claims: str) -> None:
    """Other JSON, no JSON, and objects that are too long, too deep or cannot be sent are none."""
    assert read_claims(claims) is None
    assert decode_claims(b64encode(claims.encode(errors="surrogatepass")).decode()) is None


@pytest.mark.parametrize("claims", [None, 1, {}, [], b"{}", {"access_token": {}}], ids=repr)
def test_what_is_no_text_is_no_claims(claims: object) -> None:
    """A body may hold anything where claims are expected."""
    assert read_claims(claims) is None


@pytest.mark.parametrize("text", ["W10=", "e30=x", "e3", "/w==", "eyI=", "{", '{"a":NaN}'])
def test_a_broken_header_holds_no_claims(text: str) -> None:
    """Base64 of something else, cut base64, and bytes that are no text hold no claims."""
    assert decode_claims(text) is None


def test_the_limits_are_where_they_are_said_to_be() -> None:
    """The longest and the deepest claims are read; one character or one level more is too much."""
    longest = '{"a":"' + "x" * (MAX_CLAIMS - 8) + '"}'

    assert longest == decode_claims(encode_claims(longest)) == decode_claims(longest)
    assert nested(16) == decode_claims(encode_claims(nested(16)))
    assert decode_claims(encode_claims(longest + " ")) is None
    assert decode_claims("e30" + " " * 2 * MAX_CLAIMS) is None


NAMES = st.sampled_from(["acrs", "amr", "capolids", "nbf"])
WANTED = st.sampled_from(["a", "b", "c", 1, 2])
SECONDS = st.integers(1, 10**12)
DEMANDS = st.fixed_dictionaries({}, optional={"essential": st.booleans(), "value": WANTED}) | (
    st.fixed_dictionaries(
        {"values": st.lists(WANTED, max_size=3)}, optional={"essential": st.just(True)}
    )
)
LATER = st.fixed_dictionaries({"value": SECONDS | SECONDS.map(str)})


@st.composite
def demanding(draw: st.DrawFn) -> str:
    """Give a claims challenge of Entra's form."""
    sections = draw(st.lists(st.sampled_from(["access_token", "id_token"]), max_size=2))
    return json.dumps(
        {
            section: {
                name: draw(LATER if name == "nbf" else DEMANDS | st.none())
                for name in draw(st.sets(NAMES))
            }
            for section in sections
        },
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
    )


Demands = dict[tuple[str, str], tuple[bool, frozenset[object]]]


def demands(*challenges: str) -> Demands:
    """Give what challenges demand together, by section and claim: if it must be, and the values."""
    result: Demands = {}
    for challenge in challenges:
        for section, claims in json.loads(challenge).items():
            for name, demand in claims.items():
                essential, values = result.get((section, name), (False, frozenset()))
                given_ = [(demand or {}).get("value"), *(demand or {}).get("values", [])]
                values |= {value for value in given_ if value is not None}
                if name == "nbf":
                    values = frozenset([str(max(int(str(value)) for value in values))])
                essential = essential or bool((demand or {}).get("essential"))
                result[section, name] = (essential, values)
    return result


@settings(max_examples=50)
@given(st.lists(demanding(), min_size=1, max_size=3))
def test_what_all_demand_is_demanded(challenges: list[str]) -> None:
    """Every section, claim and value is in the merged challenge; nothing else; nbf is the last."""
    merged = merge_claims(challenges)

    assert merged is not None
    assert demands(*challenges) == demands(merged)


@settings(max_examples=50)
@given(demanding(), demanding())
def test_the_order_of_challenges_does_not_matter(one: str, other: str) -> None:
    """Merged in either order, challenges demand the same."""
    assert demands(merge_claims([one, other]) or "") == demands(merge_claims([other, one]) or "")


@settings(max_examples=50)
@given(demanding(), demanding())
def test_merging_again_changes_nothing(one: str, other: str) -> None:
    """A challenge that has been merged in already adds nothing, and one alone stays as it came."""
    merged = merge_claims([one, other]) or ""

    assert one == merge_claims([one]) == merge_claims([one, one])
    assert demands(merged) == demands(merge_claims([merged, one, other]) or "")


@settings(max_examples=50)
@given(st.lists(CLAIMS | st.text(max_size=10), max_size=3))
def test_a_merged_challenge_can_be_read(challenges: list[str]) -> None:
    """Of any texts, also nonsense, merging makes claims that can be sent on, or none."""
    merged = merge_claims(challenges)

    assert merged == read_claims(merged)
    assert (merged is None) is all(read_claims(claims) is None for claims in challenges)


@pytest.mark.parametrize(
    ("challenges", "expected"),
    [
        pytest.param([], None, id="none"),
        pytest.param(["", "x", "[]", "null"], None, id="nonsense alone"),
        pytest.param(["x", '{ "a": 1 }', ""], '{ "a": 1 }', id="one among nonsense, as it came"),
        pytest.param(
            [
                '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}',
                '{"access_token":{"acrs":{"essential":true,"value":"c2"}}}',
            ],
            '{"access_token":{"acrs":{"essential":true,"values":["c1","c2"]}}}',
            id="two contexts",
        ),
        pytest.param(
            [
                '{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}',
                '{"access_token":{"nbf":{"essential":true,"value":"999999999"}}}',
            ],
            '{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}',
            id="nbf, as a number and not as a text",
        ),
        pytest.param(
            ['{"a":{"nbf":{"value":"soon"}}}', '{"a":{"nbf":{"value":5}}}'],
            '{"a":{"nbf":{"value":5}}}',
            id="nbf, one of them nonsense",
        ),
        pytest.param(
            ['{"a":{"acrs":null}}', '{"a":{"acrs":{"essential":true}}}'],
            '{"a":{"acrs":{"essential":true}}}',
            id="asked for, and demanded",
        ),
        pytest.param(
            ['{"a":{"acrs":{"essential":true}}}', '{"a":{"acrs":null}}'],
            '{"a":{"acrs":{"essential":true}}}',
            id="demanded, and asked for",
        ),
        pytest.param(
            ['{"a":{"acrs":{"value":"c1"}}}', '{"a":{"acrs":{"essential":true,"value":"c1"}}}'],
            '{"a":{"acrs":{"essential":true,"value":"c1"}}}',
            id="the same value",
        ),
        pytest.param(
            ['{"access_token":5}', '{"access_token":{"acrs":{"value":"c1"}}}'],
            '{"access_token":{"acrs":{"value":"c1"}}}',
            id="a number where demands are",
        ),
        pytest.param(
            ['{"access_token":{"acrs":{"value":"c1"}}}', '{"access_token":"x"}'],
            '{"access_token":{"acrs":{"value":"c1"}}}',
            id="a text where demands are",
        ),
        pytest.param(
            ['{"a":{"b":{"value":{"c":1},"values":"x"}}}', '{"a":{"b":{"values":[[1],"d"]}}}'],
            '{"a":{"b":{"value":"d"}}}',
            id="values that are none",
        ),
        pytest.param(['{"a":1}', '{"a":2}'], '{"a":1}', id="no demands at all"),
        pytest.param(
            ['{"id_token":{"é":null}}', '{"userinfo":{"name":null}}'],
            '{"id_token":{"é":null},"userinfo":{"name":null}}',
            id="sections, and letters as they are",
        ),
    ],
)
def test_challenges_become_one(challenges: list[str], expected: str | None) -> None:
    """Demands add up by section and claim, and what makes no sense is left out."""
    assert expected == merge_claims(challenges)


def test_what_would_not_fit_into_a_header_is_left_out() -> None:
    """Claims are merged as long as they can be sent; the first is never lost."""
    first, second, third = (f'{{"{name}":"{"é" * 4000}"}}' for name in "abc")
    small = '{"d":1}'
    merged = merge_claims([first, second, third, small])

    assert merged is not None
    assert MAX_CLAIMS >= len(merged)
    assert {"a", "b", "d"} == json.loads(merged).keys()


def test_the_sign_in_page_is_of_the_tenant() -> None:
    """Users of a tenant sign in on the page of that tenant at the configured authority."""
    assert PAGE == authorize_url("https://login.microsoftonline.com", TENANT)


def consent(*scopes: str, client: str = CLIENT) -> str:
    return consent_url(PAGE, client_id=client, redirect_uri=RETURN, scopes=scopes)


def query(url: str | None) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url or "").query, strict_parsing=True)


def test_a_consent_page_asks_for_our_own_app() -> None:
    """The page is a complete authorization request with our client id, and asks for consent."""
    url = consent("api://partner/read", "api://partner/write")

    assert PAGE == url.partition("?")[0]
    assert {
        "client_id": [CLIENT],
        "response_type": ["code"],
        "response_mode": ["query"],
        "redirect_uri": [RETURN],
        "scope": ["api://partner/read api://partner/write"],
        "prompt": ["consent"],
    } == query(url)


@given(st.lists(st.text(min_size=1, max_size=8), max_size=3))
def test_a_scope_cannot_change_the_page(scopes: list[str]) -> None:
    """Whatever a scope holds, it stays in its parameter, and the URL is plain ASCII."""
    url = consent_url(PAGE, client_id=CLIENT, redirect_uri=RETURN, scopes=scopes)

    assert url.isascii()
    assert url.isprintable()
    assert " ".join(scopes) == parse_qs(url.partition("?")[2], keep_blank_values=True)["scope"][0]


def interaction(**attributes: Any) -> InteractionRequiredError:
    error = InteractionRequiredError("the user must do something", error_codes=[50076])
    vars(error).update(attributes)
    return error


def merged_page(*urls: str | None) -> str | None:
    return merge_interactions([interaction(consent_uri=url) for url in urls]).consent_uri


def test_pages_of_one_app_become_one_page() -> None:
    """The pages of one app become one page with the scopes of all, each once, in their order."""
    url = merged_page(consent("a/x"), None, consent("b/y", "a/x"), consent("c/z"))

    assert consent("a/x", "b/y", "c/z") == url


def test_of_pages_of_several_apps_the_first_remains() -> None:
    """One page cannot ask for two apps, so the first is shown, and the next call asks again."""
    other = "dddddddd-4444-4444-8444-444444444444"
    elsewhere = consent("c/z").replace(TENANT, "common")
    url = merged_page(consent("a/x"), consent("b/y", client=other), elsewhere, consent("a/z"))

    assert consent("a/x", "a/z") == url


@pytest.mark.parametrize(
    "url",
    [
        f"{PAGE}?client_id=b&scope=a%20b&state=",
        f"{PAGE}?scope=b%2Fread",
        f"{PAGE}?client_id=b",
        PAGE,
        "https://[",
        "https://a?scope=%zz&&=",
        "?",
    ],
)
def test_a_page_stays_as_it_is(url: str) -> None:
    """A page that nothing is merged into is passed on byte for byte, whoever made it."""
    assert url == merged_page(url) == merged_page(None, url) == merged_page(url, url)
    assert url == merged_page(url, consent("a/x"))


def test_a_foreign_page_keeps_its_other_parameters() -> None:
    """Of a page that another app's library made, only the scopes grow; empty values stay."""
    page = f"{PAGE}?client_id=b&state=&scope={{}}&prompt=consent"
    url = merged_page(page.format("b%2Fread"), page.format("b%2Fwrite"))

    assert {
        "client_id": ["b"],
        "state": [""],
        "prompt": ["consent"],
        "scope": ["b/read b/write"],
    } == parse_qs((url or "").partition("?")[2], keep_blank_values=True)


def test_one_error_is_a_copy_of_itself() -> None:
    """Merging a single error changes nothing of what it says, and nothing of the error itself."""
    error = interaction(
        scopes=("a/x",), claims_challenge="{ }", authorization_uri=PAGE, consent_uri=consent("a/x")
    )
    before = dict(vars(error))
    merged = merge_interactions([error])

    assert error is not merged
    assert before == vars(error) == vars(merged)


def test_all_that_is_missing_is_one_error() -> None:
    """Scopes, claims and numbers add up; a missing consent is named even if it is not the first."""
    claims = interaction(
        scopes=("a/x",), claims_challenge='{"access_token":{"acrs":{"value":"c1"}}}'
    )
    missing = interaction(
        scopes=("b/y", "a/x"),
        error="invalid_grant",
        suberror="consent_required",
        error_codes=(65001, 50076),
        authorization_uri=PAGE,
        consent_uri=consent("b/y"),
    )
    later = interaction(
        claims_challenge='{"access_token":{"acrs":{"value":"c2"}}}', authorization_uri="https://b"
    )
    merged = merge_interactions([claims, missing, later])

    assert ("a/x", "b/y") == merged.scopes
    assert '{"access_token":{"acrs":{"values":["c1","c2"]}}}' == merged.claims_challenge
    assert (50076, 65001) == merged.error_codes
    assert (PAGE, consent("b/y")) == (merged.authorization_uri, merged.consent_uri)
    assert ("invalid_grant", "consent_required") == (merged.error, merged.suberror)
    assert ((), None) == (later.scopes, claims.consent_uri)


@pytest.mark.parametrize(
    ("error", "suberror", "expected"),
    [
        ("invalid_grant", "consent_required", True),
        ("consent_required", None, True),
        ("invalid_grant", "basic_action", False),
        ("interaction_required", None, False),
        (None, None, False),
    ],
)
def test_a_missing_consent_can_be_told(
    error: str | None, suberror: str | None, expected: bool
) -> None:
    """Entra says so in its finer code, an API of a chain in the code itself."""
    assert expected is InteractionRequiredError("x", error=error, suberror=suberror).needs_consent


def test_an_error_knows_no_page_by_itself() -> None:
    """Pages, scopes and claims are there to be looked at, also where nobody has set them."""
    error = InteractionRequiredError("x")

    assert ((), None, None, None) == (
        error.scopes,
        error.claims_challenge,
        error.authorization_uri,
        error.consent_uri,
    )


def wrapped(found: object) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "https://api.example.com")
    response = httpx.Response(401, request=request, extensions={CHALLENGE: found})
    return httpx.HTTPStatusError("401", request=request, response=response)


def test_interactions_are_found_at_any_depth() -> None:
    """In groups of groups, and in the HTTP client's own errors, each is found in its order."""
    one, two, three = interaction(), interaction(), interaction()
    group = BaseExceptionGroup(
        "", [KeyboardInterrupt(), one, ExceptionGroup("", [wrapped(two), KeyError()]), three]
    )

    assert [one] == find_interactions(one)
    assert [two] == find_interactions(wrapped(two))
    assert [one, two, three] == find_interactions(group)


def with_response(response: object) -> Exception:
    error = OSError()
    error.response = response  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        AccessDeniedError("x"),
        wrapped(None),
        wrapped("consent_required"),
        httpx.HTTPStatusError(
            "x", request=httpx.Request("GET", "https://a"), response=httpx.Response(401)
        ),
        httpx.ConnectError("x"),
        with_response(None),
        with_response({"extensions": {CHALLENGE: interaction()}}),
        with_response(SimpleNamespace(extensions=None)),
        with_response(SimpleNamespace(extensions=[CHALLENGE])),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_is_found_in_other_errors(error: Exception) -> None:
    """Other errors, and responses that hold something else, say nothing of the user."""
    assert [] == find_interactions(error)
