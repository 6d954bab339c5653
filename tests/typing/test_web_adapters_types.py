"""The types of the adapters for Starlette and FastAPI, for mypy. Nothing here is called."""

from collections.abc import Coroutine
from typing import Annotated, Any, assert_type

from fastapi import Depends, FastAPI
from fastapi.params import Security
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

import obo_asgi_fastapi as for_fastapi
import obo_asgi_starlette as for_starlette
from obo_asgi import Downstream, OnBehalfOf, User
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
    assert_type(for_fastapi.requires("read"), Security)
    dependencies: list[Depends] = [for_fastapi.requires("read")]  # type: ignore[valid-type]
    annotated = Annotated[User, for_fastapi.requires("read")]
    print(dependencies, annotated)
