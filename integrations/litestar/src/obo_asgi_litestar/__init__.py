"""obo-asgi for Litestar: a plugin, guards, and the downstream APIs as a dependency."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Final

import httpx
from litestar import Request, Response, Router, WebSocket, asgi
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.exceptions import NotFoundException, WebSocketException
from litestar.exceptions.responses import create_debug_response, create_exception_response
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, OAuthFlow, OAuthFlows, SecurityScheme
from litestar.plugins import InitPlugin, ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute
from litestar.types import Guard, Scope

import obo_asgi
from obo_asgi import (
    AccessRule,
    Downstream,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    OpenAPISecurity,
    Requirement,
    User,
    error_response,
)

__all__ = ["OnBehalfOfPlugin", "PUBLIC", "downstream_from", "requires"]

PUBLIC: Final = {"obo_public": True}
"""The ``opt`` of a handler, controller or router that needs no token."""


class OnBehalfOfPlugin(InitPlugin, ReceiveRoutePlugin):
    """Protects a Litestar app, and gives its handlers the dependencies ``downstream`` and ``user``.

    `OnBehalfOfMiddleware` becomes the app's outermost middleware, inside its ``cors_config``. What
    handlers raise is answered by `error_response`, unless you have an exception handler for the
    very type. `obo` opens at startup, and closes after all of your shutdown hooks.

    Args:
        obo: who verifies and acquires.
        public_schema: whether everybody may read the OpenAPI document and its pages. An
            ``openapi_router`` of your own says ``opt=PUBLIC`` itself.
        options: those of `OnBehalfOfMiddleware`. Its ``public_paths`` are paths as Litestar's
            router has them, and never of a mounted app.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(self, obo: OnBehalfOf, *, public_schema: bool = True, **options: Any) -> None:
        OnBehalfOfMiddleware(_not_found, obo, **options)  # says at once what is wrong
        self._obo, self._public_schema = obo, public_schema
        self._public_paths = frozenset(options.pop("public_paths", ()))
        self._also_public = options.pop("is_public", None)
        self._resource = resource = options.get("resource")
        if resource is not None and resource.scopes is None and obo.required_scopes is not None:
            self._resource = replace(resource, scopes=resource.qualify(obo.required_scopes.names))
        self._options = {**options, "is_public": self._is_public, "resource": self._resource}
        self._error_response = options.get("on_error", error_response)
        if self._error_response is error_response:
            self._error_response = partial(error_response, resource=self._resource)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Put everything in its place."""
        middleware: Any = OnBehalfOfMiddleware
        app_config.middleware.insert(
            0, DefineMiddleware(middleware, obo=self._obo, **self._options)
        )
        app_config.on_startup.insert(0, self._obo.open)
        app_config.on_shutdown.append(self._obo.aclose)
        for name, dependency in (("downstream", _downstream), ("user", _user)):
            app_config.dependencies.setdefault(name, Provide(dependency, sync_to_thread=False))
        if self._error_response is not None:
            clients = [httpx, *filter(None, [sys.modules.get("httpx2")])]
            for kind in (obo_asgi.OboError, ExceptionGroup, *(each.HTTPError for each in clients)):
                app_config.exception_handlers.setdefault(kind, self._answer)
        if self._resource is not None:  # a middleware of Litestar sees only what has a route
            describe = asgi(self._resource.metadata_path, copy_scope=True)(_not_found)
            app_config.route_handlers.append(describe)
        if app_config.openapi_config is not None:
            app_config.openapi_config = self._described(app_config.openapi_config)
        return app_config

    def receive_route(self, route: BaseRoute) -> None:
        """Tell the OpenAPI document of a handler that needs no token."""
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if isinstance(handler, HTTPRouteHandler) and handler.opt.get("obo_public") is True:
                handler.security = handler.security or [{}]

    def _is_public(self, scope: Any) -> bool:
        handler = scope["route_handler"]
        # In a mounted app, the path is what remains below the mount.
        is_listed = scope["path"] in self._public_paths and not getattr(handler, "is_mount", False)
        if is_listed or handler.opt.get("obo_public") is True:
            return True
        return self._also_public is not None and self._also_public(scope)

    def _answer(self, request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        answer = self._error_response(error)
        if answer is not None:
            headers = {n: v for n, v in answer.headers.items() if not n.startswith("Content-")}
            return Response(
                answer.body,
                status_code=answer.status_code,
                headers=headers,
                media_type=answer.headers["Content-Type"],
            )
        # As if we were not there: the user's handler for a base class, or Litestar's own.
        found: dict[Any, Any] = dict(request.route_handler.resolve_exception_handlers())
        others = (found[kind] for kind in (*type(error).__mro__, 500) if kind in found)
        default = create_debug_response if request.app.debug else create_exception_response
        handler = next((other for other in others if other != self._answer), default)
        response: Response[Any] = handler(request, error)
        return response

    def _described(self, config: OpenAPIConfig) -> OpenAPIConfig:
        """Return the user's OpenAPI configuration with how to get a token."""
        obo, name = self._obo, OpenAPISecurity.SCHEME
        flow = OpenAPISecurity(obo.registration, obo.required_scopes, self._resource).flow()
        code = OAuthFlow(flow["authorizationUrl"], flow["tokenUrl"], scopes=flow["scopes"])
        scheme = SecurityScheme("oauth2", flows=OAuthFlows(authorization_code=code))
        ours, theirs = Components(security_schemes={name: scheme}), config.components
        config = copy(config)
        config.components = [*(theirs if isinstance(theirs, list) else [theirs]), ours]
        config.security = [*(config.security or []), {name: list(flow["scopes"])}]
        if self._public_schema and not (config.openapi_router or config.openapi_controller):
            # The router that Litestar would make.
            options: Any = {"include_in_schema": False, "dto": None, "return_dto": None}
            path = config.path or "/schema"
            config.openapi_router = Router(path, route_handlers=[], opt=PUBLIC, **options)
        return config


def requires(*scopes: str | Requirement, roles: Sequence[str] | Requirement | None = None) -> Guard:
    """Return a guard that lets in whoever an `AccessRule` with these arguments lets in.

    A WebSocket is refused before it is accepted (code 1008).

    Raises:
        ConfigurationError: nothing is required, or a name is none.
    """
    rule = AccessRule(*scopes, roles=roles)

    def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: object) -> None:
        scope: Any = connection.scope
        try:
            rule.check(scope)
        except (obo_asgi.AuthenticationRequiredError, obo_asgi.InsufficientScopeError) as error:
            if isinstance(connection, WebSocket):
                raise WebSocketException(detail=str(error), code=1008) from error
            raise

    return guard


def downstream_from(connection: ASGIConnection[Any, Any, Any, Any]) -> Downstream:
    """Return the `Downstream` of a request or a WebSocket.

    Raises:
        AuthenticationRequiredError: the caller is anonymous.
        ConfigurationError: the app has no `OnBehalfOfPlugin`.
    """
    return _downstream(connection.scope)


def _downstream(scope: Scope) -> Downstream:
    plain: Any = scope
    return obo_asgi.downstream_from(plain)


def _user(scope: Scope) -> User:
    return _downstream(scope).user


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    raise NotFoundException
