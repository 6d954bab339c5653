"""Who may call: an access token is verified against the sign-in service's keys and our policy.

PyJWT checks the signature; everything that it leaves open is decided here (RFC 8725, RFC 9068,
Entra's "Claims validation"): the strict form, the one algorithm, the key's own issuer, the issuer
of the token's tenant, the audience, finite times, and that a user, not an app, is behind it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from ._events import TOKEN_REFUSED, TOKEN_VERIFIED, emit, milliseconds
from ._lru import LRU
from ._telemetry import Stats, is_recording, mark, span
from ._types import is_guid
from .clouds import TENANT
from .config import AppRegistration, Requirement
from .errors import (
    ExpiredTokenError,
    InsufficientScopeError,
    InvalidTokenError,
    KeysUnavailableError,
)
from .jws import Compact, parse_compact
from .metadata import ALGORITHM, Metadata, SigningKey
from .tenants import TenantPolicy
from .tokens import User, token_digest

logger = logging.getLogger(__name__)

CLOCK_SKEW: Final = 60.0
"""Seconds by which our clock and Entra's may differ."""

_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_MAX_KID = 256
_MAX_VERIFIED = 10_000


class _Verified(NamedTuple):
    user: User
    key: SigningKey


class Verifier:
    """Verifies access tokens, and remembers the verified ones until they end.

    Args:
        registration: our app registration: audiences, tenants, authority.
        metadata: the metadata and keys by token version, "1.0" and "2.0".
        tenants: asks the predicate over tenants, if there is one.
        required_scopes: what a user's token must hold; None: any scope.
        app_roles: what an application's own token must hold; None: such callers are refused.
        clock: seconds since the epoch.
        stats: what is counted.
    """

    def __init__(
        self,
        registration: AppRegistration,
        metadata: Mapping[str, Metadata],
        *,
        tenants: TenantPolicy | None = None,
        required_scopes: Requirement | None = None,
        app_roles: Requirement | None = None,
        clock: Callable[[], float] = time.time,
        stats: Stats | None = None,
    ) -> None:
        self._stats = stats or Stats()
        self._counts = self._stats.counts
        self._registration = registration
        self._audiences = frozenset(registration.audiences or ())
        self._metadata = metadata
        issuers = {"1.0": registration.issuers.v1, "2.0": registration.issuers.v2}
        self._issuers = {version: issuer for version, issuer in issuers.items() if issuer}
        self._tenants = tenants
        self._required_scopes = required_scopes
        self._app_roles = app_roles
        self._clock = clock
        self._verified: LRU[bytes, _Verified] = LRU(_MAX_VERIFIED)

    def recall(self, digest: bytes) -> User | None:
        """Return the user of a token verified before, while the token and its key are valid.

        Args:
            digest: SHA-256 of the exact bytes of the token.
        """
        verified = self._verified.get(digest)
        if verified is None:
            return None
        user = verified.user
        if (
            verified.key.retired
            or user.expires_at <= self._clock()
            or (self._tenants is not None and not self._tenants.recently_allowed(user.tid))
        ):
            self._verified.drop(digest)
            return None
        self._counts["tokens.known"] += 1
        if is_recording():
            mark("verify", tenant=user.tid, cache="memory")
        return user

    async def verify(self, token: str) -> User:
        """Verify an access token and return who calls.

        Raises:
            InvalidTokenError: the token is refused.
            InsufficientScopeError: the token is good but lacks what this API requires.
            KeysUnavailableError: the keys to verify it with, or the answer of the predicate over
                tenants, cannot be had now.
        """
        started = time.perf_counter()
        with span("verify", cache="miss") as current:
            try:
                user = await self._verify(token)
            except (InvalidTokenError, InsufficientScopeError, KeysUnavailableError) as error:
                self._counts["tokens.refused"] += 1
                code = getattr(error, "code", type(error).__name__)
                took = self._stats.lasted("verify", started, error__type=code)
                emit(
                    logger,
                    logging.INFO,
                    TOKEN_REFUSED,
                    "token refused: %s",
                    error,
                    error=code,
                    claim=getattr(error, "claim", None),
                    milliseconds=milliseconds(took),
                )
                raise
            current.set_attribute("obo_asgi.tenant", user.tid)
        self._counts["tokens.verified"] += 1
        took = self._stats.lasted("verify", started)
        emit(
            logger,
            logging.DEBUG,
            TOKEN_VERIFIED,
            "token verified",
            tenant=user.tid,
            milliseconds=milliseconds(took),
        )
        return user

    async def _verify(self, token: str) -> User:
        compact = parse_compact(token)
        kid = _check_header(compact.header)
        claims = compact.claims
        version = claims.get("ver")
        if not isinstance(version, str) or version not in self._issuers:
            raise InvalidTokenError("version", "ver is neither '1.0' nor '2.0'", claim="ver")
        tid = self._check_tenant(claims)
        issuer = self._issuers[version].replace(TENANT, tid)
        if claims.get("iss") != issuer:
            raise InvalidTokenError("issuer", "iss is not the issuer of the tenant", claim="iss")
        self._check_audience(claims)
        self._check_times(claims)
        key = await self._metadata[version].signing_key(kid)
        _check_signature(compact, key)
        if not key.may_sign_for(issuer, tid):
            raise InvalidTokenError("issuer", "the key belongs to another issuer", claim="iss")
        if self._tenants is not None:
            await self._tenants.check(tid)
        user = self._to_user(claims, tid)
        self._check_permission(user)
        if user.expires_at > self._clock():
            self._verified.put(token_digest(token), _Verified(user, key))
        return user

    def _check_tenant(self, claims: dict[str, Any]) -> str:
        tid = claims.get("tid")
        if not isinstance(tid, str) or not is_guid(tid):
            raise InvalidTokenError("tenant", "tid is not a GUID", claim="tid")
        if not self._registration.allows_tenant(tid):
            raise InvalidTokenError("tenant", "tid is not an allowed tenant", claim="tid")
        return tid

    def _check_audience(self, claims: dict[str, Any]) -> None:
        audience = claims.get("aud")
        if not isinstance(audience, str) or audience not in self._audiences:
            raise InvalidTokenError(
                "audience", "aud is none of the configured audiences", claim="aud"
            )

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._clock()
        if _time(claims, "exp") + CLOCK_SKEW <= now:
            raise ExpiredTokenError()
        for name in ("nbf", "iat"):
            if name in claims and _time(claims, name) - CLOCK_SKEW > now:
                raise InvalidTokenError("time", f"{name} lies in the future", claim=name)

    def _to_user(self, claims: dict[str, Any], tid: str) -> User:
        if "cnf" in claims:
            raise InvalidTokenError(
                "binding", "the token is bound to a key, whose proof is not checked", claim="cnf"
            )
        oid = claims.get("oid")
        if not isinstance(oid, str) or not oid:
            raise InvalidTokenError("oid", "oid is missing", claim="oid")
        return User(
            oid=oid,
            tid=tid,
            claims=MappingProxyType(claims),
            scopes=_scopes(claims),
            roles=_roles(claims),
            expires_at=_time(claims, "exp"),
            is_app=_is_app(claims),
        )

    def _check_permission(self, user: User) -> None:
        if user.is_app:
            if self._app_roles is None:
                raise InsufficientScopeError(
                    self._required_scopes.names if self._required_scopes else (),
                    "an application calls for itself; this API serves users",
                )
            if not self._app_roles.met_by(user.roles):
                raise InsufficientScopeError((), "the application lacks a required app role")
        elif not user.scopes:
            raise InvalidTokenError(
                "scope", "scp is missing: not a user's access token (an ID token?)", claim="scp"
            )
        elif self._required_scopes and not self._required_scopes.met_by(user.scopes):
            raise InsufficientScopeError(self._required_scopes.names)


def _check_header(header: dict[str, Any]) -> str:
    """Check the header and return its ``kid``; keys that it carries or points to are ignored."""
    if header.get("alg") != ALGORITHM:
        raise InvalidTokenError("algorithm", f"alg is not {ALGORITHM}", claim="alg")
    typ = header.get("typ")
    if not isinstance(typ, str) or typ.lower() not in _TYPES:
        raise InvalidTokenError("type", "typ is neither JWT nor at+jwt", claim="typ")
    if "crit" in header or "b64" in header:
        raise InvalidTokenError("critical", "crit extensions are not supported", claim="crit")
    if "nonce" in header:
        raise InvalidTokenError(
            "nonce", "a token for Microsoft Graph, which only Graph can verify", claim="nonce"
        )
    kid = header.get("kid")
    if not isinstance(kid, str) or not 1 <= len(kid) <= _MAX_KID:
        raise InvalidTokenError("key", "kid is missing or not a short string", claim="kid")
    return kid


def _check_signature(compact: Compact, key: SigningKey) -> None:
    if not key.verify(compact.signing_input, compact.signature):
        raise InvalidTokenError("signature", "the signature is not the published key's")


def _time(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTokenError("time", f"{name} is not a number", claim=name)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise InvalidTokenError("time", f"{name} is not a finite number", claim=name)
    return seconds


def _scopes(claims: dict[str, Any]) -> tuple[str, ...]:
    value = claims.get("scp", "")
    if not isinstance(value, str):
        raise InvalidTokenError("scope", "scp is not a string", claim="scp")
    return tuple(scope for scope in value.split(" ") if scope)


def _roles(claims: dict[str, Any]) -> tuple[str, ...]:
    value = claims.get("roles", [])
    if not isinstance(value, list) or not all(isinstance(role, str) for role in value):
        raise InvalidTokenError("roles", "roles is not a list of strings", claim="roles")
    return tuple(value)


def _is_app(claims: dict[str, Any]) -> bool:
    """Tell an app-only token, also where the registration does not ask for the ``idtyp`` claim."""
    kind = claims.get("idtyp")
    if kind is not None:
        return bool(kind == "app")
    is_client = isinstance(claims.get("azp", claims.get("appid")), str)
    return "scp" not in claims and is_client and claims.get("sub") == claims["oid"]
