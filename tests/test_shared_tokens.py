"""A token cache over a shared one: one exchange for all, and no fault of the cache is an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiocache import SimpleMemoryCache
from aiocache.serializers import PickleSerializer

from obo_asgi import (
    AccessToken,
    CacheUnavailableError,
    ConfigurationError,
    OboError,
    TokenAcquisitionError,
    TokenCache,
)
from obo_asgi.cache._records import name_of, purge_name
from obo_asgi.cache._seal import Sealer
from obo_asgi.cache._shared import PURGE_INTERVAL, SharedTokens
from obo_asgi.cache._store import FAILURES, PERIOD, Budget, Store, Unavailable
from obo_asgi.cache.sql import SQLCache
from obo_asgi.tokens import TokenKey
from tests.shared_cache import FaultyCache, answer, fail

pytestmark = pytest.mark.anyio

KEY = TokenKey("obo", "https://login", "tenant", "client", "alice", b"digest", ("a/read",), None)
RING = [b"k" * 32]


async def no_material() -> bytes | None:
    return None


class Process:
    """A token cache as one process has it, and how often it exchanged."""

    def __init__(self, shared: Any, keys: list[bytes] = RING) -> None:
        self.cache = TokenCache(shared=shared, keys=keys, clock=lambda: time.time() + self.ahead)
        self.ahead = 0.0
        self.exchanges = 0
        self.seconds = 0.0
        self.lifetime = 3600.0
        self.failure: OboError | None = None
        self.token: str | None = None

    async def open(self) -> Process:
        await self.cache.open("client", no_material)
        return self

    async def exchange(self) -> AccessToken | OboError:
        self.exchanges += 1
        await asyncio.sleep(self.seconds)
        now = time.time()
        text = self.token or f"token {self.exchanges} of {id(self)}"
        return self.failure or AccessToken(text, now + self.lifetime, now + self.lifetime * 0.9)

    async def acquire(self, key: TokenKey = KEY, held: AccessToken | None = None) -> Any:
        if held is None and (token := self.cache.get(key)) is not None:
            return token
        return await self.cache.obtain(key, self.exchange, held=held)


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
def shared() -> FaultyCache:
    return FaultyCache()


@pytest.fixture
async def start(shared: FaultyCache) -> AsyncIterator[Start]:
    processes: list[Process] = []

    async def start(**options: Any) -> Process:
        processes.append(Process(shared, **options))
        return await processes[-1].open()

    yield start
    shared.fault, shared.delay = None, 0.0
    for process in processes:
        await process.cache.aclose()


async def settled() -> None:
    """Let the work in the background end."""
    await asyncio.sleep(0.05)


# --- One exchange for all -------------------------------------------------------------------------


async def test_another_process_finds_the_token(start: Start, shared: FaultyCache) -> None:
    """What one process exchanged the other has without an exchange, and then without I/O."""
    one, other = await start(), await start()
    token = await one.acquire()
    await settled()
    assert token == await other.acquire()
    before = sum(shared.counts.values())

    assert token == await other.acquire()
    assert (1, 0, before) == (one.exchanges, other.exchanges, sum(shared.counts.values()))
    assert [] == shared.locks


async def test_a_hit_costs_one_read(start: Start, shared: FaultyCache) -> None:
    """A token that another process wrote costs one GET and nothing else."""
    one, other = await start(), await start()
    await one.acquire()
    await settled()
    shared.counts.clear()
    await other.acquire()

    assert {"get": 1} == shared.counts


async def test_processes_exchange_once(start: Start) -> None:
    """Of many processes that want one token at once, one exchanges and the others wait for it."""
    processes = [await start() for _ in range(8)]
    for process in processes:
        process.seconds = 0.1
    tokens = await asyncio.gather(*(process.acquire() for process in processes))

    assert 1 == len({token.token for token in tokens})
    assert 1 == sum(process.exchanges for process in processes)


async def test_a_failure_is_not_shared(start: Start, shared: FaultyCache) -> None:
    """Where the exchange of one process fails, the next one tries for itself."""
    one, other = await start(), await start()
    one.failure = TokenAcquisitionError("no")
    one.seconds = 0.05
    outcomes = await asyncio.gather(one.acquire(), other.acquire())
    await settled()

    assert (one.failure, 1, 1) == (outcomes[0], one.exchanges, other.exchanges)
    assert isinstance(outcomes[1], AccessToken)
    assert [] == shared.locks


@pytest.mark.parametrize("ttl", [1, 3600])
async def test_a_dead_process_is_not_waited_for(shared: FaultyCache, ttl: int) -> None:
    """A lock whose process died holds the others up for its lease, even if it stays for ever."""
    tokens = SharedTokens(Store(shared), Sealer(RING), lambda: None, lease=1)
    await shared.add(f"{name_of(KEY)}:lock", "the dead process's", ttl)
    started = time.monotonic()
    outcome = await tokens.obtain(KEY, Process(shared).exchange, lambda: None, held=None)
    await tokens.aclose()

    assert isinstance(outcome, AccessToken)
    assert 0.5 < time.monotonic() - started < 3


async def test_a_cancelled_exchange_gives_its_lock_back(start: Start, shared: FaultyCache) -> None:
    """Whoever is cancelled, while exchanging or while waiting, leaves no lock held."""
    one, other = await start(), await start()
    one.seconds = other.seconds = 60
    tasks = [asyncio.create_task(process.acquire()) for process in (one, other)]
    await settled()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settled()
    assert [] == shared.locks
    other.seconds = 0

    assert isinstance(await other.acquire(), AccessToken)


async def test_somebody_elses_lock_is_left_alone(start: Start, shared: FaultyCache) -> None:
    """A process whose lease ended meanwhile does not take the lock of its successor away."""
    one = await start()
    one.seconds = 0.1
    task = asyncio.create_task(one.acquire())
    await asyncio.sleep(0.03)
    [lock] = shared.locks
    shared.values[lock] = "somebody else's"
    await task
    await settled()

    assert [lock] == shared.locks


async def test_a_renewal_adopts_what_another_process_renewed(start: Start) -> None:
    """A token that is due is renewed once: the second process takes the first one's."""
    one, other = await start(), await start()
    one.lifetime = 20
    due = AccessToken("due", time.time() + 20, time.time() - 1)
    renewed = await one.acquire(held=due)
    await settled()

    assert renewed == await other.acquire(held=due)
    assert 0 == other.exchanges


async def test_a_token_that_is_due_itself_renews_nothing(start: Start) -> None:
    """What stands in the shared cache and is due is not enough for a renewal."""
    one, other = await start(), await start()
    one.lifetime = 120
    token = await one.acquire()
    await settled()
    assert token == await other.acquire(held=token)
    other.ahead = 109
    await other.acquire(held=token)

    assert 1 == other.exchanges


async def test_a_token_at_its_end_is_not_shared(start: Start, shared: FaultyCache) -> None:
    """A token that is about to end is exchanged anew."""
    one, other = await start(), await start()
    one.lifetime = 5
    await one.acquire()
    await settled()
    await other.acquire()

    assert 1 == other.exchanges


@pytest.mark.parametrize("lifetime", [0, -5, 0.2])
async def test_nothing_is_kept_for_less_than_a_second(
    start: Start, shared: FaultyCache, lifetime: float
) -> None:
    """No cache is ever asked to keep a value for no time or for ever."""
    one = await start()
    one.lifetime = lifetime
    await one.acquire()
    await settled()

    assert all(ttl >= 1 for ttl in shared.ttls)
    assert (name_of(KEY) in shared.values) == (lifetime > 0)


async def test_a_refused_token_is_had_by_nobody(start: Start, shared: FaultyCache) -> None:
    """A token that an API has refused is gone from memory and from the shared cache."""
    one, other = await start(), await start()
    token = await one.acquire()
    await settled()
    one.cache.drop(KEY, token)
    again = await one.acquire()
    await settled()

    assert token != again
    assert again == await other.acquire()


# --- Whatever is wrong is a miss ------------------------------------------------------------------

FAULTS = {
    "refused": fail(ConnectionError),
    "read only": fail(RuntimeError),
    "its own timeout": fail(TimeoutError),
    "a number": answer(7),
    "bytes": answer(b"\x80\x04"),
    "a list": answer(["token"]),
    "plaintext": answer('{"token": "secret"}'),
    "50 MB": answer("A" * 50_000_000),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
async def test_a_fault_is_a_miss(start: Start, shared: FaultyCache, fault: Any) -> None:
    """A cache that fails or lies costs an exchange, in time, and a counter tells."""
    one = await start()
    shared.fault = fault
    started = time.monotonic()

    assert isinstance(await one.acquire(), AccessToken)
    assert time.monotonic() - started < 1
    counts = one.cache.counts
    assert (1, 1) == (one.exchanges, counts["misses"])
    assert counts["failures"] + counts["timeouts"] + counts["unreadable"]


async def test_what_cannot_be_written_is_had_all_the_same(
    start: Start, shared: FaultyCache, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that no cache can take is returned, and the log tells, without the token."""
    one = await start()
    one.token = "strange \ud800"
    token = await one.acquire()
    await settled()

    assert (one.token, 1) == (token.token, one.cache.counts["unwritten"])
    assert "could not be written: UnicodeEncodeError" in caplog.text


async def test_a_hung_cache_costs_the_budget(start: Start, shared: FaultyCache) -> None:
    """A cache that does not answer holds one acquisition up for a quarter of a second in all."""
    one = await start()
    shared.delay = 60
    started = time.monotonic()
    assert isinstance(await one.acquire(), AccessToken)

    assert 0.2 < time.monotonic() - started < 0.5


async def test_a_slow_cache_costs_the_budget(start: Start, shared: FaultyCache) -> None:
    """Reads and lock together have one budget, however many they are."""
    one = await start()
    shared.delay = 0.1
    started = time.monotonic()
    assert isinstance(await one.acquire(), AccessToken)

    assert time.monotonic() - started < 0.5


async def test_a_dead_cache_is_left_alone(shared: FaultyCache) -> None:
    """After three failures nothing is asked for a while, then one call tries, and all go on."""
    seconds = [0.0]
    store = Store(shared, clock=lambda: seconds[0])
    shared.fault = fail(ConnectionError)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await store.get("name", Budget(1))
    assert ({"get": FAILURES}, "open") == (shared.counts, store.breaker.state)

    seconds[0] += PERIOD
    outcomes = await asyncio.gather(
        *(store.get("name", Budget(1)) for _ in range(10)), return_exceptions=True
    )
    assert [Unavailable] * 10 == [type(outcome) for outcome in outcomes]
    assert ({"get": FAILURES + 1}, "open") == (shared.counts, store.breaker.state)

    shared.fault = None
    seconds[0] += PERIOD
    assert (None, "closed") == (await store.get("name", Budget(1)), store.breaker.state)


async def test_a_caller_that_gives_up_says_nothing_of_the_cache(shared: FaultyCache) -> None:
    """A cancelled try leaves the next one its turn."""
    seconds = [0.0]
    store = Store(shared, clock=lambda: seconds[0])
    shared.fault = fail(ConnectionError)
    for _ in range(FAILURES):
        with pytest.raises(Unavailable):
            await store.get("name", Budget(1))
    shared.fault, shared.delay = None, 60
    seconds[0] += PERIOD
    task = asyncio.create_task(store.get("name", Budget(100)))
    await settled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    shared.delay = 0

    assert (None, "closed") == (await store.get("name", Budget(1)), store.breaker.state)


async def test_memory_serves_while_the_cache_is_down(start: Start, shared: FaultyCache) -> None:
    """Tokens in memory stay in use, also when it cannot be asked who was purged."""
    one = await start()
    token = await one.acquire()
    await settled()
    shared.fault = fail(ConnectionError)
    one.ahead = 2 * PURGE_INTERVAL - 1

    assert [token] * 3 == [await one.acquire() for _ in range(3)]


async def test_another_rings_value_is_a_miss(start: Start) -> None:
    """A process with another ring exchanges for itself, and both go on."""
    one, other = await start(), await start(keys=[b"o" * 32])
    await one.acquire()
    await settled()
    assert isinstance(await other.acquire(), AccessToken)

    assert 1 == other.exchanges
    assert other.cache.counts["unreadable"]


async def test_swapped_values_are_misses(start: Start, shared: FaultyCache) -> None:
    """One user's value under another's name opens nothing."""
    one, other = await start(), await start()
    bob = KEY._replace(owner="bob")
    await one.acquire()
    await one.acquire(bob)
    await settled()
    first, second = shared.values
    shared.values[first], shared.values[second] = shared.values[second], shared.values[first]
    await other.acquire()
    await other.acquire(bob)

    assert 2 == other.exchanges


# --- Purge ----------------------------------------------------------------------------------------


async def test_a_purge_reaches_every_process(start: Start, shared: FaultyCache) -> None:
    """A purged user's token is of no use in another process once its memory is a minute old."""
    one, other = await start(), await start()
    bob = KEY._replace(owner="bob")
    tokens = [await one.acquire(), await one.acquire(bob)]
    await settled()
    assert tokens == [await other.acquire(), await other.acquire(bob)]
    await one.cache.purge("client", "tenant", "alice")
    assert tokens[0] == await other.acquire()

    other.ahead = 2 * PURGE_INTERVAL
    assert tokens[0] != await other.acquire()
    assert tokens[1] == await other.acquire(bob)
    assert tokens[0] != await one.acquire()


async def test_a_purge_is_noticed_in_the_background(start: Start) -> None:
    """Half a minute after its last look a process looks again, while it serves from memory."""
    one, other = await start(), await start()
    token = await one.acquire()
    await settled()
    assert token == await other.acquire()
    await one.cache.purge("client", "tenant", "alice")
    other.ahead = PURGE_INTERVAL

    assert token == await other.acquire()
    await settled()
    assert token != await other.acquire()


@pytest.mark.parametrize("spell", [str.lower, str.upper])
async def test_a_new_process_learns_of_purges(start: Start, spell: Callable[[str], str]) -> None:
    """A process that starts after the purge finds no token of before, in either case of the ids."""
    one = await start()
    token = await one.acquire()
    await settled()
    await one.cache.purge("client", spell("tenant"), spell("alice"))

    assert token != await (await start()).acquire()


async def test_a_purge_during_a_read_is_not_outlived(start: Start, shared: FaultyCache) -> None:
    """What was read from the shared cache while its user was purged does not stay in memory."""
    one, other = await start(), await start()
    token = await one.acquire()
    await settled()
    shared.delay = 0.05
    task = asyncio.create_task(other.acquire())
    await asyncio.sleep(0.02)
    other.cache._forget_all()
    assert token == await task

    assert 0 == len(other.cache)


async def test_a_purge_without_the_cache_is_an_error(start: Start, shared: FaultyCache) -> None:
    """Where the others cannot be told, the caller is; this process has forgotten."""
    one = await start()
    await one.acquire()
    shared.fault = fail(ConnectionError)
    with pytest.raises(CacheUnavailableError) as caught:
        await one.cache.purge("client", "tenant", "alice")

    assert (0, True) == (len(one.cache), caught.value.retry_after > 0)


async def test_an_unreadable_purge_is_a_purge(start: Start, shared: FaultyCache) -> None:
    """Where it cannot be read when a user was purged, what is shared counts for nothing."""
    one = await start()
    token = await one.acquire()
    await settled()
    await one.cache.purge("client", "tenant", "alice")
    await shared.set(purge_name("client", "tenant", "alice"), "nonsense", 60)

    assert token != await (await start()).acquire()


async def test_without_a_shared_cache_a_purge_is_local() -> None:
    """A cache in memory alone forgets."""
    cache = TokenCache()
    cache.put(KEY, AccessToken("token", time.time() + 60, time.time() + 50))
    await cache.purge("client", "tenant", "alice")

    assert cache.get(KEY) is None


# --- Configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": RING}, "shared="),
        ({"shared": object()}, "aiocache cache.*get, set, add, delete, close"),
        ({"shared": "redis://localhost"}, "aiocache cache"),
        ({"shared": SimpleMemoryCache(serializer=PickleSerializer())}, "StringSerializer"),
        ({"shared": FaultyCache(), "keys": []}, "empty"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, Any], message: str) -> None:
    """What cannot work is a ConfigurationError at construction."""
    with pytest.raises(ConfigurationError, match=message):
        TokenCache(**arguments)


async def test_a_key_is_needed(shared: FaultyCache) -> None:
    """Without keys and anything to derive one from, the start fails and says what makes a key."""
    with pytest.raises(ConfigurationError, match=r"obo_asgi\.new_cache_key\(\)"):
        await TokenCache(shared=shared).open("client", no_material)


async def test_a_derived_key_is_for_one_app(shared: FaultyCache) -> None:
    """Two app registrations cannot share a key that was derived from the secret of one."""

    async def material() -> bytes | None:
        return b"secret"

    cache = TokenCache(shared=shared)
    await cache.open("one", material)
    await cache.open("one", material)
    with pytest.raises(ConfigurationError, match=r"keys of its own"):
        await cache.open("other", material)
    await cache.aclose()


async def test_a_cache_that_mangles_is_refused(shared: FaultyCache) -> None:
    """A cache that answers with something else than it was given fails at start."""
    shared.fault = answer("something else")
    with pytest.raises(ConfigurationError, match="StringSerializer"):
        await Process(shared).open()


async def test_a_cache_that_says_what_it_lacks_fails_at_start() -> None:
    """A table that nobody has made is named at start, each time, not met by going on without it."""
    cache = TokenCache(shared=SQLCache("sqlite+aiosqlite://", table="nowhere"), keys=RING)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"nowhere does not exist.*create_if_not"):
            await cache.open("app", no_material)
    await cache.aclose()


async def test_a_cache_that_is_down_at_start_is_no_error(
    shared: FaultyCache, caplog: pytest.LogCaptureFixture
) -> None:
    """The start goes on with a warning, and the cache is used when it is back."""
    shared.fault = fail(ConnectionError)
    one, other = await Process(shared).open(), Process(shared)
    [told] = caplog.records
    assert ("cache.unavailable", "ConnectionError") == (vars(told)["event"], vars(told)["error"])
    shared.fault = None
    token = await one.acquire()
    await settled()
    await other.open()

    assert token == await other.acquire()
    await one.cache.aclose()
    await other.cache.aclose()
    assert shared.is_closed


async def test_a_cache_is_closed_when_its_calls_have_ended(shared: FaultyCache) -> None:
    """A call that is under way at the end, and the next one, get their answers before the close.

    Closed while it connects, a client would keep that connection.
    """
    store, closed_before = Store(shared), []

    async def look() -> None:
        for _ in range(2):
            await store.get("name", Budget(1))
            closed_before.append(shared.is_closed)

    shared.delay = 0.05
    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    await store.aclose()
    await looking

    assert [False, False] == closed_before
    assert shared.is_closed
