"""The types of the adapters, for mypy. Nothing here is called."""

from collections.abc import Coroutine
from typing import Annotated, Any, assert_type

from fastapi import FastAPI, WebSocket
from fastapi.params import Depends
from litestar import Litestar, get
from litestar import Request as LitestarRequest
from litestar import WebSocket as LitestarWebSocket
from litestar.di import NamedDependency
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

import obo_asgi
import obo_asgi_fastapi as for_fastapi
import obo_asgi_litestar as for_litestar
import obo_asgi_starlette as for_starlette
from obo_asgi import AccessRule, Downstream, OnBehalfOf, User
from obo_asgi_azure import UserCredential, credential_from
from obo_asgi_fastapi import CurrentDownstream, CurrentUser


@for_starlette.requires("read", roles=["Admin"])
async def endpoint(request: Request, page: int = 1) -> Response:
    return Response(str(page))


@for_starlette.requires(for_starlette.any_of("read", "write"))
def sync_endpoint(request: Request) -> Response:
    return Response()


class Methods:
    @for_starlette.requires("read")
    async def get(self, request: Request) -> Response:
        return Response()


async def a_decorated_endpoint_keeps_its_type(request: Request) -> None:
    """Parameters and result are those of the function, sync or async, or of the method."""
    assert_type(endpoint(request, page=2), Coroutine[Any, Any, Response])  # type: ignore[unused-coroutine]
    assert_type(sync_endpoint(request), Response)
    assert_type(await Methods().get(request), Response)
    await endpoint(request, pgae=2)  # type: ignore[call-arg]
    await endpoint()  # type: ignore[call-arg]


def downstream_from_takes_what_a_handler_has(
    request: Request, websocket: WebSocket, connection: HTTPConnection, scope: dict[str, Any]
) -> None:
    """A request, a WebSocket, what both are, or an ASGI scope."""
    assert_type(for_starlette.downstream_from(request), Downstream)
    assert_type(for_starlette.downstream_from(websocket), Downstream)
    assert_type(for_starlette.downstream_from(connection), Downstream)
    assert_type(for_starlette.downstream_from(scope), Downstream)
    for_starlette.downstream_from("request")  # type: ignore[arg-type]
    assert_type(for_fastapi.downstream_from(request), Downstream)
    assert_type(for_fastapi.downstream_from(websocket), Downstream)
    for_fastapi.downstream_from(scope)  # type: ignore[arg-type]


def a_scope_is_what_a_framework_calls_so(
    request: Request,
    litestar_request: LitestarRequest[Any, Any, Any],
    litestar_socket: LitestarWebSocket[Any, Any, Any],
    rule: AccessRule,
) -> None:
    """The core takes Starlette's mapping and Litestar's typed dictionaries."""
    assert_type(obo_asgi.downstream_from(request.scope), Downstream)
    assert_type(obo_asgi.downstream_from(litestar_request.scope), Downstream)
    assert_type(obo_asgi.downstream_from(litestar_socket.scope), Downstream)
    rule.check(request.scope)
    rule.check(litestar_request.scope)
    rule.check(litestar_socket.scope)
    rule.check(None)  # type: ignore[arg-type]


def credential_from_takes_what_a_handler_has(
    request: Request,
    websocket: WebSocket,
    litestar_request: LitestarRequest[Any, Any, Any],
    scope: dict[str, Any],
    downstream: Downstream,
) -> None:
    """A request or a WebSocket of any framework, its ASGI scope, or a `Downstream`."""
    assert_type(credential_from(request), UserCredential)
    assert_type(credential_from(websocket), UserCredential)
    assert_type(credential_from(litestar_request, "graph"), UserCredential)
    assert_type(credential_from(request.scope), UserCredential)
    assert_type(credential_from(litestar_request.scope), UserCredential)
    assert_type(credential_from(scope), UserCredential)
    assert_type(credential_from(downstream), UserCredential)
    credential_from("request")  # type: ignore[arg-type]


def the_plugin_fits(obo: OnBehalfOf) -> None:
    """A guard, the dependencies and the plugin are what Litestar takes."""
    rule = for_litestar.requires(for_litestar.any_of("read", "write"), roles=["Admin"])

    @get("/me", guards=[rule], opt=for_litestar.PUBLIC)
    async def me(user: NamedDependency[User], request: LitestarRequest[User, Any, Any]) -> str:
        assert_type(for_litestar.downstream_from(request), Downstream)
        assert_type(user, User)
        return request.user.oid

    Litestar([me], plugins=[for_litestar.OnBehalfOfPlugin(obo)])


async def a_dependency_is_what_it_says(downstream: CurrentDownstream, user: CurrentUser) -> None:
    """The names for parameters are a `Downstream` and a `User`."""
    assert_type(downstream, Downstream)
    assert_type(user, User)


def the_middleware_fits(app: Starlette, fastapi: FastAPI, obo: OnBehalfOf) -> None:
    """`add_middleware` and `protect` know the options that there are."""
    app.add_middleware(for_starlette.OnBehalfOfMiddleware, obo=obo, public_paths=["/"])
    app.add_middleware(for_starlette.OnBehalfOfMiddleware, obo=obo, public_path=["/"])  # type: ignore[call-arg]
    for_fastapi.protect(fastapi, obo, public_paths=["/"], acquire_first=["graph"])
    for_fastapi.protect(fastapi, obo, swagger_client_id=7)  # type: ignore[arg-type]
    assert_type(for_fastapi.requires("read"), Depends)
    annotated = Annotated[User, for_fastapi.requires("read")]
    print(annotated)
