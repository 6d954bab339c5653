"""The examples of the Azure SDKs: each user sees what is theirs, by connections that all share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

from examples import azure_sdk
from obo_asgi import OnBehalfOf
from obo_asgi.testing import FakeEntra
from tests.integrations.azure_world import (
    GRAPH,
    GRAPH_SDK_IS_QUIET,
    STORAGE,
    Service,
    blob_service,
    graph_service,
    serving,
)
from tests.servers.fixtures import need

pytestmark = [pytest.mark.anyio, GRAPH_SDK_IS_QUIET]


@pytest.fixture
def entra(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEntra]:
    fake = FakeEntra()
    with fake.serve() as server:
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        yield fake


@pytest.fixture
def graph_sdk() -> Any:
    need(None if find_spec("msgraph") else "msgraph-sdk is not installed (29 MB)")
    from examples import graph_sdk

    return graph_sdk


@asynccontextmanager
async def client_of(app: Any, obo: OnBehalfOf) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the app, inside its lifespan."""
    async with (
        obo,
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client,
    ):
        yield client


def files_app(entra: FakeEntra, service: Service) -> tuple[Any, OnBehalfOf]:
    obo = OnBehalfOf(entra.registration(), downstream={"storage": azure_sdk.STORAGE})
    url, options = f"{service.url}/files", {"connection_verify": entra.ca_file}
    return azure_sdk.create_app(obo, url, **options), obo


def profile_app(sdk: Any, entra: FakeEntra, service: Service) -> tuple[Any, OnBehalfOf]:
    obo = OnBehalfOf(entra.registration(), downstream={"graph": sdk.GRAPH})
    return sdk.create_app(obo, f"{service.url}/v1.0"), obo


async def test_files_are_the_users(entra: FakeEntra) -> None:
    """A list and a file come as the user who asks, and what is not there is a 404."""
    service = blob_service(entra)
    with serving(service):
        async with client_of(*files_app(entra, service)) as client:
            answers = [
                await client.get(path, headers=entra.bearer(user=user))
                for user, path in [
                    ("alice", "/files"),
                    ("bob", "/files/hello.txt"),
                    ("bob", "/files/other.txt"),
                ]
            ]

    assert ['["hello.txt"]', "hello"] == [answer.text for answer in answers[:2]]
    assert 404 == answers[2].status_code
    assert ["Alice", "Bob", "Bob"] == service.callers


async def test_a_profile_is_the_users(entra: FakeEntra, graph_sdk: Any) -> None:
    """Each user gets their own profile, and no cookie of another's answer goes out with it."""
    service = graph_service(entra)
    with serving(service):
        async with client_of(*profile_app(graph_sdk, entra, service)) as client:
            answers = [
                (await client.get("/me", headers=entra.bearer(user=user))).json()
                for user in ("alice", "bob")
            ]

    assert {"name": "Alice", "mail": "alice@contoso.example"} == answers[0]
    assert (["Alice", "Bob"], []) == (service.callers, service.cookies)
    assert "Bob" == answers[1]["name"]


@pytest.mark.parametrize("resource", [STORAGE, GRAPH])
async def test_a_missing_consent_is_a_challenge(
    resource: str, entra: FakeEntra, request: pytest.FixtureRequest
) -> None:
    """What the user has to consent to is said by a 401, whichever SDK asked for the token."""
    make: dict[str, Callable[[FakeEntra], Service]] = {STORAGE: blob_service, GRAPH: graph_service}
    service = make[resource](entra)
    entra.withdraw_consent(resource=resource)
    with serving(service):
        if resource == STORAGE:
            parts, path = files_app(entra, service), "/files"
        else:
            sdk = request.getfixturevalue("graph_sdk")
            parts, path = profile_app(sdk, entra, service), "/me"
        async with client_of(*parts) as client:
            answer = await client.get(path, headers=entra.bearer())

    assert (401, "consent_required") == (answer.status_code, answer.json()["error"])
    assert [] == service.callers
