"""Dashboards: three calls to two APIs, as ours, the peers and the limit make them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import anyio.to_thread
import httpx
from httpx_aiohttp import AiohttpTransport

from obo_asgi import OnBehalfOfMiddleware, downstream_from

from .calls import Receive, Scope, Send, bare_app, http_scope, receive_nothing, send_nowhere
from .entra_clients import (
    RawExchange,
    add_account,
    azure_credential,
    azure_transport,
    msal_client,
    open_session,
)
from .world import API, LATENCY, OTHER_API, World

Load = Callable[[str], Awaitable[None]]
"""Loads the dashboard of the user of a token."""

PARTS: Final = (("api", "data"), ("api", "settings"), ("other", "me"))
"""The API and the path of each call."""
SCOPES: Final = {"api": f"{API}/read", "other": f"{OTHER_API}/read"}
OURS: Final = "ours"
LIMIT: Final = "limit"


class Dashboards:
    """The cases; the peers and the limit take every token as it comes."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self._world = world
        self._stack = stack
        self._urls = {"api": world.api_url, "other": world.other_url}
        for _, path in PARTS:
            world.prepare(f"/{path}", LATENCY)

    def factories(self) -> dict[str, Callable[[], Awaitable[Load]]]:
        """Return what builds them, by name."""
        return {
            OURS: self._ours,
            LIMIT: self._limit,
            "MSAL, httpx, one after the other": self._msal_in_sequence,
            "MSAL silent, gathered": self._msal_gathered,
            "azure-identity kept, gathered": self._azure_gathered,
        }

    async def _ours(self) -> Load:
        obo = await self._stack.enter_async_context(self._world.obo())

        async def dashboard(scope: Scope, receive: Receive, send: Send) -> None:
            downstream = downstream_from(scope)
            await asyncio.gather(*(downstream[api].get(path, into=dict) for api, path in PARTS))
            await bare_app(scope, receive, send)

        app = OnBehalfOfMiddleware(dashboard, obo)

        async def load(token: str) -> None:
            await app(http_scope(token), receive_nothing, send_nowhere)

        return load

    async def _limit(self) -> Load:
        session = await self._stack.enter_async_context(open_session(self._world.settings))
        exchange = RawExchange(self._world.settings, session)
        tokens: dict[tuple[str, str], asyncio.Task[tuple[str, float]]] = {}

        async def part(assertion: str, api: str, path: str) -> None:
            key = assertion, api
            if key not in tokens:
                tokens[key] = asyncio.ensure_future(exchange(assertion, SCOPES[api]))
            token, ends_at = await asyncio.shield(tokens[key])
            if ends_at < time.time():
                raise KeyError
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(f"{self._urls[api]}/{path}", headers=headers) as response:
                await response.read()

        return partial(_gathered, part)

    async def _msal_in_sequence(self) -> Load:
        """Do as MSAL's samples do: exchange for each call, and call; OBO reads no cache."""
        msal = await asyncio.to_thread(msal_client, self._world.settings)
        client = await self._stack.enter_async_context(httpx.AsyncClient())

        async def load(token: str) -> None:
            for api, path in PARTS:
                result = await anyio.to_thread.run_sync(
                    msal.acquire_token_on_behalf_of, token, [SCOPES[api]]
                )
                await self._get(client, api, path, result["access_token"])

        return load

    async def _msal_gathered(self) -> Load:
        """Ask MSAL's token cache first, by an account that is at hand."""
        msal = await asyncio.to_thread(msal_client, self._world.settings)
        settings = self._world.settings
        accounts: dict[tuple[str, str], object] = {}
        client = await self._fast_client()

        def acquire(assertion: str, api: str) -> str:
            scopes, key = [SCOPES[api]], (assertion, api)
            result = msal.acquire_token_silent(scopes, accounts.get(key))
            if result is None:
                result = msal.acquire_token_on_behalf_of(assertion, scopes)
                name = assertion[-20:]
                add_account(msal, settings, name, result["access_token"], scopes)
                [accounts[key]] = msal.get_accounts(f"{name}@contoso.example")
            return str(result["access_token"])

        async def part(assertion: str, api: str, path: str) -> None:
            token = await anyio.to_thread.run_sync(acquire, assertion, api)
            await self._get(client, api, path, token)

        return partial(_gathered, part)

    async def _azure_gathered(self) -> Load:
        """Keep a credential for each user."""
        session = await self._stack.enter_async_context(open_session(self._world.settings))
        transport = azure_transport(session)
        client = await self._fast_client()
        credentials: dict[str, Any] = {}
        settings = self._world.settings

        async def part(assertion: str, api: str, path: str) -> None:
            if assertion not in credentials:
                credentials[assertion] = azure_credential(settings, assertion, transport)
            token = await credentials[assertion].get_token(SCOPES[api])
            await self._get(client, api, path, token.token)

        return partial(_gathered, part)

    async def _fast_client(self) -> httpx.AsyncClient:
        """Give the peers the fastest client that there is, which is what ours runs on."""
        session = open_session(self._world.settings)
        client = httpx.AsyncClient(transport=AiohttpTransport(client=session))
        return await self._stack.enter_async_context(client)

    async def _get(self, client: httpx.AsyncClient, api: str, path: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        response = await client.get(f"{self._urls[api]}/{path}", headers=headers)
        response.raise_for_status().json()


async def _gathered(part: Callable[[str, str, str], Awaitable[None]], token: str) -> None:
    await asyncio.gather(*(part(token, api, path) for api, path in PARTS))
