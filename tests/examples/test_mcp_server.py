"""The example of an MCP server, called by the official SDK's client over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.auth import OAuthClientProvider, OAuthRegistrationError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from mcp_types import CallToolResult, TextContent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples import mcp_glue, mcp_server
from obo_asgi import AppRegistration, DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi.challenges import Challenge, parse_challenge
from obo_asgi.testing import FakeEntra, serve

pytestmark = pytest.mark.anyio

PARTNER_API = "api://partner"
GRAPH_SCOPE = "https://graph.microsoft.com/User.Read"
MODES = ["legacy", "auto"]
"""With the handshake of 2025, which opens a session, and without, as of 2026."""

NO_CACHE = {"Cache-Control": "no-cache"}
"""What passes by a refusal that is remembered for two seconds."""


@dataclass
class Partner:
    """The partner's API, which remembers who called with which token, and can fail."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    status: int = 200
    delay: float = 0

    async def orders(self, request: Request) -> Response:
        user = request.user
        self.calls.append((user.display_name, user.claims["uti"]))
        await asyncio.sleep(self.delay)
        if self.status != 200:
            return JSONResponse({"detail": "a secret of the partner's"}, self.status)
        return JSONResponse({"owner": user.display_name, "items": ["Apollo"]})

    def reset(self) -> None:
        self.calls.clear()
        self.status, self.delay = 200, 0


@dataclass(frozen=True)
class World:
    entra: FakeEntra
    partner: Partner
    url: str
    """The MCP server that answers with event streams."""
    json_url: str
    """The MCP server that answers with JSON."""
    client_ids: dict[str, str]
    """By URL of an MCP server, its client id."""
    tls: ssl.SSLContext

    def token(self, user: str = "alice", url: str | None = None, **token: Any) -> str:
        return self.entra.token(user, audience=self.client_ids[url or self.url], **token)


def free_port(stack: ExitStack) -> int:
    """Return a port that is ours until the stack is closed: the resource has to name it first."""
    holder = stack.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    entra, partner, client_ids = FakeEntra(), Partner(), {}
    with ExitStack() as stack:
        ca_file = stack.enter_context(entra.serve()).ca_file
        tls = ssl.create_default_context(cafile=ca_file)
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("SSL_CERT_FILE", ca_file)

        def protect(api: AppRegistration, path: str, handler: Any) -> Any:
            app = Starlette(routes=[Route(path, handler)])
            return OnBehalfOfMiddleware(app, OnBehalfOf(api))

        async def me(request: Request) -> Response:
            return JSONResponse({"name": request.user.display_name})

        partner_app = protect(
            entra.add_api(PARTNER_API, scopes=["read"]), "/api/orders", partner.orders
        )
        graph_app = protect(entra.registration("graph"), "/me", me)
        apis = {
            "partner": DownstreamAPI(
                base_url=stack.enter_context(serve(partner_app)).url,
                scopes=[f"{PARTNER_API}/read"],
                timeout=2,
            ),
            "graph": DownstreamAPI(
                base_url=stack.enter_context(serve(graph_app)).url, scopes=[GRAPH_SCOPE]
            ),
        }
        for json_response in (False, True):
            port = free_port(stack)
            url = f"https://localhost:{port}/mcp"
            registration = entra.add_api(url, scopes=["access_as_user"])
            obo = OnBehalfOf(
                replace(registration, consent_redirect_uri="https://localhost/consented"),
                downstream=apis,
                required_scopes=["access_as_user"],
            )
            app = mcp_server.create_app(obo, url, json_response=json_response)
            stack.enter_context(serve(app, port=port))
            client_ids[url] = registration.client_id
        url, json_url = client_ids
        yield World(entra, partner, url, json_url, client_ids, tls)


@pytest.fixture
def world(running: World) -> Iterator[World]:
    """The world, in which all is well again."""
    running.partner.reset()
    running.entra.reset_counts()
    yield running
    running.entra.grant_consent(client=None)


class Bearer(httpx2.Auth):
    """The client's access token, which it may renew, and what the server answered."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.answers: list[httpx2.Response] = []
        self.session_id: str | None = None
        self.headers: dict[str, str] = {}

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers.update({"Authorization": f"Bearer {self.token}", **self.headers})
        response = yield request
        self.answers.append(response)
        self.session_id = response.headers.get("mcp-session-id", self.session_id)


@asynccontextmanager
async def connect(
    world: World,
    auth: httpx2.Auth | str,
    *,
    url: str | None = None,
    mode: Any = "legacy",
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Client]:
    url = url or world.url
    auth = Bearer(auth) if isinstance(auth, str) else auth
    options: dict[str, Any] = {"verify": world.tls, "trust_env": False, "headers": headers}
    async with httpx2.AsyncClient(auth=auth, **options) as http_client:
        transport = streamable_http_client(url, http_client=http_client)
        async with Client(transport, mode=mode) as client:
            yield client


async def call(client: Client, tool: str = "orders") -> Any:
    """Call a tool and return what it says, by structure; of a failure, its facts."""
    result = await client.call_tool(tool)
    assert isinstance(result, CallToolResult)
    return result.structured_content


async def send(world: World, token: str | None = None, **options: Any) -> httpx.Response:
    """Send what a client of the SDK sends, without the SDK."""
    headers = {"Accept": "application/json, text/event-stream"} | options.pop("headers", {})
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    options = {"method": "POST", "url": world.url, "json": request} | options
    async with httpx.AsyncClient(verify=world.tls, trust_env=False) as client:
        return await client.request(headers=headers, **options)


def challenge_of(response: httpx.Response) -> Challenge:
    challenge = parse_challenge(response)
    assert (401, True) == (response.status_code, challenge is not None)
    assert challenge is not None
    return challenge


# Calls


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answers", ["url", "json_url"])
async def test_a_tool_calls_the_api_as_the_user(world: World, mode: str, answers: str) -> None:
    """The partner sees Alice, and answers before the request's Downstream ends, however slowly."""
    url, world.partner.delay = getattr(world, answers), 0.1
    async with connect(world, world.token(url=url), url=url, mode=mode) as client:
        assert {"owner": "Alice", "items": ["Apollo"]} == await call(client)
        assert {"name": "Alice"} == await call(client, "profile")
    assert ["Alice"] == [name for name, _ in world.partner.calls]


@pytest.mark.parametrize("mode", MODES)
async def test_tools_are_listed(world: World, mode: str) -> None:
    """A client finds the tools, and that they take nothing."""
    async with connect(world, world.token(), mode=mode) as client:
        tools = (await client.list_tools()).tools
    assert {"orders": {}, "profile": {}} == {
        tool.name: tool.input_schema["properties"] for tool in tools
    }


@pytest.mark.parametrize("mode", MODES)
async def test_parallel_calls_do_not_mix(world: World, mode: str) -> None:
    """Twenty calls of two users at the same time each get their own user's data."""
    world.partner.delay = 0.02
    async with (
        connect(world, world.token("alice"), mode=mode) as alice,
        connect(world, world.token("bob"), mode=mode) as bob,
    ):
        results = await asyncio.gather(*(call(client) for client in [alice, bob] * 10))
    assert ["Alice", "Bob"] * 10 == [result["owner"] for result in results]
    assert 2 == world.entra.exchanges


# Refusals before the MCP app


async def test_without_a_token_the_client_is_told_where_to_look(world: World) -> None:
    """The 401 names the metadata, and that names Entra, the scopes and the exact resource."""
    challenge = challenge_of(await send(world))
    assert challenge.resource_metadata is not None
    described = await send(world, method="GET", url=challenge.resource_metadata)
    assert {
        "resource": world.url,
        "authorization_servers": [f"{world.entra.authority}/{world.entra.tenant_id}/v2.0"],
        "bearer_methods_supported": ["header"],
        "scopes_supported": [f"{world.url}/access_as_user"],
    } == described.json()
    assert (f"{world.url}/access_as_user",) == challenge.scopes


@pytest.mark.parametrize("mode", MODES)
async def test_a_missing_consent_is_told_before_the_tool_runs(world: World, mode: str) -> None:
    """Without consent to the partner even a listing is a 401; with it, the same token works."""
    world.entra.withdraw_consent("alice", world.url, PARTNER_API)
    token = world.token()
    challenge = challenge_of(await send(world, token))
    assert ("consent_required", (f"{PARTNER_API}/read",)) == (challenge.error, challenge.scopes)
    assert challenge.resource_metadata is not None
    consent = dict(parse_qsl(urlsplit(challenge.consent_uri or "").query))
    assert world.client_ids[world.url] == consent["client_id"]
    auth = Bearer(token)
    with pytest.raises((MCPError, ExceptionGroup)):
        async with connect(world, auth, mode=mode):
            pass
    assert {401} == {answer.status_code for answer in auth.answers}
    assert [] == world.partner.calls

    await open_page(world, challenge.consent_uri or "", "alice")
    auth.headers = NO_CACHE
    async with connect(world, auth, mode=mode) as client:
        assert "Alice" == (await call(client))["owner"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
async def test_other_names_are_refused(world: World, headers: dict[str, str], status: int) -> None:
    """A request for another host, or from a page of another origin, never reaches a tool."""
    async with connect(world, auth := Bearer(world.token())):
        more = {"mcp-session-id": auth.session_id or "", **headers}
        assert status == (await send(world, auth.token, headers=more)).status_code


async def test_a_page_of_the_own_origin_is_let_in(world: World) -> None:
    """The server's own name and origin pass."""
    async with connect(world, auth := Bearer(world.token())):
        origin = world.url.removesuffix("/mcp")
        headers = {"mcp-session-id": auth.session_id or "", "Origin": origin}
        assert 200 == (await send(world, auth.token, headers=headers)).status_code


# One MCP session, several tokens and users


async def test_a_session_uses_the_token_of_each_request(world: World) -> None:
    """After the client renewed its token, the next call in the session is made with the new one."""
    old, new = world.token(), world.token()
    async with connect(world, auth := Bearer(old)) as client:
        session_id = auth.session_id
        for token in (old, old, new):
            auth.token = token
            await call(client)
        assert (True, session_id) == (bool(session_id), auth.session_id)
    exchanged = [r.form["assertion"] for r in world.entra.requests if r.grant == "on_behalf_of"]
    assert [old, new] == exchanged
    ids = [token_id for _, token_id in world.partner.calls]
    assert (True, False) == (ids[0] == ids[1], ids[1] == ids[2])


async def test_an_expired_token_is_refused_in_its_own_session(world: World) -> None:
    """A session that a good token opened does not outlive it; a new token goes on with it."""
    async with connect(world, auth := Bearer(world.token())) as client:
        await call(client)
        good, auth.token = auth.token, world.token(lifetime=-600)
        with pytest.raises(MCPError, match="error response"):
            await client.call_tool("orders")
        challenge = parse_challenge(auth.answers[-1])
        assert challenge is not None
        assert (401, "invalid_token") == (auth.answers[-1].status_code, challenge.error)
        auth.token = good
        assert "Alice" == (await call(client))["owner"]
    assert 2 == len(world.partner.calls)


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_a_session_is_its_users_alone(world: World, method: str) -> None:
    """Bob, who knows the id of Alice's session, neither calls, listens nor ends there."""
    async with connect(world, auth := Bearer(world.token("alice"))) as alice:
        await call(alice)
        headers = {"mcp-session-id": auth.session_id or ""}
        tool = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "orders"}}
        refused = await send(world, world.token("bob"), method=method, headers=headers, json=tool)
        assert (404, False) == (refused.status_code, "Alice" in refused.text)
        assert "Alice" == (await call(alice))["owner"]
    assert ["Alice", "Alice"] == [name for name, _ in world.partner.calls]


async def test_a_session_is_its_client_apps_alone(world: World) -> None:
    """Another app that Alice signed in to has sessions of its own."""
    other = world.token("alice", azp=world.entra.client_id("graph"))
    async with connect(world, auth := Bearer(world.token("alice"))):
        headers = {"mcp-session-id": auth.session_id or ""}
        assert 404 == (await send(world, other, headers=headers)).status_code


# Failures inside a tool


@pytest.mark.parametrize("mode", MODES)
async def test_a_later_consent_is_a_structured_tool_error(world: World, mode: str) -> None:
    """The client of a tool learns which consent is missing, and on which page it is given."""
    world.entra.withdraw_consent("alice", world.url, "graph")
    async with connect(world, auth := Bearer(world.token()), mode=mode) as client:
        result = await client.call_tool("profile")
        facts = result.structured_content or {}
        page = facts.pop("consent_uri")
        assert {
            "error": "consent_required",
            "error_description": "additional consent of the user is required",
            "scopes": [GRAPH_SCOPE],
        } == facts
        assert isinstance(result.content[0], TextContent)
        assert {**facts, "consent_uri": page} == json.loads(result.content[0].text)
        assert (True, True) == (result.is_error, page.startswith(world.entra.authority))

        await open_page(world, page, "alice")
        auth.headers = NO_CACHE
        assert {"name": "Alice"} == await call(client, "profile")


async def test_a_claims_challenge_is_a_structured_tool_error(world: World) -> None:
    """A second factor that is demanded later comes with the claims for the new sign-in."""
    world.entra.require_mfa("bob", "graph")
    async with connect(world, world.token("bob")) as client:
        facts = await call(client, "profile")
    world.entra.waive_mfa("bob", "graph")
    assert ("insufficient_claims", True) == (facts["error"], "capolids" in facts["claims"])


@pytest.mark.parametrize(
    ("trouble", "status", "title"),
    [
        ({"status": 404}, 404, "Not Found"),
        ({"status": 500}, 502, "Bad Gateway"),
        ({"delay": 2.5}, 504, "Gateway Timeout"),
    ],
)
async def test_the_partners_failure_is_a_structured_tool_error(
    world: World, trouble: dict[str, Any], status: int, title: str
) -> None:
    """What the partner answers and who asked stay out of it: it names the kind of failure alone."""
    vars(world.partner).update(trouble)
    async with connect(world, world.token()) as client:
        result = await client.call_tool("orders")
    facts = {"type": "about:blank", "title": title, "status": status}
    assert (True, facts) == (result.is_error, result.structured_content)
    assert isinstance(result.content[0], TextContent)
    assert facts == json.loads(result.content[0].text)


async def test_a_mistake_of_ours_says_nothing() -> None:
    """Where a tool has a bug, the SDK's own sentence stands, without the exception's text."""
    server = mcp_glue.Server("broken", log_level="WARNING")

    @server.tool()
    async def broken() -> None:
        raise LookupError("a secret of ours")

    async with Client(server) as client:
        result = await client.call_tool("broken")
    assert isinstance(result.content[0], TextContent)
    assert "Error executing tool broken" == result.content[0].text
    assert (True, None) == (result.is_error, result.structured_content)


# Signing in as the SDK's client does


class Store:
    """Holds the client id that was registered beforehand, and the tokens."""

    def __init__(self, client_id: str | None) -> None:
        self.tokens: OAuthToken | None = None
        self.client = None if client_id is None else OAuthClientInformationFull(client_id=client_id)

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def open_page(world: World, url: str, user: str) -> str:
    """Pick a user on Entra's pages and accept what they ask; return where the browser goes."""
    async with httpx.AsyncClient(verify=world.tls, trust_env=False) as browser:
        response = await browser.post(url, data={"user": user, "consent": "accept"})
    assert 302 == response.status_code
    return response.headers["Location"]


def sign_in(world: World, store: Store, **options: Any) -> OAuthClientProvider:
    """Return the SDK's sign-in, with a browser that is Alice's."""
    pages: list[str] = []

    async def show(url: str) -> None:
        pages.append(await open_page(world, url, "alice"))

    async def come_back() -> AuthorizationCodeResult:
        query = dict(parse_qsl(urlsplit(pages[-1]).query))
        return AuthorizationCodeResult(code=query["code"], state=query["state"])

    metadata = OAuthClientMetadata.model_validate(
        {"redirect_uris": ["http://localhost:3030/callback"]}
    )
    return OAuthClientProvider(
        world.url, metadata, store, redirect_handler=show, callback_handler=come_back, **options
    )


@pytest.mark.parametrize("mode", MODES)
async def test_the_sdks_client_signs_in(world: World, mode: str) -> None:
    """From a 401 alone it finds Entra, signs Alice in, renews her token, and calls the tool."""
    store = Store(world.entra.client_id("spa"))
    async with connect(world, auth := sign_in(world, store), mode=mode) as client:
        assert "Alice" == (await call(client))["owner"]
        assert store.tokens is not None
        assert f"{world.url}/access_as_user" in (store.tokens.scope or "").split()
        auth.context.token_expiry_time = 1
        assert "Alice" == (await call(client))["owner"]
    assert (1, 1) == tuple(
        world.entra.counts[grant] for grant in ("authorization_code", "refresh_token")
    )
    assert world.url == next(r for r in world.entra.requests if "code" in r.form).form["resource"]


async def test_the_sdks_client_goes_on_after_the_consent(world: World) -> None:
    """It opens no consent_uri by itself; once the user has opened it, its next attempt works."""
    world.entra.withdraw_consent("alice", world.url, PARTNER_API)
    auth = sign_in(world, Store(world.entra.client_id("spa")))
    with pytest.raises(ExceptionGroup) as caught:
        async with connect(world, auth):
            pass
    assert caught.group_contains(MCPError)
    challenge = challenge_of(await send(world, world.token()))
    await open_page(world, challenge.consent_uri or "", "alice")
    async with connect(world, auth, headers=NO_CACHE) as client:
        assert "Alice" == (await call(client))["owner"]


async def test_the_sdks_client_cannot_register_itself(world: World) -> None:
    """Without a client id it tries to register, which Entra does not offer and our API refuses."""
    with pytest.raises(ExceptionGroup) as caught:
        async with connect(world, sign_in(world, Store(None))):
            pass
    assert caught.group_contains(OAuthRegistrationError, match="Registration failed: 401")
