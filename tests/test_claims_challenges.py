"""Continuous access evaluation: a refused token is met once with a new one, then the user is asked.

The downstream API here takes request bodies off the wire, as a network does: what was a stream is
gone once it has been sent.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from obo_asgi import (
    APIClient,
    DownstreamAPI,
    DownstreamError,
    InteractionRequiredError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    TokenAcquisitionError,
    downstream_from,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.challenges import Challenge, encode_claims, parse_challenge, raise_for_challenge
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

PARTNER = "https://partner.example.com"
SCOPE = "api://partner/read"
OWN_PAGE = "https://login.microsoftonline.com/common/oauth2/v2.0/authorize?client_id=partner"

NEWER = '{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}'
"""What Entra grants to every user: a token that was issued later."""
EVEN_NEWER = '{"access_token":{"nbf":{"essential":true,"value":"1700000001"}}}'
STRONGER = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'
"""What Entra grants only after a second factor."""


def bearer(error: str = "insufficient_claims", **parameters: str) -> str:
    return "Bearer " + ", ".join(
        f'{name}="{value}"' for name, value in {"error": error, **parameters}.items()
    )


def demanding(claims: str, **parameters: str) -> str:
    return bearer(claims=encode_claims(claims), **parameters)


@dataclass
class Arrived:
    """A request as it came over the wire."""

    method: str
    token: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Body(httpx.AsyncByteStream):
    """An answer's body that has not been read, and knows whether its connection is free again."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content

    async def aclose(self) -> None:
        self.closed = True


class Partner(httpx.AsyncBaseTransport):
    """A downstream API that demands claims of some tokens, or of all."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.refuses_all = False
        self.challenges = [demanding(NEWER)]
        self.refusal = b""
        self.arrived: list[Arrived] = []
        self.answers: list[Body] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = b"".join([chunk async for chunk in request.stream])
        token = request.headers["Authorization"].removeprefix("Bearer ")
        headers = [pair for pair in request.headers.raw if pair[0].lower() != b"authorization"]
        self.arrived.append(Arrived(request.method, token, headers, body))
        await asyncio.sleep(0)
        if self.refuses_all or token in self.revoked:
            challenge = self.challenges[min(len(self.arrived), len(self.challenges)) - 1]
            return self._answer(401, self.refusal, {"WWW-Authenticate": challenge})
        return self._answer(200, b'"fine"', {})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> httpx.Response:
        self.answers.append(Body(content))
        headers = {"Content-Type": "application/json", **headers}
        return httpx.Response(status, headers=headers, stream=self.answers[-1])

    @property
    def tokens(self) -> list[str]:
        return [request.token for request in self.arrived]


Call = Callable[[APIClient], Awaitable[object]]


async def typed(api: APIClient) -> None:
    assert "fine" == json.loads(await api.get("data", into=bytes))


async def native(api: APIClient) -> None:
    (await api.get("data")).raise_for_status()


async def asked(api: APIClient) -> None:
    raise_for_challenge(await api.get("data"))


async def streamed(api: APIClient) -> None:
    async with api.stream("GET", "data") as response:
        response.raise_for_status()
        assert b'"fine"' == await response.aread()


async def streamed_and_asked(api: APIClient) -> None:
    async with api.stream("GET", "data") as response:
        raise_for_challenge(response)


CALLS = [typed, native, asked, streamed, streamed_and_asked]


class World:
    """FakeEntra, the partner, and an API that calls it."""

    def __init__(self) -> None:
        self.entra = FakeEntra()
        self.entra.add_api("api://partner", scopes=["read", "write"])
        self.partner = Partner()
        api = DownstreamAPI(
            base_url=PARTNER,
            scopes=[SCOPE],
            http_client=httpx.AsyncClient(transport=self.partner),
        )
        self._obo = OnBehalfOf(
            self.entra.registration(),
            downstream={"partner": api},
            http_client=self.entra.client(),
        )

    async def api(self) -> APIClient:
        return (await self._obo.downstream_for(self.entra.token()))["partner"]

    async def request(self, call: Call) -> httpx.Response:
        """Call our API, whose handler makes this call and catches nothing."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await call(downstream_from(scope)["partner"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        transport = httpx.ASGITransport(OnBehalfOfMiddleware(app, self._obo))
        async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
            return await client.get("/", headers=self.entra.bearer())

    async def challenge(self, call: Call) -> Challenge:
        response = await self.request(call)
        challenge = parse_challenge(response)
        assert 401 == response.status_code
        assert challenge is not None
        return challenge

    @property
    def demanded(self) -> list[list[str]]:
        """The claims of each exchange, without the capabilities that we always declare."""
        claims = [json.loads(request.claims or "{}") for request in self.entra.requests]
        return [sorted({*each.get("access_token", {})} - {"xms_cc"}) for each in claims]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def partner(world: World) -> Partner:
    return world.partner


@pytest.fixture
async def api(world: World) -> APIClient:
    return await world.api()


async def revoke(api: APIClient, partner: Partner) -> str:
    """Let the partner refuse the token that is in use, and return it."""
    token = (await api.acquire_token()).token
    partner.revoked.add(token)
    return token


# --- Met unnoticed --------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
async def test_a_claims_challenge_is_met_unnoticed(
    world: World, api: APIClient, partner: Partner, call: Call
) -> None:
    """One new exchange with the demanded claims, one more request, and the call succeeds."""
    old = await revoke(api, partner)
    await call(api)

    assert ([old, partner.tokens[1]], True) == (partner.tokens, old != partner.tokens[1])
    assert [[], ["nbf"]] == world.demanded


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete", "head", "options"])
async def test_every_verb_is_repeated_once(api: APIClient, partner: Partner, verb: str) -> None:
    """The request that is repeated has the same method."""
    await revoke(api, partner)
    response = await getattr(api, verb)("data")

    assert 200 == response.status_code
    assert [verb.upper()] * 2 == [request.method for request in partner.arrived]


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({}, b""),
        ({"content": b"\x00\xff\r\n"}, b"\x00\xff\r\n"),
        ({"content": "Zoë"}, "Zoë".encode()),
        ({"json": {"name": "Zoë"}}, '{"name":"Zoë"}'.encode()),
        ({"json": b'{ "name" : 1 }'}, b'{ "name" : 1 }'),
        ({"data": {"a": "b c", "d": ["1", "2"]}}, b"a=b+c&d=1&d=2"),
    ],
)
async def test_a_body_is_repeated_byte_for_byte(
    api: APIClient, partner: Partner, options: dict[str, Any], body: bytes
) -> None:
    """Bytes, text, JSON and form fields arrive twice, with the same headers."""
    await revoke(api, partner)
    response = await api.post("data", **options)
    first, second = partner.arrived

    assert (200, body, body) == (response.status_code, first.body, second.body)
    assert first.headers == second.headers


async def test_the_scopes_of_a_call_are_kept(
    world: World, api: APIClient, partner: Partner
) -> None:
    """The new exchange is for the scopes of the refused call."""
    scopes = ["api://partner/write"]
    partner.revoked.add((await api.acquire_token(scopes)).token)
    await api.get("data", into=str, scopes=scopes)

    asked_for = [(request.scope or "").split() for request in world.entra.requests]
    assert [True, True] == ["api://partner/write" in each for each in asked_for]


async def test_many_calls_with_one_refused_token_make_one_exchange(
    world: World, api: APIClient, partner: Partner
) -> None:
    """However many requests meet the refusal at once, all of them go on with one new token."""
    old = await revoke(api, partner)
    await asyncio.gather(*(typed(api) for _ in range(20)))

    assert [old] * 20 == partner.tokens[:20]
    assert 1 == len(set(partner.tokens[20:]))
    assert (40, [[], ["nbf"]]) == (len(partner.arrived), world.demanded)


async def test_a_refused_answer_frees_its_connection(api: APIClient, partner: Partner) -> None:
    """The answer that nobody sees is closed before the request is repeated."""
    await revoke(api, partner)
    async with api.stream("GET", "data"):
        assert [True, False] == [body.closed for body in partner.answers]
    assert [True, True] == [body.closed for body in partner.answers]


# --- Which token for whom -------------------------------------------------------------------------


async def test_a_token_for_claims_serves_nothing_else(world: World, api: APIClient) -> None:
    """Requests without claims, with these, and with others have a token each, which is kept."""
    demands = [None, NEWER, EVEN_NEWER]
    tokens = [(await api.acquire_token(claims=claims)).token for claims in demands]
    again = [(await api.acquire_token(claims=claims)).token for claims in reversed(demands)]

    assert (3, tokens) == (len(set(tokens)), again[::-1])
    assert [[], ["nbf"], ["nbf"]] == world.demanded


async def test_a_plain_request_after_it_has_a_plain_token(
    world: World, api: APIClient, partner: Partner
) -> None:
    """The refused token is never sent again, and the one for claims serves no plain request."""
    await revoke(api, partner)
    await typed(api)
    await typed(api)

    assert (3, 3) == (len(partner.tokens), len(set(partner.tokens)))
    assert [[], ["nbf"], []] == world.demanded


async def test_a_newer_plain_token_stays(world: World, api: APIClient, partner: Partner) -> None:
    """A late refusal of an old token does not cost the token that has taken its place."""
    await revoke(api, partner)
    async with api.stream("GET", "data"):
        newer = (await api.acquire_token()).token
    partner.arrived.clear()
    await typed(api)

    assert [newer] == partner.tokens


async def test_a_refused_token_for_claims_is_not_sent_again(
    api: APIClient, partner: Partner
) -> None:
    """What the API refused is acquired anew, also where it was exchanged for its claims."""
    partner.refuses_all = True
    for _ in range(2):
        with pytest.raises(InteractionRequiredError):
            await typed(api)

    assert 4 == len(set(partner.tokens))


# --- Handed on ------------------------------------------------------------------------------------


async def test_it_never_loops(world: World, api: APIClient, partner: Partner) -> None:
    """An API that always refuses gets two requests, and the caller the error with its claims."""
    partner.refuses_all = True
    with pytest.raises(InteractionRequiredError) as caught:
        await api.post("data", json={}, into=str)

    assert NEWER == caught.value.claims_challenge
    assert (2, [[], ["nbf"]]) == (len(partner.arrived), world.demanded)


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_hands_the_same_challenge_on(
    world: World, partner: Partner, call: Call
) -> None:
    """Typed, native, streamed: without any error handling our caller gets a 401 with the claims."""
    partner.refuses_all = True
    challenge = await world.challenge(call)

    assert ("insufficient_claims", NEWER) == (challenge.error, challenge.claims)
    assert (2, None) == (len(partner.arrived), challenge.consent_uri)


async def test_a_native_answer_can_be_looked_at(api: APIClient, partner: Partner) -> None:
    """Without ``into=`` the second 401 is returned as any status is."""
    partner.refuses_all = True
    response = await api.get("data")
    challenge = parse_challenge(response)

    assert (401, 2) == (response.status_code, len(partner.arrived))
    assert challenge is not None
    assert NEWER == challenge.claims


async def test_other_claims_the_second_time_are_handed_on(world: World, partner: Partner) -> None:
    """An API that raises its demand is not followed; the caller hears the last one."""
    partner.refuses_all = True
    partner.challenges = [demanding(NEWER), demanding(EVEN_NEWER)]

    assert EVEN_NEWER == (await world.challenge(typed)).claims
    assert 2 == len(partner.arrived)


async def chunks() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


async def upload_typed(api: APIClient) -> None:
    await api.post("data", content=chunks(), into=bytes)


async def upload_native(api: APIClient) -> None:
    (await api.post("data", content=chunks())).raise_for_status()


async def upload_streamed(api: APIClient) -> None:
    async with api.stream("POST", "data", content=chunks()) as response:
        response.raise_for_status()


@pytest.mark.parametrize("call", [upload_typed, upload_native, upload_streamed])
async def test_a_stream_is_not_sent_twice(world: World, partner: Partner, call: Call) -> None:
    """A body that is gone after one request goes out once, and its challenge is handed on."""
    partner.refuses_all = True

    assert NEWER == (await world.challenge(call)).claims
    assert [b"onetwo"] == [request.body for request in partner.arrived]
    assert [[]] == world.demanded


async def test_a_token_refused_for_a_stream_is_dropped(api: APIClient, partner: Partner) -> None:
    """When the caller sends a stream anew, it goes out with a new token."""
    old = await revoke(api, partner)
    with pytest.raises(InteractionRequiredError):
        await upload_typed(api)
    await upload_typed(api)

    assert [True, False] == [token == old for token in partner.tokens]


async def test_an_upload_arrives_whole_or_not_at_all(api: APIClient, partner: Partner) -> None:
    """A multipart body that is repeated is the same; one that cannot be is not sent cut off."""
    await revoke(api, partner)
    await api.post("data", files={"file": ("a.txt", b"content")})

    assert {True} == {b"content" in request.body for request in partner.arrived}
    assert 1 == len({request.body for request in partner.arrived})


@pytest.mark.parametrize("call", CALLS)
async def test_what_only_the_user_can_do_is_handed_on(
    world: World, partner: Partner, call: Call
) -> None:
    """Where Entra refuses the claims, our caller gets them; the second factor then completes it."""
    partner.refuses_all = True
    partner.challenges = [demanding(STRONGER)]
    challenge = await world.challenge(call)

    assert ("insufficient_claims", (SCOPE,)) == (challenge.error, challenge.scopes)
    assert challenge.claims is not None
    assert json.loads(STRONGER) == json.loads(challenge.claims)
    assert (1, [[], ["acrs"]]) == (len(partner.arrived), world.demanded)

    world.entra.complete_mfa("alice")
    partner.refuses_all = False
    assert 200 == (await world.request(call)).status_code


async def test_entras_own_demand_is_added(world: World, api: APIClient, partner: Partner) -> None:
    """What the API demands and what Entra demands besides are asked for together."""
    await revoke(api, partner)
    world.entra.fail(50076)
    with pytest.raises(InteractionRequiredError) as caught:
        await typed(api)
    claims = json.loads(caught.value.claims_challenge or "{}")["access_token"]

    assert {"nbf", "capolids"} == claims.keys()
    assert (caught.value.authorization_uri or "").startswith(world.entra.authority)


@pytest.mark.parametrize("aadsts", [50076, 50173, 70000])
async def test_the_apis_claims_stay_where_entra_names_none(
    world: World, api: APIClient, partner: Partner, aadsts: int
) -> None:
    """A refusal of Entra's without claims, or of the caller's token, leaves the API's demand."""
    await revoke(api, partner)
    world.entra.fail(aadsts, claims="")
    with pytest.raises(InteractionRequiredError) as caught:
        await typed(api)

    assert NEWER == caught.value.claims_challenge


async def test_trouble_of_entras_stays_what_it_is(
    world: World, api: APIClient, partner: Partner
) -> None:
    """Where no token can be had now, the user is not asked for anything."""
    await revoke(api, partner)
    world.entra.throttle("alice", retry_after=9)
    with pytest.raises(TokenAcquisitionError) as caught:
        await typed(api)

    assert (TokenAcquisitionError, 9) == (type(caught.value), caught.value.retry_after)


@pytest.mark.parametrize(
    "challenge",
    [
        bearer("invalid_token", claims=encode_claims(NEWER)),
        bearer("insufficient_claims", claims="%%%"),
        bearer("insufficient_claims", claims=b64encode(b'"text"').decode()),
        bearer("insufficient_claims"),
        "PoP " + demanding(NEWER).removeprefix("Bearer "),
    ],
    ids=["other error", "no base64", "no object", "no claims", "other scheme"],
)
async def test_what_is_no_claims_challenge_is_not_retried(
    world: World, api: APIClient, partner: Partner, challenge: str
) -> None:
    """Any other 401 costs one request and no exchange, and the token stays."""
    old = await revoke(api, partner)
    partner.challenges = [challenge]
    with pytest.raises((InteractionRequiredError, DownstreamError)):
        await typed(api)

    assert ([old], 1) == (partner.tokens, world.entra.exchanges)
    assert old == (await api.acquire_token()).token


# --- Pages ----------------------------------------------------------------------------------------

EVIL_PAGES = [
    "https://evil.example/consent",
    "https://evil.example/login.microsoftonline.com",
    "https://login.microsoftonline.com.evil.example/",
    "https://login.microsoftonline.com@evil.example/",
    "https://login.microsoftonline.com:8443/evil.example",
    "http://login.microsoftonline.com/evil.example",
    "//evil.example/",
    "javascript:alert('evil.example')",
    "https://evil.example\\@login.microsoftonline.com/",
    "https://[evil.example",
]


@pytest.mark.parametrize(
    ("page", "call"),
    [*((page, typed) for page in EVIL_PAGES), *((EVIL_PAGES[0], call) for call in CALLS[1:])],
)
@pytest.mark.parametrize("place", ["header", "body"])
async def test_a_page_elsewhere_is_not_passed_on(
    world: World, partner: Partner, page: str, call: Call, place: str
) -> None:
    """An API cannot send our users elsewhere, whichever way a browser reads its URL."""
    partner.refuses_all = True
    if place == "header":
        quoted = page.replace("\\", "\\\\")
        pages = {"consent_uri": quoted, "authorization_uri": quoted}
        partner.challenges = [demanding(NEWER, **pages)]
    else:
        partner.refusal = json.dumps({"consent_uri": page}).encode()
    response = await world.request(call)

    assert 401 == response.status_code
    assert "evil.example" not in f"{response.headers} {response.text}"


async def test_a_page_of_the_sign_in_service_is_passed_on(world: World, partner: Partner) -> None:
    """The page on which the user consents for the partner reaches our caller as it is."""
    partner.refuses_all = True
    partner.challenges = [bearer("consent_required", consent_uri=OWN_PAGE, scope="api://c/read")]
    challenge = await world.challenge(typed)

    assert ("consent_required", OWN_PAGE) == (challenge.error, challenge.consent_uri)
    assert (("api://c/read",), 1) == (challenge.scopes, len(partner.arrived))
