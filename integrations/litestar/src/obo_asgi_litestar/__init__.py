"""obo-asgi for Litestar: a plugin, guards, and the downstream APIs as a dependency."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import httpx
from litestar import Request, Response, Router, asgi
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import NotFoundException
from litestar.exceptions.responses import create_debug_response, create_exception_response
from litestar.middleware import DefineMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, OAuthFlow, OAuthFlows, SecurityScheme
from litestar.plugins import InitPlugin, ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute, WebSocketRoute
from litestar.types import Guard, Message, Scope

import obo_asgi
from obo_asgi import (
    AccessRule,
    ConfigurationError,
    Downstream,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    OpenAPISecurity,
    Requirement,
    User,
    any_of,
    error_response,
)

__all__ = ["AccessRule", "OnBehalfOfPlugin", "PUBLIC", "any_of", "downstream_from", "requires"]

logger = logging.getLogger(__name__)

_CORS_INSIDE: Final = "CORSMiddleware is inside OnBehalfOfMiddleware: use Litestar's cors_config"
_REPLIED: Final = "obo_asgi_replied"

PUBLIC: Final = {"obo_public": True}
"""The ``opt`` of a handler, controller or router that needs no token."""


class OnBehalfOfPlugin(InitPlugin, ReceiveRoutePlugin):
    """Protects a Litestar app, and gives its handlers the dependencies ``downstream`` and ``user``.

    `OnBehalfOfMiddleware` becomes the app's outermost middleware, inside its ``cors_config``. What
    handlers raise is answered by `error_response`, unless you have an exception handler for the
    very type. Before a WebSocket is accepted such an error is the same answer where the server can
    send one, else a close with code 1008. `obo` opens at startup, and closes after all of your
    shutdown hooks.

    Args:
        obo: who verifies and acquires.
        public_schema: whether everybody may read the OpenAPI document and its pages. An
            ``openapi_router`` of your own says ``opt=PUBLIC`` itself.
        options: those of `OnBehalfOfMiddleware`. Its ``public_paths`` are paths as Litestar's
            router has them, and never of a mounted app.

    Raises:
        ConfigurationError: an argument is wrong; in an app: its path, or a handler's parameter.
    """

    def __init__(self, obo: OnBehalfOf, *, public_schema: bool = True, **options: Any) -> None:
        OnBehalfOfMiddleware(_not_found, obo, **options)  # says at once what is wrong
        self._obo, self._public_schema = obo, public_schema
        self._public_paths = frozenset(options.pop("public_paths", ()))
        self._also_public = options.pop("is_public", None)
        self._options, self._resource = options, options.get("resource")
        resource, required = self._resource, obo.required_scopes
        if resource is not None and resource.scopes is None and required is not None:
            self._resource = replace(resource, scopes=resource.qualify(required.names))
        options |= {"obo": obo, "is_public": self._is_public, "resource": self._resource}
        self._flow = OpenAPISecurity(obo.registration, required, self._resource).flow()
        names = list(self._flow["scopes"])
        ways = [[name] for name in names] if required and required.any else [names]
        self._demands = [{OpenAPISecurity.SCHEME: way} for way in ways]
        self._error_response = options.get("on_error", error_response)
        if self._error_response is error_response:
            self._error_response = partial(error_response, resource=self._resource)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Put everything in its place."""
        if self._resource is not None and app_config.path.strip("/"):
            where = f"with Litestar(path={app_config.path!r}) no client finds what resource= says"
            raise ConfigurationError(f"{where}: give the path to a Router around your handlers")
        kinds = [getattr(each, "middleware", each) for each in app_config.middleware]
        if any("CORSMiddleware" in str(getattr(kind, "__mro__", "")) for kind in kinds):
            app_config.on_startup.append(lambda: logger.warning(_CORS_INSIDE))
        middleware: Any = OnBehalfOfMiddleware
        app_config.middleware.insert(0, DefineMiddleware(middleware, **self._options))
        app_config.on_startup.insert(0, self._obo.open)
        app_config.on_shutdown.append(self._obo.aclose)
        for name, dependency in (("downstream", _downstream), ("user", _user)):
            app_config.dependencies.setdefault(name, Provide(dependency, sync_to_thread=False))
        if self._error_response is not None:
            clients = [httpx, *filter(None, [sys.modules.get("httpx2")])]
            for kind in (obo_asgi.OboError, ExceptionGroup, *(each.HTTPError for each in clients)):
                app_config.exception_handlers.setdefault(kind, self._answer)
            app_config.before_send.append(_note_reply)
            app_config.after_exception.append(self._let_out)
        if self._resource is not None:  # a middleware of Litestar sees only what has a route
            describe = asgi(self._resource.metadata_path, copy_scope=True)(_not_found)
            app_config.route_handlers.append(describe)
        if app_config.openapi_config is not None:
            app_config.openapi_config = self._described(app_config.openapi_config)
        return app_config

    def receive_route(self, route: BaseRoute) -> None:
        """Check what handlers take, and tell the OpenAPI document which of them need a token."""
        sockets: Any = [route.route_handler] if isinstance(route, WebSocketRoute) else []
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else sockets:
            taken = list(_taken(handler.parsed_fn_signature, handler.resolve_dependencies()))
            for field, kind in taken:
                types = [field.annotation, *(inner.annotation for inner in field.inner_types)]
                if not any(each in (kind, Any, object) for each in types):
                    where = f"the parameter {field.name!r} of {handler}"
                    raise ConfigurationError(f"{where} is given our {kind.__name__}: rename it")
            is_needed = taken or any(isinstance(each, _Guard) for each in handler.resolve_guards())
            is_listed = route.path in self._public_paths and len(handler.paths) == 1
            is_public = is_listed or handler.opt.get("obo_public") is True
            is_optional = is_public or (is_needed and self._options.get("optional"))
            if is_optional and handler not in sockets:
                handler.security = handler.security or (self._demands if is_needed else [{}])

    def _is_public(self, scope: Any) -> bool:
        handler = scope["route_handler"]
        # In a mounted app, the path is what remains below the mount.
        is_listed = scope["path"] in self._public_paths and not getattr(handler, "is_mount", False)
        is_public = is_listed or handler.opt.get("obo_public") is True
        return is_public or bool(self._also_public and self._also_public(scope))

    async def _let_out(self, error: Exception, scope: Scope) -> None:
        """Let the middleware refuse a WebSocket, which Litestar would close with code 4500."""
        is_open = scope["type"] == ScopeType.WEBSOCKET and _REPLIED not in scope["state"]
        if is_open and self._error_response(error) is not None:
            raise error

    def _answer(self, request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        answer = self._error_response(error)
        if answer is not None:
            kept = {n: v for n, v in answer.headers.items() if not n.startswith("Content-")}
            kind, status = answer.headers["Content-Type"], answer.status_code
            return Response(answer.body, status_code=status, headers=kept, media_type=kind)
        # As if we were not there: the user's handler for a base class, or Litestar's own.
        found: dict[Any, Any] = dict(request.route_handler.resolve_exception_handlers())
        others = (found[kind] for kind in (*type(error).__mro__, 500) if kind in found)
        default = create_debug_response if request.app.debug else create_exception_response
        handler = next((other for other in others if other != self._answer), default)
        return cast("Response[Any]", handler(request, error))

    def _described(self, config: OpenAPIConfig) -> OpenAPIConfig:
        """Return the user's OpenAPI configuration with how to get a token."""
        flow, name = self._flow, OpenAPISecurity.SCHEME
        code = OAuthFlow(flow["authorizationUrl"], flow["tokenUrl"], scopes=flow["scopes"])
        scheme = SecurityScheme("oauth2", flows=OAuthFlows(authorization_code=code))
        ours, theirs = Components(security_schemes={name: scheme}), config.components
        config = copy(config)
        config.components = [*(theirs if isinstance(theirs, list) else [theirs]), ours]
        anonymous: list[Any] = [{}] if self._options.get("optional") else []
        config.security = [*(config.security or []), *self._demands, *anonymous]
        if self._public_schema and not (config.openapi_router or config.openapi_controller):
            # The router that Litestar would make.
            options: Any = {"include_in_schema": False, "dto": None, "return_dto": None}
            path = config.path or "/schema"
            config.openapi_router = Router(path, route_handlers=[], opt=PUBLIC, **options)
        return config


def requires(*scopes: str | Requirement, roles: Sequence[str] | Requirement | None = None) -> Guard:
    """Return a guard that lets in whoever an `AccessRule` with these arguments lets in.

    A WebSocket is refused before it is accepted.

    Raises:
        ConfigurationError: nothing is required, or a name is none.
    """
    return _Guard(*scopes, roles=roles)


class _Guard(AccessRule):
    """A rule that Litestar can call."""

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], _: object) -> None:
        self.check(connection.scope)


def downstream_from(connection: ASGIConnection[Any, Any, Any, Any]) -> Downstream:
    """Return the `Downstream` of a request or a WebSocket.

    Raises:
        AuthenticationRequiredError: the caller is anonymous.
        ConfigurationError: the app has no `OnBehalfOfPlugin`.
    """
    return obo_asgi.downstream_from(connection.scope)


def _downstream(scope: Scope) -> Downstream:
    return obo_asgi.downstream_from(scope)


def _user(scope: Scope) -> User:
    return obo_asgi.downstream_from(scope).user


# By their ids, since the functions of others need not be hashable.
_KINDS: Final[Mapping[int, type]] = {id(_downstream): Downstream, id(_user): User}


def _taken(signature: Any, dependencies: Mapping[str, Provide]) -> Iterator[tuple[Any, type]]:
    """Give the parameters that our dependencies fill, of a function and of what is put into it."""
    for name in signature.parameters.keys() & dependencies.keys():
        if kind := _KINDS.get(id(dependencies[name].dependency)):
            yield signature.parameters[name], kind
        else:
            yield from _taken(dependencies[name].parsed_fn_signature, dependencies)


async def _note_reply(message: Message, scope: Scope) -> None:
    if scope["type"] == ScopeType.WEBSOCKET:
        scope["state"][_REPLIED] = True


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    raise NotFoundException
