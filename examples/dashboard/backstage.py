"""What only a demo has: a look into FakeEntra's ledger, and a starting line for a crowd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from obo_asgi.testing import FakeEntra

from .asgi import ASGIApp, Receive, Response, Scope, Send, json_response, router

PREFIX = "/backstage/"


def create_app(entra: FakeEntra) -> ASGIApp:
    """Return the app behind `PREFIX`."""

    async def exchanges(scope: Scope) -> Response:
        """Answer how many exchanges the caller's token was used for so far."""
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
        count = exchanges_of(entra, authorization.removeprefix("Bearer "))
        return json_response({"exchanges": count})

    return router({f"{PREFIX}exchanges": exchanges})


def exchanges_of(entra: FakeEntra, token: str) -> int:
    """Return how many exchanges a token was used for, among the last thousand token requests."""
    return sum(
        request.grant == "on_behalf_of" and request.form.get("assertion") == token
        for request in entra.requests
    )


class StartingLine:
    """Can hold requests back, to let a whole crowd of them into an app at the same moment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._barrier: asyncio.Barrier | None = None

    @contextlib.contextmanager
    def hold(self, crowd: int) -> Iterator[None]:
        """While the block runs, let requests in only by the crowd, of so many."""
        self._barrier = asyncio.Barrier(crowd)
        try:
            yield
        finally:
            self._barrier = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._barrier is not None:
            await self._barrier.wait()
        await self._app(scope, receive, send)
