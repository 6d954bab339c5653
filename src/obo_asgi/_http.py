"""How requests leave: through a client that carries nothing of one user to another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Literal, NamedTuple

from ._flights import Flights
from ._types import HTTPClient
from .errors import ConfigurationError

MARK = "obo_asgi.api"
"""The request extension that names the downstream API; error answers recognise our calls by it."""

CHALLENGE = "obo_asgi.challenge"
"""The response extension that holds what a downstream API demands of the user, as an error."""

_CLIENT_LOGGERS = (
    "httpx",
    "httpx2",
    "hpack.hpack",
    "hpack.table",
    *(
        f"{library}.{part}"
        for library in ("httpcore", "httpcore2")
        for part in ("connection", "http11", "http2", "proxy")
    ),
)
_is_ours: ContextVar[bool] = ContextVar("obo_asgi_request", default=False)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole answer of a bounded size."""

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class FetchFailed(Exception):
    """No whole answer arrived."""


class HTTPClients:
    """The clients in use: the user's own, or ours, one for each event loop.

    Ours is closed with its loop at the latest: it is held by an asynchronous generator, which
    ``loop.shutdown_asyncgens()`` ends (as ``asyncio.run`` does).

    Args:
        client: the user's own client, which the user closes; None for ours.
    """

    def __init__(self, client: HTTPClient | None) -> None:
        self._own = client
        self._own_ready = False
        self._by_loop: dict[asyncio.AbstractEventLoop, _Held] = {}
        self._opening: Flights[None] = Flights()

    @property
    def ready(self) -> bool:
        """Whether `open` has been called in the running loop."""
        return self._own_ready or asyncio.get_running_loop() in self._by_loop

    async def open(self) -> None:
        """Make the client of the running loop ready; what is slow happens in a thread."""
        if self._own is not None:
            make_shareable(self._own)
            self._own_ready = True
        elif not self.ready:
            await self._opening.join("open", self._open_default)

    async def _open_default(self) -> None:
        create_client, ssl_context = await asyncio.to_thread(_load_default_client)
        for closed in [loop for loop in self._by_loop if loop.is_closed()]:
            del self._by_loop[closed]
        client = create_client(ssl_context)
        make_shareable(client)
        holder = _hold(client)
        await anext(holder)
        self._by_loop[asyncio.get_running_loop()] = _Held(client, holder)

    def get(self) -> HTTPClient:
        """Return the client of the running loop, which `open` has made."""
        return self._own or self._by_loop[asyncio.get_running_loop()].client

    async def aclose(self) -> None:
        """Close our own client of the running loop."""
        await self._opening.aclose()
        held = self._by_loop.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held.holder.aclose()


class _Held(NamedTuple):
    client: HTTPClient
    holder: AsyncGenerator[None, None]


async def _hold(client: HTTPClient) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.aclose()


def _load_default_client() -> tuple[Any, Any]:
    from ._default_client import create_client, create_ssl_context

    return create_client, create_ssl_context()


def make_shareable(client: HTTPClient) -> None:
    """Make a client safe for many users: it stores no cookies and logs no URLs of ours.

    Raises:
        ConfigurationError: it runs over an aiohttp session with a cookie jar, which we cannot
            switch off.
    """
    _quiet_client_loggers()
    jar = getattr(getattr(client, "cookies", None), "jar", None)
    if jar is not None:
        jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    mounts = getattr(client, "_mounts", {}).values()
    for transport in (getattr(client, "_transport", None), *mounts):
        if "AiohttpTransport" in _class_names(transport):
            _check_aiohttp_transport(transport)


def _check_aiohttp_transport(transport: Any) -> None:
    session = transport.client
    if callable(session):
        session = transport.client = session()
    if "DummyCookieJar" not in _class_names(getattr(session, "cookie_jar", None)):
        raise ConfigurationError(
            "http_client runs over an aiohttp session that stores cookies, which would carry one "
            "user's cookies to another: build it with AiohttpTransport(client=lambda: "
            "aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))"
        )


def _class_names(value: object) -> set[str]:
    return {cls.__name__ for cls in type(value).__mro__}


class _DropOurRequests(logging.Filter):
    """Keeps full URLs of our calls, whose queries hold personal data, out of the client's log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _is_ours.get()


_drop_our_requests = _DropOurRequests()


def _quiet_client_loggers() -> None:
    for name in _CLIENT_LOGGERS:
        logging.getLogger(name).addFilter(_drop_our_requests)


@contextmanager
def _unlogged() -> Iterator[None]:
    token = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(token)


async def send(client: HTTPClient, request: Any, *, stream: bool = False) -> Any:
    """Send a request with nothing of the client's own: no cookie, no ``auth=``, no redirect."""
    if "cookie" in request.headers:
        del request.headers["cookie"]
    with _unlogged():
        return await client.send(request, auth=None, follow_redirects=False, stream=stream)


async def fetch(client: HTTPClient, request: Any, *, seconds: float, limit: int) -> Fetched:
    """Send a request and read the whole answer.

    Args:
        client: the client that built the request.
        request: the request.
        seconds: what the whole exchange may take.
        limit: how many bytes the body may have.

    Raises:
        FetchFailed: no answer, not in time, or a larger one. The message names no URL and the
            cause is cut, because requests to the token endpoint carry secrets.
    """
    failure = "is larger than it may be"
    try:
        async with asyncio.timeout(seconds):
            response = await send(client, request, stream=True)
            try:
                body = bytearray()
                with _unlogged():
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > limit:
                            break
                    else:
                        return Fetched(response.status_code, response.headers, bytes(body))
            finally:
                await response.aclose()
    except Exception as error:
        kind = failure_kind(error)
        if kind is None:
            raise
        verb = "timed out" if kind == "timeout" else "failed"
        failure = f"{verb} ({type(error).__name__})"
    raise FetchFailed(failure)


def failure_kind(error: BaseException) -> Literal["timeout", "connection"] | None:
    """Tell how a request failed, over httpx, httpx2 and aiohttp; None if it is something else.

    httpx-aiohttp reports refused and dropped connections as ``ConnectTimeout``; the cause tells.
    """
    names = _class_names(error)
    cause = error.__cause__
    if isinstance(error, TimeoutError):
        return "timeout"
    if "TimeoutException" in names:
        dropped = "ClientConnectionError" in _class_names(cause)
        return "connection" if dropped and not isinstance(cause, TimeoutError) else "timeout"
    if not names.isdisjoint({"TransportError", "ClientError", "DecodingError"}):
        return "connection"
    return None
