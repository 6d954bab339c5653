"""The downstream client: typed calls as the user, to one place, with nothing of another user."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

import aiohttp
import httpx
import httpx2
import msgspec
import pydantic
import pytest
from httpx_aiohttp import AiohttpTransport
from hypothesis import given, settings
from hypothesis import strategies as st

from obo_asgi import (
    AccessDeniedError,
    APIClient,
    ConfigurationError,
    Downstream,
    DownstreamAPI,
    DownstreamError,
    DownstreamTimeoutError,
    InteractionRequiredError,
    OnBehalfOf,
)
from obo_asgi._http import failure_kind
from obo_asgi.downstream._requests import check_destination
from obo_asgi.testing import FakeEntra, serve

pytestmark = pytest.mark.anyio

ORIGIN = "https://partnerapi.example.com"
BASE_URL = f"{ORIGIN}/v1.0"
EVIL = "https://evil.example"
PARTNER_ID = "api://partner-api-id"


@dataclasses.dataclass
class Request:
    """A request as it arrived."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Partner:
    """A downstream API that remembers what came and answers as told; ``/slow`` takes its time."""

    def __init__(self, status: int = 200, body: bytes = b"{}", **headers: str) -> None:
        self.requests: list[Request] = []
        self.status = status
        self.body = body
        self.headers = headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/slow":
            await asyncio.sleep(0.5)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = scope["query_string"].decode()
        self.requests.append(
            Request(
                scope["method"],
                scope["raw_path"].decode() + ("?" + query if query else ""),
                [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]],
                body,
            )
        )
        headers = [
            (key.replace("_", "-").encode(), val.encode()) for key, val in self.headers.items()
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    @property
    def last(self) -> Request:
        return self.requests[-1]


@pytest.fixture
def entra() -> FakeEntra:
    entra = FakeEntra()
    entra.add_api(PARTNER_ID, scopes=["read", "write"])
    return entra


@pytest.fixture
def partner() -> Partner:
    return Partner()


@pytest.fixture
def evil() -> Partner:
    return Partner()


def partner_api(**fields: Any) -> DownstreamAPI:
    return DownstreamAPI(**{"base_url": BASE_URL, "scopes": [f"{PARTNER_ID}/read"], **fields})


def on_behalf_of(entra: FakeEntra, client: Any = None, **api: Any) -> OnBehalfOf:
    """Return an OnBehalfOf with the partner API, over a client or over our own."""
    downstream = {"partner": partner_api(**api), "tokens": DownstreamAPI(scopes=["User.Read"])}
    return OnBehalfOf(entra.registration(), downstream=downstream, http_client=client)


async def downstream_of(
    entra: FakeEntra, apps: Mapping[str, Any], user: str = "alice", **api: Any
) -> Downstream:
    obo = on_behalf_of(entra, entra.client(apps=apps), **api)
    return await obo.downstream_for(entra.token(user))


@pytest.fixture
async def downstream(entra: FakeEntra, partner: Partner, evil: Partner) -> Downstream:
    return await downstream_of(entra, {ORIGIN: partner, EVIL: evil})


@pytest.fixture
def api(downstream: Downstream) -> APIClient:
    return downstream["partner"]


# --- Requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete", "head", "options"])
async def test_each_verb_sends_its_method(api: APIClient, partner: Partner, verb: str) -> None:
    """A verb sends its own method to the URL below the base URL, and returns httpx's response."""
    response = await getattr(api, verb)("api/users/me")
    assert (verb.upper(), "/v1.0/api/users/me") == (partner.last.method, partner.last.url)
    assert (httpx.Response, 200) == (type(response), response.status_code)


async def test_any_method_can_be_sent(api: APIClient, partner: Partner) -> None:
    """`request` sends a method that has no verb."""
    await api.request("PROPFIND", "files")
    assert ("PROPFIND", "/v1.0/files") == (partner.last.method, partner.last.url)


async def test_the_users_exchanged_token_is_sent_once(
    entra: FakeEntra, api: APIClient, partner: Partner
) -> None:
    """The request bears one Authorization header, with the token that the exchange gave."""
    await api.get("me")
    token = (await api.acquire_token()).token
    assert [f"Bearer {token}"] == partner.last.values("authorization")
    assert f"Bearer {token}" == await api.authorization_header()
    assert 1 == entra.exchanges


class Typed(TypedDict):
    name: str
    count: int


@dataclasses.dataclass
class Data:
    name: str
    count: int


class Record(msgspec.Struct):
    name: str
    count: int


class Model(pydantic.BaseModel):
    name: str
    count: int


PLAIN: Typed = {"name": "Zoë", "count": 3}
TYPES = [Data, Typed, Record, Model]


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("verb", ["post", "put", "patch", "delete"])
async def test_a_typed_body_is_sent_as_json(
    api: APIClient, partner: Partner, type_: Any, verb: str
) -> None:
    """Dataclasses, TypedDicts, Structs and pydantic models have a JSON form."""
    options: Any = {"json": type_(**PLAIN)}
    await api.request(verb.upper(), "process", **options)
    assert PLAIN == json.loads(partner.last.body)
    assert ["application/json"] == partner.last.values("content-type")


@pytest.mark.parametrize("value", [[PLAIN], {"a": None}, "text", 7, 1.5, True, [Model(**PLAIN)]])
async def test_any_json_value_is_sent(api: APIClient, partner: Partner, value: Any) -> None:
    """Plain values have a JSON form, and models inside them too."""
    await api.post("process", json=value)
    assert json.loads(partner.last.body) == ([PLAIN] if isinstance(value, list) else value)


async def test_what_has_no_json_form_is_a_type_error(api: APIClient, partner: Partner) -> None:
    """A value that cannot be sent is a TypeError before anything is sent."""
    with pytest.raises(TypeError, match="object"):
        await api.post("process", json=object())
    assert [] == partner.requests


async def test_other_bodies_are_httpxs(api: APIClient, partner: Partner) -> None:
    """`content`, `data` and `files` are taken as httpx takes them."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    await api.post("raw", content=b"raw")
    await api.post("chunks", content=chunks())
    await api.post("form", data={"a": "b c"})
    await api.post("file", files={"file": ("name.txt", b"file body")})
    assert [b"raw", b"onetwo", b"a=b+c"] == [request.body for request in partner.requests[:3]]
    assert b"file body" in partner.last.body


async def test_parameters_and_headers_are_sent(entra: FakeEntra, partner: Partner) -> None:
    """The API's own headers go with every request, those of a call with that call."""
    downstream = await downstream_of(
        entra, {ORIGIN: partner}, headers={"X-App": "ours", "X-A": "1"}
    )
    await downstream["partner"].get("find", params={"q": "a&b"}, headers={"X-A": "2", "X-B": "3"})
    assert "/v1.0/find?q=a%26b" == partner.last.url
    sent = [partner.last.values(name) for name in ("x-app", "x-a", "x-b")]
    assert [["ours"], ["2"], ["3"]] == sent
    await downstream["partner"].get("find")
    assert [["ours"], ["1"], []] == [partner.last.values(n) for n in ("x-app", "x-a", "x-b")]


@pytest.mark.parametrize(
    ("own", "headers", "name", "expected"),
    [
        (
            {},
            {"content-type": "application/merge-patch+json"},
            "content-type",
            "application/merge-patch+json",
        ),
        ({"X-Trace": "a"}, {"x-trace": "b"}, "x-trace", "b"),
    ],
    ids=["content-type", "own"],
)
async def test_headers_are_one_whatever_their_case(
    entra: FakeEntra, partner: Partner, own: Any, headers: Any, name: str, expected: str
) -> None:
    """A header of the call replaces the one of the same name, also in another case."""
    downstream = await downstream_of(entra, {ORIGIN: partner}, headers=own)
    await downstream["partner"].patch("me", json={}, headers=headers)
    assert [expected] == partner.last.values(name)


async def test_a_misspelt_option_is_a_type_error(api: APIClient, partner: Partner) -> None:
    """An option that no verb has is a TypeError, as with any Python function."""
    options: Any = {"parms": {"q": "1"}}
    with pytest.raises(TypeError, match="parms"):
        await api.get("find", **options)
    assert [] == partner.requests


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [({}, {}, 30.0), ({"timeout": 4}, {}, 4), ({"timeout": 4}, {"timeout": 0.5}, 0.5)],
    ids=["default", "of-the-api", "of-the-call"],
)
async def test_the_timeout_is_the_calls_or_the_apis(
    entra: FakeEntra, fields: dict[str, Any], options: Any, expected: float
) -> None:
    """Each request is given the time-out of the call, else that of its API."""
    timeouts = []

    async def answer(request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"])
        return httpx.Response(200, json={})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer), timeout=99)
    downstream = await downstream_of(entra, {}, http_client=client, **fields)
    await downstream["partner"].get("me", **options)
    assert [dict.fromkeys(("connect", "read", "write", "pool"), expected)] == timeouts


async def test_scopes_are_the_calls_or_the_apis(entra: FakeEntra, api: APIClient) -> None:
    """A token is asked for with the scopes of the call, else with those of the API."""
    await api.get("me")
    await api.get("me", scopes=[f"{PARTNER_ID}/write"])
    await api.acquire_token([f"{PARTNER_ID}/write", f"{PARTNER_ID}/read"])
    asked = [{s for s in str(r.scope).split() if "://" in s} for r in entra.requests]
    read, write = f"{PARTNER_ID}/read", f"{PARTNER_ID}/write"
    assert [{read}, {write}, {read, write}] == asked


@pytest.mark.parametrize(
    "scopes", ["User.Read", [], ["openid"], ["api://a/x", "api://b/x"], ["a b"], [7]], ids=repr
)
async def test_wrong_scopes_of_a_call_are_refused(
    entra: FakeEntra, api: APIClient, partner: Partner, scopes: Any
) -> None:
    """Scopes of a call are checked like those of the configuration, before anything is sent."""
    with pytest.raises(ConfigurationError):
        await api.get("me", scopes=scopes)
    assert (0, []) == (entra.exchanges, partner.requests)


async def test_an_unknown_name_is_told_with_the_known_ones(downstream: Downstream) -> None:
    """A name that is not configured is a ConfigurationError that lists those that are."""
    with pytest.raises(ConfigurationError, match=r"'graph' \(configured: partner, tokens\)"):
        downstream["graph"]


async def test_an_api_without_base_url_gives_tokens_only(downstream: Downstream) -> None:
    """Without a base URL there is a token, and no place to send it to."""
    assert "Bearer ey" == (await downstream["tokens"].authorization_header())[:9]
    with pytest.raises(ConfigurationError, match="base_url"):
        await downstream["tokens"].get("me")


async def test_reprs_hold_nothing_of_the_user(downstream: Downstream) -> None:
    """The reprs of what a handler holds, and of its token, show names alone."""
    token = await downstream["partner"].acquire_token()
    text = f"{downstream!r} {downstream['partner']!r} {downstream.user!r} {token!r}"
    user = downstream.user
    said = [user.oid, user.tid, user.display_name, token.token, "eyJ"]
    assert [] == [word for word in said if word in text]


async def test_an_application_has_nobody_to_act_for(entra: FakeEntra, partner: Partner) -> None:
    """A caller that is an application gets in by its role, and no token of a user."""
    obo = OnBehalfOf(
        entra.registration(),
        downstream={"partner": partner_api()},
        app_roles=["Tasks.Run"],
        http_client=entra.client(apps={ORIGIN: partner}),
    )
    downstream = await obo.downstream_for(entra.token(None, roles=["Tasks.Run"]))
    with pytest.raises(AccessDeniedError):
        await downstream["partner"].get("me")
    assert ([], 0) == (partner.requests, entra.exchanges)


async def test_without_consent_nothing_is_sent(
    entra: FakeEntra, api: APIClient, partner: Partner
) -> None:
    """A refused exchange is the same error with and without ``into``, and nothing is sent."""
    entra.withdraw_consent("alice")
    for options in ({}, {"into": Data}):
        with pytest.raises(InteractionRequiredError) as caught:
            await api.get("me", **options)  # type: ignore[call-overload]
        assert (f"{PARTNER_ID}/read",) == caught.value.scopes
    assert [] == partner.requests


# --- Typed answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete"])
async def test_an_answer_is_read_into_a_type(
    api: APIClient, partner: Partner, type_: Any, verb: str
) -> None:
    """With ``into`` a verb returns the body as that type, less the fields that it does not name."""
    partner.body = json.dumps({**PLAIN, "more": [1]}).encode()
    assert type_(**PLAIN) == await getattr(api, verb)("me", into=type_)


@pytest.mark.parametrize(
    ("into", "expected"),
    [
        (list[Model], [Model(**PLAIN)]),
        (list[Data], [Data(**PLAIN)]),
        (list[dict[str, Any]], [PLAIN]),
        (tuple[Record, ...], (Record(**PLAIN),)),
    ],
)
async def test_an_answer_may_be_a_list(
    api: APIClient, partner: Partner, into: Any, expected: Any
) -> None:
    """Lists of typed values are read like the values."""
    partner.status, partner.body = 201, json.dumps([PLAIN]).encode()
    assert expected == await api.get("me", into=into)


class Colour(enum.IntEnum):
    RED = 1


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""


class ClosedModel(pydantic.BaseModel, extra="forbid"):
    name: str = ""


class Scores(pydantic.BaseModel):
    scores: dict[str, int]


@dataclasses.dataclass
class Card:
    colour: Colour


@dataclasses.dataclass
class Pin:
    number: Literal[1, 2]


SECRET = "s3cr3t"
NUMBER = 987654321


@pytest.mark.parametrize(
    ("into", "body", "where"),
    [
        pytest.param(Data, [], "object", id="shape"),
        pytest.param(Data, {"name": SECRET}, "count", id="missing"),
        pytest.param(Data, {"name": SECRET, "count": SECRET}, "$.count", id="dataclass"),
        pytest.param(Typed, {"name": NUMBER, "count": 1}, "$.name", id="typed-dict"),
        pytest.param(Record, {"name": SECRET, "count": [NUMBER]}, "$.count", id="struct"),
        pytest.param(Model, {"name": SECRET, "count": SECRET}, "count", id="pydantic"),
        pytest.param(list[Data], [PLAIN, {"name": NUMBER}], "[1]", id="list"),
        pytest.param(Literal["a"], SECRET, "not valid", id="literal"),
        pytest.param(Literal["a"], f"O'{SECRET}", "not valid", id="apostrophe"),
        pytest.param(dict[int, int], {SECRET: 1}, "Expected `int`", id="key"),
        pytest.param(Card, {"colour": NUMBER}, "$.colour", id="int-enum"),
        pytest.param(Pin, {"number": NUMBER}, "$.number", id="int-literal"),
        pytest.param(Closed, {SECRET: 1}, "not valid", id="unknown-field"),
        pytest.param(Scores, {"scores": {SECRET: "x"}}, "scores", id="pydantic-key"),
        pytest.param(ClosedModel, {SECRET: 1}, "extra", id="pydantic-extra"),
    ],
)
async def test_a_body_that_does_not_fit_is_told_without_its_content(
    api: APIClient, partner: Partner, into: Any, body: Any, where: str
) -> None:
    """The error says where the body does not fit, and holds nothing of it but in ``body``."""
    partner.body = json.dumps(body).encode()
    with pytest.raises(DownstreamError) as caught:
        await api.get("me", into=into)
    error = caught.value
    assert ("partner", 200, partner.body) == (error.api, error.status_code, error.body)
    assert where in str(error)
    chain = f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
    assert [] == [word for word in (SECRET, str(NUMBER)) if word in chain]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":1}{"b":2}', b"NaN"], ids=len
)
@pytest.mark.parametrize("into", [Data, Model, list[Model], dict[str, Any]])
async def test_a_body_that_is_no_json_is_a_downstream_error(
    api: APIClient, partner: Partner, body: bytes, into: Any
) -> None:
    """Whatever an API sends, what cannot be read is a DownstreamError."""
    partner.body = body
    with pytest.raises(DownstreamError, match="does not fit"):
        await api.get("me", into=into)


@pytest.mark.parametrize("into", [Data, Record, Typed, Model, list[Model]])
@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, 10**400], ids=lambda n: f"{len(str(n))}")
async def test_a_huge_number_is_read_or_does_not_fit(
    api: APIClient, partner: Partner, into: Any, number: int
) -> None:
    """A number beyond 64 bits is no reason for an error of another kind."""
    value = {"name": "a", "count": number}
    partner.body = json.dumps([value] if into == list[Model] else value).encode()
    try:
        read = await api.get("me", into=into)
    except DownstreamError as error:
        assert "does not fit" in str(error)  # noqa: PT017
    else:
        assert str(number) in str(read)


class StrictModel(pydantic.BaseModel, strict=True):
    when: pydantic.AwareDatetime


async def test_a_strict_model_reads_json(api: APIClient, partner: Partner) -> None:
    """A pydantic model is read by its rules for JSON: a strict one takes a date as text."""
    partner.body = b'{"when": "2026-01-01T00:00:00Z"}'
    assert 2026 == (await api.get("me", into=StrictModel)).when.year


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 503])
async def test_a_failed_status_is_a_downstream_error(
    api: APIClient, partner: Partner, status: int
) -> None:
    """With ``into`` a status of 400 and above raises, and the error holds what the API said."""
    problem = {"type": "about:blank", "title": SECRET}
    partner.status, partner.body = status, json.dumps(problem).encode()
    partner.headers = {"retry_after": "7"}
    with pytest.raises(DownstreamError) as caught:
        await api.get("me", into=Data)
    error = caught.value
    assert ("partner", status, "7") == (error.api, error.status_code, error.headers["retry-after"])
    assert (partner.body, problem) == (error.body, error.problem)
    assert f"downstream API 'partner' answered with status {status}" == str(error)


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'"text"', b"", b"null"], ids=repr)
async def test_a_body_that_is_no_problem_is_kept_as_bytes(
    api: APIClient, partner: Partner, body: bytes
) -> None:
    """Only a JSON object is offered as a problem (RFC 9457)."""
    partner.status, partner.body = 404, body
    with pytest.raises(DownstreamError) as caught:
        await api.get("me", into=Data)
    assert (body, None) == (caught.value.body, caught.value.problem)


async def test_the_kept_body_is_bounded(api: APIClient, partner: Partner) -> None:
    """An error keeps the first 64 KiB of a body."""
    partner.status, partner.body = 500, b"x" * 1_000_000
    with pytest.raises(DownstreamError) as caught:
        await api.get("me", into=Data)
    assert b"x" * 65_536 == caught.value.body


async def test_without_into_no_status_raises(api: APIClient, partner: Partner) -> None:
    """A plain verb returns what came, whatever its status, as httpx does."""
    partner.status, partner.body = 503, b"busy"
    response = await api.get("me")
    assert (503, b"busy") == (response.status_code, response.content)
    with pytest.raises(httpx.HTTPStatusError):
        response.raise_for_status()


# --- Failures of the transport --------------------------------------------------------------------


def _dropped() -> Exception:
    """Return what httpx-aiohttp makes of a connection that was dropped."""
    error = httpx.ConnectTimeout("no")
    error.__cause__ = aiohttp.ServerDisconnectedError()
    return error


def _slow_connect() -> Exception:
    error = httpx.ConnectTimeout("no")
    error.__cause__ = aiohttp.ConnectionTimeoutError()
    return error


FAILURES: dict[str, tuple[Exception, type[DownstreamError]]] = {
    "read-timeout": (httpx.ReadTimeout("no"), DownstreamTimeoutError),
    "write-timeout": (httpx.WriteTimeout("no"), DownstreamTimeoutError),
    "pool-timeout": (httpx.PoolTimeout("no"), DownstreamTimeoutError),
    "connect-timeout": (httpx.ConnectTimeout("no"), DownstreamTimeoutError),
    "aiohttp-slow": (_slow_connect(), DownstreamTimeoutError),
    "aiohttp-socket": (aiohttp.SocketTimeoutError(), DownstreamTimeoutError),
    "timeout": (TimeoutError(), DownstreamTimeoutError),
    "httpx2-timeout": (httpx2.ReadTimeout("no"), DownstreamTimeoutError),
    "connect": (httpx.ConnectError("no"), DownstreamError),
    "read": (httpx.ReadError("no"), DownstreamError),
    "protocol": (httpx.RemoteProtocolError("no"), DownstreamError),
    "proxy": (httpx.ProxyError("no"), DownstreamError),
    "decoding": (httpx.DecodingError("no"), DownstreamError),
    "httpx2-connect": (httpx2.ConnectError("no"), DownstreamError),
    "aiohttp-dropped": (_dropped(), DownstreamError),
    "aiohttp-payload": (aiohttp.ClientPayloadError(), DownstreamError),
}


async def failing_api(entra: FakeEntra, error: Exception) -> APIClient:
    async def fail(request: httpx.Request) -> httpx.Response:
        raise error

    client = httpx.AsyncClient(transport=httpx.MockTransport(fail))
    return (await downstream_of(entra, {}, http_client=client))["partner"]


@pytest.mark.parametrize("what", list(FAILURES))
async def test_a_failed_transport_is_told_apart(entra: FakeEntra, what: str) -> None:
    """With ``into`` a call that took too long and one that got nowhere are two errors of ours."""
    error, expected = FAILURES[what]
    api = await failing_api(entra, error)
    with pytest.raises(DownstreamError) as caught:
        await api.get("me", into=Data)
    assert (expected, "partner", None) == (
        type(caught.value),
        caught.value.api,
        caught.value.status_code,
    )
    # the client's error knows the request, and with it the token
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


@pytest.mark.parametrize("what", list(FAILURES))
async def test_without_into_the_clients_own_error_comes(entra: FakeEntra, what: str) -> None:
    """A plain verb raises what its client raised."""
    error, _ = FAILURES[what]
    api = await failing_api(entra, error)
    with pytest.raises(type(error)) as caught:
        await api.get("me")
    assert error is caught.value


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no"), KeyError("no")], ids=repr)
async def test_a_mistake_is_no_failed_transport(entra: FakeEntra, error: Exception) -> None:
    """What is not a failed request stays what it is, also with ``into``."""
    assert failure_kind(error) is None
    with pytest.raises(type(error)):
        await (await failing_api(entra, error)).get("me", into=Data)


# --- The fence ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "arrives"),
    [
        ("users", "/v1.0/users"),
        ("/users", "/v1.0/users"),
        ("", "/v1.0"),
        ("?$top=1", "/v1.0?$top=1"),
        ("users?next=https://evil.example/../x", "/v1.0/users?next=https://evil.example/../x"),
        ("users/a%20b%2Fc", "/v1.0/users/a%20b%2Fc"),
        ("users/@evil.example", "/v1.0/users/@evil.example"),
        ("users/a:b@c", "/v1.0/users/a:b@c"),
        (":8443/users", "/v1.0/:8443/users"),
        ("users/.../x", "/v1.0/users/.../x"),
        (".well-known/x", "/v1.0/.well-known/x"),
        (f"{BASE_URL}/users?$skiptoken=x%2Fy%3D", "/v1.0/users?$skiptoken=x%2Fy%3D"),
        ("HTTPS://PARTNERAPI.EXAMPLE.COM/v1.0/users", "/v1.0/users"),
        ("https://partnerapi.example.com:443/v1.0/users", "/v1.0/users"),
        (BASE_URL, "/v1.0"),
    ],
)
async def test_a_url_below_the_base_url_arrives(
    api: APIClient, partner: Partner, url: str, arrives: str
) -> None:
    """A relative URL, and an absolute one such as a ``nextLink``, arrives below the base URL."""
    await api.get(url)
    assert arrives == partner.last.url


OUTSIDE = [
    "https://evil.example/v1.0/users",
    "https://partnerapi.example.com.evil.example/v1.0/users",
    "https://sub.partnerapi.example.com/v1.0/users",
    "https://partnerapi.example.com@evil.example/v1.0/users",
    "https://evil.example@partnerapi.example.com/v1.0/users",
    "https://user:pass@partnerapi.example.com/v1.0/users",
    "https://partnerapi.example.com:8443/v1.0/users",
    "https://partnerapi.example.com:x/v1.0/users",
    "https://[::1/v1.0/users",
    "http://partnerapi.example.com/v1.0/users",
    "http://169.254.169.254/metadata",
    "https://partnerapi.example.com/v2.0/users",
    "https://partnerapi.example.com/v1.0x",
    "https://partnerapi.example.com/",
    "https://partnerapi.example.com",
    f"{BASE_URL}/../admin",
    f"{BASE_URL}/%2e%2e/admin",
    f"{BASE_URL}/%252e%252e/admin",
    "//evil.example/users",
    "///evil.example/users",
    "\\\\evil.example\\users",
    "/\\evil.example/users",
    "https:\\\\evil.example",
    "ftp://evil.example/users",
    "file:///etc/passwd",
    "..",
    "../admin",
    "users/../../admin",
    "users/..",
    "./users",
    "users/./x",
    "%2e%2e/admin",
    "%2E./admin",
    "..%2fadmin",
    "users%2f..%2f..%2fadmin",
    "%252e%252e%252fadmin",
    "%25252e%25252e/admin",
    "..;/admin",
    "..;jsessionid=1/admin",
    "%2e%2e%3b/admin",
    "..%5cadmin",
    "users%5c..%5cadmin",
    "users%0d%0aX-Evil: 1",
    "users\r\nX-Evil: 1",
    "users\nx",
    "\tusers",
    "users\x00",
    "users%00",
    "users\x7f",
    "\nhttps://evil.example/users",
    "users#fragment",
    f"{BASE_URL}#fragment",
]


@pytest.mark.parametrize("url", OUTSIDE)
async def test_a_url_that_leaves_the_base_url_is_refused(
    entra: FakeEntra, api: APIClient, partner: Partner, evil: Partner, url: str
) -> None:
    """A URL that leads elsewhere is a ConfigurationError: nothing is sent, no token acquired."""
    for options in ({}, {"into": Data}):
        with pytest.raises(ConfigurationError):
            await api.get(url, **options)  # type: ignore[call-overload]
    assert ([], [], 0) == (partner.requests, evil.requests, entra.exchanges)


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("https://api.example.com/v1", True),
        ("https://api.example.com/v1?a=b", True),
        ("https://api.example.com/v1/me", True),
        ("https://api.example.com:443/v1/me", True),
        ("https://api.example.com/v1.evil", False),
        ("https://api.example.com/v2", False),
        ("https://api.example.com:8443/v1", False),
        ("http://api.example.com/v1", False),
        ("https://api.example.com.evil.example/v1", False),
        ("https://api.example.com@evil.example/v1", False),
    ],
)
def test_the_destination_is_compared(url: str, stays: bool) -> None:
    """A request as the client built it goes below the base URL, in whichever spelling."""
    for base in ("https://api.example.com/v1", "https://API.example.com:443/v1"):
        with contextlib.nullcontext() if stays else pytest.raises(ConfigurationError):
            check_destination(base, url)


FENCED_ENTRA = FakeEntra()
FENCED_ENTRA.add_api(PARTNER_ID, scopes=["read"])

_pieces = st.sampled_from(
    [
        *"/\\.%:?#@; \t\n\0é",
        *("..", "%2e", "%2f", "%5c", "%25", "2e", "%EF%BC%8E", "．．", "//"),
        *("users", "v1.0", "https:", "http:", "evil.example", ":443", BASE_URL, ORIGIN),
    ]
)


@settings(max_examples=200)
@given(st.lists(_pieces, max_size=8).map("".join))
async def test_no_url_gets_past_the_fence(url: str) -> None:
    """Whatever the pieces of a URL, a request arrives below the base URL or is not sent."""
    partner, evil = Partner(), Partner()
    apps = {ORIGIN: partner, EVIL: evil}
    api = (await downstream_of(FENCED_ENTRA, apps))["partner"]
    try:
        await api.get(url)
    except ConfigurationError:
        assert [] == partner.requests
    else:
        path = urlsplit(partner.last.url).path
        assert path == "/v1.0" or path.startswith("/v1.0/")
        assert {".", ".."}.isdisjoint(path.split("/"))
    assert [] == evil.requests


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        f"{EVIL}/v1.0/users",
        f"{BASE_URL}/users",
        f"{ORIGIN}:8443/v1.0/users",
        "http://partnerapi.example.com/v1.0/users",
    ],
)
async def test_no_redirect_is_followed(
    entra: FakeEntra, partner: Partner, evil: Partner, status: int, location: str
) -> None:
    """A redirect is an answer like any other, also where the client was told to follow them."""
    partner.status, partner.headers = status, {"location": location}
    apps = {
        ORIGIN: partner,
        EVIL: evil,
        f"{ORIGIN}:8443": evil,
        "http://partnerapi.example.com": evil,
    }
    client = entra.client(apps=apps, follow_redirects=True)
    downstream = await on_behalf_of(entra, client).downstream_for(entra.token())
    response = await downstream["partner"].get("me", headers={"X-Key": "1"})
    assert (status, location) == (response.status_code, response.headers["location"])
    async with downstream["partner"].stream("GET", "me") as streamed:
        assert status == streamed.status_code
    with pytest.raises(DownstreamError):
        await downstream["partner"].get("me", into=Data)
    assert (3, []) == (len(partner.requests), evil.requests)


# --- Headers that are not the caller's ------------------------------------------------------------


RESERVED = [
    "Authorization",
    "authorization",
    "AUTHORIZATION",
    "Host",
    "Cookie",
    "cookie",
    "Content-Length",
    "Transfer-Encoding",
    "Connection",
    "Keep-Alive",
    "Upgrade",
    "TE",
    "Trailer",
    "Forwarded",
    "X-Forwarded-For",
    "x-forwarded-host",
    "X-Forwarded-Client-Cert",
    "Proxy-Authorization",
    "Proxy-Connection",
    "X-MS-TOKEN-AAD-ACCESS-TOKEN",
    "x-ms-client-principal",
    "X-MS-CLIENT-PRINCIPAL-ID",
    "",
    "X Y",
    "X:Y",
    "X\r\nY",
    "X-Ä",
    "Authorization ",
]


@pytest.mark.parametrize("name", RESERVED)
async def test_a_reserved_header_is_refused(
    entra: FakeEntra, api: APIClient, partner: Partner, name: str
) -> None:
    """Neither a call nor the configuration sets headers of the protocol, of proxies or of ours."""
    with pytest.raises(ConfigurationError, match="header"):
        await api.get("me", headers={name: "x"})
    with pytest.raises(ConfigurationError, match="header"):
        partner_api(headers={name: "x"})
    assert ([], 0) == (partner.requests, entra.exchanges)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0b", "\r", 7, None, b"bytes"], ids=repr)
async def test_a_header_value_of_several_lines_is_refused(
    entra: FakeEntra, api: APIClient, partner: Partner, value: Any
) -> None:
    """A header's value is one line of text, in a call as in the configuration."""
    with pytest.raises(ConfigurationError, match="header"):
        partner_api(headers={"X-A": value})
    with pytest.raises(ConfigurationError, match="header"):
        await api.get("me", headers={"X-A": value})
    assert ([], 0) == (partner.requests, entra.exchanges)


CLIENTS: dict[str, dict[str, Any]] = {
    "auth": {"auth": ("u", "p")},
    "auth-header": {"headers": {"Authorization": "Basic dTpw"}},
    "two-auth-headers": {"headers": [("Authorization", "a"), ("authorization", "b")]},
    "cookie-header": {"headers": {"Cookie": "a=b"}},
    "cookies": {"cookies": {"a": "b"}},
    "all": {"auth": ("u", "p"), "headers": {"Cookie": "a=b"}, "cookies": {"c": "d"}},
}


@pytest.mark.parametrize("what", list(CLIENTS))
@pytest.mark.parametrize("place", ["for-all", "for-one"])
async def test_a_clients_own_credentials_do_not_go(
    entra: FakeEntra, partner: Partner, what: str, place: str
) -> None:
    """What a client was built with as credentials never rides along: our bearer alone goes."""
    client = entra.client(apps={ORIGIN: partner}, **CLIENTS[what])
    obo = (
        on_behalf_of(entra, client)
        if place == "for-all"
        else on_behalf_of(entra, entra.client(), http_client=client)
    )
    api = (await obo.downstream_for(entra.token()))["partner"]
    token = (await api.acquire_token()).token
    await api.get("me")
    async with api.stream("GET", "me"):
        pass
    sent = [(r.values("authorization"), r.values("cookie")) for r in partner.requests]
    assert [([f"Bearer {token}"], [])] * 2 == sent


async def test_entra_gets_no_credential_of_the_client_either(entra: FakeEntra) -> None:
    """Requests to the token endpoint carry neither the client's ``auth`` nor its cookies."""
    client = entra.client(auth=("u", "p"), cookies={"a": "b"}, headers={"Cookie": "c=d"})
    await (await on_behalf_of(entra, client).downstream_for(entra.token()))[
        "tokens"
    ].acquire_token()
    headers = entra.requests[0].headers
    assert set() == {"cookie", "authorization"} & set(headers)


async def test_the_incoming_token_stays_with_us(entra: FakeEntra, partner: Partner) -> None:
    """The caller's own token goes to Entra as the assertion, and to nobody else."""
    incoming = entra.token()
    obo = on_behalf_of(entra, entra.client(apps={ORIGIN: partner}))
    api = (await obo.downstream_for(incoming))["partner"]
    await api.get("me", params={"q": "1"})
    await api.post("me", json=PLAIN)
    async with api.stream("GET", "me"):
        pass
    assert [incoming] == [request.form["assertion"] for request in entra.requests]
    assert [] == [r for r in partner.requests if incoming.split(".")[2] in repr(r)]
    assert {3} == {len(partner.requests)}


# --- Streams --------------------------------------------------------------------------------------


async def test_a_stream_is_read_as_it_comes(entra: FakeEntra) -> None:
    """A part of an answer can be read before the API has sent the next one."""
    gate = asyncio.Event()

    async def chunks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await asyncio.wait_for(gate.wait(), 1)
        await send({"type": "http.response.body", "body": b"two"})

    api = (await downstream_of(entra, {ORIGIN: chunks}))["partner"]
    read = []
    async with api.stream("GET", "events", params={"since": "1"}) as response:
        async for chunk in response.aiter_raw():
            read.append(chunk)
            gate.set()
    assert [b"one", b"two"] == [chunk for chunk in read if chunk]
    assert response.is_closed


async def test_a_stream_is_closed_when_its_block_is_left(api: APIClient, partner: Partner) -> None:
    """A stream that is left by an error is closed all the same."""
    with pytest.raises(LookupError):
        async with api.stream("POST", "events", json=PLAIN) as response:
            raise LookupError
    assert response.is_closed
    assert PLAIN == json.loads(partner.last.body)


# --- Users and clients ----------------------------------------------------------------------------


async def test_two_users_interleaved_get_their_own_answers(entra: FakeEntra) -> None:
    """A thousand calls each, all at once, cost one exchange a user and are never mixed up."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body = dict(scope["headers"])[b"authorization"]
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    obo = on_behalf_of(entra, entra.client(apps={ORIGIN: echo}))
    users = {name: entra.token(name) for name in ("alice", "bob")}

    async def call(name: str) -> tuple[str, str]:
        downstream = await obo.downstream_for(users[name])
        response = await downstream["partner"].get(f"me/{name}")
        return name, response.text

    answers = await asyncio.gather(*(call(name) for _ in range(1000) for name in users))
    expected = {
        (name, await (await obo.downstream_for(token))["partner"].authorization_header())
        for name, token in users.items()
    }
    assert expected == set(answers)
    assert (2, 2) == (len({header for _, header in expected}), entra.exchanges)


async def cookie_setter(scope: Any, receive: Any, send: Any) -> None:
    """Set cookies at ``/login``; answer with the cookies that came."""
    assert scope["type"] == "http"
    headers = [(b"x-cookies", value) for name, value in scope["headers"] if name == b"cookie"]
    if scope["path"] == "/login":
        headers += [
            (b"set-cookie", b"session=alice; Path=/"),
            (b"set-cookie", b"also=alice; Path=/; Max-Age=3600; Secure; HttpOnly"),
            (b"set-cookie", b"third=alice; Domain=localhost; Path=/"),
        ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def _httpx(context: ssl.SSLContext) -> Any:
    return httpx.AsyncClient(verify=context)


def _httpx_with_jar(context: ssl.SSLContext) -> Any:
    return httpx.AsyncClient(verify=context, cookies=httpx.Cookies({"own": "cookie"}))


def _httpx2(context: ssl.SSLContext) -> Any:
    return httpx2.AsyncClient(verify=context)


def _aiohttp(context: ssl.SSLContext) -> Any:
    return httpx.AsyncClient(
        transport=AiohttpTransport(
            client=lambda: aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(ssl=context)
            )
        )
    )


def _default(context: ssl.SSLContext) -> Any:
    return None


Engine = Callable[[ssl.SSLContext], Any]


@pytest.mark.parametrize("engine", [_httpx, _httpx_with_jar, _httpx2, _aiohttp, _default])
async def test_a_cookie_of_alice_never_reaches_bob(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    """No cookie survives an answer, on any engine, over real connections that are kept alive."""
    with entra.serve() as sign_in, serve(cookie_setter) as server:
        monkeypatch.setenv("SSL_CERT_FILE", sign_in.ca_file)
        client = engine(ssl.create_default_context(cafile=sign_in.ca_file))
        own = client and dict(client.cookies)
        async with on_behalf_of(entra, client, base_url=server.url) as obo:
            alice, bob = [
                (await obo.downstream_for(entra.token(name)))["partner"]
                for name in ("alice", "bob")
            ]
            login = await alice.get("login")
            answers = [await api.get("me") for api in (alice, bob, alice)]
            async with bob.stream("GET", "login"):
                pass
            answers.append(await alice.get("me"))
        if client is not None:
            assert own == dict(client.cookies)
            await client.aclose()
    assert 3 == len(login.headers.get_list("set-cookie"))
    assert {"session", "also", "third"} == set(
        SimpleCookie("; ".join(login.headers.get_list("set-cookie")))
    )
    assert [[]] * 4 == [answer.headers.get_list("x-cookies") for answer in answers]


async def test_a_plain_client_would_have_carried_the_cookie() -> None:
    """Without us httpx sends one user's cookie with the next request: the server above shows it."""
    with serve(cookie_setter) as server:
        async with _httpx(ssl.create_default_context(cafile=server.ca_file)) as client:
            await client.get(f"{server.url}/login")
            assert "session=alice" in (await client.get(f"{server.url}/me")).headers["x-cookies"]


def _session_with_cookies() -> AiohttpTransport:
    return AiohttpTransport(client=aiohttp.ClientSession())


def _factory_with_cookies() -> AiohttpTransport:
    return AiohttpTransport(client=aiohttp.ClientSession)


LIVE_JARS: dict[str, Callable[[], httpx.AsyncClient]] = {
    "none-given": lambda: httpx.AsyncClient(transport=AiohttpTransport()),
    "session": lambda: httpx.AsyncClient(transport=_session_with_cookies()),
    "factory": lambda: httpx.AsyncClient(transport=_factory_with_cookies()),
    "mount": lambda: httpx.AsyncClient(mounts={"https://": _factory_with_cookies()}),
}


@pytest.mark.parametrize("what", list(LIVE_JARS))
@pytest.mark.parametrize("place", ["for-all", "for-one"])
async def test_a_live_cookie_jar_of_aiohttp_is_refused(
    entra: FakeEntra, what: str, place: str
) -> None:
    """A client over an aiohttp session that stores cookies is refused at open, with what to do."""
    client = LIVE_JARS[what]()
    obo = (
        on_behalf_of(entra, client)
        if place == "for-all"
        else on_behalf_of(entra, entra.client(), http_client=client)
    )
    with pytest.raises(ConfigurationError, match="DummyCookieJar"):
        await obo.open()
    with pytest.raises(ConfigurationError, match="DummyCookieJar"):
        await obo.verify(entra.token())
    assert {} == entra.counts
    await client.aclose()


class Minimal:
    """A client that is nothing but the three methods that are needed of one."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.build_request = client.build_request
        self.send = client.send
        self.aclose = client.aclose


async def test_three_methods_make_a_client(entra: FakeEntra, partner: Partner) -> None:
    """`build_request`, `send` and `aclose` are all that is asked of a client."""
    client = Minimal(entra.client(apps={ORIGIN: partner}, cookies={"a": "b"}))
    api = (await on_behalf_of(entra, client).downstream_for(entra.token()))["partner"]
    assert {} == await api.get("me", into=dict[str, Any])
    assert [] == partner.last.values("cookie")


class Rewriting(httpx.AsyncClient):
    """A client that sends requests where it wants."""

    target = ""

    def build_request(self, method: str, url: Any, **options: Any) -> httpx.Request:
        return super().build_request(method, self.target, **options)


@pytest.mark.parametrize(
    "target", [f"{EVIL}/v1.0/me", f"{ORIGIN}/admin", f"{ORIGIN}/v1.0x", f"{BASE_URL}/../admin"]
)
async def test_a_client_that_builds_another_url_gets_no_token(
    entra: FakeEntra, target: str
) -> None:
    """The fence is checked once more on the request as the client built it."""
    client = Rewriting(transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    client.target = target
    api = (await downstream_of(entra, {}, http_client=client))["partner"]
    with pytest.raises(ConfigurationError, match="leave the base URL"):
        await api.get("me")
    assert 0 == entra.exchanges


@asynccontextmanager
async def connected(
    engine: Engine, url: str, entra: FakeEntra, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[APIClient]:
    """Give the API at a URL, called over an engine and real connections."""
    with entra.serve() as sign_in:
        monkeypatch.setenv("SSL_CERT_FILE", sign_in.ca_file)
        client = engine(ssl.create_default_context(cafile=sign_in.ca_file))
        async with on_behalf_of(entra, client, base_url=url) as obo:
            yield (await obo.downstream_for(entra.token()))["partner"]
        if client is not None:
            await client.aclose()


ENGINES = [_httpx, _httpx2, _aiohttp, _default]


@pytest.mark.parametrize("engine", ENGINES)
async def test_every_engine_serves_the_same(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    """Bodies, streams, statuses and time-outs are the same on httpx, httpx2, aiohttp and ours."""
    partner = Partner(body=json.dumps(PLAIN).encode())
    with serve(partner, tls=False) as server:
        async with connected(engine, server.url, entra, monkeypatch) as api:
            assert Data(**PLAIN) == await api.get("me", into=Data)
            assert Record(**PLAIN) == await api.post("me", json=Model(**PLAIN), into=Record)
            assert PLAIN == json.loads(partner.last.body)
            async with api.stream("GET", "me", params={"q": "a b"}) as response:
                assert PLAIN == json.loads(b"".join([part async for part in response.aiter_raw()]))
            with pytest.raises(DownstreamTimeoutError):
                await api.get("slow", timeout=0.1, into=Data)
            partner.status = 404
            with pytest.raises(DownstreamError, match="status 404"):
                await api.delete("me", into=Data)
    assert {1} == {len(request.values("authorization")) for request in partner.requests}


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_upload_is_sent_as_it_comes(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    """The API has the first part of a body before the second one is made, and then the whole."""
    received: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        more = True
        while more:
            message = await receive()
            received.append(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(b"".join(received))})

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        async with asyncio.timeout(5):
            while b"one" not in received:
                await asyncio.sleep(0.01)
        yield b"x" * 1_000_000

    with serve(app, tls=False) as server:
        async with connected(engine, server.url, entra, monkeypatch) as api:
            assert 1_000_003 == await api.put("file", content=chunks(), into=int)
    assert b"one" + b"x" * 1_000_000 == b"".join(received)


async def test_httpx2_gives_its_own_responses(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``into`` a response is of the class of the client's library."""
    with serve(Partner(), tls=False) as server:
        async with connected(_httpx2, server.url, entra, monkeypatch) as api:
            response: object = await api.get("me")
    assert isinstance(response, httpx2.Response)


async def test_the_default_client_tells_failures_apart(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over our own engine a refused connection, a dropped one and a slow one are what they are."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/slow":
            await asyncio.sleep(0.5)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]}
        )
        await send({"type": "http.response.body", "body": b"{}"})

    outcomes: list[type] = []
    with entra.serve() as sign_in:
        monkeypatch.setenv("SSL_CERT_FILE", sign_in.ca_file)
        with serve(app, tls=False) as server:
            obo = on_behalf_of(entra, base_url=server.url, timeout=0.2)
            api = (await obo.downstream_for(entra.token()))["partner"]
            for path in ("slow", "dropped"):
                with pytest.raises(DownstreamError) as caught:
                    await api.get(path, into=Data)
                outcomes.append(type(caught.value))
        with pytest.raises(DownstreamError) as caught:
            await api.get("refused", into=Data)
        outcomes.append(type(caught.value))
        await obo.aclose()
    assert [DownstreamTimeoutError, DownstreamError, DownstreamError] == outcomes


async def test_the_default_client_leaves_urls_alone(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opaque URL such as a ``nextLink`` arrives byte for byte as it was given."""
    partner = Partner()
    url = "/files/it%27s%40home?%24skiptoken=a%2Fb%2Bc&sig=%7Ex"
    with entra.serve() as sign_in, serve(partner, tls=False) as server:
        monkeypatch.setenv("SSL_CERT_FILE", sign_in.ca_file)
        async with on_behalf_of(entra, base_url=server.url) as obo:
            await (await obo.downstream_for(entra.token()))["partner"].get(url)
    assert url == partner.last.url


async def test_a_first_rush_opens_one_client(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many requests come first, they share one opening, one fetch and one exchange."""
    partner = Partner()
    with entra.serve() as sign_in, serve(partner, tls=False) as server:
        monkeypatch.setenv("SSL_CERT_FILE", sign_in.ca_file)
        async with on_behalf_of(entra, base_url=server.url) as obo:
            token = entra.token()

            async def call() -> int:
                downstream = await obo.downstream_for(token)
                return (await downstream["partner"].get("me")).status_code

            assert [200] * 50 == await asyncio.gather(*(call() for _ in range(50)))
            await obo.open()
    counts = {name: entra.counts[name] for name in ("keys", "on_behalf_of")}
    assert {"keys": 1, "on_behalf_of": 1} == counts


def test_one_object_serves_several_loops(entra: FakeEntra, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event loop gets a client of its own; tokens are shared by all of them."""
    partner = Partner()

    async def use(obo: OnBehalfOf, token: str) -> int:
        async with obo:
            response = await (await obo.downstream_for(token))["partner"].get("me")
        return response.status_code

    with entra.serve() as sign_in, serve(partner, tls=False) as server:
        monkeypatch.setenv("SSL_CERT_FILE", sign_in.ca_file)
        obo, token = on_behalf_of(entra, base_url=server.url), entra.token()
        assert [200, 200] == [asyncio.run(use(obo, token)) for _ in range(2)]
    assert 1 == entra.exchanges


async def test_a_body_given_twice_is_a_type_error(api: APIClient, partner: Partner) -> None:
    """``json=`` and another body exclude each other; neither is dropped silently."""
    with pytest.raises(TypeError, match="given twice"):
        await api.post("me", json={}, content=b"{}")
    assert [] == partner.requests


async def test_no_json_is_no_body(api: APIClient, partner: Partner) -> None:
    """``json=None`` sends no body, as with httpx."""
    await api.post("me", json=None)
    assert b"" == partner.last.body
