"""ASGI apps called in this process, without a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"2")],
}
_BODY = {"type": "http.response.body", "body": b"ok"}


async def bare_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer "ok"; the least that an app can do."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send(_START)
    await send(_BODY)


def http_scope(token: str) -> Scope:
    """Return the scope of a GET request with a bearer token, as a server makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"api.example.com"),
            (b"user-agent", b"benchmark"),
            (b"accept", b"*/*"),
            (b"authorization", f"Bearer {token}".encode()),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 443),
        "state": {},
    }


async def receive_nothing() -> Message:
    """Be the body of a GET request."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send_nowhere(message: Message) -> None:
    """Take what an app answers."""


async def check_answers(app: ASGIApp, scope: Scope) -> None:
    """Make sure that an app answers 200, so that no refusal is measured.

    Raises:
        RuntimeError: it does not.
    """
    seen: list[Message] = []

    async def send(message: Message) -> None:
        seen.append(message)

    await app(dict(scope), receive_nothing, send)
    if seen[0].get("status") != 200:
        raise RuntimeError(f"a benchmark's app answers {seen!r}")


def calling(app: ASGIApp, scope: Scope) -> Callable[[], Awaitable[None]]:
    """Return the call of an app with a fresh scope; copying it is part of what is measured."""
    return lambda: app(scope.copy(), receive_nothing, send_nowhere)  # type: ignore[attr-defined]
