"""One HTTP request and one answer, as plain values over ASGI."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from .._types import Receive, Scope, Send

_MAX_BODY = 1 << 20


@dataclass(frozen=True)
class Request:
    """A request whose body has been read."""

    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; of a repeated one, the first."""
        return _first_values(self.query_string)

    @property
    def form(self) -> dict[str, str]:
        """The form fields of the body; of a repeated one, the first."""
        return _first_values(self.body.decode("utf-8", "replace"))


@dataclass(frozen=True)
class Response:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def with_headers(self, headers: Mapping[str, str]) -> Response:
        """Return the same answer with these headers besides its own."""
        return Response(self.status, self.body, {**headers, **self.headers})

    async def send(self, send: Send) -> None:
        """Send the answer."""
        fields = {**self.headers, "content-length": str(len(self.body))}
        headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with JSON that nobody may store."""
    fields = {"content-type": "application/json; charset=utf-8", "cache-control": "no-store"}
    return Response(status, json.dumps(value).encode(), {**fields, **(headers or {})})


async def read_request(scope: Scope, receive: Receive) -> Request:
    """Read a request of at most 1 MiB; what is longer is cut off there."""
    body = b""
    more = True
    while more and len(body) < _MAX_BODY:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return Request(
        method=scope["method"],
        path=scope["path"],
        query_string=scope.get("query_string", b"").decode("latin-1"),
        headers={
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        },
        body=body[:_MAX_BODY],
    )


async def serve_requests(
    scope: Scope,
    receive: Receive,
    send: Send,
    respond: Callable[[Request], Awaitable[Response]],
) -> None:
    """Be an ASGI app that answers HTTP requests and takes part in the lifespan.

    Raises:
        RuntimeError: it is asked to speak another protocol.
    """
    if scope["type"] == "lifespan":
        await _run_lifespan(receive, send)
    elif scope["type"] == "http":
        request = await read_request(scope, receive)
        await (await respond(request)).send(send)
    else:
        raise RuntimeError(f"the sign-in service does not speak {scope['type']!r}")


async def _run_lifespan(receive: Receive, send: Send) -> None:
    """Take part in the server's start and stop, with nothing to do at either."""
    while True:
        message: Any = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _first_values(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
