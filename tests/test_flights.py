"""Single flight: one run for all who want the same, which no caller's end takes away."""

from __future__ import annotations

import asyncio

import pytest

from obo_asgi._flights import Flights

pytestmark = pytest.mark.anyio


class Work:
    """Counts its runs and ends when the test says so."""

    def __init__(self, result: str = "result") -> None:
        self.result = result
        self.runs = 0
        self.stored: list[str] = []
        self.gate = asyncio.Event()

    async def __call__(self) -> str:
        self.runs += 1
        await self.gate.wait()
        self.stored.append(self.result)
        return self.result


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def callers(flights: Flights[str], work: Work, count: int) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(flights.join("key", work)) for _ in range(count)]
    await settle()
    return tasks


async def test_callers_at_the_same_time_share_one_run() -> None:
    """However many want the same, it runs once and all get its result."""
    flights, work = Flights[str](), Work()
    tasks = await callers(flights, work, 200)

    work.gate.set()

    assert ["result"] * 200 == await asyncio.gather(*tasks)
    assert 1 == work.runs


async def test_different_keys_fly_apart() -> None:
    """What one key waits for holds up no other."""
    flights, slow, quick = Flights[str](), Work("slow"), Work("quick")
    waiting = asyncio.create_task(flights.join("slow", slow))
    quick.gate.set()

    assert "quick" == await flights.join("quick", quick)
    slow.gate.set()
    assert "slow" == await waiting


async def test_the_next_caller_starts_a_new_run() -> None:
    """A flight ends with its run; nothing is remembered."""
    flights, work = Flights[str](), Work()
    work.gate.set()

    await flights.join("key", work)
    assert flights.get("key") is None
    await flights.join("key", work)

    assert 2 == work.runs


@pytest.mark.parametrize("cancelled", [[0], [1], [0, 1], [2], [1, 2]], ids=str)
async def test_a_cancelled_caller_leaves_the_others_alone(cancelled: list[int]) -> None:
    """Whoever is cancelled, also the first, the others get the result of the one run."""
    flights, work = Flights[str](), Work()
    tasks = await callers(flights, work, 3)

    for index in cancelled:
        tasks[index].cancel()
    await settle()
    work.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert cancelled == [index for index, task in enumerate(tasks) if task.cancelled()]
    assert ["result"] * (3 - len(cancelled)) == [each for each in results if each == "result"]
    assert 1 == work.runs


async def test_a_flight_nobody_waits_for_stores_its_result() -> None:
    """With every caller gone the run goes on to its end."""
    flights, work = Flights[str](), Work()
    tasks = await callers(flights, work, 2)

    for task in tasks:
        task.cancel()
    await settle()
    assert ([], True) == (work.stored, flights.get("key") is not None)

    work.gate.set()
    await settle()
    assert (["result"], True) == (work.stored, flights.get("key") is None)


async def test_a_caller_after_a_cancelled_one_joins_the_same_flight() -> None:
    """Who comes while the abandoned run still goes on does not start another."""
    flights, work = Flights[str](), Work()
    (first,) = await callers(flights, work, 1)
    first.cancel()
    await settle()

    (second,) = await callers(flights, work, 1)
    work.gate.set()

    assert "result" == await second
    assert 1 == work.runs


async def test_a_caller_with_a_timeout_leaves_the_flight() -> None:
    """A caller's own time limit ends its waiting, not the run."""
    flights, work = Flights[str](), Work()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await flights.join("key", work)
    work.gate.set()

    assert "result" == await flights.join("key", work)
    assert 1 == work.runs


async def test_start_does_not_wait() -> None:
    """A flight can be started in the background and be joined later."""
    flights, work = Flights[str](), Work()

    task = flights.start("key", work)

    assert task is flights.start("key", work)
    assert task is flights.get("key")
    work.gate.set()
    assert "result" == await flights.join("key", work)


async def test_aclose_ends_what_is_under_way() -> None:
    """After `aclose` nothing runs any more, and a new flight can start."""
    flights, work = Flights[str](), Work()
    task = flights.start("key", work)
    await settle()

    await flights.aclose()

    assert (True, [], None) == (task.cancelled(), work.stored, flights.get("key"))
    work.gate.set()
    assert "result" == await flights.join("key", work)


async def test_aclose_waits_for_what_takes_its_time_to_end() -> None:
    """`aclose` returns when the run has cleaned up behind itself."""
    steps: list[str] = []

    async def tidy() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            steps.append("tidied up")
        return ""

    flights = Flights[str]()
    flights.start("key", tidy)
    await settle()
    await flights.aclose()

    assert ["tidied up"] == steps


async def test_aclose_without_flights_does_nothing() -> None:
    """Closing what never flew, or closing twice, does no harm."""
    flights = Flights[str]()

    await flights.aclose()
    await flights.aclose()

    assert flights.get("key") is None


def test_one_loop_after_another() -> None:
    """A flight that a closed loop left behind is not joined in the next loop, nor kept."""
    flights = Flights[str]()

    async def leave_behind() -> None:
        flights.start("key", Work())
        await settle()

    async def fly() -> tuple[bool, str]:
        work = Work()
        work.gate.set()
        is_empty = flights.get("key") is None
        return is_empty, await flights.join("key", work)

    asyncio.run(leave_behind())
    assert (True, "result") == asyncio.run(fly())
    assert (True, "result") == asyncio.run(fly())
    assert 1 == len(flights._by_loop)
