"""A shared cache in a container of Azure Cosmos DB."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._flights import Flights
from ..errors import ConfigurationError

try:
    from azure.core import MatchConditions
    from azure.cosmos import PartitionKey
    from azure.cosmos.aio import CosmosClient
    from azure.cosmos.exceptions import (
        CosmosAccessConditionFailedError,
        CosmosHttpResponseError,
        CosmosResourceExistsError,
        CosmosResourceNotFoundError,
    )
except ImportError as error:
    raise ConfigurationError(
        f"CosmosCache needs azure-cosmos, and {error.name} is missing: "
        'pip install "obo-asgi[cosmos]"'
    ) from error

from aiocache.base import BaseCache
from aiocache.serializers import StringSerializer

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.cosmos.aio import ContainerProxy

__all__ = ["CosmosCache"]

_NEVER: Final = 253_402_300_799  # the end of the year 9999
_MAX_PREFIX: Final = 150  # ids have at most 255 characters, of which our keys take 70
_FORBIDDEN: Final = frozenset("/\\?#")
_TIMES: Final = {
    # No retry of a 429, which may tell to wait for many seconds: nobody waits so long for a cache.
    # Not 0, which the client takes for "not given".
    "retry_throttle_total": -1,
    "retry_total": 1,
    "connection_timeout": 5,
    "read_timeout": 5,
}


class CosmosCache(BaseCache):  # type: ignore[misc] # aiocache has no types
    """An aiocache cache in a Cosmos DB container that is partitioned by ``/id``.

    It may be used in several event loops. The client is made at the first call in a loop and
    closed by ``close()``, or with the loop where ``asyncio.run`` ends it. Expired items read as
    missing; Cosmos DB removes them if the container has a default TTL (-1 will do).

    Args:
        url: the account, ``https://….documents.azure.com``; or a ready client, which you close.
        credential: the account's key, resource tokens, or an Azure credential, which you close;
            not with a ready client.
        database: the database's id.
        container: the container's id.
        create_if_not_exists: whether to create database and container where they are missing,
            which needs the account's key.
        prefix: put before every key; without ``/``, ``\\``, ``?`` and ``#``.
        client_options: passed to ``CosmosClient``; a throttled call fails at once unless
            ``retry_throttle_total`` says otherwise.

    Raises:
        ConfigurationError: an argument is wrong, or a package is missing.
    """

    NAME = "cosmos"

    def __init__(
        self,
        url: str | CosmosClient,
        credential: str | dict[str, str] | AsyncTokenCredential | None = None,
        *,
        database: str,
        container: str,
        create_if_not_exists: bool = False,
        prefix: str = "",
        **client_options: Any,
    ) -> None:
        if not database or not container:
            raise ConfigurationError("database and container must be ids")
        if len(prefix) > _MAX_PREFIX or _FORBIDDEN.intersection(prefix):
            raise ConfigurationError(
                f"prefix must have at most {_MAX_PREFIX} characters, none of them one of / \\ ? #"
            )
        super().__init__(serializer=StringSerializer(), namespace=prefix)
        self._database = database
        self._container = container
        self._create_if_not_exists = create_if_not_exists
        self._by_loop: dict[asyncio.AbstractEventLoop, _Held] = {}
        self._opening: Flights[Exception | None] = Flights()
        self._ready: CosmosClient | None = None
        if isinstance(url, CosmosClient):
            if credential is not None or client_options:
                raise ConfigurationError("a ready client takes no credential and no options")
            self._ready = url
        elif not credential:
            raise ConfigurationError("CosmosCache needs a credential: a key or an Azure one")
        else:
            _check_account(url, credential)
            self._url, self._credential = url, credential
            self._options = {**_TIMES, **client_options}

    async def open(self) -> None:
        """Connect, and create the container if that is wanted; every other call does so too.

        Raises:
            ConfigurationError: the database or the container does not exist.
            azure.core.exceptions.AzureError: the account cannot be used now.
        """
        await self._items()

    async def _get(self, key: str, encoding: str = "utf-8", _conn: object = None) -> str | None:
        item = await _read(await self._items(), key)
        return item["value"] if item is not None and item["expires_at"] > time.time() else None

    async def _set(
        self,
        key: str,
        value: str,
        ttl: float | None = None,
        _cas_token: object = None,
        _conn: object = None,
    ) -> bool:
        await (await self._items()).upsert_item(_item(key, value, ttl))
        return True

    async def _add(
        self, key: str, value: str, ttl: float | None = None, _conn: object = None
    ) -> bool:
        items = await self._items()
        new = _item(key, value, ttl)
        try:
            await items.create_item(new)
        except CosmosResourceExistsError:
            if not await _take_over(items, new):
                raise ValueError(f"Key {key} already exists, use .set to update it") from None
        return True

    async def _delete(self, key: str, _conn: object = None) -> int:
        try:
            await (await self._items()).delete_item(key, partition_key=key)
        except CosmosResourceNotFoundError:
            return 0
        return 1

    async def _close(self, *_: object, **__: object) -> None:
        await self._opening.aclose()
        held = self._by_loop.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held.holder.aclose()

    async def _items(self) -> ContainerProxy:
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            failure = await self._opening.join("open", self._open)
            if failure is not None:
                raise failure
        return self._by_loop[loop].items

    async def _open(self) -> Exception | None:
        for closed in [loop for loop in list(self._by_loop) if loop.is_closed()]:
            self._by_loop.pop(closed, None)
        client = self._ready or CosmosClient(self._url, self._credential, **self._options)
        holder = _hold(None if client is self._ready else client)
        await anext(holder)
        try:
            if client is not self._ready:
                await client.__aenter__()
            items = await self._find(client)
        except BaseException as error:
            await holder.aclose()
            if isinstance(error, Exception):
                return error
            raise
        self._by_loop[asyncio.get_running_loop()] = _Held(items, holder)
        return None

    async def _find(self, client: CosmosClient) -> ContainerProxy:
        if self._create_if_not_exists:
            database = await client.create_database_if_not_exists(self._database)
            return await database.create_container_if_not_exists(
                self._container,
                PartitionKey(path="/id"),
                default_ttl=-1,  # items expire, but only those that say when
            )
        items = client.get_database_client(self._database).get_container_client(self._container)
        try:
            await items.read()
        except CosmosResourceNotFoundError:
            raise ConfigurationError(
                f"there is no container {self._container} in a database {self._database}: create "
                "it with the partition key /id, or pass create_if_not_exists=True"
            ) from None
        return items


class _Held(NamedTuple):
    items: ContainerProxy
    holder: AsyncGenerator[None, None]


async def _hold(client: CosmosClient | None) -> AsyncGenerator[None, None]:
    """Close a client at the end, which is that of the loop at the latest."""
    try:
        yield
    finally:
        if client is not None:
            await client.close()


def _check_account(url: object, credential: object) -> None:
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise ConfigurationError("CosmosCache needs the account's URL, https://…")
    if isinstance(credential, str):
        try:
            base64.b64decode(credential, validate=True)
        except ValueError:
            raise ConfigurationError("the account's key is not valid base64") from None


def _item(key: str, value: str, ttl: float | None) -> dict[str, Any]:
    if ttl is None:
        return {"id": key, "value": value, "expires_at": _NEVER, "ttl": -1}
    return {
        "id": key,
        "value": value,
        "expires_at": time.time() + ttl,
        "ttl": max(1, math.ceil(ttl)),
    }


async def _read(items: ContainerProxy, key: str) -> dict[str, Any] | None:
    try:
        item: dict[str, Any] = await items.read_item(key, partition_key=key)
        return item
    except CosmosResourceNotFoundError:
        return None
    except CosmosHttpResponseError as error:
        # What @vercel/cosmosdb-server, which tests use, answers in place of a 404.
        if error.status_code == 500 and "undefined (reading 'id')" in error.message:
            return None
        raise


async def _take_over(items: ContainerProxy, new: dict[str, Any]) -> bool:
    """Replace an item that has expired, or add it again, and tell whether that was us."""
    old = await _read(items, new["id"])
    try:
        if old is None:
            await items.create_item(new)
        elif old["expires_at"] > time.time():
            return False
        else:
            await items.replace_item(
                new["id"], new, etag=old["_etag"], match_condition=MatchConditions.IfNotModified
            )
    except (
        CosmosAccessConditionFailedError,
        CosmosResourceExistsError,
        CosmosResourceNotFoundError,
    ):
        return False
    return True
