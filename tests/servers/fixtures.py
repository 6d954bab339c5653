"""A fixture for each server: of the module that uses it, and running whenever a test starts.

A test module names them with ``pytest_plugins = ["tests.servers.fixtures"]``. Where a program is
missing the tests are skipped, and on CI, where all must be there, they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .cosmos import CosmosServer, start_cosmos, why_no_cosmos
from .memcached import MemcachedServer, start_memcached, why_no_memcached
from .postgres import PostgresServer, start_postgres, why_no_postgres
from .redis import RedisClusterServer, RedisServer, start_cluster, start_redis, why_no_redis


def need(reason: str | None) -> None:
    """Skip the test for this reason, or fail on CI; without a reason go on."""
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis server."""
    need(why_no_redis())
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClusterServer]:
    """A Redis Cluster of three nodes."""
    need(why_no_redis())
    cluster = start_cluster(tmp_path_factory.mktemp("redis-cluster"))
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One PostgreSQL server."""
    need(why_no_postgres())
    with start_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="module")
def memcached_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemcachedServer]:
    """One memcached."""
    need(why_no_memcached())
    with start_memcached(tmp_path_factory.mktemp("memcached")) as server:
        yield server


@pytest.fixture(scope="module")
def cosmos_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CosmosServer]:
    """One Cosmos DB server."""
    need(why_no_cosmos())
    with start_cosmos(tmp_path_factory.mktemp("cosmos")) as server:
        yield server
