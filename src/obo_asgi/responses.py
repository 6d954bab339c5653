"""Errors as HTTP answers: what the middleware, an adapter and your own error handler all say.

An answer holds constants of ours alone: no text of Entra or of a downstream API, no claim of the
user (RFC 6750 section 3.1 for tokens, RFC 9457 for the rest).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from ._http import MARK, failure_kind
from .challenges import bearer_challenge, encode_claims
from .entra_errors import parse_retry_after
from .errors import (
    AccessDeniedError,
    AssertionRejectedError,
    AuthenticationRequiredError,
    DownstreamError,
    DownstreamTimeoutError,
    ExpiredTokenError,
    InsufficientScopeError,
    InteractionRequiredError,
    InvalidTokenError,
    KeysUnavailableError,
    TokenAcquisitionError,
)

__all__ = ["ErrorResponse", "error_response"]

_KEPT_STATUSES: Final = frozenset({400, 404, 409, 412, 422})
_DEFAULT_RETRY_AFTER: Final = 5


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An HTTP answer, ready for any framework's response class."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes


def error_response(error: BaseException) -> ErrorResponse | None:
    """Return the answer for an error, also for one inside exception groups.

    Args:
        error: what a handler raised: an error of this library, or the HTTP client's own error of a
            call that went through a `Downstream`.

    Returns:
        The answer; None if the error, or one in its group, is not ours to answer, such as a
        mistake in the configuration or in a handler.
    """
    answers = [_answer(leaf) for leaf in sorted(_leaves(error), key=_rank)]
    return None if None in answers else answers[0]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _rank(error: BaseException) -> int:
    """Order the errors of a group by what helps the caller most: what the user can mend first."""
    return 0 if isinstance(error, InteractionRequiredError) else 1


def _answer(error: BaseException) -> ErrorResponse | None:
    match error:
        case AuthenticationRequiredError():
            return _refusal(401, None, "an access token is required")
        case ExpiredTokenError():
            return _refusal(401, "invalid_token", "the access token has expired")
        case InvalidTokenError() | AssertionRejectedError():
            return _refusal(401, "invalid_token", "the access token is not accepted")
        case InsufficientScopeError():
            return _insufficient_scope(error)
        case InteractionRequiredError():
            return _interaction(error)
        case AccessDeniedError():
            return _json(403, {"error": "access_denied", "error_description": "access is denied"})
        case KeysUnavailableError():
            return _problem(503, retry_after=error.retry_after)
        case TokenAcquisitionError():
            wait = error.retry_after
            return _problem(500) if wait is None else _problem(503, retry_after=wait)
        case DownstreamTimeoutError():
            return _problem(504)
        case DownstreamError():
            return _downstream(error.status_code, error.headers)
        case _:
            return _client_error(error)


def _refusal(status: int, code: str | None, description: str) -> ErrorResponse:
    challenge = bearer_challenge(error=code, error_description=code and description)
    body = {"error": code or "token_required", "error_description": description}
    return _json(status, body, {"WWW-Authenticate": challenge})


def _insufficient_scope(error: InsufficientScopeError) -> ErrorResponse:
    scope = " ".join(error.required) or None
    description = "the access token lacks a permission"
    challenge = bearer_challenge(
        error="insufficient_scope", error_description=description, scope=scope
    )
    body = {"error": "insufficient_scope", "error_description": description}
    return _json(403, body | ({"scope": scope} if scope else {}), {"WWW-Authenticate": challenge})


def _interaction(error: InteractionRequiredError) -> ErrorResponse:
    claims = error.claims_challenge
    if claims:
        code, description = "insufficient_claims", "the user has to sign in again"
    elif error.suberror == "consent_required":
        code, description = "consent_required", "additional consent of the user is required"
    else:
        code, description = "interaction_required", "the user has to sign in again"
    challenge = bearer_challenge(
        error=code,
        error_description=description,
        scope=" ".join(error.scopes) or None,
        claims=encode_claims(claims) if claims else None,
    )
    body: dict[str, Any] = {
        "error": code,
        "error_description": description,
        "scopes": list(error.scopes),
    }
    if claims:
        body["claims"] = claims
    return _json(401, body, {"WWW-Authenticate": challenge})


def _client_error(error: BaseException) -> ErrorResponse | None:
    """Answer for the HTTP client's own errors, where the request bears our mark."""
    try:
        marked = MARK in error.request.extensions  # type: ignore[attr-defined]
    except (
        AttributeError,
        TypeError,
        RuntimeError,
    ):  # httpx raises RuntimeError where it has no request
        return None
    if not marked:
        return None
    response = getattr(error, "response", None)
    if response is not None:
        return _downstream(response.status_code, response.headers)
    return _problem(504 if failure_kind(error) == "timeout" else 502)


def _downstream(status: int | None, headers: Mapping[str, str]) -> ErrorResponse:
    if status in _KEPT_STATUSES:
        return _problem(status)
    if status in (429, 503):
        named = next((v for n, v in headers.items() if n.lower() == "retry-after"), None)
        wait = parse_retry_after(named, default=_DEFAULT_RETRY_AFTER)
        return _problem(503, retry_after=wait)
    return _problem(502)


def _problem(status: int, *, retry_after: int | None = None) -> ErrorResponse:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return _json(status, body, headers, media_type="application/problem+json")


def _json(
    status: int,
    body: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = "application/json",
) -> ErrorResponse:
    data = msgspec.json.encode(body)
    return ErrorResponse(
        status,
        {
            "Content-Type": media_type,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            **(headers or {}),
        },
        data,
    )
