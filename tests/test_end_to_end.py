"""The main job over real sockets with TLS, through the library's own HTTP client."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from blockbuster import BlockBuster, BlockingError
from starlette.testclient import TestClient

from obo_asgi import (
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)
from obo_asgi._types import ASGIApp, Receive, Scope, Send
from obo_asgi.testing import FakeEntra, serve

GRAPH = "https://graph.microsoft.com"


async def answer_json(send: Send, value: Any) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json")],
        }
    )
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def who(scope: Scope, receive: Receive, send: Send) -> None:
    """A downstream API: says for whom the token is that it accepted."""
    await answer_json(
        send, {"name": scope["user"].display_name, "aud": scope["user"].claims["aud"]}
    )


async def both(scope: Scope, receive: Receive, send: Send) -> None:
    """A web API: calls both downstream APIs in parallel."""
    downstream = downstream_from(scope)
    async with asyncio.TaskGroup() as group:
        partner = group.create_task(downstream["partner"].get("who", into=dict))
        graph = group.create_task(downstream["graph"].get("me", into=dict))
    await answer_json(send, [partner.result(), graph.result()])


class Lazy:
    """An ASGI app that is built once its parts are there."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@dataclass
class World:
    """FakeEntra, two downstream APIs behind our middleware, all over TLS, and a web API's obo."""

    entra: FakeEntra
    apis: dict[str, DownstreamAPI]
    token: str
    """One token of Alice's, the same in the whole test."""

    def obo(self, **options: Any) -> OnBehalfOf:
        return OnBehalfOf(
            self.entra.registration(),
            downstream=self.apis,
            required_scopes=["access_as_user"],
            **options,
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    entra = FakeEntra()
    partner, graph = Lazy(), Lazy()
    with ExitStack() as stack:
        server = stack.enter_context(entra.serve())
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        partner_url = stack.enter_context(serve(partner)).url
        graph_url = stack.enter_context(serve(graph)).url
        registrations = {
            "partner": entra.add_api("api://partner-api-id", scopes=["read"]),
            "graph": entra.registration(GRAPH),
        }
        partner.app = OnBehalfOfMiddleware(who, OnBehalfOf(registrations["partner"]))
        graph.app = OnBehalfOfMiddleware(who, OnBehalfOf(registrations["graph"]))
        apis = {
            "partner": DownstreamAPI(base_url=partner_url, scopes=["api://partner-api-id/read"]),
            "graph": DownstreamAPI(base_url=f"{graph_url}/v1.0", scopes=[f"{GRAPH}/.default"]),
        }
        yield World(entra, apis, entra.token(user="alice"))


@asynccontextmanager
async def web(obo: OnBehalfOf, app: ASGIApp = both) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(OnBehalfOfMiddleware(app, obo))
    async with obo, httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        yield client


@pytest.mark.anyio
async def test_two_apis_that_accept_only_their_own_tokens(world: World) -> None:
    """A caller's token is verified and exchanged for each API, and each accepts only its own."""
    headers = {"Authorization": f"Bearer {world.token}"}
    async with web(world.obo()) as client:
        for _ in ("cold", "warm"):
            answer = await client.get("/", headers=headers)
            assert 200 == answer.status_code, answer.text
            assert ["Alice", "Alice"] == [part["name"] for part in answer.json()]
            assert 2 == len({part["aud"] for part in answer.json()})
            assert 2 == world.entra.exchanges


@pytest.mark.anyio
async def test_nothing_blocks_the_loop(world: World) -> None:
    """Cold and warm requests do no blocking call on the event loop."""
    headers = {"Authorization": f"Bearer {world.token}"}
    blockbuster = BlockBuster()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(OnBehalfOfMiddleware(both, obo := world.obo())),
        base_url="https://api",
    ) as client:
        blockbuster.activate()
        try:
            with pytest.raises(BlockingError):
                time.sleep(0.001)  # the alarm works
            answers = [await client.get("/", headers=headers) for _ in range(2)]
            await obo.aclose()
        finally:
            blockbuster.deactivate()
    assert [200, 200] == [answer.status_code for answer in answers]


def test_two_event_loops_one_after_the_other(world: World) -> None:
    """Starlette's TestClient without `with` runs every request in a loop of its own; all work."""
    client = TestClient(OnBehalfOfMiddleware(both, world.obo()))
    headers = {"Authorization": f"Bearer {world.token}"}
    answers = [client.get("/", headers=headers) for _ in range(3)]
    assert [200, 200, 200] == [answer.status_code for answer in answers]
    assert 2 == world.entra.exchanges


class ConnectProxy:
    """A proxy that tunnels CONNECT requests and records where to."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.url = ""

    async def __aenter__(self) -> ConnectProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b" ", 2)
        assert b"CONNECT" == method
        self.seen.append(target.decode())
        host, port = target.decode().rsplit(":", 1)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_sees_all_traffic(
    world: World, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Keys, tokens and downstream calls go through the proxy, trusting the private CA."""
    async with ConnectProxy() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        async with web(world.obo()) as client:
            answer = await client.get("/", headers=world.entra.bearer(user="alice"))
        assert 200 == answer.status_code
        wanted = [world.entra.authority, *(str(api.base_url) for api in world.apis.values())]
        assert {urlsplit(url).netloc for url in wanted} == set(proxy.seen)


@pytest.mark.anyio
async def test_no_proxy_passes_the_proxy_by(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that NO_PROXY names are called directly."""
    async with ConnectProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        async with web(world.obo()) as client:
            answer = await client.get("/", headers=world.entra.bearer(user="alice"))
        assert 200 == answer.status_code
        assert [] == proxy.seen


@pytest.mark.anyio
async def test_a_netrc_entry_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Credentials for the host in ~/.netrc neither replace our bearer nor break the call."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login somebody password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with web(world.obo()) as client:
        answer = await client.get("/", headers=world.entra.bearer(user="alice"))
    assert 200 == answer.status_code


@pytest.mark.anyio
async def test_an_untrusted_certificate_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the private CA nothing is fetched: the caller gets a 503, not an open door."""
    monkeypatch.delenv("SSL_CERT_FILE")
    async with web(world.obo()) as client:
        answer = await client.get("/", headers=world.entra.bearer(user="alice"))
    assert 503 == answer.status_code
    assert "retry-after" in answer.headers


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("SSL_CERT_FILE", __file__),
        ("HTTPS_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTPS_PROXY", "proxy.example:8080"),
    ],
)
async def test_a_wrong_environment_fails_at_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Certificates or a proxy that cannot be used fail the server's start-up with a sentence."""
    monkeypatch.setenv(variable, value)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    obo = OnBehalfOf(FakeEntra().registration())
    await OnBehalfOfMiddleware(both, obo)({"type": "lifespan"}, receive, send)
    assert ["lifespan.startup.failed"] == [message["type"] for message in sent]
    assert variable in sent[0]["message"]


@pytest.mark.anyio
async def test_the_default_client_logs_no_url(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """httpx's own line about each request, with its full URL, is left out for our calls."""
    monkeypatch.setattr(logging.getLogger("httpx"), "filters", [])
    caplog.set_level(logging.DEBUG, "httpx")
    async with web(world.obo()) as client:
        answer = await client.get("/", headers=world.entra.bearer(user="alice"))
    assert 200 == answer.status_code
    assert ["https://api/"] == [  # the test's own request
        str(record.args[1])
        for record in caplog.records
        if record.name == "httpx" and isinstance(record.args, tuple)
    ]


@pytest.mark.anyio
async def test_our_clients_close(world: World) -> None:
    """After closing no connection is left, and the next use opens anew."""
    obo = world.obo()
    token = world.token
    for _ in range(2):
        async with obo:
            downstream = await obo.downstream_for(token)
            assert "Alice" == (await downstream["partner"].get("who", into=dict))["name"]


def run_in_new_loop(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


def test_cold_callers_in_a_new_loop_share_one_client(world: World) -> None:
    """Many first requests at once open one HTTP client, and close it."""
    obo = world.obo()
    token = world.token

    async def work() -> list[Any]:
        async def one() -> Any:
            downstream = await obo.downstream_for(token)
            return (await downstream["partner"].get("who", into=dict))["name"]

        async with obo:
            return list(await asyncio.gather(*(one() for _ in range(50))))

    assert ["Alice"] * 50 == run_in_new_loop(work)
    assert ["Alice"] * 50 == run_in_new_loop(work)
    assert 1 == world.entra.exchanges
