"""What Entra's token endpoint answers, turned into the error tree.

Decided by ``claims``, then ``suberror``, then ``error``, then the HTTP status. An AADSTS number
decides only where Entra sends the same wire codes for outcomes that a caller must tell apart.
Entra's own text stays out: it names users, tenants and traces.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from .errors import (
    AccessDeniedError,
    AssertionRejectedError,
    InteractionRequiredError,
    OboError,
    SessionExpiredError,
    TokenAcquisitionError,
)
from .interaction import read_claims

__all__ = [
    "ACCOUNT_GONE",
    "acquisition_error",
    "is_account_gone",
    "parse_retry_after",
    "unreachable",
]

MAX_RETRY_AFTER: Final = 300
"""The longest wait, in seconds, that is believed and passed on."""


class _Kind(enum.Enum):
    INTERACTION = "the user must consent or sign in again"
    DENIED = "a policy denies access to the downstream API"
    ASSERTION = "the sign-in service refuses the caller's token"
    THROTTLED = "the sign-in service limits requests"
    TEMPORARY = "the sign-in service is not available"
    CONFIGURATION = "the app registration or its configuration is wrong"


_BY_SUBERROR = {
    "consent_required": _Kind.INTERACTION,
    "basic_action": _Kind.INTERACTION,
    "user_password_expired": _Kind.INTERACTION,
    "additional_action": _Kind.DENIED,
    "message_only": _Kind.DENIED,
    "bad_token": _Kind.ASSERTION,
    "token_expired": _Kind.ASSERTION,
}
_BY_ERROR = {
    "interaction_required": _Kind.INTERACTION,
    "consent_required": _Kind.INTERACTION,
    "login_required": _Kind.INTERACTION,
    "access_denied": _Kind.DENIED,
    "invalid_grant": _Kind.ASSERTION,
    "temporarily_unavailable": _Kind.TEMPORARY,
    "server_error": _Kind.TEMPORARY,
}
# Only where the wire codes are the same for different outcomes.
_BY_NUMBER = {
    90094: _Kind.DENIED,
    9002341: _Kind.INTERACTION,
    50057: _Kind.DENIED,
    50053: _Kind.DENIED,
    50020: _Kind.DENIED,
    50034: _Kind.DENIED,
    50105: _Kind.DENIED,
    90072: _Kind.DENIED,
    16003: _Kind.DENIED,
    50196: _Kind.THROTTLED,
}
_DISABLED = 50057
ACCOUNT_GONE: Final = frozenset({50034, _DISABLED})
"""AADSTS numbers of an account that is deleted or disabled, where it has had tokens."""
_AMBIGUOUS = {("invalid_grant", ""), ("invalid_grant", "consent_required")}

_CLASSES = {
    _Kind.INTERACTION: InteractionRequiredError,
    _Kind.DENIED: AccessDeniedError,
    _Kind.ASSERTION: AssertionRejectedError,
}
_DEFAULT_WAIT = {_Kind.THROTTLED: 60, _Kind.TEMPORARY: 5}

_HINTS = {
    50001: "the downstream resource is disabled or unknown in this tenant",
    50013: "the caller's token is not one that Entra accepts as an assertion: check its audience "
    "and version (the client secret is not the cause)",
    50020: "the user is not known in this tenant: invite the guest",
    50105: "assign the user to the downstream application, or drop its assignment requirement",
    50194: "the app is registered for one tenant: name that tenant in tenant_id",
    50196: "the same token was asked for too often: check that tokens are cached",
    65001: "the user has not consented to this API calling the downstream API: send the user to "
    "the consent page with this API's client id, or let an administrator grant it",
    65005: "add the downstream API to the app registration's API permissions",
    70011: "check the scopes in DownstreamAPI",
    90002: "check tenant_id",
    90094: "an administrator must grant the permission",
    500011: "the downstream API has no service principal in this tenant: check the scope, and let "
    "an administrator of the tenant add the application",
    500131: "the caller's token is not for this API: check client_id and audiences",
    650057: "add the downstream API to the app registration's API permissions",
    700016: "check client_id and tenant_id: the app is not known in this tenant",
    700027: "upload the certificate to the app registration, or check the key",
    7000112: "the app registration is disabled",
    7000215: "the client secret is wrong: pass its value, not its id",
    7000218: "the app registration wants a client secret or certificate",
    7000222: "the client secret has expired: make a new one",
}


def acquisition_error(
    answer: Mapping[str, Any],
    *,
    status_code: int,
    retry_after: str | None,
    scopes: tuple[str, ...],
    correlation_id: str,
) -> TokenAcquisitionError:
    """Build the error for a refusal of the token endpoint.

    Args:
        answer: its JSON body (RFC 6749 section 5.2); empty where it had none.
        status_code: its HTTP status.
        retry_after: its Retry-After header.
        scopes: what the token was asked for.
        correlation_id: the id that the request carried.
    """
    error, suberror = _text(answer, "error"), _text(answer, "suberror")
    claims = read_claims(answer.get("claims"))
    numbers = _numbers(answer)
    kind = _kind(error, suberror, claims, status_code, numbers)
    wait = _DEFAULT_WAIT.get(kind)
    result = _CLASSES.get(kind, TokenAcquisitionError)(
        kind.value,
        error=error or None,
        suberror=suberror or None,
        error_codes=numbers,
        correlation_id=correlation_id,
        retry_after=wait and parse_retry_after(retry_after, default=wait),
        hint=next((_HINTS[number] for number in numbers if number in _HINTS), None),
    )
    if isinstance(result, InteractionRequiredError):
        result.scopes = scopes
        result.claims_challenge = claims
    return result


def unreachable(correlation_id: str) -> TokenAcquisitionError:
    """Build the error for a token endpoint that gave no usable answer."""
    return TokenAcquisitionError(
        _Kind.TEMPORARY.value,
        error="temporarily_unavailable",
        correlation_id=correlation_id,
        retry_after=_DEFAULT_WAIT[_Kind.TEMPORARY],
    )


def is_account_gone(error: OboError) -> bool:
    """Tell whether the user's account is disabled or deleted: nothing of it is to be used on."""
    match error:
        case SessionExpiredError(error_codes=codes):
            return not ACCOUNT_GONE.isdisjoint(codes)
        case AccessDeniedError(error_codes=codes):
            return _DISABLED in codes  # who is not there may be a guest who was never invited
    return False


def parse_retry_after(value: str | None, *, default: int) -> int:
    """Return the seconds of a Retry-After header, bounded; dates and nonsense mean the default."""
    digits = (value or "").strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        return default
    return min(max(int(digits), 1), MAX_RETRY_AFTER)


def _kind(
    error: str, suberror: str, claims: str | None, status_code: int, numbers: tuple[int, ...]
) -> _Kind:
    if claims:
        return _Kind.INTERACTION
    if (error, suberror) in _AMBIGUOUS:
        for number in numbers:
            if number in _BY_NUMBER:
                return _BY_NUMBER[number]
    if suberror in _BY_SUBERROR:
        return _BY_SUBERROR[suberror]
    if status_code == 429:
        return _Kind.THROTTLED
    if error in _BY_ERROR:
        return _BY_ERROR[error]
    return _Kind.TEMPORARY if status_code >= 500 or not error else _Kind.CONFIGURATION


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    return value if isinstance(value, str) else ""


def _numbers(answer: Mapping[str, Any]) -> tuple[int, ...]:
    value = answer.get("error_codes")
    values = value if isinstance(value, list) else []
    return tuple(number for number in values if type(number) is int and 0 < number < 10**9)
