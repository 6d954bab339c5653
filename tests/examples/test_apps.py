"""The small examples: the same orders by plain ASGI, Starlette and FastAPI."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import httpx
import pytest

from examples import asgi_app, fastapi_app, starlette_app
from obo_asgi import DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi.testing import FakeEntra

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("example", [asgi_app, starlette_app, fastapi_app]),
]

URL = "https://partner.example.com"


async def orders(scope: Any, receive: Any, send: Any) -> None:
    body = json.dumps({"owner": scope["user"].display_name}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def client_of(example: ModuleType, entra: FakeEntra) -> AsyncIterator[httpx.AsyncClient]:
    partner = OnBehalfOf(
        entra.add_api("api://partner", scopes=["read"]), http_client=entra.client()
    )
    obo = OnBehalfOf(
        entra.registration(),
        downstream={"partner": DownstreamAPI(base_url=URL, scopes=["api://partner/read"])},
        required_scopes=["access_as_user"],
        http_client=entra.client(apps={URL: OnBehalfOfMiddleware(orders, partner)}),
    )
    create_app: Callable[[OnBehalfOf], Any] = example.create_app
    transport = httpx.ASGITransport(create_app(obo))
    async with obo, partner, httpx.AsyncClient(transport=transport, base_url="https://a") as client:
        yield client


async def test_a_call_is_made_as_the_caller(example: ModuleType) -> None:
    """The partner's API learns who called the example."""
    entra = FakeEntra()
    async with client_of(example, entra) as client:
        response = await client.get("/orders", headers=entra.bearer(user="bob"))
    assert (200, {"owner": "Bob"}) == (response.status_code, response.json())
    assert 1 == entra.exchanges


async def test_a_route_wants_its_own_scope(example: ModuleType) -> None:
    """Cancelling takes a scope beyond that of the whole app."""
    entra = FakeEntra()
    async with client_of(example, entra) as client:
        refused = await client.delete("/orders/7", headers=entra.bearer())
        both = "access_as_user orders.write"
        response = await client.delete("/orders/7", headers=entra.bearer(scp=both))
    assert 403 == refused.status_code
    assert 'scope="orders.write"' in refused.headers["www-authenticate"]
    assert (200, {"cancelled": 7, "by": "Alice"}) == (response.status_code, response.json())


async def test_health_alone_is_public(example: ModuleType) -> None:
    """Without a token there is the health page, and a challenge for the rest."""
    async with client_of(example, FakeEntra()) as client:
        health = await client.get("/health")
        refused = await client.get("/orders")
    assert (200, {"status": "ok"}) == (health.status_code, health.json())
    assert (401, 'Bearer realm=""') == (refused.status_code, refused.headers["www-authenticate"])


def test_the_app_can_be_imported_as_it_stands(example: ModuleType) -> None:
    """`app` is there without any setting, without warnings."""
    code = f"import {example.__name__} as example; print(callable(example.app))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("True\n", "") == (done.stdout, done.stderr)
