"""A bounded map that forgets what was not used for longest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRU(Generic[K, V]):
    """Get, put and drop in constant time; nothing ever sweeps.

    Args:
        max_entries: how many entries are kept.
    """

    __slots__ = ("_entries", "_max_entries")

    def __init__(self, max_entries: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._max_entries = max_entries

    def get(self, key: K) -> V | None:
        """Return the value and mark it as used."""
        value = self._entries.get(key)
        if value is not None:
            try:  # `suppress` would take longer than all the rest
                self._entries.move_to_end(key)
            except KeyError:
                return value  # another thread's event loop has just dropped it
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value; the one unused for longest goes when there are too many."""
        with suppress(KeyError):
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

    def drop(self, key: K) -> None:
        """Forget a value, if it is there."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
