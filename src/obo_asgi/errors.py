"""Everything that can go wrong, as one tree.

    OboError
    ├─ ConfigurationError (ValueError)        says what to change; raised at start
    ├─ AuthenticationRequiredError            no token where one is needed
    ├─ InvalidTokenError                      the caller's token is refused
    │  └─ ExpiredTokenError
    ├─ InsufficientScopeError                 a good token without the needed permission
    ├─ KeysUnavailableError                   the signing keys cannot be had right now
    ├─ TokenAcquisitionError                  no token for the downstream API
    │  ├─ InteractionRequiredError            the user must consent or step up
    │  ├─ AccessDeniedError                   policy says no; nothing the user can do here
    │  └─ AssertionRejectedError              Entra refuses the caller's token
    ├─ SessionNotFoundError                   no session of this key, or it is not the caller's
    ├─ SessionExpiredError                    the session has ended, or Entra has ended it
    ├─ SessionConflictError                   the key is that of somebody else's session
    ├─ CacheUnavailableError                  the shared cache does not answer
    │  └─ SessionUnreadableError              the session is there, for a process with other keys
    └─ DownstreamError                        the downstream API failed
       └─ DownstreamTimeoutError

``obo_asgi.error_response`` turns each of them into an HTTP answer. No message, attribute or repr
holds a token or a secret; what Entra or a downstream API wrote stays out of the messages, because
messages travel into logs and answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

__all__ = [
    "AccessDeniedError",
    "AssertionRejectedError",
    "AuthenticationRequiredError",
    "CacheUnavailableError",
    "ConfigurationError",
    "DownstreamError",
    "DownstreamTimeoutError",
    "ExpiredTokenError",
    "InsufficientScopeError",
    "InteractionRequiredError",
    "InvalidTokenError",
    "KeysUnavailableError",
    "OboError",
    "SessionConflictError",
    "SessionExpiredError",
    "SessionNotFoundError",
    "SessionUnreadableError",
    "TokenAcquisitionError",
]


class OboError(Exception):
    """The root of every error that this library raises."""


E = TypeVar("E", bound=OboError)


class ConfigurationError(OboError, ValueError):
    """The configuration is wrong; the message says what to change."""


class AuthenticationRequiredError(OboError):
    """The request carries no access token and the path is not public (RFC 6750 section 3.1)."""

    def __init__(self, message: str = "an access token is required") -> None:
        super().__init__(message)


class InvalidTokenError(OboError):
    """The access token is refused.

    Args:
        code: a short constant for logs and metrics, such as ``"audience"``.
        reason: one sentence for the operator; it is not sent to the caller.
        claim: the claim or header parameter that was found wrong, if it was one.
    """

    def __init__(self, code: str, reason: str, *, claim: str | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.claim = claim


class ExpiredTokenError(InvalidTokenError):
    """The access token is past its ``exp``."""

    def __init__(self, reason: str = "the token has expired") -> None:
        super().__init__("expired", reason, claim="exp")


class InsufficientScopeError(OboError):
    """The token is good but lacks a permission (RFC 6750 section 3.1).

    Args:
        required: the scopes that the resource asks for.
    """

    def __init__(self, required: Sequence[str] = (), message: str | None = None) -> None:
        super().__init__(message or "the token lacks a required scope")
        self.required = tuple(required)


class KeysUnavailableError(OboError):
    """The signing keys cannot be fetched and the last known ones are too old or lack the key.

    Args:
        retry_after: seconds after which another try makes sense.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CacheUnavailableError(OboError):
    """The shared cache does not answer, and what was asked of it cannot go without.

    Args:
        retry_after: seconds after which another try makes sense.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SessionUnreadableError(CacheUnavailableError):
    """A session is there, but this process cannot open it: its keys, or its version, are older.

    It is left as it is, because another process can open it; put the key that it was sealed with
    into this process's ring.
    """


class SessionNotFoundError(OboError):
    """There is no such session: it was never started, was ended, or is not the caller's."""

    def __init__(self, message: str = "there is no session of this key") -> None:
        super().__init__(message)


class SessionExpiredError(OboError):
    """The session has reached the end of its lifetime, or Entra takes its refresh token no more.

    The user has to call again, so that a new session can be started.

    Args:
        error_codes: Entra's AADSTS numbers, for people.
        correlation_id: the id to give to Microsoft's support.
    """

    def __init__(
        self,
        message: str,
        *,
        error_codes: Sequence[int] = (),
        correlation_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error_codes = tuple(error_codes)
        self.correlation_id = correlation_id


class SessionConflictError(OboError):
    """The key names the session of another user, which stays as it is."""


class TokenAcquisitionError(OboError):
    """No token for the downstream API could be acquired.

    Args:
        error: the OAuth error code (RFC 6749 section 5.2), or a constant of ours.
        suberror: Entra's finer code, if it sent one.
        error_codes: Entra's AADSTS numbers, for people; never decide by them.
        correlation_id: the id to give to Microsoft's support.
        retry_after: seconds after which another try makes sense; None when repeating cannot help
            because the app registration or its configuration must change first.
        hint: what the operator can do, in a sentence.
    """

    def __init__(
        self,
        message: str,
        *,
        error: str | None = None,
        suberror: str | None = None,
        error_codes: Sequence[int] = (),
        correlation_id: str | None = None,
        retry_after: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error = error
        self.suberror = suberror
        self.error_codes = tuple(error_codes)
        self.correlation_id = correlation_id
        self.retry_after = retry_after
        self.hint = hint

    def __str__(self) -> str:
        codes = ", ".join(f"AADSTS{code}" for code in self.error_codes)
        facts = [
            part
            for part in (codes, self.correlation_id and f"correlation id {self.correlation_id}")
            if part
        ]
        message = super().__str__() + (f" ({'; '.join(facts)})" if facts else "")
        return f"{message}: {self.hint}" if self.hint else message


class InteractionRequiredError(TokenAcquisitionError):
    """The user must consent, sign in again or step up before a token can be had.

    Attributes:
        scopes: what the token was asked for.
        claims_challenge: the JSON that Entra or the resource demands, as it came; None for consent.
        authorization_uri: the sign-in service's page for the user's tenant.
        consent_uri: the page on which the user consents for the app that lacks it, as far as
            `AppRegistration.consent_redirect_uri` is set; a client app opens it as it is, because
            a consent under the client's own id is of no use.
    """

    scopes: tuple[str, ...] = ()
    claims_challenge: str | None = None
    authorization_uri: str | None = None
    consent_uri: str | None = None

    @property
    def needs_consent(self) -> bool:
        """Whether a consent is missing, not a stronger or newer sign-in."""
        return "consent_required" in (self.error, self.suberror)


class AccessDeniedError(TokenAcquisitionError):
    """A policy, or a missing assignment, forbids this user or app; no interaction helps."""


class AssertionRejectedError(TokenAcquisitionError):
    """Entra refuses the caller's own token as an assertion; the caller must get a new one."""


class DownstreamError(OboError):
    """A downstream API failed, answered with an error status, or sent a body that does not fit.

    Args:
        api: the name of the downstream API in the configuration.
        status_code: its HTTP status; None when there was no answer.
        headers: its response headers.
        body: the start of its response body (at most 64 KiB), for your code; never for your caller.
        problem: the body as parsed JSON object where it was one (RFC 9457), else None.
    """

    def __init__(
        self,
        message: str,
        *,
        api: str,
        status_code: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        problem: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.api = api
        self.status_code = status_code
        self.headers: Mapping[str, str] = headers if headers is not None else {}
        self.body = body
        self.problem = problem


class DownstreamTimeoutError(DownstreamError):
    """A downstream API did not answer in time."""


def clone_error(error: E) -> E:
    """Return a copy of an error without its traceback, so that many callers can raise it."""
    clone = type(error).__new__(type(error))
    clone.args = error.args
    clone.__dict__.update(error.__dict__)
    if hasattr(clone, "__notes__"):
        clone.__notes__ = list(clone.__notes__)
    return clone
