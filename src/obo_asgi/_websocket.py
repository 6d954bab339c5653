"""A WebSocket that ends with the access token that opened it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

from ._events import WEBSOCKET_ENDED, emit
from ._types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

CLOSE_POLICY: Final = 1008
"""The code of a WebSocket that is closed because of a policy (RFC 6455 section 7.4.1)."""

_REASON: Final = "the access token has expired"
_CLOSING_SECONDS: Final = 5.0


async def call_until(
    app: ASGIApp, expires_at: float, scope: Scope, receive: Receive, send: Send
) -> None:
    """Call an app for a WebSocket, which is closed at a time, in seconds since the epoch."""
    socket = _ExpiringSocket(receive, send, expires_at)
    try:
        await app(scope, socket.receive, socket.send)
    except Exception as error:
        if not socket.is_closed:
            raise
        kind, message = type(error).__name__, "ended with its WebSocket: %s"
        emit(logger, logging.INFO, WEBSOCKET_ENDED, message, kind, error=kind)
    finally:
        await socket.aclose()


class _ExpiringSocket:
    """The two ends of a WebSocket as an app has them; it learns of the close at either."""

    def __init__(self, receive: Receive, send: Send, expires_at: float) -> None:
        self._receive = receive
        self._send = send
        self._closed = asyncio.Event()
        self._timer = asyncio.create_task(self._close_at(expires_at))
        self._pending: asyncio.Future[Message] | None = None

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    async def receive(self) -> Message:
        # Who stops waiting leaves the message to the next who asks.
        message = self._pending = self._pending or asyncio.ensure_future(self._receive())
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            first: set[asyncio.Future[Any]] = {message, closed}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if message.done():
            self._pending = None
            return message.result()
        return {"type": "websocket.disconnect", "code": CLOSE_POLICY, "reason": _REASON}

    async def send(self, message: Message) -> None:
        if self.is_closed:
            raise ConnectionAbortedError(_REASON)
        await self._send(message)

    async def aclose(self) -> None:
        """End what is under way; a close that has begun goes out first."""
        if self.is_closed:
            await asyncio.wait({self._timer}, timeout=_CLOSING_SECONDS)
        tasks = [task for task in (self._timer, self._pending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close_at(self, moment: float) -> None:
        await asyncio.sleep(max(moment - time.time(), 0))
        self._closed.set()
        await self._send({"type": "websocket.close", "code": CLOSE_POLICY, "reason": _REASON})
