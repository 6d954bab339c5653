"""Cases measured in turn: medians over rounds, and ratios and differences within each round.

Two runs of the same thing differ by a fifth on a busy machine; within one round they differ less.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from statistics import median
from typing import NamedTuple, TypeVar

T = TypeVar("T")

Call = Callable[[], Awaitable[object]]
"""One piece of the work that is measured."""


class Cost(NamedTuple):
    """What a piece of work has cost, in seconds."""

    elapsed: float
    cpu: float
    """Of all threads of this process."""


Measured = Mapping[str, list[T]]
"""The values of each case by name, one a round."""


async def take_turns(
    cases: Mapping[str, Callable[[], Awaitable[T]]], *, rounds: int
) -> Measured[T]:
    """Measure every case once a round, in turn; every second round goes backwards."""
    values: dict[str, list[T]] = {name: [] for name in cases}
    gc.collect()
    gc.freeze()  # what was built before is not walked through again while others are measured
    try:
        for number in range(rounds):
            for name in list(cases) if number % 2 == 0 else reversed(list(cases)):
                values[name].append(await cases[name]())
    finally:
        gc.unfreeze()
    return values


async def cpu_of(call: Call, number: int) -> float:
    """Return the seconds of CPU for one call; nothing that waits can be measured like this."""
    started = time.process_time()
    for _ in range(number):
        await call()
    return (time.process_time() - started) / number


def repeated(call: Call, number: int) -> Callable[[], Awaitable[float]]:
    """Return the case that measures the CPU of a call over so many of them."""
    return lambda: cpu_of(call, number)


async def cost_of(work: Awaitable[object]) -> Cost:
    """Return what it costs to wait for some work."""
    started, cpu = time.perf_counter(), time.process_time()
    await work
    return Cost(time.perf_counter() - started, time.process_time() - cpu)


def middle(values: Measured[float], name: str) -> float | None:
    """Return a case's median; None if the case is missing."""
    return median(values[name]) if name in values else None


def ratio(values: Measured[float], over: str, under: str) -> float | None:
    """Return the median of the ratio of two cases, taken in each round."""
    return _paired(values, over, under, lambda one, other: one / other)


def difference(values: Measured[float], one: str, other: str) -> float | None:
    """Return the median of the difference of two cases, taken in each round."""
    return _paired(values, one, other, lambda value, base: value - base)


def part(values: Measured[Cost], name: str) -> Measured[float]:
    """Return one field of the costs: "elapsed" or "cpu"."""
    return {case: [getattr(cost, name) for cost in costs] for case, costs in values.items()}


def scaled(value: float | None, factor: float) -> float | None:
    """Return a value in another unit, if there is one."""
    return None if value is None else value * factor


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]


def _paired(
    values: Measured[float], one: str, other: str, join: Callable[[float, float], float]
) -> float | None:
    if one not in values or other not in values:
        return None
    return median(map(join, values[one], values[other]))
