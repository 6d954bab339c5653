"""The door: a pure ASGI middleware that verifies callers and gives handlers a Downstream."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any, Final

from ._types import ASGIApp, Message, Receive, Scope, Send
from .downstream import Downstream
from .errors import (
    AuthenticationRequiredError,
    ConfigurationError,
    InvalidTokenError,
    OboError,
)
from .on_behalf_of import OnBehalfOf
from .responses import ErrorResponse, error_response
from .tokens import AnonymousUser, Credentials

__all__ = ["SCOPE_KEY", "OnBehalfOfMiddleware", "downstream_from"]

logger = logging.getLogger(__name__)

SCOPE_KEY: Final = "obo_asgi"
"""Where the ASGI scope holds the request's `Downstream`; None for anonymous callers."""

# RFC 6750 section 2.1: one space, then the token; the scheme is case-insensitive (RFC 9110).
_BEARER = re.compile(rb"(?i:bearer) ([A-Za-z0-9\-._~+/]+=*)")
_CLOSE_POLICY: Final = 1008


class OnBehalfOfMiddleware:
    """Verifies the access token of every request and attaches the downstream APIs to its scope.

    The wrapped app finds a `Downstream` in ``scope["obo_asgi"]`` (`downstream_from`), the caller in
    ``scope["user"]`` and the granted scopes in ``scope["auth"]``. Errors of this library that the
    app raises before its response has started become the answers of `error_response`. Around a
    whole Starlette or FastAPI app it never sees a handler's exception: add it inside, with their
    ``add_middleware``, or use `error_response` in their exception handler.

    Args:
        app: the ASGI app to protect.
        obo: who verifies and acquires; it is opened and closed with the lifespan, and opens itself
            at the first request where the server has none.
        public_paths: paths that need no token: exact, as the app's router sees them (below
            ``root_path``), not decoded or normalised.
        optional: let requests without a token in, as anonymous; a bad token is refused all the
            same.
        cors_preflight: let CORS preflight requests in without a token, for a CORS middleware that
            sits inside; better put it outside.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        app: ASGIApp,
        obo: OnBehalfOf,
        *,
        public_paths: Iterable[str] = (),
        optional: bool = False,
        cors_preflight: bool = False,
    ) -> None:
        if not isinstance(obo, OnBehalfOf):
            raise ConfigurationError("the second argument must be an OnBehalfOf")
        self.app = app
        self._obo = obo
        self._public_paths = _check_public_paths(public_paths)
        self._optional = optional
        self._cors_preflight = cors_preflight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            raise RuntimeError(f"unknown ASGI scope type {kind!r}: refusing to pass it on")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._call(scope, await self._authenticate(scope), receive, watch)
        except Exception as error:
            answer = None if started else error_response(error)
            if answer is None:
                raise
            logger.info("answered %s: %s", answer.status_code, _loggable(error))
        else:
            return
        await _send_answer(answer, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            inner = await self._authenticate(scope)
        except Exception as error:
            answer = error_response(error)
            if answer is None:
                raise
            logger.info("WebSocket refused: %s", _loggable(error))
        else:
            await self._call(scope, inner, receive, send)
            return
        await receive()  # the connect message; a refusal is the reply to it
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await _send_answer(answer, send, prefix="websocket.")
        else:
            await send({"type": "websocket.close", "code": _CLOSE_POLICY})

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_all() -> Message:
            return startup.pop() if startup else await receive()

        async def close_in_time(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._obo.aclose()
            await send(message)

        startup = [await receive()]
        try:
            await self._obo.open()
        except ConfigurationError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await self.app(scope, receive_all, close_in_time)

    async def _call(self, outer: Scope, inner: Scope, receive: Receive, send: Send) -> None:
        downstream = inner[SCOPE_KEY]
        try:
            await self.app(inner, receive, send)
        finally:
            if downstream is not None and inner is not outer:
                downstream.close()

    async def _authenticate(self, scope: Scope) -> Scope:
        """Return a copy of the scope that says who calls; the scope itself if it does already."""
        if self._obo.made(scope.get(SCOPE_KEY)):
            return scope
        token = None if self._is_public(scope) else _bearer_token(scope)
        if token is None:
            if not (self._optional or self._is_public(scope) or self._is_preflight(scope)):
                raise AuthenticationRequiredError
            return {
                **scope,
                SCOPE_KEY: None,
                "user": AnonymousUser(),
                "auth": Credentials(),
            }
        downstream = await self._obo.downstream_for(token, bypass_failures=_is_no_cache(scope))
        user = downstream.user
        return {**scope, SCOPE_KEY: downstream, "user": user, "auth": Credentials(user.scopes)}

    def _is_public(self, scope: Scope) -> bool:
        return bool(self._public_paths) and _dispatched_path(scope) in self._public_paths

    def _is_preflight(self, scope: Scope) -> bool:
        return (
            self._cors_preflight
            and scope.get("method") == "OPTIONS"
            and {b"origin", b"access-control-request-method"} <= {n for n, _ in scope["headers"]}
        )


def downstream_from(scope: Scope) -> Downstream:
    """Return the request's `Downstream` from its ASGI scope.

    Raises:
        AuthenticationRequiredError: the caller is anonymous (a public path, optional
            authentication).
        ConfigurationError: no `OnBehalfOfMiddleware` is around this app.
    """
    if SCOPE_KEY not in scope:
        raise ConfigurationError("no OnBehalfOfMiddleware is around this app: add it")
    downstream: Downstream | None = scope[SCOPE_KEY]
    if downstream is None:
        raise AuthenticationRequiredError
    return downstream


def _loggable(error: Exception) -> object:
    """Return what may be logged of an error: ours hold no URL, the HTTP client's do."""
    return error if isinstance(error, OboError) else type(error).__name__


def _bearer_token(scope: Scope) -> str | None:
    """Return the token of the one Authorization header; None if there is no such header.

    Raises:
        InvalidTokenError: more than one header, another scheme, or a malformed value.
    """
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    match = _BEARER.fullmatch(values[0])
    if match is None or len(values) > 1:
        raise InvalidTokenError(
            "header", "the Authorization header is not exactly one 'Bearer <token>'"
        )
    return match[1].decode("ascii")


def _is_no_cache(scope: Scope) -> bool:
    return any(
        name == b"cache-control" and b"no-cache" in value.lower()
        for name, value in scope["headers"]
    )


def _dispatched_path(scope: Scope) -> str:
    """Return the path that the app's router sees: without ``root_path``, on a segment boundary."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :] or "/"
    return path


def _check_public_paths(paths: Iterable[str]) -> frozenset[str]:
    if isinstance(paths, str):
        raise ConfigurationError(f"public_paths must be a list: [{paths!r}], not {paths!r}")
    result = frozenset(paths)
    for path in result:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigurationError(f"public_paths are exact paths that start with '/': {path!r}")
        if any(mark in path for mark in "*{?#"):
            raise ConfigurationError(
                f"public_paths are exact paths, without patterns or queries: {path!r}"
            )
    return result


async def _send_answer(answer: ErrorResponse, send: Send, *, prefix: str = "") -> None:
    headers: list[Any] = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in answer.headers.items()
    ]
    await send(
        {
            "type": f"{prefix}http.response.start",
            "status": answer.status_code,
            "headers": headers,
        }
    )
    await send({"type": f"{prefix}http.response.body", "body": answer.body})
