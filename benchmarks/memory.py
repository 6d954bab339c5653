"""P10: the memory that one cached token takes above its own bytes, and how much a million take."""

from __future__ import annotations

import asyncio
import hashlib
import time
import tracemalloc
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Any, Final

from aiocache import SimpleMemoryCache

from obo_asgi import AccessToken, TokenCache, User
from obo_asgi._types import Secret
from obo_asgi.tokens import OnBehalfOfGrant, TokenKey

from .entra_clients import add_account, azure_credential, azure_transport, msal_client, open_session
from .peers import build
from .report import Check, Report, Table
from .world import API, World, start_world

SCOPES: Final = (f"{API}/read",)
TOKEN_BYTES: Final = 1_500
OURS: Final = "ours"

Fill = Callable[[int], Awaitable[object]]
"""Caches the tokens of so many users, and returns what holds them."""


def run(*, quick: bool) -> Report:
    """Measure the memory of cached tokens."""
    with start_world(latency=0) as world:
        sizes, missing = asyncio.run(_measure(world, 100 if quick else 5_000))
    growth = _growth(bound=500, users=10_000) if quick else _growth(bound=None, users=1_000_000)
    return Report(
        "memory: one cached token above its payload (P10)",
        [Table(["bytes"], [(name, [size]) for name, size in sizes.items()])],
        [
            Check("ours, above the payload", sizes[OURS], "<=", 1_000, 600, unit=" bytes"),
            Check("ours, 1,000,000 users / 100,000 users", growth, "<=", 1.05),
        ],
        missing,
    )


async def _measure(world: World, users: int) -> tuple[dict[str, float], dict[str, str]]:
    async with AsyncExitStack() as stack:
        caches = Caches(world, stack)
        fills, missing = await build(
            {
                OURS: caches.ours,
                "a dict (limit)": caches.limit,
                "aiocache memory": caches.aiocache,
                "MSAL": caches.msal,
                "azure-identity, a credential each": caches.azure,
            }
        )
        return {name: await _bytes_of(fill, users) for name, fill in fills.items()}, missing


async def _bytes_of(fill: Fill, users: int) -> float:
    """Return what a token takes above its own bytes, after a first one, which brings imports."""
    await fill(1)
    tracemalloc.start()
    try:
        held = await fill(users)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del held
    return size / users - TOKEN_BYTES


def _growth(*, bound: int | None, users: int) -> float:
    """Return how much more memory all users take than the first tenth of them, above the bound."""
    cache = TokenCache() if bound is None else TokenCache(max_entries=bound)
    tracemalloc.start()
    try:
        for number in range(users):
            if number == users // 10:
                before, _ = tracemalloc.get_traced_memory()
            cache.put(_key(number), _access_token(number))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after / before


def _key(number: int) -> TokenKey:
    """Return a key as the wiring makes it: ids and digest are the caller's own, the rest shared."""
    user = User(
        oid=_guid(number),
        tid=_guid(1),
        claims=MappingProxyType({}),
        scopes=(),
        roles=(),
        expires_at=0,
    )
    digest = hashlib.sha256(user.oid.encode()).digest()
    grant = OnBehalfOfGrant(user, Secret(""), digest, authority="authority", client_id="client")
    return grant.key(SCOPES, None)


def _guid(number: int) -> str:
    return str(uuid.UUID(int=number))


def _token(number: int) -> str:
    return f"{number:0>{TOKEN_BYTES}}"


def _access_token(number: int) -> AccessToken:
    now = time.time()
    return AccessToken(_token(number), now + 3600, now + 3000)


class Caches:
    """The cases."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self._world = world
        self._stack = stack

    async def ours(self) -> Fill:
        """Put tokens into our cache."""

        async def fill(users: int) -> TokenCache:
            cache = TokenCache()
            for number in range(users):
                cache.put(_key(number), _access_token(number))
            return cache

        return fill

    async def limit(self) -> Fill:
        """Put token and end under the caller's digest."""

        async def fill(users: int) -> dict[bytes, tuple[str, float]]:
            return {
                hashlib.sha256(_guid(number).encode()).digest(): (_token(number), time.time())
                for number in range(users)
            }

        return fill

    async def aiocache(self) -> Fill:
        """Put token and end under a name, with a time to live."""

        async def fill(users: int) -> SimpleMemoryCache:
            cache = SimpleMemoryCache()
            for number in range(users):
                key = f"{_guid(1)} {_guid(number)} {SCOPES[0]}"
                await cache.set(key, (_token(number), time.time()), ttl=3600)
            return cache

        return fill

    async def msal(self) -> Fill:
        """Let MSAL cache what Entra answered."""
        await asyncio.to_thread(msal_client, self._world.settings)

        async def fill(users: int) -> object:
            client = await asyncio.to_thread(msal_client, self._world.settings)
            for number in range(users):
                name, token = _guid(number), _token(number)
                add_account(client, self._world.settings, name, token, list(SCOPES))
            return client

        return fill

    async def azure(self) -> Fill:
        """Let every user have a credential, all of them over one transport."""
        session = await self._stack.enter_async_context(open_session(self._world.settings))
        transport = azure_transport(session)
        self._world.set_token(_token(0))

        async def fill(users: int) -> list[Any]:
            credentials = []
            for number in range(users):
                credential = azure_credential(self._world.settings, _guid(number), transport)
                await credential.get_token(*SCOPES)
                credentials.append(credential)
            return credentials

        return fill
