"""Tokens acquired before the app is called: a missing consent is HTTP, whatever the app speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from obo_asgi import (
    ConfigurationError,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.challenges import Challenge, parse_challenge
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

PARTNER_SCOPE = "api://partner/read"
GRAPH_SCOPE = "https://graph.microsoft.com/User.Read"


class Stream:
    """An app that starts its answer before it calls anybody, as streams and MCP tools do."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for name in ("partner", "graph"):
            await downstream_from(scope)[name].acquire_token()
        await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
def entra() -> FakeEntra:
    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read"])
    return entra


@pytest.fixture
def app() -> Stream:
    return Stream()


class Together(httpx.AsyncBaseTransport):
    """Lets requests for tokens through only two by two."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._barrier = asyncio.Barrier(2)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            await self._barrier.wait()
        return await self._client.send(request)


def on_behalf_of(
    entra: FakeEntra, client: httpx.AsyncClient | None = None, **partner: Any
) -> OnBehalfOf:
    return OnBehalfOf(
        entra.registration(),
        downstream={
            "partner": DownstreamAPI(scopes=[PARTNER_SCOPE], **partner),
            "graph": DownstreamAPI(scopes=[GRAPH_SCOPE], **partner),
        },
        app_roles=["Caller"],
        http_client=client or entra.client(),
    )


async def get(
    app: OnBehalfOfMiddleware, headers: Mapping[str, str], path: str = "/"
) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        return await client.get(path, headers=headers)


def challenge_of(response: httpx.Response) -> Challenge:
    challenge = parse_challenge(response)
    assert 401 == response.status_code
    assert challenge is not None
    return challenge


async def test_without_it_a_stream_breaks_off(entra: FakeEntra, app: Stream) -> None:
    """An app that has started its answer cannot tell its caller what is missing."""
    entra.withdraw_consent("alice", resource="api://partner")
    with pytest.raises(Exception, match="consent or sign in again"):
        await get(OnBehalfOfMiddleware(app, on_behalf_of(entra)), entra.bearer("alice"))


async def test_a_missing_consent_is_told_before_the_app_runs(entra: FakeEntra, app: Stream) -> None:
    """The app is not called, and the caller gets one challenge for all that is missing."""
    entra.withdraw_consent("alice", resource="api://partner")
    entra.withdraw_consent("alice", resource="graph")
    protected = OnBehalfOfMiddleware(app, on_behalf_of(entra), acquire_first=["partner", "graph"])
    challenge = challenge_of(await get(protected, entra.bearer("alice")))

    assert ("consent_required", 0) == (challenge.error, app.calls)
    assert {PARTNER_SCOPE, GRAPH_SCOPE} == set(challenge.scopes)


async def test_a_claims_challenge_is_told_too(entra: FakeEntra, app: Stream) -> None:
    """A demand for a second factor reaches the caller with its claims."""
    entra.require_mfa("alice", "api://partner")
    protected = OnBehalfOfMiddleware(app, on_behalf_of(entra), acquire_first=["partner"])
    challenge = challenge_of(await get(protected, entra.bearer("alice")))

    assert ("insufficient_claims", True) == (challenge.error, challenge.claims is not None)


async def test_tokens_are_acquired_once(entra: FakeEntra, app: Stream) -> None:
    """A name given twice is one exchange, the app finds the tokens, a second request needs none."""
    protected = OnBehalfOfMiddleware(
        app, on_behalf_of(entra), acquire_first=["graph", "partner", "graph"]
    )
    bearer = entra.bearer("alice")
    await get(protected, bearer)
    assert 2 == entra.exchanges
    assert b"done" == (await get(protected, bearer)).content
    assert 2 == entra.exchanges


async def test_several_are_acquired_at_the_same_time(entra: FakeEntra, app: Stream) -> None:
    """The exchanges run in parallel: the second does not wait for the first to end."""
    obo = on_behalf_of(entra, httpx.AsyncClient(transport=Together(entra.client())))
    protected = OnBehalfOfMiddleware(app, obo, acquire_first=["graph", "partner"])
    async with asyncio.timeout(5):
        assert b"done" == (await get(protected, entra.bearer("alice"))).content


@pytest.mark.parametrize(
    ("path", "exchanges"),
    [
        ("/mcp", 1),
        ("/mcp/", 1),
        ("/mcp/tools", 1),
        ("/mcpx", 0),
        ("/", 0),
        ("/MCP", 0),
        ("/a/mcp", 0),
        ("/both", 2),
        ("/both/x", 2),
    ],
)
async def test_a_path_stands_for_itself_and_what_lies_below(
    entra: FakeEntra, path: str, exchanges: int
) -> None:
    """Lists by path apply on segment boundaries, as the app's router sees the path."""
    by_path = {"/mcp/": ["partner"], "/both": ["partner", "graph"]}

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    protected = OnBehalfOfMiddleware(quiet, on_behalf_of(entra), acquire_first=by_path)
    assert 204 == (await get(protected, entra.bearer("alice"), path)).status_code
    assert exchanges == entra.exchanges


async def test_anonymous_callers_need_no_tokens(entra: FakeEntra) -> None:
    """On a public path, and where authentication is optional, nothing is acquired."""

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    obo = on_behalf_of(entra)
    public = OnBehalfOfMiddleware(quiet, obo, public_paths=["/"], acquire_first=["graph"])
    optional = OnBehalfOfMiddleware(quiet, obo, optional=True, acquire_first=["graph"])

    assert [204, 204] == [(await get(app, {})).status_code for app in (public, optional)]
    assert 0 == entra.exchanges


@pytest.mark.parametrize(("serve", "status", "grants"), [(False, 403, 0), (True, 200, 2)])
async def test_an_application_gets_in_only_where_the_apis_serve_it(
    entra: FakeEntra, app: Stream, serve: bool, status: int, grants: int
) -> None:
    """A caller without a user gets a 403, or the app's own tokens where the APIs say so."""
    obo = on_behalf_of(entra, serve_app_callers=serve)
    protected = OnBehalfOfMiddleware(app, obo, acquire_first=["partner", "graph"])
    response = await get(protected, entra.bearer(None, None, roles=["Caller"]))

    assert status == response.status_code
    assert (grants, 0) == (entra.counts["client_credentials"], entra.exchanges)


async def test_entras_outage_is_a_503(entra: FakeEntra, app: Stream) -> None:
    """Where a token cannot be had now, the caller is told when to come back."""
    protected = OnBehalfOfMiddleware(app, on_behalf_of(entra), acquire_first=["partner"])
    entra.throttle("alice", retry_after=17)
    response = await get(protected, entra.bearer("alice"))

    assert (503, "17", 0) == (response.status_code, response.headers["Retry-After"], app.calls)


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
async def test_a_websocket_is_refused_before_it_is_accepted(
    entra: FakeEntra, app: Stream, extensions: dict[str, Any]
) -> None:
    """A WebSocket without consent gets the challenge, or a close where the server has no other."""
    entra.withdraw_consent("alice", resource="api://partner")
    protected = OnBehalfOfMiddleware(app, on_behalf_of(entra), acquire_first=["partner"])
    headers = [(b"authorization", entra.bearer("alice")["Authorization"].encode())]
    scope = {"type": "websocket", "path": "/live", "headers": headers, "extensions": extensions}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await protected(scope, receive, send)
    assert 0 == app.calls
    if extensions:
        fields = dict(sent[0]["headers"])
        assert ("websocket.http.response.start", 401) == (sent[0]["type"], sent[0]["status"])
        assert b'error="consent_required"' in fields[b"www-authenticate"]
    else:
        assert [{"type": "websocket.close", "code": 1008}] == sent


async def test_mounted_twice_the_inner_one_acquires(entra: FakeEntra, app: Stream) -> None:
    """An inner middleware of the same OnBehalfOf acquires for a request that is authenticated."""
    obo = on_behalf_of(entra)
    entra.withdraw_consent("alice", resource="graph")
    inner = OnBehalfOfMiddleware(app, obo, acquire_first=["graph"])
    response = await get(OnBehalfOfMiddleware(inner, obo), entra.bearer("alice"))

    assert (401, 0) == (response.status_code, app.calls)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (["nobody"], "no downstream API is called 'nobody'"),
        ("graph", "acquire_first must be a list: \\['graph'\\]"),
        ({"/mcp": "graph"}, "acquire_first must be a list: \\['graph'\\]"),
        ({"mcp": ["graph"]}, "start with '/'"),
        ({"/mcp/*": ["graph"]}, "without patterns"),
        ({"/mcp": ["nobody"]}, "no downstream API is called 'nobody'"),
    ],
)
def test_a_wrong_list_fails_at_start(
    entra: FakeEntra, value: Sequence[str] | Mapping[str, Sequence[str]], sentence: str
) -> None:
    """An unknown name, a bare string or a pattern is refused with a sentence."""
    with pytest.raises(ConfigurationError, match=sentence):
        OnBehalfOfMiddleware(Stream(), on_behalf_of(entra), acquire_first=value)
