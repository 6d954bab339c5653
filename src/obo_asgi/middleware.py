"""The door: a pure ASGI middleware that verifies callers and gives handlers a Downstream."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from ._cors import has_cors_inside
from ._events import REQUEST_REFUSED, emit
from ._inbound import bearer_token, check_paths, dispatched_path, is_preflight
from ._telemetry import continued, is_traced
from ._trace import Trace
from ._types import ASGIApp, Message, Receive, Scope, Send
from ._websocket import CLOSE_POLICY, call_until
from .downstream import Downstream
from .errors import AuthenticationRequiredError, ConfigurationError, OboError
from .on_behalf_of import OnBehalfOf
from .protected_resource import ProtectedResource
from .responses import ErrorResponse, error_response, metadata_response
from .sessions import Requester, requester
from .tokens import AnonymousUser, Credentials

__all__ = ["SCOPE_KEY", "OnBehalfOfMiddleware", "downstream_from"]

logger = logging.getLogger(__name__)

SCOPE_KEY: Final = "obo_asgi"
"""Where the ASGI scope holds the request's `Downstream`; None for anonymous callers."""


class OnBehalfOfMiddleware:
    """Verifies the access token of every request and attaches the downstream APIs to its scope.

    The wrapped app finds a `Downstream` in ``scope["obo_asgi"]`` (`downstream_from`), the caller in
    ``scope["user"]`` and the granted scopes in ``scope["auth"]``. Errors of this library that the
    app raises before its response has started, or its WebSocket is accepted, become the answers of
    `error_response`; a WebSocket is closed with code 1008 where the server cannot send one. Around
    a whole Starlette or FastAPI app it never sees what a handler of requests raises: add it inside,
    with their ``add_middleware``, or use `error_response` in their exception handler.

    Args:
        app: the ASGI app to protect.
        obo: who verifies and acquires; it is opened and closed with the lifespan, and opens itself
            at the first request where the server has none.
        public_paths: paths that need no token: exact, as the app's router sees them (below
            ``root_path``), not decoded or normalised.
        is_public: tells by the ASGI scope of further requests that need no token, for routers that
            know more of a request than its path.
        optional: let requests without a token in, as anonymous; a bad token is refused all the
            same.
        cors_preflight: let CORS preflight requests in without a token, for a CORS middleware that
            sits inside; better put it outside.
        acquire_first: the downstream APIs whose tokens are acquired before the app is called, so
            that a missing consent is an HTTP 401 for streams, WebSockets and MCP tools too; or
            such lists by path, each for the path and what lies below it.
        close_websockets: close a WebSocket when the token ends that opened it (code 1008); the app
            sees a disconnect.
        resource: how the API describes itself to clients that discover it (RFC 9728); without a
            token anybody may read that, and every challenge names it.
        on_error: turns what the app raises into an answer, or None to let it pass; None lets
            everything pass. Refusals of this middleware itself are always answered.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        app: ASGIApp,
        obo: OnBehalfOf,
        *,
        public_paths: Iterable[str] = (),
        is_public: Callable[[Scope], bool] | None = None,
        optional: bool = False,
        cors_preflight: bool = False,
        acquire_first: Sequence[str] | Mapping[str, Sequence[str]] = (),
        close_websockets: bool = False,
        resource: ProtectedResource | None = None,
        on_error: Callable[[Exception], ErrorResponse | None] | None = error_response,
    ) -> None:
        if not isinstance(obo, OnBehalfOf):
            raise ConfigurationError("the second argument must be an OnBehalfOf")
        self.app = app
        self._obo = obo
        self._public_paths = check_paths(public_paths, "public_paths")
        self._is_public = is_public
        self._close_websockets = close_websockets
        self._optional = optional
        self._cors_preflight = cors_preflight
        self._acquire_first = _check_acquire_first(obo, acquire_first)
        self._resource = _check_resource(obo, resource)
        self._refuse = partial(error_response, resource=self._resource)
        self._on_error = self._refuse if on_error is error_response else on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            raise RuntimeError(f"unknown ASGI scope type {kind!r}: refusing to pass it on")
        serve = self._http if kind == "http" else self._websocket
        trace = Trace(scope["headers"])
        if is_traced():
            with continued(trace.context):
                await serve(scope, trace, receive, send)
        else:
            await serve(scope, trace, receive, send)

    async def _http(self, scope: Scope, trace: Trace, receive: Receive, send: Send) -> None:
        started = False

        def watch(message: Message) -> Awaitable[None]:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            return send(message)

        if self._resource is not None and self._is_description(self._resource, scope):
            document = self._resource.document(self._obo.registration)
            await _send_answer(metadata_response(document, scope["method"]), send)
            return
        answer_to: Callable[[Exception], ErrorResponse | None] | None = self._refuse
        try:
            inner = await self._admit(scope, trace)
            answer_to = self._on_error
            await self._call(self.app, scope, inner, receive, watch)
        except Exception as error:
            answer = None if started or answer_to is None else answer_to(error)
            if answer is None:
                raise
            _log_refusal("answered %s: %s", answer, error)
        else:
            return
        await _send_answer(answer, send, trace.echo)

    async def _websocket(self, scope: Scope, trace: Trace, receive: Receive, send: Send) -> None:
        connected = replied = False

        async def listen() -> Message:
            nonlocal connected
            message = await receive()
            connected = True
            return message

        def watch(message: Message) -> Awaitable[None]:
            nonlocal replied
            replied = True
            return send(message)

        answer_to: Callable[[Exception], ErrorResponse | None] | None = self._refuse
        try:
            inner = await self._admit(scope, trace)
            answer_to = self._on_error
            app, downstream = self.app, inner[SCOPE_KEY]
            if self._close_websockets and downstream is not None:
                app = partial(call_until, app, downstream.user.expires_at)
            await self._call(app, scope, inner, listen, watch)
        except Exception as error:
            answer = None if replied or answer_to is None else answer_to(error)
            if answer is None:
                raise
            _log_refusal("WebSocket refused (%s): %s", answer, error)
        else:
            return
        if not connected:
            await receive()  # the connect message; a refusal is the reply to it
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await _send_answer(answer, send, trace.echo, prefix="websocket.")
        else:
            await send({"type": "websocket.close", "code": CLOSE_POLICY})

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_all() -> Message:
            return startup.pop() if startup else await receive()

        async def close_in_time(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._obo.aclose()
            await send(message)

        if has_cors_inside(self.app):
            logger.warning(
                "CORSMiddleware is inside OnBehalfOfMiddleware, so that a script of another origin "
                "cannot read a refusal: put it outside, with WWW-Authenticate and Retry-After in "
                "its expose_headers"
            )
        startup = [await receive()]
        try:
            await self._obo.open()
        except ConfigurationError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await self.app(scope, receive_all, close_in_time)

    @staticmethod
    async def _call(app: ASGIApp, outer: Scope, inner: Scope, receive: Receive, send: Send) -> None:
        downstream = inner[SCOPE_KEY]
        request = Requester(None if downstream is None else downstream.user)
        before = requester.set(request)
        try:
            await app(inner, receive, send)
        finally:
            requester.reset(before)
            request.is_over = True
            if downstream is not None and inner is not outer:
                downstream.close()

    async def _admit(self, scope: Scope, trace: Trace) -> Scope:
        """Let a request in, once the tokens that are to be acquired first are there.

        Return a copy of the scope that says who calls; the scope itself if it does already.
        """
        present = scope.get(SCOPE_KEY)
        if self._obo.made(present):
            downstream, inner = present, scope
        else:
            token = self._token(scope)
            if token is None:
                return {
                    **scope,
                    SCOPE_KEY: None,
                    "user": AnonymousUser(),
                    "auth": Credentials(),
                }
            downstream = self._obo.recall(token, trace) or await self._obo.downstream_for(
                token, trace=trace
            )
            user = downstream.user
            auth = Credentials(user.scopes)
            inner = {**scope, SCOPE_KEY: downstream, "user": user, "auth": auth}
        if self._acquire_first:
            await downstream.acquire_tokens(self._names_for(dispatched_path(scope)))
        return inner

    def _token(self, scope: Scope) -> str | None:
        """Return the token of a request; None if it may go without."""
        is_public = bool(self._public_paths) and dispatched_path(scope) in self._public_paths
        if self._is_public is not None:
            is_public = is_public or self._is_public(scope)
        token = None if is_public else bearer_token(scope)
        if token is not None or is_public or self._optional:
            return token
        if self._cors_preflight and is_preflight(scope):
            return None
        raise AuthenticationRequiredError

    @staticmethod
    def _is_description(resource: ProtectedResource, scope: Scope) -> bool:
        return resource.metadata_path in (scope["path"], dispatched_path(scope))

    def _names_for(self, path: str) -> set[str]:
        return {
            name
            for start, names in self._acquire_first.items()
            if path == start or path.startswith(f"{start}/")
            for name in names
        }


def downstream_from(scope: Mapping[str, Any]) -> Downstream:
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


def _check_acquire_first(
    obo: OnBehalfOf, names: Sequence[str] | Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Return the names of APIs by path, without its final slash."""
    by_path = names if isinstance(names, Mapping) else {"/": names}
    check_paths(by_path, "acquire_first")
    return {
        path.rstrip("/"): obo.check_names(listed, "acquire_first")
        for path, listed in by_path.items()
        if listed
    }


def _check_resource(
    obo: OnBehalfOf, resource: ProtectedResource | None
) -> ProtectedResource | None:
    """Return the resource with the scopes that the API requires, where it names none itself."""
    if resource is None:
        return None
    if not isinstance(resource, ProtectedResource):
        raise ConfigurationError("resource must be a ProtectedResource(resource='https://…')")
    if resource.scopes is not None or obo.required_scopes is None:
        return resource
    return replace(resource, scopes=resource.qualify(obo.required_scopes.names))


def _loggable(error: Exception) -> object:
    """Return what may be logged of an error: ours hold no URL, the HTTP client's do."""
    return error if isinstance(error, OboError) else type(error).__name__


def _log_refusal(message: str, answer: ErrorResponse, error: Exception) -> None:
    emit(
        logger,
        logging.INFO,
        REQUEST_REFUSED,
        message,
        answer.status_code,
        _loggable(error),
        status=answer.status_code,
        error=type(error).__name__,
    )


async def _send_answer(
    answer: ErrorResponse, send: Send, more: Mapping[str, str] | None = None, *, prefix: str = ""
) -> None:
    headers = {**answer.headers, **(more or {})}
    await send(
        {
            "type": f"{prefix}http.response.start",
            "status": answer.status_code,
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in headers.items()
            ],
        }
    )
    await send({"type": f"{prefix}http.response.body", "body": answer.body})
