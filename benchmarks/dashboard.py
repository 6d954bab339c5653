"""P6: one user's dashboard, three calls of 50 ms and two scopes, cold and warm."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from statistics import median
from typing import NamedTuple

from .dashboards import OURS, Dashboards, Load
from .peers import build
from .report import Check, Report, Table, exactly
from .rounds import cost_of, take_turns
from .world import LATENCY, World, start_world


class Loads(NamedTuple):
    """A cold load and then a warm one of the same user."""

    cold: float
    warm: float
    exchanges: int


def run(*, quick: bool) -> Report:
    """Measure what a user waits for."""
    with start_world() as world:
        return asyncio.run(_measure(world, rounds=1 if quick else 11))


async def _measure(world: World, *, rounds: int) -> Report:
    async with AsyncExitStack() as stack:
        loads, missing = await build(Dashboards(world, stack).factories())
        cases = {name: partial(_load_twice, world, load) for name, load in loads.items()}
        await take_turns(cases, rounds=1)  # connections, keys, imports
        seen = await take_turns(cases, rounds=rounds)
    rows = [
        (
            name,
            [
                median(load.cold for load in loaded) * 1000,
                median(load.warm for load in loaded) * 1000,
                max(load.exchanges for load in loaded),
            ],
        )
        for name, loaded in seen.items()
    ]
    return Report(
        "dashboard: 3 calls at 50 ms, 2 scopes, Entra at 50 ms (P6)",
        [Table(["cold ms", "warm ms", "exchanges"], rows)],
        _checks(seen[OURS]),
        missing,
    )


def _checks(loads: list[Loads]) -> list[Check]:
    cold, warm = median(load.cold for load in loads), median(load.warm for load in loads)
    worst = max((load.exchanges for load in loads), key=lambda number: abs(number - 2))
    return [
        exactly("exchanges for a cold and a warm load", worst, 2),
        Check("cold / (50 + 50 ms)", cold / (2 * LATENCY), "<=", 1.10, 1.05),
        Check("warm / 50 ms", warm / LATENCY, "<=", 1.08, 1.04),
    ]


async def _load_twice(world: World, load: Load) -> Loads:
    token = world.entra.token()
    world.take_counts()
    cold = await cost_of(load(token))
    warm = await cost_of(load(token))
    exchanges = world.take_counts().get(world.token_path, 0)
    return Loads(cold.elapsed, warm.elapsed, exchanges)
