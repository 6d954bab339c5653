"""Which token: from memory where there is one, else by one exchange that all who want it share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

from ._events import EXCHANGE_FAILED, TOKEN_ACQUIRED, TOKEN_EXCHANGED, emit, milliseconds
from ._flights import Flights
from ._lru import LRU
from ._telemetry import Stats, called_api, is_recording, mark, span
from ._trace import new_id
from .cache import TokenCache
from .config import resource_of
from .entra_errors import is_account_gone
from .errors import (
    AccessDeniedError,
    AssertionRejectedError,
    CacheUnavailableError,
    InteractionRequiredError,
    InvalidTokenError,
    KeysUnavailableError,
    OboError,
    SessionExpiredError,
    SessionNotFoundError,
    TokenAcquisitionError,
    clone_error,
)
from .tokens import AccessToken, Grant, TokenEndpoint, TokenKey

logger = logging.getLogger(__name__)

_BYPASS_INTERVAL = 1.0
_INTERACTION_SECONDS = 2.0
_DENIED_SECONDS = 60.0
_CONFIGURATION_SECONDS = 5.0
_ALERT_INTERVAL = 60.0
_MAX_ALERTS = 100
_PURGE_INTERVAL = 3600.0
_MAX_PURGED = 1000
_SESSION_ERRORS = (CacheUnavailableError, SessionExpiredError, SessionNotFoundError)


class _Outcome(NamedTuple):
    token: AccessToken | OboError
    level: Literal["shared", "miss"]


class _Failure(NamedTuple):
    error: OboError
    until: float
    bypassed_at: float


class Acquirer:
    """Acquires tokens for grants.

    A token in memory costs no I/O and no switch of tasks. A token near its end is renewed in the
    background and served meanwhile, also while Entra is down. Failures are remembered for seconds,
    by token key, so that no user ever waits for, or learns of, another user's failure.

    Args:
        endpoint: where grants are redeemed.
        cache: where tokens are kept.
        clock: seconds since the epoch.
        max_failures: how many failures are remembered at most.
        stats: what is counted.
    """

    def __init__(
        self,
        endpoint: TokenEndpoint,
        cache: TokenCache,
        *,
        clock: Callable[[], float] = time.time,
        max_failures: int = 10_000,
        stats: Stats | None = None,
    ) -> None:
        self._counts = (stats or Stats()).counts
        self._endpoint = endpoint
        self._cache = cache
        self._clock = clock
        self._flights: Flights[_Outcome] = Flights()
        self._failures: LRU[TokenKey, _Failure] = LRU(max_failures)
        self._alerts: LRU[tuple[object, object], float] = LRU(_MAX_ALERTS)
        self._purged: LRU[tuple[str, str], float] = LRU(_MAX_PURGED)

    async def acquire_token(
        self,
        grant: Grant,
        scopes: tuple[str, ...],
        *,
        claims: str | None = None,
        bypass_failures: bool = False,
        correlation_id: str | None = None,
    ) -> AccessToken:
        """Return a token that is valid for at least some seconds more.

        Args:
            grant: whose token.
            scopes: what for; as `config.check_scopes` returns them.
            claims: the claims challenge that the token has to meet.
            bypass_failures: ask Entra although it has just refused (the user has consented since);
                heeded once a second.
            correlation_id: the id of an exchange, if it comes to one; a new one if left out.

        Raises:
            TokenAcquisitionError: as the tree says.
            KeysUnavailableError: the metadata that names the token endpoint cannot be had.
            SessionNotFoundError: the grant is of a session, which was ended.
            SessionExpiredError: its time is up, or Entra takes its refresh token no more.
            CacheUnavailableError: it cannot be read.
        """
        api = called_api.get() or None
        with span("acquire_token", api=api, resource=resource_of(scopes)) as current:
            if not grant.is_current:
                await grant.confirm()
            key = grant.key(scopes, claims)
            current.set_attribute("obo_asgi.tenant", key.tenant_id)
            token = self._recall(key, grant)
            if token is not None:
                self._counts["cache.memory"] += 1
                current.set_attribute("obo_asgi.cache", "memory")
                return token
            self._raise_remembered(key, bypass_failures)
            obtain = partial(self._obtain, key, grant, correlation_id)
            outcome, level = await self._flights.join(key, obtain)
            self._counts[f"cache.{level}"] += 1
            current.set_attribute("obo_asgi.cache", level)
            if isinstance(outcome, OboError):
                raise clone_error(outcome)
            return outcome

    def recall(
        self, grant: Grant, scopes: tuple[str, ...], claims: str | None = None
    ) -> AccessToken | None:
        """Return the token that `acquire_token` would return without waiting, if there is one."""
        if not grant.is_current:
            return None
        key = grant.key(scopes, claims)
        token = self._recall(key, grant)
        if token is not None:
            self._counts["cache.memory"] += 1
            if is_recording():
                mark(
                    "acquire_token",
                    api=called_api.get() or None,
                    resource=resource_of(scopes),
                    tenant=key.tenant_id,
                    cache="memory",
                )
        return token

    def holds(self, grant: Grant, scopes: tuple[str, ...]) -> bool:
        """Tell whether `recall` would return a token."""
        return grant.is_current and self._recall(grant.key(scopes, None), grant) is not None

    def drop(
        self, grant: Grant, scopes: tuple[str, ...], claims: str | None, token: AccessToken
    ) -> None:
        """Forget a token that the resource has refused, unless another is in its place already."""
        key = grant.key(scopes, claims)
        held = self._cache.get(key)
        if held is None or held.token == token.token:
            self._cache.drop(key, token)

    async def aclose(self) -> None:
        """End what is under way in the running loop."""
        await self._flights.aclose()

    def _recall(self, key: TokenKey, grant: Grant) -> AccessToken | None:
        token = self._cache.get(key)
        now = self._clock()
        if token is None or not token.usable(now):
            return None
        if token.refresh_at <= now:
            self._renew(key, grant, token)
        return token

    def _remembered(self, key: TokenKey) -> _Failure | None:
        failure = self._failures.get(key)
        return failure if failure is not None and self._clock() < failure.until else None

    def _raise_remembered(self, key: TokenKey, bypass: bool) -> None:
        failure = self._remembered(key)
        if failure is None:
            return
        now = self._clock()
        is_refusal = getattr(failure.error, "retry_after", None) is None
        if bypass and is_refusal and now - failure.bypassed_at >= _BYPASS_INTERVAL:
            self._failures.put(key, failure._replace(bypassed_at=now))
        else:
            raise clone_error(failure.error)

    def _renew(self, key: TokenKey, grant: Grant, held: AccessToken) -> None:
        """Renew in the background what is still valid, not again for a while if that fails."""
        if self._remembered(key) is None:
            self._flights.start(key, partial(self._obtain, key, grant, None, held))

    async def _obtain(
        self,
        key: TokenKey,
        grant: Grant,
        correlation_id: str | None,
        held: AccessToken | None = None,
    ) -> _Outcome:
        level: Literal["shared", "miss"] = "shared"

        async def redeem() -> AccessToken | OboError:
            nonlocal level
            level = "miss"
            return await self._redeem(key, grant, correlation_id)

        started = time.perf_counter()
        outcome = await self._cache.obtain(key, redeem, held=held)
        if isinstance(outcome, AccessToken):
            self._failures.drop(key)
            if level == "shared":
                emit(
                    logger,
                    logging.DEBUG,
                    TOKEN_ACQUIRED,
                    "token acquired: %s",
                    key,
                    api=called_api.get() or None,
                    tenant=key.tenant_id,
                    cache=level,
                    milliseconds=milliseconds(time.perf_counter() - started),
                )
        return _Outcome(outcome, level)

    async def _redeem(
        self, key: TokenKey, grant: Grant, correlation_id: str | None
    ) -> AccessToken | OboError:
        """Redeem the grant; a failure is remembered and returned, not raised."""
        correlation_id = correlation_id or new_id()
        started = time.perf_counter()
        try:
            token = await grant.redeem(
                self._endpoint, key.scopes, claims=key.claims, correlation_id=correlation_id
            )
        except (
            TokenAcquisitionError,
            InvalidTokenError,
            KeysUnavailableError,
            *_SESSION_ERRORS,
        ) as error:
            # The traceback would keep the frames, and the token in them, alive.
            failure = clone_error(error)
        else:
            emit(
                logger,
                logging.DEBUG,
                TOKEN_EXCHANGED,
                "token acquired: %s (%s)",
                key,
                correlation_id,
                **_fields(key, correlation_id, started),
            )
            return token
        before = self._failures.get(key)
        self._failures.put(
            key,
            _Failure(
                failure,
                until=self._clock() + _memory_of(failure),
                bypassed_at=before.bypassed_at if before else float("-inf"),
            ),
        )
        self._log(failure, _fields(key, correlation_id, started))
        if is_account_gone(failure):
            await self._purge(key)
        return failure

    async def _purge(self, key: TokenKey) -> None:
        """Make worthless what a disabled or deleted account had; seldom, for it empties memory."""
        user, now = (key.tenant_id, key.owner), self._clock()
        purged_at = self._purged.get(user)
        if purged_at is None or not 0 <= now - purged_at < _PURGE_INTERVAL:
            with suppress(CacheUnavailableError):  # then the next failure tries again
                await self._cache.purge(key.client_id, *user)
                self._purged.put(user, now)

    def _log(self, failure: OboError, fields: dict[str, Any]) -> None:
        """Tell the operator; once a minute what only the operator can mend."""
        fields |= {
            "error": getattr(failure, "error", type(failure).__name__),
            "error_codes": getattr(failure, "error_codes", None) or None,
        }
        if not _is_configuration(failure):
            is_outage = getattr(failure, "retry_after", None) is not None
            level = logging.WARNING if is_outage else logging.INFO
            emit(logger, level, EXCHANGE_FAILED, "no token acquired: %s", failure, **fields)
            return
        kind = (getattr(failure, "error", None), getattr(failure, "error_codes", None))
        now = self._clock()
        alerted = self._alerts.get(kind)
        if alerted is None or not 0 <= now - alerted < _ALERT_INTERVAL:
            self._alerts.put(kind, now)
            emit(
                logger,
                logging.ERROR,
                EXCHANGE_FAILED,
                "no token can be acquired until this is mended: %s",
                failure,
                **fields,
            )


def _fields(key: TokenKey, correlation_id: str, started: float) -> dict[str, Any]:
    """Return what the log says of an exchange, however it ended."""
    return {
        "api": called_api.get() or None,
        "tenant": key.tenant_id,
        "correlation_id": correlation_id,
        "cache": "miss",
        "milliseconds": milliseconds(time.perf_counter() - started),
    }


def _is_configuration(error: OboError) -> bool:
    """Tell whether the app registration or its configuration must change first."""
    return type(error) is TokenAcquisitionError and error.retry_after is None


def _memory_of(error: OboError) -> float:
    """Return for how many seconds a failure is remembered."""
    if isinstance(error, InteractionRequiredError):
        return _INTERACTION_SECONDS
    if isinstance(
        error,
        AccessDeniedError
        | AssertionRejectedError
        | InvalidTokenError
        | SessionExpiredError
        | SessionNotFoundError,
    ):
        return _DENIED_SECONDS
    retry_after = getattr(error, "retry_after", None)
    return _CONFIGURATION_SECONDS if retry_after is None else float(retry_after)
