"""Every framework answers as plain ASGI does, on each of three servers, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.integrations.apps import APPS, Memory
from tests.integrations.contract import REFUSED_SOCKETS, SCENARIOS, World, ask, check, knock

pytest.importorskip("granian", reason="the oldest frameworks are tested in process")
from tests.integrations.servers import SERVERS

pytestmark = pytest.mark.anyio

REDUCED = [
    "GET",
    "POST",
    "HEAD",
    "stream",
    "public",
    "no token",
    "no token, HEAD",
    "two headers",
    "scope missing",
    "consent",
    "second factor",
    "Entra is down",
    "typed 404",
    "a mistake",
]
PAIRS = [(server, framework) for server in SERVERS for framework in APPS]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def urls(world: World) -> Iterator[dict[tuple[str, str], str]]:
    """The URL of each framework on each server."""
    logging.disable(logging.ERROR)  # what frameworks and servers say of the mistakes in handlers
    with ExitStack() as stack:
        found: dict[tuple[str, str], str] = {}
        for server, start in SERVERS.items():
            apps = {name: build(world.obo(), Memory()) for name, build in APPS.items()}
            started = stack.enter_context(start(apps))
            found |= {(server, name): url for name, url in started.items()}
        yield found
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("server", "framework"), PAIRS)
async def test_the_answers_are_the_references(
    world: World, urls: dict[tuple[str, str], str], server: str, framework: str
) -> None:
    """Status, headers and body are those of plain ASGI in process."""
    app = APPS["plain"](world.obo(), Memory())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    url = urls[server, framework]
    async with (
        httpx.AsyncClient(transport=transport, base_url="https://api") as reference,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client,
    ):
        for what in REDUCED:
            scenario = SCENARIOS[what]
            expected = await ask(reference, world.entra, scenario)
            actual = await ask(client, world.entra, scenario)
            check(scenario, actual)
            assert expected == actual or not scenario.is_ours


@pytest.mark.parametrize(("server", "framework"), PAIRS)
async def test_a_body_passes_untouched(
    world: World, urls: dict[tuple[str, str], str], server: str, framework: str
) -> None:
    """A megabyte in chunks of odd sizes comes back byte for byte."""
    chunks = [os.urandom(16_381 + number) for number in range(64)]

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        url = f"{urls[server, framework]}/echo"
        answer = await client.post(url, content=body(), headers=world.entra.bearer())

    assert 200 == answer.status_code
    assert b"".join(chunks) == answer.content


@pytest.mark.parametrize(("server", "framework"), PAIRS)
async def test_a_websocket(
    world: World, urls: dict[tuple[str, str], str], server: str, framework: str
) -> None:
    """A WebSocket with a good token talks and calls downstream."""
    url = urls[server, framework].replace("http", "ws", 1) + "/live"
    headers = world.entra.bearer()
    async with asyncio.timeout(10), connect(url, additional_headers=headers, proxy=None) as socket:
        heard = []
        for text in ("a", "b"):
            await socket.send(text)
            heard.append(await socket.recv())

    assert ["Alice: a", "Alice: b"] == heard


@pytest.mark.parametrize(("server", "framework"), PAIRS)
async def test_a_websocket_is_refused_in_the_handshake(
    world: World, urls: dict[tuple[str, str], str], server: str, framework: str
) -> None:
    """What is refused before the accept reaches the client with its status and its challenge."""
    app, url = APPS["plain"](world.obo(), Memory()), urls[server, framework]
    for scenario in REFUSED_SOCKETS.values():
        if framework == "quart" and scenario.path != "/live":
            continue  # Quart answers that itself, and granian does not pass it on whole
        expected = await knock(app, world.entra, scenario)
        address, headers = url.replace("http", "ws", 1) + scenario.path, scenario.who(world.entra)
        with pytest.raises(InvalidStatus) as refused:
            async with (
                asyncio.timeout(10),
                connect(address, additional_headers=headers, proxy=None),
            ):
                pass
        response = refused.value.response
        assert (expected.status, expected.headers["WWW-Authenticate"]) == (
            response.status_code,
            response.headers["WWW-Authenticate"],
        )
