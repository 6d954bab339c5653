"""The Starlette adapter: endpoints find their Downstream, and callers what they lack."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import requires as starlettes_requires
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

import obo_asgi_starlette
from obo_asgi import ConfigurationError, OnBehalfOf
from obo_asgi_starlette import OnBehalfOfMiddleware, any_of, downstream_from, requires
from tests.integrations.web_world import NO_TOKEN, WebWorld, client_of, lacks, refusal

pytestmark = pytest.mark.anyio


@pytest.fixture
def world() -> WebWorld:
    return WebWorld()


def app_of(world: WebWorld, *routes: BaseRoute, obo: OnBehalfOf | None = None) -> Starlette:
    app = Starlette(routes=routes)
    public = ["/public", "/public-ws"]
    app.add_middleware(OnBehalfOfMiddleware, obo=obo or world.obo(), public_paths=public)
    return app


async def partners_answer(request: Request) -> Response:
    return JSONResponse(await downstream_from(request)["partner"].get("me", into=dict[str, str]))


@requires("write")
async def a_function(request: Request) -> Response:
    return Response("in")


@requires("write")
def a_sync_function(request: Request) -> Response:
    on_loop = threading.current_thread() is threading.main_thread()
    return Response("blocks the loop" if on_loop else "in")


class Callable_:
    async def __call__(self, request: Request) -> Response:
        return Response("in")


async def with_more(greeting: str, request: Request) -> Response:
    return Response(greeting)


class Endpoint(HTTPEndpoint):
    @requires("write")
    async def get(self, request: Request) -> Response:
        return Response("in")

    @requires("write")
    def post(self, request: Request) -> Response:
        return Response("in")


ENDPOINTS = [
    Route("/function", a_function),
    Route("/sync", a_sync_function),
    Route("/object", requires("write")(Callable_())),
    Route("/partial", requires("write")(partial(with_more, "in"))),
    Route("/class", Endpoint),
]


def test_all_is_sorted() -> None:
    """``__all__`` is in plain sorted order, and every name is there."""
    names = obo_asgi_starlette.__all__
    assert sorted(names) == names
    assert [] == [name for name in names if not hasattr(obo_asgi_starlette, name)]


async def test_an_endpoint_calls_as_its_caller(world: WebWorld) -> None:
    """`downstream_from(request)` gives the caller's APIs, and the ASGI scope does as well."""

    async def by_scope(request: Request) -> Response:
        assert downstream_from(request) is downstream_from(request.scope)
        return await partners_answer(request)

    async with client_of(app_of(world, Route("/", by_scope))) as client:
        response = await client.get("/", headers=world.bearer(user="bob"))
    assert {"name": "Bob"} == response.json()


@pytest.mark.parametrize("path", ["/function", "/sync", "/object", "/partial", "/class"])
async def test_requires_lets_in_who_holds_the_scope(world: WebWorld, path: str) -> None:
    """Who lacks the scope is told in a challenge; who has it gets in; sync stays in a thread."""
    async with client_of(app_of(world, *ENDPOINTS)) as client:
        assert NO_TOKEN == refusal(await client.get(path))
        assert lacks("write") == refusal(await client.get(path, headers=world.bearer("read")))
        response = await client.get(path, headers=world.bearer("read", "write"))
    assert (200, "in") == (response.status_code, response.text)


async def test_each_method_of_a_class_has_its_own(world: WebWorld) -> None:
    """A sync method of an endpoint class is protected too."""
    async with client_of(app_of(world, *ENDPOINTS)) as client:
        assert lacks("write") == refusal(await client.post("/class", headers=world.bearer("read")))
        assert 200 == (await client.post("/class", headers=world.bearer("write"))).status_code


async def test_an_anonymous_caller_is_asked_for_a_token(world: WebWorld) -> None:
    """On a public path the endpoint's own demand is a 401, and so is its need of a Downstream."""
    for endpoint in (a_function, a_sync_function, partners_answer):
        async with client_of(app_of(world, Route("/public", endpoint))) as client:
            assert NO_TOKEN == refusal(await client.get("/public"))


async def test_either_scope_or_role(world: WebWorld) -> None:
    """One of several scopes, or a role in their place, of a user or an application."""

    @requires(any_of("read", "write"), roles=["Admin"])
    async def endpoint(request: Request) -> Response:
        return Response("app" if request.user.is_app else "user")

    async def status(headers: dict[str, str]) -> tuple[int, str]:
        response = await client.get("/", headers=headers)
        return response.status_code, response.text if response.is_success else ""

    obo = world.obo(app_roles=any_of("Admin", "Other"))
    async with client_of(app_of(world, Route("/", endpoint), obo=obo)) as client:
        assert (200, "user") == await status(world.bearer("write"))
        assert (200, "user") == await status(world.bearer("other", roles=["Admin"]))
        assert (403, "") == await status(world.bearer("other"))
        assert (200, "app") == await status(world.entra.bearer(None, None, roles=["Admin"]))
        assert (403, "") == await status(world.entra.bearer(None, None, roles=["Other"]))


async def test_starlettes_own_words_work(world: WebWorld) -> None:
    """`request.user`, `request.auth.scopes` and Starlette's own `@requires` know the caller."""

    @starlettes_requires("read")
    async def endpoint(request: Request) -> Response:
        return JSONResponse([request.user.display_name, request.auth.scopes])

    @starlettes_requires("read", status_code=404)
    async def public(request: Request) -> Response:
        raise AssertionError

    app = app_of(world, Route("/", endpoint), Route("/public", public))
    async with client_of(app) as client:
        response = await client.get("/", headers=world.bearer("read", "write"))
        assert ["Alice", ["read", "write"]] == response.json()
        assert 403 == (await client.get("/", headers=world.bearer("write"))).status_code
        assert 404 == (await client.get("/public")).status_code


async def test_errors_in_groups_are_answered(world: WebWorld) -> None:
    """A missing consent that comes out of a task group is a challenge, not a 500."""

    async def endpoint(request: Request) -> Response:
        async with asyncio.TaskGroup() as group:
            group.create_task(partners_answer(request))
            group.create_task(partners_answer(request))
        raise AssertionError

    world.entra.withdraw_consent()
    async with client_of(app_of(world, Route("/", endpoint))) as client:
        status, challenge = refusal(await client.get("/", headers=world.bearer()))
    assert 401 == status
    assert 'error="consent_required", ' in challenge


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_every_method_is_protected(world: WebWorld, method: str) -> None:
    """HEAD and OPTIONS need a token as GET does."""
    route = Route("/", a_function, methods=["GET", "OPTIONS"])
    async with client_of(app_of(world, route)) as client:
        assert NO_TOKEN == refusal(await client.request(method, "/"))
        assert 200 == (await client.request(method, "/", headers=world.bearer("write"))).status_code


async def test_a_cors_middleware_that_is_added_last_is_outside(world: WebWorld) -> None:
    """A script of another origin can read the refusal, and preflights need no token."""
    app = app_of(world, *ENDPOINTS)
    expose = ["WWW-Authenticate", "Retry-After"]
    app.add_middleware(CORSMiddleware, allow_origins=["https://spa.example"], expose_headers=expose)
    origin = {"Origin": "https://spa.example"}
    async with client_of(app) as client:
        response = await client.get("/function", headers=origin)
        preflight = {**origin, "Access-Control-Request-Method": "GET"}
        assert 200 == (await client.options("/function", headers=preflight)).status_code
    assert NO_TOKEN == refusal(response)
    assert "https://spa.example" == response.headers["access-control-allow-origin"]
    assert ", ".join(expose) == response.headers["access-control-expose-headers"]


async def test_below_a_mount_and_a_root_path(world: WebWorld) -> None:
    """Routes below a mount are answered as others; public paths are those below the root path."""
    routes = [Mount("/api", routes=ENDPOINTS), Route("/public", lambda request: Response("hello"))]
    async with client_of(app_of(world, *routes), root_path="/v1") as client:
        assert lacks("write") == refusal(
            await client.get("/v1/api/function", headers=world.bearer())
        )
        assert "hello" == (await client.get("/v1/public")).text
        assert NO_TOKEN == refusal(await client.get("/v1/v1/public"))


async def test_a_mounted_app_with_its_own_middleware(world: WebWorld) -> None:
    """An app in an app answers its own errors, if it has the middleware too; once is verified."""
    obo = world.obo()
    inner = app_of(world, *ENDPOINTS, Route("/me", partners_answer), obo=obo)
    outer = app_of(world, Mount("/api", app=inner), obo=obo)
    async with client_of(outer) as client:
        assert lacks("write") == refusal(await client.get("/api/function", headers=world.bearer()))
        response = await client.get("/api/me", headers=world.bearer())
    assert {"name": "Alice"} == response.json()


async def test_background_tasks_still_call(world: WebWorld) -> None:
    """After the last byte a background task may call on; it is part of the request."""
    names: list[str] = []

    async def task(request: Request) -> None:
        answer = await downstream_from(request)["partner"].get("me", into=dict[str, str])
        names.append(answer["name"])

    async def endpoint(request: Request) -> Response:
        return Response("", background=BackgroundTask(task, request))

    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            await task(request)
            yield "done"

        return StreamingResponse(parts())

    async with client_of(app_of(world, Route("/", endpoint), Route("/stream", stream))) as client:
        await client.get("/", headers=world.bearer())
        assert "done" == (await client.get("/stream", headers=world.bearer())).text
    assert ["Alice", "Alice"] == names


# WebSockets


@requires("write")
async def a_websocket(websocket: WebSocket) -> None:
    await websocket.accept()
    answer = await downstream_from(websocket)["partner"].get("me", into=dict[str, str])
    await websocket.send_text(answer["name"])
    await websocket.close()


class SocketEndpoint(WebSocketEndpoint):
    encoding = "text"
    closed: list[int]

    @requires("write")
    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.user.display_name)

    @requires("admin")
    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_text(data)


SOCKETS = [
    WebSocketRoute("/ws", a_websocket),
    WebSocketRoute("/class", SocketEndpoint),
    WebSocketRoute("/public-ws", a_websocket),
]


@pytest.mark.parametrize("path", ["/ws", "/class"])
def test_a_websocket_is_refused_before_it_is_accepted(world: WebWorld, path: str) -> None:
    """Where the server can deny, the client gets the challenge as an HTTP answer."""
    with TestClient(app_of(world, *SOCKETS)) as client:
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect(path, headers=world.bearer("read")),
        ):
            pytest.fail("it was accepted")
        assert lacks("write") == (
            denied.value.status_code,
            denied.value.headers["www-authenticate"],
        )
        with client.websocket_connect(path, headers=world.bearer("write")) as websocket:
            assert "Alice" == websocket.receive_text()


def test_an_anonymous_websocket_is_asked_for_a_token(world: WebWorld) -> None:
    """On a public path the endpoint's own demand is a 401."""
    with (
        TestClient(app_of(world, *SOCKETS)) as client,
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect("/public-ws"),
    ):
        pytest.fail("it was accepted")
    assert 401 == denied.value.status_code


@pytest.mark.parametrize("path", ["/ws", "/class"])
def test_a_websocket_is_closed_where_it_cannot_be_denied(world: WebWorld, path: str) -> None:
    """Without the extension a refusal is a close with code 1008."""
    app = app_of(world, *SOCKETS)

    async def plain_server(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": None}, receive, send)

    with (
        TestClient(plain_server) as client,
        pytest.raises(WebSocketDisconnect) as closed,
        client.websocket_connect(path, headers=world.bearer("read")),
    ):
        pytest.fail("it was accepted")
    assert 1008 == closed.value.code


def test_an_open_websocket_is_closed(world: WebWorld) -> None:
    """What is refused after the WebSocket was accepted closes it."""
    with (
        TestClient(app_of(world, *SOCKETS)) as client,
        client.websocket_connect("/class", headers=world.bearer("write")) as websocket,
    ):
        assert "Alice" == websocket.receive_text()
        websocket.send_text("hello")
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive_text()
    assert 1008 == closed.value.code


# Mistakes, and types


async def test_a_demand_without_a_request_is_a_mistake() -> None:
    """`requires` says what it needs: a name, an argument, and the middleware."""
    with pytest.raises(ConfigurationError, match="name what is required"):
        requires()

    @requires("read")
    async def nothing() -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="takes a request"):
        await nothing()
    with pytest.raises(ConfigurationError, match="no OnBehalfOfMiddleware"):
        await a_function(Request({"type": "http"}))
    with pytest.raises(ConfigurationError, match="no OnBehalfOfMiddleware"):
        downstream_from(Request({"type": "http"}))


def test_the_endpoint_stays_what_it_is() -> None:
    """Name, signature, and whether it is sync are kept."""
    assert "a_function" == a_function.__name__
    assert ["request"] == list(inspect.signature(a_function).parameters)
    assert (True, False) == tuple(
        inspect.iscoroutinefunction(endpoint) for endpoint in (a_function, a_sync_function)
    )
