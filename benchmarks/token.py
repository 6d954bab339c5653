"""P3: a token for a downstream API that is in memory already, for one user and for many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle
from typing import Final

from aiocache import SimpleMemoryCache

from obo_asgi import AccessToken, TokenCache
from obo_asgi.tokens import TokenKey

from .entra_clients import add_account, azure_credential, azure_transport, msal_client, open_session
from .peers import build
from .report import Check, Report, Table
from .rounds import Call, Measured, middle, ratio, repeated, scaled, take_turns
from .world import API, World, start_world

SCOPE: Final = f"{API}/read"
OURS: Final = "ours, 1 user"
OURS_MANY: Final = "ours, 100,000 users"
AZURE: Final = "azure-identity, 1 user"


def run(*, quick: bool) -> Report:
    """Measure what a token costs that is there already."""
    with start_world(latency=0) as world:
        return asyncio.run(_measure(world, quick=quick))


async def _measure(world: World, *, quick: bool) -> Report:
    factor = 100 if quick else 1  # the names of the rows are those of a whole run
    async with AsyncExitStack() as stack:
        tokens = WarmTokens(world, stack)
        factories: dict[str, Callable[[], Awaitable[Call]]] = {
            "a dict (limit), 1 user": tokens.limit,
            OURS: partial(tokens.ours, users=1, cached=1),
            OURS_MANY: partial(tokens.ours, users=200 // factor, cached=100_000 // factor),
            AZURE: tokens.azure,
            "aiocache memory, 1 user": tokens.aiocache,
            "MSAL silent, 1 user": partial(tokens.msal, users=1),
            "MSAL silent, 1 user, in a thread": partial(tokens.msal, users=1, in_thread=True),
            "MSAL silent, 10,000 users": partial(tokens.msal, users=10_000 // factor),
            "MSAL silent by user name, 10,000 users": partial(
                tokens.msal, users=10_000 // factor, by_name=True
            ),
        }
        calls, missing = await build(factories)
        cases = {
            name: repeated(call, 5 if quick or "by user name" in name else 1000)
            for name, call in calls.items()
        }
        values = await take_turns(cases, rounds=2 if quick else 15)
    rows = [(name, [scaled(middle(values, name), 1e6)]) for name in values]
    return Report(
        "token: one for a downstream API that is in memory (P3)",
        [Table(["us"], rows)],
        _checks(values),
        missing,
    )


def _checks(values: Measured[float]) -> list[Check]:
    return [
        # 5 us where azure-identity takes 7.4 us: microseconds move with the machine.
        Check("ours / azure-identity", ratio(values, OURS, AZURE), "<=", 0.68, 0.34),
        Check("ours, 100,000 users / 1 user", ratio(values, OURS_MANY, OURS), "<=", 1.25),
    ]


class WarmTokens:
    """The cases: calls that return a token which is in memory by then."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self._world = world
        self._stack = stack

    async def limit(self) -> Call:
        """Look a token up and see that it has not ended."""
        held = {("tenant", "user", SCOPE): ("token", time.time() + 3600)}

        async def call() -> str:
            token, ends_at = held["tenant", "user", SCOPE]
            if ends_at < time.time():
                raise KeyError
            return token

        return call

    async def ours(self, *, users: int, cached: int) -> Call:
        """Acquire tokens for users in turn, while so many are cached for still others."""
        cache = TokenCache(max_entries=200_000)
        registration = self._world.registration
        for number in range(cached - users):
            key = TokenKey(
                "obo",
                registration.authority,
                registration.tenant_id,
                registration.client_id,
                owner=f"owner {number}",
                binding=number.to_bytes(32, "big"),
                scopes=(SCOPE,),
                claims=None,
            )
            cache.put(key, AccessToken("token", time.time() + 3600, time.time() + 3000))
        obo = await self._stack.enter_async_context(self._world.obo(cache=cache))
        downstreams = [await obo.downstream_for(token) for token in self._world.tokens(users)]
        for downstream in downstreams:
            await downstream["api"].acquire_token()
        turns = cycle(downstreams)
        return lambda: next(turns)["api"].acquire_token()

    async def azure(self) -> Call:
        """Get the token from a credential that is kept for its user."""
        session = await self._stack.enter_async_context(open_session(self._world.settings))
        token = self._world.entra.token()
        credential = azure_credential(self._world.settings, token, azure_transport(session))
        await credential.get_token(SCOPE)
        call: Call = partial(credential.get_token, SCOPE)
        return call

    async def aiocache(self) -> Call:
        """Get the token from aiocache's memory, with its own default time-out."""
        cache = SimpleMemoryCache()
        await cache.set("tenant user scope", ("token", time.time() + 3600), ttl=3600)
        call: Call = partial(cache.get, "tenant user scope")
        return call

    async def msal(self, *, users: int, in_thread: bool = False, by_name: bool = False) -> Call:
        """Get tokens of one of many users from MSAL's token cache."""
        client = await asyncio.to_thread(msal_client, self._world.settings)
        token = self._world.entra.token()
        for number in range(users):
            add_account(client, self._world.settings, f"user{number}", token, [SCOPE])
        [account] = client.get_accounts("user0@contoso.example")

        def silent() -> None:
            found = client.get_accounts("user0@contoso.example")[0] if by_name else account
            if client.acquire_token_silent([SCOPE], found) is None:
                raise RuntimeError("MSAL does not find a token")

        async def on_the_loop() -> None:
            silent()

        return partial(asyncio.to_thread, silent) if in_thread else on_the_loop
