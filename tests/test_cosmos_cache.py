"""What only the Cosmos DB backend has: its items, its clients, and what it does about errors."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("azure.cosmos")

from aiohttp import web
from azure.core.exceptions import ServiceRequestError
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError

from obo_asgi import ConfigurationError
from obo_asgi.cache.cosmos import CosmosCache
from tests.servers.cosmos import KEY, CosmosServer
from tests.servers.fixtures import cosmos_server as cosmos_server  # a fixture

pytestmark = pytest.mark.anyio

# The test server's certificate is its own; and it answers 500 where there is no item, which the
# client tries again after half a second unless it stays with one endpoint.
CLIENT: dict[str, Any] = {"connection_verify": False, "enable_endpoint_discovery": False}
NAMES: dict[str, Any] = {"database": "TokenCache", "container": "Tokens"}


@asynccontextmanager
async def opened(server: CosmosServer, **options: Any) -> AsyncIterator[CosmosCache]:
    """Give a cache in a container that is there, and close it."""
    options = {**NAMES, **CLIENT, "create_if_not_exists": True, **options}
    cache = CosmosCache(server.url, KEY, **options)
    try:
        yield cache
    finally:
        await cache.close()


async def read_item(server: CosmosServer, key: str) -> dict[str, Any]:
    """Return an item as it is kept, by a client of the test's own."""
    async with CosmosClient(server.url, KEY, **CLIENT) as client:
        database = client.get_database_client(NAMES["database"])
        items = database.get_container_client(NAMES["container"])
        return dict(await items.read_item(key, partition_key=key))


async def test_a_value_comes_back_until_it_is_deleted(cosmos_server: CosmosServer) -> None:
    """What is set can be read, changed and deleted; what is not there is None."""
    async with opened(cosmos_server, prefix="round:") as cache:
        assert await cache.get("key") is None
        assert await cache.set("key", "value", 60)
        assert "value" == await cache.get("key")
        await cache.set("key", "other", 60)
        assert "other" == await cache.get("key")
        assert [1, 0] == [await cache.delete("key"), await cache.delete("key")]
        assert await cache.get("key") is None


async def test_an_item_says_when_it_ends(cosmos_server: CosmosServer) -> None:
    """Cosmos DB gets whole seconds of life, so that the item leaves by itself."""
    async with opened(cosmos_server, prefix="ttl:") as cache:
        before = time.time()
        await cache.set("key", "value", 60.5)
        item = await read_item(cosmos_server, "ttl:key")
        assert ("ttl:key", "value", 61) == (item["id"], item["value"], item["ttl"])
        assert before + 60.5 <= item["expires_at"] <= time.time() + 60.5
        await cache.set("key", "value", 0.01)
        assert 1 == (await read_item(cosmos_server, "ttl:key"))["ttl"]
        await asyncio.sleep(0.02)
        assert await cache.get("key") is None
        await cache.set("key", "value")
        item = await read_item(cosmos_server, "ttl:key")
        assert -1 == item["ttl"]
        assert math.isfinite(item["expires_at"])
        assert "value" == await cache.get("key")


async def test_only_the_first_adds(cosmos_server: CosmosServer) -> None:
    """Adding what is there is refused, and changes nothing."""
    async with opened(cosmos_server, prefix="add:") as cache:
        answers = await asyncio.gather(
            *(cache.add("key", str(i), 60) for i in range(8)), return_exceptions=True
        )
        assert 1 == answers.count(True)
        assert 7 == sum(isinstance(answer, ValueError) for answer in answers)
        assert f"{answers.index(True)}" == await cache.get("key")


async def test_an_expired_item_can_be_added_again_by_one(cosmos_server: CosmosServer) -> None:
    """An expired item that is still there is taken over."""
    async with opened(cosmos_server, prefix="again:") as cache:
        await cache.set("key", "old", -1)
        assert await cache.add("key", "new", 60)
        assert "new" == await cache.get("key")
        with pytest.raises(ValueError, match="again:key already exists"):
            await cache.add("key", "newer", 60)


async def test_database_and_container_are_created_once(cosmos_server: CosmosServer) -> None:
    """Creating twice is no failure, and the container lets items expire."""
    for _ in range(2):
        async with opened(cosmos_server) as cache:
            await cache.open()
    async with CosmosClient(cosmos_server.url, KEY, **CLIENT) as client:
        items = client.get_database_client("TokenCache").get_container_client("Tokens")
        properties = await items.read()
    assert -1 == properties["defaultTtl"]
    assert ["/id"] == properties["partitionKey"]["paths"]


async def test_a_missing_container_is_a_wrong_configuration(cosmos_server: CosmosServer) -> None:
    """Without create_if_not_exists every call says that the container is missing."""
    names = {"container": "Nowhere", "create_if_not_exists": False}
    async with opened(cosmos_server, **names) as cache:
        for call in (cache.open, lambda: cache.get("key")):
            with pytest.raises(ConfigurationError, match="no container Nowhere"):
                await call()


async def test_a_ready_client_is_not_closed(cosmos_server: CosmosServer) -> None:
    """The caller's client works after the cache is closed."""
    async with CosmosClient(cosmos_server.url, KEY, **CLIENT) as client:
        cache = CosmosCache(client, **NAMES, create_if_not_exists=True, prefix="ready:")
        await cache.set("key", "value", 60)
        await cache.close()
        assert "value" == await cache.get("key")
        assert [item async for item in client.list_databases()]


def test_one_cache_serves_several_event_loops(cosmos_server: CosmosServer) -> None:
    """Every loop gets a client of its own, which goes with the loop, without a warning."""
    cache = CosmosCache(
        cosmos_server.url, KEY, **NAMES, **CLIENT, create_if_not_exists=True, prefix="loops:"
    )

    async def read_and_close() -> Any:
        value = await cache.get("key")
        await cache.close()
        return value

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(cache.set("key", "value", 60))
        assert "value" == asyncio.run(cache.get("key"))
        assert "value" == asyncio.run(read_and_close())
        gc.collect()
    assert [] == [w for w in caught if issubclass(w.category, ResourceWarning)]


async def test_an_account_out_of_reach_fails_soon(cosmos_server: CosmosServer) -> None:
    """A call to an account that is down fails within seconds, and leaves nothing open."""
    cache = CosmosCache("https://127.0.0.1:9", KEY, **NAMES, **CLIENT)
    before = time.monotonic()
    with pytest.raises(ServiceRequestError):
        await cache.get("key")
    assert 3 > time.monotonic() - before
    assert {} == cache._by_loop
    gc.collect()


class Account:
    """An account that answers every question about an item in the same way.

    Args:
        status: the status of that answer.
        headers: its headers.
    """

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.headers = headers or {}
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        """Answer as Cosmos DB does."""
        if request.path == "/":
            body: dict[str, Any] = {
                "id": "account",
                "writableLocations": [],
                "readableLocations": [],
                "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
            }
            return web.json_response(body)
        if "docs" not in request.path:
            body = {"id": "Tokens", "_rid": "aaa=", "_self": "dbs/a/colls/b/"}
            body["partitionKey"] = {"paths": ["/id"], "kind": "Hash", "version": 2}
            return web.json_response(body)
        self.asked += 1
        body = {"code": "Wrong", "message": "no"}
        return web.Response(
            status=self.status,
            headers=self.headers,
            text=json.dumps(body),
            content_type="application/json",
        )


@asynccontextmanager
async def serving(account: Account) -> AsyncIterator[CosmosCache]:
    """Serve an account on a free port and give a cache on it."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", account.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    cache = CosmosCache(f"http://127.0.0.1:{port}", KEY, **NAMES, enable_endpoint_discovery=False)
    try:
        yield cache
    finally:
        await cache.close()
        await runner.cleanup()


async def test_a_throttled_call_fails_at_once() -> None:
    """A 429 is not waited for, however long the account says."""
    account = Account(429, {"x-ms-retry-after-ms": "20000"})
    async with serving(account) as cache:
        calls: list[Callable[[], Any]] = [
            lambda: cache.get("key"),
            lambda: cache.set("key", "value", 60),
            lambda: cache.add("key", "value", 60),
            lambda: cache.delete("key"),
        ]
        for call in calls:
            before, asked = time.monotonic(), account.asked
            with pytest.raises(CosmosHttpResponseError) as caught:
                await call()
            assert 429 == caught.value.status_code
            assert 2 > time.monotonic() - before
            assert 1 == account.asked - asked


async def test_a_missing_item_is_a_miss() -> None:
    """The real service answers 404."""
    async with serving(Account(404)) as cache:
        assert await cache.get("key") is None
        assert 0 == await cache.delete("key")


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_any_other_answer_is_an_error(status: int) -> None:
    """Neither a refusal nor a failure of the service looks like a miss."""
    async with serving(Account(status)) as cache:
        with pytest.raises(CosmosHttpResponseError) as caught:
            await cache.get("key")
        assert status == caught.value.status_code


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("https://host", KEY), {"prefix": "my/api:"}),
        (("https://host", KEY), {"prefix": "my\\api:"}),
        (("https://host", KEY), {"prefix": "my?api:"}),
        (("https://host", KEY), {"prefix": "my#api:"}),
        (("https://host", KEY), {"prefix": "p" * 151}),
        (("https://host", KEY), {"database": ""}),
        (("https://host", KEY), {"container": ""}),
        (("https://host",), {}),
        (("host", KEY), {}),
        (("https://host", "geheim"), {}),
        (("https://host", "not base64!"), {}),
    ],
)
def test_wrong_options_are_refused(arguments: Any, options: dict[str, Any]) -> None:
    """An argument that cannot be used is refused at once."""
    with pytest.raises(ConfigurationError) as caught:
        CosmosCache(*arguments, **{**NAMES, **options})
    assert "geheim" not in str(caught.value)


async def test_a_ready_client_takes_neither_credential_nor_options() -> None:
    """What would be ignored is refused."""
    client = CosmosClient("https://host", KEY)
    try:
        with pytest.raises(ConfigurationError, match="ready client"):
            CosmosCache(client, KEY, **NAMES)
        with pytest.raises(ConfigurationError, match="ready client"):
            CosmosCache(client, **NAMES, connection_timeout=1)
    finally:
        await client.close()


def test_a_missing_package_is_named() -> None:
    """Importing the module without azure-cosmos says what to install."""
    code = "import sys; sys.modules['azure.cosmos'] = None; import obo_asgi.cache.cosmos"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ConfigurationError: CosmosCache needs azure-cosmos" in process.stderr
    assert 'pip install "obo-asgi[cosmos]"' in process.stderr
