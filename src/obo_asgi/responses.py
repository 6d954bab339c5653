"""Errors as HTTP answers: what the middleware, an adapter and your own error handler all say.

An answer holds constants of ours alone: no text of Entra or of a downstream API, no claim of the
user (RFC 6750 section 3.1 for tokens, RFC 9457 for the rest).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final

import msgspec

from ._http import MARK, failure_kind
from ._types import is_guid
from .challenges import bearer_challenge, encode_claims
from .entra_errors import parse_retry_after
from .errors import (
    AccessDeniedError,
    AssertionRejectedError,
    AuthenticationRequiredError,
    CacheUnavailableError,
    DownstreamError,
    DownstreamTimeoutError,
    ExpiredTokenError,
    InsufficientScopeError,
    InteractionRequiredError,
    InvalidTokenError,
    KeysUnavailableError,
    SessionConflictError,
    SessionExpiredError,
    SessionNotFoundError,
    TokenAcquisitionError,
)
from .interaction import find_interactions, merge_interactions
from .protected_resource import ProtectedResource

__all__ = ["ErrorResponse", "error_response", "metadata_response"]

_KEPT_STATUSES: Final = frozenset({400, 404, 409, 412, 422})
_DEFAULT_RETRY_AFTER: Final = 5
_TENANT_PAGE: Final = re.compile(r"https://[^/]+/([^/]+)/")


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An HTTP answer, ready for any framework's response class."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes


def error_response(
    error: BaseException, *, resource: ProtectedResource | None = None
) -> ErrorResponse | None:
    """Return the answer for an error, also for one inside exception groups.

    Args:
        error: what a handler raised: an error of this library, or the HTTP client's own error of a
            call that went through a `Downstream`. Of a group, what the user can mend comes first,
            all of it in one challenge.
        resource: how the API describes itself (RFC 9728); every challenge names it, and scopes in
            the form that a client asks for.

    Returns:
        The answer; None if the error, or one in its group, is not ours to answer, such as a
        mistake in the configuration or in a handler.
    """
    answers = [_answer(leaf, resource) for leaf in _leaves(error)]
    if None in answers:
        return None
    interactions = find_interactions(error)
    return _interaction(merge_interactions(interactions), resource) if interactions else answers[0]


def metadata_response(document: Mapping[str, Any], method: str) -> ErrorResponse:
    """Return the answer that describes the API (RFC 9728), readable by pages of any origin."""
    cors = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "GET, OPTIONS",
        "Access-Control-Allow-Headers": "*",
        "Cache-Control": "max-age=3600",
    }
    if method == "OPTIONS":
        return ErrorResponse(204, cors, b"")
    if method not in ("GET", "HEAD"):
        answer = _problem(405)
        return replace(answer, headers={**answer.headers, "Allow": "GET, HEAD, OPTIONS"})
    answer = _json(200, document, cors)
    return replace(answer, body=b"") if method == "HEAD" else answer


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _answer(error: BaseException, resource: ProtectedResource | None) -> ErrorResponse | None:
    match error:
        case AuthenticationRequiredError():
            return _refusal(None, "an access token is required", resource)
        case ExpiredTokenError():
            return _refusal("invalid_token", "the access token has expired", resource)
        case SessionExpiredError() if not (error.error_codes or error.correlation_id):
            return _problem(410)  # its lifetime: with a new token it would be the same
        case SessionExpiredError():
            return _refusal("invalid_token", "the session has ended: sign in again", resource)
        case InvalidTokenError() | AssertionRejectedError():
            return _refusal("invalid_token", "the access token is not accepted", resource)
        case InsufficientScopeError():
            return _insufficient_scope(error, resource)
        case InteractionRequiredError():
            return _interaction(error, resource)
        case AccessDeniedError():
            return _json(403, {"error": "access_denied", "error_description": "access is denied"})
        case SessionNotFoundError():
            return _problem(404)
        case SessionConflictError():
            return _problem(409)
        case KeysUnavailableError() | CacheUnavailableError():
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


def _refusal(
    code: str | None, description: str, resource: ProtectedResource | None
) -> ErrorResponse:
    challenge = _challenge(
        resource,
        error=code,
        error_description=code and description,
        scope=" ".join((resource and resource.scopes) or ()) or None,
    )
    body = {"error": code or "token_required", "error_description": description}
    return _json(401, body, {"WWW-Authenticate": challenge})


def _insufficient_scope(
    error: InsufficientScopeError, resource: ProtectedResource | None
) -> ErrorResponse:
    required = resource.qualify(error.required) if resource else error.required
    scope = " ".join(required) or None
    description = "the access token lacks a permission"
    challenge = _challenge(
        resource, error="insufficient_scope", error_description=description, scope=scope
    )
    body = {"error": "insufficient_scope", "error_description": description}
    return _json(403, body | ({"scope": scope} if scope else {}), {"WWW-Authenticate": challenge})


def _challenge(resource: ProtectedResource | None, **parameters: str | None) -> str:
    metadata = None if resource is None else resource.metadata_url
    return bearer_challenge(**parameters, resource_metadata=metadata)


def _interaction(
    error: InteractionRequiredError, resource: ProtectedResource | None
) -> ErrorResponse:
    claims = error.claims_challenge
    if claims:
        code, description = "insufficient_claims", "the user has to sign in again"
    elif error.needs_consent:
        code, description = "consent_required", "additional consent of the user is required"
    else:
        code, description = "interaction_required", "the user has to sign in again"
    page, missing = error.authorization_uri, " ".join(error.scopes) or None
    # A client that goes by RFC 9728 asks Entra, in its own name, for what `scope` says: that has to
    # be this resource's own, or it would sign in for the downstream API's again and again.
    scope = None if resource is None else " ".join(resource.scopes or ()) or None
    challenge = _challenge(
        resource,
        realm=_realm(page),
        error=code,
        error_description=description,
        scope=missing if resource is None else scope,
        consent_scope=None if resource is None else missing,
        claims=encode_claims(claims) if claims else None,
        authorization_uri=page,
        consent_uri=error.consent_uri,
    )
    body: dict[str, Any] = {
        "error": code,
        "error_description": description,
        "scopes": list(error.scopes),
    }
    if claims:
        body["claims"] = claims
    if error.consent_uri:
        body["consent_uri"] = error.consent_uri
    return _json(401, body, {"WWW-Authenticate": challenge})


def _realm(authorization_uri: str | None) -> str:
    """Return the tenant that a sign-in page is of; empty where it is of any tenant."""
    match = _TENANT_PAGE.match(authorization_uri or "")
    return match[1] if match and is_guid(match[1]) else ""


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
