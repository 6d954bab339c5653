"""What only memcached has: a client that must not be cancelled."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiocache import MemcachedCache
from aiocache.serializers import StringSerializer

from obo_asgi import AccessToken, OboError, TokenCache
from obo_asgi.tokens import TokenKey
from tests.servers.memcached import MemcachedServer

pytestmark = pytest.mark.anyio

RING = [b"k" * 32]
KEYS = [
    TokenKey("obo", "https://login", "tenant", "client", f"user{number}", b"", ("a/read",), None)
    for number in range(20)
]


async def no_material() -> bytes | None:
    return None


async def open_cache(server: MemcachedServer) -> TokenCache:
    shared = MemcachedCache(
        endpoint="127.0.0.1", port=server.port, serializer=StringSerializer(), timeout=0.1
    )
    cache = TokenCache(shared=shared, keys=RING)
    await cache.open("client", no_material)
    return cache


async def test_a_server_that_hung_is_right_afterwards(memcached_server: MemcachedServer) -> None:
    """Calls that were given up while memcached hung answer nobody else's question later."""
    exchanges = 0

    async def exchange() -> AccessToken | OboError:
        nonlocal exchanges
        exchanges += 1
        return AccessToken(f"token {exchanges}", time.time() + 3600, time.time() + 3000)

    one, other = await open_cache(memcached_server), await open_cache(memcached_server)
    outcomes = await asyncio.gather(*(one.obtain(key, exchange) for key in KEYS))
    await asyncio.sleep(0.2)
    memcached_server.suspend()
    try:
        tasks = [asyncio.create_task(other.obtain(key, exchange)) for key in KEYS]
        await asyncio.sleep(0.05)
        for task in tasks[:5]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        memcached_server.resume()
    await asyncio.sleep(5.2)  # until it is tried again
    before = exchanges
    found = [await other.obtain(key, exchange) for key in KEYS]
    await one.aclose()
    await other.aclose()

    assert before == exchanges
    assert len(KEYS) == len({token.token for token in found if isinstance(token, AccessToken)})
    assert outcomes[:5] == found[:5]
