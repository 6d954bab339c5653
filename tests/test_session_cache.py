"""Where sessions are kept: a cache in trouble is never taken for a session that is not there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from msgspec.structs import replace

from obo_asgi import (
    CacheUnavailableError,
    ConfigurationError,
    OnBehalfOf,
    SessionNotFoundError,
    SessionUnreadableError,
    TokenCache,
    downstream_from,
    error_response,
)
from obo_asgi._types import Scope
from obo_asgi.cache._memory import MemoryCache
from tests.session_world import (
    OTHER_READ,
    RING,
    WRITE,
    World,
    call,
    call_late,
    request,
    settled,
)
from tests.shared_cache import answer, fail

pytestmark = pytest.mark.anyio

NEW_KEY = b"n" * 32


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@pytest.fixture
def obo(world: World) -> OnBehalfOf:
    return world.process()


@pytest.fixture
def worker(world: World) -> OnBehalfOf:
    """Return another process, which shares the cache alone."""
    return world.process()


async def outcome(work: Awaitable[object]) -> type:
    """Return the class of what comes of some work."""
    try:
        await work
    except Exception as error:
        return type(error)
    return type(None)


def failing(*methods: str) -> Any:
    """Return a fault: these calls of the cache raise."""

    def fault(method: str) -> Any:
        if method in methods:
            raise ConnectionError("down")

    return fault


# --- Where it is kept -----------------------------------------------------------------------------


async def test_a_shared_cache_needs_keys_of_its_own(world: World) -> None:
    """A key that is derived from the client secret holds tokens, and is refused for sessions."""
    obo = world.process(cache=TokenCache(shared=world.shared))
    alice = await world.user(obo)
    await alice["partner"].get("data")
    for work in (alice.start_session("job-1"), call(obo, "job-1"), obo.end_session("job-1")):
        with pytest.raises(ConfigurationError, match=r"keys=\[key\].*obo_asgi\.new_cache_key\(\)"):
            await work
    await obo.purge(alice.user.tid, alice.user.oid)

    assert (1, 0) == world.grants


async def test_in_memory_it_works_and_warns_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a shared cache sessions work within the process, and the log says so, once."""
    now = [world.now]
    obo = world.process(cache=TokenCache(clock=lambda: now[0]))
    keys = [await world.start(obo, name, key=f"job of {name}") for name in ("alice", "bob")]
    now[0] += 4000
    seen = [await call(obo, key, api) for key in keys for api in ("partner", "other")]
    await obo.end_session(keys[0])
    with pytest.raises(SessionNotFoundError):
        await call(obo, keys[0])
    await obo.aclose()
    seen.append(await call(obo, keys[1]))

    assert [world.oid("alice")] * 2 + [world.oid("bob")] * 3 == seen
    assert ["WARNING"] == [
        record.levelname for record in caplog.records if "in the memory" in record.message
    ]


async def test_the_memory_is_bounded(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Ten thousand sessions are kept in memory; the one unused for longest goes first."""
    cache = TokenCache()
    obo = world.process(cache=cache)
    await world.start(obo, key="job-1")
    records = cache.sessions
    record = await records.read(world.name("job-1"))
    assert record is not None
    for number in range(10_000):
        await records.write(f"name {number}", record)
    held = [await records.read(f"name {number}") for number in (0, 9999)]

    assert [None, record, record] == [await records.read(world.name("job-1")), *held]


async def test_a_memory_cache_is_a_cache() -> None:
    """It keeps what is set for its time, adds only where nothing is, and deletes."""
    now = [0.0]
    cache = MemoryCache(2, clock=lambda: now[0])
    await cache.set("a", "1", 10)
    now[0] = 9.9
    assert "1" == await cache.get("a")
    with pytest.raises(ValueError, match="there is a value already"):
        await cache.add("a", "2", 10)
    now[0] = 10.0
    assert None is await cache.get("a")
    await cache.add("a", "2", 10)
    await cache.close()
    assert "2" == await cache.get("a")
    await cache.delete("a")
    await cache.delete("a")
    assert [None, None] == [await cache.get(key) for key in ("a", "never")]


async def test_a_memory_cache_is_bounded() -> None:
    """The value that was unused for longest goes when there are too many."""
    cache = MemoryCache(2)
    for key in ("a", "b"):
        await cache.set(key, key, 60)
    await cache.get("a")
    await cache.set("c", "c", 60)

    assert ["a", None, "c"] == [await cache.get(key) for key in ("a", "b", "c")]


# --- In trouble -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError, RuntimeError, OSError])
async def test_a_cache_that_fails_says_so(
    world: World, obo: OnBehalfOf, error: type[Exception]
) -> None:
    """Whatever is to be done with a session, the cache does not answer: 503, and when to retry."""
    key = await world.start(obo, key="job-1")
    alice, value = await world.user(obo), world.value(key)
    processes = [world.process() for _ in range(3)]
    for process in processes:
        await process.open()
    world.shared.fault = fail(error)
    outcomes = [
        await outcome(alice.start_session(key)),
        await outcome(call(processes[0], key)),
        await outcome(processes[1].end_session(key)),
        await outcome(processes[2].end_sessions(world.entra.tenant_id, world.oid())),
    ]
    told = await request(obo, world.entra.bearer("alice"), lambda scope: call(obo, key))
    world.shared.fault = None

    assert [CacheUnavailableError] * 4 == outcomes
    assert (503, "5") == (told.status_code, told.headers["retry-after"])
    assert ((1, 0), value) == (world.grants, world.value(key))
    assert world.oid() == await call(world.process(), key)


async def test_a_cache_that_hangs_is_not_waited_for(world: World, obo: OnBehalfOf) -> None:
    """Start, resume and end give up after two seconds each, and nothing has changed."""
    key = await world.start(obo, key="job-1")
    alice, value = await world.user(obo), world.value(key)
    processes = [world.process() for _ in range(3)]
    for process in processes:
        await process.open()
    await settled()
    world.shared.delay = 60
    started = time.monotonic()
    works: list[Awaitable[object]] = [
        alice.start_session(key),
        call(processes[0], key),
        processes[1].end_session(key),
        processes[2].end_sessions(world.entra.tenant_id, world.oid()),
    ]
    outcomes = await asyncio.gather(*map(outcome, works))
    seconds = time.monotonic() - started
    world.shared.delay = 0

    assert [CacheUnavailableError] * 4 == outcomes
    assert 1.5 < seconds < 5
    assert ((1, 0), value) == (world.grants, world.value(key))
    assert world.oid() == await call(world.process(), key)


GARBAGE = {
    "a number": 7,
    "bytes": b"\x80\x04",
    "a list": ["session"],
    "an empty text": "",
    "plaintext": '{"refresh_token": "secret"}',
    "base64": "AAAA" * 100,
    "no base64": "%%%",
    "long": "A" * 300_000,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
async def test_what_cannot_be_read_is_there(world: World, obo: OnBehalfOf, garbage: Any) -> None:
    """Whatever stands in a session's place is unreadable, not missing, and stays as it is."""
    key = await world.start(obo, key="job-1")
    name, process = world.name(key), world.process()
    world.shared.values[name] = garbage
    works = [world.start(obo, key=key), world.start(obo, "bob", key=key), call(process, key)]
    outcomes = [await outcome(work) for work in (*works, process.end_session(key))]

    assert [SessionUnreadableError] * 4 == outcomes
    assert ((1, 0), garbage) == (world.grants, world.value(key))


@pytest.mark.parametrize("garbage", [7, b"bytes", ["list"], "text"], ids=str)
async def test_a_cache_that_lies_is_not_believed(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf, garbage: Any
) -> None:
    """A cache whose every answer is nonsense makes no session missing, and loses none."""
    key = await world.start(obo, key="job-1")
    value, alice = world.value(key), await world.user(obo)
    await worker.open()
    await settled()
    world.shared.fault = answer(garbage)
    works = (alice.start_session(key), call(worker, key))
    outcomes = [await outcome(work) for work in works]
    world.shared.fault = None
    for lock in world.shared.locks:  # which could not be given back
        await world.shared.delete(lock)

    assert [SessionUnreadableError] * 2 == outcomes
    assert (value, world.oid()) == (world.value(key), await call(worker, key))


async def test_sessions_cannot_be_swapped(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """One user's value under the name of another's session opens nothing."""
    keys = [await world.start(obo, name) for name in ("alice", "bob")]
    one, two = (world.name(key) for key in keys)
    values = world.shared.values
    values[one], values[two] = values[two], values[one]

    assert [SessionUnreadableError] * 2 == [await outcome(call(worker, key)) for key in keys]


async def test_an_end_that_cannot_be_read_is_no_licence(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Where it cannot be read up to when all were ended, a session is neither used nor lost."""
    key = await world.start(obo, key="job-1")
    names = set(world.shared.values)
    await obo.end_sessions(world.entra.tenant_id, world.oid())
    [end] = set(world.shared.values) - names
    world.shared.values[end] = "nonsense"

    assert [SessionUnreadableError] * 2 == [
        await outcome(work) for work in (call(worker, key), world.start(obo, key=key))
    ]
    await obo.end_sessions(world.entra.tenant_id, world.oid())
    assert SessionNotFoundError is await outcome(call(worker, key))


async def test_a_newer_versions_session_is_left_to_it(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A record of another form is unreadable here: not used, not overwritten, not ended."""
    key = await world.start(obo, key="job-1")
    records = obo._cache.sessions
    record = await records.read(world.name(key))
    assert record is not None
    await records.write(world.name(key), replace(record, format=2))
    value = world.value(key)
    works = (call(worker, key), world.start(obo, key=key), worker.end_session(key))

    assert [SessionUnreadableError] * 3 == [await outcome(work) for work in works]
    assert value == world.value(key)


# --- Keys that change -----------------------------------------------------------------------------


async def test_another_rings_session_is_unreadable(world: World, obo: OnBehalfOf) -> None:
    """A process without the key says that it lacks it, and changes nothing."""
    key = await world.start(obo, key="job-1")
    value, stranger = world.value(key), world.process(keys=[NEW_KEY])
    with pytest.raises(
        SessionUnreadableError, match=r"add that key to TokenCache\(keys="
    ) as caught:
        await call(stranger, key)
    works = (world.start(stranger, key=key), stranger.end_session(key))
    outcomes = [await outcome(work) for work in works]
    told = error_response(caught.value)

    assert [SessionUnreadableError] * 2 == outcomes
    assert (503, "5") == (told and told.status_code, told and told.headers["Retry-After"])
    assert (value, world.oid()) == (world.value(key), await call(obo, key))


async def test_keys_are_rotated(world: World, obo: OnBehalfOf) -> None:
    """With the old key in its ring a process goes on, and its next change is sealed by the new."""
    key = await world.start(obo)
    newer = world.process(keys=[NEW_KEY, *RING])
    assert world.oid() == await call(newer, key)
    assert world.oid() == await call(newer, key, "other")
    value = world.value(key)

    assert SessionUnreadableError is await outcome(call(obo, key))
    assert value == world.value(key)
    assert world.oid() == await call(world.process(keys=[NEW_KEY]), key, scopes=[WRITE])


# --- What goes on ---------------------------------------------------------------------------------


async def test_a_session_that_cannot_be_written_does_not_begin(
    world: World, obo: OnBehalfOf
) -> None:
    """Where the record cannot be written the start fails, and there is no session."""
    alice = await world.user(obo)
    world.shared.fault = failing("set")

    async def handler(scope: Scope) -> str:
        return await downstream_from(scope).start_session("job-1")

    assert CacheUnavailableError is await outcome(alice.start_session("job-1"))
    assert 503 == (await request(obo, world.entra.bearer("alice"), handler)).status_code
    world.shared.fault = None
    assert SessionNotFoundError is await outcome(call(obo, "job-1"))


async def test_an_end_that_cannot_be_written_says_so(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Where the record cannot be deleted the caller is told that the session may go on."""
    key = await world.start(obo)
    await settled()
    world.shared.fault = failing("delete")
    assert CacheUnavailableError is await outcome(obo.end_session(key))
    world.shared.fault = None
    for lock in world.shared.locks:
        await world.shared.delete(lock)

    assert world.oid() == await call(worker, key)


async def test_a_new_refresh_token_that_cannot_be_written_is_used(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Who has it goes on with it, and writes it with its next change, for all the others."""
    key = await world.start(obo)
    await settled()
    value = world.value(key)
    world.shared.fault = failing("set")
    assert CacheUnavailableError is await outcome(
        worker.end_sessions(world.entra.tenant_id, world.oid())
    )
    assert world.oid() == await call(obo, key, "other")
    await settled()
    assert (value, (1, 1)) == (world.value(key), world.grants)
    world.shared.fault = None
    assert world.oid() == await call(obo, key, scopes=[WRITE])

    assert (1, 2) == world.grants
    world.now += 4000
    assert world.oid() == await call(worker, key)


async def test_a_cache_that_goes_down_during_a_refresh_costs_nothing(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """The worker has its token, and the new refresh token until the cache is back."""
    key = await world.start(obo)

    async def meanwhile() -> None:
        world.shared.fault = fail(ConnectionError)

    late = await call_late(world, obo, key, meanwhile)
    await settled()
    world.shared.fault = None
    assert obo._cache._store is not None
    obo._cache._store.breaker.succeeded()  # as after some seconds

    assert (world.oid(), (1, 1)) == (late.result(), world.grants)
    assert world.oid() == await call(obo, key, scopes=[WRITE])
    world.now += 4000
    assert world.oid() == await call(worker, key)


async def test_a_use_is_written_once(world: World, obo: OnBehalfOf, worker: OnBehalfOf) -> None:
    """Of many who use a session at once one writes it down, and a use soon after is not written."""
    key = await world.start(obo, idle_timeout=1000)
    world.now += 100
    await worker.open()
    await settled()
    world.shared.counts.clear()
    await asyncio.gather(*(call(process, key) for process in [obo, worker] * 3))
    await settled()
    writes = world.shared.counts["set"]
    world.now += 1
    await call(worker, key)

    assert (1, 1) == (writes, world.shared.counts["set"])


async def test_what_was_not_written_does_not_come_back(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A refresh token that one process kept is forgotten once the key is another user's."""
    key = await world.start(obo, key="job-1")
    await settled()
    world.shared.fault = failing("set")
    await call(obo, key, "other")
    await settled()
    world.shared.fault = None
    await worker.end_session(key)
    await world.start(worker, "bob", key=key)

    assert world.oid("bob") == await call(obo, key)
    assert world.oid("bob") == await call(obo, key, "other")


async def test_a_token_in_memory_serves_while_the_cache_is_down(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A worker keeps what it has; what it has not is an error, and the session stays."""
    key = await world.start(obo)
    async with worker.resume_session(key) as downstream:
        await downstream["partner"].get("data")
        await settled()
        world.shared.fault = fail(ConnectionError)
        for seconds in (0, 31, 31):
            world.now += seconds
            assert world.oid() == await downstream["partner"].get("data", into=str)
        with pytest.raises(CacheUnavailableError):
            await downstream["other"].get("data")
        world.shared.fault = None

    assert (1, 0) == world.grants
    assert world.oid() == await call(world.process(), key, "other")


async def test_what_the_cache_has_lost_is_not_found(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A cache that was emptied has ended its sessions, also for who is at work."""
    key = await world.start(obo)
    async with worker.resume_session(key) as downstream:
        await settled()
        world.shared.values.clear()
        with pytest.raises(SessionNotFoundError):
            await downstream["other"].get("data")

    assert OTHER_READ not in [request.scope for request in world.entra.requests]


async def test_a_lock_is_waited_for(world: World, obo: OnBehalfOf, worker: OnBehalfOf) -> None:
    """While another process changes a session, whoever wants to waits until it has."""
    key = await world.start(obo, key="job-1")
    await settled()
    lock = f"{world.name(key)}:lock"
    await world.shared.add(lock, "somebody else's", 30)
    works = (world.start(obo, key=key), call(worker, key, "other"))
    tasks = [asyncio.create_task(outcome(work)) for work in works]
    await asyncio.sleep(0.05)
    assert ([False, False], (1, 0)) == ([task.done() for task in tasks], world.grants)
    await world.shared.delete(lock)

    assert [type(None)] * 2 == await asyncio.gather(*tasks)
    assert (2, 1) == world.grants


async def test_a_lock_that_is_held_is_no_outage(obo: OnBehalfOf) -> None:
    """Who does not get the lock in time is told that a worker has it, and when to try again."""
    records = obo._cache.sessions
    async with records.lock("name"):
        with pytest.raises(CacheUnavailableError, match="another worker is changing") as caught:
            async with records.lock("name", wait=False):
                pass

    assert 5 == caught.value.retry_after


async def test_nothing_is_kept_much_longer_than_it_lives(world: World, obo: OnBehalfOf) -> None:
    """The cache forgets a session an hour after its end, whoever ends it."""
    world.entra.token_lifetime = 600  # the tokens themselves are kept for less
    await world.start(obo, lifetime=100)
    await world.start(obo, lifetime=1000, idle_timeout=50)

    assert [50 + 3600, 100 + 3600] == sorted(ttl for ttl in world.shared.ttls if ttl > 3600)
