"""How sessions end: by their time, by a word, by Entra; and what does not end them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from obo_asgi import (
    AccessDeniedError,
    ConfigurationError,
    InteractionRequiredError,
    KeysUnavailableError,
    OnBehalfOf,
    SessionExpiredError,
    SessionNotFoundError,
    TokenAcquisitionError,
)
from tests.session_world import OTHER_READ, READ, WRITE, World, call, call_late, request

pytestmark = pytest.mark.anyio

DAY = 24 * 3600
STRONGER = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'
"""What Entra grants only after a second factor."""


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


# --- By its time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ({}, 7 * DAY),
        ({"lifetime": 100}, 100),
        ({"lifetime": 1.5}, 1.5),
        ({"lifetime": 90 * DAY, "idle_timeout": 90 * DAY}, 90 * DAY),
        ({"idle_timeout": 100}, 100),
        ({"lifetime": 100, "idle_timeout": 200}, 100),
    ],
    ids=repr,
)
async def test_a_session_ends_in_time(
    world: World, obo: OnBehalfOf, arguments: dict[str, Any], seconds: float
) -> None:
    """A moment before its end it can be resumed, and at its end it is gone, for everybody."""
    key, other = [await world.start(obo, **arguments) for _ in range(2)]
    started = world.now
    world.now = started + seconds - 0.5
    assert world.oid() == await call(world.process(), other)
    world.now = started + seconds
    for process in (obo, world.process()):
        with pytest.raises(SessionExpiredError, match="end of its lifetime"):
            await call(process, key)
    answer = await request(obo, world.entra.bearer("alice"), lambda scope: call(obo, key))

    assert (410, "Gone") == (answer.status_code, answer.json()["title"])
    assert "www-authenticate" not in answer.headers


async def test_use_puts_the_idle_end_off_and_never_the_last_one(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Whoever uses it, in whatever process, it lives on until its lifetime is over."""
    key = await world.start(obo, lifetime=250, idle_timeout=100)
    for process, seconds in [(worker, 99), (obo, 99), (worker, 51)]:
        world.now += seconds
        assert world.oid() == await call(process, key)
    world.now += 1
    with pytest.raises(SessionExpiredError):
        await call(worker, key)


async def test_without_use_it_ends_early(world: World, obo: OnBehalfOf, worker: OnBehalfOf) -> None:
    """A use starts the idle time anew, and then it passes."""
    key = await world.start(obo, lifetime=1000, idle_timeout=100)
    world.now += 60
    await call(worker, key)
    world.now += 100
    with pytest.raises(SessionExpiredError):
        await call(worker, key)


@pytest.mark.parametrize("idle_timeout", [20, 35, 100])
async def test_a_worker_at_work_is_not_idle(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf, idle_timeout: int
) -> None:
    """A worker that calls an API every few seconds keeps the session alive, however short."""
    key = await world.start(obo, idle_timeout=idle_timeout)
    async with worker.resume_session(key) as downstream:
        for _ in range(30):
            world.now += 6
            assert world.oid() == await downstream["partner"].get("data", into=str)
    assert world.oid() == await call(obo, key)


async def test_a_session_ends_for_who_holds_it(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """At the end of its lifetime it is over for a worker that has just used it, too."""
    key = await world.start(obo, lifetime=100)
    async with worker.resume_session(key) as downstream:
        world.now += 99
        await downstream["partner"].get("data")
        world.now += 1
        for name in ("partner", "other"):
            with pytest.raises(SessionExpiredError):
                await downstream[name].get("data")


async def test_its_user_renews_what_has_expired(world: World, obo: OnBehalfOf) -> None:
    """After its end the user starts anew under the same key."""
    await world.start(obo, key="job-1", lifetime=100)
    world.now += 1000
    await world.start(obo, key="job-1", lifetime=100)

    assert world.oid() == await call(obo, "job-1")


@pytest.mark.parametrize("argument", ["lifetime", "idle_timeout"])
@pytest.mark.parametrize(
    "value",
    [0, -1, float("nan"), float("inf"), -float("inf"), True, "1", 91 * DAY, 90 * DAY + 1, [1]],
    ids=repr,
)
async def test_a_wrong_time_is_a_configuration_error(
    world: World, obo: OnBehalfOf, argument: str, value: Any
) -> None:
    """What is no number of seconds up to 90 days is refused with a sentence, and not exchanged."""
    with pytest.raises(ConfigurationError, match=rf"{argument} is a number of seconds.*90 days"):
        await world.start(obo, key="job-1", **{argument: value})

    assert ((0, 0), None) == (world.grants, world.value("job-1"))


async def test_a_session_has_a_lifetime(world: World, obo: OnBehalfOf) -> None:
    """There is none without an end."""
    with pytest.raises(ConfigurationError, match="lifetime is a number of seconds"):
        await world.start(obo, lifetime=None)


# --- By a word ------------------------------------------------------------------------------------


async def test_it_is_ended(world: World, obo: OnBehalfOf, worker: OnBehalfOf) -> None:
    """An ended session is not found any more, and ending it twice does no harm."""
    key = await world.start(obo)
    await worker.end_session(key)
    await obo.end_session(key)
    for process in (obo, worker):
        with pytest.raises(SessionNotFoundError):
            await call(process, key)

    assert None is world.value(key)


async def test_a_running_worker_is_stopped(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """At once in the process that ends it, half a minute later in another; a refresh at once."""
    key = await world.start(obo, key="job-1")
    async with (
        obo.resume_session(key) as here,
        worker.resume_session(key) as there,
    ):
        for downstream in (here, there):
            await downstream["partner"].get("data")
        await obo.end_session(key)
        with pytest.raises(SessionNotFoundError):
            await here["partner"].get("data")
        assert world.oid() == await there["partner"].get("data", into=str)
        with pytest.raises(SessionNotFoundError):
            await there["other"].get("data")
        world.now += 31
        with pytest.raises(SessionNotFoundError):
            await there["partner"].get("data")

    assert (1, 0) == world.grants


@pytest.mark.parametrize("end", ["end_sessions", "purge"])
@pytest.mark.parametrize(
    "ids",
    [
        ("tenant", "alice@contoso.example"),
        ("contoso.com", "oid"),
        (" tenant", "oid"),
        ("", ""),
        (None, None),
    ],
    ids=repr,
)
async def test_who_is_no_user_is_refused(
    world: World, obo: OnBehalfOf, end: str, ids: tuple[Any, Any]
) -> None:
    """Whoever ends all of a user by a name or an address is told that it takes the two ids."""
    known = {"tenant": world.entra.tenant_id, "oid": world.oid()}
    known[" tenant"] = " " + world.entra.tenant_id
    with pytest.raises(ConfigurationError, match=r"in this order: user\.tid and user\.oid"):
        await getattr(obo, end)(*(known.get(each, each) for each in ids))


@pytest.mark.parametrize("purge", [False, True], ids=["end_sessions", "purge"])
@pytest.mark.parametrize("spell", [str.lower, str.upper])
async def test_all_of_a_user_are_ended(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf, spell: Any, purge: bool
) -> None:
    """All that a user has started so far is gone, whatever the spelling of the ids; others stay."""
    keys = [await world.start(obo), await world.start(worker, key="job-1")]
    of_bob = await world.start(obo, "bob")
    end = obo.purge if purge else obo.end_sessions
    await end(spell(world.entra.tenant_id), spell(world.oid("alice")))
    for process in (obo, worker):
        for key in keys:
            with pytest.raises(SessionNotFoundError):
                await call(process, key)

    assert world.oid("bob") == await call(worker, of_bob)


async def test_what_is_started_after_that_lives(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A session that is started right afterwards, under a new key or an old one, goes on."""
    await world.start(obo, key="job-1")
    await obo.end_sessions(world.entra.tenant_id, world.oid())
    keys = [await world.start(obo, key="job-1"), await world.start(worker)]

    assert [world.oid()] * 2 == [await call(worker, key) for key in keys]
    world.now += 60
    assert [world.oid()] * 2 == [await call(obo, key) for key in keys]


@pytest.mark.parametrize("ahead", [0.0, 4.0, -4.0])
@pytest.mark.parametrize("seconds", [0.0, 0.001, 1.0, 60.0])
async def test_what_is_started_after_that_can_be_ended_too(
    world: World, ahead: float, seconds: float
) -> None:
    """A second end of all is one also soon after the first, on a machine with another clock."""
    here, there = world.process(), world.process(ahead=ahead)
    ids = (world.entra.tenant_id, world.oid())
    await here.end_sessions(*ids)
    key = await world.start(here)
    world.now += seconds
    await there.end_sessions(*ids)
    for process in (here, there):
        with pytest.raises(SessionNotFoundError):
            await call(process, key)


@pytest.mark.parametrize("ahead", [4.0, -4.0])
async def test_clocks_that_differ_do_not_save_a_session(world: World, ahead: float) -> None:
    """Some seconds between two machines' clocks neither save an old session nor cost a new one."""
    here, there = world.process(), world.process(ahead=ahead)
    old = await world.start(there)
    await here.end_sessions(world.entra.tenant_id, world.oid())
    new = await world.start(there)
    for process in (here, there):
        with pytest.raises(SessionNotFoundError):
            await call(process, old)
        assert world.oid() == await call(process, new)


async def test_a_start_under_way_is_ended(world: World, obo: OnBehalfOf) -> None:
    """A session whose start had begun when all were ended does not live."""
    await world.start(obo)
    world.entra.latency = 0.1
    task = asyncio.create_task(world.start(obo))
    await asyncio.sleep(0.03)
    await obo.end_sessions(world.entra.tenant_id, world.oid())
    key = await task

    with pytest.raises(SessionNotFoundError):
        await call(obo, key)


# --- By Entra -------------------------------------------------------------------------------------


async def test_a_dead_refresh_token_ends_it(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A revoked user's session has expired, with Entra's number, is deleted, and then not found."""
    key = await world.start(obo, key="job-1")
    world.entra.revoke("alice")
    with pytest.raises(SessionExpiredError, match="the user has to sign in again") as caught:
        await call(worker, key, "other")
    assert ((50173,), None) == (caught.value.error_codes, world.value(key))
    assert len(caught.value.correlation_id or "") == 36
    for process in (obo, worker):
        with pytest.raises(SessionNotFoundError):
            await call(process, key)

    await world.start(obo, key=key)
    assert world.oid() == await call(worker, key, "other")


async def test_in_a_request_its_user_is_to_sign_in_again(world: World, obo: OnBehalfOf) -> None:
    """Of a session that Entra has ended the owner's request tells once, with a challenge."""
    key = await world.start(obo)
    world.entra.revoke("alice")
    bearer = world.entra.bearer("alice")
    answers = [await request(obo, bearer, lambda scope: call(obo, key, "other")) for _ in range(2)]

    assert [401, 404] == [answer.status_code for answer in answers]
    assert "the session has ended: sign in again" in answers[0].headers["www-authenticate"]


@pytest.mark.parametrize("aadsts", [50034, 50057])
async def test_an_account_that_is_gone_ends_all_of_it(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf, aadsts: int
) -> None:
    """A disabled or deleted user's session is deleted, and all that the user has ends with it."""
    key, other = [await world.start(obo) for _ in range(2)]
    of_bob = await world.start(obo, "bob")
    world.entra.fail(aadsts)
    with pytest.raises(SessionExpiredError) as caught:
        await call(worker, key, "other")
    assert ((aadsts,), None) == (caught.value.error_codes, world.value(key))
    for process in (obo, worker):
        for each in (key, other):
            with pytest.raises(SessionNotFoundError):
                await call(process, each)

    assert world.oid("bob") == await call(worker, of_bob)


async def test_a_removed_users_session_ends(world: World, obo: OnBehalfOf) -> None:
    """Whose account was deleted at Entra has no session any more."""
    key = await world.start(obo)
    world.entra.remove_user("alice")
    with pytest.raises(SessionExpiredError) as caught:
        await call(obo, key, "other")

    assert ((50034,), None) == (caught.value.error_codes, world.value(key))


async def test_a_user_whom_entra_does_not_know_drops_nothing(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """In a request that may be a guest whom nobody has invited: no reason to empty our memory."""
    key, alice = await world.start(obo), await world.user(obo)
    world.entra.fail(50034)
    with pytest.raises(AccessDeniedError):
        await alice["other"].get("data")

    assert world.oid() == await call(worker, key)


async def test_a_disabled_users_request_drops_what_there_is(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Where Entra tells of it in a request, the user's tokens and sessions are dropped, everywhere.

    That is done once an hour, so that nobody empties our memory by calling again and again.
    """
    key, alice = await world.start(obo), await world.user(obo)
    exchanges = []
    for name, scopes in (("other", [OTHER_READ]), ("partner", [WRITE])):
        await alice["partner"].get("data")
        exchanges.append(world.entra.exchanges)
        world.entra.fail(50057)
        with pytest.raises(AccessDeniedError):
            await alice[name].get("data", scopes=scopes)
    await alice["partner"].get("data")

    assert [2, 4, 5] == [*exchanges, world.entra.exchanges]
    with pytest.raises(SessionNotFoundError):
        await call(worker, key)


async def test_one_users_end_is_nobody_elses(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """While Alice is revoked Bob's session goes on."""
    keys = [await world.start(obo, name) for name in ("alice", "bob")]
    world.entra.revoke("alice")
    with pytest.raises(SessionExpiredError):
        await call(worker, keys[0], "other")

    assert world.oid("bob") == await call(worker, keys[1], "other")


async def test_a_withdrawn_consent_ends_it(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """Without the consent that it was started with it is deleted, and the user has to consent."""
    key = await world.start(obo, apis=["partner"])
    world.entra.withdraw_consent("alice", resource="api://partner")
    world.now += 4000
    with pytest.raises(InteractionRequiredError) as caught:
        await call(worker, key)

    assert (True, (READ,)) == (caught.value.needs_consent, caught.value.scopes)
    assert None is world.value(key)
    with pytest.raises(SessionNotFoundError):
        await call(obo, key)


async def test_a_missing_consent_for_another_api_does_not(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """It is told which consent is missing, stays, and has the API after the consent."""
    key = await world.start(obo)
    world.entra.withdraw_consent("alice", resource="api://other")
    with pytest.raises(InteractionRequiredError) as caught:
        await call(worker, key, "other")
    error = caught.value
    assert (True, (OTHER_READ,), None) == (
        error.needs_consent,
        error.scopes,
        error.claims_challenge,
    )
    assert (error.authorization_uri or "").startswith(world.entra.authority)
    assert world.oid() == await call(worker, key)

    world.entra.grant_consent("alice", resource="api://other")
    assert world.oid() == await call(obo, key, "other")


async def test_a_consent_that_it_never_had_does_not(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """What was missing at the start already, and was no obstacle, is none to the session later."""
    world.entra.withdraw_consent("alice", resource="api://partner")
    key = await world.start(obo)
    with pytest.raises(InteractionRequiredError):
        await call(worker, key, "partner")

    assert world.oid() == await call(worker, key, "other")
    world.entra.grant_consent("alice", resource="api://partner")
    assert world.oid() == await call(world.process(), key, "partner")


async def test_a_second_factor_does_not(world: World, obo: OnBehalfOf, worker: OnBehalfOf) -> None:
    """What Entra demands of the user is told; after a new sign-in the session has the API."""
    await world.start(obo, key="job-1")
    world.entra.require_mfa("alice", "api://other")
    with pytest.raises(InteractionRequiredError) as caught:
        await call(worker, "job-1", "other")
    assert ((OTHER_READ,), False) == (caught.value.scopes, caught.value.needs_consent)
    assert "capolids" in json.loads(caught.value.claims_challenge or "{}")["access_token"]
    assert world.oid() == await call(worker, "job-1")

    world.entra.complete_mfa("alice")
    await world.start(obo, key="job-1")
    assert world.oid() == await call(worker, "job-1", "other")


async def test_an_apis_demand_does_not(world: World, obo: OnBehalfOf, worker: OnBehalfOf) -> None:
    """An API that wants a stronger sign-in leaves the session as it is."""
    key = await world.start(obo)
    world.partner.demands = [STRONGER]
    with pytest.raises(InteractionRequiredError) as caught:
        await call(worker, key)

    assert json.loads(STRONGER) == json.loads(caught.value.claims_challenge or "{}")
    assert world.oid() == await call(obo, key)


async def test_a_policy_does_not(world: World, obo: OnBehalfOf, worker: OnBehalfOf) -> None:
    """Where Entra says no to an API the others go on."""
    key = await world.start(obo)
    world.entra.fail(50105)
    with pytest.raises(AccessDeniedError):
        await call(worker, key, "other")

    assert world.oid() == await call(worker, key)
    assert world.oid() == await call(obo, key, "other")


@pytest.mark.parametrize("trouble", ["throttled", "unavailable", "down", "all down"])
async def test_trouble_of_entras_does_not(world: World, obo: OnBehalfOf, trouble: str) -> None:
    """A session outlives that Entra cannot be reached, and says when to try again."""
    key = await world.start(obo)
    value = world.value(key)
    worker = world.process()
    if trouble == "throttled":
        world.entra.throttle("alice", retry_after=17)
    elif trouble == "unavailable":
        world.entra.fail_next(503, headers={"retry-after": "17"})
    else:
        world.entra.down = "token" if trouble == "down" else True
    with pytest.raises((TokenAcquisitionError, KeysUnavailableError)) as caught:
        await call(worker, key, "other")
    retry_after = getattr(caught.value, "retry_after", None)
    world.entra.recover()

    assert value == world.value(key)
    assert 17 == retry_after if trouble in ("throttled", "unavailable") else retry_after
    assert (type(caught.value) is KeysUnavailableError) == (trouble == "all down")
    assert world.oid() == await call(obo, key, "other")


@pytest.mark.parametrize("aadsts", [7000215, 700016, 650057])
async def test_a_mistake_of_the_operators_does_not(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf, aadsts: int
) -> None:
    """A wrong client secret or a missing registration costs no session."""
    key = await world.start(obo)
    value = world.value(key)
    world.entra.fail(aadsts, times=2)
    with pytest.raises(TokenAcquisitionError) as caught:
        await call(worker, key, "other")
    world.entra.recover()

    assert TokenAcquisitionError is type(caught.value)
    assert (value, world.oid()) == (world.value(key), await call(obo, key, "other"))


# --- What comes late ------------------------------------------------------------------------------


async def test_a_refresh_token_that_was_used_meanwhile_ends_nothing(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A worker whose lock has ended is refused at Entra, and goes on with the newer one."""
    key = await world.start(obo)
    world.now += 4000

    async def meanwhile() -> None:
        await call(worker, key, "partner")

    late = await call_late(world, obo, key, meanwhile)

    assert ((1, 3), world.oid()) == (world.grants, late.result())
    assert world.oid() == await call(worker, key, "partner")


async def test_a_late_refusal_does_not_end_a_new_session(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A worker that is refused for the old one goes on with what the user has started since."""
    await world.start(obo, key="job-1")

    async def meanwhile() -> None:
        world.entra.revoke("alice")
        await world.start(worker, key="job-1")

    late = await call_late(world, obo, "job-1", meanwhile)

    assert world.oid() == late.result()
    assert world.oid() == await call(worker, "job-1", "other")


async def test_a_late_refusal_of_a_consent_does_not_either(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A missing consent deletes the session that was started with it, and no other."""
    await world.start(obo, key="job-1", apis=["other"])
    world.now += 4000

    async def meanwhile() -> None:
        await world.start(worker, key="job-1")
        world.entra.withdraw_consent("alice", resource="api://other")

    late = await call_late(world, obo, "job-1", meanwhile)

    assert InteractionRequiredError is type(late.exception())
    assert world.oid() == await call(worker, "job-1", "partner")


async def test_a_late_refusal_of_an_ended_session_says_so(
    world: World, obo: OnBehalfOf, worker: OnBehalfOf
) -> None:
    """A worker whose session was ended meanwhile finds none, whatever Entra says."""
    key = await world.start(obo)

    async def meanwhile() -> None:
        await worker.end_session(key)
        world.entra.revoke("alice")

    late = await call_late(world, obo, key, meanwhile)

    assert SessionNotFoundError is type(late.exception())
    assert None is world.value(key)
