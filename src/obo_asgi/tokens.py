"""The values that tokens turn into: the user, the token for an API, its key, and the grants."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from ._types import Secret
from .config import default_scope
from .errors import ExpiredTokenError, InteractionRequiredError, TokenAcquisitionError

__all__ = [
    "AccessToken",
    "AnonymousUser",
    "AppGrant",
    "Credentials",
    "Grant",
    "Issued",
    "OnBehalfOfGrant",
    "TokenEndpoint",
    "TokenKey",
    "User",
    "token_digest",
]

EARLY_EXPIRY: Final = 10.0
"""Seconds before its end from which on a token is not handed out any more."""

_ASSERTION_MARGIN = 2.0


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class User:
    """The caller whose access token was verified. Key your data by `tid` and `oid` together."""

    oid: str
    """The user's object id in the tenant."""
    tid: str
    """The tenant id."""
    claims: Mapping[str, Any]
    """The verified claims of the token."""
    scopes: tuple[str, ...]
    """The delegated permissions (``scp``)."""
    roles: tuple[str, ...]
    """The app roles (``roles``)."""
    expires_at: float
    """When the token ends (``exp``), seconds since the epoch."""
    is_app: bool = False
    """Whether an application calls for itself, without a user."""

    @property
    def is_authenticated(self) -> bool:
        """True; Starlette asks for it."""
        return True

    @property
    def identity(self) -> str:
        """``tid.oid``, unique over all tenants."""
        return f"{self.tid}.{self.oid}"

    @property
    def display_name(self) -> str:
        """A name to show, never to decide by; empty if the token has none."""
        name = self.claims.get("name")
        return name if isinstance(name, str) else ""

    def __repr__(self) -> str:
        return f"User(scopes={self.scopes!r}, roles={self.roles!r}, is_app={self.is_app})"


class AnonymousUser:
    """Who calls a public path, or without a token where authentication is optional."""

    is_authenticated = False
    identity = ""
    display_name = ""


class Credentials:
    """The granted scopes, in the form that Starlette's ``request.auth`` has."""

    __slots__ = ("scopes",)

    def __init__(self, scopes: tuple[str, ...] = ()) -> None:
        self.scopes = list(scopes)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token for a downstream API."""

    token: str = field(repr=False)
    """The bearer token itself."""
    expires_at: float
    """When it ends, seconds since the epoch."""
    refresh_at: float = field(repr=False)
    """From when on it is worth renewing, seconds since the epoch."""
    issued_at: float = field(default_factory=time.time, repr=False)
    """When it came from Entra, seconds since the epoch, by the clock of this machine."""

    def usable(self, now: float) -> bool:
        """Tell whether it is still handed out; shortly before its end it is not."""
        return self.expires_at - EARLY_EXPIRY > now

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AccessToken is not pickled; acquire it where it is needed")


class Issued(NamedTuple):
    """What Entra's token endpoint gives."""

    token: AccessToken
    refresh_token: Secret | None = None
    """What gets more tokens when the user is gone; for sessions alone."""


class TokenKey(NamedTuple):
    """Everything that a token depends on; two different keys never share a token."""

    kind: str
    authority: str
    tenant_id: str
    client_id: str
    owner: str
    binding: bytes
    scopes: tuple[str, ...]
    claims: str | None

    def digest(self) -> str:
        """Return SHA-256 over the length-prefixed parts, as hex."""
        texts = (self.kind, self.authority, self.tenant_id, self.client_id, self.owner)
        parts = [text.encode() for text in texts]
        parts.append(self.binding)
        parts.append(b"" if self.claims is None else b"=" + self.claims.encode())
        parts.extend([scope.encode() for scope in self.scopes])
        return hashlib.sha256(
            b"".join([len(part).to_bytes(8, "big") + part for part in parts])
        ).hexdigest()

    def __repr__(self) -> str:
        return f"TokenKey({self.digest()[:12]}…)"


class TokenEndpoint(Protocol):
    """What a grant needs of Entra's token endpoint."""

    async def on_behalf_of(
        self,
        tenant_id: str,
        assertion: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued: ...

    async def refresh(
        self,
        tenant_id: str,
        refresh_token: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued: ...

    async def client_credentials(
        self,
        tenant_id: str,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued: ...


class Grant(Protocol):
    """A right to get tokens: a user's call, a session, or the app itself."""

    @property
    def is_current(self) -> bool:
        """Whether the right is known to stand, so that a token in memory may be used."""
        ...

    async def confirm(self) -> None:
        """Make sure that the right still stands."""
        ...

    def key(self, scopes: tuple[str, ...], claims: str | None) -> TokenKey:
        """Return what a token of this grant is kept under."""
        ...

    async def redeem(
        self,
        endpoint: TokenEndpoint,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> AccessToken:
        """Get a token at the endpoint."""
        ...


class OnBehalfOfGrant:
    """The right to act for the user whose access token came with the request.

    Args:
        user: who calls.
        assertion: the incoming access token, as sent in the grant (RFC 7523).
        digest: its SHA-256.
        authority: the sign-in service.
        client_id: our app registration.
    """

    __slots__ = ("_assertion", "_authority", "_client_id", "_digest", "_user")

    is_current = True

    def __init__(
        self, user: User, assertion: Secret, digest: bytes, *, authority: str, client_id: str
    ) -> None:
        self._user = user
        self._assertion = assertion
        self._digest = digest
        self._authority = authority
        self._client_id = client_id

    async def confirm(self) -> None:
        """It stands as long as the request."""

    def key(self, scopes: tuple[str, ...], claims: str | None) -> TokenKey:
        user = self._user
        return TokenKey(
            "obo",
            self._authority,
            user.tid,
            self._client_id,
            user.oid,
            self._digest,
            scopes,
            claims,
        )

    async def redeem(
        self,
        endpoint: TokenEndpoint,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> AccessToken:
        issued = await self.exchange(endpoint, scopes, claims=claims, correlation_id=correlation_id)
        return issued.token

    async def exchange(
        self,
        endpoint: TokenEndpoint,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        """Exchange the user's access token, also for a refresh token."""
        if self._user.expires_at - _ASSERTION_MARGIN < time.time():
            raise ExpiredTokenError("the token is about to expire, too late to exchange it")
        return await endpoint.on_behalf_of(
            self._user.tid, self._assertion, scopes, claims=claims, correlation_id=correlation_id
        )


class AppGrant:
    """The right of the app to act for itself, without a user (client credentials).

    Args:
        tenant_id: where.
        authority: the sign-in service.
        client_id: our app registration.
    """

    __slots__ = ("_authority", "_client_id", "_tenant_id")

    is_current = True

    def __init__(self, tenant_id: str, *, authority: str, client_id: str) -> None:
        self._tenant_id = tenant_id
        self._authority = authority
        self._client_id = client_id

    async def confirm(self) -> None:
        """It always stands."""

    def key(self, scopes: tuple[str, ...], claims: str | None) -> TokenKey:
        scope = default_scope(scopes)
        return TokenKey(
            "app", self._authority, self._tenant_id, self._client_id, "", b"", scope, claims
        )

    async def redeem(
        self,
        endpoint: TokenEndpoint,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> AccessToken:
        try:
            issued = await endpoint.client_credentials(
                self._tenant_id, scopes, claims=claims, correlation_id=correlation_id
            )
        except InteractionRequiredError as error:
            failure = TokenAcquisitionError(
                "Entra gives the app itself no token",
                error=error.error,
                suberror=error.suberror,
                error_codes=error.error_codes,
                correlation_id=error.correlation_id,
                hint="an administrator has to look at its permissions, and at the Conditional "
                "Access policies for workload identities; no user can mend it",
            )
        else:
            return issued.token
        raise failure


def token_digest(token: str) -> bytes:
    """Return SHA-256 of the exact bytes of a token."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
