"""The in-process client: which app a request reaches, and how answers come back."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from obo_asgi._types import Message, Receive, Scope, Send
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

ORIGIN = "https://partnerapi.example.com"
variable = contextvars.ContextVar("variable", default="fresh")


class App:
    """An ASGI app that sends the messages it is given; an exception among them is raised."""

    def __init__(self, *messages: Message | Exception) -> None:
        self.messages = messages
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.after: list[str] = []
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.seen.append(variable.get())
        self.bodies.append((await receive())["body"])
        for message in self.messages:
            if isinstance(message, Exception):
                raise message
            await send(message)
        await asyncio.sleep(0)
        self.after.append("background")


def start(status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [(b"x-a", b"1")]}


def body(chunk: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


async def test_request_reaches_the_app_of_its_origin(entra: FakeEntra) -> None:
    """An app gets the request as a server would hand it over, and its answer comes back."""
    app = App(start(201), body(b"ab", True), body(b"c"))
    async with entra.client(apps={f"{ORIGIN}:443": app}, headers={"X-Own": "yes"}) as client:
        response = await client.post(f"{ORIGIN}/a%20b?q=1", content=b"hello")
    assert (201, "abc", "1") == (response.status_code, response.text, response.headers["x-a"])
    [scope] = app.scopes
    assert ("POST", "https", "/a b", b"/a%20b", b"q=1") == (
        scope["method"],
        scope["scheme"],
        scope["path"],
        scope["raw_path"],
        scope["query_string"],
    )
    assert (b"x-own", b"yes") in scope["headers"]
    assert ([b"hello"], ["background"]) == (app.bodies, app.after)


@pytest.mark.parametrize(
    "url", ["https://other.example", "http://partnerapi.example.com", f"{ORIGIN}:8443"]
)
async def test_any_other_origin_is_unreachable(entra: FakeEntra, url: str) -> None:
    """No request leaves the process: another host, scheme or port is a failed connection."""
    async with entra.client(apps={ORIGIN: App(start(), body(b""))}) as client:
        with pytest.raises(httpx.ConnectError, match="no app lives at") as error:
            await client.get(url)
    assert url == str(error.value.request.url)


async def test_streams(entra: FakeEntra) -> None:
    """Chunks arrive while the app is still running."""
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"one", True))
        await gate.wait()
        await send(body(b"two"))

    async with entra.client(apps={ORIGIN: app}) as client, client.stream("GET", ORIGIN) as response:
        chunks = response.aiter_raw()
        assert b"one" == await anext(chunks)
        gate.set()
        assert [b"two"] == [chunk async for chunk in chunks]


async def test_app_ends_when_its_answer_is_given_up(entra: FakeEntra) -> None:
    """An app whose answer is not read to the end is cancelled."""
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        try:
            await receive()
        finally:
            ended.set()

    async with entra.client(apps={ORIGIN: app}) as client, client.stream("GET", ORIGIN):
        pass
    assert ended.is_set()


async def test_app_is_told_that_its_answer_is_over(entra: FakeEntra) -> None:
    """After the answer an app receives the disconnect, so that it can end."""
    received: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b""))
        received.extend([(await receive())["type"], (await receive())["type"]])

    async with entra.client(apps={ORIGIN: app}) as client:
        await client.get(ORIGIN)
    assert ["http.request", "http.disconnect"] == received


async def test_cancelled_request_ends_its_app(entra: FakeEntra) -> None:
    """A request that is cancelled, before or after the answer, leaves no app running."""
    states: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] == "/late":
                await send(start())
                await send(body(b""))
            states.append("started")
            await asyncio.Event().wait()
        finally:
            states.append("ended")

    async with entra.client(apps={ORIGIN: app}) as client:
        for path in ("/early", "/late"):
            states.clear()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await client.get(ORIGIN + path)
            await asyncio.sleep(0)
            assert ["started", "ended"] == states


async def test_failing_app_answers_500(entra: FakeEntra, caplog: pytest.LogCaptureFixture) -> None:
    """An app that raises before its answer is a 500, as behind a server, and is logged."""
    async with entra.client(apps={ORIGIN: App(ValueError("broken"))}) as client:
        response = await client.get(ORIGIN)
    assert (500, b"") == (response.status_code, response.content)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "partnerapi.example.com" in record.getMessage()


async def test_broken_off_answer(entra: FakeEntra) -> None:
    """An app that ends or raises within its answer breaks the connection."""
    for messages in ([start(), body(b"x", True)], [start(), ValueError("broken")]):
        async with entra.client(apps={ORIGIN: App(*messages)}) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(ORIGIN)


async def test_slow_app_meets_the_read_timeout(entra: FakeEntra) -> None:
    """An app that is slower than the client's read time-out is a ReadTimeout, and is ended."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async with entra.client(apps={ORIGIN: app}, timeout=0.02) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(ORIGIN)


async def test_app_does_not_see_its_clients_context(entra: FakeEntra) -> None:
    """The context variables of the caller are no business of the app's, as over a network."""
    app = App(start(), body(b""))
    variable.set("mine")
    async with entra.client(apps={ORIGIN: app}) as client:
        await client.get(ORIGIN)
    assert ["fresh"] == app.seen


async def test_streamed_request_body(entra: FakeEntra) -> None:
    """A request's body may be streamed as well."""
    app = App(start(), body(b""))

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async with entra.client(apps={ORIGIN: app}) as client:
        await client.post(ORIGIN, content=chunks())
    assert [b"ab"] == app.bodies


async def test_service_is_a_plain_asgi_app(entra: FakeEntra) -> None:
    """The service can be mounted anywhere: it takes part in a lifespan, and refuses websockets."""
    sent: list[Message] = []
    incoming: list[dict[str, Any]] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await entra({"type": "lifespan"}, receive, send)
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == [m["type"] for m in sent]
    with pytest.raises(RuntimeError, match="websocket"):
        await entra({"type": "websocket"}, receive, send)


async def test_body_in_pieces_and_too_long(entra: FakeEntra) -> None:
    """A body may come in pieces; of one that is too long only the start is read."""
    pieces = [b"grant_type=pass", b"word", b"x" * (1 << 20), b"never read"]
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/common/oauth2/v2.0/token", "headers": []}
    await entra(scope, receive, send)
    assert 400 == sent[0]["status"]
    assert [b"never read"] == pieces
