"""The stand-in for a request's `Downstream`: what the unit test of a handler tells it, and sees."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypedDict

import httpx
import pydantic
import pytest

from obo_asgi import (
    ConfigurationError,
    Downstream,
    DownstreamError,
    DownstreamTimeoutError,
    InteractionRequiredError,
    User,
    error_response,
)
from obo_asgi.challenges import bearer_challenge, encode_claims, raise_for_challenge
from obo_asgi.testing import FakeCall, FakeDownstream, FakeEntra, fake_downstream

pytestmark = pytest.mark.anyio


@dataclass
class Person:
    displayName: str


class Named(TypedDict):
    displayName: str


class Model(pydantic.BaseModel):
    displayName: str


async def handler(downstream: Downstream) -> dict[str, Any]:
    """Be a handler as people write them."""
    person, tasks = await downstream.gather(
        downstream["graph"].get("me", into=Person),
        downstream["partner"].get("api/tasks", params={"top": "2"}, into=list[str]),
    )
    done = await downstream["partner"].post("/api/process", json=person.value, into=bool)
    return {"name": person.value.displayName, "tasks": tasks.value_or([]), "done": done}


async def test_a_handler_runs_on_told_answers() -> None:
    """A handler gets its answers from the test, which then reads what it was asked."""
    alice = fake_downstream(
        graph={"me": {"displayName": "Alice"}},
        partner={"api/tasks": ["one"], "POST api/process": True},
    )

    assert {"name": "Alice", "tasks": ["one"], "done": True} == await handler(alice)
    assert [
        ("graph", "GET", "me"),
        ("partner", "GET", "api/tasks?top=2"),
        ("partner", "POST", "api/process"),
    ] == [call[:3] for call in alice.calls]
    assert {"displayName": "Alice"} == alice.calls[-1].json


async def test_it_is_a_downstream() -> None:
    """It passes for the real one, and its calls are plain values."""
    alice = fake_downstream(graph={"me": b"{}"})
    await alice["graph"].put("me", content=b"body", headers={"X-Own": "1"})
    [call] = alice.calls

    assert isinstance(alice, Downstream)
    assert (FakeDownstream, FakeCall) == (type(alice), type(call))
    assert (b"body", "1", alice.correlation_id) == (
        call.body,
        call.headers["x-own"],
        call.headers["client-request-id"],
    )
    assert call.headers["authorization"] == await alice["graph"].authorization_header()


@pytest.mark.parametrize(
    ("answer", "into", "expected"),
    [
        pytest.param({"displayName": "A"}, Person, Person("A"), id="dataclass"),
        pytest.param({"displayName": "A"}, Named, {"displayName": "A"}, id="TypedDict"),
        pytest.param(Model(displayName="A"), Model, Model(displayName="A"), id="model"),
        pytest.param([Person("A")], list[Person], [Person("A")], id="list"),
        pytest.param(None, Person | None, None, id="None"),
        pytest.param(True, bool, True, id="bool"),
        pytest.param("text", str, "text", id="text"),
        pytest.param("[1]", list[int], [1], id="JSON as text"),
        pytest.param(b"\x00", bytes, b"\x00", id="bytes"),
        pytest.param(204, Person | None, None, id="status"),
        pytest.param(httpx.Response(201, json=7), int, 7, id="response"),
        pytest.param(lambda request: {"url": request.url.path}, Any, {"url": "/x"}, id="function"),
    ],
)
async def test_every_kind_of_answer_is_read_into_a_type(
    answer: Any, into: Any, expected: object
) -> None:
    """Values, texts, bytes, statuses, responses and functions all become the type asked for."""
    alice = fake_downstream(api={"x": answer})

    assert [expected] * 2 == [await alice["api"].get("x", into=into) for _ in range(2)]


async def test_a_function_may_be_asynchronous() -> None:
    """An asynchronous function sees the request, and answers what any other answer may be."""

    async def create(request: httpx.Request) -> httpx.Response | int:
        wanted = json.loads(request.content)
        return httpx.Response(201, json=wanted, headers={"Location": "/x"}) if wanted else 400

    api = fake_downstream(api={"x": create})["api"]
    response = await api.post("x", json={"a": 1})

    assert (201, {"a": 1}) == (response.status_code, response.json())
    assert ("/x", 400) == (response.headers["location"], (await api.post("x", json={})).status_code)


async def test_a_compressed_response_is_read() -> None:
    """A response that was recorded compressed reads as the real one does."""
    body = gzip.compress(b'{"displayName":"A"}')
    recorded = httpx.Response(200, content=body, headers={"content-encoding": "gzip"})

    assert Person("A") == await fake_downstream(api={"x": recorded})["api"].get("x", into=Person)


async def test_an_answer_is_streamed_too() -> None:
    """`stream` reads an answer as any verb does."""
    async with fake_downstream(api={"x": b"data"})["api"].stream("GET", "x") as response:
        assert b"data" == await response.aread()


@pytest.mark.parametrize(
    ("answer", "expected", "status", "seen"),
    [
        (404, DownstreamError, 404, 404),
        (httpx.Response(503, headers={"Retry-After": "9"}), DownstreamError, 503, 503),
        ({"no": "name"}, DownstreamError, 200, 502),
        (httpx.ReadTimeout("slow"), DownstreamTimeoutError, None, 504),
        (httpx.ConnectError("gone"), DownstreamError, None, 502),
        (DownstreamTimeoutError("slow", api="api"), DownstreamTimeoutError, None, 504),
        (lambda request: 500, DownstreamError, 500, 502),
    ],
    ids=["status", "response", "misfit", "timeout", "transport", "ours", "function"],
)
async def test_failures_are_the_real_ones(
    answer: Any, expected: type[DownstreamError], status: int | None, seen: int
) -> None:
    """With ``into`` a failure has the class, the fields and the HTTP answer of the real one."""
    with pytest.raises(DownstreamError) as caught:
        await fake_downstream(api={"x": answer})["api"].get("x", into=Person)
    error, response = caught.value, error_response(caught.value)

    assert (expected, "api", status) == (type(error), error.api, error.status_code)
    assert response is not None
    assert seen == response.status_code


async def test_without_into_errors_are_the_clients() -> None:
    """Without ``into`` a status raises nothing, and a client's own error is answered as ours."""
    api = fake_downstream(api={"x": 404, "y": httpx.ReadTimeout("slow"), "z": KeyError("own")})[
        "api"
    ]
    answers = []
    with pytest.raises(httpx.HTTPStatusError) as status:
        (await api.get("x")).raise_for_status()
    with pytest.raises(httpx.ReadTimeout) as timeout:
        await api.get("y")
    with pytest.raises(KeyError, match="own"):
        await api.get("z")
    for error in (status.value, timeout.value):
        answer = error_response(error)
        answers.append(answer and answer.status_code)

    assert [404, 504] == answers


async def test_gather_keeps_what_failed_apart() -> None:
    """Of calls at once each has its own outcome: a value, an error, or no answer in time."""

    async def hang(request: httpx.Request) -> None:
        await asyncio.sleep(60)

    alice = fake_downstream(graph={"me": {"displayName": "Alice"}}, partner={"a": 503, "b": hang})
    me, failed, late = await alice.gather(
        alice["graph"].get("me", into=Person),
        alice["partner"].get("a", into=Person),
        alice["partner"].get("b", into=Person),
        timeout=0.05,
    )

    assert (Person("Alice"), None) == (me.value, failed.value_or(None))
    assert [DownstreamError, DownstreamTimeoutError] == [type(failed.error), type(late.error)]


async def test_what_the_user_has_to_do_is_raised() -> None:
    """An `InteractionRequiredError` as an answer, and a challenge of an API, reach the handler."""
    error = InteractionRequiredError("consent", suberror="consent_required")
    challenge = bearer_challenge(error="consent_required", scope="api://x/read")
    refusal = httpx.Response(401, headers={"WWW-Authenticate": challenge})
    alice = fake_downstream(a={"x": error}, b={"x": refusal})

    with pytest.raises(InteractionRequiredError) as told:
        await alice["a"].get("x")
    with pytest.raises(InteractionRequiredError) as challenged:
        await alice["b"].get("x", into=Person)
    with pytest.raises(InteractionRequiredError):
        await alice.gather(alice["b"].get("x", into=Person))
    with pytest.raises(InteractionRequiredError):
        raise_for_challenge(await alice["b"].get("x"))
    assert told.value is error
    assert ("api://x/read",) == challenged.value.scopes


async def test_a_claims_challenge_is_met() -> None:
    """An API's demand for claims is met by a second call, as with a real token."""
    challenge = bearer_challenge(error="insufficient_claims", claims=encode_claims("{}"))
    answers = iter([httpx.Response(401, headers={"WWW-Authenticate": challenge}), "done"])
    alice = fake_downstream(api={"x": lambda request: next(answers)})

    assert "done" == await alice["api"].get("x", into=str)
    assert 2 == len(alice.calls)


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        ("x", {}, 1),
        ("/x", {}, 1),
        ("x?other=1", {}, 1),
        ("x?q=a b", {}, 2),
        ("x", {"params": {"q": "a b"}}, 2),
        ("y", {}, 3),
        ("a b", {}, 4),
        ("a%20b", {}, 4),
        ("", {}, 5),
    ],
    ids=str,
)
async def test_paths_are_found_in_any_spelling(path: str, options: Any, expected: int) -> None:
    """A leading slash, an encoding or a query that no answer names makes no difference."""
    answers = {"x": [1], "x?q=a b": [2], "GET /y": [3], "y": [0], "/a b": [4], "": [5]}
    api = fake_downstream(api=answers)["api"]

    assert [expected] == await api.get(path, into=list[int], **options)


async def test_what_nobody_told_is_an_error_that_says_so() -> None:
    """An unknown path, method or API is named beside those that are known, and never a 404."""
    alice = fake_downstream(graph={"POST me": {}}, other={})

    with pytest.raises(LookupError, match=r"no answer for GET 'me' of 'graph'.*\['POST me'\]"):
        await alice["graph"].get("me", into=Person)
    with pytest.raises(LookupError, match="there are none"):
        await alice["other"].get("x")
    with pytest.raises(ConfigurationError, match=r"'partner' \(configured: graph, other\)"):
        alice["partner"]
    [part] = await alice.gather(alice["graph"].get("me"))
    assert isinstance(part.error, LookupError)


async def test_names_that_are_no_keywords_can_be_told() -> None:
    """APIs may be given as a mapping too, whatever their names."""
    alice = fake_downstream({"my-api": {"x": "1"}, "user": {"x": "2"}}, more={"x": "3"})
    names = ("my-api", "user", "more")

    assert ["1", "2", "3"] == [await alice[name].get("x", into=str) for name in names]


def test_the_user_is_fake_entras() -> None:
    """A name makes the user that FakeEntra has under it, with the usual scope."""
    user, bob = fake_downstream().user, fake_downstream(user="bob").user
    entra = FakeEntra()

    assert (entra.user("alice").oid, entra.tenant_id) == (user.oid, user.tid)
    assert (("access_as_user",), "Alice") == (user.scopes, user.display_name)
    assert entra.user("bob").oid == bob.oid


def test_the_user_may_be_ones_own() -> None:
    """A `User` is taken as it is."""
    user = User(
        oid="o", tid="t", claims=MappingProxyType({}), scopes=(), roles=("Admin",), expires_at=0
    )

    assert fake_downstream(user=user).user is user


async def test_the_app_calls_without_a_user() -> None:
    """`as_app`, and ``user=None``, call as the app: there are answers, and no user."""
    alice = fake_downstream(api={"x": "1"})
    app, alone = alice.as_app(), fake_downstream(api={"x": "2"}, user=None)

    assert ["1", "2"] == [await each["api"].get("x", into=str) for each in (app, alone)]
    assert [1, 1] == [len(alice.calls), len(alone.calls)]
    for each in (app, alone):
        with pytest.raises(RuntimeError, match="no user"):
            _ = each.user


async def test_a_handler_starts_a_session() -> None:
    """A handler that starts one gets a key of the usual form, or its own, without a call."""
    alice = fake_downstream(partner={}, graph={})
    keys = [await alice.start_session(), await alice.start_session("job-1", ["partner"])]

    assert ("obo-session-", "job-1", []) == (keys[0][:12], keys[1], alice.calls)
    for wrong in ({"apis": ["mail"]}, {"apis": "graph"}, {"lifetime": 0}, {"key": ""}):
        with pytest.raises(ConfigurationError):
            await alice.start_session(**wrong)
    with pytest.raises(RuntimeError, match="no user"):
        await alice.as_app().start_session()


async def test_its_tokens_are_for_nobody() -> None:
    """A token can be asked for, and says that it is fake."""
    alice = fake_downstream(sql={})
    await alice.acquire_tokens(["sql"])

    assert "fake" in (await alice["sql"].acquire_token()).token


async def test_it_ends_as_the_real_one_does() -> None:
    """After its request every call is a RuntimeError."""
    async with fake_downstream(api={"x": "1"}) as alice:
        await alice["api"].get("x")

    with pytest.raises(RuntimeError, match="ended with its request"):
        await alice["api"].get("x")
