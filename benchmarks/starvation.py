"""One API hangs: what 300 calls that wait for it take from another API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import httpx

from .entra_clients import open_session
from .peers import build
from .report import Check, Report, Table
from .rounds import Measured, middle, percentile, ratio, scaled, take_turns
from .world import World, start_world

HUNG: Final = 300
CALLS: Final = 200
AT_ONCE: Final = 10
LATENCY: Final = 0.01
"""Seconds that the other API takes for an answer."""
PATIENCE: Final = 0.1
"""Seconds that a call waits for a connection."""
OURS: Final = "ours"
QUIET: Final = ", quiet"
TROUBLED: Final = ", troubled"

Get = Callable[[str, str], Awaitable[object]]
"""Calls an API, "api" or "other", at a path."""


def run(*, quick: bool) -> Report:
    """Measure the p95 of one API while another one answers nobody."""
    with start_world() as world:
        world.prepare("/hung", None)
        world.prepare("/me", LATENCY)
        values, missing = asyncio.run(_measure(world, rounds=1 if quick else 9))
    rows = [
        (name, [scaled(middle(values, f"{name}{when}"), 1000) for when in (QUIET, TROUBLED)])
        for name in dict.fromkeys(key.partition(",")[0] for key in values)
    ]
    grown = ratio(values, OURS + TROUBLED, OURS + QUIET)
    return Report(
        f"starvation: {HUNG} calls of one API hang, another takes {LATENCY * 1000:.0f} ms",
        [Table(["p95 ms", "p95 ms meanwhile"], rows)],
        [Check("p95 meanwhile / before", grown, "<=", 1.2)],
        missing,
    )


async def _measure(world: World, *, rounds: int) -> tuple[Measured[float], dict[str, str]]:
    async with AsyncExitStack() as stack:
        callers = Callers(world, stack)
        gets, missing = await build(
            {
                OURS: callers.ours,
                "limit (aiohttp)": callers.limit,
                "httpx with one client": callers.httpx,
            }
        )
        cases: dict[str, Callable[[], Awaitable[float]]] = {}
        for name, get in gets.items():
            cases[name + QUIET] = partial(_p95, get)
            cases[name + TROUBLED] = partial(_p95_while_hanging, get)
        await take_turns(cases, rounds=1)  # connections, the token
        return await take_turns(cases, rounds=rounds), missing


async def _p95(get: Get) -> float:
    """Return the seconds that 95 of 100 calls of the other API do not exceed."""
    seconds: list[float] = []

    async def worker() -> None:
        for _ in range(CALLS // AT_ONCE):
            started = time.perf_counter()
            await get("other", "me")
            seconds.append(time.perf_counter() - started)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return percentile(seconds, 95)


async def _p95_while_hanging(get: Get) -> float:
    hung = [asyncio.create_task(_wait_for(get)) for _ in range(HUNG)]
    await asyncio.sleep(0.5)  # they have the connections that they can get
    try:
        return await _p95(get)
    finally:
        for task in hung:
            task.cancel()
        await asyncio.gather(*hung, return_exceptions=True)


async def _wait_for(get: Get) -> None:
    await get("api", "hung")


class Callers:
    """The cases."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._world = world
        self._urls = {"api": world.api_url, "other": world.other_url}

    async def ours(self) -> Get:
        """Call by the downstream client of a user."""
        obo = await self._stack.enter_async_context(self._world.obo())
        downstream = await obo.downstream_for(self._world.entra.token())
        return lambda api, path: downstream[api].get(path)

    async def limit(self) -> Get:
        """Call by aiohttp, with a pool of connections for each host."""
        session = await self._stack.enter_async_context(open_session(self._world.settings))

        async def get(api: str, path: str) -> object:
            async with session.get(f"{self._urls[api]}/{path}") as response:
                return await response.read()

        return get

    async def httpx(self) -> Get:
        """Call by one httpx client, whose hundred connections all hosts share."""
        timeout = httpx.Timeout(None, pool=PATIENCE)
        client = await self._stack.enter_async_context(httpx.AsyncClient(timeout=timeout))

        async def get(api: str, path: str) -> object:
            try:
                return await client.get(f"{self._urls[api]}/{path}")
            except httpx.PoolTimeout:
                return None  # its time counts all the same

        return get
