"""An httpx transport whose requests reach ASGI apps in this process, and nothing else."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx

from .._types import ASGIApp, Message, Scope

_log: Final = logging.getLogger(__name__)


class AppTransport(httpx.AsyncBaseTransport):
    """Hand each request to the app of its origin, as a server would.

    An app that raises answers 500 (the traceback is logged); one that breaks off its body makes
    `httpx.RemoteProtocolError`, and one that is slower than the client's read time-out makes
    `httpx.ReadTimeout`. Bodies of answers are streamed; one ends when its app has returned, after
    background tasks. The lifespan of an app is not run.

    Args:
        find_app: returns the app for a URL, or raises `ConnectionRefusedError`.
    """

    def __init__(self, find_app: Callable[[httpx.URL], ASGIApp]) -> None:
        self._find_app = find_app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            app = self._find_app(request.url)
        except ConnectionRefusedError as error:
            raise httpx.ConnectError(str(error), request=request) from error
        exchange = _Exchange(app, request, await request.aread())
        try:
            status, headers = await exchange.start()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(status, headers=headers, stream=exchange, request=request)


class _Exchange(httpx.AsyncByteStream):
    """One request to an app, which runs in a task of its own, and the stream of its answer."""

    def __init__(self, app: ASGIApp, request: httpx.Request, body: bytes) -> None:
        self._app = app
        self._request = request
        self._read_timeout = request.extensions.get("timeout", {}).get("read")
        self._incoming: list[Message] = [{"type": "http.request", "body": body}]
        self._outgoing: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=1)
        self._answered = asyncio.Event()
        self._is_read = False
        # a server's handler does not see the context variables of its client
        self._task = asyncio.create_task(self._run(), context=contextvars.Context())

    async def start(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Wait for the start of the answer and return its status and headers."""
        message = await self._next()
        if message is None:
            self._is_read = True
            return 500, []
        return message["status"], list(message.get("headers", []))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._is_read:
            message = await self._next()
            if message is None:
                raise httpx.RemoteProtocolError("the app broke off its answer")
            self._is_read = not message.get("more_body", False)
            yield message.get("body", b"")

    async def aclose(self) -> None:
        """Wait for an app that has answered, with its background tasks; end any other."""
        if not self._answered.is_set():
            self._task.cancel()
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def _next(self) -> Message | None:
        try:
            async with asyncio.timeout(self._read_timeout):
                return await self._outgoing.get()
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time", request=self._request) from None

    async def _run(self) -> None:
        try:
            await self._app(_scope(self._request), self._receive, self._send)
        except Exception:
            _log.exception("the app at %s failed", self._request.url.host)
        if not self._answered.is_set():
            await self._outgoing.put(None)
            self._answered.set()

    async def _receive(self) -> Message:
        if self._incoming:
            return self._incoming.pop()
        await self._answered.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._outgoing.put(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._answered.set()


def _scope(request: httpx.Request) -> Scope:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 50000),
        "server": (url.host, url.port or (443 if url.scheme == "https" else 80)),
    }
