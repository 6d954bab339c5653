"""Whose session it is: in a request it opens to its owner alone, and nobody else takes its key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from obo_asgi import (
    AccessDeniedError,
    KeysUnavailableError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    SessionConflictError,
    SessionNotFoundError,
    downstream_from,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.sessions import Sessions
from obo_asgi.tenants import ALLOWED_SECONDS, TenantPolicy
from tests.session_world import OTHER_TENANT, World, call, call_late, request

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@pytest.fixture
def obo(world: World) -> OnBehalfOf:
    return world.process()


@pytest.fixture(params=["job-1", None], ids=["own key", "new key"])
async def key(request: pytest.FixtureRequest, world: World, obo: OnBehalfOf) -> str:
    """Return the key of a session of Alice's, of either kind."""
    return await world.start(obo, key=request.param)


CALLERS: dict[str, Any] = {
    "another user": lambda entra: (entra.bearer("bob"), "/"),
    "the same name in another tenant": lambda entra: (
        entra.bearer("alice", tenant=OTHER_TENANT),
        "/",
    ),
    "the same object id in another tenant": lambda entra: (
        entra.bearer("bob", tenant=OTHER_TENANT, oid=entra.user("alice").oid),
        "/",
    ),
    "an application": lambda entra: (entra.bearer(None, None, roles=["Caller"]), "/"),
    "anonymous": lambda entra: ({}, "/public"),
    "the owner's token on a public path": lambda entra: (entra.bearer("alice"), "/public"),
}


# --- Another user's key ---------------------------------------------------------------------------


@pytest.mark.parametrize("caller", CALLERS.values(), ids=list(CALLERS))
@pytest.mark.parametrize("own", ["job-1", None], ids=["own key", "new key"])
async def test_in_anybody_elses_request_it_is_not_found(
    world: World, caller: Any, own: str | None
) -> None:
    """Who presents the key of another user's session is answered as for a key of nothing."""
    tenants = [world.entra.tenant_id, OTHER_TENANT]
    world.entra.add_tenant(OTHER_TENANT)
    obo = world.process(world.entra.registration(allowed_tenants=tenants))
    key = await world.start(obo, key=own)
    before = (world.value(key), world.grants, list(world.partner.tokens))
    headers, path = caller(world.entra)
    answers = [
        await request(obo, headers, lambda scope, key=key: call(obo, key), path)  # type: ignore[misc]
        for key in (key, "a key of nothing")
    ]

    assert [404, 404] == [answer.status_code for answer in answers]
    assert answers[0].content == answers[1].content
    assert sorted(answers[0].headers) == sorted(answers[1].headers)
    assert before == (world.value(key), world.grants, world.partner.tokens)


async def test_the_handler_is_told_not_found(world: World, obo: OnBehalfOf, key: str) -> None:
    """The error in the handler is a SessionNotFoundError, as if there were no session."""

    async def handler(scope: Scope) -> object:
        with pytest.raises(SessionNotFoundError) as caught:
            await call(obo, key)
        return caught.value

    answer = await request(obo, world.entra.bearer("bob"), handler)
    assert "there is no session of this key" == answer.text


@pytest.mark.parametrize("caller", CALLERS.values(), ids=list(CALLERS))
async def test_anybody_elses_end_changes_nothing(world: World, caller: Any) -> None:
    """In a request that is not its owner's the session is not ended, and nobody learns of it."""
    tenants = [world.entra.tenant_id, OTHER_TENANT]
    world.entra.add_tenant(OTHER_TENANT)
    obo = world.process(world.entra.registration(allowed_tenants=tenants))
    key = await world.start(obo)
    before = world.value(key)
    headers, path = caller(world.entra)
    answer = await request(obo, headers, lambda scope: obo.end_session(key), path)

    assert (200, before) == (answer.status_code, world.value(key))
    assert world.oid() == await call(obo, key)


async def test_in_its_owners_request_it_opens(world: World, obo: OnBehalfOf, key: str) -> None:
    """Its owner resumes it in a request too, with a new token, and ends it there."""
    bearer = world.entra.bearer("alice")
    answer = await request(obo, bearer, lambda scope: call(obo, key))
    assert (200, world.oid()) == (answer.status_code, answer.text)

    assert 200 == (await request(obo, bearer, lambda scope: obo.end_session(key))).status_code
    assert 404 == (await request(obo, bearer, lambda scope: call(obo, key))).status_code


async def test_outside_requests_it_opens_to_who_knows_the_key(
    world: World, obo: OnBehalfOf, key: str
) -> None:
    """A worker has no request, and needs nothing but the key; so after any request as well."""
    await request(obo, world.entra.bearer("bob"), lambda scope: asyncio.sleep(0))

    assert world.oid() == await call(obo, key)
    await obo.end_session(key)
    with pytest.raises(SessionNotFoundError):
        await call(obo, key)


async def test_a_task_that_outlives_its_request_is_a_worker(
    world: World, obo: OnBehalfOf, key: str
) -> None:
    """What another user's request has left behind may use any session once that request is over."""
    gate, tasks = asyncio.Event(), list[asyncio.Task[str]]()

    async def work(wait: bool) -> str:
        if wait:
            await gate.wait()
        return await call(obo, key)

    async def handler(scope: Scope) -> None:
        tasks.extend(asyncio.create_task(work(wait)) for wait in (False, True))
        await asyncio.wait(tasks[:1])

    await request(obo, world.entra.bearer("bob"), handler)
    gate.set()
    during, after = await asyncio.gather(*tasks, return_exceptions=True)

    assert (SessionNotFoundError, world.oid()) == (type(during), after)


async def test_a_worker_of_the_app_is_in_no_request(world: World, obo: OnBehalfOf) -> None:
    """A task that was started before any request works while requests of others are handled."""
    queue, results = asyncio.Queue[str](), asyncio.Queue[str]()

    async def worker() -> None:
        await results.put(await call(obo, await queue.get()))

    key = await world.start(obo)
    task = asyncio.create_task(worker())
    await asyncio.sleep(0)

    async def handler(scope: Scope) -> str:
        await queue.put(key)
        return await results.get()

    assert world.oid() == (await request(obo, world.entra.bearer("bob"), handler)).text
    await task


async def test_a_websocket_is_a_request_too(world: World, obo: OnBehalfOf, key: str) -> None:
    """Behind the middleware a WebSocket opens the sessions of its own user alone."""
    outcomes: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            outcomes.append(await call(obo, key))
        except SessionNotFoundError:
            outcomes.append("not found")

    async def connect() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def ignore(message: Any) -> None:
        pass

    for name in ("bob", "alice"):
        bearer = f"Bearer {world.entra.token(name)}".encode()
        scope = {"type": "websocket", "path": "/", "headers": [(b"authorization", bearer)]}
        await OnBehalfOfMiddleware(app, obo)(scope, connect, ignore)

    assert ["not found", world.oid()] == outcomes


async def test_two_requests_at_once_have_a_caller_each(
    world: World, obo: OnBehalfOf, key: str
) -> None:
    """However requests are interleaved, each opens the sessions of its own caller alone."""

    async def handler(scope: Scope) -> str:
        await asyncio.sleep(0)
        return await call(obo, key)

    names = ["alice", "bob"] * 10
    answers = await asyncio.gather(
        *(request(obo, world.entra.bearer(name), handler) for name in names)
    )
    assert [200, 404] * 10 == [answer.status_code for answer in answers]


# --- Another user's start -------------------------------------------------------------------------


async def test_nobody_starts_under_another_users_key(
    world: World, obo: OnBehalfOf, key: str
) -> None:
    """Another user's start under the key is a 409 without an exchange, and changes no byte."""
    await asyncio.sleep(0.02)
    before = {name: world.shared.values[name] for name in (world.name(key),)}

    async def handler(scope: Scope) -> str:
        return await downstream_from(scope).start_session(key)

    answer = await request(obo, world.entra.bearer("bob"), handler)
    with pytest.raises(SessionConflictError, match="another user's session"):
        await world.start(obo, "bob", key=key)

    assert 409 == answer.status_code
    assert (1, 0) == world.grants
    assert before == {world.name(key): world.value(key)}
    assert world.oid("alice") == await call(obo, key)


async def test_the_same_name_in_another_tenant_is_another_user(world: World) -> None:
    """A guest account of the same person does not take the key either."""
    tenants = [world.entra.tenant_id, OTHER_TENANT]
    world.entra.add_tenant(OTHER_TENANT)
    obo = world.process(world.entra.registration(allowed_tenants=tenants))
    await world.start(obo, key="job-1")
    guest = await world.user(obo, tenant=OTHER_TENANT)
    with pytest.raises(SessionConflictError):
        await guest.start_session("job-1")


async def test_an_ended_session_gives_its_key_free(world: World, obo: OnBehalfOf) -> None:
    """Once a session is ended its key is anybody's."""
    await world.start(obo, key="job-1")
    await obo.end_session("job-1")
    await world.start(obo, "bob", key="job-1")

    assert world.oid("bob") == await call(obo, "job-1")


@pytest.mark.parametrize("own", ["job-1", None], ids=["own key", "new key"])
@pytest.mark.parametrize("end", ["end_sessions", "purge", "lifetime", "idle_timeout"])
async def test_a_session_that_is_over_gives_its_key_free(
    world: World, obo: OnBehalfOf, end: str, own: str | None
) -> None:
    """However a session came to its end, another user starts under its key, and nobody else's."""
    is_said = end in ("end_sessions", "purge")
    arguments: dict[str, Any] = {} if is_said else {end: 100}
    key = await world.start(obo, key=own, **arguments)
    if is_said:
        await getattr(obo, end)(world.entra.tenant_id, world.oid())
    else:
        world.now += 100
    await world.start(obo, "bob", key=key)

    assert world.oid("bob") == await call(world.process(), key)
    with pytest.raises(SessionConflictError):
        await world.start(obo, key=key)


@pytest.mark.parametrize("api", ["partner", "other"])
@pytest.mark.parametrize("seconds", [0.0, 31.0, 4000.0])
async def test_a_worker_never_goes_on_as_somebody_else(
    world: World, obo: OnBehalfOf, api: str, seconds: float
) -> None:
    """Where another user has started under the key of an ended session, its worker stops."""
    other_process = world.process()
    await world.start(obo, key="job-1")
    async with obo.resume_session("job-1") as downstream:
        await other_process.end_session("job-1")
        await world.start(other_process, "bob", key="job-1")
        world.now += seconds
        try:
            seen = await downstream[api].get("data", into=str)
        except SessionNotFoundError:
            seen = "nobody"

    assert world.oid("bob") != seen
    assert "nobody" == seen or seconds == 0.0
    assert world.oid("bob") == await call(other_process, "job-1")


@pytest.mark.parametrize("starter", ["alice", "bob"])
async def test_a_refresh_that_outlives_its_lock_takes_nothing_back(
    world: World, obo: OnBehalfOf, starter: str
) -> None:
    """A refresh that comes back late leaves a session alone that began under its key meanwhile."""
    other_process = world.process()
    await world.start(obo, key="job-1")
    for _ in range(3):  # the session has seen some changes
        world.now += 4000
        await call(obo, "job-1")
    world.now += 4000
    values: list[object] = []

    async def meanwhile() -> None:
        await other_process.end_session("job-1")
        await world.start(other_process, starter, key="job-1", apis=["other"])
        values.append(world.value("job-1"))

    late = await call_late(world, obo, "job-1", meanwhile, "partner")

    assert values == [world.value("job-1")]
    assert late.exception() is not None or late.result() == world.oid("alice")
    assert world.oid(starter) == await call(world.process(), "job-1", "other")


async def test_two_users_at_once_make_one_session(world: World, obo: OnBehalfOf) -> None:
    """Of two users who start under one key at the same time one has it, the other a conflict."""
    processes = [obo, world.process()]
    alice, bob = [
        await world.user(each, name) for each, name in zip(processes, ("alice", "bob"), strict=True)
    ]
    outcomes = await asyncio.gather(
        *(each.start_session("job-1") for each in (alice, bob)), return_exceptions=True
    )
    kinds = [type(outcome) for outcome in outcomes]

    assert [str, SessionConflictError] == sorted(kinds, key=lambda kind: kind is not str)
    owner = ("alice", "bob")[kinds.index(str)]
    assert world.oid(owner) == await call(obo, "job-1")


# --- Whose tenant is not allowed any more ---------------------------------------------------------


@pytest.fixture
async def of_a_customer(world: World) -> str:
    """Return the key of a session of a customer's, from the time when the customer was allowed."""
    world.entra.add_tenant(OTHER_TENANT)
    tenants = [world.entra.tenant_id, OTHER_TENANT]
    obo = world.process(world.entra.registration(allowed_tenants=tenants))
    return await (await world.user(obo, tenant=OTHER_TENANT)).start_session()


@pytest.mark.parametrize("form", ["list", "predicate"])
async def test_a_tenant_that_left_keeps_no_session(
    world: World, of_a_customer: str, form: str
) -> None:
    """A session whose tenant is not allowed any more is not found, until the tenant is again."""
    customers = {OTHER_TENANT}

    async def is_customer(tenant_id: str) -> bool:
        return tenant_id in customers

    def process() -> OnBehalfOf:
        allowed = is_customer if form == "predicate" else [world.entra.tenant_id, *customers]
        return world.process(world.entra.registration(allowed_tenants=allowed))

    value = world.value(of_a_customer)
    customers.clear()
    with pytest.raises(SessionNotFoundError, match="tenant of the session is not allowed"):
        await call(process(), of_a_customer, "other")
    assert ((1, 0), value) == (world.grants, world.value(of_a_customer))
    customers.add(OTHER_TENANT)

    guest = world.entra.user("alice", tenant=OTHER_TENANT)
    assert guest.oid == await call(process(), of_a_customer, "other")


async def test_a_tenant_that_leaves_ends_an_open_session(world: World, of_a_customer: str) -> None:
    """An open session stops when the predicate's yes is over, as the requests of its user do."""
    seconds, customers = [0.0], {OTHER_TENANT}

    async def is_customer(tenant_id: str) -> bool:
        return tenant_id in customers

    obo = world.process(world.entra.registration(allowed_tenants=is_customer))
    tenants = TenantPolicy(is_customer, clock=lambda: seconds[0])
    grant = await Sessions(obo._cache, obo.registration, tenants=tenants).resume(of_a_customer)
    customers.clear()
    seconds[0] += ALLOWED_SECONDS
    world.now += ALLOWED_SECONDS

    assert not grant.is_current
    with pytest.raises(SessionNotFoundError):
        await grant.confirm()


async def test_a_tenant_that_nobody_can_tell_of_waits(world: World, of_a_customer: str) -> None:
    """Where the predicate fails a session is not used, and stays; the error says when to retry."""

    async def fails(tenant_id: str) -> bool:
        raise ConnectionError

    obo = world.process(world.entra.registration(allowed_tenants=fails))
    with pytest.raises(KeysUnavailableError) as caught:
        await call(obo, of_a_customer)

    assert (5, True) == (caught.value.retry_after, world.value(of_a_customer) is not None)


# --- Who starts none ------------------------------------------------------------------------------


async def test_an_application_starts_none(world: World, obo: OnBehalfOf) -> None:
    """A caller without a user gets a 403 whose log says what to do instead."""
    daemon = await obo.downstream_for(world.entra.token(None, None, roles=["Caller"]))
    with pytest.raises(AccessDeniedError, match=r"no user to act for: .*as_app\(\)"):
        await daemon.start_session("job-1")

    async def handler(scope: Scope) -> str:
        return await downstream_from(scope).start_session()

    bearer = world.entra.bearer(None, None, roles=["Caller"])
    assert 403 == (await request(obo, bearer, handler)).status_code
    assert ((0, 0), None) == (world.grants, world.value("job-1"))


async def test_the_app_itself_starts_none(world: World, obo: OnBehalfOf) -> None:
    """``as_app()`` has no user whose session it could be, with or without a request."""
    alice = await world.user(obo)
    for downstream in (obo.as_app(), alice.as_app()):
        with pytest.raises(RuntimeError, match="there is no user"):
            await downstream.start_session("job-1")

    assert None is world.value("job-1")


async def test_a_resumed_session_starts_none(world: World, obo: OnBehalfOf, key: str) -> None:
    """A worker cannot make another session of its own; it is told to go on under its key."""
    before = world.value(key)
    async with obo.resume_session(key) as downstream:
        for again in ("job-2", key):
            with pytest.raises(RuntimeError, match="goes on under its key"):
                await downstream.start_session(again)
        with pytest.raises(RuntimeError, match="there is no user"):
            await downstream.as_app().start_session()

    assert (before, None) == (world.value(key), world.value("job-2"))


async def test_after_the_request_it_is_too_late(world: World, obo: OnBehalfOf) -> None:
    """A task that starts its session after the response is told what to do, and has none."""
    kept: list[Any] = []

    async def handler(scope: Scope) -> None:
        kept.append(downstream_from(scope))

    await request(obo, world.entra.bearer("alice"), handler)
    with pytest.raises(RuntimeError, match=r"call start_session\(\) during the request"):
        await kept[0].start_session("job-1")

    assert ((0, 0), None) == (world.grants, world.value("job-1"))


async def test_a_resumed_one_ends_with_its_block(world: World, obo: OnBehalfOf, key: str) -> None:
    """After its ``async with`` nothing can be called, also not by a client made inside it."""
    async with obo.resume_session(key) as downstream:
        api = downstream["partner"]
        app = downstream.as_app()
        await api.get("data")
    for late in (api, downstream["partner"], app["partner"]):
        with pytest.raises(RuntimeError, match="its `async with`"):
            await late.get("data")

    assert world.oid() == await call(obo, key)
