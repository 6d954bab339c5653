"""A shared cache in a table of a SQL database, by SQLAlchemy."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from importlib import import_module
from typing import Any, Final, NamedTuple, TypeVar

from .._events import CACHE_UNAVAILABLE, emit
from .._flights import Flights
from ..errors import ConfigurationError

try:
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DBAPIError, IntegrityError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    import_module("greenlet")  # which SQLAlchemy misses at the first call only
except ImportError as error:
    raise ConfigurationError(
        f'SQLCache needs SQLAlchemy, and {error.name} is missing: pip install "obo-asgi[sql]"'
    ) from error

from aiocache.base import BaseCache
from aiocache.serializers import StringSerializer

from ._sql_engine import check_url, create_engine, with_defaults
from ._sql_rows import BATCH, Rows

__all__ = ["SQLCache"]

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

_NEVER: Final = 253_402_300_799.0  # the end of the year 9999
_MAX_PREFIX: Final = 300
_TRIES: Final = 5
_SECONDS: Final = 5.0  # for one call
_CLOSE_SECONDS: Final = 2.0


class SQLCache(BaseCache):  # type: ignore[misc] # aiocache has no types
    """An aiocache cache in a table of PostgreSQL, SQL Server, MySQL, MariaDB or SQLite.

    It may be used in several event loops. Connections are made at the first call in a loop and
    closed by ``close()``, or with the loop where ``asyncio.run`` ends it.

    Args:
        url: the database, with an async driver, such as ``postgresql+asyncpg://…``; or a ready
            engine, which you dispose, and which serves the loop that you made it for.
        table: the table's name.
        schema: the table's schema; the connection's default if left out.
        create_if_not_exists: whether to create schema and table where they are missing.
        prefix: put before every key.
        purge_interval: seconds between two deletions of expired rows by this process, in the
            background; 0 for never.
        engine_options: passed to ``create_async_engine``.

    Raises:
        ConfigurationError: an argument is wrong, or a package is missing.
    """

    NAME = "sql"

    def __init__(
        self,
        url: str | URL | AsyncEngine,
        *,
        table: str = "obo_cache",
        schema: str | None = None,
        create_if_not_exists: bool = False,
        prefix: str = "",
        purge_interval: float = 1800,
        **engine_options: Any,
    ) -> None:
        if not table or schema == "":
            raise ConfigurationError("table and schema must be names")
        if len(prefix) > _MAX_PREFIX:
            raise ConfigurationError(f"prefix must have at most {_MAX_PREFIX} characters")
        if not purge_interval >= 0:
            raise ConfigurationError("purge_interval must be a number of seconds, 0 or more")
        super().__init__(serializer=StringSerializer(), namespace=prefix)
        self._rows = Rows(table, schema)
        self._create_if_not_exists = create_if_not_exists
        self._purge_interval = purge_interval
        self._purge_at = float("-inf")
        self._by_loop: dict[asyncio.AbstractEventLoop, _Held] = {}
        self._flights: Flights[Exception | None] = Flights()
        self._ready: AsyncEngine | None = None
        if isinstance(url, AsyncEngine):
            if engine_options:
                raise ConfigurationError("a ready engine takes no engine options")
            self._ready = url.execution_options(isolation_level="AUTOCOMMIT")
        else:
            self._url = check_url(url)
            self._options = with_defaults(self._url, engine_options)
            create_engine(self._url, self._options)  # what is wrong shows now

    async def open(self) -> None:
        """Connect, and create the table if that is wanted; every other call does so too.

        Raises:
            ConfigurationError: the table does not exist.
            sqlalchemy.exc.SQLAlchemyError, OSError: the database cannot be used now.
        """
        await self._held()

    async def _get(self, key: str, encoding: str = "utf-8", _conn: object = None) -> str | None:
        async def work(connection: AsyncConnection) -> str | None:
            value: str | None = await connection.scalar(self._rows.select(key, time.time()))
            return value

        return await self._do(work)

    async def _set(
        self,
        key: str,
        value: str,
        ttl: float | None = None,
        _cas_token: object = None,
        _conn: object = None,
    ) -> bool:
        until = _end(ttl)

        async def work(connection: AsyncConnection) -> None:
            for attempt in range(_TRIES):
                if (await connection.execute(self._rows.update(key, value, until))).rowcount:
                    return
                try:
                    await connection.execute(self._rows.insert(key, value, until))
                    return
                except IntegrityError:  # somebody else has inserted it
                    if attempt == _TRIES - 1:
                        raise

        await self._do(work)
        self._start_purge()
        return True

    async def _add(
        self, key: str, value: str, ttl: float | None = None, _conn: object = None
    ) -> bool:
        until = _end(ttl)

        async def work(connection: AsyncConnection) -> bool:
            try:
                await connection.execute(self._rows.insert(key, value, until))
            except IntegrityError:
                change = self._rows.take_over(key, value, until, time.time())
                return (await connection.execute(change)).rowcount == 1
            return True

        if not await self._do(work):
            raise ValueError(f"Key {key} already exists, use .set to update it")
        self._start_purge()
        return True

    async def _delete(self, key: str, _conn: object = None) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(self._rows.delete(key))).rowcount

        return await self._do(work)

    async def _close(self, *_: object, **__: object) -> None:
        await self._flights.aclose()
        held = self._by_loop.pop(asyncio.get_running_loop(), None)
        if held is None:
            return
        if held.calls:
            late = (await asyncio.wait(held.calls, timeout=_CLOSE_SECONDS))[1]
            for call in late:
                call.cancel()
        await held.holder.aclose()

    async def _do(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """Do something with a connection, and do it to its end if the caller is cancelled.

        Otherwise each caller who runs out of time would cost a connection, just when the database
        is slow, because a connection does not survive that a statement is cancelled.
        """
        held = await self._held()
        call = asyncio.create_task(_call(held.engine, work))
        held.calls.add(call)
        call.add_done_callback(held.calls.discard)
        call.add_done_callback(_look_at)
        return await asyncio.shield(call)

    async def _held(self) -> _Held:
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            failure = await self._flights.join("open", self._open)
            if failure is not None:
                raise failure
        return self._by_loop[loop]

    async def _open(self) -> Exception | None:
        for closed in [loop for loop in list(self._by_loop) if loop.is_closed()]:
            self._by_loop.pop(closed, None)
        engine = self._ready or create_engine(self._url, self._options)
        holder = _hold(None if engine is self._ready else engine)
        await anext(holder)
        try:
            async with engine.connect() as connection:
                if self._create_if_not_exists:
                    await self._create(connection)
                else:
                    await self._check(connection)
        except BaseException as error:
            await holder.aclose()
            if isinstance(error, Exception):
                return error
            raise
        self._by_loop[asyncio.get_running_loop()] = _Held(engine, holder, set())
        return None

    async def _create(self, connection: AsyncConnection) -> None:
        """Create what is missing; another process that does so at the same time is no failure."""
        for attempt in range(_TRIES):
            try:
                await connection.run_sync(self._rows.create)
                break
            except DBAPIError as error:
                if error.connection_invalidated or attempt == _TRIES - 1:
                    raise
                await connection.rollback()
                await asyncio.sleep(0.05 * 2**attempt)

    async def _check(self, connection: AsyncConnection) -> None:
        try:
            await connection.execute(self._rows.select("", 0))
        except DBAPIError as error:
            if error.connection_invalidated or await connection.run_sync(self._rows.exist):
                raise
            raise ConfigurationError(
                f"the table {self._rows.table.fullname} does not exist: create it, or pass "
                "create_if_not_exists=True"
            ) from None

    def _start_purge(self) -> None:
        now = time.monotonic()
        if self._purge_interval and now >= self._purge_at:
            self._purge_at = now + self._purge_interval
            self._flights.start("purge", self._purge)

    async def _purge(self) -> Exception | None:
        async def work(connection: AsyncConnection) -> int:
            now = time.time()
            keys = (await connection.scalars(self._rows.select_expired(now))).all()
            if keys:
                await connection.execute(self._rows.delete_expired(keys, now))
            return len(keys)

        try:
            while await self._do(work) == BATCH:
                pass
        except Exception as error:
            kind, message = type(error).__name__, "expired rows could not be deleted: %s"
            emit(logger, logging.WARNING, CACHE_UNAVAILABLE, message, kind, error=kind)
            return error
        return None


class _Held(NamedTuple):
    engine: AsyncEngine
    holder: AsyncGenerator[None, None]
    calls: set[asyncio.Task[Any]]


async def _hold(engine: AsyncEngine | None) -> AsyncGenerator[None, None]:
    """Dispose an engine at the end, which is that of the loop at the latest."""
    try:
        yield
    finally:
        if engine is not None:
            await engine.dispose()


async def _call(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
    # aiosqlite may hang for ever when it is cancelled; SQLite bounds the wait for its lock itself.
    limit = None if engine.dialect.name == "sqlite" else _SECONDS
    async with asyncio.timeout(limit), engine.connect() as connection:
        return await work(connection)


def _look_at(call: asyncio.Task[Any]) -> None:
    """Keep asyncio from logging the failure of a call whose caller has gone."""
    if not call.cancelled():
        call.exception()


def _end(ttl: float | None) -> float:
    return _NEVER if ttl is None else time.time() + ttl
