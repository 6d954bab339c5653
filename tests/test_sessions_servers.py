"""Sessions on real servers: many workers, restarts, other rings, outages, ends and cancellations.

FakeEntra rotates refresh tokens and refuses an old one, so that whoever loses a refresh token, or
redeems it twice, loses the session.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from obo_asgi import (
    CacheUnavailableError,
    ClientSecret,
    DownstreamAPI,
    InteractionRequiredError,
    OnBehalfOf,
    SessionNotFoundError,
    SessionUnreadableError,
    TokenCache,
    error_response,
    new_cache_key,
)
from obo_asgi.cache._seal import Sealer, check_keys
from obo_asgi.cache._sessions import SessionRecord
from obo_asgi.cache.redis import redis_cache
from obo_asgi.sessions import new_session_key
from obo_asgi.sessions._keys import SessionKey
from obo_asgi.testing import FakeEntra
from tests.servers.memcached import MemcachedServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.test_shared_cache_servers import hung, stopped

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
FIRST = "first"
"""The API whose token a session is started with."""
OTHERS = ["one", "two", "three", "four"]
LAST = "last"
OLD, NEW = new_cache_key(), new_cache_key()
RING = [NEW]
PREFIX = "my-api:"
UNUSABLE = 5
"""A lifetime of tokens so short that each is used once, and the next call refreshes."""
MINUTE = 60.0

Servers = RedisServer | PostgresServer | MemcachedServer


class Clock:
    """A clock that can be put forward, or back."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def __call__(self) -> float:
        return time.time() + self.offset


class Gate:
    """Holds back what Entra answers to a refresh; the refresh token has been replaced by then."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, response: httpx.Response) -> None:
        if is_refresh(response):
            self.reached.set()
            await self.opened.wait()


def is_refresh(response: httpx.Response) -> bool:
    return b"grant_type=refresh_token" in response.request.content


@pytest.fixture
def entra() -> FakeEntra:
    entra = FakeEntra()
    for name in (FIRST, *OTHERS, LAST):
        entra.add_api(f"api://{name}", scopes=["read"])
    return entra


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Any]:
    """A client of an empty server."""
    from redis.asyncio import Redis

    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        yield client


def shared_cache(server: Servers) -> Any:
    if isinstance(server, RedisServer):
        return redis_cache(server.url, prefix=PREFIX)
    if isinstance(server, PostgresServer):
        from obo_asgi.cache.sql import SQLCache

        return SQLCache(server.url, create_if_not_exists=True, pool_size=2)
    from aiocache import MemcachedCache
    from aiocache.serializers import StringSerializer

    return MemcachedCache(endpoint="127.0.0.1", port=server.port, serializer=StringSerializer())


@contextlib.asynccontextmanager
async def process(
    entra: FakeEntra,
    server: Servers,
    keys: list[str] | None = None,
    *,
    clock: Callable[[], float] = time.time,
    answered: Callable[[httpx.Response], Awaitable[None]] | None = None,
) -> AsyncIterator[OnBehalfOf]:
    """Give one process's wiring.

    Args:
        entra: the sign-in service.
        server: where sessions are kept.
        keys: the ring; `RING` if left out.
        clock: the clock of the cache.
        answered: is told of each answer of Entra, before the process gets it.
    """
    async with OnBehalfOf(
        entra.registration(),
        downstream={
            name: DownstreamAPI(scopes=[f"api://{name}/read"]) for name in (FIRST, *OTHERS, LAST)
        },
        cache=TokenCache(shared=shared_cache(server), keys=keys or RING, clock=clock),
        http_client=entra.client(event_hooks={"response": [answered] if answered else []}),
    ) as obo:
        yield obo


async def start(
    obo: OnBehalfOf,
    entra: FakeEntra,
    key: str | None = None,
    *,
    user: str = "alice",
    **options: Any,
) -> str:
    """Start a session in the request of a user."""
    downstream = await obo.downstream_for(entra.token(user, lifetime=3600))
    return await downstream.start_session(key, **options)


async def call(obo: OnBehalfOf, key: str, api: str = LAST) -> str:
    """Get a token for an API as a worker does."""
    async with obo.resume_session(key) as downstream:
        return (await downstream[api].acquire_token()).token


def owner_of(token: str) -> str:
    """Return as whom an API would be called."""
    payload = token.split(".")[1]
    oid: str = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["oid"]
    return oid


def name_of(obo: OnBehalfOf, key: str) -> str:
    """Return where a session stands."""
    registration = obo.registration
    return PREFIX + SessionKey.parse(key, registration.authority, registration.client_id).name


async def record_of(redis: Any, obo: OnBehalfOf, key: str) -> SessionRecord:
    """Return a session as it stands in Redis."""
    name = name_of(obo, key)
    text = (await redis.get(name)).decode()
    sealed = Sealer(check_keys(RING)).open(name.removeprefix(PREFIX), "session", text)
    return msgspec.msgpack.decode(sealed, type=SessionRecord)


async def unlocked(redis: Any) -> None:
    """Wait until nobody holds a lock."""
    async with asyncio.timeout(5):
        while await redis.keys("*:lock"):
            await asyncio.sleep(0.01)


async def forget_tokens(redis: Any, name: str) -> None:
    """Leave nothing but a session."""
    names = [other for other in await redis.keys() if other != name.encode()]
    await redis.delete(*names)


# --- Many workers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "number"), [("redis", 20), ("postgres", 3)])
async def test_many_workers_refresh_one_session(
    kind: str, number: int, request: pytest.FixtureRequest, entra: FakeEntra
) -> None:
    """Workers that want tokens for four APIs at once refresh four times in all, and lose nothing.

    A database's driver costs so much that one event loop cannot be twenty of its processes.
    """
    server = request.getfixturevalue(f"{kind}_server")
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(process(entra, server)) for _ in range(number)]
        key = await start(workers[0], entra)
        for worker in workers:  # each opens its connections now
            await asyncio.gather(*(call(worker, key, FIRST) for _ in OTHERS))
        assert 0 == entra.counts["refresh_token"]
        entra.latency = 0.03
        tokens = await asyncio.gather(
            *(call(worker, key, api) for api in OTHERS for worker in workers)
        )

        assert [token for token in tokens[::number] for _ in range(number)] == tokens
        assert len(OTHERS) == len(set(tokens)) == entra.counts["refresh_token"]
        assert await call(workers[-1], key, LAST)
        assert len(OTHERS) + 1 == entra.counts["refresh_token"]


async def test_a_look_at_a_session_keeps_its_newest_refresh_token(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """A worker that notes the use of a session while another refreshes it loses nothing."""
    clock, gate = Clock(), Gate()
    async with (
        process(entra, redis_server, clock=clock, answered=gate) as one,
        process(entra, redis_server, clock=clock) as other,
    ):
        key = await start(one, entra, idle_timeout=200.0)
        async with one.resume_session(key) as downstream:
            clock.offset = 25.0  # more than a tenth of its idle time: its use is written down
            refresh = asyncio.create_task(downstream[OTHERS[0]].acquire_token())
            await gate.reached.wait()
            resume = asyncio.create_task(call(other, key, FIRST))
            await asyncio.sleep(0.1)
            gate.opened.set()
            await asyncio.gather(refresh, resume)
        assert await call(other, key, LAST)


# --- Restarts -------------------------------------------------------------------------------------


def run_process(settings: dict[str, Any], line: Callable[[], str]) -> Any:
    """Start a process, give it a line as soon as it is ready, and return what it says."""
    unmeasured = {key: text for key, text in os.environ.items() if not key.startswith("COVERAGE")}
    command = [sys.executable, "-W", "error", "-m", "tests.session_worker", json.dumps(settings)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=unmeasured,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert "ready\n" == worker.stdout.readline()
        worker.stdin.write(line() + "\n")
        worker.stdin.flush()
        answer = json.loads(worker.stdout.readline())
        assert 0 == worker.wait(20)
    return answer


def test_a_session_outlives_all_that_started_it(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    """Once the user's token, every process, Redis' run and the secret have ended, work goes on."""
    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read"])
    with entra.serve() as served:
        monkeypatch.setenv("SSL_CERT_FILE", served.ca_file)
        monkeypatch.setenv("NO_PROXY", "*")
        registration = entra.registration()
        assert isinstance(registration.client_credential, ClientSecret)
        secret = registration.client_credential.reveal()
        settings = {
            "tenant_id": registration.tenant_id,
            "client_id": registration.client_id,
            "client_secret": secret,
            "authority": registration.authority,
            "issuer": registration.issuer,
            "cache": redis_server.url,
            "keys": RING,
        }
        entra.token_lifetime = UNUSABLE

        key = run_process(settings | {"work": "start"}, lambda: entra.token("alice", lifetime=4))
        until = time.monotonic() + 4.1
        redis_server.restart()

        def key_once_it_has_ended() -> str:
            time.sleep(max(0.0, until - time.monotonic()))
            return str(key)

        first = run_process(settings | {"work": "call"}, key_once_it_has_ended)
        new_secret = entra.new_secret()
        entra.revoke_secret(secret)
        second = run_process(settings | {"work": "call", "client_secret": new_secret}, lambda: key)

        alice = entra.user("alice")
        assert [(alice.oid, True)] * 2 == [
            (got["oid"], got["has_ended"]) for got in (first, second)
        ]
        assert first["token"] != second["token"]
        assert (1, 2) == (entra.exchanges, entra.counts["refresh_token"])


# --- What stands in it ----------------------------------------------------------------------------


def pieces_of(key: str) -> list[bytes]:
    """Return what must not be seen of a session's key: its halves, their bytes and their hashes."""
    text = key.removeprefix("obo-session-")
    assert 64 == len(text)
    pieces = [key.encode()]
    for half in (text[:20], text[20:]):
        raw = base64.urlsafe_b64decode(half)
        for piece in (half.encode(), raw):
            digest = hashlib.sha256(piece)
            pieces += [piece, digest.digest(), digest.hexdigest().encode()]
            pieces.append(base64.b64encode(digest.digest()))
    return pieces


async def test_a_dump_opens_nothing(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """No name and no value tells a token, a key, a user or a tenant, and no other ring opens it."""
    answers: list[dict[str, Any]] = []

    async def note(response: httpx.Response) -> None:
        await response.aread()
        if response.request.url.path.endswith("/token"):
            answers.append(response.json())

    incoming = entra.token("alice", lifetime=3600, name="Alice Example")
    async with process(entra, redis_server, answered=note) as obo:
        downstream = await obo.downstream_for(incoming)
        key = await downstream.start_session(idle_timeout=3600.0)
        await call(obo, key, LAST)
        await obo.end_sessions(downstream.user.tid, entra.user("bob").oid)
        user = downstream.user
    await unlocked(redis)
    names = await redis.keys()
    texts = [part for name in names for part in (name, await redis.get(name))]
    raw = [part if part.startswith(PREFIX.encode()) else base64.b64decode(part) for part in texts]

    assert name_of(obo, key).encode() in names
    assert len(names) >= 4  # the session, two tokens, an end
    tokens = [incoming]
    tokens += [answer[kind] for answer in answers for kind in ("access_token", "refresh_token")]
    assert 5 == len(set(tokens))
    pieces = {piece.encode() for token in tokens for piece in token.split(".") if len(piece) > 1}
    ids = [user.oid, user.tid, obo.registration.client_id, "Alice Example", user.display_name]
    ids += [str(user.claims["sub"]), entra.user("bob").oid]
    hidden = [*pieces, *pieces_of(key), *(text.encode() for text in ids)]
    assert all(hidden)
    for secret in hidden:
        for form in (secret, secret[:40], secret[-40:]):
            assert not any(form in text for text in [*texts, *raw])

    async with process(entra, redis_server, [OLD]) as foreign:
        with pytest.raises(SessionUnreadableError):
            await call(foreign, key)


async def test_only_the_whole_key_leads_to_a_session(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """Who has the ring, and even the key's id, but not its secret half, finds and ends nothing."""
    async with process(entra, redis_server) as obo:
        key = await start(obo, entra)
        await unlocked(redis)
        name = name_of(obo, key)
        before = set(await redis.keys())
        value = await redis.get(name)
        forged = key[:32] + new_session_key()[32:]
        assert name == name_of(obo, forged)
        for other in (forged, new_session_key(), key[:32], name, name.removeprefix(PREFIX)):
            with pytest.raises(SessionNotFoundError):
                await call(obo, other)
            await obo.end_session(other)
        await unlocked(redis)
        assert (before, value) == (set(await redis.keys()), await redis.get(name))

        await redis.flushall()
        await start(obo, entra)
        await unlocked(redis)
        assert before.isdisjoint(await redis.keys())


# --- Other rings, other versions ------------------------------------------------------------------


async def refuse_everything(obo: OnBehalfOf, entra: FakeEntra, redis: Any, key: str) -> None:
    """Let a process that cannot read a session try all that it may: nothing happens to it."""
    name = name_of(obo, key)
    value, exchanges = await redis.get(name), entra.exchanges
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: call(obo, key),
        lambda: start(obo, entra, key),
        lambda: start(obo, entra, key, user="bob"),
        lambda: obo.end_session(key),
    ]
    for attempt in attempts:
        with pytest.raises(SessionUnreadableError) as caught:
            await attempt()
        answer = error_response(caught.value)
        assert answer is not None
        assert (503, value) == (answer.status_code, await redis.get(name))
    assert exchanges == entra.exchanges
    await unlocked(redis)


async def test_a_ring_without_the_newer_key_changes_nothing(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """An older process neither misses nor overwrites nor ends what a newer ring has sealed."""
    async with (
        process(entra, redis_server, [OLD]) as older,
        process(entra, redis_server, [NEW, OLD]) as newer,
    ):
        key = await start(newer, entra, "job-1")
        await refuse_everything(older, entra, redis, key)
        assert await call(newer, key)
        async with process(entra, redis_server, [OLD, NEW]) as extended:
            assert await call(extended, key, OTHERS[0])
            assert await call(newer, key, OTHERS[1])
            await extended.end_session(key)
        with pytest.raises(SessionNotFoundError):
            await call(older, key)


def make_newer(name: str, text: bytes, what: str) -> bytes:
    """Return a session as a version of the future would have written it."""
    sealed = text.decode()
    if what == "seal":
        raw = bytearray(base64.b64decode(sealed))
        raw[0] += 1
        return base64.b64encode(raw)
    name = name.removeprefix(PREFIX)
    sealer = Sealer(check_keys(RING))
    opened = sealer.open(name, "session", sealed)
    if what == "key":
        return Sealer(check_keys([new_cache_key()])).seal(name, "session", opened).encode()
    fields = msgspec.msgpack.decode(opened)
    fields[0] += 1
    return sealer.seal(name, "session", msgspec.msgpack.encode([*fields, {"a": "new"}])).encode()


@pytest.mark.parametrize("what", ["format", "seal"])
async def test_a_newer_version_is_left_alone(
    what: str, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """What a newer version has written is there, not missing, and stays byte for byte."""
    async with process(entra, redis_server) as obo:
        key = await start(obo, entra, "job-1")
        name = name_of(obo, key)
        await redis.set(name, make_newer(name, await redis.get(name), what))
        await refuse_everything(obo, entra, redis, key)


@pytest.mark.parametrize("aadsts", [0, 70000, 65001])
@pytest.mark.parametrize("what", ["format", "seal", "key"])
async def test_a_refresh_under_way_does_not_touch_a_newer_version(
    what: str, aadsts: int, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """Whatever an older process learns of Entra, what a newer one wrote meanwhile stays."""
    gate = Gate()
    async with process(entra, redis_server) as obo:
        key = await start(obo, entra, "job-1")
    name = name_of(obo, key)
    await unlocked(redis)
    await forget_tokens(redis, name)
    async with process(entra, redis_server, answered=gate) as older:
        if aadsts:
            entra.fail(aadsts)
        refresh = asyncio.create_task(call(older, key, FIRST))
        await gate.reached.wait()
        newer = make_newer(name, await redis.get(name), what)
        await redis.set(name, newer)
        gate.opened.set()
        [outcome] = await asyncio.gather(refresh, return_exceptions=True)
        await unlocked(redis)

        errors = {0: str, 70000: SessionUnreadableError, 65001: InteractionRequiredError}
        assert errors[aadsts] is type(outcome)
        assert newer == await redis.get(name)


# --- Outages --------------------------------------------------------------------------------------


async def eventually(attempt: Callable[[], Awaitable[str]]) -> str:
    """Try until the cache is used again, which is not at once."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(CacheUnavailableError):
                return await attempt()
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("trouble", [stopped, hung])
async def test_a_store_that_is_down_is_not_an_end(
    trouble: Any, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """While Redis is down nothing is "not found": it is a 503, soon; and nothing is lost by it."""
    async with process(entra, redis_server) as obo:
        key, other = await start(obo, entra, "job-1"), await start(obo, entra)
        user = (await obo.downstream_for(entra.token("alice"))).user
        async with obo.resume_session(key) as downstream:
            token = await downstream[FIRST].acquire_token()
            async with trouble(redis_server):
                started = time.monotonic()
                attempts = [
                    call(obo, key),
                    start(obo, entra, key),
                    start(obo, entra),
                    obo.end_session(key),
                    obo.end_sessions(user.tid, user.oid),
                    downstream[LAST].acquire_token(),
                ]
                errors: list[Any] = [*await asyncio.gather(*attempts, return_exceptions=True)]
                waited = time.monotonic() - started

                assert [CacheUnavailableError] * len(attempts) == [type(error) for error in errors]
                for error in errors:
                    answer = error_response(error)
                    assert answer is not None
                    assert 503 == answer.status_code
                    assert str(error.retry_after) == answer.headers["Retry-After"]
                    assert 0 < error.retry_after <= 5
                assert waited < 4
                assert token == await downstream[FIRST].acquire_token()
                with pytest.raises(CacheUnavailableError):
                    await obo.purge(user.tid, entra.user("bob").oid)
    await redis.connection_pool.disconnect()
    await redis.delete("none", *await redis.keys("*:lock"))  # their leases are over
    async with process(entra, redis_server) as obo:
        for session in (key, other):
            assert await call(obo, session)


@pytest.mark.parametrize("seconds", [0, 10, 45, 75])
async def test_tokens_in_memory_outlive_the_store(
    seconds: int, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """With Redis down, a session that is open goes on with the tokens that it has, idle or not."""
    clock = Clock()
    async with process(entra, redis_server, clock=clock) as obo:
        key = await start(obo, entra)
        async with obo.resume_session(key) as downstream:
            token = await downstream[FIRST].acquire_token()
            async with stopped(redis_server):
                clock.offset = seconds
                again = [(await downstream[FIRST].acquire_token()).token for _ in range(3)]
        assert [token.token] * 3 == again
        assert 0 == entra.counts["refresh_token"]


async def test_redis_dies_before_the_new_refresh_token_is_written(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """The process that has the new refresh token goes on, and later hands it to the others."""
    dies = True

    async def die(response: httpx.Response) -> None:
        nonlocal dies
        if dies and is_refresh(response):
            redis_server.kill()
            dies = False

    async with process(entra, redis_server, answered=die) as one:
        key = await start(one, entra)
        name = name_of(one, key)
        before = await redis.get(name)
        async with one.resume_session(key) as downstream:
            token = await downstream[OTHERS[0]].acquire_token()
            assert not dies
            assert token == await downstream[OTHERS[0]].acquire_token()
            with pytest.raises(CacheUnavailableError):
                await downstream[OTHERS[1]].acquire_token()
        redis_server.restart()
        await redis.connection_pool.disconnect()
        assert before == await redis.get(name)
        await redis.delete(f"{name}:lock")  # its lease is over
        assert await eventually(lambda: call(one, key, OTHERS[2]))
        async with process(entra, redis_server) as other:
            assert await call(other, key, OTHERS[3])
        assert await call(one, key, LAST)


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_what_was_not_written_never_comes_back_over_another_session(
    user: str, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """A session that was ended, and started anew under its key, is not overwritten by the old."""

    async def refuse_writes(response: httpx.Response) -> None:
        if is_refresh(response) and 2 == entra.counts["refresh_token"]:
            await redis.config_set("min-replicas-to-write", 1)

    async def owner(obo: OnBehalfOf, api: str) -> str:
        async with obo.resume_session(key) as downstream:
            assert (await downstream[api].acquire_token()).token
            return downstream.user.oid

    key = "job-1"
    async with process(entra, redis_server, answered=refuse_writes) as one:
        await start(one, entra, key)
        try:
            for api in OTHERS[:2]:  # its number becomes higher than that of the session to come
                await call(one, key, api)
        finally:
            await redis.config_set("min-replicas-to-write", 0)
        await redis.delete(f"{name_of(one, key)}:lock")  # its lease is over
        async with process(entra, redis_server) as other:
            await other.end_session(key)
            await start(other, entra, key, user=user)
            binding = (await record_of(redis, other, key)).binding
            oid = entra.user(user).oid
            assert oid == await eventually(lambda: owner(one, LAST))
            assert binding == (await record_of(redis, other, key)).binding
            assert oid == await owner(other, OTHERS[2])


# --- Ends -----------------------------------------------------------------------------------------


End = Callable[[OnBehalfOf, str, Any], Awaitable[None]]
ENDS: dict[str, End] = {
    "end_session": lambda obo, key, user: obo.end_session(key),
    "end_sessions": lambda obo, key, user: obo.end_sessions(user.tid.upper(), user.oid.upper()),
    "purge": lambda obo, key, user: obo.purge(user.tid, user.oid),
}


@pytest.mark.parametrize("how", list(ENDS))
async def test_an_end_reaches_the_other_process(
    how: str, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """A session that is open elsewhere ends within a minute; it opens no more, and others go on."""
    clock = Clock()
    async with (
        process(entra, redis_server, clock=clock) as one,
        process(entra, redis_server, clock=clock) as other,
    ):
        key, bobs = await start(one, entra), await start(one, entra, user="bob")
        async with (
            other.resume_session(key) as downstream,
            other.resume_session(bobs) as bob,
            one.resume_session(key) as here,
        ):
            for opened in (downstream, bob, here):
                await opened[FIRST].acquire_token()
            await ENDS[how](one, key, downstream.user)
            for obo in (one, other):
                with pytest.raises(SessionNotFoundError):
                    await call(obo, key, FIRST)
            for api in (FIRST, LAST):
                with pytest.raises(SessionNotFoundError):
                    await here[api].acquire_token()
            with pytest.raises(SessionNotFoundError):
                await downstream[LAST].acquire_token()

            again = await start(one, entra)  # in the same second
            assert await call(other, again, OTHERS[0])
            assert await call(one, again, OTHERS[1])
            clock.offset = MINUTE
            with pytest.raises(SessionNotFoundError):
                await downstream[FIRST].acquire_token()
            assert (await bob[LAST].acquire_token()).token
            assert await call(one, again, LAST)
        assert await call(other, bobs, FIRST)


@pytest.mark.parametrize("offset", [-4.0, 0.0, 4.0])
@pytest.mark.parametrize("how", ["end_sessions", "purge"])
async def test_an_end_after_an_end_counts_whatever_the_clocks_say(
    how: str, offset: float, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """What was started after an end is ended by the next, also where that clock differs a bit."""
    async with (
        process(entra, redis_server) as one,
        process(entra, redis_server, clock=Clock(offset)) as other,
    ):
        user = (await one.downstream_for(entra.token("alice"))).user
        await one.end_sessions(user.tid, user.oid)
        key = await start(one, entra)
        assert await call(other, key, OTHERS[0])
        await ENDS[how](other, key, user)
        for obo in (one, other):
            with pytest.raises(SessionNotFoundError):
                await call(obo, key, OTHERS[1])
        assert await call(one, await start(one, entra), LAST)


async def test_an_open_session_is_never_another_users(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """Once a key is that of another user's session, what was opened by it before has ended."""
    clock, key = Clock(), "job-1"
    async with (
        process(entra, redis_server, clock=clock) as one,
        process(entra, redis_server, clock=clock) as other,
    ):
        await start(one, entra, key)
        async with other.resume_session(key) as downstream:
            await downstream[FIRST].acquire_token()
            await one.end_session(key)
            await start(one, entra, key, user="bob")
            for offset, api in ((0.0, LAST), (MINUTE, OTHERS[0]), (MINUTE, FIRST)):
                clock.offset = offset
                with pytest.raises(SessionNotFoundError):
                    await downstream[api].acquire_token()
        async with other.resume_session(key) as downstream:
            assert entra.user("bob").oid == downstream.user.oid
            assert entra.user("bob").oid == owner_of((await downstream[LAST].acquire_token()).token)


# --- Ends while a refresh is under way ------------------------------------------------------------


@pytest.mark.parametrize("how", list(ENDS))
async def test_an_end_during_a_refresh_is_an_end(
    how: str, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """Whether the end waits for the refresh or not, the session is gone when both have ended."""
    gate = Gate()
    async with (
        process(entra, redis_server, answered=gate) as one,
        process(entra, redis_server) as other,
    ):
        key = await start(one, entra)
        user = (await one.downstream_for(entra.token("alice"))).user
        refresh = asyncio.create_task(call(one, key))
        await gate.reached.wait()
        end = asyncio.ensure_future(ENDS[how](other, key, user))
        await asyncio.sleep(0.1)
        assert ("end_session" != how) == end.done()
        gate.opened.set()
        await asyncio.gather(refresh, end)
        for obo in (one, other):
            with pytest.raises(SessionNotFoundError):
                await call(obo, key, LAST)


@pytest.mark.parametrize("aadsts", [0, 70000, 65001])
@pytest.mark.parametrize("then", ["", "alice", "bob"])
async def test_a_refresh_that_outlives_its_lease_raises_nobody_from_the_dead(
    then: str, aadsts: int, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """A refresh that ends after the session did, or another took its place, changes nothing."""
    gate, key = Gate(), "job-1"
    async with process(entra, redis_server) as one:
        await start(one, entra, key)
        await call(one, key, LAST)
        name = name_of(one, key)
        await unlocked(redis)
        await forget_tokens(redis, name)
    async with (
        process(entra, redis_server, answered=gate) as one,
        process(entra, redis_server) as other,
    ):
        if aadsts:
            entra.fail(aadsts)
        refresh = asyncio.create_task(call(one, key, FIRST))
        await gate.reached.wait()
        await redis.delete(f"{name}:lock")  # its lease is over: the process was suspended
        await other.end_session(key)
        if then:
            await start(other, entra, key, user=then)
        before = await redis.get(name)
        binding = (await record_of(redis, other, key)).binding if then else b""
        gate.opened.set()
        [outcome] = await asyncio.gather(refresh, return_exceptions=True)
        await unlocked(redis)

        if ("alice", 70000) == (then, aadsts):  # it goes on with the user's new session
            assert binding == (await record_of(redis, other, key)).binding
            assert isinstance(outcome, str)
        else:
            assert before == await redis.get(name)
        if not then:
            assert isinstance(outcome, SessionNotFoundError | InteractionRequiredError)
        if isinstance(outcome, str):
            assert entra.user("alice").oid == owner_of(outcome)
        for obo in (one, other) if then else ():
            async with obo.resume_session(key) as downstream:
                token = (await downstream[LAST].acquire_token()).token
                assert [entra.user(then).oid] * 2 == [downstream.user.oid, owner_of(token)]


async def test_a_renewal_during_a_refresh_wins(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """A session that its user renews while a refresh outlives its lease is the renewed one."""
    gate, key = Gate(), "job-1"
    async with (
        process(entra, redis_server, answered=gate) as one,
        process(entra, redis_server) as other,
    ):
        await start(one, entra, key)
        refresh = asyncio.create_task(call(one, key))
        await gate.reached.wait()
        await redis.delete(f"{name_of(one, key)}:lock")  # its lease is over
        await start(other, entra, key)
        before = await redis.get(name_of(one, key))
        gate.opened.set()
        assert await refresh
        assert before == await redis.get(name_of(one, key))
        assert await call(one, key, OTHERS[0])
        assert await call(other, key, OTHERS[1])


async def test_a_store_that_falls_back_gets_the_newest(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """A replica that takes over without the last change costs no session that is refreshed."""
    gate = Gate()
    async with (
        process(entra, redis_server, answered=gate) as one,
        process(entra, redis_server) as other,
    ):
        key = await start(one, entra)
        name = name_of(one, key)
        earlier = await redis.get(name)
        await call(other, key, OTHERS[0])
        refresh = asyncio.create_task(call(one, key))
        await gate.reached.wait()
        await redis.set(name, earlier)
        gate.opened.set()
        assert await refresh
        assert await call(other, key, OTHERS[1])


# --- memcached ------------------------------------------------------------------------------------


async def test_memcached_keeps_what_lives_for_longer_than_a_month(
    entra: FakeEntra, memcached_server: MemcachedServer
) -> None:
    """A session of 60 days, an end of all sessions and a purge stand, and are not taken as past."""
    async with (
        process(entra, memcached_server) as one,
        process(entra, memcached_server) as other,
    ):
        key = await start(one, entra, lifetime=60 * 24 * 3600)
        bobs = await start(one, entra, user="bob", lifetime=29 * 24 * 3600)
        assert await call(other, key, LAST)
        assert await call(one, key, OTHERS[0])
        alice, bob = entra.user("alice"), entra.user("bob")
        await one.end_sessions(alice.tenant_id, alice.oid)
        assert await call(other, bobs, LAST)
        incoming = entra.token("bob", lifetime=3600)
        tokens = [await acquire(obo, incoming) for obo in (one, other)]
        assert 1 == len(set(tokens))
        await one.purge(bob.tenant_id, bob.oid)
        for ended in (key, bobs):
            with pytest.raises(SessionNotFoundError):
                await call(other, ended)
        async with process(entra, memcached_server) as late:
            assert await acquire(late, incoming) not in tokens


async def acquire(obo: OnBehalfOf, incoming: str) -> str:
    """Get a token as a request does, and wait until the others have it."""
    downstream = await obo.downstream_for(incoming)
    token = (await downstream[LAST].acquire_token()).token
    await asyncio.sleep(0.1)
    return token


# --- Cancellation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [None, 3600.0])
async def test_a_cancelled_worker_loses_nothing(
    idle: float | None, entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """Workers that are cancelled at any moment of a refresh leave no lock, and the session works.

    With an idle time each of them also notes that the session is used.
    """
    moments, clock = random.Random(7), Clock()
    entra.token_lifetime = UNUSABLE
    outcomes: list[Any] = []
    async with (
        process(entra, redis_server, clock=clock) as one,
        process(entra, redis_server, clock=clock) as other,
    ):
        key = await start(one, entra, idle_timeout=idle)
        await call(other, key)
        entra.latency = 0.01
        number = 0
        while number < 60 or entra.counts["refresh_token"] <= 5:
            number += 1
            task = asyncio.create_task(call((one, other)[number % 2], key, OTHERS[number % 4]))
            await asyncio.sleep(moments.uniform(0, 0.03))
            task.cancel()
            outcomes += await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcomes[-1], str):  # else its use may not be written down
                clock.offset += 400.0
        kinds = {type(outcome) for outcome in outcomes}
        assert kinds <= {str, asyncio.CancelledError}
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) > 20
        await unlocked(redis)
        assert await call(other, key)
    assert entra.counts["refresh_token"] > 5
    async with process(entra, redis_server, clock=clock) as late:
        assert await call(late, key)


async def test_a_process_that_closes_amid_a_refresh_loses_nothing(
    entra: FakeEntra, redis: Any, redis_server: RedisServer
) -> None:
    """`aclose` at any moment of a refresh leaves no lock, and the next process goes on."""
    moments = random.Random(7)
    entra.token_lifetime = UNUSABLE
    async with process(entra, redis_server) as obo:
        key = await start(obo, entra)
    entra.latency = 0.03
    for number in range(10):
        gate = Gate()
        async with process(entra, redis_server, answered=gate) as obo:
            tasks = [asyncio.create_task(call(obo, key, api)) for api in (FIRST, LAST)]
            if number == 0:
                await gate.reached.wait()
                asyncio.get_running_loop().call_later(0.1, gate.opened.set)
            else:
                gate.opened.set()
                await asyncio.sleep(moments.uniform(0, 0.2))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await obo.aclose()  # what went on after the first had to connect again
        errors = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        assert all(isinstance(error, RuntimeError | CacheUnavailableError) for error in errors)
        await unlocked(redis)
    async with process(entra, redis_server) as late:
        assert await call(late, key)
