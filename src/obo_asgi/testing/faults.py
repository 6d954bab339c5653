"""Trouble on command: outages, delays, throttling, and answers of one's own choice."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from ._asgi import Response
from .aadsts import EntraError

ENDPOINTS: Final = frozenset({"keys", "managed_identity", "metadata", "token"})
"""The endpoints that can be down on their own."""


@dataclass
class _Fault:
    answer: Response | EntraError
    user: str | None
    times: float
    until: float

    @property
    def is_over(self) -> bool:
        return self.times < 1 or time.monotonic() >= self.until


class Faults:
    """What is wrong with the service at the moment; nothing at first."""

    def __init__(self) -> None:
        self.latency = 0.0
        self._down: frozenset[str] | bool = False
        self._faults: list[_Fault] = []

    @property
    def down(self) -> frozenset[str] | bool:
        """What cannot be reached: everything (True), nothing (False), or some endpoints."""
        return self._down

    @down.setter
    def down(self, value: bool | str | Collection[str]) -> None:
        if isinstance(value, bool):
            self._down = value
            return
        names = frozenset([value] if isinstance(value, str) else value)
        if not names <= ENDPOINTS:
            raise ValueError(f"down is a bool or some of {sorted(ENDPOINTS)}, not {value!r}")
        self._down = names

    def is_down(self, endpoint: str) -> bool:
        """Tell whether an endpoint cannot be reached."""
        return self._down if isinstance(self._down, bool) else endpoint in self._down

    def add(
        self,
        answer: Response | EntraError,
        *,
        user: str | None = None,
        times: float = 1,
        seconds: float = math.inf,
    ) -> None:
        """Give an answer to the next calls of a user (None: anybody) and no longer than that."""
        self._faults.append(_Fault(answer, user, times, time.monotonic() + seconds))

    def next(self, user: str | None) -> Response | EntraError | None:
        """Return the answer that is due to a call of a user, if one is; it is used up by that."""
        self._faults = [fault for fault in self._faults if not fault.is_over]
        for fault in self._faults:
            if fault.user in (None, user):
                fault.times -= 1
                return fault.answer
        return None

    def clear(self) -> None:
        """Let everything work again."""
        self.latency, self._down, self._faults = 0.0, False, []
