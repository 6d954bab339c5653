"""One web API, written once for each framework, in the words that the framework's users write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import BackgroundTasks, FastAPI
from fastapi import Response as FastAPIResponse
from fastapi.responses import StreamingResponse as FastAPIStream
from litestar import Litestar, asgi, get, post, route, websocket
from litestar import Request as LitestarRequest
from litestar import Response as LitestarResponse
from litestar import WebSocket as LitestarWebSocket
from litestar.background_tasks import BackgroundTask as LitestarTask
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream
from quart import Quart
from quart import Response as QuartResponse
from quart import request as quart_request
from quart import websocket as quart_websocket
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from werkzeug.exceptions import HTTPException

import obo_asgi_fastapi
import obo_asgi_litestar
import obo_asgi_starlette
from obo_asgi import (
    AccessRule,
    Downstream,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    User,
    downstream_from,
    error_response,
)
from obo_asgi._types import ASGIApp, Receive, Scope, Send
from obo_asgi_fastapi import CurrentDownstream, CurrentUser, protect
from obo_asgi_litestar import PUBLIC, OnBehalfOfPlugin

__all__ = ["APPS", "Memory"]

READ, ADMIN, READ_ALL = "read", "Admin", "Read.All"
PUBLIC_PATHS = ["/health", "/public", "/live-public"]


@dataclass
class Memory:
    """What handlers keep longer than they should, and what became of their later work."""

    downstreams: list[Downstream] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


# --- What the handlers do, whatever the framework -------------------------------------------------


async def call_name(downstream: Downstream) -> str:
    """Call the partner, and say whom it took the caller for."""
    reply: dict[str, str] = await downstream["partner"].get("me", into=dict[str, str])
    return reply["name"]


async def call_later(downstream: Downstream, memory: Memory) -> None:
    """Go on after the response: a call, and what came of it."""
    memory.downstreams.append(downstream)
    memory.said.append(await call_name(downstream))


async def tail(downstream: Downstream, memory: Memory) -> AsyncIterator[bytes]:
    """Stream a body, and go on after its last byte."""
    yield b"all of it"
    await call_later(downstream, memory)


def typed(path: str, api: str = "partner") -> Callable[[Downstream], Awaitable[object]]:
    return lambda downstream: downstream[api].get(path, into=dict)


def native(path: str, api: str = "partner") -> Callable[[Downstream], Awaitable[object]]:
    async def call(downstream: Downstream) -> object:
        return (await downstream[api].get(path)).raise_for_status()

    return call


async def fail(downstream: Downstream) -> object:
    raise LookupError("a detail of the handler")


async def fail_both(*calls: Callable[[], Awaitable[object]]) -> object:
    """Run all calls, and raise all of their errors as one."""
    results = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    raise ExceptionGroup("all of them", [each for each in results if isinstance(each, Exception)])


async def consent_twice(downstream: Downstream) -> object:
    return await fail_both(*(downstream[api].acquire_token for api in ("other", "partner")))


async def consent_and_fail(downstream: Downstream) -> object:
    return await fail_both(downstream["partner"].acquire_token, lambda: fail(downstream))


async def session(downstream: Downstream) -> object:
    assert await downstream.start_session()
    return None


OPERATIONS: dict[str, Callable[[Downstream], Awaitable[object]]] = {
    "call": call_name,
    "session": session,
    "fail": fail,
    "consent-twice": consent_twice,
    "consent-and-fail": consent_and_fail,
    "typed-slow": typed("slow", "slow"),
    "native-slow": native("slow", "slow"),
    "typed-challenge": typed("challenge"),
    **{f"typed-{status}": typed(f"status/{status}") for status in (400, 404, 429, 500)},
    **{f"native-{status}": native(f"status/{status}") for status in (404, 429, 500)},
}


async def operate(name: str, downstream: Downstream) -> str:
    return f"{name}: {await OPERATIONS[name](downstream)}"


async def sub_app(scope: Scope, receive: Receive, send: Send) -> None:
    """An app of its own, mounted in another; it leaves its errors to whoever is around it."""
    name = await call_name(downstream_from(scope))
    await send_text(send, f"mounted: {name}")


# --- Plain ASGI -----------------------------------------------------------------------------------


async def send_text(send: Send, text: str = "", *, more: bool = False) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def run_lifespan(receive: Receive, send: Send) -> None:
    for _ in range(2):
        await send({"type": f"{(await receive())['type']}.complete"})


def plain(obo: OnBehalfOf, memory: Memory, **options: Any) -> ASGIApp:
    """The reference: no framework, the core's middleware."""

    async def read(receive: Receive) -> list[bytes]:
        chunks, more = list[bytes](), True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        return chunks

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        chunks = await read(receive)
        await send_text(send, more=True)
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send_text(send, more=True)
        async for chunk in tail(downstream_from(scope), memory):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def socket(path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if path in RULES:
            RULES[path].check(scope)
        if path == "/live-call":
            await call_name(downstream_from(scope))
        if path == "/live-public":
            downstream_from(scope)
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            name = await call_name(downstream_from(scope))
            await send({"type": "websocket.send", "text": f"{name}: {message['text']}"})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await run_lifespan(receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] == "websocket":
            return await socket(path, scope, receive, send)
        if path.startswith("/mounted/"):
            return await sub_app(scope, receive, send)
        if path in RULES:
            RULES[path].check(scope)
            return await send_text(send, "allowed")
        match path.split("/")[1:]:
            case ["health" | "public"]:
                await send_text(send, "public")
            case ["who"]:
                await send_text(send, scope["user"].display_name or "nobody")
            case ["me"]:
                text = f"{scope['method']} {await call_name(downstream_from(scope))}"
                await send_text(send, "" if scope["method"] == "HEAD" else text)
            case ["echo"]:
                await echo(scope, receive, send)
            case ["stream"]:
                await stream(scope, receive, send)
            case ["background"]:
                await send_text(send, "all of it")
                await call_later(downstream_from(scope), memory)
            case ["op", name]:
                await send_text(send, await operate(name, downstream_from(scope)))
            case _:
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body"})
        return None

    return OnBehalfOfMiddleware(app, obo, public_paths=PUBLIC_PATHS, **options)


RULES = {
    "/scope": AccessRule(READ),
    "/live-scope": AccessRule(READ),
    "/role": AccessRule(roles=[ADMIN]),
    "/either": AccessRule(READ, roles=[READ_ALL]),
}


# --- Starlette ------------------------------------------------------------------------------------


def starlette(obo: OnBehalfOf, memory: Memory, **options: Any) -> ASGIApp:
    """Starlette, with the middleware inside, and decorators on endpoints."""
    downstream_of, requires = obo_asgi_starlette.downstream_from, obo_asgi_starlette.requires

    async def public(request: Request) -> PlainTextResponse:
        return PlainTextResponse("public")

    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.user.display_name or "nobody")

    async def me(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.method} {await call_name(downstream_of(request))}")

    async def allowed(request: Request) -> PlainTextResponse:
        return PlainTextResponse("allowed")

    async def echo(request: Request) -> StreamingResponse:
        return StreamingResponse(iter([chunk async for chunk in request.stream()]))

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(tail(downstream_of(request), memory))

    async def background(request: Request) -> PlainTextResponse:
        task = BackgroundTask(call_later, downstream_of(request), memory)
        return PlainTextResponse("all of it", background=task)

    async def op(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await operate(request.path_params["name"], downstream_of(request)))

    async def live(socket: WebSocket) -> None:
        downstream = downstream_of(socket)
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(f"{await call_name(downstream)}: {text}")

    async def live_call(socket: WebSocket) -> None:
        await call_name(downstream_of(socket))

    return Starlette(
        routes=[
            Route("/health", public),
            Route("/public", public),
            Route("/who", who),
            Route("/me", me, methods=["GET", "POST"]),
            Route("/scope", requires(READ)(allowed)),
            Route("/role", requires(roles=[ADMIN])(allowed)),
            Route("/either", requires(READ, roles=[READ_ALL])(allowed)),
            Route("/echo", echo, methods=["POST"]),
            Route("/stream", stream),
            Route("/background", background),
            Route("/op/{name}", op),
            WebSocketRoute("/live", live),
            WebSocketRoute("/live-public", live),
            WebSocketRoute("/live-scope", requires(READ)(live)),
            WebSocketRoute("/live-call", live_call),
            Mount("/mounted", sub_app),
        ],
        middleware=[
            Middleware(
                obo_asgi_starlette.OnBehalfOfMiddleware,
                obo=obo,
                public_paths=PUBLIC_PATHS,
                **options,
            )
        ],
    )


# --- FastAPI --------------------------------------------------------------------------------------


def fastapi(obo: OnBehalfOf, memory: Memory, **options: Any) -> ASGIApp:
    """FastAPI, protected as a whole, with dependencies."""
    app, requires = FastAPI(), obo_asgi_fastapi.requires
    protect(app, obo, public_paths=PUBLIC_PATHS, **options)

    @app.get("/health")
    @app.get("/public")
    async def public() -> FastAPIResponse:
        return FastAPIResponse("public")

    @app.get("/who")
    async def who(request: Request) -> FastAPIResponse:
        return FastAPIResponse(request.user.display_name or "nobody")

    @app.api_route("/me", methods=["GET", "POST", "HEAD"])
    async def me(
        request: Request, downstream: CurrentDownstream, user: CurrentUser
    ) -> FastAPIResponse:
        assert user.display_name
        return FastAPIResponse(f"{request.method} {await call_name(downstream)}")

    @app.get("/scope", dependencies=[requires(READ)])
    @app.get("/role", dependencies=[requires(roles=[ADMIN])])
    @app.get("/either", dependencies=[requires(READ, roles=[READ_ALL])])
    async def allowed() -> FastAPIResponse:
        return FastAPIResponse("allowed")

    @app.post("/echo")
    async def echo(request: Request) -> FastAPIStream:
        return FastAPIStream(iter([chunk async for chunk in request.stream()]))

    @app.get("/stream")
    async def stream(downstream: CurrentDownstream) -> FastAPIStream:
        return FastAPIStream(tail(downstream, memory))

    @app.get("/background")
    async def background(downstream: CurrentDownstream, tasks: BackgroundTasks) -> FastAPIResponse:
        tasks.add_task(call_later, downstream, memory)
        return FastAPIResponse("all of it", background=tasks)

    @app.get("/op/{name}")
    async def op(name: str, downstream: CurrentDownstream) -> FastAPIResponse:
        return FastAPIResponse(await operate(name, downstream))

    @app.websocket("/live")
    @app.websocket("/live-public")
    @app.websocket("/live-scope", dependencies=[requires(READ)])
    async def live(socket: WebSocket, downstream: CurrentDownstream) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(f"{await call_name(downstream)}: {text}")

    @app.websocket("/live-call")
    async def live_call(downstream: CurrentDownstream) -> None:
        await call_name(downstream)

    app.mount("/mounted", sub_app)
    return app


# --- Litestar -------------------------------------------------------------------------------------


def litestar(obo: OnBehalfOf, memory: Memory, **options: Any) -> ASGIApp:
    """Litestar, with the plugin, guards and dependencies."""
    requires = obo_asgi_litestar.requires

    @get("/health")
    async def health() -> str:
        return "public"

    @get("/public", opt=PUBLIC)
    async def public() -> str:
        return "public"

    @get("/who")
    async def who(request: LitestarRequest[Any, Any, Any]) -> str:
        return request.user.display_name or "nobody"

    @route("/me", http_method=["GET", "POST", "HEAD"], status_code=200)
    async def me(
        request: LitestarRequest[Any, Any, Any],
        downstream: NamedDependency[Downstream],
        user: NamedDependency[User],
    ) -> LitestarResponse[Any]:
        assert user.display_name
        text = f"{request.method} {await call_name(downstream)}"
        return LitestarResponse(None if request.method == "HEAD" else text, media_type="text/plain")

    @get("/scope", guards=[requires(READ)])
    async def scope() -> str:
        return "allowed"

    @get("/role", guards=[requires(roles=[ADMIN])])
    async def role() -> str:
        return "allowed"

    @get("/either", guards=[requires(READ, roles=[READ_ALL])])
    async def either() -> str:
        return "allowed"

    @post("/echo", status_code=200)
    async def echo(request: LitestarRequest[Any, Any, Any]) -> Stream:
        chunks = [chunk async for chunk in request.stream()]
        return Stream(iter(chunks), media_type="text/plain")

    @get("/stream")
    async def stream(downstream: NamedDependency[Downstream]) -> Stream:
        return Stream(tail(downstream, memory), media_type="text/plain")

    @get("/background")
    async def background(downstream: NamedDependency[Downstream]) -> LitestarResponse[str]:
        return LitestarResponse(
            "all of it", background=LitestarTask(call_later, downstream, memory)
        )

    @get("/op/{name:str}")
    async def op(name: FromPath[str], downstream: NamedDependency[Downstream]) -> str:
        return await operate(name, downstream)

    async def talk(socket: LitestarWebSocket[Any, Any, Any], downstream: Downstream) -> None:
        await socket.accept()
        async for text in socket.iter_data("text"):
            await socket.send_text(f"{await call_name(downstream)}: {text}")

    @websocket("/live")
    async def live(
        socket: LitestarWebSocket[Any, Any, Any], downstream: NamedDependency[Downstream]
    ) -> None:
        await talk(socket, downstream)

    @websocket("/live-public", opt=PUBLIC)
    async def live_public(
        socket: LitestarWebSocket[Any, Any, Any], downstream: NamedDependency[Downstream]
    ) -> None:
        await talk(socket, downstream)

    @websocket("/live-scope", guards=[requires(READ)])
    async def live_scope(
        socket: LitestarWebSocket[Any, Any, Any], downstream: NamedDependency[Downstream]
    ) -> None:
        await talk(socket, downstream)

    @websocket("/live-call")
    async def live_call(
        socket: LitestarWebSocket[Any, Any, Any], downstream: NamedDependency[Downstream]
    ) -> None:
        await call_name(downstream)

    handlers: Any = [health, public, who, me, scope, role, either, echo, stream, background, op]
    sockets: Any = [live, live_public, live_scope, live_call]
    app: Any = Litestar(
        [*handlers, *sockets, asgi("/mounted", is_mount=True, copy_scope=True)(sub_app)],
        plugins=[OnBehalfOfPlugin(obo, public_paths=["/health"], **options)],
    )
    return cast("ASGIApp", app)


# --- Quart ----------------------------------------------------------------------------------------


def quart(obo: OnBehalfOf, memory: Memory, **options: Any) -> ASGIApp:
    """Quart, without an adapter: the core's middleware around it, and one error handler."""
    app = Quart("contract")

    def scope_of(connection: Any) -> Scope:
        scope: Scope = connection.scope
        return scope

    def answer(text: Any) -> QuartResponse:
        return QuartResponse(text, content_type="text/plain; charset=utf-8")

    @app.errorhandler(Exception)
    async def refuse(error: Exception) -> Any:
        found = error_response(error)
        if found is not None:
            return QuartResponse(found.body, found.status_code, dict(found.headers))
        if isinstance(error, HTTPException):
            return error
        raise error

    @app.get("/health")
    @app.get("/public")
    async def public() -> QuartResponse:
        return answer("public")

    @app.get("/who")
    async def who() -> QuartResponse:
        return answer(scope_of(quart_request)["user"].display_name or "nobody")

    @app.route("/me", methods=["GET", "POST", "HEAD"])
    async def me() -> QuartResponse:
        name = await call_name(downstream_from(scope_of(quart_request)))
        return answer(f"{quart_request.method} {name}")

    @app.get("/scope")
    @app.get("/role")
    @app.get("/either")
    async def allowed() -> QuartResponse:
        RULES[quart_request.path].check(scope_of(quart_request))
        return answer("allowed")

    @app.post("/echo")
    async def echo() -> QuartResponse:
        chunks = [chunk async for chunk in quart_request.body]

        async def again() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return answer(again())

    @app.get("/stream")
    async def stream() -> QuartResponse:
        return answer(tail(downstream_from(scope_of(quart_request)), memory))

    @app.get("/op/<name>")
    async def op(name: str) -> QuartResponse:
        return answer(await operate(name, downstream_from(scope_of(quart_request))))

    @app.websocket("/live")
    @app.websocket("/live-public")
    @app.websocket("/live-scope")
    async def live() -> None:
        downstream = downstream_from(scope_of(quart_websocket))
        if quart_websocket.path in RULES:
            RULES[quart_websocket.path].check(scope_of(quart_websocket))
        await quart_websocket.accept()
        while True:
            text: Any = await quart_websocket.receive()
            await quart_websocket.send(f"{await call_name(downstream)}: {text}")

    @app.websocket("/live-call")
    async def live_call() -> None:
        await call_name(downstream_from(scope_of(quart_websocket)))

    served: Any = app
    served.asgi_app = OnBehalfOfMiddleware(
        served.asgi_app, obo, public_paths=PUBLIC_PATHS, **options
    )
    return cast("ASGIApp", served)


APPS: dict[str, Callable[..., ASGIApp]] = {
    "plain": plain,
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "quart": quart,
}
