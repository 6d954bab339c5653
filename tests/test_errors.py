"""The error tree: what is what, what it says, and copies that share nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi.errors import (
    AccessDeniedError,
    AssertionRejectedError,
    AuthenticationRequiredError,
    ConfigurationError,
    DownstreamError,
    DownstreamTimeoutError,
    ExpiredTokenError,
    InsufficientScopeError,
    InteractionRequiredError,
    InvalidTokenError,
    KeysUnavailableError,
    OboError,
    TokenAcquisitionError,
    clone_error,
)

PARENTS = {
    OboError: Exception,
    ConfigurationError: OboError,
    AuthenticationRequiredError: OboError,
    InvalidTokenError: OboError,
    ExpiredTokenError: InvalidTokenError,
    InsufficientScopeError: OboError,
    KeysUnavailableError: OboError,
    TokenAcquisitionError: OboError,
    InteractionRequiredError: TokenAcquisitionError,
    AccessDeniedError: TokenAcquisitionError,
    AssertionRejectedError: TokenAcquisitionError,
    DownstreamError: OboError,
    DownstreamTimeoutError: DownstreamError,
}


@pytest.mark.parametrize("cls", PARENTS, ids=lambda cls: cls.__name__)
def test_every_error_hangs_where_the_tree_says(cls: type[Exception]) -> None:
    """An error's first base is the one that the tree draws above it."""
    assert PARENTS[cls] is cls.__bases__[0]


def test_a_configuration_error_is_a_value_error() -> None:
    """Code that catches ValueError catches a wrong configuration as well."""
    assert issubclass(ConfigurationError, ValueError)


def test_an_invalid_token_says_what_was_wrong() -> None:
    """A refused token has a code for metrics, a reason for people and the claim."""
    error = InvalidTokenError("audience", "the token is for another API", claim="aud")

    assert ("audience", "the token is for another API", "aud") == (
        error.code,
        error.reason,
        error.claim,
    )
    assert "the token is for another API" == str(error)


def test_an_expired_token_is_an_invalid_token_with_a_code_of_its_own() -> None:
    """An expired token can be told from others by its class, its code and its claim."""
    error = ExpiredTokenError()

    assert ("expired", "exp", "the token has expired") == (error.code, error.claim, error.reason)


def test_an_insufficient_scope_keeps_what_is_required() -> None:
    """The required scopes are kept as a tuple and stay out of the message."""
    error = InsufficientScopeError(["read", "write"])

    assert ("read", "write") == error.required
    assert "the token lacks a required scope" == str(error)
    assert "other" == str(InsufficientScopeError(message="other"))


def test_an_acquisition_error_reads_as_one_sentence() -> None:
    """The message, Entra's numbers, the correlation id and the hint stand in one line."""
    error = TokenAcquisitionError(
        "no token", error_codes=[65001, 50076], correlation_id="some-id", hint="consent"
    )

    assert "no token (AADSTS65001, AADSTS50076; correlation id some-id): consent" == str(error)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({}, "no token", id="nothing"),
        pytest.param({"error_codes": [1]}, "no token (AADSTS1)", id="a number"),
        pytest.param({"correlation_id": "i"}, "no token (correlation id i)", id="an id"),
        pytest.param({"hint": "h"}, "no token: h", id="a hint"),
    ],
)
def test_an_acquisition_error_leaves_out_what_is_not_known(
    facts: dict[str, object], expected: str
) -> None:
    """No empty brackets and no dangling colon stand in the message."""
    assert expected == str(TokenAcquisitionError("no token", **facts))  # type: ignore[arg-type]


def test_a_downstream_error_keeps_the_answer_out_of_its_message() -> None:
    """What the API wrote is there for code, and neither in the text nor in the repr."""
    error = DownstreamError(
        "downstream API 'graph' answered with status 400",
        api="graph",
        status_code=400,
        headers={"x-user": "alice"},
        body=b"alice",
        problem={"user": "alice"},
    )

    assert ("graph", 400, b"alice") == (error.api, error.status_code, error.body)
    assert "alice" not in f"{error} {error!r}"


def test_a_downstream_error_without_an_answer_has_empty_headers() -> None:
    """Headers can be looked into without a check, also where there was no answer."""
    error = DownstreamTimeoutError("late", api="graph")

    assert (None, {}, b"", None) == (error.status_code, error.headers, error.body, error.problem)


def interaction(message: str, claims: str | None) -> InteractionRequiredError:
    error = InteractionRequiredError(message, error="interaction_required", error_codes=[50076])
    error.scopes = ("a/read",)
    error.claims_challenge = claims
    return error


TEXTS = st.text(max_size=20)
ERRORS: st.SearchStrategy[OboError] = st.one_of(
    st.builds(OboError, TEXTS),
    st.builds(ConfigurationError, TEXTS),
    st.builds(InvalidTokenError, TEXTS, TEXTS, claim=st.none() | TEXTS),
    st.builds(ExpiredTokenError),
    st.builds(InsufficientScopeError, st.lists(TEXTS, max_size=3)),
    st.builds(KeysUnavailableError, TEXTS, retry_after=st.integers(1, 300)),
    st.builds(interaction, TEXTS, st.none() | TEXTS),
    st.builds(DownstreamError, TEXTS, api=TEXTS, status_code=st.integers(400, 599)),
)


@given(ERRORS)
def test_a_clone_is_the_same_error_without_a_past(error: OboError) -> None:
    """A clone has the class, the text and the attributes, but no traceback, cause or context."""
    try:
        try:
            raise LookupError("inner")
        except LookupError as inner:
            raise error from inner
    except OboError:
        clone = clone_error(error)

    assert type(error) is type(clone)
    assert (str(error), repr(error), vars(error)) == (str(clone), repr(clone), vars(clone))
    assert error is not clone
    assert (None, None, None) == (clone.__traceback__, clone.__cause__, clone.__context__)


def test_raising_one_clone_leaves_the_others_alone() -> None:
    """Each caller gets a traceback of its own; the original keeps none."""
    error = AccessDeniedError("denied")
    first, second = clone_error(error), clone_error(error)

    with pytest.raises(AccessDeniedError):
        raise first

    assert first.__traceback__ is not None
    assert (None, None) == (second.__traceback__, error.__traceback__)


def test_a_note_on_a_clone_is_not_on_the_others() -> None:
    """What one caller notes on its error does not show in another caller's."""
    error = OboError("failed")
    error.add_note("from the start")
    clone = clone_error(error)

    clone.add_note("of one caller")

    assert ["from the start"] == error.__notes__
