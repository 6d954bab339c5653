"""A CORS middleware inside ours is warned of at the start; more requests can be made public."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from obo_asgi import SCOPE_KEY, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

ENTRA = FakeEntra()
WARNING = (
    "CORSMiddleware is inside OnBehalfOfMiddleware, so that a script of another origin cannot read "
    "a refusal: put it outside, with WWW-Authenticate and Retry-After in its expose_headers"
)


def on_behalf_of() -> OnBehalfOf:
    return OnBehalfOf(ENTRA.registration(), http_client=ENTRA.client())


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """A plain ASGI app with a lifespan."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": f"{(await receive())['type']}.complete"})
        return
    text = f"{scope[SCOPE_KEY] is not None} {scope['user'].display_name}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


def cors(app: Any) -> Any:
    return CORSMiddleware(app, allow_origins=["https://spa.example"])


def ours(app: Any) -> Any:
    return OnBehalfOfMiddleware(app, on_behalf_of())


class Branded(CORSMiddleware):
    """Somebody's own CORS middleware."""


def added(kind: type[Starlette], *classes: Any) -> Any:
    """Add middlewares to an app, the innermost first."""
    app = kind()
    options: dict[Any, dict[str, Any]] = {OnBehalfOfMiddleware: {"obo": on_behalf_of()}}
    for cls in classes:
        app.add_middleware(cls, **options.get(cls, {}))
    return app


def listed(kind: type[Starlette], *classes: Any) -> Any:
    """Give an app its middlewares at once, the outermost first."""
    return kind(middleware=[Middleware(cls) for cls in classes])


INSIDE: list[Any] = [
    pytest.param(lambda: ours(cors(plain)), id="plain"),
    pytest.param(lambda: ours(GZipMiddleware(cors(plain))), id="plain, deeper"),
    pytest.param(lambda: ours(Branded(plain)), id="plain, a subclass"),
    pytest.param(lambda: ours(cors(Starlette())), id="around Starlette"),
    pytest.param(lambda: ours(listed(Starlette, CORSMiddleware)), id="Starlette in ours"),
    pytest.param(lambda: ours(listed(Starlette, Branded)), id="Starlette in ours, a subclass"),
    pytest.param(
        lambda: ours(listed(FastAPI, GZipMiddleware, CORSMiddleware)), id="FastAPI in ours"
    ),
    pytest.param(
        lambda: added(Starlette, CORSMiddleware, OnBehalfOfMiddleware), id="Starlette, added first"
    ),
    pytest.param(
        lambda: added(FastAPI, CORSMiddleware, GZipMiddleware, OnBehalfOfMiddleware),
        id="FastAPI, added first",
    ),
]
OUTSIDE: list[Any] = [
    pytest.param(lambda: ours(plain), id="none, plain"),
    pytest.param(lambda: ours(Starlette()), id="none, Starlette"),
    pytest.param(lambda: cors(ours(plain)), id="plain"),
    pytest.param(lambda: cors(ours(FastAPI())), id="around FastAPI"),
    pytest.param(
        lambda: added(Starlette, OnBehalfOfMiddleware, CORSMiddleware), id="Starlette, added last"
    ),
    pytest.param(
        lambda: added(FastAPI, OnBehalfOfMiddleware, GZipMiddleware, CORSMiddleware),
        id="FastAPI, added last",
    ),
]


async def start(app: Any) -> list[str]:
    """Run the lifespan of an app and return what it told the server."""
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "obo_asgi.middleware" and record.levelno == logging.WARNING
    ]


@pytest.mark.parametrize("build", INSIDE)
async def test_cors_inside_ours_is_warned_of(caplog: pytest.LogCaptureFixture, build: Any) -> None:
    """The start says once where a CORS middleware belongs, and goes on."""
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == await start(build())
    assert [WARNING] == warnings(caplog)


@pytest.mark.parametrize("build", OUTSIDE)
async def test_cors_outside_ours_is_right(caplog: pytest.LogCaptureFixture, build: Any) -> None:
    """Nothing is said where the CORS middleware is outside, or where there is none."""
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == await start(build())
    assert [] == warnings(caplog)


async def test_an_app_that_wraps_itself_ends_the_search(caplog: pytest.LogCaptureFixture) -> None:
    """Apps that name each other as their own inner app do not hang the start."""

    class Ring:
        app: Any

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await plain(scope, receive, send)

    ring = Ring()
    ring.app = ring
    await start(ours(ring))
    assert [] == warnings(caplog)


@pytest.mark.parametrize(("build", "readable"), [(OUTSIDE[2], True), (INSIDE[0], False)])
async def test_the_warning_is_true(build: Any, readable: bool) -> None:
    """A script of another origin can read a refusal only if CORS is outside."""
    (factory,) = build.values
    transport = httpx.ASGITransport(factory())
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        answer = await client.get("/", headers={"Origin": "https://spa.example"})
    assert (401, readable) == (
        answer.status_code,
        "Access-Control-Allow-Origin" in answer.headers,
    )


# --- More public requests -------------------------------------------------------------------------


def is_public(scope: Any) -> bool:
    """An example: what only the router knows."""
    return bool(scope["path"].startswith("/assets/"))


@pytest.mark.parametrize("token", ["good", "bad", None], ids=["good", "bad", "none"])
@pytest.mark.parametrize("path", ["/assets/logo.svg", "/health"])
async def test_a_public_request_is_anonymous(path: str, token: str | None) -> None:
    """What is_public or public_paths name needs no token, and none is read there."""
    app = OnBehalfOfMiddleware(plain, on_behalf_of(), public_paths=["/health"], is_public=is_public)
    value = ENTRA.token() if token == "good" else token
    headers = {} if value is None else {"Authorization": f"Bearer {value}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        answer = await client.get(path, headers=headers)

    assert (200, "False ") == (answer.status_code, answer.text)


@pytest.mark.parametrize("root", ["", "/", "/api", "/api/", "/api//"])
@pytest.mark.parametrize("path", ["/health", "/api/health", "/api//health", "/api/", "/api"])
async def test_a_public_path_is_what_starlette_dispatches(root: str, path: str) -> None:
    """Whatever root_path a proxy's prefix became, only the public route is reached as anonymous."""

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("health")

    async def secret(request: Request) -> PlainTextResponse:
        return PlainTextResponse("secret")

    routes = [Route("/health", health), Route("/{path:path}", secret)]
    app = Starlette(routes=routes)
    transports = [
        httpx.ASGITransport(each, root_path=root)
        for each in (app, OnBehalfOfMiddleware(app, on_behalf_of(), public_paths=["/health"]))
    ]
    answers = []
    for transport in transports:
        async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
            answers.append(await client.get(path))

    expected, actual = answers
    assert (200 if expected.text == "health" else 401) == actual.status_code


async def test_all_else_stays_protected() -> None:
    """A request that neither names needs its token as ever."""
    app = OnBehalfOfMiddleware(plain, on_behalf_of(), is_public=is_public)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        refused = await client.get("/asset")
        passed = await client.get("/asset", headers=ENTRA.bearer())

    assert [(401, False), (200, True)] == [
        (answer.status_code, "True Alice" == answer.text) for answer in (refused, passed)
    ]


async def test_an_error_of_is_public_lets_nobody_in() -> None:
    """A mistake in the function is an error of the app, and no way in."""

    def broken(scope: Any) -> bool:
        raise LookupError("mine")

    app = OnBehalfOfMiddleware(plain, on_behalf_of(), is_public=broken)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        with pytest.raises(LookupError, match="mine"):
            await client.get("/", headers=ENTRA.bearer())
