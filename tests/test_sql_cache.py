"""What only the SQL backend has: its table, its statements, its engines and its purge."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("aiosqlite")

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.schema import CreateTable

from obo_asgi import ConfigurationError
from obo_asgi.cache._sql_rows import BATCH, Rows
from obo_asgi.cache.sql import SQLCache
from tests.servers.fixtures import postgres_server as postgres_server  # a fixture

pytestmark = pytest.mark.anyio

DIALECTS: dict[str, sa.Dialect] = {
    name: make_url(f"{name}://").get_dialect()()
    for name in ("mssql+pyodbc", "mysql+pymysql", "postgresql+asyncpg", "sqlite+aiosqlite")
}
CREATE_IN_ANOTHER_PROCESS = """
import asyncio, sys, time
from obo_asgi.cache.sql import SQLCache

async def main():
    url, schema, start = sys.argv[1], sys.argv[2] or None, float(sys.argv[3])
    cache = SQLCache(url, schema=schema, create_if_not_exists=True)
    time.sleep(max(0, start - time.time()))
    await cache.open()
    await cache.set(str(start), "value", 60)
    await cache.close()

asyncio.run(main())
"""


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """An SQLite database that nobody else has."""
    return f"sqlite+aiosqlite:///{tmp_path}/cache.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A database of each kind that can be had here."""
    if request.param == "sqlite":
        file_url: str = request.getfixturevalue("file_url")
        return file_url
    pytest.importorskip("asyncpg")
    server = request.getfixturevalue("postgres_server")
    return str(server.url)


async def read(url: str, statement: str) -> list[Any]:
    """Return the rows of a statement, over a connection of the test's own."""
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            result = await connection.execute(sa.text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        await engine.dispose()


def statements() -> list[Any]:
    """Return one of each statement."""
    rows = Rows("obo_cache", "auth")
    return [
        rows.select("key", 1.0),
        rows.insert("key", "value", 2.0),
        rows.update("key", "value", 2.0),
        rows.take_over("key", "value", 2.0, 1.0),
        rows.delete("key"),
        rows.select_expired(1.0),
        rows.delete_expired(["one", "two"], 1.0),
    ]


@pytest.mark.parametrize("name", DIALECTS)
def test_no_statement_is_of_one_dialect_only(name: str) -> None:
    """Every statement compiles for four databases, names the schema and is no special upsert."""
    for statement in statements():
        text = str(statement.compile(dialect=DIALECTS[name])).upper().replace("`", "")
        assert "AUTH.OBO_CACHE" in text
        for special in ("ON CONFLICT", "ON DUPLICATE", "MERGE", "REPLACE", "RETURNING", "OUTPUT"):
            assert special not in text


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        (
            "mssql+pyodbc",
            "id NVARCHAR(449) COLLATE SQL_Latin1_General_CP1_CS_AS NOT NULL",
            "value TEXT",
        ),
        ("mysql+pymysql", "id VARCHAR(449) COLLATE utf8mb4_bin NOT NULL", "value MEDIUMTEXT"),
        ("postgresql+asyncpg", "id VARCHAR(449) NOT NULL", "value TEXT"),
        ("sqlite+aiosqlite", "id VARCHAR(449) NOT NULL", "value TEXT"),
    ],
)
def test_keys_are_exact_and_values_long_in_every_database(name: str, key: str, value: str) -> None:
    """The table compares keys by case also where the database would not, and holds long values."""
    text = str(CreateTable(Rows("tokens", "auth").table).compile(dialect=DIALECTS[name]))
    assert "CREATE TABLE auth.tokens" in text
    assert key in text
    assert value in text
    assert "expires_at DOUBLE" in text
    assert "PRIMARY KEY (id)" in text


async def test_schema_and_table_are_the_given_ones(url: str) -> None:
    """Rows go to the table and the schema that were named."""
    schema = "main" if url.startswith("sqlite") else "token_cache"
    cache = SQLCache(url, table="tokens", schema=schema, create_if_not_exists=True, prefix="my:")
    await cache.set("key", "value", 60)
    assert "value" == await cache.get("key")
    assert [("my:key", "value")] == await read(url, f"SELECT id, value FROM {schema}.tokens")
    await cache.close()


async def test_objects_that_create_the_table_at_once_all_succeed(file_url: str) -> None:
    """Several caches may be opened on an empty database at the same moment."""
    caches = [SQLCache(file_url, create_if_not_exists=True) for _ in range(8)]
    await asyncio.gather(*(cache.open() for cache in caches))
    await asyncio.gather(*(cache.set(str(i), "value", 60) for i, cache in enumerate(caches)))
    assert [(8,)] == await read(file_url, "SELECT count(*) FROM obo_cache")
    await asyncio.gather(*(cache.close() for cache in caches))


async def test_processes_that_create_schema_and_table_at_once_all_succeed(url: str) -> None:
    """Several processes may start on an empty database at the same moment."""
    schema = "" if url.startswith("sqlite") else "created_at_once"
    start = time.time() + 1.5
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE_IN_ANOTHER_PROCESS, url, schema, str(start)],
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    outcomes = [await asyncio.to_thread(process.communicate, timeout=40) for process in processes]
    assert [b""] * 4 == [stderr for _, stderr in outcomes]
    assert [0] * 4 == [process.returncode for process in processes]


async def test_a_missing_table_is_a_wrong_configuration(url: str) -> None:
    """Without create_if_not_exists every call says that the table is missing."""
    cache = SQLCache(url, table="nowhere")
    for call in (cache.open, lambda: cache.get("key"), lambda: cache.set("key", "value", 60)):
        with pytest.raises(ConfigurationError, match=r"nowhere does not exist.*create_if_not"):
            await call()
    await cache.close()


async def test_an_expired_row_reads_as_missing_and_can_be_added_again(url: str) -> None:
    """Expiry is decided by our clock, whether or not the row is still there."""
    cache = SQLCache(url, create_if_not_exists=True, purge_interval=0)
    await cache.set("expired", "old", -1)
    assert await cache.get("expired") is None
    assert await cache.add("expired", "new", 60)
    assert "new" == await cache.get("expired")
    with pytest.raises(ValueError, match="already exists"):
        await cache.add("expired", "newer", 60)
    assert "new" == await cache.get("expired")
    await cache.set("kept", "value")
    assert "value" == await cache.get("kept")
    assert [1, 1, 0] == [await cache.delete(key) for key in ("expired", "kept", "kept")]
    await cache.close()


async def test_one_of_many_takes_over_an_expired_row(url: str) -> None:
    """An expired lock is had by exactly one of those who want it."""
    cache = SQLCache(url, create_if_not_exists=True, purge_interval=0)
    for _ in range(5):
        await cache.set("lock", "expired", -1)
        answers = await asyncio.gather(
            *(cache.add("lock", str(i), 60) for i in range(8)), return_exceptions=True
        )
        assert 1 == answers.count(True)
        assert f"{answers.index(True)}" == await cache.get("lock")
    await cache.close()


async def test_writers_of_one_key_leave_one_row(url: str) -> None:
    """Two who set the same new key at once both succeed, fifty times, and one value stays."""
    one, other = (SQLCache(url, create_if_not_exists=True, prefix="race:") for _ in range(2))
    for round_ in range(50):
        key = f"{round_}"
        await asyncio.gather(one.set(key, "one", 60), other.set(key, "other", 60))
        assert await one.get(key) in ("one", "other")
    assert [(50,)] == await read(url, "SELECT count(*) FROM obo_cache WHERE id LIKE 'race:%'")
    await one.close()
    await other.close()


async def test_expired_rows_leave_in_the_background(url: str) -> None:
    """A write starts the deletion of all expired rows, in batches, and of no others."""
    filler = SQLCache(url, create_if_not_exists=True, purge_interval=0, prefix="purge:")
    await filler.set("kept", "value", 60)
    values = ", ".join(f"('purge:{i}', 'value', 1)" for i in range(BATCH + 500))
    await read(url, f"INSERT INTO obo_cache (id, value, expires_at) VALUES {values}")
    count = "SELECT count(*) FROM obo_cache WHERE id LIKE 'purge:%'"
    await filler.set("kept", "value", 60)
    assert [(BATCH + 501,)] == await read(url, count)
    cache = SQLCache(url, purge_interval=3600, prefix="purge:")
    await cache.set("new", "value", 60)
    async with asyncio.timeout(20):
        while await read(url, count) != [(2,)]:
            await asyncio.sleep(0.02)
    assert ["value", "value"] == [await cache.get("kept"), await cache.get("new")]

    await cache.set("expired", "value", -1)
    await asyncio.sleep(0.1)
    assert [(3,)] == await read(url, count), "the interval has not passed"
    await filler.close()
    await cache.close()


async def test_a_purge_that_fails_is_told_to_nobody_but_the_log(
    file_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A write does not fail because old rows cannot be deleted."""
    cache = SQLCache(file_url, create_if_not_exists=True)
    await cache.open()
    await read(
        file_url,
        "CREATE TRIGGER refuse BEFORE DELETE ON obo_cache BEGIN SELECT RAISE(FAIL, 'no'); END",
    )
    assert await cache.set("key", "value", -1)
    async with asyncio.timeout(10):
        while "expired rows could not be deleted: IntegrityError" not in caplog.text:
            await asyncio.sleep(0.01)
    await cache.close()


async def test_close_ends_a_purge_under_way(file_url: str) -> None:
    """After close no task of the cache is left."""
    cache = SQLCache(file_url, create_if_not_exists=True)
    before = asyncio.all_tasks()
    await cache.set("key", "value", 60)
    await cache.close()
    assert before == asyncio.all_tasks()


async def test_a_ready_engine_is_used_as_it_is_and_not_disposed(url: str) -> None:
    """The engine's pool serves the cache, also after close, and stays the caller's."""
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    try:
        cache = SQLCache(engine, create_if_not_exists=True, prefix="ready:")
        await cache.set("key", "value", 60)
        await cache.close()
        async with engine.connect() as connection:
            assert "AUTOCOMMIT" != await connection.get_isolation_level()
        assert "Connections in pool: 1" in engine.pool.status()
        assert "value" == await cache.get("key")
        await cache.close()
    finally:
        await engine.dispose()


async def test_cancelled_calls_leave_the_pool_whole(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls that are given up half-way leave no connection checked out, and nothing in the log."""
    engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool)
    pool = engine.pool
    assert isinstance(pool, AsyncAdaptedQueuePool)
    cache = SQLCache(engine, create_if_not_exists=True)
    calls: list[Callable[[], Any]] = [
        lambda: cache.get("key"),
        lambda: cache.set("key", "value", 60),
        lambda: cache.add("key", "value", 60),
        lambda: cache.delete("key"),
    ]
    loop = asyncio.get_running_loop()
    await cache.open()
    for _ in range(10):
        tasks = [asyncio.create_task(call()) for call in calls for _ in range(4)]
        for task in tasks:
            loop.call_later(random.random() * 0.02, task.cancel)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(answer, asyncio.CancelledError) for answer in answers)
    async with asyncio.timeout(20):
        while pool.checkedout():
            await asyncio.sleep(0.01)
    await cache.set("key", "after", 60)
    assert "after" == await cache.get("key")
    await cache.close()
    assert 0 == pool.checkedout()
    await engine.dispose()
    gc.collect()
    assert "" == caplog.text


def test_one_cache_serves_several_event_loops(url: str) -> None:
    """Every loop gets an engine of its own, which goes with the loop, without a warning."""
    cache = SQLCache(url, create_if_not_exists=True, prefix="loops:")
    asyncio.run(cache.set("key", "value", 60))
    assert "value" == asyncio.run(cache.get("key"))
    gc.collect()

    async def read_and_close() -> Any:
        value = await cache.get("key")
        await cache.close()
        return value

    assert "value" == asyncio.run(read_and_close())
    assert {} == cache._by_loop


async def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    """While the server is down calls fail soon; afterwards they succeed with the same object."""
    pytest.importorskip("asyncpg")
    from tests.servers.fixtures import need
    from tests.servers.postgres import start_postgres, why_no_postgres

    need(why_no_postgres())
    with start_postgres(tmp_path, "-c", "synchronous_commit=on") as server:
        cache = SQLCache(server.url, create_if_not_exists=True)
        await cache.set("key", "value", 60)
        server.kill()
        before = time.monotonic()
        with pytest.raises((DBAPIError, OSError)):
            await cache.get("key")
        assert 5 > time.monotonic() - before
        await asyncio.to_thread(server.restart)
        assert "value" == await cache.get("key")
        await cache.close()


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sqlite:///cache.db", r"sqlite\+aiosqlite://"),
        ("postgresql+psycopg2://me:geheim@host/db", r"postgresql\+asyncpg://"),
        ("postgresql://me:geheim@host/db", r"postgresql\+asyncpg://"),
        ("postgres://me:geheim@host/db", r"postgresql\+asyncpg://"),
        ("mysql+pymysql://me:geheim@host/db", r"mysql\+aiomysql://"),
        ("mssql+pyodbc://me:geheim@host/db", r"mssql\+aioodbc://"),
        ("postgresql+asyncpg://me:geheim@host:port/db", "starts with one of"),
        ("geheim", "starts with one of"),
    ],
)
def test_a_wrong_url_is_answered_with_the_right_form(url: str, hint: str) -> None:
    """The message says which form to use, and holds no password."""
    if url.startswith("postgresql://"):
        pytest.importorskip("sqlalchemy", "2.1")
        if _is_installed("psycopg"):
            pytest.skip("this URL is right where psycopg is installed")
    with pytest.raises(ConfigurationError, match=hint) as caught:
        SQLCache(url)
    assert "geheim" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigurationError, match=r'pip install "obo-asgi\[sql\]" asyncpg'):
        SQLCache("postgresql+asyncpg://me:geheim@host/db")


def test_a_missing_sqlalchemy_is_named() -> None:
    """Importing the module without SQLAlchemy says what to install."""
    code = "import sys; sys.modules['sqlalchemy'] = None; import obo_asgi.cache.sql"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ConfigurationError: SQLCache needs SQLAlchemy" in process.stderr
    assert 'pip install "obo-asgi[sql]"' in process.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"table": ""},
        {"schema": ""},
        {"prefix": "p" * 301},
        {"purge_interval": -1},
        {"purge_interval": float("nan")},
        {"no_such_option": True},
    ],
)
def test_wrong_options_are_refused(file_url: str, options: dict[str, Any]) -> None:
    """An argument that cannot be used is refused at once."""
    with pytest.raises(ConfigurationError):
        SQLCache(file_url, **options)


def test_a_ready_engine_takes_no_engine_options(file_url: str) -> None:
    """Options that would be ignored are refused."""
    with pytest.raises(ConfigurationError, match="ready engine"):
        SQLCache(create_async_engine(file_url), echo=True)


async def test_a_database_in_memory_works_too() -> None:
    """A test needs no file."""
    cache = SQLCache("sqlite+aiosqlite://", create_if_not_exists=True)
    await cache.set("key", "value", 60)
    assert "value" == await cache.get("key")
    await cache.close()
