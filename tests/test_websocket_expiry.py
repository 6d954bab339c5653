"""A WebSocket lives no longer than the token that opened it, where that is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from obo_asgi import AccessRule, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi.testing import FakeEntra, serve

pytestmark = pytest.mark.anyio

SOON = 0.15
LATER = 0.5
"""Seconds in which an app certainly starts and ends."""
REASON = "the access token has expired"
CLOSE = {"type": "websocket.close", "code": 1008, "reason": REASON}
DISCONNECT = {"type": "websocket.disconnect", "code": 1008, "reason": REASON}
ACCEPT = {"type": "websocket.accept"}


class Connection:
    """The server's side of a WebSocket, whose client says nothing after the connect message."""

    def __init__(self, token: str, *, latency: float = 0) -> None:
        self.sent: list[Any] = []
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self._latency = latency
        self.scope: Any = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "path": "/live",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "subprotocols": [],
        }

    async def receive(self) -> Any:
        return await self.incoming.get()

    async def send(self, message: Any) -> None:
        await asyncio.sleep(self._latency)
        self.sent.append(message)

    async def run(self, app: Any, **options: Any) -> None:
        await OnBehalfOfMiddleware(app, on_behalf_of(), close_websockets=True, **options)(
            self.scope, self.receive, self.send
        )


ENTRA = FakeEntra()


def on_behalf_of() -> OnBehalfOf:
    return OnBehalfOf(ENTRA.registration(), http_client=ENTRA.client())


def token(seconds: float = SOON) -> str:
    return ENTRA.token(exp=time.time() + seconds)


@pytest.fixture
async def tasks() -> Callable[[], int]:
    """Tell how many tasks there are more than at the start."""
    before = len(asyncio.all_tasks())
    return lambda: len(asyncio.all_tasks()) - before


@pytest.fixture(autouse=True)
def nothing_wrong_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    """The end of a token is nobody's error."""
    caplog.set_level(logging.DEBUG)
    yield
    assert [] == [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# --- How the app learns of it ---------------------------------------------------------------------


class Listener:
    """An app that accepts, and listens until its caller is gone."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.heard.append(await receive())
        await send({"type": "websocket.accept"})
        while self.heard[-1]["type"] != "websocket.disconnect":
            self.heard.append(await receive())


@pytest.mark.parametrize("latency", [0, 0.05], ids=["fast", "slow"])
async def test_a_listening_app_hears_a_disconnect(tasks: Callable[[], int], latency: float) -> None:
    """At the token's end the socket is closed for policy, and the app's receive() says so."""
    app, connection, start = Listener(), Connection(token(), latency=latency), time.monotonic()
    await connection.run(app)

    assert SOON - 0.05 < time.monotonic() - start < SOON + 2
    assert [ACCEPT, CLOSE] == connection.sent
    assert [{"type": "websocket.connect"}, DISCONNECT] == app.heard
    assert 0 == tasks()


async def test_what_was_sent_before_is_heard() -> None:
    """Messages that came before the token's end are handed on, in their order."""
    app, connection = Listener(), Connection(token())
    messages = [{"type": "websocket.receive", "text": str(number)} for number in range(100)]
    for message in messages:
        connection.incoming.put_nowait(message)
    await connection.run(app)

    assert [*messages, DISCONNECT] == app.heard[1:]


async def test_a_client_that_leaves_first_is_heard(tasks: Callable[[], int]) -> None:
    """The client's own disconnect reaches the app as it came, and nothing is closed after it."""
    app, connection = Listener(), Connection(token(3600))
    connection.incoming.put_nowait(left := {"type": "websocket.disconnect", "code": 1001})
    await connection.run(app)

    assert ([ACCEPT], left) == (connection.sent, app.heard[-1])
    assert 0 == tasks()


@pytest.mark.parametrize("latency", [0, 0.03], ids=["fast", "slow"])
async def test_a_talking_app_gets_an_oserror(tasks: Callable[[], int], latency: float) -> None:
    """After the close send() raises an OSError, as servers do whose client is gone (ASGI 2.4)."""
    errors: list[BaseException] = []

    async def talker(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(0.01)
        except OSError as error:
            errors.append(error)

    connection = Connection(token(), latency=latency)
    await connection.run(talker)

    assert [REASON] == [str(error) for error in errors]
    assert 1 == connection.sent.count(CLOSE)
    assert 0 == tasks()


async def test_an_app_that_ignores_it_ends_quietly(
    tasks: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """The error that ends an app which knows nothing of the close is told at INFO, not raised."""

    async def careless(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await receive()
            await send({"type": "websocket.send", "text": "tick"})

    connection = Connection(token())
    await connection.run(careless)

    assert [ACCEPT, CLOSE] == connection.sent
    assert ["ended with its WebSocket: ConnectionAbortedError"] == [
        record.getMessage() for record in caplog.records if record.name == "obo_asgi._websocket"
    ]
    assert 0 == tasks()


async def test_it_may_be_closed_before_it_is_accepted() -> None:
    """A token that ends while the app still thinks closes the socket, and accept fails."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(SOON + 0.1)
        await send({"type": "websocket.accept"})

    connection = Connection(token())
    await connection.run(slow)

    assert [CLOSE] == connection.sent


async def test_a_token_within_the_clock_skew_closes_at_once() -> None:
    """A token that has just ended still opens the socket, which then is closed at once."""
    connection = Connection(token(-1))
    await connection.run(Listener())

    assert CLOSE in connection.sent


# --- Nothing is left behind -----------------------------------------------------------------------


async def test_an_app_that_ends_first_leaves_no_timer(tasks: Callable[[], int]) -> None:
    """When the app is done before its token is, nothing waits on and nothing is closed by us."""

    async def brief(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1000})

    connection = Connection(token(LATER))
    await connection.run(brief)
    left = tasks()
    await asyncio.sleep(LATER + 0.05)

    assert (0, [{"type": "websocket.close", "code": 1000}]) == (left, connection.sent)


async def test_an_app_that_fails_first_fails_as_ever(tasks: Callable[[], int]) -> None:
    """An error before the token's end is the server's to handle, and no timer stays."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await Connection(token(LATER)).run(failing)
    assert 0 == tasks()


async def test_an_app_that_refuses_first_is_answered(tasks: Callable[[], int]) -> None:
    """An app that refuses before it has accepted is closed once, for policy, and no timer stays."""

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        AccessRule("admin").check(scope)

    connection = Connection(token(LATER))
    await connection.run(refusing)
    left = tasks()
    await asyncio.sleep(LATER + 0.05)

    assert (0, [{"type": "websocket.close", "code": 1008}]) == (left, connection.sent)


async def test_a_cancelled_app_is_cancelled(tasks: Callable[[], int]) -> None:
    """Cancelling the server's task ends the app where it waits, and the timer with it."""
    app, connection = Listener(), Connection(token(3600))
    task = asyncio.create_task(connection.run(app))
    while not connection.sent:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ([ACCEPT], 0) == (connection.sent, tasks())


@pytest.mark.parametrize("turns", range(7))
async def test_who_stops_waiting_loses_no_message(turns: int) -> None:
    """A message that comes while a receive() is cancelled is there for the next one."""
    heard: list[Any] = []

    async def impatient(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        connection.incoming.put_nowait({"type": "websocket.receive", "text": "once"})
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            heard.append((await waiting)["text"])
        connection.incoming.put_nowait({"type": "websocket.receive", "text": "last"})
        while heard[-1:] != ["last"]:
            heard.append((await asyncio.wait_for(receive(), 1))["text"])

    connection = Connection(token(3600))
    await connection.run(impatient)

    assert ["once", "last"] == heard


async def test_a_public_socket_is_not_closed() -> None:
    """An anonymous caller has no token that could end."""
    connection = Connection("")
    connection.scope["headers"] = []
    connection.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await connection.run(Listener(), public_paths=["/live"])

    assert [ACCEPT] == connection.sent


async def test_nothing_is_closed_unless_asked_for() -> None:
    """Without the option a socket outlives its token."""
    app, connection = Listener(), Connection(token())
    run = asyncio.create_task(
        OnBehalfOfMiddleware(app, on_behalf_of())(
            connection.scope, connection.receive, connection.send
        )
    )
    await asyncio.sleep(SOON + 0.1)
    before = list(connection.sent)
    connection.incoming.put_nowait(left := {"type": "websocket.disconnect", "code": 1001})
    await run

    assert ([ACCEPT], [ACCEPT], left) == (before, connection.sent, app.heard[-1])


# --- Over a real server ---------------------------------------------------------------------------


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Accept on any path but ``/slow``, which takes too long for that; say again what is said."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": f"{(await receive())['type']}.complete"})
        return
    await receive()
    if scope["path"] == "/slow":
        await asyncio.sleep(SOON + 0.2)
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect" and scope["path"] != "/careless":
            return
        await send({"type": "websocket.send", "text": message.get("text") or "bye"})


@pytest.fixture(scope="module")
def url() -> Any:
    app = OnBehalfOfMiddleware(echo, on_behalf_of(), close_websockets=True)
    with serve(app, tls=False) as server:
        yield server.url.replace("http", "ws", 1)


def authorization(seconds: float = SOON) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(seconds)}"}


@pytest.mark.parametrize("path", ["/echo", "/careless"])
async def test_a_client_sees_the_close_and_its_reason(url: str, path: str) -> None:
    """Over uvicorn the client can talk until its token ends, and is told 1008 and why."""
    async with connect(url + path, additional_headers=authorization(1), proxy=None) as socket:
        await socket.send("hello")
        said = await socket.recv()
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(socket.recv(), 5)

    assert "hello" == said
    assert caught.value.rcvd is not None
    assert (1008, REASON) == (caught.value.rcvd.code, caught.value.rcvd.reason)


async def test_a_client_whose_token_ends_first_is_refused(url: str) -> None:
    """Over uvicorn a close before the accept is a 403 for the handshake."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(f"{url}/slow", additional_headers=authorization(), proxy=None):
            pass

    assert 403 == caught.value.response.status_code
