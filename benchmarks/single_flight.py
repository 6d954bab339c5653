"""P5: simultaneous cold requests of one user for one API, in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from statistics import median
from typing import Final, NamedTuple

import anyio.to_thread

from obo_asgi import DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware, downstream_from
from obo_asgi.testing import FakeEntra

from .calls import Receive, Scope, Send, bare_app, http_scope, receive_nothing, send_nowhere
from .entra_clients import RawExchange, azure_credential, azure_transport, msal_client, open_session
from .peers import build
from .report import Check, Report, Table, exactly
from .rounds import Call, take_turns
from .world import API, LATENCY, World, start_world

CROWD: Final = 500
OTHERS: Final = 99
SCOPE: Final = f"{API}/read"
OURS: Final = "ours"
OURS_CANCELLED: Final = "ours, the first of 100 cancelled"
LOCK_CANCELLED: Final = "an asyncio.Lock, the first of 100 cancelled"


class Rush(NamedTuple):
    """What a crowd of callers has met."""

    elapsed: float
    exchanges: int


Ask = Callable[[], Awaitable[tuple[Call, Callable[[], int]]]]
"""Makes ready for one crowd: returns the call that each of it makes, and the exchanges so far."""


def run(*, quick: bool) -> Report:
    """Measure how many exchanges a crowd costs."""
    with start_world() as world:
        return asyncio.run(_measure(world, rounds=1 if quick else 5))


async def _measure(world: World, *, rounds: int) -> Report:
    async with AsyncExitStack() as stack:
        crowd = Crowd(world, stack)
        asks, missing = await build(
            {
                OURS: crowd.ours,
                "ours, whole requests": crowd.ours_requests,
                "limit": crowd.limit,
                "MSAL in threads": crowd.msal,
                "azure-identity, one credential": crowd.azure,
                OURS_CANCELLED: crowd.ours,
                LOCK_CANCELLED: crowd.lock,
            }
        )
        cases = {
            name: partial(_cancel_first if "cancelled" in name else _all_at_once, ask)
            for name, ask in asks.items()
        }
        seen = await take_turns(cases, rounds=rounds)
    rows = [
        (name, [max(rush.exchanges for rush in rushes), _milliseconds(rushes)])
        for name, rushes in seen.items()
    ]
    return Report(
        f"single_flight: {CROWD} simultaneous cold requests, Entra at 50 ms (P5)",
        [Table(["exchanges", "ms"], rows)],
        _checks(seen[OURS], seen[OURS_CANCELLED]),
        missing,
    )


def _milliseconds(rushes: list[Rush]) -> float:
    return median(rush.elapsed for rush in rushes) * 1000


def _checks(all_at_once: list[Rush], cancelled: list[Rush]) -> list[Check]:
    elapsed = median(rush.elapsed for rush in all_at_once)
    most, most_cancelled = (
        max(rush.exchanges for rush in rushes) for rushes in (all_at_once, cancelled)
    )
    return [
        exactly(f"exchanges for {CROWD} requests", most, 1),
        exactly(f"exchanges for the {OTHERS} others", most_cancelled, 1),
        Check("elapsed / Entra's latency", elapsed / LATENCY, "<=", 1.5, 1.25),
    ]


async def _all_at_once(ask: Ask) -> Rush:
    call, exchanges = await ask()
    before = exchanges()
    started = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(CROWD)))
    return Rush(time.perf_counter() - started, exchanges() - before)


async def _cancel_first(ask: Ask) -> Rush:
    call, exchanges = await ask()
    before = exchanges()
    started = time.perf_counter()
    first = asyncio.ensure_future(call())
    await asyncio.sleep(LATENCY / 5)
    others = [asyncio.ensure_future(call()) for _ in range(OTHERS)]
    await asyncio.sleep(LATENCY / 5)
    first.cancel()
    await asyncio.gather(*others)
    return Rush(time.perf_counter() - started, exchanges() - before)


class Crowd:
    """The cases; each crowd comes with a token that nobody has seen before.

    Ours asks FakeEntra in this process, which checks what it is sent. It would be the bottleneck
    of those who ask 500 times: they ask the world's Entra of prepared answers.
    """

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self._world = world
        self._stack = stack
        self._asked = 0

    async def ours(self) -> Ask:
        """Acquire a token of one `Downstream`."""
        entra, obo = await self._offline()

        async def ask() -> tuple[Call, Callable[[], int]]:
            downstream = await obo.downstream_for(entra.token("alice"))
            return downstream["api"].acquire_token, lambda: entra.exchanges

        return ask

    async def ours_requests(self) -> Ask:
        """Send whole requests through our middleware to an app that acquires a token."""
        entra, obo = await self._offline()

        async def acquire(scope: Scope, receive: Receive, send: Send) -> None:
            await downstream_from(scope)["api"].acquire_token()
            await bare_app(scope, receive, send)

        app = OnBehalfOfMiddleware(acquire, obo)

        async def ask() -> tuple[Call, Callable[[], int]]:
            scope = http_scope(entra.token("alice"))
            call = partial(app, scope, receive_nothing, send_nowhere)
            return call, lambda: entra.exchanges

        return ask

    async def _offline(self) -> tuple[FakeEntra, OnBehalfOf]:
        """Return a FakeEntra and our wiring to it, which has the keys already."""
        entra = FakeEntra()
        entra.add_api(API, scopes=["read"])
        obo = OnBehalfOf(
            entra.registration(),
            downstream={"api": DownstreamAPI(scopes=[SCOPE])},
            http_client=await self._stack.enter_async_context(entra.client()),
        )
        await (await obo.downstream_for(entra.token("bob")))["api"].acquire_token()
        entra.latency = LATENCY
        return entra, obo

    async def limit(self) -> Ask:
        """Wait for one task that posts the form."""
        exchange = await self._raw_exchange()

        async def ask() -> tuple[Call, Callable[[], int]]:
            flights: dict[str, asyncio.Future[object]] = {}

            async def call() -> object:
                if SCOPE not in flights:
                    flights[SCOPE] = asyncio.ensure_future(exchange("assertion", SCOPE))
                return await asyncio.shield(flights[SCOPE])

            return call, self._exchanges

        return ask

    async def lock(self) -> Ask:
        """Let the caller that has the lock post the form, and the others look after it."""
        exchange = await self._raw_exchange()

        async def ask() -> tuple[Call, Callable[[], int]]:
            held: dict[str, object] = {}
            lock = asyncio.Lock()

            async def call() -> object:
                async with lock:
                    if SCOPE not in held:
                        held[SCOPE] = await exchange("assertion", SCOPE)
                return held[SCOPE]

            return call, self._exchanges

        return ask

    async def msal(self) -> Ask:
        """Let MSAL exchange in as many threads as Starlette has."""
        client = await asyncio.to_thread(msal_client, self._world.settings)
        exchange = partial(client.acquire_token_on_behalf_of, "assertion", [SCOPE])

        async def ask() -> tuple[Call, Callable[[], int]]:
            return partial(anyio.to_thread.run_sync, exchange), self._exchanges

        return ask

    async def azure(self) -> Ask:
        """Ask one credential of azure-identity, new for each crowd."""
        session = await self._stack.enter_async_context(open_session(self._world.settings))
        transport = azure_transport(session)

        async def ask() -> tuple[Call, Callable[[], int]]:
            credential = azure_credential(self._world.settings, "assertion", transport)
            return partial(credential.get_token, SCOPE), self._exchanges

        return ask

    async def _raw_exchange(self) -> RawExchange:
        session = await self._stack.enter_async_context(open_session(self._world.settings))
        exchange = RawExchange(self._world.settings, session)
        await exchange("assertion", SCOPE)
        return exchange

    def _exchanges(self) -> int:
        self._asked += self._world.take_counts().get(self._world.token_path, 0)
        return self._asked
