"""One suite for every store that a shared cache can be in: each against a real server."""

from __future__ import annotations

import asyncio
import base64
import gc
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import pytest
from aiocache import MemcachedCache
from aiocache.serializers import StringSerializer

from obo_asgi.cache.redis import redis_cache
from tests.servers.cosmos import CosmosServer
from tests.servers.memcached import MemcachedServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisClusterServer, RedisServer

pytest_plugins = ["tests.servers.fixtures"]
pytestmark = pytest.mark.anyio

BASE64 = base64.b64encode(bytes(range(250)) * 9).decode()
TTL = 60


class Cache(Protocol):
    """What is used of an aiocache cache."""

    async def get(self, key: str) -> str | None: ...
    async def set(self, key: str, value: str, ttl: int = ...) -> object: ...
    async def add(self, key: str, value: str, ttl: int = ...) -> object: ...
    async def delete(self, key: str) -> int: ...
    async def close(self) -> None: ...


class Server(Protocol):
    """What can befall a server."""

    def kill(self) -> None: ...
    def restart(self) -> None: ...
    def suspend(self) -> None: ...
    def resume(self) -> None: ...


async def close_cache(cache: Cache) -> None:
    await cache.close()


class Backend(NamedTuple):
    """A store, and how a cache in it is made and closed."""

    server: Server | None
    make: Callable[[str], Cache]
    close: Callable[[Cache], Awaitable[object]] = close_cache

    async def kill(self) -> None:
        assert self.server is not None
        await asyncio.to_thread(self.server.kill)

    async def restart(self) -> None:
        assert self.server is not None
        await asyncio.to_thread(self.server.restart)
        await asyncio.sleep(0.1)  # all connections are known to have ended


def redis_by_url(request: pytest.FixtureRequest) -> Backend:
    server: RedisServer = request.getfixturevalue("redis_server")
    return Backend(server, lambda prefix: redis_cache(server.url, prefix=prefix))


async def close_client(cache: Any) -> None:
    await cache.close()
    await cache._clients.aclose()


def redis_client(request: pytest.FixtureRequest) -> Backend:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    server: RedisServer = request.getfixturevalue("redis_server")

    def make(prefix: str) -> Cache:
        # With RESP3, the default, redis-py's pools hand out connections that have ended.
        options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
        pool = BlockingConnectionPool.from_url(server.url, **options)
        return cast(Cache, redis_cache(Redis.from_pool(pool), prefix=prefix))

    return Backend(server, make, close_client)


def redis_cluster(request: pytest.FixtureRequest) -> Backend:
    from redis.asyncio import RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    server: RedisClusterServer = request.getfixturevalue("redis_cluster")

    def make(prefix: str) -> Cache:
        client = RedisCluster.from_url(server.url, retry=Retry(NoBackoff(), 1))
        return cast(Cache, redis_cache(client, prefix=prefix))

    return Backend(server, make, close_client)


def memcached(request: pytest.FixtureRequest) -> Backend:
    server: MemcachedServer = request.getfixturevalue("memcached_server")

    def make(prefix: str) -> Cache:
        cache = MemcachedCache(
            serializer=StringSerializer(), namespace=prefix, port=server.port, pool_size=10
        )
        return cast(Cache, cache)

    return Backend(server, make)


def sqlite(request: pytest.FixtureRequest) -> Backend:
    from obo_asgi.cache.sql import SQLCache

    directory: Path = request.getfixturevalue("tmp_path")
    url = f"sqlite+aiosqlite:///{directory / 'cache.db'}"
    return Backend(
        None,
        lambda prefix: cast(Cache, SQLCache(url, create_if_not_exists=True, prefix=prefix)),
    )


def postgresql(request: pytest.FixtureRequest) -> Backend:
    from obo_asgi.cache.sql import SQLCache

    server: PostgresServer = request.getfixturevalue("postgres_server")
    return Backend(
        server,
        lambda prefix: cast(Cache, SQLCache(server.url, create_if_not_exists=True, prefix=prefix)),
    )


def cosmos(request: pytest.FixtureRequest) -> Backend:
    from obo_asgi.cache.cosmos import CosmosCache

    server: CosmosServer = request.getfixturevalue("cosmos_server")

    def make(prefix: str) -> Cache:
        cache = CosmosCache(
            server.url,
            server.key,
            database="db",
            container="tokens",
            create_if_not_exists=True,
            prefix=prefix,
            connection_verify=False,
            enable_endpoint_discovery=False,
        )
        return cast(Cache, cache)

    return Backend(server, make)


Kind = Callable[[pytest.FixtureRequest], Backend]

ALL: list[Kind] = [redis_by_url, redis_client, redis_cluster, memcached, sqlite, postgresql, cosmos]
# A ready client and aiomcache's belong to the event loop that used them first.
OF_ANY_LOOP: list[Kind] = [redis_by_url, sqlite, postgresql, cosmos]
WITH_SERVER = [each for each in ALL if each is not sqlite]
# What stands in for Cosmos DB keeps nothing, not even its containers.
THERE_AGAIN: list[Kind] = [each for each in WITH_SERVER if each is not cosmos]
# aiomcache gives the connection of a cancelled call, with its answer unread, to the next caller.
CANCELLABLE = [each for each in ALL if each is not memcached]


def of(kinds: list[Kind]) -> pytest.MarkDecorator:
    """Run the test with these backends only."""
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.__name__)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "kind" in metafunc.fixturenames and "kind" not in named:
        metafunc.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def frozen() -> Iterator[None]:
    """Spare the garbage collector what was there before, which makes it quick."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def leaks_nothing(frozen: None) -> Iterator[None]:
    """Let what was left open warn now, in the test that left it."""
    yield
    gc.collect()


@pytest.fixture
def backend(kind: Kind, request: pytest.FixtureRequest, leaks_nothing: None) -> Backend:
    return kind(request)


@pytest.fixture
def prefix() -> str:
    """Return a prefix of the test's own, so that tests can share a server."""
    return f"{secrets.token_hex(8)}:"


@pytest.fixture
async def cache(backend: Backend, prefix: str) -> AsyncIterator[Cache]:
    cache = backend.make(prefix)
    yield cache
    await backend.close(cache)


async def until_gone(cache: Cache, key: str) -> None:
    """Wait until there is nothing; stores count in whole seconds."""
    async with asyncio.timeout(5):
        while await cache.get(key) is not None:
            await asyncio.sleep(0.05)


# --- Reading and writing --------------------------------------------------------------------------


async def test_a_value_comes_back(cache: Cache) -> None:
    """A text of 3,000 characters comes back as it was set."""
    await cache.set("key", BASE64, ttl=TTL)

    assert (3_000, BASE64) == (len(BASE64), await cache.get("key"))


async def test_the_last_value_counts(cache: Cache) -> None:
    """A second ``set`` replaces the value, also by a shorter one."""
    await cache.set("key", BASE64, ttl=TTL)
    await cache.set("key", "b", ttl=TTL)

    assert "b" == await cache.get("key")


async def test_nothing_is_none(cache: Cache) -> None:
    """A key that was never set reads as None."""
    assert None is await cache.get("nothing")


async def test_a_value_ends(cache: Cache) -> None:
    """A value is there at first and gone soon after its time, which is that of the last ``set``."""
    await cache.set("replaced", "short", ttl=2)
    await cache.set("replaced", "long", ttl=TTL)
    await cache.set("short", "goes", ttl=2)
    assert "goes" == await cache.get("short")
    await until_gone(cache, "short")

    assert "long" == await cache.get("replaced")


async def test_deleting(cache: Cache) -> None:
    """``delete`` takes a value away; of nothing it does nothing."""
    await cache.set("key", "value", ttl=TTL)
    assert 1 == await cache.delete("key")
    assert None is await cache.get("key")

    assert 0 == await cache.delete("key")


# --- Adding ---------------------------------------------------------------------------------------


async def test_adding_replaces_nothing(cache: Cache) -> None:
    """``add`` sets what is not there, and else is a ValueError that leaves the value."""
    await cache.add("key", "first", ttl=TTL)
    with pytest.raises(ValueError, match="already exists"):
        await cache.add("key", "second", ttl=TTL)

    assert "first" == await cache.get("key")


async def test_adding_after_a_delete(cache: Cache) -> None:
    """``add`` works again when the value was deleted."""
    await cache.add("key", "first", ttl=TTL)
    await cache.delete("key")
    await cache.add("key", "second", ttl=TTL)

    assert "second" == await cache.get("key")


async def test_adding_after_the_end(cache: Cache) -> None:
    """``add`` works again when the value's time is over."""
    await cache.add("key", "first", ttl=1)
    await until_gone(cache, "key")
    await cache.add("key", "second", ttl=TTL)

    assert "second" == await cache.get("key")


async def test_one_of_many_adds_wins(cache: Cache) -> None:
    """Of twenty adds at the same time one succeeds, and its value is there."""
    names = [str(number) for number in range(20)]
    results = await asyncio.gather(
        *(cache.add("key", name, ttl=TTL) for name in names), return_exceptions=True
    )
    losers = [result for result in results if isinstance(result, ValueError)]
    [winner] = [name for name, result in zip(names, results, strict=True) if result is True]

    assert (19, winner) == (len(losers), await cache.get("key"))


# --- Many at once ---------------------------------------------------------------------------------


async def set_all(cache: Cache, values: dict[str, str]) -> None:
    await asyncio.gather(*(cache.set(key, value, ttl=TTL) for key, value in values.items()))


async def get_all(cache: Cache, keys: list[str]) -> list[str | None]:
    return await asyncio.gather(*(cache.get(key) for key in keys))


async def test_many_at_once(cache: Cache) -> None:
    """Two hundred sets and two hundred gets at the same time mix nothing up."""
    values = {f"key-{number}": f"value-{number}" for number in range(200)}
    await set_all(cache, values)

    assert list(values.values()) == await get_all(cache, list(values))


async def test_prefixes_keep_apart(backend: Backend, prefix: str) -> None:
    """Two caches with a prefix each do not see each other's values."""
    caches = [backend.make(prefix + name) for name in ("a:", "b:")]
    for number, cache in enumerate(caches):
        await cache.set("key", str(number), ttl=TTL)
    await caches[0].delete("key")
    found = [await cache.get("key") for cache in caches]
    for cache in caches:
        await backend.close(cache)

    assert [None, "1"] == found


# --- Event loops ----------------------------------------------------------------------------------


@of(OF_ANY_LOOP)
async def test_another_loop_in_another_thread(backend: Backend, prefix: str) -> None:
    """One cache object serves two event loops in two threads at the same time."""
    cache = backend.make(prefix)
    values = {f"key-{number}": f"value-{number}" for number in range(20)}
    seen: list[list[str | None]] = []

    async def elsewhere() -> None:
        for _ in range(5):
            seen.append(await get_all(cache, list(values)))
        await cache.close()
        await asyncio.sleep(0.1)  # aiohttp may need it to end a TLS connection after its close

    await set_all(cache, values)
    thread = threading.Thread(target=asyncio.run, args=[elsewhere()])
    thread.start()
    while thread.is_alive():
        seen.append(await get_all(cache, list(values)))
    thread.join()
    seen.append(await get_all(cache, list(values)))
    await cache.close()

    assert [list(values.values())] * len(seen) == seen
    assert len(seen) >= 6


@of(OF_ANY_LOOP)
def test_a_new_loop(backend: Backend, prefix: str) -> None:
    """One cache object serves one loop after the other, closed or not."""
    cache = backend.make(prefix)

    async def use(*, close: bool) -> str | None:
        before = await cache.get("key")
        await cache.set("key", "value", ttl=TTL)
        if close:
            await cache.close()
        return before

    found = [asyncio.run(use(close=close)) for close in (False, True, False)]

    assert [None, "value", "value"] == found


# --- Trouble --------------------------------------------------------------------------------------


async def fails(call: Awaitable[object]) -> bool:
    """Return whether a call raises, within five seconds, instead of waiting."""
    try:
        async with asyncio.timeout(5) as limit:
            await call
    except Exception:
        return not limit.expired()
    return False


@of(WITH_SERVER)
async def test_a_server_that_is_down(backend: Backend, cache: Cache, prefix: str) -> None:
    """Calls to a killed server raise soon, and so do those of a cache that never met it."""
    await cache.set("key", "value", ttl=TTL)
    other = backend.make(prefix)
    await backend.kill()
    try:
        failed = [await fails(cache.get("key")) for _ in range(3)]
        failed.append(await fails(cache.set("key", "value", ttl=TTL)))
        failed.append(await fails(cache.add("new", "value", ttl=TTL)))
        failed.append(await fails(cache.delete("key")))
        failed.append(await fails(other.get("key")))
    finally:
        await backend.restart()
        await backend.close(other)

    assert [True] * 7 == failed


@of(THERE_AGAIN)
async def test_a_server_that_is_there_again(backend: Backend, cache: Cache) -> None:
    """Whether a cache met the trouble or not, it goes on when the server is there again."""
    values = {f"key-{number}": f"value-{number}" for number in range(20)}
    for calls in (0, 3):
        await set_all(cache, values)
        await backend.kill()
        failed = [await fails(cache.get("key-1")) for _ in range(calls)]
        await backend.restart()
        await set_all(cache, values)

        assert [True] * calls == failed
        assert list(values.values()) == await get_all(cache, list(values))


@of([each for each in CANCELLABLE if each in WITH_SERVER])
async def test_a_server_that_hangs(backend: Backend, cache: Cache) -> None:
    """Who gives up waiting for a server that hangs is free at once, and nothing is mixed up."""
    assert backend.server is not None
    values = {f"key-{number}": f"value-{number}" for number in range(20)}
    await set_all(cache, values)
    backend.server.suspend()
    started = time.monotonic()
    try:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.25):
                    await get_all(cache, list(values))
    finally:
        lasted = time.monotonic() - started
        backend.server.resume()

    assert lasted < 2
    assert list(values.values()) == await get_all(cache, list(values))


@of(CANCELLABLE)
async def test_cancelled_calls(cache: Cache) -> None:
    """Whenever calls are cancelled, the next callers get their own values."""
    values = {f"key-{number}": f"value-{number}" for number in range(100)}
    await set_all(cache, values)
    for milliseconds in (0, 2, 8):
        tasks = [asyncio.ensure_future(cache.get(key)) for key in values]
        await asyncio.sleep(milliseconds / 1000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert list(values.values()) == await get_all(cache, list(values))


@of(CANCELLABLE)
async def test_connections_of_cancelled_calls_are_not_lost(cache: Cache) -> None:
    """However many calls are cancelled one by one, the store can be used as before."""
    await cache.set("key", "value", ttl=TTL)
    for round_ in range(40):
        tasks = [asyncio.ensure_future(cache.get("key")) for _ in range(5)]
        for task in tasks:
            await asyncio.sleep(0.0002 * (round_ % 7))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5):
        found = await get_all(cache, ["key"] * 50)

    assert ["value"] * 50 == found


# --- Its end --------------------------------------------------------------------------------------


async def test_closing_leaves_nothing_open(backend: Backend, prefix: str) -> None:
    """After ``close()`` nothing is left that warns; closing twice is no error."""
    cache = backend.make(prefix)
    await set_all(cache, {f"key-{number}": "value" for number in range(20)})
    await backend.close(cache)
    await backend.close(cache)
    del cache
    gc.collect()


@of(OF_ANY_LOOP)
async def test_a_closed_cache_can_be_used_again(cache: Cache) -> None:
    """A use after ``close()`` opens it anew."""
    await cache.set("key", "value", ttl=TTL)
    await cache.close()

    assert "value" == await cache.get("key")


async def test_closing_what_was_never_used(backend: Backend, prefix: str) -> None:
    """``close()`` before any use does nothing."""
    await backend.close(backend.make(prefix))
