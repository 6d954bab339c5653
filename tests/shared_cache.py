"""A cache in memory with the faults of real ones, for tests of what is built on it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any


class FaultyCache:
    """A cache as aiocache has them, which can be slow, fail, hang, or answer anything."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.ends: dict[str, float] = {}
        self.ttls: list[int] = []
        self.counts: Counter[str] = Counter()
        self.fault: Callable[[str], Any] | None = None
        self.delay = 0.0
        self.is_closed = False

    async def get(self, key: str) -> Any:
        answer = await self._enter("get", key)
        return answer if answer is not None else self._value(key)

    async def set(self, key: str, value: str, ttl: int) -> Any:
        await self._enter("set", key)
        self.ttls.append(ttl)
        self.values[key], self.ends[key] = value, time.time() + ttl

    async def add(self, key: str, value: str, ttl: int) -> Any:
        await self._enter("add", key)
        if self._value(key) is not None:
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        self.values[key], self.ends[key] = value, time.time() + ttl

    async def delete(self, key: str) -> Any:
        await self._enter("delete", key)
        return int(self.values.pop(key, None) is not None)

    async def close(self) -> Any:
        self.is_closed = True

    @property
    def locks(self) -> list[str]:
        return [key for key in self.values if key.endswith(":lock")]

    def _value(self, key: str) -> Any:
        return self.values.get(key) if self.ends.get(key, 0) > time.time() else None

    async def _enter(self, method: str, key: str) -> Any:
        self.counts[method] += 1
        await asyncio.sleep(self.delay)
        return None if self.fault is None else self.fault(method)


def fail(error: type[Exception]) -> Callable[[str], Any]:
    """Return a fault: every call raises this."""

    def fault(method: str) -> Any:
        raise error("down")

    return fault


def answer(value: Any) -> Callable[[str], Any]:
    """Return a fault: every get returns this."""
    return lambda method: value if method == "get" else None
