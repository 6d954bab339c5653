"""The whole flow without Azure: python examples/get_started.py."""

import asyncio
import json
from typing import Any

import httpx

from obo_asgi import (
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)
from obo_asgi.testing import FakeEntra

URL = "https://partner.example.com"


async def answer(send: Any, value: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def partner_api(scope: Any, receive: Any, send: Any) -> None:
    """Stand for another API, which takes only tokens that were made for it."""
    user = scope["user"]
    owner, scopes = user.display_name, sorted(user.scopes)
    await answer(send, {"owner": owner, "scopes": scopes})


async def web_api(scope: Any, receive: Any, send: Any) -> None:
    """Be your API: it calls the other one as its own caller."""
    partner = downstream_from(scope)["partner"]
    await answer(send, await partner.get("orders", into=dict[str, Any]))


entra = FakeEntra()  # an Entra ID that runs offline
registration = entra.add_api("api://partner", scopes=["orders.read"])
partner = OnBehalfOf(registration, http_client=entra.client())
apps = {URL: OnBehalfOfMiddleware(partner_api, partner)}
api = DownstreamAPI(base_url=URL, scopes=["api://partner/orders.read"])
obo = OnBehalfOf(
    entra.registration(),
    downstream={"partner": api},
    required_scopes=["access_as_user"],
    http_client=entra.client(apps=apps),
)
app = OnBehalfOfMiddleware(web_api, obo)


async def main() -> None:
    entra.withdraw_consent("bob", resource="api://partner")
    alice, bob = entra.bearer(user="alice"), entra.bearer(user="bob")
    transport = httpx.ASGITransport(app)
    client = httpx.AsyncClient(transport=transport, base_url="https://api")
    async with obo, partner, client:
        for headers in (alice, alice, bob, {}):
            response = await client.get("/orders", headers=headers)
            print(response.status_code, response.text)
    print("exchanges:", entra.exchanges)


if __name__ == "__main__":
    asyncio.run(main())
