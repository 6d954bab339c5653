"""Memcached by aiocache, whose client must not be cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final

from ._store import SharedCache

__all__ = ["uncancelled"]

_LONGEST_RELATIVE: Final = 30 * 24 * 3600


def uncancelled(cache: SharedCache) -> SharedCache:
    """Return a cache whose calls may be given up: the cache itself, unless it is memcached."""
    is_memcached = any(cls.__name__.startswith("Memcached") for cls in type(cache).__mro__)
    return Uncancelled(cache) if is_memcached else cache


class Uncancelled:
    """A cache whose calls go on to their end when their callers give up.

    aiomcache puts the connection of a cancelled call back with the answer still to come, which the
    next caller then takes for its own. So no call is cancelled, not by aiocache's time-out either;
    the few that a hung server holds up end when it goes on, or with its connections.

    Args:
        cache: the cache.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._calls: set[asyncio.Task[Any]] = set()

    async def get(self, key: str) -> Any:
        return await self._finish(self._cache.get(key, timeout=None))

    async def set(self, key: str, value: str, ttl: int) -> Any:
        return await self._finish(self._cache.set(key, value, _exptime(ttl), timeout=None))

    async def add(self, key: str, value: str, ttl: int) -> Any:
        return await self._finish(self._cache.add(key, value, _exptime(ttl), timeout=None))

    async def delete(self, key: str) -> Any:
        return await self._finish(self._cache.delete(key, timeout=None))

    async def close(self) -> Any:
        loop = asyncio.get_running_loop()
        late = [call for call in list(self._calls) if call.get_loop() is loop]
        for call in late:
            call.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return await self._cache.close()

    async def _finish(self, call: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._note)
        return await asyncio.shield(task)

    def _note(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone


def _exptime(ttl: int) -> int:
    """Return when a value leaves, as memcached has it: seconds up to 30 days, then a date."""
    return ttl if ttl <= _LONGEST_RELATIVE else int(time.time()) + ttl
