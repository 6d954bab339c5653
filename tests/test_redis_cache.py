"""What only Redis has: URLs, ways to sign in, TLS, Sentinel's and clusters' clients, a pool."""

from __future__ import annotations

import asyncio
import gc
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import Redis, RedisCluster
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, RedisError

from obo_asgi import ConfigurationError
from obo_asgi.cache.redis import redis_cache
from tests.servers.fixtures import need
from tests.servers.redis import RedisClusterServer, RedisServer, start_redis, why_no_redis

pytest_plugins = ["tests.servers.fixtures"]
pytestmark = pytest.mark.anyio

USER, PASSWORD = "app", "p:a/s@s#w?o%rd"
QUOTED = "p%3Aa%2Fs%40s%23w%3Fo%25rd"
TTL = 60


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis server that nobody may use but a user with a password, on TCP and a socket."""
    need(why_no_redis())
    acl = ["--user", "default", "off"]
    acl += ["--user", USER, "on", f">{PASSWORD}", "~app:*", "+get", "+set", "+del", "+client"]
    with start_redis(tmp_path_factory.mktemp("guarded"), *acl, "--unixsocket", "s") as server:
        yield server


def url_of(server: RedisServer, user: str = USER, password: str = QUOTED) -> str:
    return f"redis://{user}:{password}@127.0.0.1:{server.port}/0"


async def round_trip(url: str, **options: Any) -> str | None:
    """Write and read once, and close."""
    cache = redis_cache(url, prefix="app:", **options)
    key, value = secrets.token_hex(8), secrets.token_hex(8)
    try:
        await cache.set(key, value, ttl=TTL)
        assert value == await cache.get(key)
    finally:
        await cache.close()
        gc.collect()
    return value


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "must start with redis://"),
        ("redis.example.com:6379", "must start with redis://"),
        ("http://user:hunter2@redis.example.com", "must start with redis://"),
        ("rediss//:hunter2@redis.example.com", "must start with redis://"),
        ("rediss://", "must start with redis://"),
        ("redis://:hunter2@", "has no host"),
        ("redis://:hunter2@:6379/0", "has no host"),
        ("redis://:hunter2@redis.example.com:port", "a wrong port"),
        ("redis://:hunter2@redis.example.com:99999", "a wrong port"),
        ("redis://:hunter2@redis.example.com:0", "a wrong port"),
        ("redis://:hunter2@[::1", "has no host, a wrong port"),
        ("redis://:/hunter2@redis.example.com", "percent-encode"),
        ("redis://app:12/hunter2@redis.example.com", "percent-encode"),
        ("redis://app:12#hunter2@redis.example.com", "percent-encode"),
        ("redis://app:12?hunter2@redis.example.com", "percent-encode"),
        ("redis://:hunter2@redis.example.com/tokens", "the number of a database"),
        ("redis://:hunter2@redis.example.com/1/2", "the number of a database"),
        ("redis://:hunter2@redis.example.com/-1", "the number of a database"),
        ("redis://:hunter2@redis.example.com?db=hunter2", "check the numbers"),
        ("redis://:hunter2@redis.example.com?socket_timeout=hunter2", "check the numbers"),
        ("redis://:hunter2@redis.example.com?ssl_certs=hunter2", "'ssl_certs'"),
    ],
)
def test_a_wrong_url(url: str, advice: str) -> None:
    """A wrong URL is refused at once, with what to change and without a password."""
    with pytest.raises(ConfigurationError, match=advice) as caught:
        redis_cache(url)

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis.example.com",
        "redis://redis.example.com/",
        "REDISS://app:p%40ss@redis.example.com:6380/3",
        "redis://:p%40ss@[::1]:6380/3?socket_timeout=1.5",
        "unix:///run/redis/redis.sock?db=1",
        "unix://app:p%40ss@/run/redis/redis.sock",
    ],
)
def test_a_right_url(url: str) -> None:
    """A right URL is taken without a connection, and the cache's repr shows none of it."""
    assert "p%40ss" not in repr(redis_cache(url))


@pytest.mark.parametrize(
    ("redis", "options", "advice"),
    [
        (None, {}, "not a builtins.NoneType"),
        (b"redis://redis.example.com", {}, "not a builtins.bytes"),
        ("redis://h", {"prefix": None}, "prefix must be a string"),
        ("redis://h", {"max_connections": 0}, "max_connections must be above 0"),
        ("redis://h", {"max_connections": True}, "max_connections must be a number"),
        ("redis://h", {"max_connections": "100"}, "max_connections must be a number"),
        ("redis://h", {"credentials": "hunter2"}, "'credentials'"),
        ("redis://h", {"ssl_ca_certs": "ca.pem"}, "'ssl_ca_certs'"),
        ("redis://:hunter2@h", {"credential_provider": CredentialProvider()}, "cannot be passed"),
    ],
)
def test_a_wrong_argument(redis: Any, options: dict[str, Any], advice: str) -> None:
    """A wrong argument is refused at once, by its name and without its value."""
    with pytest.raises(ConfigurationError, match=advice) as caught:
        redis_cache(redis, **options)

    assert "hunter2" not in repr(caught.value)


async def test_a_blocking_client_is_refused() -> None:
    """Only the clients of ``redis.asyncio`` are taken."""
    import redis

    with redis.Redis() as client, pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        redis_cache(client)


async def test_a_ready_client_has_its_options() -> None:
    """Options beside a ready client would do nothing, and are refused by name."""
    async with Redis() as client:
        with pytest.raises(ConfigurationError, match=r"that you pass: socket_timeout"):
            redis_cache(client, socket_timeout=1)


def test_a_missing_package() -> None:
    """Without the package ``redis`` the error says what to install."""
    code = """
import sys
sys.modules["redis"] = None
from obo_asgi import ConfigurationError
from obo_asgi.cache.redis import redis_cache
try:
    redis_cache("redis://redis.example.com")
except ConfigurationError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert 'pip install "obo-asgi[redis]"' in run.stdout


# --- Signing in -----------------------------------------------------------------------------------


async def test_user_and_password(guarded: RedisServer) -> None:
    """An ACL user with a percent-encoded password in the URL may do all that is needed."""
    assert await round_trip(url_of(guarded))


async def test_a_socket(guarded: RedisServer) -> None:
    """A ``unix://`` URL leads to a socket in the file system."""
    assert await round_trip(f"unix://{USER}:{QUOTED}@{guarded.directory / 's'}")


async def test_a_password_alone(tmp_path: Path) -> None:
    """A password without a user, as ``requirepass`` demands it, is sent."""
    need(why_no_redis())
    with start_redis(tmp_path, "--requirepass", PASSWORD) as server:
        assert await round_trip(url_of(server, user=""))


@pytest.mark.parametrize("user", [USER, "nobody"])
async def test_a_wrong_password(guarded: RedisServer, user: str) -> None:
    """A wrong user or password is an error at the first call, which shows neither password."""
    with pytest.raises(AuthenticationError) as caught:
        await round_trip(url_of(guarded, user=user, password="hunter2"))

    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


class Provider(CredentialProvider):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return USER, PASSWORD


async def test_a_credential_provider(guarded: RedisServer) -> None:
    """A ``credential_provider``, as Entra sign-in needs one, is asked for each connection."""
    provider = Provider()
    url = f"redis://127.0.0.1:{guarded.port}"
    assert 0 == provider.asked
    assert await round_trip(url, credential_provider=provider)
    assert 1 == provider.asked
    assert await round_trip(url, credential_provider=provider)

    assert 2 == provider.asked


# --- TLS ------------------------------------------------------------------------------------------


class TLS:
    """Takes TLS off what comes to its port, and passes it on to a server.

    Args:
        port: where the server listens.
        context: with the certificate.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._to = port
        self._listener = context.wrap_socket(
            socket.create_server(("127.0.0.1", 0)), server_side=True
        )
        self.port: int = self._listener.getsockname()[1]
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        """End all connections."""
        self._ended.set()
        for thread in list(self._threads):
            thread.join()
        self._listener.close()

    def _run(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._ended.is_set():
            try:
                outside, _ = self._listener.accept()
            except OSError:  # nobody came, or one who does not trust the certificate
                continue
            self._run(self._serve, outside)

    def _serve(self, outside: socket.socket) -> None:
        with outside, socket.create_connection(("127.0.0.1", self._to)) as inside:
            outside.settimeout(0.02)
            inside.settimeout(0.02)
            while not self._ended.is_set():
                for source, target in ((outside, inside), (inside, outside)):
                    try:
                        data = source.recv(65_536)
                    except TimeoutError:
                        continue
                    except OSError:
                        return
                    if not data:
                        return
                    target.sendall(data)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(redis_server: RedisServer, authority: trustme.CA) -> Iterator[TLS]:
    """A door with TLS to the server, whose certificate is for ``localhost``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    door = TLS(redis_server.port, context)
    yield door
    door.close()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


async def test_tls(tls: TLS, ca_file: str) -> None:
    """``rediss://`` speaks TLS, and trusts the CA that ``ssl_ca_certs`` names."""
    assert await round_trip(f"rediss://localhost:{tls.port}", ssl_ca_certs=ca_file)
    assert await round_trip(f"rediss://localhost:{tls.port}?ssl_ca_certs={ca_file}")


async def test_a_stranger_is_not_trusted(tls: TLS) -> None:
    """Without a word, a certificate of an unknown CA is refused."""
    with pytest.raises((RedisError, ssl.SSLError), match="certificate verify failed"):
        await round_trip(f"rediss://localhost:{tls.port}")


async def test_another_hosts_certificate_is_not_trusted(tls: TLS, ca_file: str) -> None:
    """Without a word, a certificate for another name is refused."""
    with pytest.raises((RedisError, ssl.SSLError), match="certificate verify failed"):
        await round_trip(f"rediss://127.0.0.1:{tls.port}", ssl_ca_certs=ca_file)


# --- Ready clients --------------------------------------------------------------------------------


async def test_a_ready_client_stays_open(redis_server: RedisServer) -> None:
    """``close()`` leaves a ready client to its owner."""
    async with Redis.from_url(redis_server.url) as client:
        cache = redis_cache(client, prefix="ready:")
        await cache.set("key", "value", ttl=TTL)
        await cache.close()

        assert (b"value", "value") == (await client.get("ready:key"), await cache.get("key"))


async def test_a_client_that_decodes(redis_server: RedisServer) -> None:
    """A client with ``decode_responses`` gives the same values."""
    async with Redis.from_url(redis_server.url, decode_responses=True) as client:
        cache = redis_cache(client, prefix="decoded:")
        await cache.set("key", "väl", ttl=TTL)

        assert "väl" == await cache.get("key")


async def test_a_cluster(redis_cluster: RedisClusterServer) -> None:
    """A hundred keys are spread over the three nodes of a cluster, and all are found."""
    async with RedisCluster.from_url(redis_cluster.url) as client:
        cache = redis_cache(client, prefix="spread:")
        keys = [f"key-{number}" for number in range(100)]
        await asyncio.gather(*(cache.set(key, key, ttl=TTL) for key in keys))
        found = await asyncio.gather(*(cache.get(key) for key in keys))
        with pytest.raises(ValueError, match="already exists"):
            await cache.add("key-1", "other", ttl=TTL)
        deleted = [await cache.delete(key) for key in keys]
        nodes = {client.get_node_from_key(f"spread:{key}").port for key in keys}  # type: ignore[union-attr]

    assert (keys, [1] * 100) == (found, deleted)
    assert {node.port for node in redis_cluster.nodes} == nodes


async def test_a_new_cluster_client_meets_a_rush(redis_cluster: RedisClusterServer) -> None:
    """A hundred first calls at the same time all succeed."""
    async with RedisCluster.from_url(redis_cluster.url) as client:
        cache = redis_cache(client, prefix="rush:")

        assert [None] * 100 == await asyncio.gather(*(cache.get("key") for _ in range(100)))


# --- The pool -------------------------------------------------------------------------------------


async def connected(redis_server: RedisServer) -> int:
    """Return how many clients are connected but the one that asks."""
    async with Redis.from_url(redis_server.url) as client:
        return len(await client.client_list()) - 1


@pytest.mark.parametrize("max_connections", [1, 10, 100])
async def test_the_bound_waits(redis_server: RedisServer, max_connections: int) -> None:
    """Five hundred gets at the same time all succeed, over no more connections than allowed."""
    cache = redis_cache(redis_server.url, prefix="pool:", max_connections=max_connections)
    await cache.set("key", "value", ttl=TTL)
    found = await asyncio.gather(*(cache.get("key") for _ in range(500)))
    clients = await connected(redis_server)
    await cache.close()

    assert ["value"] * 500 == found
    assert 1 <= clients <= max_connections
    assert 0 == await connected(redis_server)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel's list is Linux's")
async def test_no_connection_is_lost(redis_server: RedisServer) -> None:
    """Whenever and however often calls are cancelled, all connections can be used again."""
    cache = redis_cache(redis_server.url, prefix="lost:", max_connections=3)
    values = {f"key-{number}": f"value-{number}" for number in range(20)}
    await asyncio.gather(*(cache.set(key, value, ttl=TTL) for key, value in values.items()))
    for round_ in range(300):
        tasks = [asyncio.ensure_future(cache.get(key)) for key in values]
        await asyncio.sleep(0.0001 * (round_ % 30))
        for task in tasks:
            task.cancel()
        for _ in range(round_ % 4):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    redis_server.suspend()
    try:
        async with asyncio.timeout(1.9):
            waiting = [asyncio.ensure_future(cache.get(key)) for key in values]
            await asyncio.sleep(0.2)
            in_use = await asyncio.to_thread(established, redis_server.port)
    finally:
        redis_server.resume()
    found = await asyncio.gather(*waiting)
    await cache.close()

    assert (3, list(values.values())) == (in_use, found)


def established(port: int) -> int:
    """Return how many connections to this port this machine has, as the kernel counts them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[2].endswith(f":{port:04X}") and fields[3] == "01" for fields in lines)


def test_a_loop_that_ends_closes_its_connections(redis_server: RedisServer) -> None:
    """Nobody has to call ``close()`` where ``asyncio.run`` ends the loop."""
    cache = redis_cache(redis_server.url, prefix="loop:")
    for _ in range(3):
        asyncio.run(cache.set("key", "value", ttl=TTL))
        gc.collect()

    assert 0 == asyncio.run(connected(redis_server))


async def test_it_cannot_be_cleared(redis_server: RedisServer) -> None:
    """``clear()``, which would empty the database for all who share it, does not exist."""
    with pytest.raises(NotImplementedError):
        await redis_cache(redis_server.url).clear()
