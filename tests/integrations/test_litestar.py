"""obo-asgi for Litestar: what its plugin, its guards and its dependencies promise."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, assert_type

import httpx
import msgspec
import pytest
from litestar import (
    Controller,
    Litestar,
    MediaType,
    Request,
    Response,
    Router,
    WebSocket,
    asgi,
    get,
    head,
    post,
    websocket,
)
from litestar.background_tasks import BackgroundTask
from litestar.config.cors import CORSConfig
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException, NotAuthorizedException, WebSocketDisconnect
from litestar.middleware import DefineMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromPath
from litestar.static_files import create_static_files_router
from litestar.testing import AsyncTestClient
from starlette.middleware.cors import CORSMiddleware

import obo_asgi_litestar
from obo_asgi import (
    ClientSecret,
    ConfigurationError,
    Downstream,
    DownstreamAPI,
    OboError,
    OnBehalfOf,
    ProtectedResource,
    User,
    any_of,
)
from obo_asgi.challenges import parse_challenge
from obo_asgi.testing import FakeEntra, fake_downstream
from obo_asgi_litestar import PUBLIC, OnBehalfOfPlugin, downstream_from, requires
from tests.integrations.contract import converse

pytestmark = pytest.mark.anyio

PARTNER = "https://partnerapi.example.com"
SCOPE = "api://partner/read"
TOKEN_REQUIRED = 'Bearer realm=""'


class Orders(msgspec.Struct):
    owner: str


async def partner(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the status that the path ends in."""
    name = scope["path"].rpartition("/")[2]
    status = int(name) if name.isdigit() else 200
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"owner": "Alice"}'})


@pytest.fixture
def entra() -> FakeEntra:
    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read"])
    return entra


@pytest.fixture
def obo(entra: FakeEntra) -> OnBehalfOf:
    return on_behalf_of(entra)


def on_behalf_of(entra: FakeEntra, **options: Any) -> OnBehalfOf:
    registration = entra.registration()
    api = DownstreamAPI(base_url=PARTNER, scopes=[SCOPE])
    client = entra.client(apps={PARTNER: partner})
    return OnBehalfOf(
        options.pop("registration", registration),
        downstream={"partner": api},
        http_client=client,
        **options,
    )


def create_app(
    obo: OnBehalfOf, handlers: Sequence[Any], *, plugin: Any = None, **options: Any
) -> Litestar:
    plugins = [OnBehalfOfPlugin(obo, **(plugin or {}))]
    return Litestar(list(handlers), plugins=plugins, logging_config=None, **options)


@asynccontextmanager
async def running(
    obo: OnBehalfOf, *handlers: Any, **options: Any
) -> AsyncIterator[AsyncTestClient[Litestar]]:
    async with AsyncTestClient(create_app(obo, handlers, **options)) as client:
        yield client


@get("/me")
async def me(
    downstream: NamedDependency[Downstream],
    user: NamedDependency[User],
    request: Request[Any, Any, Any],
) -> dict[str, Any]:
    assert_type(downstream, Downstream)
    assert_type(user, User)
    assert downstream is downstream_from(request)
    orders = await downstream["partner"].get("orders", into=Orders)
    return {"user": user.display_name, "owner": orders.owner, "auth": request.auth.scopes}


@get("/call/{status:int}")
async def call(status: FromPath[int], downstream: NamedDependency[Downstream]) -> Orders:
    return await downstream["partner"].get(f"orders/{status}", into=Orders)


@get("/health", opt=PUBLIC, sync_to_thread=False)
def health() -> str:
    return "ok"


# --- Who gets in --------------------------------------------------------------------------------


def test_all_is_sorted() -> None:
    """``__all__`` is in plain sorted order."""
    assert sorted(obo_asgi_litestar.__all__) == obo_asgi_litestar.__all__


async def test_a_handler_is_given_the_apis_and_the_user(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Both are dependencies, and the request knows the user and the granted scopes."""
    async with running(obo, me) as client:
        response = await client.get("/me", headers=entra.bearer("alice"))

    assert {"user": "Alice", "owner": "Alice", "auth": ["access_as_user"]} == response.json()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_every_method_needs_a_token(obo: OnBehalfOf, method: str) -> None:
    """Litestar's own HEAD and OPTIONS are protected as well."""

    @get("/page", sync_to_thread=False)
    def page() -> str:
        return "secret"

    @head("/page", sync_to_thread=False)
    def page_head() -> None:
        return None

    async with running(obo, page, page_head) as client:
        response = await client.request(method, "/page")

    assert (401, TOKEN_REQUIRED) == (response.status_code, response.headers["WWW-Authenticate"])


async def test_a_refusal_is_readable_by_another_origin(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """A 401 carries the headers of the app's CORSConfig, and a preflight needs no token."""
    cors = CORSConfig(
        allow_origins=["https://spa.example.com"],
        expose_headers=["WWW-Authenticate", "Retry-After"],
    )
    origin = {"Origin": "https://spa.example.com"}
    preflight = {**origin, "Access-Control-Request-Method": "GET"}
    async with running(obo, me, cors_config=cors) as client:
        refusal = await client.get("/me", headers=origin)
        entra.withdraw_consent("alice", resource="api://partner")
        challenge = await client.get("/me", headers=origin | entra.bearer("alice"))
        asked = await client.options("/me", headers=preflight)

    for response in (refusal, challenge):
        assert 401 == response.status_code
        assert "https://spa.example.com" == response.headers["Access-Control-Allow-Origin"]
        exposed = response.headers["Access-Control-Expose-Headers"].lower().split(", ")
        assert {"www-authenticate", "retry-after"} == set(exposed)
    assert 204 == asked.status_code


class Branded(CORSMiddleware):
    """Somebody's own CORS middleware."""


STARLETTES: list[Any] = [CORSMiddleware, Branded]  # Litestar's types know its own alone
INSIDE = [CORSMiddleware, *(DefineMiddleware(kind) for kind in STARLETTES)]


@pytest.mark.parametrize("inside", [None, *INSIDE])
async def test_cors_inside_is_warned_of(
    obo: OnBehalfOf, caplog: pytest.LogCaptureFixture, inside: Any
) -> None:
    """A CORSMiddleware among the app's middlewares is inside ours, and the start says so."""
    cors = None if inside else CORSConfig()
    async with running(obo, me, middleware=[inside] if inside else [], cors_config=cors):
        pass

    said = [record.getMessage() for record in caplog.records if "CORS" in record.getMessage()]
    warning = "CORSMiddleware is inside OnBehalfOfMiddleware: use Litestar's cors_config"
    assert ([warning] if inside else []) == said


async def test_it_is_the_outermost_middleware(obo: OnBehalfOf) -> None:
    """No middleware of the app, not even one of a plugin before it, sees a refused request."""
    seen: list[str] = []

    def spy(app: Any) -> Any:
        async def inner(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["path"])
            await app(scope, receive, send)

        return inner

    async with running(obo, me, health, middleware=[spy]) as client:
        await client.get("/me")
        await client.get("/health")

    assert ["/health"] == seen


async def test_public_is_said_on_any_layer(obo: OnBehalfOf) -> None:
    """A handler, a controller or a router is public by its opt; a layer inside takes it back."""

    class Pages(Controller):
        path = "/pages"
        opt = PUBLIC

        @get("/open", sync_to_thread=False)
        def open(self) -> str:
            return "open"

        @get("/closed", opt={"obo_public": False}, sync_to_thread=False)
        def closed(self) -> str:
            return "closed"

    @get("/deep", sync_to_thread=False)
    def deep() -> str:
        return "deep"

    paths = ["/health", "/pages/open", "/pages/closed", "/routed/deep"]
    router = Router("/routed", route_handlers=[deep], opt=PUBLIC)
    async with running(obo, health, Pages, router) as client:
        statuses = [(await client.get(path)).status_code for path in paths]

    assert [200, 200, 401, 200] == statuses


async def test_public_by_path_or_by_predicate(obo: OnBehalfOf) -> None:
    """The middleware's own options for public requests work beside the opt."""

    @get(["/a", "/b", "/c"], sync_to_thread=False)
    def handler() -> str:
        return "ok"

    options = {"public_paths": ["/a"], "is_public": lambda scope: scope["path"] == "/b"}
    async with running(obo, handler, plugin=options) as client:
        statuses = [(await client.get(path)).status_code for path in ("/a", "/a/", "/b", "/c")]

    assert [200, 200, 200, 401] == statuses


async def test_a_public_path_says_nothing_of_a_mounted_app(obo: OnBehalfOf, tmp_path: Any) -> None:
    """What lies below a mount under the same name still needs a token."""
    (tmp_path / "health").write_text("secret")
    files = create_static_files_router("/files", directories=[tmp_path])

    @asgi("/mounted", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await Response("secret").to_asgi_response(None, Request(scope))(scope, receive, send)

    paths = ["/health", "/files/health", "/mounted/health", "/mounted/health/"]
    options = {"public_paths": ["/health", "/health/"]}
    async with running(obo, health, files, mounted, plugin=options) as client:
        statuses = [(await client.get(path)).status_code for path in paths]

    assert [200, 401, 401, 401] == statuses


async def test_a_mounted_app_finds_the_caller(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """An ASGI app that is mounted has the user and the downstream APIs in its scope."""

    @asgi("/mounted", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        answer = await scope["obo_asgi"]["partner"].get("orders")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = scope["user"].display_name.encode() + answer.content
        await send({"type": "http.response.body", "body": body})

    async with running(obo, mounted) as client:
        response = await client.get("/mounted/any", headers=entra.bearer("alice"))

    assert 'Alice{"owner": "Alice"}' == response.text


@pytest.mark.parametrize(
    ("path", "expected"), [("/api/health", 200), ("/api/me", 401), ("/api/api/health", 401)]
)
async def test_paths_are_below_the_root_path(obo: OnBehalfOf, path: str, expected: int) -> None:
    """Behind a prefix, what is public is decided as the router sees it."""

    @get(["/me", "/api/health"], sync_to_thread=False)
    def secret() -> str:
        return "secret"

    app: Any = create_app(obo, [health, secret], plugin={"public_paths": ["/health"]})
    transport = httpx.ASGITransport(app, root_path="/api")
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        response = await client.get(path)

    assert expected == response.status_code


async def test_without_a_token_where_that_is_allowed(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """An anonymous caller reaches a handler, and is asked for a token where a user is needed."""

    @get("/who", sync_to_thread=False)
    def who(request: Request[Any, Any, Any]) -> bool:
        return bool(request.user.is_authenticated)

    @get("/name", sync_to_thread=False)
    def name(user: NamedDependency[User]) -> str:
        return user.display_name

    async with running(obo, who, name, me, plugin={"optional": True}) as client:
        answers = [await client.get(path) for path in ("/who", "/name", "/me")]
        known = await client.get("/who", headers=entra.bearer())

    assert [200, 401, 401] == [answer.status_code for answer in answers]
    assert ("false", "true") == (answers[0].text, known.text)


@pytest.mark.parametrize("in_thread", [False, True])
async def test_synchronous_handlers(entra: FakeEntra, obo: OnBehalfOf, in_thread: bool) -> None:
    """A handler that is not async is given the user, in a thread or not."""

    @get("/name", media_type=MediaType.TEXT, sync_to_thread=in_thread)
    def name(user: NamedDependency[User]) -> str:
        return user.display_name

    async with running(obo, name) as client:
        response = await client.get("/name", headers=entra.bearer("bob"))

    assert "Bob" == response.text


async def test_dependencies_of_the_user_win(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """An app that calls something of its own "user" keeps it."""

    @get("/name", sync_to_thread=False)
    def name(user: NamedDependency[str]) -> str:
        return user

    own = {"user": Provide(lambda: "own", sync_to_thread=False)}
    async with running(obo, name, dependencies=own) as client:
        response = await client.get("/name", headers=entra.bearer())

    assert "own" == response.text


@get("/q", sync_to_thread=False)
def of_a_query(user: str = "nobody") -> str:
    return user


@get("/q", sync_to_thread=False)
def of_queries(downstream: list[str] | None = None) -> str:
    return str(downstream)


@get("/q", dependencies={"greeting": Provide(of_a_query.fn, sync_to_thread=False)})
async def by_a_dependency(greeting: NamedDependency[str]) -> str:
    return greeting


@websocket("/q")
async def of_a_socket(socket: WebSocket[Any, Any, Any], user: str) -> None:
    await socket.close()


@pytest.mark.filterwarnings("ignore:.*Inferred:DeprecationWarning")
@pytest.mark.parametrize("handler", [of_a_query, of_queries, by_a_dependency, of_a_socket])
def test_a_parameter_of_the_name_for_something_else_is_told(obo: OnBehalfOf, handler: Any) -> None:
    """A query parameter called "user" or "downstream" ends the start, not each of its requests."""
    with pytest.raises(ConfigurationError, match=r"is given our \w+: rename it"):
        create_app(obo, [handler])


@pytest.mark.parametrize("kind", [User, User | None, Any, object])
async def test_a_parameter_that_may_be_the_user_is_filled(
    entra: FakeEntra, obo: OnBehalfOf, kind: Any
) -> None:
    """A handler may leave open what its user is."""

    def name(user: Any) -> str:
        return str(user.display_name)

    name.__annotations__["user"] = NamedDependency[kind]  # type: ignore[misc]  # no type to mypy
    async with running(obo, get("/name", sync_to_thread=False)(name)) as client:
        response = await client.get("/name", headers=entra.bearer())

    assert "Alice" == response.text


async def test_a_handler_can_be_tested_alone() -> None:
    """A handler's function takes a stand-in for the downstream APIs."""
    downstream = fake_downstream(partner={"orders/200": {"owner": "Alice"}})

    assert Orders("Alice") == await call.fn(status=200, downstream=downstream)


# --- Guards -------------------------------------------------------------------------------------


class Guarded(Controller):
    path = "/controller"
    guards = [requires("write")]  # noqa: RUF012

    @get(sync_to_thread=False)
    def read(self) -> str:
        return "ok"


@get("/handler", guards=[requires("write")], sync_to_thread=False)
def guarded() -> str:
    return "ok"


@get("/", sync_to_thread=False)
def plain() -> str:
    return "ok"


@pytest.mark.parametrize("path", ["/handler", "/controller", "/router"])
async def test_guards_on_any_layer(entra: FakeEntra, obo: OnBehalfOf, path: str) -> None:
    """Who lacks the scope gets a 403 whose challenge names it; who has it gets in."""
    router = Router("/router", route_handlers=[plain], guards=[requires("write")])
    async with running(obo, guarded, Guarded, router) as client:
        refused = await client.get(path, headers=entra.bearer(scp="read"))
        admitted = await client.get(path, headers=entra.bearer(scp="read write"))

    challenge = parse_challenge(refused)
    assert (403, 200) == (refused.status_code, admitted.status_code)
    assert {"error": "insufficient_scope", "scope": "write"}.items() <= refused.json().items()
    assert challenge is None or "insufficient_scope" == challenge.error
    assert 'scope="write"' in refused.headers["WWW-Authenticate"]


async def test_a_guard_on_a_public_handler_asks_for_a_token(obo: OnBehalfOf) -> None:
    """An anonymous caller gets a 401, not a 403."""

    @get("/page", opt=PUBLIC, guards=[requires("write")], sync_to_thread=False)
    def page() -> str:
        return "ok"

    async with running(obo, page) as client:
        response = await client.get("/page")

    assert (401, TOKEN_REQUIRED) == (response.status_code, response.headers["WWW-Authenticate"])


async def test_a_guard_takes_scopes_or_roles(entra: FakeEntra) -> None:
    """One guard lets in a user with one of the scopes, and a daemon with the role."""
    obo = on_behalf_of(entra, app_roles=["Read.All"])

    @get(
        "/page",
        guards=[requires(any_of("read", "write"), roles=["Read.All"])],
        sync_to_thread=False,
    )
    def page() -> str:
        return "ok"

    daemon = entra.bearer(None, None, roles=["Read.All"])
    callers = [entra.bearer(scp="write"), entra.bearer(scp="other"), daemon]
    async with running(obo, page) as client:
        answers = [await client.get("/page", headers=headers) for headers in callers]

    assert [200, 403, 200] == [answer.status_code for answer in answers]


def test_a_guard_of_nothing_is_refused() -> None:
    """A guard that would let everybody in is a mistake that is told at once."""
    with pytest.raises(ConfigurationError, match="name what is required"):
        requires()


# --- WebSockets ---------------------------------------------------------------------------------


@websocket("/live")
async def live(socket: WebSocket[Any, Any, Any], downstream: NamedDependency[Downstream]) -> None:
    assert downstream is downstream_from(socket)
    await socket.accept()
    orders = await downstream["partner"].get("orders", into=Orders)
    await socket.send_json({"owner": orders.owner, "user": socket.user.display_name})
    await socket.close()


@websocket("/guarded", guards=[requires("write")])
async def guarded_socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.close()


async def test_a_websocket_calls_as_its_user(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """The handler of a WebSocket has the user and the downstream APIs."""
    async with running(obo, live) as client:
        with await client.websocket_connect("/live", headers=entra.bearer()) as socket:
            received = socket.receive_json()

    assert {"owner": "Alice", "user": "Alice"} == received


async def test_a_websocket_needs_a_token(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Without a token, with a bad one, or with a guard's scope missing, it is not accepted."""
    attempts = [("/live", {}), ("/live", entra.bearer(lifetime=-600)), ("/guarded", entra.bearer())]
    async with running(obo, live, guarded_socket) as client:
        sent = [await handshake(client.app, path, headers) for path, headers in attempts]
        accepted = await handshake(client.app, "/guarded", entra.bearer(scp="write"))
        attempt = await client.websocket_connect("/live")
        with pytest.raises(WebSocketDisconnect) as refusal, attempt:
            pass

    assert [["websocket.close"]] * 3 == [[message["type"] for message in one] for one in sent]
    assert [1008] * 3 == [one[0]["code"] for one in sent]
    assert 1008 == refusal.value.code
    assert "websocket.accept" == accepted[0]["type"]


@websocket("/dependency", opt=PUBLIC)
async def anonymous_socket(
    socket: WebSocket[Any, Any, Any],
    downstream: NamedDependency[Downstream],
    user: NamedDependency[User],
) -> None:
    await socket.accept()


@websocket("/call")
async def calling_socket(socket: WebSocket[Any, Any, Any]) -> None:
    if socket.headers.get("accept-first"):
        await socket.accept()
    await downstream_from(socket)["partner"].get("orders", into=Orders)


UNACCEPTED: dict[str, tuple[int, str]] = {
    "/dependency": (401, 'Bearer realm=""'),
    "/guarded": (403, 'scope="write"'),
    "/call": (401, 'error="consent_required"'),
}


@pytest.mark.parametrize("path", list(UNACCEPTED))
async def test_an_error_before_a_websocket_is_accepted_is_answered(
    entra: FakeEntra, obo: OnBehalfOf, path: str
) -> None:
    """A dependency, a guard or a call that fails is a denial with a challenge, or a close 1008."""
    entra.withdraw_consent("alice", resource="api://partner")
    app: Any = create_app(obo, [anonymous_socket, guarded_socket, calling_socket])
    headers = [] if path == "/dependency" else list(entra.bearer("alice").items())
    start, body = await converse(app, path, headers, can_deny=True)
    (closed,) = await converse(app, path, headers)

    status, challenge = UNACCEPTED[path]
    assert ("websocket.http.response.start", status) == (start["type"], start["status"])
    assert challenge in dict(start["headers"])[b"www-authenticate"].decode()
    assert b"error" in body["body"]
    assert ("websocket.close", 1008) == (closed["type"], closed["code"])


@pytest.mark.parametrize(
    ("options", "first"), [({}, "1"), ({"on_error": None}, "")], ids=["accepted", "left alone"]
)
async def test_other_errors_of_a_websocket_are_litestar_s(
    entra: FakeEntra, obo: OnBehalfOf, options: dict[str, Any], first: str
) -> None:
    """Once it is accepted, or with on_error=None, Litestar closes it, and its hooks run once."""
    entra.withdraw_consent("alice", resource="api://partner")
    seen: list[str] = []

    async def hook(error: Exception, scope: Any) -> None:
        seen.append(type(error).__name__)

    app: Any = create_app(obo, [calling_socket], plugin=options, after_exception=[hook])
    headers = [*entra.bearer("alice").items(), *([("Accept-First", first)] if first else [])]
    *_, closed = await converse(app, "/call", headers, can_deny=True)

    assert ("websocket.close", 4500) == (closed["type"], closed["code"])
    assert ["InteractionRequiredError"] == seen


async def handshake(app: Any, path: str, headers: dict[str, str]) -> list[Any]:
    """Return what an app says to a WebSocket's connect message."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "subprotocols": [],
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    return sent


# --- What handlers raise ------------------------------------------------------------------------


async def test_a_missing_consent_is_a_challenge(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """What the user has to do reaches the client as a 401 with a challenge."""
    entra.withdraw_consent("alice", resource="api://partner")
    async with running(obo, me) as client:
        response = await client.get("/me", headers=entra.bearer("alice"))

    challenge = parse_challenge(response)
    assert challenge is not None
    assert (401, "consent_required") == (response.status_code, challenge.error)
    assert (SCOPE,) == tuple(challenge.scopes)
    assert "application/json" == response.headers["Content-Type"]
    assert len(response.content) == int(response.headers["Content-Length"])


@pytest.mark.parametrize(("status", "expected"), [(404, 404), (500, 502), (429, 503)])
async def test_a_failing_api(entra: FakeEntra, obo: OnBehalfOf, status: int, expected: int) -> None:
    """A DownstreamError becomes problem details."""
    async with running(obo, call) as client:
        response = await client.get(f"/call/{status}", headers=entra.bearer())

    assert expected == response.status_code
    assert "application/problem+json" == response.headers["Content-Type"]
    assert ("Retry-After" in response.headers) is (503 == expected)


@pytest.mark.parametrize("consented", [True, False])
async def test_a_group_of_errors(entra: FakeEntra, obo: OnBehalfOf, consented: bool) -> None:
    """What a TaskGroup raises is answered for what is inside."""

    @get("/both")
    async def both(downstream: NamedDependency[Downstream]) -> None:
        async with asyncio.TaskGroup() as group:
            for path in ("orders/404", "orders"):
                group.create_task(downstream["partner"].get(path, into=Orders))

    if not consented:
        entra.withdraw_consent("alice", resource="api://partner")
    async with running(obo, both) as client:
        response = await client.get("/both", headers=entra.bearer("alice"))

    assert (404 if consented else 401) == response.status_code


async def test_a_status_raised_by_httpx(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """What raise_for_status raises for a downstream API is answered like a DownstreamError."""

    @get("/raw")
    async def raw(downstream: NamedDependency[Downstream]) -> None:
        (await downstream["partner"].get("orders/404")).raise_for_status()

    async with running(obo, raw) as client:
        response = await client.get("/raw", headers=entra.bearer())

    assert (404, "Not Found") == (response.status_code, response.json()["title"])


def httpx_error() -> Exception:
    return httpx.ConnectError("down", request=httpx.Request("GET", "https://other"))


def httpx2_error() -> Exception:
    import httpx2

    return httpx2.ConnectError("down", request=httpx2.Request("GET", "https://other"))


def groups() -> Exception:
    return ExceptionGroup("two", [NotAuthorizedException("no"), OboError("unknown")])


def mistake() -> Exception:
    return ConfigurationError("say another thing")


@pytest.mark.parametrize("make", [httpx_error, httpx2_error, groups, mistake])
@pytest.mark.parametrize("debug", [False, True])
async def test_other_errors_are_litestar_s(
    entra: FakeEntra, obo: OnBehalfOf, make: Callable[[], Exception], debug: bool
) -> None:
    """What is not ours to answer ends as it does in an app without the plugin."""

    @get("/fail", opt=PUBLIC, sync_to_thread=False)
    def fail() -> None:
        raise make()

    without = Litestar([fail], logging_config=None, debug=debug)
    async with running(obo, fail, debug=debug) as ours, AsyncTestClient(without) as theirs:
        expected, actual = await theirs.get("/fail"), await ours.get("/fail")

    assert 500 == expected.status_code == actual.status_code
    assert debug or expected.content == actual.content
    assert expected.headers["Content-Type"] == actual.headers["Content-Type"]


async def test_httpx2_is_answered_where_it_is_loaded(obo: OnBehalfOf) -> None:
    """The other client's errors have a handler, but httpx2 is not imported for it."""
    import httpx2

    assert httpx2.HTTPError in create_app(obo, []).exception_handlers
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "httpx2")
        assert httpx2.HTTPError not in create_app(obo, []).exception_handlers
        assert "httpx2" not in sys.modules


def teapot(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    return Response({"error": type(error).__name__}, status_code=418)


@pytest.mark.parametrize("kind", [OboError, ValueError, Exception, 500])
async def test_a_users_handler_for_what_is_not_ours(obo: OnBehalfOf, kind: Any) -> None:
    """A handler of the app's own, for a base class or for 500, gets what is not answered."""

    @get("/fail", opt=PUBLIC, sync_to_thread=False)
    def fail() -> None:
        raise mistake()

    async with running(obo, fail, exception_handlers={kind: teapot}) as client:
        response = await client.get("/fail")

    assert (418, {"error": "ConfigurationError"}) == (response.status_code, response.json())


@pytest.mark.parametrize("layer", ["app", "handler"])
async def test_a_users_handler_wins(entra: FakeEntra, obo: OnBehalfOf, layer: str) -> None:
    """An exception handler of the app's own for our errors takes precedence, on any layer."""
    handlers: Any = {OboError: teapot}

    @get("/call", exception_handlers=handlers if layer == "handler" else None)
    async def fail(downstream: NamedDependency[Downstream]) -> Orders:
        return await downstream["partner"].get("orders/404", into=Orders)

    options = {"exception_handlers": handlers} if layer == "app" else {}
    async with running(obo, fail, **options) as client:
        response = await client.get("/call", headers=entra.bearer())

    assert (418, {"error": "DownstreamError"}) == (response.status_code, response.json())


async def test_litestar_s_own_errors_stay(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """An HTTPException of a handler is answered by Litestar."""

    @get("/gone", sync_to_thread=False)
    def gone() -> None:
        raise HTTPException("gone", status_code=410)

    async with running(obo, gone) as client:
        response = await client.get("/gone", headers=entra.bearer())

    assert {"status_code": 410, "detail": "gone"} == response.json()


async def test_errors_are_left_alone_on_demand(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """With on_error=None, what handlers raise is Litestar's to answer."""
    async with running(obo, call, plugin={"on_error": None}) as client:
        response = await client.get("/call/404", headers=entra.bearer())

    assert 500 == response.status_code


# --- Life cycle ---------------------------------------------------------------------------------


async def test_a_background_task_calls_as_the_user(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """The downstream APIs are there after the last byte, until the background task ends."""
    owners: list[str] = []

    async def work(downstream: Downstream) -> None:
        owners.append((await downstream["partner"].get("orders", into=Orders)).owner)

    @post("/later")
    async def later(downstream: NamedDependency[Downstream]) -> Response[str]:
        return Response("accepted", background=BackgroundTask(work, downstream))

    async with running(obo, later) as client:
        response = await client.post("/later", headers=entra.bearer())

    assert (201, ["Alice"]) == (response.status_code, owners)


async def test_it_opens_and_closes_with_the_app(entra: FakeEntra) -> None:
    """It is open for the first startup hook, and still for the last shutdown hook."""
    obo = on_behalf_of(entra)
    owners: list[str] = []

    async def hook() -> None:
        downstream = await obo.downstream_for(entra.token())
        owners.append((await downstream["partner"].get("orders", into=Orders)).owner)

    async with running(obo, me, on_startup=[hook], on_shutdown=[hook]):
        pass

    assert ["Alice", "Alice"] == owners


async def test_startup_fails_with_what_is_wrong(entra: FakeEntra, tmp_path: Any) -> None:
    """A configuration that cannot be used ends the startup with its sentence."""
    missing = ClientSecret.from_file(tmp_path / "secret")
    obo = on_behalf_of(entra, registration=entra.registration(client_credential=missing))
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    app: Any = create_app(obo, [me])
    with pytest.raises(ExceptionGroup) as failure:  # of Litestar's own task group
        await app({"type": "lifespan", "state": {}}, receive, send)

    (error,) = failure.value.exceptions
    assert isinstance(error, ConfigurationError)
    assert ["lifespan.startup.failed"] == [message["type"] for message in sent]
    assert str(error) in sent[0]["message"]


def test_a_wrong_option_is_told_at_once(obo: OnBehalfOf) -> None:
    """The plugin checks the middleware's options when it is made."""
    with pytest.raises(ConfigurationError, match="start with '/'"):
        OnBehalfOfPlugin(obo, public_paths=["health"])
    with pytest.raises(ConfigurationError, match="nobody"):
        OnBehalfOfPlugin(obo, acquire_first=["nobody"])
    with pytest.raises(TypeError, match="public"):
        OnBehalfOfPlugin(obo, public=["/health"])


async def test_one_plugin_serves_several_apps(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """A plugin may be given to more than one app."""
    plugin = OnBehalfOfPlugin(obo)
    statuses = []
    for _ in range(2):
        app = Litestar([me], plugins=[plugin], logging_config=None)
        async with AsyncTestClient(app) as client:
            statuses.append((await client.get("/me", headers=entra.bearer())).status_code)

    assert [200, 200] == statuses


# --- What the API says of itself ----------------------------------------------------------------


async def test_the_schema_says_how_to_get_a_token(entra: FakeEntra) -> None:
    """The document, which needs no token, has the tenant's URLs and the full scope names."""
    obo = on_behalf_of(entra, required_scopes=["access_as_user"])
    url = f"{entra.authority}/{entra.tenant_id}/oauth2/v2.0"
    scope = f"api://{obo.registration.client_id}/access_as_user"
    async with running(obo, me, health) as client:
        document = (await client.get("/schema/openapi.json")).json()
        page = await client.get("/schema")

    scheme = document["components"]["securitySchemes"]["entra"]
    flow = {
        "authorizationUrl": f"{url}/authorize",
        "tokenUrl": f"{url}/token",
        "scopes": {scope: "access_as_user"},
    }
    assert {"type": "oauth2", "flows": {"authorizationCode": flow}} == scheme
    assert [{"entra": [scope]}] == document["security"]
    assert [{}] == document["paths"]["/health"]["get"]["security"]
    assert "security" not in document["paths"]["/me"]["get"]
    assert 200 == page.status_code


@get("/guard", opt=PUBLIC, guards=[requires("write")], sync_to_thread=False)
def guarded_page() -> str:
    return "ok"


@get("/name", opt=PUBLIC, sync_to_thread=False)
def named_page(user: NamedDependency[User]) -> str:
    return user.display_name


@get("/open", sync_to_thread=False)
def open_page() -> str:
    return "ok"


@get(["/one", "/other"], sync_to_thread=False)
def page_of_two_paths() -> str:
    return "ok"


DOCUMENTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {"/health": [{}], "/guard": "all", "/name": "all"}),
    "public paths": (
        {"public_paths": ["/open", "/one"]},
        {"/health": [{}], "/guard": "all", "/name": "all", "/open": [{}]},
    ),
    "optional": (
        {"optional": True},
        {"/health": [{}], "/guard": "all", "/name": "all", "/me": "all"},
    ),
}


@pytest.mark.parametrize(
    ("what", "required"),
    [
        ("as it is", None),
        ("as it is", ["read", "write"]),
        *((what, any_of("read", "write")) for what in DOCUMENTED),
    ],
)
def test_the_schema_says_who_needs_a_token(entra: FakeEntra, what: str, required: Any) -> None:
    """It lists alternatives, no token where none is needed, and one where a guard wants it."""
    options, expected = DOCUMENTED[what]
    obo = on_behalf_of(entra, required_scopes=required)
    handlers = [me, health, guarded_page, named_page, open_page, page_of_two_paths]
    document = create_app(obo, handlers, plugin=options).openapi_schema.to_schema()

    base = f"api://{obo.registration.client_id}"
    read, write = f"{base}/read", f"{base}/write"
    every: list[Any] = [{"entra": [read]}, {"entra": [write]}]
    if required is None or isinstance(required, list):
        every = [{"entra": [f"{base}/.default"] if required is None else [read, write]}]
    operations = {path: item["get"].get("security") for path, item in document["paths"].items()}
    found = {path: security for path, security in operations.items() if security is not None}
    assert {path: every if said == "all" else said for path, said in expected.items()} == found
    assert [*every, *([{}] if what == "optional" else [])] == document["security"]


async def test_the_schema_is_true(entra: FakeEntra) -> None:
    """Without a token, what the document says to need one is a 401, and the rest is not."""
    handlers = [me, health, guarded_page, named_page, open_page]
    for options, _ in DOCUMENTED.values():
        obo = on_behalf_of(entra)
        async with running(obo, *handlers, plugin=options) as client:
            document = (await client.get("/schema/openapi.json")).json()
            for path, item in document["paths"].items():
                security = item["get"].get("security", document["security"])
                assert (401 if {} not in security else 200) == (await client.get(path)).status_code


async def test_the_users_own_schema_stays(obo: OnBehalfOf) -> None:
    """Our scheme comes to the components and the security of the app's own configuration."""
    key = SecurityScheme(type="apiKey", name="key", security_scheme_in="header")
    one = Components(security_schemes={"key": key})
    for components in (one, [one, Components()]):
        config = OpenAPIConfig(
            "Mine", "2", components=components, security=[{"key": []}], path="/docs"
        )
        async with running(obo, me, openapi_config=config) as client:
            document = (await client.get("/docs/openapi.json")).json()

        assert {"key", "entra"} == set(document["components"]["securitySchemes"])
        default = f"api://{obo.registration.client_id}/.default"
        assert [{"key": []}, {"entra": [default]}] == document["security"]
        assert [{"key": []}] == config.security
        assert config.openapi_router is None


async def test_the_schema_can_be_protected(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """With public_schema=False the pages need a token; without OpenAPI there are none."""
    paths = ["/schema", "/schema/openapi.json"]
    async with running(obo, me, plugin={"public_schema": False}) as client:
        without = [(await client.get(path)).status_code for path in paths]
        admitted = await client.get("/schema/openapi.json", headers=entra.bearer())
    async with running(obo, me, openapi_config=None) as client:
        missing = await client.get("/schema")

    assert [401, 401] == without
    assert (200, 404) == (admitted.status_code, missing.status_code)


async def test_a_handler_beside_the_schema_is_not_public(obo: OnBehalfOf) -> None:
    """Public are the pages themselves, not whatever has a path below theirs."""

    @get("/schema/private/page", sync_to_thread=False)
    def private() -> str:
        return "secret"

    async with running(obo, private) as client:
        response = await client.get("/schema/private/page")

    assert 401 == response.status_code


def test_a_description_that_nobody_finds_is_told(obo: OnBehalfOf) -> None:
    """A path for the whole app would move the description: the start says what to change."""
    resource = ProtectedResource(resource="https://api.example.com/api")
    plugin = {"resource": resource}
    with pytest.raises(ConfigurationError, match="give the path to a Router"):
        create_app(obo, [me], path="/api", plugin=plugin)
    create_app(obo, [Router("/api", route_handlers=[me])], path="/", plugin=plugin)
    create_app(obo, [me], path="/api")


async def test_the_api_describes_itself(entra: FakeEntra) -> None:
    """With a resource, its description has a route, and every challenge names it."""
    obo = on_behalf_of(entra, required_scopes=["access_as_user"])
    resource = ProtectedResource(resource="https://api.example.com")
    where = "/.well-known/oauth-protected-resource"

    @get("/page", opt=PUBLIC, sync_to_thread=False)
    def page(user: NamedDependency[User]) -> str:
        return user.oid

    async with running(obo, me, page, plugin={"resource": resource}) as client:
        document = await client.get(where)
        challenges = [
            (await client.get(path)).headers["WWW-Authenticate"] for path in ("/me", "/page")
        ]
        schema = (await client.get("/schema/openapi.json")).json()
        refused = await handshake(client.app, where, {})
        unknown = await handshake(client.app, where, entra.bearer())

    scope = "https://api.example.com/access_as_user"
    assert ("https://api.example.com", [scope]) == (
        document.json()["resource"],
        document.json()["scopes_supported"],
    )
    assert challenges[0] == challenges[1]
    assert f'resource_metadata="https://api.example.com{where}"' in challenges[0]
    assert [{"entra": [scope]}] == schema["security"]
    assert ["websocket.close"] * 2 == [refused[0]["type"], unknown[0]["type"]]
