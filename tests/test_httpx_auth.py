"""A user's token for a client of one's own, of httpx and of httpx2: ``auth=downstream[…].auth``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import httpx
import httpx2
import pytest

from obo_asgi import (
    ConfigurationError,
    Downstream,
    DownstreamAPI,
    InteractionRequiredError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.challenges import encode_claims, parse_challenge, raise_for_challenge
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

PARTNER = "https://partner.example.com"
BASE_URL = f"{PARTNER}/v1"
EVIL = "https://evil.example"

NEWER = '{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}'
"""What Entra grants to every user: a token that was issued later."""
STRONGER = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'
"""What Entra grants only after a second factor."""


class Partner:
    """What a client of either library sends over: it takes bodies off the wire, as a network does.

    It demands claims of the tokens that are revoked; ``/status/<n>`` answers with a status,
    ``/late`` never, and ``/away`` sends the client elsewhere.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self.revoked: set[str] = set()
        self.refuses_all = False
        self.claims = NEWER
        self.tokens: list[str] = []
        self.ids: list[str | None] = []
        self.bodies: list[bytes] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Nothing is open."""

    async def handle_async_request(self, request: Any) -> Any:
        self.bodies.append(b"".join([chunk async for chunk in request.stream]))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.tokens.append(token)
        self.ids.append(request.headers.get("client-request-id"))
        await asyncio.sleep(0)
        if self.refuses_all or token in self.revoked:
            claims = encode_claims(self.claims)
            challenge = f'Bearer error="insufficient_claims", claims="{claims}"'
            return self._answer(401, {"WWW-Authenticate": challenge})
        if request.url.path == "/v1/late":
            raise self._library.ReadTimeout("late", request=request)
        if request.url.path == "/v1/away":
            return self._answer(307, {"Location": f"{EVIL}/v1/data"})
        _, is_status, status = request.url.path.partition("/status/")
        return self._answer(int(status) if is_status else 200, {})

    def _answer(self, status: int, headers: dict[str, str]) -> Any:
        async def content() -> AsyncIterator[bytes]:
            yield b"fine"

        return self._library.Response(status, headers=headers, content=content())


Call = Callable[[Any], Awaitable[object]]


class World:
    """FakeEntra, the partner, and an API whose handlers call it with a client of their own."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.entra = FakeEntra()
        self.entra.add_api("api://partner", scopes=["read"])
        self.partner = Partner(library)
        self._obo = OnBehalfOf(
            self.entra.registration(),
            downstream={
                "partner": DownstreamAPI(base_url=BASE_URL, scopes=["api://partner/read"]),
                "tokens": DownstreamAPI(scopes=["api://partner/read"]),
            },
            http_client=self.entra.client(),
        )

    async def downstream(self, user: str = "alice") -> Downstream:
        return await self._obo.downstream_for(self.entra.token(user))

    def client(self, downstream: Downstream | None, **options: Any) -> Any:
        """Return an asynchronous client of the library, which calls as the user."""
        auth = downstream and downstream["partner"].auth
        return self.library.AsyncClient(
            transport=self.partner, auth=auth, base_url=BASE_URL, **options
        )

    async def request(self, call: Call) -> httpx.Response:
        """Call our API, whose handler makes this call and catches nothing."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async with self.client(downstream_from(scope)) as client:
                await call(client)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        transport = httpx.ASGITransport(OnBehalfOfMiddleware(app, self._obo))
        async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
            return await client.get("/", headers=self.entra.bearer())


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


@pytest.fixture
def partner(world: World) -> Partner:
    return world.partner


@pytest.fixture
async def downstream(world: World) -> Downstream:
    return await world.downstream()


@pytest.fixture
def client(world: World, downstream: Downstream) -> Any:
    return world.client(downstream)


async def revoke(downstream: Downstream, partner: Partner) -> str:
    """Let the partner refuse the token that is in use, and return it."""
    token = (await downstream["partner"].acquire_token()).token
    partner.revoked.add(token)
    return token


# --- Signed ---------------------------------------------------------------------------------------


async def test_requests_bear_the_users_token(
    world: World, downstream: Downstream, client: Any, partner: Partner
) -> None:
    """Every request has the exchanged token, from one exchange."""
    responses = [await client.get("data"), await client.post("data", json={"a": 1})]
    token = (await downstream["partner"].acquire_token()).token

    assert [200, 200] == [response.status_code for response in responses]
    assert ([token, token], 1) == (partner.tokens, world.entra.exchanges)


async def test_requests_hand_on_the_ids(client: Any, partner: Partner) -> None:
    """The request's correlation id goes along, unless the client sets one."""
    for headers in ({}, {}, {"client-request-id": "mine"}):
        await client.get("data", headers=headers)
    first, again, mine = partner.ids

    assert first
    assert (first, "mine") == (again, mine)


async def test_one_auth_serves_both_libraries(downstream: Downstream) -> None:
    """Each library's client takes it for an ``Auth`` of its own."""
    auth: object = downstream["partner"].auth

    assert (True, True) == (isinstance(auth, httpx.Auth), isinstance(auth, httpx2.Auth))


async def test_one_client_serves_many_users(world: World, partner: Partner) -> None:
    """As ``auth=`` of a request, each goes out as its own user's, at the same time too."""
    apis = [(await world.downstream(user))["partner"] for user in ("alice", "bob")]
    async with world.client(None) as client:
        await asyncio.gather(*(client.get("data", auth=api.auth) for api in apis))
    tokens = {(await api.acquire_token()).token for api in apis}

    assert (2, tokens) == (len(tokens), set(partner.tokens))


async def test_a_response_can_be_streamed(client: Any) -> None:
    """`AsyncClient.stream` works as it does without it."""
    async with client.stream("GET", "data") as response:
        assert b"fine" == await response.aread()


# --- Claims challenges ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({}, b""),
        ({"content": b"\x00\xff"}, b"\x00\xff"),
        ({"json": [1]}, b"[1]"),
        ({"data": {"a": "b c"}}, b"a=b+c"),
    ],
)
async def test_a_claims_challenge_is_met_unnoticed(
    world: World,
    downstream: Downstream,
    client: Any,
    partner: Partner,
    options: dict[str, Any],
    body: bytes,
) -> None:
    """The request is repeated once, byte for byte, with a token for the claims."""
    old = await revoke(downstream, partner)
    response = await client.post("data", **options)

    assert (200, b"fine", [body, body]) == (response.status_code, response.content, partner.bodies)
    assert ([old, partner.tokens[1]], True) == (partner.tokens, old != partner.tokens[1])
    assert ["nbf" in (request.claims or "") for request in world.entra.requests] == [False, True]


async def test_many_requests_with_one_refused_token_make_one_exchange(
    world: World, downstream: Downstream, client: Any, partner: Partner
) -> None:
    """However many requests meet the refusal at once, all of them go on with one new token."""
    await revoke(downstream, partner)
    responses = await asyncio.gather(*(client.get("data") for _ in range(20)))

    assert [200] * 20 == [response.status_code for response in responses]
    assert (40, 2, 2) == (len(partner.tokens), len(set(partner.tokens)), world.entra.exchanges)


async def test_a_refused_token_is_not_sent_again(
    downstream: Downstream, client: Any, partner: Partner
) -> None:
    """The request after the repeated one has a new token, which was not asked for with claims."""
    await revoke(downstream, partner)
    await client.get("data")
    await client.get("data")

    assert (3, 3) == (len(partner.tokens), len(set(partner.tokens)))


async def test_it_never_loops(world: World, client: Any, partner: Partner) -> None:
    """A partner that always refuses gets two requests, and the client the second 401."""
    partner.refuses_all = True
    response = await client.get("data")

    assert (401, 2, 2) == (response.status_code, len(partner.tokens), world.entra.exchanges)


async def test_a_refused_token_for_claims_is_not_sent_again(client: Any, partner: Partner) -> None:
    """What the partner refused is acquired anew, also where it was exchanged for its claims."""
    partner.refuses_all = True
    for _ in range(2):
        await client.get("data")

    assert 4 == len(set(partner.tokens))


async def chunks() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


async def test_a_stream_is_not_sent_twice(
    downstream: Downstream, client: Any, partner: Partner
) -> None:
    """A body that is gone goes out once; the caller sends it anew with a new token."""
    old = await revoke(downstream, partner)
    first = await client.post("data", content=chunks())
    second = await client.post("data", content=chunks())

    assert (401, 200) == (first.status_code, second.status_code)
    assert [b"onetwo", b"onetwo"] == partner.bodies
    assert [True, False] == [token == old for token in partner.tokens]


# --- Behind the middleware ------------------------------------------------------------------------


async def raising(client: Any) -> None:
    (await client.get("data")).raise_for_status()


async def asking(client: Any) -> None:
    raise_for_challenge(await client.get("data"))


async def streaming(client: Any) -> None:
    async with client.stream("GET", "data") as response:
        response.raise_for_status()


async def uploading(client: Any) -> None:
    (await client.post("data", content=chunks())).raise_for_status()


@pytest.mark.parametrize("call", [raising, asking, streaming, uploading])
async def test_the_partners_demand_reaches_our_caller(
    world: World, partner: Partner, call: Call
) -> None:
    """Where the new token does not help, our caller gets a 401 with the claims."""
    partner.refuses_all = True
    response = await world.request(call)
    challenge = parse_challenge(response)

    assert 401 == response.status_code
    assert challenge is not None
    assert ("insufficient_claims", NEWER) == (challenge.error, challenge.claims)


async def test_what_only_the_user_can_do_reaches_our_caller(world: World, partner: Partner) -> None:
    """Where Entra refuses the claims, our caller is asked for them, after one request."""
    partner.refuses_all, partner.claims = True, STRONGER
    response = await world.request(raising)
    challenge = parse_challenge(response)

    assert (401, 1) == (response.status_code, len(partner.tokens))
    assert challenge is not None
    assert challenge.claims is not None
    assert json.loads(STRONGER) == json.loads(challenge.claims)


async def test_a_missing_consent_is_raised_by_the_client(
    world: World, client: Any, partner: Partner
) -> None:
    """Without a token nothing is sent, and the error is ours."""
    world.entra.withdraw_consent("alice", resource="api://partner")
    with pytest.raises(InteractionRequiredError):
        await client.get("data")

    assert [] == partner.tokens
    assert 401 == (await world.request(raising)).status_code


@pytest.mark.parametrize(
    ("path", "status"),
    [("status/404", 404), ("status/403", 502), ("status/429", 503), ("late", 504)],
)
async def test_the_clients_own_errors_are_answered(world: World, path: str, status: int) -> None:
    """What the client raises is answered as for a call through the `Downstream`."""

    async def call(client: Any) -> None:
        (await client.get(path)).raise_for_status()

    assert status == (await world.request(call)).status_code


# --- Fences ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [f"{EVIL}/v1/data", f"{PARTNER}/admin", f"{PARTNER}/v1x", "https://partner.example.com.evil"],
)
async def test_a_request_elsewhere_is_refused(
    world: World, client: Any, partner: Partner, url: str
) -> None:
    """Outside the API's base URL nothing is signed and nothing is sent."""
    with pytest.raises(ConfigurationError, match="leave the base URL"):
        await client.get(url)

    assert ([], 0) == (partner.tokens, world.entra.exchanges)


async def test_a_redirect_elsewhere_has_no_token(
    world: World, downstream: Downstream, partner: Partner
) -> None:
    """A client that follows redirects, against advice, still carries no token to another host."""
    async with world.client(downstream, follow_redirects=True) as client:
        await client.get("away")

    assert [True, False] == [token != "" for token in partner.tokens]


async def test_an_api_without_base_url_has_no_auth(downstream: Downstream) -> None:
    """Where nobody can tell where a token may go, there is no auth."""
    with pytest.raises(ConfigurationError, match="'tokens' has no base_url"):
        _ = downstream["tokens"].auth


async def test_a_synchronous_client_is_refused(world: World, downstream: Downstream) -> None:
    """A synchronous client is told which one to use, and sends nothing."""
    transport = world.library.MockTransport(lambda request: world.library.Response(200))
    with (
        world.library.Client(auth=downstream["partner"].auth, transport=transport) as client,
        pytest.raises(RuntimeError, match="is for an AsyncClient"),
    ):
        client.get(f"{BASE_URL}/data")

    assert 0 == world.entra.exchanges


async def test_it_ends_with_the_request(
    downstream: Downstream, client: Any, partner: Partner
) -> None:
    """A client that outlives the request cannot call as its user any more."""
    await client.get("data")
    downstream.close()
    with pytest.raises(RuntimeError, match="ended with its request"):
        await client.get("data")

    assert 1 == len(partner.tokens)
