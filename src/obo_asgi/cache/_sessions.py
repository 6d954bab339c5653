"""Sessions as they stand in the cache: sealed, changed by one process at a time, never guessed at.

Unlike a token, a session cannot be had again. So what cannot be read is an error here, of another
kind than what is not there, and whoever cannot read a session leaves it as it is.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec

from .._lru import LRU
from ..errors import CacheUnavailableError, SessionUnreadableError
from ._records import hashed_name, lock_of, open_time, seal_time
from ._seal import Sealer, Unreadable
from ._store import Budget, Store, Unavailable

__all__ = ["MAX_LIFETIME", "RECORD_FORMAT", "SessionRecord", "SessionRecords", "session_name"]

RECORD_FORMAT: Final = 1
"""The form of the records of this version."""
MAX_LIFETIME: Final = 90 * 24 * 3600
"""Seconds that a session may live: Entra's refresh tokens end after so long without use."""
LEASE: Final = 30
"""Seconds after which another process may change a session that one has not let go."""
CLOCK_MARGIN: Final = 5.0
"""Seconds by which the clocks of two machines may differ."""

_KIND: Final = "session"
_END_KIND: Final = "sessions-end"
_SECONDS: Final = 2.0
_RETRY_AFTER: Final = 5
_PAUSES: Final = (0.005, 1.3, 0.05)  # the first, the growth, the longest
_END_TTL: Final = MAX_LIFETIME + 24 * 3600
_AFTERLIFE: Final = 3600
_MAX_UNSAVED: Final = 1000
_LATER: Final = 0.001


class SessionRecord(msgspec.Struct, array_like=True, frozen=True):
    """A session: whose it is, what it may, and what gets its tokens."""

    format: int
    authority: str
    tenant_id: str
    client_id: str
    owner: str
    secret: bytes
    """SHA-256 of the half of the key that the cache never sees; empty for an explicit key."""
    binding: bytes
    """What the session's tokens are kept under."""
    generation: int
    """Grows with every change; a lower one never takes the place of a higher."""
    refresh_token: str
    scopes: tuple[str, ...] | None
    """All that it may ask for; None for whatever is configured."""
    proven: tuple[str, ...]
    """What it was started with: a consent that is missing for these was withdrawn."""
    claims: bytes
    """The verified claims of the user's token, as JSON."""
    user_scopes: tuple[str, ...]
    user_roles: tuple[str, ...]
    token_ended_at: float
    started_at: float
    ends_at: float
    idle_timeout: float | None
    used_at: float

    def __repr__(self) -> str:
        return f"SessionRecord(generation {self.generation})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # msgspec's, which rich prefers, shows all
        return [("generation", self.generation)]

    @property
    def end(self) -> float:
        """When it ends, unless it is used before."""
        idle = math.inf if self.idle_timeout is None else self.used_at + self.idle_timeout
        return min(self.ends_at, idle)


_decoder = msgspec.msgpack.Decoder(SessionRecord)


def session_name(*parts: str) -> str:
    """Return the name of a session, which tells nothing of its key."""
    return hashed_name(_KIND, *parts)


class SessionRecords:
    """Reads and writes sessions; whatever goes wrong is an error that says what it is.

    Args:
        store: the cache, within bounds.
        sealer: seals what goes into it.
        clock: seconds since the epoch.
    """

    def __init__(
        self, store: Store, sealer: Sealer, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._sealer = sealer
        self.clock = clock
        self.epoch = 0
        """Grows when this process ends a session."""
        self._unsaved: LRU[str, SessionRecord] = LRU(_MAX_UNSAVED)

    async def read(self, name: str) -> SessionRecord | None:
        """Return a session; None if there is none.

        Raises:
            CacheUnavailableError: it cannot be told whether there is one.
            SessionUnreadableError: there is one, for somebody else to read.
        """
        text = await self._get(name)
        if text is None:
            self._unsaved.drop(name)
            return None
        record = self._open(name, text)
        unsaved = self._unsaved.get(name)
        if unsaved is None or unsaved.binding != record.binding:  # another session by now
            self._unsaved.drop(name)
            return record
        return unsaved if unsaved.generation > record.generation else record

    async def write(self, name: str, record: SessionRecord) -> None:
        """Write a session, under its lock.

        Raises:
            CacheUnavailableError: it may not be there.
        """
        sealed = self._sealer.seal(name, _KIND, msgspec.msgpack.encode(record))
        ttl = max(math.ceil(record.end - self.clock()), 1) + _AFTERLIFE
        try:
            await self._store.set(name, sealed, ttl, Budget(_SECONDS))
        except Unavailable:
            raise _unavailable() from None
        self._unsaved.drop(name)

    async def write_or_keep(self, name: str, record: SessionRecord) -> None:
        """Write a session whose refresh token was replaced; if that fails, it is kept here.

        This process then goes on with it, and writes it with its next change.
        """
        try:
            await self.write(name, record)
        except CacheUnavailableError:
            self._unsaved.put(name, record)

    async def delete(self, name: str) -> None:
        """Delete a session that was read, under its lock.

        Raises:
            CacheUnavailableError: it may still be there.
        """
        self.epoch += 1
        self._unsaved.drop(name)
        try:
            await self._store.delete(name, Budget(_SECONDS))
        except Unavailable:
            raise _unavailable() from None

    @asynccontextmanager
    async def lock(self, name: str, *, wait: bool = True) -> AsyncIterator[None]:
        """Be the only one who changes a session, for a while.

        Args:
            name: the session's.
            wait: for whoever changes it now, 34 seconds at most.

        Raises:
            CacheUnavailableError: the cache does not answer, or somebody still changes it.
        """
        lock, mine = lock_of(name), secrets.token_hex(16)
        pause, growth, longest = _PAUSES
        give_up_at = time.monotonic() + (LEASE + 2 * _SECONDS if wait else 0)
        try:
            while not await self._store.add(lock, mine, LEASE, Budget(_SECONDS)):
                if time.monotonic() >= give_up_at:
                    raise CacheUnavailableError(
                        "another worker is changing the session, and has not come to an end",
                        retry_after=_RETRY_AFTER,
                    )
                await asyncio.sleep(pause)
                pause = min(pause * growth, longest)
            yield
        except Unavailable:
            raise _unavailable() from None
        finally:
            self._store.in_background(partial(self._store.unlock, lock, mine))

    async def end_all(self, client_id: str, tenant_id: str, owner: str) -> None:
        """End every session that a user has started so far.

        Raises:
            CacheUnavailableError: it may not be so.
        """
        self.epoch += 1
        name = _end_name(client_id, tenant_id, owner)
        try:
            before = open_time(self._sealer, name, await self._get(name))
        except Unreadable:
            before = -math.inf
        # Later than the last end, also where the clock that this one goes by is behind.
        sealed = seal_time(self._sealer, name, max(self.clock(), before + _LATER))
        try:
            await self._store.set(name, sealed, _END_TTL, Budget(_SECONDS))
        except Unavailable:
            raise _unavailable() from None

    async def is_ended(self, record: SessionRecord) -> bool:
        """Tell whether all sessions of a session's user were ended after its start.

        Raises:
            As `ended_at` does.
        """
        owner = (record.client_id, record.tenant_id, record.owner)
        return record.started_at <= await self.ended_at(*owner)

    async def ended_at(self, client_id: str, tenant_id: str, owner: str) -> float:
        """Return up to when the sessions of a user that were started are ended, clocks considered.

        Raises:
            CacheUnavailableError: it cannot be told.
            SessionUnreadableError: it can be told by somebody else.
        """
        name = _end_name(client_id, tenant_id, owner)
        text = await self._get(name)
        if text is None:
            return -math.inf
        try:
            return open_time(self._sealer, name, text) + CLOCK_MARGIN
        except Unreadable:
            raise _unreadable() from None

    async def _get(self, name: str) -> object:
        try:
            return await self._store.get(name, Budget(_SECONDS))
        except Unavailable:
            raise _unavailable() from None

    def _open(self, name: str, text: object) -> SessionRecord:
        try:
            record = _decoder.decode(self._sealer.open(name, _KIND, text))
        except (Unreadable, msgspec.MsgspecError):
            raise _unreadable() from None
        if record.format != RECORD_FORMAT:
            raise _unreadable()
        return record


def _end_name(client_id: str, tenant_id: str, owner: str) -> str:
    return hashed_name(*(text.lower() for text in (_END_KIND, client_id, tenant_id, owner)))


def _unavailable() -> CacheUnavailableError:
    return CacheUnavailableError(
        "the shared cache does not answer, and sessions live there", retry_after=_RETRY_AFTER
    )


def _unreadable() -> SessionUnreadableError:
    return SessionUnreadableError(
        "the session is there, but was sealed by a newer version or with a key that this process "
        "does not have: add that key to TokenCache(keys=[…]); it is left as it is",
        retry_after=_RETRY_AFTER,
    )
