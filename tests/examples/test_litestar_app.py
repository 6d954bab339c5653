"""The example for Litestar: a public path, a controller with a guard, calls as the caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from examples.litestar_app import PARTNER, app, create_app
from obo_asgi import OnBehalfOf
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

ORDER = {"id": 1, "item": "tea"}


async def partner(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive())["body"] if scope["method"] == "POST" else msgspec.json.encode([ORDER])
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def entra() -> FakeEntra:
    entra = FakeEntra()
    entra.add_api("api://partner-api-id", scopes=["read"])
    return entra


@pytest.fixture
async def client(entra: FakeEntra) -> AsyncIterator[AsyncTestClient[Litestar]]:
    http_client = entra.client(apps={"https://partnerapi.example.com": partner})
    downstream = {"partner": PARTNER}
    obo = OnBehalfOf(entra.registration(), downstream=downstream, http_client=http_client)
    async with AsyncTestClient(create_app(obo)) as client:
        yield client


async def test_the_app_is_there_without_any_setting() -> None:
    """What uvicorn is told to serve says that it is healthy, and refuses who has no token."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:  # type: ignore[arg-type]
        statuses = [
            (await client.get(f"https://api{path}")).status_code for path in ("/health", "/me")
        ]

    assert [200, 401] == statuses


async def test_a_caller_sees_their_orders(
    entra: FakeEntra, client: AsyncTestClient[Litestar]
) -> None:
    """The handlers know who calls, and call the partner's API as that user."""
    headers = entra.bearer("alice")
    me, orders = (
        await client.get("/me", headers=headers),
        await client.get("/orders", headers=headers),
    )

    assert {"name": "Alice"} == me.json()
    assert [ORDER] == orders.json()


async def test_writing_needs_a_scope(entra: FakeEntra, client: AsyncTestClient[Litestar]) -> None:
    """The guard lets in only who has the scope."""
    answers = [
        await client.post("/orders", json=ORDER, headers=entra.bearer("alice", scp=scopes))
        for scopes in ("access_as_user", "access_as_user orders.write")
    ]

    assert [403, 201] == [answer.status_code for answer in answers]
    assert ORDER == answers[1].json()
