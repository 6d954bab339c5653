"""Tokens of all processes in one shared cache: read, made once for all of them, purged."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from .._events import CACHE_UNAVAILABLE, emit
from .._lru import LRU
from ..errors import CacheUnavailableError, ConfigurationError, OboError
from ..tokens import AccessToken, TokenKey, token_digest
from ._records import (
    PURGES,
    lock_of,
    name_of,
    open_time,
    open_token,
    purge_name,
    seal_time,
    seal_token,
)
from ._seal import Sealer, Unreadable
from ._store import Budget, Store, Unavailable

logger = logging.getLogger(__name__)

BUDGET: Final = 0.25
"""Seconds that the store itself may take in an acquisition, reads and lock together."""
LEASE: Final = 10
"""Seconds after which the others no longer wait for the process that exchanges for all."""
PURGE_INTERVAL: Final = 30.0
"""Seconds between two looks whether anybody was purged."""

_OPENING_SECONDS = 5.0
_PURGE_SECONDS = 2.0
_PURGE_TTL = 100 * 24 * 3600
_PURGE_MARGIN = 5.0  # by which the clocks of two machines may differ
_PAUSES = (0.005, 1.3, 0.05)  # the first, the growth, the longest
_MAX_REFUSED = 1000
_RETRY_AFTER = 5

Make = Callable[[], Awaitable[AccessToken | OboError]]
Recall = Callable[[], AccessToken | None]


class SharedTokens:
    """Tokens in a shared cache, which may fail in any way at any time: then it is as if empty.

    Args:
        store: the cache, within bounds.
        sealer: seals what goes into it.
        forget_all: is called when somebody was purged: what is in memory may be worthless.
        clock: seconds since the epoch.
        lease: seconds for which one process exchanges for all.
    """

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        forget_all: Callable[[], None],
        *,
        clock: Callable[[], float] = time.time,
        lease: int = LEASE,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._forget_all = forget_all
        self._clock = clock
        self._lease = lease
        self._refused: LRU[bytes, bool] = LRU(_MAX_REFUSED)
        self.last_purge = math.inf
        """When somebody was purged for the last time; infinite while that is not known."""
        self._looked_at = float("-inf")

    async def open(self) -> None:
        """Make sure that the cache gives back what it gets, and learn of purges.

        A cache that does not answer is no error: it is left alone and tried again.

        Raises:
            ConfigurationError: it gives back something else, or says what it lacks, as its table.
        """
        name, value = f"obo:1:probe:{secrets.token_hex(8)}", secrets.token_urlsafe(256)
        budget = Budget(_OPENING_SECONDS)
        try:
            await self._store.set(name, value, LEASE, budget)
            back = await self._store.get(name, budget)
            await self._store.delete(name, budget)
            await self._look(budget)
        except Unavailable:
            failure = self._store.failure
            if isinstance(failure, ConfigurationError):
                raise ConfigurationError(str(failure)) from None
            message = "the shared token cache does not answer (%s); going on without it"
            emit(
                logger, logging.WARNING, CACHE_UNAVAILABLE, message, failure, error=failure or None
            )
            return
        if back != value:
            raise ConfigurationError(
                "the shared cache does not give back the text that was put into it: "
                "use a serializer that keeps text, such as aiocache's StringSerializer"
            )

    async def obtain(
        self, key: TokenKey, make: Make, recall: Recall, *, held: AccessToken | None
    ) -> AccessToken | OboError:
        """Return the token that is there, or what is made of it, by one process for all.

        Args:
            key: whose token.
            make: acquires one; it returns its failure.
            recall: returns the token in memory, once it is known whether anybody was purged.
            held: a token that is to be renewed: one that is itself due is not enough.
        """
        name, lock, tried = name_of(key), None, None
        pause, growth, longest = _PAUSES
        give_up_at = time.monotonic() + self._lease
        try:
            budget = Budget(BUDGET)
            if not self.is_current(self._clock()):
                with suppress(Unavailable):  # which leaves tokens in memory in use
                    await self._look(budget)
                if held is None and (token := recall()) is not None:
                    return token
            while (token := await self._find(name, key, held, budget)) is None and lock is None:
                tried = secrets.token_hex(16)
                if await self._store.add(lock_of(name), tried, self._lease, budget):
                    lock = tried  # and look again: it may have come in between
                elif time.monotonic() >= give_up_at:
                    break
                else:
                    self._store.counts["waits"] += 1
                    await asyncio.sleep(pause)
                    pause, budget = min(pause * growth, longest), Budget(BUDGET)
        except Unavailable:
            token, lock = None, lock or tried  # it may be ours, without our knowing
        except BaseException:
            self._release(name, lock or tried)
            raise
        if token is not None:
            self._store.counts["hits"] += 1
            self._release(name, lock)
            return token
        self._store.counts["misses"] += 1
        return await self._make(name, key, make, lock)

    def refuse(self, key: TokenKey, token: AccessToken) -> None:
        """Let nobody have a token again that an API has refused."""
        self._refused.put(token_digest(token.token), True)
        self._store.in_background(partial(self._store.delete, name_of(key)))

    async def purge(self, client_id: str, tenant_id: str, owner: str) -> None:
        """Make the tokens that a user has had so far worthless in every process.

        Raises:
            CacheUnavailableError: the cache does not answer: the others may not learn of it.
        """
        now, budget = self._clock(), Budget(_PURGE_SECONDS)
        self.last_purge = now
        name = purge_name(client_id, tenant_id, owner)
        try:
            for stamp in (name, PURGES):  # who learns that somebody was purged finds out who
                sealed = seal_time(self._sealer, stamp, now)
                await self._store.set(stamp, sealed, _PURGE_TTL, budget)
        except Unavailable:
            failure = CacheUnavailableError(
                "the shared token cache does not answer: purge the user again later",
                retry_after=_RETRY_AFTER,
            )
        else:
            return
        raise failure

    def is_current(self, now: float) -> bool:
        """Tell whether tokens in memory may be used without a look whether anybody was purged.

        After a while the look is taken in the background; after twice that while, first. A look
        that fails counts: while the cache is down, tokens in memory stay in use.
        """
        age = now - self._looked_at
        if age >= PURGE_INTERVAL:
            if age >= 2 * PURGE_INTERVAL:
                return False
            self._looked_at = now
            self._store.in_background(self._look)
        return True

    async def aclose(self) -> None:
        """End what is under way in the running loop, and close the cache."""
        await self._store.aclose()

    async def _find(
        self, name: str, key: TokenKey, held: AccessToken | None, budget: Budget
    ) -> AccessToken | None:
        text = await self._store.get(name, budget)
        if text is None:
            return None
        try:
            token = open_token(self._sealer, name, key, text)
        except Unreadable:
            self._store.counts["unreadable"] += 1
            return None
        now = self._clock()
        if (
            not token.usable(now)
            or (held is not None and token.refresh_at <= now)
            or (len(self._refused) and self._refused.get(token_digest(token.token)))
            or await self._is_purged(key, token, budget)
        ):
            return None
        return token

    async def _is_purged(self, key: TokenKey, token: AccessToken, budget: Budget) -> bool:
        """Tell whether a token is older than its user's purge; most of the time without asking."""
        if token.issued_at > self.last_purge + _PURGE_MARGIN:
            return False
        moment = await self._moment(purge_name(key.client_id, key.tenant_id, key.owner), budget)
        return token.issued_at <= moment + _PURGE_MARGIN

    async def _moment(self, name: str, budget: Budget) -> float:
        """Return a moment of purge: never if nothing is there, now if it cannot be read."""
        text = await self._store.get(name, budget)
        if text is None:
            return float("-inf")
        try:
            return open_time(self._sealer, name, text)
        except Unreadable:
            self._store.counts["unreadable"] += 1
            return self._clock()

    async def _look(self, budget: Budget) -> None:
        """Learn when somebody was purged for the last time, and forget what is older in memory.

        Raises:
            Unavailable: it cannot be told.
        """
        self._looked_at = self._clock()
        last = await self._moment(PURGES, budget)
        known, self.last_purge = self.last_purge, last
        if known == math.inf or last > known:
            self._forget_all()
        else:
            self.last_purge = known

    async def _make(
        self, name: str, key: TokenKey, make: Make, lock: str | None
    ) -> AccessToken | OboError:
        outcome: AccessToken | OboError | None = None
        try:
            outcome = await make()
        finally:
            if isinstance(outcome, AccessToken):
                self._store.in_background(partial(self._hand_on, name, key, outcome, lock))
            else:
                self._release(name, lock)
        return outcome

    async def _hand_on(
        self, name: str, key: TokenKey, token: AccessToken, lock: str | None, budget: Budget
    ) -> None:
        """Give a token to the other processes, and then the lock."""
        ttl = math.ceil(token.expires_at - self._clock())
        if ttl >= 1:
            await self._store.set(name, seal_token(self._sealer, name, key, token), ttl, budget)
        if lock is not None:
            await self._store.unlock(lock_of(name), lock, budget)

    def _release(self, name: str, lock: str | None) -> None:
        if lock is not None:
            self._store.in_background(partial(self._store.unlock, lock_of(name), lock))
