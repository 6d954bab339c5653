"""P9: whole requests, warm, with one downstream call each; and that call alone."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from obo_asgi._default_client import create_client, create_ssl_context

from .calling_apps import PATH, SOME_TOKEN
from .peers import build
from .report import Check, Report, Table
from .rounds import Call, Measured, cost_of, middle, ratio, scaled, take_turns
from .servers import CONNECTIONS, Generator, serve
from .world import World, start_world

USERS: Final = 100
OURS: Final = "ours"
SAME: Final = "the same client, no auth"
LIMIT: Final = "aiohttp, no auth (limit)"
FASTAPI: Final = "fastapi-azure-auth + MSAL + httpx"
AZURE: Final = "Starlette + azure-identity kept + httpx"
APPS: Final = {
    OURS: ("ours", ()),
    SAME: ("SameClient", ()),
    LIMIT: ("Limit", ()),
    FASTAPI: ("fastapi_msal", ("fastapi", "fastapi_azure_auth")),
    AZURE: ("starlette_azure", ("starlette", "azure.identity")),
}
"""The factories of the apps, and what they import."""


CALL: Final = "one downstream call, ours"
CLIENT: Final = "one call of the client that it wraps"


def run(*, quick: bool) -> Report:
    """Measure whole requests through a server, and one downstream call."""
    with start_world() as world:
        world.prepare(f"/{PATH}", 0.0, '{"value": "what one downstream call brings"}')
        rates, missing = asyncio.run(_whole_requests(world, quick=quick))
        calls = asyncio.run(_calls_alone(world, quick=quick))
    return Report(
        f"end_to_end: uvicorn, {CONNECTIONS} connections, {USERS} users, one call each (P9)",
        [
            Table(["requests/s"], [(name, [middle(rates, name)]) for name in rates]),
            Table(["CPU us"], [(name, [scaled(middle(calls, name), 1e6)]) for name in calls]),
        ],
        [
            Check("requests/s, ours / same client", ratio(rates, OURS, SAME), ">=", 0.80, 0.90),
            Check("requests/s, ours / FastAPI + MSAL", ratio(rates, OURS, FASTAPI), ">=", 5, 8),
            Check("one call, ours / its client", ratio(calls, CALL, CLIENT), "<=", 1.25),
        ],
        missing,
    )


async def _whole_requests(world: World, *, quick: bool) -> tuple[Measured[float], dict[str, str]]:
    tokens = world.tokens(USERS)
    with ExitStack() as stack:
        generator = stack.enter_context(Generator())

        async def build_case(
            factory: str, imports: tuple[str, ...]
        ) -> Callable[[], Awaitable[float]]:
            for module in imports:
                importlib.import_module(module)
            port = stack.enter_context(serve(f"benchmarks.calling_apps:{factory}", world))
            for _ in range(1 if quick else 2):
                await generator.slices(port, tokens, seconds=1)()  # tokens, connections
            return generator.slices(port, tokens, seconds=0.2 if quick else 0.4)

        cases, missing = await build(
            {name: partial(build_case, *parts) for name, parts in APPS.items()}
        )
        return await take_turns(cases, rounds=1 if quick else 21), missing


async def _calls_alone(world: World, *, quick: bool) -> Measured[float]:
    """Measure the CPU of a call, with as many in flight as there are connections above."""
    url = f"{world.api_url}/{PATH}"
    async with world.obo() as obo, create_client(create_ssl_context()) as client:
        downstream = await obo.downstream_for(world.entra.token())
        calls: dict[str, Call] = {
            CALL: lambda: downstream["api"].get(PATH),
            CLIENT: lambda: client.get(url, headers=SOME_TOKEN),
        }
        cases = {
            name: partial(_in_flight, call, 1 if quick else 20) for name, call in calls.items()
        }
        await take_turns(cases, rounds=1)  # connections, the token
        return await take_turns(cases, rounds=1 if quick else 15)


async def _in_flight(call: Call, each: int) -> float:
    async def worker() -> None:
        for _ in range(each):
            await call()

    cost = await cost_of(asyncio.gather(*(worker() for _ in range(CONNECTIONS))))
    return cost.cpu / (CONNECTIONS * each)
