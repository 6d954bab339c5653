"""Refusals of the token endpoint: each known one, and any other, becomes the right answer."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi import (
    AccessDeniedError,
    AssertionRejectedError,
    InteractionRequiredError,
    TokenAcquisitionError,
    error_response,
)
from obo_asgi.entra_errors import (
    MAX_RETRY_AFTER,
    acquisition_error,
    parse_retry_after,
    unreachable,
)
from tests.aadsts_table import TABLE

SCOPES = ("api://partner/read",)
CLAIMS = '{"access_token":{"capolids":{"essential":true,"values":["é"]}}}'
DESCRIPTION = "AADSTS0: alice@example.com. Trace ID: 11111111"

KINDS: dict[str, set[type[TokenAcquisitionError]]] = {
    "interaction": {InteractionRequiredError, AccessDeniedError},  # which of them, the status says
    "denied": {InteractionRequiredError, AccessDeniedError},
    "assertion": {AssertionRejectedError},
    "session": {AssertionRejectedError},
    "throttled": {TokenAcquisitionError},
    "transient": {TokenAcquisitionError},
    "config": {TokenAcquisitionError},
}


def refusal(
    error: Any = "invalid_grant",
    suberror: Any = None,
    claims: Any = None,
    *,
    status_code: int = 400,
    retry_after: str | None = None,
    **more: Any,
) -> TokenAcquisitionError:
    answer = {"error": error, "suberror": suberror, "claims": claims}
    return acquisition_error(
        {"error_description": DESCRIPTION, "trace_id": "11111111", **answer, **more},
        status_code=status_code,
        retry_after=retry_after,
        scopes=SCOPES,
        correlation_id="some-id",
    )


@pytest.mark.parametrize(
    ("number", "kind", "status", "error", "suberror", "has_claims", "accepted"),
    TABLE,
    ids=[str(row[0]) for row in TABLE],
)
def test_every_known_refusal_becomes_an_acceptable_answer(
    number: int,
    kind: str,
    status: int,
    error: str,
    suberror: str | None,
    has_claims: bool,
    accepted: set[int],
) -> None:
    """The answer has a fitting status, passes claims on and says nothing that Entra wrote."""
    failure = refusal(
        error,
        suberror,
        CLAIMS if has_claims else None,
        status_code=status,
        error_codes=[number],
    )
    response = error_response(failure)

    assert response is not None
    assert type(failure) in KINDS[kind]
    assert response.status_code in accepted
    assert (response.status_code == 401) is ("WWW-Authenticate" in response.headers)
    assert (response.status_code == 503) is ("Retry-After" in response.headers)
    assert has_claims is (b'"claims":' in response.body)
    assert b"AADSTS" not in response.body
    assert (number,) == failure.error_codes
    assert f"AADSTS{number}" in str(failure)


@pytest.mark.parametrize(
    "row",
    [row for row in TABLE if row[0] in {53000, 53001, 53003, 50131, 70043}],
    ids=lambda row: str(row[0]),
)
@pytest.mark.parametrize("has_claims", [True, False], ids=["claims", "no claims"])
def test_claims_decide_where_entra_may_send_them(row: tuple[Any, ...], has_claims: bool) -> None:
    """A refusal with claims is a 401 that carries them, whatever it would be without."""
    number, _, status, error, suberror, _, _ = row
    failure = refusal(
        error,
        suberror,
        CLAIMS if has_claims else None,
        status_code=status,
        error_codes=[number],
    )
    response = error_response(failure)

    assert response is not None
    assert (401 if has_claims or number == 70043 else 403) == response.status_code
    assert has_claims is isinstance(failure, InteractionRequiredError)


def test_claims_reach_the_caller_unchanged() -> None:
    """Claims stand in the challenge as base64 and in the body as they came."""
    failure = refusal("invalid_grant", "basic_action", CLAIMS)
    response = error_response(failure)

    assert isinstance(failure, InteractionRequiredError)
    assert (SCOPES, CLAIMS) == (failure.scopes, failure.claims_challenge)
    assert response is not None
    challenge = response.headers["WWW-Authenticate"]
    assert 'error="insufficient_claims"' in challenge
    assert CLAIMS == b64decode(challenge.partition('claims="')[2].rstrip('"')).decode()
    assert CLAIMS == json.loads(response.body)["claims"]


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        pytest.param({"error": "brand_new"}, 400, (TokenAcquisitionError, 500), id="error"),
        pytest.param({"error": "brand_new"}, 500, (TokenAcquisitionError, 503), id="error, 500"),
        pytest.param({"error": "brand_new"}, 429, (TokenAcquisitionError, 503), id="error, 429"),
        pytest.param(
            {"error": "invalid_grant", "suberror": "brand_new"},
            400,
            (AssertionRejectedError, 401),
            id="suberror",
        ),
        pytest.param(
            {"error": "interaction_required", "suberror": "brand_new"},
            400,
            (InteractionRequiredError, 401),
            id="suberror of an interaction",
        ),
        pytest.param(
            {"error": "brand_new", "claims": CLAIMS},
            400,
            (InteractionRequiredError, 401),
            id="claims",
        ),
        pytest.param({"error": "access_denied"}, 400, (AccessDeniedError, 403), id="denied"),
        pytest.param({"error": "login_required"}, 400, (InteractionRequiredError, 401), id="login"),
        pytest.param(
            {"error": "consent_required"}, 400, (InteractionRequiredError, 401), id="consent"
        ),
        pytest.param(
            {"error": "brand_new", "suberror": "consent_required"},
            400,
            (InteractionRequiredError, 401),
            id="suberror for consent",
        ),
        pytest.param(
            {"error": "invalid_grant", "suberror": "basic_action"},
            400,
            (InteractionRequiredError, 401),
            id="step-up without claims",
        ),
        pytest.param(
            {"error": "brand_new", "suberror": "bad_token"},
            400,
            (AssertionRejectedError, 401),
            id="suberror for a bad token",
        ),
        pytest.param(
            {"error": "interaction_required", "suberror": "token_expired"},
            400,
            (AssertionRejectedError, 401),
            id="suberror before error",
        ),
        pytest.param(
            {"error": "temporarily_unavailable"},
            400,
            (TokenAcquisitionError, 503),
            id="unavailable",
        ),
        pytest.param(
            {"error": "server_error"}, 400, (TokenAcquisitionError, 503), id="server error"
        ),
        pytest.param({"error": "invalid_client"}, 401, (TokenAcquisitionError, 500), id="client"),
        pytest.param({}, 400, (TokenAcquisitionError, 503), id="nothing"),
        pytest.param({}, 200, (TokenAcquisitionError, 503), id="nothing, 200"),
        pytest.param({"error": ""}, 400, (TokenAcquisitionError, 503), id="empty"),
        pytest.param({"error": None}, 400, (TokenAcquisitionError, 503), id="null"),
        pytest.param({"error": ["invalid_grant"]}, 400, (TokenAcquisitionError, 503), id="list"),
        pytest.param({"error": {"code": "x"}}, 502, (TokenAcquisitionError, 503), id="object"),
        pytest.param(
            {"error": "invalid_grant", "suberror": {}, "claims": [1], "error_codes": "65001"},
            400,
            (AssertionRejectedError, 401),
            id="other fields of other types",
        ),
    ],
)
def test_an_unknown_refusal_is_decided_by_what_is_known(
    answer: dict[str, Any], status: int, expected: tuple[type[Exception], int]
) -> None:
    """Codes that nobody has seen, and fields of a wrong type, still give a safe answer."""
    failure = acquisition_error(
        answer, status_code=status, retry_after=None, scopes=SCOPES, correlation_id="some-id"
    )
    response = error_response(failure)

    assert response is not None
    assert expected == (type(failure), response.status_code)


def test_a_number_does_not_overrule_the_wire() -> None:
    """A number that means a refusal changes nothing where error and suberror are clear."""
    failure = refusal("interaction_required", "basic_action", error_codes=[50057])

    assert InteractionRequiredError is type(failure)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param([65001, 50076], (65001, 50076), id="two"),
        pytest.param([0, -1, 10**9, 65001], (65001,), id="out of range"),
        pytest.param([True, "65001", 1.5, None, [1]], (), id="other types"),
        pytest.param("65001", (), id="a string"),
        pytest.param(65001, (), id="a number"),
        pytest.param({"0": 65001}, (), id="an object"),
        pytest.param(None, (), id="null"),
    ],
)
def test_only_numbers_are_taken_for_numbers(value: Any, expected: tuple[int, ...]) -> None:
    """AADSTS numbers are positive integers of a sane size; anything else is left out."""
    assert expected == refusal(error_codes=value).error_codes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from(["error", "suberror", "claims", "error_codes"]), JSON),
    st.integers(200, 599),
    st.none() | st.text(max_size=12),
)
def test_no_answer_is_too_strange(
    answer: dict[str, Any], status: int, retry_after: str | None
) -> None:
    """Whatever JSON comes, with whatever status, there is one of the four errors and an answer."""
    failure = acquisition_error(
        answer, status_code=status, retry_after=retry_after, scopes=SCOPES, correlation_id="some-id"
    )
    response = error_response(failure)

    assert response is not None
    assert response.status_code in {401, 403, 500, 503}
    assert (response.status_code == 503) is (failure.retry_after is not None)


@pytest.mark.parametrize(
    ("number", "kind", "status", "error", "suberror", "has_claims", "accepted"),
    TABLE,
    ids=[str(row[0]) for row in TABLE],
)
def test_the_text_of_entra_goes_nowhere(
    number: int,
    kind: str,
    status: int,
    error: str,
    suberror: str | None,
    has_claims: bool,
    accepted: set[int],
) -> None:
    """The description, with its names and traces, is in no text, attribute or answer."""
    failure = refusal(error, suberror, status_code=status, error_codes=[number])

    everything = f"{failure} {failure!r} {vars(failure)} {error_response(failure)}"
    assert "alice" not in everything
    assert "Trace" not in everything
    assert "11111111" not in everything
    assert "some-id" in str(failure)


@pytest.mark.parametrize(
    ("number", "fragment"),
    [
        (65001, "send the user to the consent page"),
        (7000215, "its value, not its id"),
        (50013, "client secret is not the cause"),
        (500131, "check client_id and audiences"),
    ],
)
def test_an_operator_gets_a_hint(number: int, fragment: str) -> None:
    """The errors that people meet most say what to do about them."""
    failure = refusal(error_codes=[1, number])

    assert failure.hint is not None
    assert fragment in failure.hint
    assert fragment in str(failure)


def test_an_unknown_number_gives_no_hint() -> None:
    """Nothing is guessed where the number is not known."""
    assert refusal(error_codes=[123456]).hint is None


@pytest.mark.parametrize(
    ("status", "error", "code", "retry_after", "expected"),
    [
        pytest.param(429, "temporarily_unavailable", 90055, "17", 17, id="throttled"),
        pytest.param(429, "temporarily_unavailable", 90055, None, 60, id="throttled, no time"),
        pytest.param(400, "invalid_grant", 50196, None, 60, id="a loop"),
        pytest.param(400, "invalid_grant", 50196, "120", 120, id="a loop with a time"),
        pytest.param(503, "temporarily_unavailable", 90033, None, 5, id="transient"),
        pytest.param(503, "temporarily_unavailable", 90033, "0", 1, id="no wait at all"),
        pytest.param(503, "temporarily_unavailable", 90033, "86400", 300, id="a day"),
        pytest.param(503, "temporarily_unavailable", 90033, "9" * 5_000, 5, id="5,000 digits"),
        pytest.param(503, "temporarily_unavailable", 90033, "soon", 5, id="a word"),
        pytest.param(401, "invalid_client", 7000215, "17", None, id="configuration"),
        pytest.param(400, "invalid_grant", 65001, "17", None, id="the caller's token"),
    ],
)
def test_a_wait_is_told_where_waiting_helps(
    status: int, error: str, code: int, retry_after: str | None, expected: int | None
) -> None:
    """Throttling and outages have a bounded wait; what waiting cannot mend has none."""
    failure = refusal(error, status_code=status, retry_after=retry_after, error_codes=[code])

    assert expected == failure.retry_after


def test_an_unreachable_endpoint_is_worth_another_try() -> None:
    """No usable answer is a 503 with a wait, never a refusal of the caller."""
    failure = unreachable("some-id")
    response = error_response(failure)

    assert response is not None
    assert (503, "5") == (response.status_code, response.headers["Retry-After"])
    assert ("temporarily_unavailable", "some-id") == (failure.error, failure.correlation_id)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", 1),
        ("300", 300),
        ("301", 300),
        ("999999999", 300),
        ("0", 1),
        ("007", 7),
        (" 12 ", 12),
        (None, 42),
        ("", 42),
        (" ", 42),
        ("-1", 42),
        ("+1", 42),
        ("1.5", 42),
        ("1e2", 42),
        ("1_0", 42),
        ("0x10", 42),
        ("1 2", 42),
        ("1, 2", 42),
        ("1\r\nSet-Cookie: x", 42),
        ("1234567890", 42),
        ("٣", 42),
        ("²", 42),
        ("３", 42),
        ("NaN", 42),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 42),
    ],
    ids=ascii,
)
def test_a_retry_after_is_a_sane_number(value: str | None, expected: int) -> None:
    """Whole seconds are taken up to five minutes; dates and nonsense mean the default."""
    assert expected == parse_retry_after(value, default=42)


@given(st.none() | st.text() | st.from_regex(r"\s*[0-9]{1,12}\s*") | st.integers().map(str))
def test_a_retry_after_never_harms(value: str | None) -> None:
    """Whatever a header holds, the wait is between a second and the limit."""
    assert 1 <= parse_retry_after(value, default=42) <= MAX_RETRY_AFTER
