"""What happens when while a request is served, measured from its arrival."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .asgi import ASGIApp, Receive, Scope, Send

Kind = Literal["validation", "token", "call"]

_SCOPE_KEY = "timeline"


@dataclass(frozen=True)
class Span:
    """Something that took its time."""

    lane: str
    """What it belongs to: the web API itself, or one downstream call."""
    kind: Kind
    start: float
    """Milliseconds since the request arrived."""
    end: float
    """Milliseconds since the request arrived."""
    failed: bool = False
    """Whether it ended with an error, or was cut off."""


class Timeline:
    """The spans of one request; it starts when it is made."""

    def __init__(self) -> None:
        self._zero = time.perf_counter()
        self._spans: list[Span] = []

    def now(self) -> float:
        """Return the milliseconds since the request arrived."""
        return round((time.perf_counter() - self._zero) * 1000, 2)

    def spans(self) -> list[Span]:
        """Return what was recorded, in the order in which it began."""
        return sorted(self._spans, key=lambda span: span.start)

    @contextlib.contextmanager
    def span(self, lane: str, kind: Kind) -> Iterator[None]:
        """Record how long the block takes, and whether it fails."""
        start, failed = self.now(), True
        try:
            yield
            failed = False
        finally:
            self._spans.append(Span(lane, kind, start, self.now(), failed))

    def record_until_now(self, lane: str, kind: Kind) -> None:
        """Record a span from the arrival of the request until now."""
        self._spans.append(Span(lane, kind, 0.0, self.now()))


def with_timeline(app: ASGIApp) -> ASGIApp:
    """Give every request a `Timeline`; put this around everything that is to be measured."""

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, _SCOPE_KEY: Timeline()}
        await app(scope, receive, send)

    return timed


def timeline_from(scope: Scope) -> Timeline:
    """Return the request's timeline."""
    timeline: Timeline = scope[_SCOPE_KEY]
    return timeline
