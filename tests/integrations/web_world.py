"""What the tests of Starlette and FastAPI share: FakeEntra and a partner's API, in process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from obo_asgi import DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi.testing import FakeEntra

PARTNER = "https://partner.example.com"
SCOPE = "api://partner/read"


async def partner_api(scope: Any, receive: Any, send: Any) -> None:
    """Say for whom the token is, whatever is asked for."""
    body = json.dumps({"name": scope["user"].display_name}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class WebWorld:
    """FakeEntra, and what calls the partner's API through it."""

    def __init__(self) -> None:
        self.entra = FakeEntra()
        self.registration = self.entra.registration()
        self._partner = self.entra.add_api("api://partner", scopes=["read"])
        self.calls = 0

    def obo(self, **options: Any) -> OnBehalfOf:
        """Return a new one, for one event loop and one app."""
        entra = self.entra
        partner = OnBehalfOfMiddleware(
            partner_api, OnBehalfOf(self._partner, http_client=entra.client())
        )
        return OnBehalfOf(
            options.pop("registration", self.registration),
            downstream={"partner": DownstreamAPI(base_url=PARTNER, scopes=[SCOPE])},
            http_client=entra.client(apps={PARTNER: partner}),
            **options,
        )

    def bearer(self, *scopes: str, **token: Any) -> dict[str, str]:
        """Return the header of a token that holds these scopes."""
        return self.entra.bearer(scp=" ".join(scopes) or "access_as_user", **token)


@asynccontextmanager
async def client_of(app: Any, root_path: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of an app, which is asked in process."""
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        yield client


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Return status and challenge."""
    return response.status_code, response.headers.get("www-authenticate", "")


NO_TOKEN = (401, 'Bearer realm=""')


def lacks(scope: str | None) -> tuple[int, str]:
    """Return the refusal of a token that lacks a scope, or a role."""
    text = 'Bearer realm="", error="insufficient_scope"'
    text += ', error_description="the access token lacks a permission"'
    return 403, text if scope is None else f'{text}, scope="{scope}"'
