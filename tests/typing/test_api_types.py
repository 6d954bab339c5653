"""The types of `Downstream`, for mypy: what a call returns, and which mistakes it finds.

Nothing here is called. An expected error is a ``type: ignore``, which mypy reports when the error
is gone (``warn_unused_ignores``).
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, TypedDict, assert_type

import httpx
import msgspec
import pydantic

from obo_asgi import AccessToken, APIClient, Downstream, OnBehalfOf, Part, User
from obo_asgi.testing import FakeCall, FakeDownstream, fake_downstream


@dataclasses.dataclass
class Data:
    name: str


class Typed(TypedDict):
    name: str


class Record(msgspec.Struct):
    name: str


class Model(pydantic.BaseModel):
    name: str


async def without_into_a_verb_returns_httpxs_response(api: APIClient) -> None:
    """A plain call is typed as httpx types it."""
    assert_type(await api.get("me"), httpx.Response)
    assert_type(await api.post("me", json={"a": 1}), httpx.Response)
    assert_type(await api.put("me", content=b"raw"), httpx.Response)
    assert_type(await api.patch("me", data={"a": "b"}), httpx.Response)
    assert_type(await api.delete("me"), httpx.Response)
    assert_type(await api.head("me"), httpx.Response)
    assert_type(await api.options("me"), httpx.Response)
    assert_type(await api.request("PROPFIND", "me"), httpx.Response)
    assert_type(await api.request("PROPFIND", "me", into=None), httpx.Response)


async def with_into_a_verb_returns_that_type(api: APIClient) -> None:
    """The type that is given is the type that comes."""
    assert_type(await api.get("me", into=Data), Data)
    assert_type(await api.get("me", into=Typed), Typed)
    assert_type(await api.get("me", into=Record), Record)
    assert_type(await api.get("me", into=Model), Model)
    assert_type(await api.get("me", into=list[Model]), list[Model])
    assert_type(await api.get("me", into=dict[str, Any]), dict[str, Any])
    assert_type(await api.post("me", json=Data("a"), into=Model), Model)
    assert_type(await api.put("me", json=Typed(name="a"), into=Data), Data)
    assert_type(await api.patch("me", json=Model(name="a"), into=Data), Data)
    assert_type(await api.delete("me", into=Data), Data)
    assert_type(await api.request("GET", "me", into=Data), Data)


async def every_option_is_typed(api: APIClient) -> None:
    """All options together, with and without ``into``."""
    response = await api.post(
        "me",
        params={"q": "1"},
        headers={"X-A": "1"},
        timeout=1.5,
        scopes=["api://partner/read"],
        files={"file": b""},
    )
    assert_type(response, httpx.Response)
    data = await api.get("me", into=Data, params={}, headers={}, timeout=1, scopes=("a",))
    assert_type(data, Data)
    async with api.stream("GET", "me", params={"q": "1"}) as stream:
        assert_type(stream, httpx.Response)


async def tokens_are_typed(downstream: Downstream) -> None:
    """A name gives an `APIClient`, and that a token or a header."""
    api = downstream["partner"]
    assert_type(api, APIClient)
    assert_type(await api.acquire_token(), AccessToken)
    assert_type(await api.acquire_token(["api://partner/read"]), AccessToken)
    assert_type(await api.authorization_header(), str)


async def gather_keeps_each_type(downstream: Downstream, api: APIClient) -> None:
    """Each part has the type of its call, up to six of them; of many alike there is a tuple."""
    get = api.get
    assert_type(await downstream.gather(get("a", into=Data)), tuple[Part[Data]])
    data, model, response = await downstream.gather(
        get("a", into=Data), get("b", into=Model), get("c"), timeout=2, strict=True
    )
    assert_type(data, Part[Data])
    assert_type(model, Part[Model])
    assert_type(response, Part[httpx.Response])
    six = await downstream.gather(
        get("a", into=Data),
        get("b", into=Typed),
        get("c", into=Record),
        get("d", into=list[Model]),
        api.acquire_token(),
        asyncio.sleep(0, 7),
    )
    assert_type(
        six,
        tuple[
            Part[Data], Part[Typed], Part[Record], Part[list[Model]], Part[AccessToken], Part[int]
        ],
    )
    many = [get(f"items/{number}", into=Record) for number in range(9)]
    assert_type(await downstream.gather(*many), tuple[Part[Record], ...])


def a_part_is_its_value_or_an_error(part: Part[Data]) -> None:
    """The value has the call's type, with a default the default's besides."""
    assert_type(part.value, Data)
    assert_type(part.value_or(None), Data | None)
    assert_type(part.value_or(Data("none")), Data)
    assert_type(part.value_or(0), Data | int)
    assert_type(part.error, Exception | None)


def the_auth_is_httpxs(api: APIClient) -> None:
    """`auth` goes where httpx takes one."""
    auth: httpx.Auth = api.auth
    httpx.AsyncClient(auth=auth)


async def the_app_has_the_same_apis(downstream: Downstream, obo: OnBehalfOf) -> None:
    """`as_app` gives a `Downstream`, as a request does, with and without a request."""
    assert_type(downstream.as_app(), Downstream)
    assert_type(downstream.user, User)
    async with obo.as_app() as app:
        assert_type(app, Downstream)
        assert_type(await app["partner"].get("me", into=Data), Data)


def the_stand_in_is_a_downstream() -> None:
    """What a handler's test passes is what the handler takes."""
    fake = fake_downstream(graph={"me": {"name": "a"}}, user=None)
    downstream: Downstream = fake
    assert_type(fake, FakeDownstream)
    assert_type(fake.calls, list[FakeCall])
    assert_type(downstream["graph"], APIClient)


async def mistakes_are_type_errors(api: APIClient) -> None:
    """A misspelt option, a wrong value, and what a verb does not have."""
    await api.get("me", parms={"q": "1"})  # type: ignore[call-overload]
    await api.get("me", into=Data, tiemout=1)  # type: ignore[call-overload]
    await api.get("me", follow_redirects=True)  # type: ignore[call-overload]
    await api.get("me", auth=("user", "password"))  # type: ignore[call-overload]
    await api.post("me", timeout="1")  # type: ignore[call-overload]
    await api.post("me", headers=["X-A"])  # type: ignore[call-overload]
    await api.put("me", scopes=7)  # type: ignore[call-overload]
    await api.get(7)  # type: ignore[call-overload]
    await api.get("me", into=Data("a"))  # type: ignore[call-overload]
    await api.head("me", into=Data)  # type: ignore[call-arg]
    await api.head("me", parms={"q": "1"})  # type: ignore[call-arg]
    await api.options("me", timeout="1")  # type: ignore[arg-type]
    async with api.stream("GET", "me", into=Data):  # type: ignore[call-arg]
        pass
    await api.acquire_token(7)  # type: ignore[arg-type]
    data = await api.get("me", into=Data)
    data.nmae  # type: ignore[attr-defined] # noqa: B018


async def mistakes_with_several_calls_are_type_errors(
    downstream: Downstream, part: Part[Data]
) -> None:
    """A value that is no call, an option of another function, a name that is not there."""
    await downstream.gather(7)  # type: ignore[call-overload]
    await downstream.gather(asyncio.sleep(0), return_exceptions=True)  # type: ignore[call-overload]
    await downstream.gather(asyncio.sleep(0), timeout="1")  # type: ignore[call-overload]
    part.value_or()  # type: ignore[call-arg]
    part.value = Data("a")  # type: ignore[misc]
    part.value.nmae  # type: ignore[attr-defined] # noqa: B018
