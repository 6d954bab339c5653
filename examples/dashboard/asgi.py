"""The little that these apps need of a web framework: routes and answers over plain ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Response:
    """An answer."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Scope], Awaitable[Response]]


def json_response(value: object, *, status: int = 200) -> Response:
    """Answer with JSON: of dicts, lists and dataclasses, which nobody may store."""
    body = msgspec.json.encode(value)
    return Response(body, "application/json", status, {"Cache-Control": "no-store"})


def router(routes: Mapping[str, Handler], commands: Mapping[str, Handler] | None = None) -> ASGIApp:
    """Return an app that answers GET requests, and commands by POST, each exact path by its own."""
    by_method = {"GET": routes, "POST": commands or {}}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _take_part_in_lifespan(receive, send)
        elif scope["type"] == "http":
            await send_response(await _answer(by_method, scope), send)
        else:
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")

    return app


async def _answer(by_method: Mapping[str, Mapping[str, Handler]], scope: Scope) -> Response:
    path, method = scope["path"], scope["method"]
    allowed = [name for name, routes in by_method.items() if path in routes]
    if not allowed:
        return Response(b"Not Found\n", status=404)
    if method not in allowed:
        allow = {"Allow": ", ".join(allowed)}
        return Response(b"Method Not Allowed\n", status=405, headers=allow)
    return await by_method[method][path](scope)


async def send_response(response: Response, send: Send) -> None:
    """Send a whole answer."""
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        **response.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [(name.lower().encode(), text.encode()) for name, text in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": response.body})


async def _take_part_in_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
