"""The apps of `end_to_end`: each answers with what one downstream call has brought."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
import anyio.to_thread
import httpx

from obo_asgi import OnBehalfOfMiddleware, downstream_from
from obo_asgi._default_client import create_client, create_ssl_context

from .calls import ASGIApp, Receive, Scope, Send
from .entra_clients import azure_credential, azure_transport, msal_client, open_session
from .web_apps import azure_scheme, bearer_token, obo_from
from .world import API, Settings

SCOPE: Final = f"{API}/read"
PATH: Final = "data"
SOME_TOKEN: Final = {"Authorization": f"Bearer {'some-token' * 130}"}
"""As long as Entra's are."""


def ours(settings: Settings) -> ASGIApp:
    """Return an app that calls as the user of its request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await downstream_from(scope)["api"].get(PATH)
        await _answer(send, response.content)

    return OnBehalfOfMiddleware(app, obo_from(settings))


class SameClient:
    """Calls with the client that ours makes for itself, and knows no users."""

    def __init__(self, settings: Settings) -> None:
        self._url = f"{settings['api_url']}/{PATH}"
        self._client: httpx.AsyncClient | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._client is None:  # at the first request: there is an event loop
            self._client = create_client(create_ssl_context())
        response = await self._client.get(self._url, headers=SOME_TOKEN)
        await _answer(send, response.content)


class Limit:
    """Calls with aiohttp itself, and knows no users."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = f"{settings['api_url']}/{PATH}"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._session is None:
            self._session = open_session(self._settings)
        async with self._session.get(self._url, headers=SOME_TOKEN) as response:
            body = await response.read()
        await _answer(send, body)


def fastapi_msal(settings: Settings) -> ASGIApp:
    """Return a FastAPI app that verifies by fastapi-azure-auth and exchanges by MSAL in threads."""
    from fastapi import FastAPI, Request, Response, Security

    scheme = azure_scheme(settings)
    msal = msal_client(settings)
    client = httpx.AsyncClient()

    async def handler(request: Any) -> Any:
        assertion = request.state.user.access_token
        result = await anyio.to_thread.run_sync(msal.acquire_token_on_behalf_of, assertion, [SCOPE])
        headers = {"Authorization": f"Bearer {result['access_token']}"}
        response = await client.get(f"{settings['api_url']}/{PATH}", headers=headers)
        return Response(response.content)

    handler.__annotations__ = {"request": Request}
    api = FastAPI(openapi_url=None)
    api.add_api_route("/", handler, dependencies=[Security(scheme, scopes=["access_as_user"])])
    app: ASGIApp = api
    return app


def starlette_azure(settings: Settings) -> ASGIApp:
    """Return a Starlette app that keeps a credential of azure-identity for each token."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    credentials: dict[str, Any] = {}
    transports: list[Any] = []
    client = httpx.AsyncClient()

    async def handler(request: Request) -> Response:
        assertion = bearer_token(request.scope).decode()
        if not transports:
            transports.append(azure_transport(open_session(settings)))
        if assertion not in credentials:
            credentials[assertion] = azure_credential(settings, assertion, transports[0])
        token = await credentials[assertion].get_token(SCOPE)
        headers = {"Authorization": f"Bearer {token.token}"}
        response = await client.get(f"{settings['api_url']}/{PATH}", headers=headers)
        return Response(response.content)

    return Starlette(routes=[Route("/", handler)])


async def _answer(send: Send, body: bytes) -> None:
    length = b"content-length", str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
