"""A shared cache in Redis: one server, Sentinel or a cluster, with TLS and any way to sign in."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, TypeAlias

from aiocache.base import BaseCache
from aiocache.serializers import StringSerializer

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster

    Client: TypeAlias = Redis | RedisCluster

__all__ = ["redis_cache"]

# Seconds. There is none for an answer: it would cost a quarter of a call, and a `TokenCache` waits
# no longer than it has time.
_TIMEOUTS = {"socket_connect_timeout": 2, "socket_timeout": None}
_POOL_SECONDS = 2


def redis_cache(
    redis: str | Client, *, prefix: str = "", max_connections: int = 100, **options: Any
) -> BaseCache:
    """Return an aiocache cache that keeps strings in Redis.

    Given a URL, it connects at the first use, apart in each event loop, and closes what it opened
    when the loop ends or at ``close()``. Nothing is tried twice; where the server is down a call
    raises at once, and where it hangs it is the caller who gives up, or ``socket_timeout=``
    (seconds).

    Args:
        redis: a ``redis://``, ``rediss://`` or ``unix://`` URL (special characters of a password
            percent-encoded), or a ready client of ``redis.asyncio`` (``Redis``, ``RedisCluster``,
            Sentinel's ``master_for``), which belongs to the event loop that uses it, keeps its own
            time-outs, and is closed by you.
        prefix: what every key starts with, for applications that share a Redis.
        max_connections: how many connections an event loop has at most; a call that finds all in
            use waits.
        options: what redis-py's ``from_url`` takes, such as ``credential_provider`` or
            ``ssl_ca_certs``; for a URL only.

    Raises:
        ConfigurationError: the URL or an option is wrong, or the package ``redis`` is missing.
    """
    try:
        from redis.asyncio import Redis, RedisCluster
    except ImportError as error:
        raise ConfigurationError(
            f'install the redis extra: pip install "obo-asgi[redis]" ({error})'
        ) from None

    if not isinstance(prefix, str):
        raise ConfigurationError(f"prefix must be a string: {prefix!r}")
    if isinstance(redis, Redis | RedisCluster):
        if options:
            raise ConfigurationError(
                f"give these options to the client that you pass: {', '.join(sorted(options))}"
            )
        return _RedisCache(redis, prefix)
    if not isinstance(redis, str):
        raise ConfigurationError(
            "redis must be a redis://, rediss:// or unix:// URL or a client of redis.asyncio: "
            f"not a {type(redis).__module__}.{type(redis).__qualname__}"
        )
    return _RedisCache(_Clients(redis, max_connections, options), prefix)


class _RedisCache(BaseCache):  # type: ignore[misc]  # aiocache has no type hints
    """What `redis_cache` returns; it has no ``clear``, which would empty the whole database."""

    NAME = "redis"

    def __init__(self, clients: _Clients | Client, prefix: str) -> None:
        # No time-out of aiocache: it costs a task per call, and the sockets have theirs.
        super().__init__(serializer=StringSerializer(), namespace=prefix, timeout=None)
        self._clients = clients

    async def _client(self) -> Client:
        if isinstance(self._clients, _Clients):
            return await self._clients.get()
        # The first calls to a cluster, at the same time, would close each other's connections.
        await self._clients.initialize()
        return self._clients

    async def _get(self, key: str, encoding: str = "utf-8", _conn: object = None) -> str | None:
        value = await (await self._client()).get(key)
        return value.decode(encoding) if isinstance(value, bytes) else value

    async def _set(
        self,
        key: str,
        value: str,
        ttl: int | None = None,
        _cas_token: object = None,
        _conn: object = None,
    ) -> bool:
        return bool(await (await self._client()).set(key, value, ex=ttl))

    async def _add(
        self, key: str, value: str, ttl: int | None = None, _conn: object = None
    ) -> bool:
        if not await (await self._client()).set(key, value, ex=ttl, nx=True):
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        return True

    async def _delete(self, key: str, _conn: object = None) -> int:
        return int(await (await self._client()).delete(key))

    async def maxmemory_policy(self) -> str:
        """Return what the server does when it is full; it may refuse to tell."""
        answer = await (await self._client()).config_get("maxmemory-policy")
        return str(answer["maxmemory-policy"])

    async def _close(self, *args: object, _conn: object = None, **kwargs: object) -> None:
        if isinstance(self._clients, _Clients):
            await self._clients.close()


class _Clients:
    """A client for each event loop, made at the first use there and closed when the loop ends."""

    def __init__(self, url: str, max_connections: int, options: dict[str, Any]) -> None:
        if isinstance(max_connections, bool) or not isinstance(max_connections, int):
            raise ConfigurationError(f"max_connections must be a number: {max_connections!r}")
        if max_connections < 1:
            raise ConfigurationError(f"max_connections must be above 0: {max_connections}")
        self._url = url
        self._max_connections = max_connections
        self._options = options
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[Redis, AsyncGenerator[None]]] = {}
        _check_url(url)
        self._check_options()

    async def get(self) -> Redis:
        """Return the client of the running loop."""
        loop = asyncio.get_running_loop()
        held = self._by_loop.get(loop)
        if held is None:
            from redis.asyncio import Redis

            for closed in [other for other in list(self._by_loop) if other.is_closed()]:
                self._by_loop.pop(closed, None)
            client = Redis.from_pool(self._pool())
            holder = self._hold(loop, client)
            held = self._by_loop[loop] = client, holder
            await anext(holder)
        return held[0]

    async def close(self) -> None:
        """Close the client of the running loop; a later use makes a new one."""
        held = self._by_loop.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held[1].aclose()

    async def _hold(self, loop: asyncio.AbstractEventLoop, client: Redis) -> AsyncGenerator[None]:
        """Close the client with the generator; a loop closes those that it knows when it ends."""
        try:
            yield
        finally:
            self._by_loop.pop(loop, None)
            await client.aclose()

    def _pool(self) -> BlockingConnectionPool:
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        # RESP2: with RESP3 redis-py takes connections with unread data for good ones, because
        # they may be notifications.
        defaults = {**_TIMEOUTS, "retry": Retry(NoBackoff(), 0), "protocol": 2}
        return BlockingConnectionPool.from_url(
            self._url,
            max_connections=self._max_connections,
            timeout=_POOL_SECONDS,
            **{**defaults, **self._options},
        )

    def _check_options(self) -> None:
        from redis.exceptions import RedisError

        try:
            pool: Any = self._pool()
            pool.make_connection()
        except (TypeError, RedisError) as error:
            # They name options, and hold no values of the URL.
            raise ConfigurationError(f"redis-py refuses an option: {error}") from None
        except ValueError:
            raise ConfigurationError(
                "the Redis URL or an option has a value of the wrong type: check the numbers and "
                "the booleans after the ? in it"
            ) from None


def _check_url(url: str) -> None:
    """Refuse what redis-py would read as something else; no message shows a part of the URL."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in {"redis", "rediss", "unix"} or not rest:
        raise ConfigurationError(
            "the URL of Redis must start with redis://, rediss:// or unix://, as in "
            "rediss://cache.example.com:6380/0"
        )
    if scheme.lower() == "unix":
        return
    try:
        parts = urllib.parse.urlsplit(url)
        host, path = parts.hostname, parts.path.strip("/")
        misread = "#" in url or "@" in path or parts.port == 0
        misread = misread or ("@" in parts.query and "@" not in parts.netloc)
    except ValueError:
        host, path, misread = None, "", True
    if misread or not host:
        raise ConfigurationError(
            "the URL of Redis has no host, a wrong port, or a user name or password with special "
            "characters: percent-encode these, as urllib.parse.quote(password, safe='') does"
        )
    if path and not (path.isascii() and path.isdigit()):
        raise ConfigurationError(
            "the path of the URL of Redis must be the number of a database, as in "
            "rediss://cache.example.com:6380/0"
        )
