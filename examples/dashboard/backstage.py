"""What only a demo has: trouble on command, a look into FakeEntra's ledger, a crowd's start."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import jwt

from obo_asgi.testing import FakeEntra

from .asgi import ASGIApp, Handler, Receive, Response, Scope, Send, json_response, router
from .trouble import Trouble

PREFIX = "/backstage/"


def create_app(entra: FakeEntra, trouble: Trouble) -> ASGIApp:
    """Return the app behind `PREFIX`; its commands are about whoever's token comes along."""

    async def exchanges(scope: Scope) -> Response:
        """Answer how many exchanges the caller's token was used for so far."""
        return json_response({"exchanges": exchanges_of(entra, _token(scope))})

    commands = {f"{PREFIX}{name}": _command(trouble, name) for name in trouble.names}
    return router({f"{PREFIX}exchanges": exchanges}, commands)


def exchanges_of(entra: FakeEntra, token: str) -> int:
    """Return how many exchanges a token was used for, among the last thousand token requests."""
    return sum(
        request.grant == "on_behalf_of" and request.form.get("assertion") == token
        for request in entra.requests
    )


def _command(trouble: Trouble, name: str) -> Handler:
    async def handler(scope: Scope) -> Response:
        try:
            # No verification: whoever runs the demo may make trouble for anybody in it.
            claims = jwt.decode(_token(scope), options={"verify_signature": False})
        except jwt.InvalidTokenError:
            return Response(b"Unauthorized\n", status=401)
        await trouble.order(name, claims["preferred_username"].partition("@")[0])
        return json_response({})

    return handler


def _token(scope: Scope) -> str:
    authorization: bytes = dict(scope["headers"]).get(b"authorization", b"")
    return authorization.decode().removeprefix("Bearer ")


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
