"""Long-running work: a session lets a worker call APIs as a user whose own token has long ended.

A session begins while the user's request is at hand, with an exchange that also brings a refresh
token. That is kept, sealed, where all processes find it, and whoever knows the session's key has
tokens made of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from msgspec.structs import replace

from .._events import SESSION_ENDED, SESSION_EXPIRED, SESSION_RESUMED, SESSION_STARTED, emit
from ..cache import TokenCache
from ..cache._sessions import MAX_LIFETIME, SessionRecord
from ..config import AppRegistration
from ..errors import (
    ConfigurationError,
    InvalidTokenError,
    SessionConflictError,
    SessionExpiredError,
    SessionNotFoundError,
)
from ..tenants import TenantPolicy
from ..tokens import OnBehalfOfGrant, User
from ._grant import Refreshes, SessionGrant
from ._keys import SessionKey, new_session_key
from ._requester import Requester, requester
from ._start import StartingSession
from ._stored import StoredSession

__all__ = [
    "DEFAULT_LIFETIME",
    "Requester",
    "SessionGrant",
    "Sessions",
    "StartingSession",
    "new_session_key",
    "requester",
]

logger = logging.getLogger(__name__)

DEFAULT_LIFETIME: Final = 7 * 24 * 3600.0
"""Seconds that a session lives if nothing else is said."""

_CLOSING_SECONDS: Final = 5.0


class Sessions:
    """The sessions of an app registration.

    Args:
        cache: where they are kept.
        registration: our app registration.
        tenants: decides which tenants are allowed, as far as the registration does not.
    """

    def __init__(
        self,
        cache: TokenCache,
        registration: AppRegistration,
        *,
        tenants: TenantPolicy | None = None,
    ) -> None:
        self._cache = cache
        self._registration = registration
        self._tenants = tenants
        self._namespace = (registration.authority, registration.client_id)
        self._client_id = registration.client_id
        self._refreshes = Refreshes()

    @asynccontextmanager
    async def start(
        self,
        grant: OnBehalfOfGrant,
        user: User,
        *,
        key: str,
        scopes: tuple[str, ...] | None,
        lifetime: float,
        idle_timeout: float | None,
    ) -> AsyncIterator[StartingSession]:
        """Give a session that may start under a key; nobody else starts one there meanwhile.

        Args:
            grant: the right of the user's request.
            user: the user.
            key: the session's, new or of the same user.
            scopes: all that the session may ask for; None for whatever is configured.
            lifetime: seconds after which it ends.
            idle_timeout: seconds without use after which it ends; None for no such limit.

        Raises:
            SessionConflictError: the key is of another user's session.
            ConfigurationError: an argument is wrong, or the shared cache has no keys of its own.
            CacheUnavailableError: the cache does not answer.
        """
        records, session = self._cache.sessions, self._key(key)
        _check_seconds(lifetime, "lifetime")
        if idle_timeout is not None:
            _check_seconds(idle_timeout, "idle_timeout")
        async with records.lock(session.name):
            now = records.clock()
            ended_at = await records.ended_at(self._client_id, user.tid, user.oid)

            async def find_own() -> SessionRecord | None:
                record = await records.read(session.name)
                if record is None or _is_same(record, session, user):
                    return record
                if record.end <= records.clock() or await records.is_ended(record):
                    return record  # it is over, and its key is anybody's
                raise SessionConflictError("the session key is that of another user's session")

            async def save(record: SessionRecord) -> None:
                current = await find_own()  # the lock may not have held for as long as the exchange
                generation = 1 if current is None else current.generation + 1
                await records.write(session.name, replace(record, generation=generation))
                emit(logger, logging.DEBUG, SESSION_STARTED, "session started", tenant=user.tid)

            await find_own()
            yield StartingSession(
                grant,
                user,
                save,
                scopes=scopes,
                secret=session.secret,
                # Later than what has ended all sessions before, whatever the clocks say.
                started_at=max(now, math.nextafter(ended_at, math.inf)),
                ends_at=now + lifetime,
                idle_timeout=idle_timeout,
            )

    async def resume(self, key: str) -> SessionGrant:
        """Return the right of a session to tokens.

        Raises:
            SessionNotFoundError: there is none of this key, it is not the caller's, or its tenant
                is not allowed any more.
            SessionExpiredError: its time is up.
            CacheUnavailableError: it cannot be told.
            KeysUnavailableError: whether its tenant is allowed cannot be told.
        """
        records, session = self._cache.sessions, self._key(key)
        try:
            record = await StoredSession(records, session).use()
        except SessionExpiredError as error:
            emit(logger, logging.INFO, SESSION_EXPIRED, "session refused: %s", error)
            raise
        tenant_id = record.tenant_id
        await self._check_tenant(tenant_id)
        emit(logger, logging.DEBUG, SESSION_RESUMED, "session resumed", tenant=tenant_id)
        return SessionGrant(records, self._refreshes, session, record, self._check_tenant)

    async def end(self, key: str) -> None:
        """End a session, if there is one and it is the caller's.

        Raises:
            CacheUnavailableError: it may go on.
        """
        records, session = self._cache.sessions, self._key(key)
        async with records.lock(session.name):
            with suppress(SessionNotFoundError):
                record = await StoredSession(records, session).find()
                await records.delete(session.name)
                tenant_id = record.tenant_id
                emit(logger, logging.DEBUG, SESSION_ENDED, "session ended", tenant=tenant_id)

    async def end_all(self, tenant_id: str, oid: str) -> None:
        """End all sessions that a user has started so far.

        Raises:
            CacheUnavailableError: they may go on.
        """
        await self._cache.sessions.end_all(self._client_id, tenant_id, oid)
        message = "all sessions of a user ended"
        emit(logger, logging.DEBUG, SESSION_ENDED, message, tenant=tenant_id)

    async def aclose(self) -> None:
        """Let refreshes under way in the running loop end, for a moment."""
        await self._refreshes.aclose(_CLOSING_SECONDS)

    async def _check_tenant(self, tenant_id: str) -> None:
        """Refuse the sessions of a tenant that is not allowed any more; it may be again.

        Raises:
            SessionNotFoundError: it is not.
            KeysUnavailableError: it cannot be told.
        """
        is_allowed = self._registration.allows_tenant(tenant_id)
        if is_allowed and self._tenants is not None:
            try:
                await self._tenants.check(tenant_id)
            except InvalidTokenError:
                is_allowed = False
        if not is_allowed:
            raise SessionNotFoundError("the tenant of the session is not allowed any more")

    def _key(self, text: str) -> SessionKey:
        return SessionKey.parse(text, *self._namespace)


def _check_seconds(value: float, argument: str) -> None:
    """Check how long a session is to live.

    Raises:
        ConfigurationError: it is no number of seconds, or too large.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= MAX_LIFETIME
    ):
        raise ConfigurationError(
            f"{argument} is a number of seconds, at most {MAX_LIFETIME} (90 days), "
            f"after which Entra ends refresh tokens: {value!r}"
        )


def _is_same(record: SessionRecord, key: SessionKey, user: User) -> bool:
    return (record.secret, record.tenant_id, record.owner) == (key.secret, user.tid, user.oid)
