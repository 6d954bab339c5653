"""A cache in the memory of this process, for what a shared one would hold."""

from __future__ import annotations

import time
from collections.abc import Callable

from .._lru import LRU


class MemoryCache:
    """Keeps values for a while, bounded; it has the methods of an aiocache cache.

    Args:
        max_entries: how many values are kept.
        clock: seconds.
    """

    def __init__(self, max_entries: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._values: LRU[str, tuple[str, float]] = LRU(max_entries)
        self._clock = clock

    async def get(self, key: str) -> str | None:
        return self._get(key)

    async def set(self, key: str, value: str, ttl: int) -> None:
        self._values.put(key, (value, self._clock() + ttl))

    async def add(self, key: str, value: str, ttl: int) -> None:
        if self._get(key) is not None:
            raise ValueError("there is a value already")
        await self.set(key, value, ttl)

    async def delete(self, key: str) -> None:
        self._values.drop(key)

    async def close(self) -> None:
        """There is nothing to close: the values outlive an event loop."""

    def _get(self, key: str) -> str | None:
        value, ends_at = self._values.get(key) or (None, 0.0)
        return value if ends_at > self._clock() else None
