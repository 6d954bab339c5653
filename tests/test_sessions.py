"""Long-running sessions: a request starts one, and a worker calls APIs as its user ever after."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import pickle
import pkgutil
import time
import traceback
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import msgspec
import pytest
from rich.pretty import pretty_repr

import obo_asgi
from obo_asgi import (
    AccessDeniedError,
    ConfigurationError,
    ExpiredTokenError,
    InteractionRequiredError,
    OboError,
    OnBehalfOf,
    SessionNotFoundError,
    TokenAcquisitionError,
)
from obo_asgi.cache._sessions import SessionRecord
from tests.session_world import (
    NEWER,
    OTHER_READ,
    OTHER_TENANT,
    READ,
    WRITE,
    World,
    call,
    claims_of,
    settled,
)

pytestmark = pytest.mark.anyio

BACK = "https://app.example.com/back"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@pytest.fixture
def obo(world: World) -> OnBehalfOf:
    return world.process()


@pytest.fixture
def worker(world: World) -> OnBehalfOf:
    """Return another process, which shares the cache alone."""
    return world.process()


def asked(world: World, grant: str) -> list[str]:
    """Return the scopes of the requests of a grant, without those of OpenID Connect."""
    openid = {"openid", "profile", "offline_access"}
    requests = [each for each in world.entra.requests if each.grant == grant]
    return [" ".join(sorted(set((each.scope or "").split()) - openid)) for each in requests]


# --- The start ------------------------------------------------------------------------------------


async def test_a_start_is_one_exchange_and_the_first_call_none(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """What the start exchanged serves the worker, in this process and in another."""
    key = await world.start(obo)
    await settled()

    assert [world.oid()] * 2 == [await call(process, key) for process in (obo, worker)]
    assert ((1, 0), 1) == (world.grants, len(set(world.partner.tokens)))


async def test_the_requests_own_token_stays(world: World, obo: OnBehalfOf) -> None:
    """A request that has a token exchanges once more for its session, and keeps its own token."""
    alice = await world.user(obo)
    await alice["partner"].get("data")
    await alice.start_session()
    await alice["partner"].get("data")

    assert ((2, 0), 1) == (world.grants, len(set(world.partner.tokens)))


async def test_the_first_api_that_can_be_had_is_tried(world: World, obo: OnBehalfOf) -> None:
    """Where a consent for the first API is missing the second one proves that a session works."""
    world.entra.withdraw_consent("alice", resource="api://partner")
    key = await world.start(obo)

    assert [READ, OTHER_READ] == asked(world, "on_behalf_of")
    assert world.oid() == await call(obo, key, "other")
    assert (2, 0) == world.grants


async def test_a_policy_against_the_first_api_is_no_obstacle(world: World, obo: OnBehalfOf) -> None:
    """Where the user is not let into the first API the second one is tried."""
    world.entra.fail(50105)

    assert world.oid() == await call(obo, await world.start(obo), "other")


async def test_where_none_can_be_had_the_first_refusal_counts(
    world: World, obo: OnBehalfOf
) -> None:
    """Without any API there is no session, and the error is that of the first one."""
    for resource in ("api://partner", "api://other"):
        world.entra.withdraw_consent("alice", resource=resource)
    with pytest.raises(InteractionRequiredError) as caught:
        await world.start(obo, key="job-1")

    assert ((READ,), None) == (caught.value.scopes, world.value("job-1"))


async def test_named_apis_are_all_acquired(world: World, obo: OnBehalfOf) -> None:
    """With ``apis=`` each of them has its token at once, and the worker asks for none."""
    key = await world.start(obo, apis=["partner", "other", "partner"])
    await call(obo, key)
    await call(obo, key, "other")

    assert [OTHER_READ, READ] == sorted(asked(world, "on_behalf_of"))
    assert (2, 0) == world.grants


async def test_missing_consents_are_one_error(world: World) -> None:
    """What is missing for several APIs is one challenge with its page, and no session is left."""
    obo = world.process(world.entra.registration(consent_redirect_uri=BACK))
    for resource in ("api://partner", "api://other"):
        world.entra.withdraw_consent("alice", resource=resource)
    with pytest.raises(InteractionRequiredError) as caught:
        await world.start(obo, key="job-1", apis=["partner", "other"])
    error = caught.value

    assert {READ, OTHER_READ} == set(error.scopes)
    assert error.needs_consent
    assert (error.consent_uri or "").startswith(f"{world.entra.authority}/{world.entra.tenant_id}/")
    assert None is world.value("job-1")
    with pytest.raises(SessionNotFoundError):
        await call(obo, "job-1")


async def test_one_missing_consent_is_enough(world: World, obo: OnBehalfOf) -> None:
    """A session whose APIs cannot all be had does not begin, and begins after the consent."""
    world.entra.withdraw_consent("alice", resource="api://other")
    with pytest.raises(InteractionRequiredError):
        await world.start(obo, key="job-1", apis=["partner", "other"])
    assert None is world.value("job-1")

    world.entra.grant_consent("alice", resource="api://other")
    await world.start(obo, key="job-1", apis=["partner", "other"])
    assert world.oid() == await call(obo, "job-1", "other")


@pytest.mark.parametrize(
    ("apis", "message"),
    [
        (["partner", "payroll"], r"'payroll' \(configured: other, partner\)"),
        ("partner", r"apis must be a list: \['partner'\]"),
        ([""], "no downstream API is called ''"),
        ([], "apis"),
        (5, "apis must be a list of names, not 5"),
    ],
    ids=["unknown", "str", "empty name", "empty", "a number"],
)
async def test_apis_are_names_of_apis(
    world: World, obo: OnBehalfOf, apis: Any, message: str
) -> None:
    """An unknown name, a text or an empty list is a ConfigurationError, and nobody is asked."""
    with pytest.raises(ConfigurationError, match=message):
        await world.start(obo, key="job-1", apis=apis)

    assert ((0, 0), None) == (world.grants, world.value("job-1"))


async def test_a_session_needs_an_api(world: World) -> None:
    """Where no API is configured there is nothing to start a session for."""
    with pytest.raises(ConfigurationError, match="a session needs an API"):
        await world.start(world.process(apis=()))


async def test_without_a_refresh_token_there_is_no_session(world: World, obo: OnBehalfOf) -> None:
    """Where Entra gives no refresh token the operator is told what to do, and nothing is left."""
    answer = {"token_type": "Bearer", "access_token": "a.b.c", "expires_in": 3600}
    world.entra.fail_next(200, json.dumps(answer), content_type="application/json")
    with pytest.raises(TokenAcquisitionError, match=r"no refresh token.*offline_access") as caught:
        await world.start(obo, key="job-1")

    assert (None, None) == (caught.value.retry_after, world.value("job-1"))
    with pytest.raises(SessionNotFoundError):
        await call(obo, "job-1")


async def test_a_token_about_to_end_starts_none(world: World, obo: OnBehalfOf) -> None:
    """A user's token that ends within two seconds is not exchanged."""
    alice = await world.user(obo, lifetime=2)
    with pytest.raises(ExpiredTokenError, match="about to expire"):
        await alice.start_session("job-1")

    assert ((0, 0), None) == (world.grants, world.value("job-1"))


# --- The worker -----------------------------------------------------------------------------------


async def test_the_user_is_as_at_the_start(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """The worker's user has the ids, the claims and the scopes of the token that started it."""
    alice = await world.user(obo, scp="access_as_user read", roles=["Admin"], x=[{"é": None}])
    key = await alice.start_session()
    async with worker.resume_session(key) as downstream:
        user = downstream.user

    assert (alice.user.identity, "Alice") == (user.identity, user.display_name)
    assert (("access_as_user", "read"), ("Admin",), False) == (user.scopes, user.roles, user.is_app)
    assert (dict(alice.user.claims), alice.user.expires_at) == (dict(user.claims), user.expires_at)
    with pytest.raises(TypeError):
        user.claims["oid"] = "bob"  # type: ignore[index]


async def test_a_worker_has_all_that_a_handler_has(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Two APIs, one after the other or at once, typed and native, and the app itself as well."""
    key = await world.start(obo)
    async with worker.resume_session(key) as downstream:
        assert 200 == (await downstream["partner"].post("data", json={})).status_code
        assert world.oid() == await downstream["other"].get("data", into=str)
        parts = await downstream.gather(
            *(downstream[name].get("data", into=str) for name in ("partner", "other"))
        )
        await downstream.as_app()["other"].get("data")

    assert [world.oid()] * 2 == [part.value for part in parts]
    assert "app" == claims_of(world.other.tokens[-1])["idtyp"]


async def test_it_goes_on_when_the_users_token_has_ended(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """The request's token is of no use any more; the worker gets tokens for hours to come."""
    await (await world.user(obo, "bob"))["partner"].acquire_token()  # now MSAL is there
    alice = await world.user(obo, lifetime=4)
    key = await alice.start_session()
    await asyncio.sleep(max(alice.user.expires_at - time.time() - 1.9, 0))
    with pytest.raises(ExpiredTokenError):
        await alice["other"].get("data")
    for _ in range(3):
        world.now += 4000  # each token has ended
        assert [world.oid()] * 2 == [await call(worker, key, name) for name in ("partner", "other")]


async def test_each_refresh_token_is_used_once(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A refresh brings the next refresh token, which the next process uses, whichever it is."""
    key = await world.start(obo)
    for process in [obo, worker] * 3:
        world.now += 4000
        assert world.oid() == await call(process, key)
    used = [each.form["refresh_token"] for each in world.entra.requests if "refresh" in each.grant]

    assert ((1, 6), 6) == (world.grants, len(set(used)))


async def test_workers_that_want_the_same_refresh_once(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Many calls at once, for two APIs in two processes, are one refresh for each API."""
    key = await world.start(obo, key="job-1")
    wanted: list[dict[str, Any]] = [{"scopes": [WRITE]}, {"api": "other"}]
    seen = await asyncio.gather(
        *(call(process, key, **each) for process in [obo, worker] * 5 for each in wanted)
    )
    assert [world.oid()] * 20 == seen
    assert [OTHER_READ, WRITE] == sorted(asked(world, "refresh_token"))


async def test_every_refresh_says_that_we_meet_claims_challenges(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """``cp1`` is in each request, also beside the claims that an API demands, which are met."""
    key = await world.start(obo)
    world.other.demands = [NEWER]
    assert world.oid() == await call(worker, key, "other")
    wanted = [json.loads(each.claims or "{}") for each in world.entra.requests[1:]]
    cp1 = {"xms_cc": {"values": ["cp1"]}}

    assert [cp1, cp1 | json.loads(NEWER)["access_token"]] == [
        each["access_token"] for each in wanted
    ]
    assert [["cp1"]] * 2 == [claims_of(token)["xms_cc"] for token in world.other.tokens]


@pytest.mark.parametrize("tenant_id", [None, "organizations"], ids=["one tenant", "many"])
@pytest.mark.parametrize("name", ["alice", "carol"], ids=["guest", "member"])
async def test_tokens_are_from_the_sessions_tenant(
    world: World, name: str, tenant_id: str | None
) -> None:
    """A guest's session, or that of another tenant's user, is refreshed where it was started."""
    world.entra.add_tenant(OTHER_TENANT)
    world.entra.add_user("carol", tenant=OTHER_TENANT)
    registration = world.entra.registration(
        tenant_id=tenant_id or world.entra.tenant_id,
        allowed_tenants=[world.entra.tenant_id, OTHER_TENANT],
    )
    obo, worker = world.process(registration), world.process(registration)
    key = await (await world.user(obo, name, tenant=OTHER_TENANT)).start_session()
    seen = await call(worker, key, "other")

    assert world.entra.user(name, tenant=OTHER_TENANT).oid == seen
    assert [OTHER_TENANT] * 2 == [each.tenant for each in world.entra.requests]


# --- What it may do -------------------------------------------------------------------------------


async def test_another_api_is_refused_here(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A session for one API gets no token for another, and Entra is not even asked."""
    key = await world.start(obo, apis=["partner"])
    for process in (obo, worker):
        with pytest.raises(AccessDeniedError, match=r"other APIs or scopes: start_session\(apis="):
            await call(process, key, "other")
        with pytest.raises(AccessDeniedError):
            await call(process, key, scopes=[WRITE])
        with pytest.raises(AccessDeniedError):
            await call(process, key, scopes=[READ, WRITE])
        assert world.oid() == await call(process, key, scopes=[READ])

    assert ((1, 0), []) == (world.grants, world.other.tokens)


async def test_without_apis_it_may_what_is_configured(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A session that names no APIs may call all of them, with scopes of the call too."""
    key = await world.start(obo)

    assert world.oid() == await call(worker, key, "other")
    assert world.oid() == await call(worker, key, scopes=[WRITE])
    assert [OTHER_READ, WRITE] == asked(world, "refresh_token")


# --- Again ----------------------------------------------------------------------------------------


async def test_its_user_renews_it(world: World, obo: OnBehalfOf, worker: OnBehalfOf) -> None:
    """A second start under the key costs one exchange and brings a new lifetime and new APIs."""
    await world.start(obo, key="job-1", apis=["partner"], lifetime=100)
    world.now += 60
    await world.start(obo, key="job-1", apis=["other"], lifetime=100)
    await settled()
    assert (2, 0) == world.grants
    world.now += 60

    assert world.oid() == await call(worker, "job-1", "other")
    with pytest.raises(AccessDeniedError):
        await call(worker, "job-1", "partner")
    assert (2, 0) == world.grants


async def test_a_worker_goes_on_through_a_renewal(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A worker that holds the session keeps its tokens, and gets new ones of the renewed one."""
    await world.start(obo, key="job-1")
    async with worker.resume_session("job-1") as downstream:
        assert world.oid() == await downstream["partner"].get("data", into=str)
        await world.start(obo, key="job-1")
        for seconds in (0, 31, 4000):
            world.now += seconds
            for name in ("partner", "other"):
                assert world.oid() == await downstream[name].get("data", into=str)
    assert world.oid() == await call(obo, "job-1")


async def test_a_worker_may_soon_what_the_renewed_one_may(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A renewal for other APIs reaches a worker that holds the session, within half a minute."""
    await world.start(obo, key="job-1", apis=["partner"])
    async with worker.resume_session("job-1") as downstream:
        assert world.oid() == await downstream["partner"].get("data", into=str)
        await world.start(obo, key="job-1", apis=["other"])
        world.now += 31

        assert world.oid() == await downstream["other"].get("data", into=str)
        with pytest.raises(AccessDeniedError):
            await downstream["partner"].acquire_token()


async def test_a_failed_renewal_leaves_it_as_it_is(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Where a second start fails the session of before goes on."""
    await world.start(obo, key="job-1")
    before = world.value("job-1")
    world.entra.withdraw_consent("alice", resource="api://other")
    with pytest.raises(InteractionRequiredError):
        await world.start(obo, key="job-1", apis=["partner", "other"])

    assert (before, world.oid()) == (world.value("job-1"), await call(worker, "job-1"))


# --- Cancelled ------------------------------------------------------------------------------------


async def test_a_cancelled_start_leaves_no_lock(world: World, obo: OnBehalfOf) -> None:
    """Wherever a start is cancelled nobody is locked out, and a later start begins the session."""
    await world.start(obo, key="job-0")
    steps, was_cancelled = 0, True
    while was_cancelled:
        steps += 1
        task = asyncio.create_task(world.start(obo, key=f"job-{steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        was_cancelled = task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await settled()

    assert (True, []) == (steps > 10, world.shared.locks)
    for number in range(1, steps, 5):
        await world.start(obo, key=f"job-{number}")
        assert world.oid() == await call(obo, f"job-{number}")


async def test_a_cancelled_worker_loses_no_refresh_token(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Wherever a worker is cancelled the session goes on, in every process, and without a lock."""
    key = await world.start(obo)
    steps, was_cancelled = 0, True
    while was_cancelled:
        steps += 1
        world.now += 4000
        task = asyncio.create_task(call(obo, key))
        for _ in range(steps):
            await asyncio.sleep(0)
        was_cancelled = task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert world.oid() == await call((obo, worker)[steps % 2], key)
    await settled()

    assert (True, []) == (steps > 10, world.shared.locks)


async def test_closing_lets_a_refresh_end(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A process that is closed during a refresh still writes the new refresh token."""
    key = await world.start(obo)
    world.entra.latency = 0.1
    task = asyncio.create_task(call(obo, key, "other"))
    await asyncio.sleep(0.05)
    await obo.aclose()
    await asyncio.gather(task, return_exceptions=True)
    world.entra.latency = 0.0

    assert (1, 1) == world.grants
    assert world.oid() == await call(worker, key, "other")


# --- What shows itself ----------------------------------------------------------------------------


def structs() -> list[type[msgspec.Struct]]:
    """Return the structs of all our modules, which are loaded here."""
    for module in pkgutil.walk_packages(obo_asgi.__path__, "obo_asgi."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = msgspec.Struct.__subclasses__()
    return [kind for kind in kinds if kind.__module__.startswith("obo_asgi")]


def frames(error: BaseException) -> list[FrameType]:
    """Return our own frames of a traceback and of everything that is chained to it."""
    found: list[FrameType] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is not None:
            found += [frame for frame, _ in traceback.walk_tb(current.__traceback__)]
            waiting += [current.__cause__, current.__context__]
    return [frame for frame in found if "/obo_asgi/" in frame.f_code.co_filename]


async def test_nothing_shows_a_token_or_a_key(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf, caplog: pytest.LogCaptureFixture
) -> None:
    """No log at DEBUG, error, frame of an error, or repr holds a token or an allocated key."""
    caplog.set_level(logging.DEBUG)
    errors: list[OboError] = []

    async def wrong(work: Any) -> None:
        with pytest.raises(OboError) as caught:
            await work
        errors.append(caught.value)

    token = world.entra.token("alice")
    alice = await obo.downstream_for(token)
    key = await alice.start_session()
    shown = [repr(alice)]
    async with worker.resume_session(key) as downstream:
        shown += [repr(downstream), repr(downstream.user)]
        await downstream["other"].get("data")
    world.entra.throttle("alice")
    await wrong(call(obo, key, scopes=[WRITE]))
    world.entra.recover()
    world.entra.require_mfa("alice")
    world.now += 4000
    await wrong(call(obo, key))
    await wrong(world.start(obo, "bob", key=key))
    await wrong(call(world.process(keys=[b"o" * 32]), key))
    world.entra.revoke("alice")
    world.now += 4000
    await wrong(call(world.process(), key, "other"))
    await wrong(call(obo, key))
    await settled()
    forms = [each.form for each in world.entra.requests]
    refresh_tokens = [form["refresh_token"] for form in forms if "refresh_token" in form]
    tokens = [token, *refresh_tokens, *world.partner.tokens, *world.other.tokens]
    for record in caplog.records:
        shown += [record.getMessage(), repr(record.args), record.exc_text or ""]
    shown += [text for error in errors for text in (str(error), repr(error), repr(vars(error)))]
    found = [frame for error in errors for frame in frames(error)]
    values = [value for frame in found for value in frame.f_locals.values()]
    in_frames = [text for value in values for text in (repr(value), pretty_repr(value))]

    assert (6, True, True) == (len(errors), len(refresh_tokens) >= 4, len(in_frames) > 50)
    assert [] == [text for text in shown if any(word in text for word in [*tokens, key, key[32:]])]
    assert [] == [text for text in in_frames if any(word in text for word in tokens)]


def test_no_struct_shows_what_it_holds() -> None:
    """Every struct has a repr of its own, and one for rich, which shows it in tracebacks."""
    held = []
    for kind in structs():
        types = [field.type for field in msgspec.structs.fields(kind)]
        held.append(kind(*("a secret" if each in (str, bytes) else 1 for each in types)))
    shown = [text for each in held for text in (repr(each), pretty_repr(each))]

    assert {"SessionRecord", "_TokenRecord"} <= {type(each).__name__ for each in held}
    assert [] == [text for text in shown if "a secret" in text]


async def test_a_record_shows_its_generation_alone(world: World, obo: OnBehalfOf) -> None:
    """Neither repr nor str of a record, nor of what Entra issued, holds a token or a claim."""
    key = await world.start(obo)
    record = await obo._cache.sessions.read(world.name(key))
    assert isinstance(record, SessionRecord)

    assert {"SessionRecord(generation 1)"} == {repr(record), str(record), f"{record}"}
    assert "SessionRecord(generation=1)" == pretty_repr(record)
    assert record.refresh_token.encode() in msgspec.msgpack.encode(record)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(await (await world.user(obo))["partner"].acquire_token())
