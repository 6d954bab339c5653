"""Every framework answers the same requests in the same way, as plain ASGI does."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from obo_asgi import OnBehalfOfMiddleware
from obo_asgi._types import ASGIApp
from tests.integrations.apps import APPS, Memory
from tests.integrations.contract import (
    REFUSED_SOCKETS,
    SCENARIOS,
    World,
    ask,
    check,
    converse,
    knock,
)

pytestmark = pytest.mark.anyio

FRAMEWORKS = list(APPS)
MOUNTING = [name for name in FRAMEWORKS if name != "quart"]
WITH_TASKS = MOUNTING


@dataclass
class Contract:
    """The world, and the same API in each framework."""

    world: World
    apps: dict[str, ASGIApp]
    memories: dict[str, Memory]

    @asynccontextmanager
    async def client(self, name: str, root_path: str = "") -> AsyncIterator[httpx.AsyncClient]:
        async with client_of(self.apps[name], root_path) as client:
            yield client


def client_of(app: ASGIApp, root_path: str = "") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url=f"https://api{root_path}")


@pytest.fixture(scope="module")
def contract() -> Contract:
    world, memories = World(), {name: Memory() for name in FRAMEWORKS}
    apps = {name: build(world.obo(), memories[name]) for name, build in APPS.items()}
    return Contract(world, apps, memories)


@pytest.fixture(autouse=True)
def calm_logs() -> Iterator[None]:
    """Keep what frameworks log of the mistakes in handlers out of the report."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    yield
    logging.disable(before)


# --- HTTP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", list(SCENARIOS))
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_the_answer_is_the_references(contract: Contract, framework: str, what: str) -> None:
    """A request has the same status, headers and body in every framework as in plain ASGI."""
    scenario, entra = SCENARIOS[what], contract.world.entra
    async with contract.client("plain") as client:
        expected = await ask(client, entra, scenario)
    async with contract.client(framework) as client:
        actual = await ask(client, entra, scenario)

    check(scenario, actual)
    if scenario.is_ours:
        assert expected == actual
    assert actual.is_json == (scenario.is_ours and scenario.status >= 400) or not scenario.is_ours


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_consent_has_all_that_a_client_needs(contract: Contract, framework: str) -> None:
    """A missing consent names scopes and the page to consent on, in the header and the body."""
    async with contract.client(framework) as client:
        headers = contract.world.entra.bearer("bob")
        answer = await client.get("/op/consent-twice", headers=headers)

    header, body = answer.headers["WWW-Authenticate"], answer.json()
    assert 'scope="api://other/write api://partner/read"' in header
    assert f'consent_uri="{body["consent_uri"]}"' in header
    assert 1 == header.count("Bearer")


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_optional_lets_nobody_in_as_nobody(contract: Contract, framework: str) -> None:
    """Where a token is optional, a caller without one is anonymous, and a bad one refused."""
    app = APPS[framework](contract.world.obo(), Memory(), optional=True)
    entra = contract.world.entra
    async with client_of(app) as client:
        answers = [
            await client.get("/who"),
            await client.get("/who", headers=entra.bearer()),
            await client.get("/who", headers={"Authorization": "Bearer bad"}),
            await client.get("/me"),
            await client.get("/scope"),
        ]

    assert [200, 200, 401, 401, 401] == [answer.status_code for answer in answers]
    assert ["nobody", "Alice"] == [answer.text for answer in answers[:2]]
    assert ['Bearer realm=""'] * 2 == [answer.headers["WWW-Authenticate"] for answer in answers[3:]]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_body_passes_untouched(contract: Contract, framework: str) -> None:
    """A megabyte in chunks of odd sizes comes back byte for byte."""
    chunks = [os.urandom(4093 + number) for number in range(256)]

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async with contract.client(framework) as client:
        headers = contract.world.entra.bearer()
        answer = await client.post("/echo", content=body(), headers=headers)

    assert 200 == answer.status_code
    assert b"".join(chunks) == answer.content


# --- After the response ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "path"),
    [(name, "/stream") for name in FRAMEWORKS] + [(name, "/background") for name in WITH_TASKS],
)
async def test_work_after_the_last_byte_may_call(
    contract: Contract, framework: str, path: str
) -> None:
    """Until the app has returned its downstream calls work; later ones name start_session."""
    memory = contract.memories[framework]
    memory.said.clear()
    async with contract.client(framework) as client:
        answer = await client.get(path, headers=contract.world.entra.bearer())

    assert (200, "all of it", ["Alice"]) == (answer.status_code, answer.text, memory.said)
    with pytest.raises(RuntimeError, match="start_session"):
        await memory.downstreams[-1]["partner"].get("me")


# --- Mounts and stacks ----------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("what", ["GET", "no token", "consent", "public", "public path"])
async def test_an_app_under_a_root_path(contract: Contract, framework: str, what: str) -> None:
    """An app that a server or another app mounts answers as it does alone."""
    scenario, entra = SCENARIOS[what], contract.world.entra
    async with contract.client("plain") as client:
        expected = await ask(client, entra, scenario)
    async with contract.client(framework, "/api") as client:
        actual = await ask(client, entra, scenario)

    check(scenario, actual)
    assert expected == actual


@pytest.mark.parametrize("framework", MOUNTING)
@pytest.mark.parametrize(
    ("user", "status"), [("alice", 200), ("bob", 401), (None, 401)], ids=["good", "consent", "none"]
)
async def test_an_app_in_the_app(
    contract: Contract, framework: str, user: str | None, status: int
) -> None:
    """A mounted ASGI app is protected, finds the downstream APIs, and its errors are answered."""
    headers = {} if user is None else contract.world.entra.bearer(user)
    async with contract.client(framework) as client:
        answer = await client.get("/mounted/data", headers=headers)

    assert status == answer.status_code, answer.text
    assert (status == 200) == (answer.text == "mounted: Alice")
    assert (status == 401) == ("WWW-Authenticate" in answer.headers)


@pytest.mark.parametrize("framework", MOUNTING)
async def test_a_public_path_is_not_one_of_a_mounted_app(
    contract: Contract, framework: str
) -> None:
    """That ``/health`` is public makes no path of an app public that is mounted elsewhere."""
    async with contract.client(framework) as client:
        answer = await client.get("/mounted/health")

    assert (401, 'Bearer realm=""') == (answer.status_code, answer.headers["WWW-Authenticate"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_second_middleware_changes_nothing(contract: Contract, framework: str) -> None:
    """A middleware with the same wiring around the app verifies once, and answers are the same."""
    memory, obo = Memory(), contract.world.obo()
    app = OnBehalfOfMiddleware(APPS[framework](obo, memory), obo, public_paths=["/health"])
    entra = contract.world.entra
    for what in ("GET", "no token", "scope missing", "consent", "typed 404", "public path"):
        async with contract.client(framework) as client:
            expected = await ask(client, entra, SCENARIOS[what])
        async with client_of(app) as client:
            assert expected == await ask(client, entra, SCENARIOS[what])

    async with client_of(app) as client:
        await client.get("/stream", headers=entra.bearer())
    assert ["Alice"] == memory.said
    with pytest.raises(RuntimeError, match="start_session"):
        await memory.downstreams[0]["partner"].acquire_token()


# --- WebSockets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_websocket_calls_downstream(contract: Contract, framework: str) -> None:
    """A WebSocket with a good token is the app's, which calls downstream inside."""
    sent = await converse(
        contract.apps[framework], "/live", list(contract.world.entra.bearer().items()), ("a", "b")
    )

    assert ["websocket.accept", "websocket.send", "websocket.send"] == [m["type"] for m in sent[:3]]
    assert ["Alice: a", "Alice: b"] == [message["text"] for message in sent[1:3]]


@pytest.mark.parametrize("what", list(REFUSED_SOCKETS))
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_websocket_is_denied_before_it_is_accepted(
    contract: Contract, framework: str, what: str
) -> None:
    """Where a server can deny a WebSocket, its client hears what one of a request would."""
    scenario, entra = REFUSED_SOCKETS[what], contract.world.entra
    expected = await knock(contract.apps["plain"], entra, scenario)
    actual = await knock(contract.apps[framework], entra, scenario)

    check(scenario, actual)
    assert expected == actual


@pytest.mark.parametrize("what", list(REFUSED_SOCKETS))
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_websocket_is_closed_before_it_is_accepted(
    contract: Contract, framework: str, what: str
) -> None:
    """Where a server cannot deny a WebSocket, it is closed with code 1008, never accepted."""
    scenario, entra = REFUSED_SOCKETS[what], contract.world.entra
    sent = await converse(contract.apps[framework], scenario.path, scenario.who(entra))

    # What an error handler of Quart's answers is closed by Quart, which always says 1000.
    code = 1000 if framework == "quart" and scenario.path != "/live" else 1008
    assert [("websocket.close", code)] == [(each["type"], each["code"]) for each in sent]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_rule_lets_a_websocket_in(contract: Contract, framework: str) -> None:
    """A WebSocket whose caller holds what its rule demands is the app's."""
    headers = list(contract.world.entra.bearer(scp="access_as_user read").items())
    sent = await converse(contract.apps[framework], "/live-scope", headers, ("a",))

    assert "Alice: a" == sent[1]["text"]
