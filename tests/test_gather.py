"""Several calls at once: a part for each, one challenge for all, and nothing left running."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Generator
from typing import Any, assert_type

import anyio
import httpx
import pytest

from obo_asgi import (
    Downstream,
    DownstreamAPI,
    DownstreamError,
    DownstreamTimeoutError,
    InteractionRequiredError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    Part,
    downstream_from,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.challenges import Challenge, encode_claims, parse_challenge
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

NAMES = ("users", "orders")
SCOPES = {name: f"api://{name}/read" for name in NAMES}

Handler = Callable[[Downstream], Awaitable[object]]


async def answer(
    send: Send, body: object = None, status: int = 200, challenge: str | None = None
) -> None:
    headers = [(b"content-type", b"application/json")]
    if challenge:
        headers.append((b"www-authenticate", challenge.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


class Remote:
    """A downstream API that echoes the path; ``/hang`` never answers, ``/meet`` not alone."""

    def __init__(self, barrier: asyncio.Barrier) -> None:
        self.entered = asyncio.Event()
        self.cancelled = 0
        self.challenge: str | None = None
        self._barrier = barrier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/meet":
            await self._barrier.wait()
        if path == "/hang":
            await self._hang()
        if self.challenge:
            await answer(send, status=401, challenge=self.challenge)
        else:
            await answer(send, path, 404 if path == "/missing" else 200)

    async def _hang(self) -> None:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def demand(self, name: str, value: str) -> None:
        """Refuse every request from now on, until the user's token holds a claim."""
        claims = {"access_token": {name: {"essential": True, "value": value}}}
        self.challenge = (
            f'Bearer error="insufficient_claims", claims="{encode_claims(json.dumps(claims))}"'
        )


class World:
    """FakeEntra, two downstream APIs, and an API that calls both."""

    def __init__(self) -> None:
        self.entra = FakeEntra()
        barrier = asyncio.Barrier(2)
        self.remotes = {name: Remote(barrier) for name in NAMES}
        for name in NAMES:
            self.entra.add_api(f"api://{name}", scopes=["read"])
        self._obo = OnBehalfOf(
            self.entra.registration(),
            downstream={
                name: DownstreamAPI(base_url=f"https://{name}", scopes=[SCOPES[name]])
                for name in NAMES
            },
            http_client=self.entra.client(
                apps={f"https://{name}": remote for name, remote in self.remotes.items()}
            ),
        )

    async def downstream(self) -> Downstream:
        return await self._obo.downstream_for(self.entra.token())

    async def request(self, handler: Handler) -> httpx.Response:
        """Call the API with this handler behind the middleware."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await handler(downstream_from(scope))
            await answer(send, "done")

        transport = httpx.ASGITransport(OnBehalfOfMiddleware(app, self._obo))
        async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
            return await client.get("/", headers=self.entra.bearer())

    async def challenge(self, handler: Handler) -> Challenge:
        response = await self.request(handler)
        challenge = parse_challenge(response)
        assert 401 == response.status_code
        assert challenge is not None
        return challenge

    async def both_hang(self) -> None:
        for remote in self.remotes.values():
            await remote.entered.wait()

    @property
    def cancelled(self) -> list[int]:
        return [remote.cancelled for remote in self.remotes.values()]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def downstream(world: World) -> Downstream:
    return await world.downstream()


# --- Parts ----------------------------------------------------------------------------------------


async def number(value: int, delay: float = 0) -> int:
    await asyncio.sleep(delay)
    return value


async def fail(error: Exception, delay: float = 0) -> int:
    await asyncio.sleep(delay)
    raise error


async def test_parts_keep_their_order_and_their_types(downstream: Downstream) -> None:
    """The first part is the first call's, of its own type, whichever call ends first."""
    slow, path, response = await downstream.gather(
        number(7, 0.02), downstream["users"].get("me", into=str), downstream["orders"].get("all")
    )
    assert_type(slow, Part[int])
    assert_type(path, Part[str])
    assert_type(response, Part[httpx.Response])

    assert (7, '"/me"', "/all") == (slow.value, path.value, response.value.json())
    assert (None, None, None) == (slow.error, path.error, response.error)


async def test_a_failed_part_holds_its_own_error(downstream: Downstream) -> None:
    """A failure raises only where its value is asked for, and a default stands in for it."""
    users = downstream["users"]
    good, bad = await downstream.gather(
        users.get("me", into=str), users.get("missing", into=dict[str, Any])
    )
    with pytest.raises(DownstreamError) as caught:
        _ = bad.value

    assert (caught.value, 404) == (bad.error, caught.value.status_code)
    assert ('"/me"', None, {}) == (good.value_or(""), bad.value_or(None), bad.value_or({}))


async def test_a_value_may_be_none(downstream: Downstream) -> None:
    """None as a value is a value: no default takes its place."""
    (part,) = await downstream.gather(asyncio.sleep(0, None))

    assert (None, None) == (part.value, part.value_or("default"))


async def test_a_part_shows_nothing_of_its_value() -> None:
    """The repr, which logs may hold, has neither the value nor the text of the error."""
    parts: list[Part[str]] = [Part("secret"), Part(error=ValueError("secret"))]

    assert "[Part(value=…), Part(error=ValueError)]" == repr(parts)


async def test_nothing_to_gather_is_no_part(downstream: Downstream) -> None:
    """Without calls there are no parts, with or without a time limit."""
    assert () == await downstream.gather()
    assert () == await downstream.gather(timeout=0.01, strict=True)


async def test_any_number_of_calls_is_gathered(world: World, downstream: Downstream) -> None:
    """A list of calls gives a part for each; calls that want one token share its exchange."""
    calls = [downstream["users"].get(str(index), into=str) for index in range(50)]
    parts = await downstream.gather(*calls)

    assert [f'"/{index}"' for index in range(50)] == [part.value for part in parts]
    assert 1 == world.entra.exchanges


async def test_calls_run_at_the_same_time(downstream: Downstream) -> None:
    """No call waits for another one to end."""
    async with asyncio.timeout(5):
        parts = await downstream.gather(*(downstream[name].get("meet") for name in NAMES))

    assert [200, 200] == [part.value.status_code for part in parts]


class Later:
    """An awaitable that is neither a coroutine nor a future."""

    def __await__(self) -> Generator[Any, None, str]:
        yield from asyncio.sleep(0).__await__()
        return "later"


async def test_other_awaitables_are_gathered(downstream: Downstream) -> None:
    """Tasks, futures and objects with ``__await__`` are taken like calls."""
    future = asyncio.get_running_loop().create_future()
    future.set_result("future")
    parts = await downstream.gather(asyncio.create_task(number(1)), future, Later())

    assert [1, "future", "later"] == [part.value for part in parts]


async def test_a_task_that_somebody_cancels_is_a_failed_part(downstream: Downstream) -> None:
    """A call that is cancelled from outside does not cancel the others."""
    task = asyncio.create_task(number(1, 60))
    asyncio.get_running_loop().call_soon(task.cancel)
    cancelled, other = await downstream.gather(task, number(2, 0.01))

    assert ("the call was cancelled", 2) == (str(cancelled.error), other.value)


# --- Mistakes -------------------------------------------------------------------------------------


async def test_a_mistake_in_a_call_comes_out_as_it_is(downstream: Downstream) -> None:
    """A TypeError of a call is its part's error, and raised by its value."""
    misspelt: dict[str, Any] = {"jsn": {}}
    mistake, other = await downstream.gather(
        downstream["users"].post("me", into=str, **misspelt), number(1)
    )
    with pytest.raises(TypeError, match="unknown option of a downstream call: jsn"):
        _ = mistake.value

    assert (TypeError, 1) == (type(mistake.error), other.value)


async def test_a_mistake_behind_the_middleware_is_no_answer_of_ours(world: World) -> None:
    """A TypeError that a handler lets out of a part reaches the server, as any mistake does."""

    async def handler(downstream: Downstream) -> None:
        (part,) = await downstream.gather(fail(TypeError("a mistake")))
        _ = part.value

    with pytest.raises(TypeError, match="a mistake"):
        await world.request(handler)


@pytest.mark.parametrize("wrong", ["text", None, 7, number], ids=["text", "None", "int", "def"])
async def test_what_cannot_be_awaited_is_refused(
    world: World, downstream: Downstream, wrong: Any
) -> None:
    """A wrong argument is a TypeError before anything starts; no call is left unawaited."""
    with pytest.raises(TypeError, match="gather takes calls that are not awaited yet"):
        await downstream.gather(downstream["users"].get("me"), wrong, number(1))
    gc.collect()

    assert 0 == world.entra.exchanges


# --- strict ---------------------------------------------------------------------------------------


async def test_strict_raises_the_first_error(downstream: Downstream) -> None:
    """With ``strict=True`` the error of the first call that failed is raised itself."""
    with pytest.raises(DownstreamError) as caught:
        await downstream.gather(
            number(1),
            downstream["users"].get("missing", into=str),
            fail(ValueError("later"), 0.02),
            strict=True,
        )

    assert ("users", 404) == (caught.value.api, caught.value.status_code)


async def test_strict_raises_nothing_where_nothing_failed(downstream: Downstream) -> None:
    """With ``strict=True`` good parts are returned as ever."""
    one, two = await downstream.gather(number(1), number(2), strict=True)

    assert (1, 2) == (one.value, two.value)


async def test_strict_raises_a_timeout(world: World, downstream: Downstream) -> None:
    """With ``strict=True`` a call that is not done in time is the error that is raised."""
    with pytest.raises(DownstreamTimeoutError, match="'orders' did not answer in time"):
        await downstream.gather(
            number(1), downstream["orders"].get("hang"), timeout=0.5, strict=True
        )

    assert [0, 1] == world.cancelled


# --- Time limits and cancellation -----------------------------------------------------------------


async def test_what_is_not_done_in_time_is_cancelled(world: World, downstream: Downstream) -> None:
    """A hanging call becomes a timeout that names its API, and no task of it is left."""
    before = asyncio.all_tasks()
    good, late = await downstream.gather(
        downstream["users"].get("me", into=str),
        downstream["orders"].get("hang", into=str),
        timeout=0.5,
    )
    error = late.error

    assert ('"/me"', None) == (good.value, late.value_or(None))
    assert isinstance(error, DownstreamTimeoutError)
    assert ("orders", "downstream API 'orders' did not answer in time") == (error.api, str(error))
    assert ([0, 1], before) == (world.cancelled, asyncio.all_tasks())


async def test_a_timeout_that_is_let_out_is_a_504(world: World) -> None:
    """Our caller hears that somebody behind us did not answer in time."""

    async def handler(downstream: Downstream) -> None:
        (part,) = await downstream.gather(downstream["users"].get("hang"), timeout=0.3)
        _ = part.value

    assert 504 == (await world.request(handler)).status_code


async def test_no_time_at_all_starts_nothing_that_stays(
    world: World, downstream: Downstream
) -> None:
    """With ``timeout=0`` every call is cancelled, and all of them have ended."""
    before = asyncio.all_tasks()
    parts = await downstream.gather(number(1, 1), number(2, 1), timeout=0)

    assert [DownstreamTimeoutError] * 2 == [type(part.error) for part in parts]
    assert before == asyncio.all_tasks()


async def test_calls_clean_up_before_gather_returns(downstream: Downstream) -> None:
    """What a cancelled call still does in its ``finally`` is done when the parts are there."""
    done: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            done.append("tidied")

    await downstream.gather(tidy(), timeout=0.01)
    assert ["tidied"] == done


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_cancelling_gather_cancels_every_call(
    world: World, downstream: Downstream, timeout: float | None
) -> None:
    """A cancelled task that gathers takes all its calls along, and waits for their end."""
    before = asyncio.all_tasks()
    calls = [downstream[name].get("hang") for name in NAMES]
    task = asyncio.create_task(downstream.gather(*calls, timeout=timeout))
    await world.both_hang()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ([1, 1], before) == (world.cancelled, asyncio.all_tasks())


async def test_a_time_limit_around_gather_cancels_every_call(
    world: World, downstream: Downstream
) -> None:
    """``asyncio.timeout`` around it is a TimeoutError of the caller's own, and nothing is left."""
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await downstream.gather(*(downstream[name].get("hang") for name in NAMES))

    assert ([1, 1], before) == (world.cancelled, asyncio.all_tasks())


# --- What the user has to do ----------------------------------------------------------------------


async def both(downstream: Downstream) -> None:
    await downstream.gather(*(downstream[name].get("me") for name in NAMES))


async def both_read(downstream: Downstream) -> None:
    await downstream.gather(*(downstream[name].get("me", into=str) for name in NAMES))


async def test_missing_consents_are_one_challenge(world: World) -> None:
    """The user is asked once for all scopes, also where other calls succeeded or failed."""
    world.entra.withdraw_consent("alice")

    async def handler(downstream: Downstream) -> None:
        calls = [downstream[name].get("me") for name in NAMES]
        await downstream.gather(number(1), *calls, fail(ValueError("other")))

    challenge = await world.challenge(handler)
    assert ("consent_required", tuple(SCOPES.values())) == (challenge.error, challenge.scopes)


async def test_demanded_claims_are_one_challenge(world: World) -> None:
    """Claims that two APIs demand, each of its own, are one claims challenge."""
    world.remotes["users"].demand("acrs", "c1")
    world.remotes["orders"].demand("capolids", "policy")
    challenge = await world.challenge(both_read)
    claims = json.loads(challenge.claims or "{}")["access_token"]

    assert "insufficient_claims" == challenge.error
    assert ("c1", "policy") == (claims["acrs"]["value"], claims["capolids"]["value"])
    assert set(SCOPES.values()) == set(challenge.scopes)


async def test_a_consent_and_claims_are_one_challenge(world: World) -> None:
    """A consent for one API and a second factor for another are asked for together."""
    world.entra.withdraw_consent("alice", resource="api://users")
    world.entra.require_mfa("alice", "api://orders")
    challenge = await world.challenge(both)

    assert ("insufficient_claims", True) == (challenge.error, "capolids" in str(challenge.claims))
    assert set(SCOPES.values()) == set(challenge.scopes)


async def test_gather_raises_the_challenge_without_being_strict(
    world: World, downstream: Downstream
) -> None:
    """What the user has to do is raised, once every call has ended, the slow ones too."""
    world.entra.withdraw_consent("alice", resource="api://users")
    ended: list[int] = []

    async def slow() -> None:
        ended.append(await number(1, 0.02))

    with pytest.raises(InteractionRequiredError) as caught:
        await downstream.gather(downstream["users"].get("me"), slow())

    assert ((SCOPES["users"],), [1]) == (caught.value.scopes, ended)


async def test_a_hanging_call_does_not_hide_the_challenge(world: World) -> None:
    """What is missing is told at the end of the time limit, whatever did not answer."""
    world.entra.withdraw_consent("alice", resource="api://users")

    async def handler(downstream: Downstream) -> None:
        await downstream.gather(
            downstream["orders"].get("hang"), downstream["users"].get("me"), timeout=0.1
        )

    assert (SCOPES["users"],) == (await world.challenge(handler)).scopes
    assert [0, 1] == world.cancelled


async def test_gathers_within_gathers_are_one_challenge(world: World) -> None:
    """What an inner gather raises is merged by the outer one."""
    world.entra.withdraw_consent("alice")

    async def handler(downstream: Downstream) -> None:
        inner = (downstream.gather(downstream[name].get("me")) for name in NAMES)
        await downstream.gather(*inner)

    assert set(SCOPES.values()) == set((await world.challenge(handler)).scopes)


# --- Other ways to call at once -------------------------------------------------------------------


async def one_call(downstream: Downstream) -> None:
    await downstream["users"].get("me", into=str)


async def with_gather(downstream: Downstream) -> None:
    await downstream.gather(number(1), one_call(downstream))


async def with_asyncio_gather(downstream: Downstream) -> None:
    await asyncio.gather(number(1), one_call(downstream))


async def with_asyncio_task_group(downstream: Downstream) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(number(1, 60))
        group.create_task(one_call(downstream))


async def with_anyio_task_group(downstream: Downstream) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(number, 1, 60)
        group.start_soon(one_call, downstream)


async def with_nested_task_groups(downstream: Downstream) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(with_anyio_task_group(downstream))


WAYS = [
    with_gather,
    with_asyncio_gather,
    with_asyncio_task_group,
    with_anyio_task_group,
    with_nested_task_groups,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("missing", ["consent", "second factor", "claims"])
async def test_every_way_gives_the_same_answer(world: World, way: Handler, missing: str) -> None:
    """A group of tasks around a call changes nothing of the 401 that a plain call gives."""
    if missing == "consent":
        world.entra.withdraw_consent("alice", resource="api://users")
    elif missing == "second factor":
        world.entra.require_mfa("alice", "api://users")
    else:
        world.remotes["users"].demand("acrs", "c1")
    plain, response = [await world.request(handler) for handler in (one_call, way)]

    assert 401 == plain.status_code == response.status_code
    assert plain.headers["WWW-Authenticate"] == response.headers["WWW-Authenticate"]
    assert plain.json() == response.json()


async def test_a_group_of_several_is_one_challenge(world: World) -> None:
    """A handler's own group of errors is told with the scopes of all of them."""
    world.entra.withdraw_consent("alice")

    async def handler(downstream: Downstream) -> None:
        calls = [downstream[name].get("me") for name in NAMES]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        raise ExceptionGroup("", [error for error in errors if isinstance(error, Exception)])

    assert tuple(SCOPES.values()) == (await world.challenge(handler)).scopes


async def test_a_mistake_in_a_task_group_is_not_hidden(world: World) -> None:
    """Beside a missing consent, a mistake of the handler still reaches the server."""
    world.entra.withdraw_consent("alice")

    async def handler(downstream: Downstream) -> None:
        try:
            await one_call(downstream)
        except InteractionRequiredError as error:
            raise ExceptionGroup("", [error, TypeError("a mistake")]) from None

    with pytest.raises(ExceptionGroup) as caught:
        await world.request(handler)
    assert ["InteractionRequiredError", "TypeError"] == [
        type(error).__name__ for error in caught.value.exceptions
    ]
