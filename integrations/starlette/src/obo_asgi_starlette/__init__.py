"""obo-asgi for Starlette: `OnBehalfOfMiddleware`, `downstream_from(request)`, and `requires`.

``app.add_middleware(OnBehalfOfMiddleware, obo=obo)`` puts the middleware inside the app, where the
errors of endpoints become answers. Starlette makes the middleware that is added last the outermost:
add a CORSMiddleware after it. An app that is mounted in another answers errors of its own endpoints
before they leave it: add the middleware to it too, or mount routes (``Mount("/x", routes=[…])``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from starlette.exceptions import WebSocketException
from starlette.requests import HTTPConnection
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketState

from obo_asgi import (
    AccessRule,
    AuthenticationRequiredError,
    ConfigurationError,
    Downstream,
    InsufficientScopeError,
    OnBehalfOfMiddleware,
    Requirement,
    any_of,
)
from obo_asgi import downstream_from as _downstream_from

__all__ = ["AccessRule", "OnBehalfOfMiddleware", "any_of", "downstream_from", "requires"]

P = ParamSpec("P")
R = TypeVar("R")


def downstream_from(connection: HTTPConnection | Scope) -> Downstream:
    """Return the `Downstream` of a request, a WebSocket, or an ASGI scope.

    Raises:
        AuthenticationRequiredError: the caller is anonymous (a public path, optional
            authentication).
        ConfigurationError: no `OnBehalfOfMiddleware` is around this app.
    """
    return _downstream_from(
        connection.scope if isinstance(connection, HTTPConnection) else connection
    )


def requires(
    *scopes: str | Requirement, roles: Sequence[str] | Requirement | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only callers into an endpoint who hold these scopes or roles (see `AccessRule`).

    It decorates functions, sync or async, and methods of endpoint classes; one argument must be the
    request or the WebSocket. The middleware answers who may not: 401 or 403, with a challenge. A
    WebSocket that is not accepted yet is refused with that answer where the server can send one; an
    accepted one, and any where it cannot, is closed with code 1008.

    Args:
        scopes: bare names as they stand in the token, all of them; or one `any_of`.
        roles: app roles, all of them; or one `any_of`.

    Raises:
        ConfigurationError: nothing is demanded, or a name is none; in a call: no argument is a
            request or a WebSocket.
    """
    rule = AccessRule(*scopes, roles=roles)

    def decorate(endpoint: Callable[P, R]) -> Callable[P, R]:
        @wraps(endpoint)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            _check(rule, _connection(args, kwargs))
            return endpoint(*args, **kwargs)

        @wraps(endpoint)
        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            _check(rule, _connection(args, kwargs))
            return await cast("Callable[P, Any]", endpoint)(*args, **kwargs)

        return cast("Callable[P, R]", call_async) if _is_async(endpoint) else call

    return decorate


def _is_async(endpoint: Callable[..., Any]) -> bool:
    """Tell what Starlette awaits, also a callable object, from what it runs in a thread."""
    call = getattr(endpoint, "__call__", None)  # noqa: B004 (an object, as Starlette looks)
    return inspect.iscoroutinefunction(endpoint) or inspect.iscoroutinefunction(call)


def _connection(args: tuple[Any, ...], kwargs: dict[str, Any]) -> HTTPConnection:
    for value in (*args, *kwargs.values()):
        if isinstance(value, HTTPConnection):
            return value
    raise ConfigurationError("@requires needs an endpoint that takes a request or a WebSocket")


def _check(rule: AccessRule, connection: HTTPConnection) -> None:
    try:
        rule.check(connection.scope)
    except (AuthenticationRequiredError, InsufficientScopeError) as error:
        if _is_accepted(connection):
            raise WebSocketException(1008) from error
        raise


def _is_accepted(connection: HTTPConnection) -> bool:
    return (
        isinstance(connection, WebSocket)
        and connection.application_state is not WebSocketState.CONNECTING
    )
