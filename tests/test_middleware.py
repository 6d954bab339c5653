"""The middleware: nobody gets past it without a token, and it is in nobody's way with one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi import (
    SCOPE_KEY,
    AccessDeniedError,
    AssertionRejectedError,
    AuthenticationRequiredError,
    ClientSecret,
    ConfigurationError,
    DownstreamAPI,
    DownstreamError,
    DownstreamTimeoutError,
    ErrorResponse,
    ExpiredTokenError,
    InsufficientScopeError,
    InteractionRequiredError,
    InvalidTokenError,
    KeysUnavailableError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    TokenAcquisitionError,
    downstream_from,
)
from obo_asgi.testing import FakeEntra, serve

pytestmark = pytest.mark.anyio

PARTNER = "https://partnerapi.example.com"
PARTNER_ID = "api://partner-api-id"

Scope = Any
App = Callable[[Any, Any, Any], Awaitable[None]]
Header = tuple[bytes, bytes]


def client_secret_of(entra: FakeEntra) -> str:
    (credential,) = entra.registration().credentials
    assert isinstance(credential, ClientSecret)
    return credential.reveal()


@dataclass
class Answer:
    """A response as it was sent."""

    status: int
    raw_headers: Sequence[Header]
    body: bytes

    @property
    def headers(self) -> httpx.Headers:
        return httpx.Headers(list(self.raw_headers))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """The receive and send of a server, by hand."""

    def __init__(self, incoming: Iterable[Mapping[str, Any]] = ()) -> None:
        self.incoming = list(incoming)
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        return self.incoming.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def answer(self) -> Answer:
        start, *bodies = self.sent
        return Answer(
            start["status"],
            start.get("headers", []),
            b"".join(body.get("body", b"") for body in bodies),
        )


def http_scope(path: str = "/me", headers: Iterable[Header] = (), **fields: Any) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("api.example.com", 443),
        **fields,
    }


def websocket_scope(path: str = "/live", headers: Iterable[Header] = (), **fields: Any) -> Scope:
    return http_scope(path, headers, **{"type": "websocket", "subprotocols": [], **fields})


def bearer(token: str) -> Header:
    return (b"authorization", b"Bearer " + token.encode())


async def request(
    app: App, path: str = "/me", headers: Iterable[Header] = (), **scope: Any
) -> Answer:
    exchange = Exchange([{"type": "http.request", "body": scope.pop("body", b"")}])
    await app(http_scope(path, headers, **scope), exchange.receive, exchange.send)
    return exchange.answer


async def answer_with(send: Any, status: int = 200, body: bytes = b"", **headers: str) -> None:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


class WhoAmI:
    """An app that says who calls, and remembers the scopes that it was called with."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        user = scope["user"]
        await answer_with(send, body=user.identity.encode())


async def partner(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the status that the path ends in; ``/slow`` takes a second."""
    name = scope["path"].rpartition("/")[2]
    if name == "slow":
        await asyncio.sleep(1)
    await answer_with(send, int(name) if name.isdigit() else 200, b"{}", retry_after="7")


def on_behalf_of(entra: FakeEntra, **options: Any) -> OnBehalfOf:
    entra.add_api(PARTNER_ID, scopes=["read"])
    api = DownstreamAPI(base_url=PARTNER, scopes=[f"{PARTNER_ID}/read"], timeout=0.05)
    client = entra.client(apps={PARTNER: partner})
    return OnBehalfOf(
        entra.registration(), **{"downstream": {"partner": api}, "http_client": client, **options}
    )


@pytest.fixture
def entra() -> FakeEntra:
    return FakeEntra()


@pytest.fixture
def obo(entra: FakeEntra) -> OnBehalfOf:
    return on_behalf_of(entra)


@pytest.fixture
def app() -> WhoAmI:
    return WhoAmI()


def identity(entra: FakeEntra, name: str = "alice") -> bytes:
    return f"{entra.tenant_id}.{entra.user(name).oid}".encode()


# --- Which header is read -------------------------------------------------------------------------

ENTRA = FakeEntra()
GOOD = ENTRA.token().encode()

_schemes = st.sampled_from(
    [b"Bearer", b"bearer", b"BEARER", b"bEaReR", b"Basic", b"DPoP", b"Bear", b"Bearer:", b""]
)
_gaps = st.sampled_from([b" ", b" ", b"  ", b"\t", b" \t", b"", b"\xa0"])
_tokens = st.sampled_from(
    [GOOD, GOOD, GOOD, b"", b"abc", b"a.b.c", b"a,b", b'"a"', b"\xe4", b"a=b"]
)
_ends = st.sampled_from(
    [
        b"",
        b"",
        b"",
        b" ",
        b"\t",
        b",",
        b", Bearer x",
        b"," + GOOD,
        b"=",
        b"\r\n",
        b"\0",
        b" x",
        b";",
    ]
)
_values = st.one_of(
    st.builds(lambda *parts: b"".join(parts), _schemes, _gaps, _tokens, _ends), st.binary()
)


@given(st.lists(_values, min_size=1, max_size=2))
async def test_exactly_one_well_formed_header_gets_in(values: list[bytes]) -> None:
    """One header with ``Bearer``, one space and one good token: all else is an invalid token."""
    app = OnBehalfOfMiddleware(WhoAmI(), on_behalf_of(ENTRA))
    answer = await request(app, headers=[(b"authorization", value) for value in values])
    is_good = len(values) == 1 and values[0][:7].lower() == b"bearer " and values[0][7:] == GOOD
    assert (200 if is_good else 401) == answer.status
    assert is_good or 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "values",
    [
        [b"Bearer  {}"],
        [b"Bearer\t{}"],
        [b" Bearer {}"],
        [b"Bearer {} "],
        [b"Bearer {},{}"],
        [b"Bearer {}, Bearer {}"],
        [b"Bearer"],
        [b"Bearer "],
        [b""],
        [b"Basic {}"],
        [b"{}"],
        [b"Bearer {}", b"Bearer {}"],
        [b"Bearer {}", b""],
        [b"Basic dTpw", b"Bearer {}"],
        [b"Bearer \xc3\xa4{}"],
        [b"Bearer {}\x00"],
        [b"Bearer {}\r\nX: y"],
    ],
    ids=repr,
)
async def test_a_malformed_header_is_an_invalid_token(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI, values: list[bytes]
) -> None:
    """A header that is there but not well-formed is a 401 with an error code, and no call."""
    good = entra.token().encode()
    headers = [(b"authorization", value.replace(b"{}", good)) for value in values]
    answer = await request(OnBehalfOfMiddleware(app, obo), headers=headers)
    assert (401, "invalid_token", []) == (answer.status, answer.json["error"], app.scopes)


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
async def test_the_scheme_is_case_insensitive(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI, scheme: bytes
) -> None:
    """The name of the scheme may be in any case (RFC 9110 section 11.1)."""
    headers = [(b"authorization", scheme + b" " + entra.token().encode())]
    assert identity(entra) == (await request(OnBehalfOfMiddleware(app, obo), headers=headers)).body


async def test_without_a_token_the_challenge_has_no_error(obo: OnBehalfOf, app: WhoAmI) -> None:
    """A request without a token gets a bare challenge (RFC 6750 section 3.1) that nobody stores."""
    answer = await request(OnBehalfOfMiddleware(app, obo))
    assert (401, 'Bearer realm=""') == (answer.status, answer.headers["www-authenticate"])
    assert "no-store" == answer.headers["cache-control"]
    assert str(len(answer.body)) == answer.headers["content-length"]
    assert [] == app.scopes


def _header(name: str, value: str = "{}") -> Callable[[str], dict[str, Any]]:
    return lambda token: {"headers": [(name.encode(), value.replace("{}", token).encode())]}


ELSEWHERE: dict[str, Callable[[str], dict[str, Any]]] = {
    "query": lambda token: {"query_string": f"access_token={token}".encode()},
    "path": lambda token: {"path": f"/Bearer {token}"},
    "form": lambda token: {
        "method": "POST",
        "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
        "body": f"access_token={token}".encode(),
    },
    "cookie": _header("cookie", "access_token={}; Authorization=Bearer {}"),
    "subprotocol": _header("sec-websocket-protocol", "bearer, {}"),
    "proxy": _header("proxy-authorization", "Bearer {}"),
    "forwarded": _header("x-forwarded-authorization", "Bearer {}"),
    "easy-auth": _header("x-ms-token-aad-access-token"),
    "principal": _header("x-ms-client-principal"),
}


@pytest.mark.parametrize("where", list(ELSEWHERE))
async def test_a_token_elsewhere_is_not_read(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI, where: str
) -> None:
    """Only the Authorization header carries a token; elsewhere it counts as none."""
    answer = await request(OnBehalfOfMiddleware(app, obo), **ELSEWHERE[where](entra.token()))
    assert (401, "token_required", []) == (answer.status, answer.json["error"], app.scopes)


# --- Public paths, optional authentication, methods -----------------------------------------------


@pytest.mark.parametrize(
    ("path", "root_path", "is_public"),
    [
        ("/health", "", True),
        ("/api/health", "/api", True),
        ("/api//health", "/api/", True),
        ("/health", "/api", True),
        ("/health", "/heal", True),
        ("/api", "/api", True),
        ("/", "", True),
        ("", "", False),
        ("/health/", "", False),
        ("//health", "", False),
        ("/health%2f", "", False),
        ("/%68ealth", "", False),
        ("/HEALTH", "", False),
        ("/health/..", "", False),
        ("/health/../me", "", False),
        ("/me/../health", "", False),
        ("/./health", "", False),
        ("/health;x", "", False),
        ("/health?x", "", False),
        ("/health\x00", "", False),
        ("/health ", "", False),
        ("/healthz", "", False),
        ("/me/health", "", False),
        ("/api/health", "", False),
        ("/api/health", "/api/", False),
        ("/apihealth", "/api", False),
        ("/api//health", "/api", False),
        ("/api/api/health", "/api", False),
        ("/other/health", "/api", False),
    ],
)
async def test_public_paths_are_exact(
    obo: OnBehalfOf, app: WhoAmI, path: str, root_path: str, is_public: bool
) -> None:
    """A path is public only if the app's router sees it letter for letter, below ``root_path``."""
    protected = OnBehalfOfMiddleware(app, obo, public_paths=["/health", "/"])
    answer = await request(protected, path, root_path=root_path)
    assert (200 if is_public else 401) == answer.status
    assert is_public == bool(app.scopes)


async def test_only_the_dispatched_path_makes_public(obo: OnBehalfOf, app: WhoAmI) -> None:
    """What proxies and clients say about the path in other places does not count."""
    protected = OnBehalfOfMiddleware(app, obo, public_paths=["/health"])
    names = (
        b"x-original-url",
        b"x-rewrite-url",
        b"x-forwarded-prefix",
        b"x-forwarded-uri",
        b"host",
    )
    headers = [(name, b"/health") for name in names]
    answer = await request(protected, "/me", headers, raw_path=b"/health", query_string=b"/health")
    assert 401 == answer.status


@pytest.mark.parametrize("token", ["good", "bad", None])
async def test_on_a_public_path_everybody_is_anonymous(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI, token: str | None
) -> None:
    """On a public path no token is read, neither a good nor a bad one."""
    protected = OnBehalfOfMiddleware(app, obo, public_paths=["/health"])
    value = entra.token() if token == "good" else token
    answer = await request(protected, "/health", [bearer(value)] if value else [])
    assert (200, b"") == (answer.status, answer.body)
    scope = app.scopes[0]
    assert (None, False, []) == (
        scope[SCOPE_KEY],
        scope["user"].is_authenticated,
        scope["auth"].scopes,
    )


async def test_an_anonymous_caller_has_no_downstream(obo: OnBehalfOf) -> None:
    """A handler that needs a user on a public path answers 401 by itself."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        downstream_from(scope)

    answer = await request(OnBehalfOfMiddleware(app, obo, public_paths=["/health"]), "/health")
    assert (401, 'Bearer realm=""') == (answer.status, answer.headers["www-authenticate"])


async def test_a_missing_middleware_is_named() -> None:
    """Without the middleware there is no downstream, and the error says what to add."""
    with pytest.raises(ConfigurationError, match="OnBehalfOfMiddleware"):
        downstream_from(http_scope())


@pytest.mark.parametrize(
    ("headers", "status"),
    [([], 200), (["good"], 200), (["bad"], 401), (["good", "good"], 401), (["app"], 403)],
    ids=["missing", "good", "bad", "twice", "app-only"],
)
async def test_optional_is_not_lenient(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI, headers: list[str], status: int
) -> None:
    """Where authentication is optional a missing token is anonymous, and a bad one is still bad."""
    tokens = {"good": entra.token(), "bad": entra.token(lifetime=-600), "app": entra.token(None)}
    sent = [bearer(tokens[name]) for name in headers]
    answer = await request(OnBehalfOfMiddleware(app, obo, optional=True), headers=sent)
    expected = identity(entra) if headers == ["good"] else b""
    assert status == answer.status
    assert [expected] * (status == 200) == [s["user"].identity.encode() for s in app.scopes]


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", ""]
)
async def test_every_method_is_protected(obo: OnBehalfOf, app: WhoAmI, method: str) -> None:
    """No method is let through without a token, known or not, overridden or not."""
    headers = [(b"x-http-method-override", b"GET"), (b"origin", b"https://spa.example")]
    answer = await request(OnBehalfOfMiddleware(app, obo), headers=headers, method=method)
    assert (401, []) == (answer.status, app.scopes)


ORIGIN = (b"origin", b"https://spa.example")
ASKS_METHOD = (b"access-control-request-method", b"PUT")


@pytest.mark.parametrize(
    ("opted_in", "method", "headers", "status"),
    [
        (True, "OPTIONS", [ORIGIN, ASKS_METHOD], 200),
        (True, "OPTIONS", [ORIGIN], 401),
        (True, "OPTIONS", [ASKS_METHOD], 401),
        (True, "OPTIONS", [], 401),
        (True, "GET", [ORIGIN, ASKS_METHOD], 401),
        (True, "options", [ORIGIN, ASKS_METHOD], 401),
        (True, "OPTIONS", [ORIGIN, ASKS_METHOD, bearer("bad")], 401),
        (False, "OPTIONS", [ORIGIN, ASKS_METHOD], 401),
    ],
)
async def test_preflight_passes_by_opt_in_only(
    obo: OnBehalfOf, app: WhoAmI, opted_in: bool, method: str, headers: list[Header], status: int
) -> None:
    """A CORS preflight needs no token where that was asked for, and only if it is one."""
    protected = OnBehalfOfMiddleware(app, obo, cors_preflight=opted_in)
    assert status == (await request(protected, headers=headers, method=method)).status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"public_paths": "/health"}, "list"),
        ({"public_paths": ["health"]}, "start with"),
        ({"public_paths": [""]}, "start with"),
        ({"public_paths": [7]}, "start with"),
        ({"public_paths": 7}, "list of paths"),
        ({"public_paths": [["/health"]]}, "start with"),
        ({"public_paths": ["/static/*"]}, "patterns"),
        ({"public_paths": ["/item/{id}"]}, "patterns"),
        ({"public_paths": ["/health?x=1"]}, "queries"),
        ({"obo": "obo"}, "OnBehalfOf"),
    ],
)
async def test_a_wrong_argument_is_refused_at_once(
    obo: OnBehalfOf, app: WhoAmI, arguments: dict[str, Any], message: str
) -> None:
    """Public paths are exact paths, and the second argument is an OnBehalfOf."""
    with pytest.raises(ConfigurationError, match=message):
        OnBehalfOfMiddleware(app, **{"obo": obo, **arguments})


# --- The scope ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/me", "/health", "/optional"])
async def test_preset_keys_are_overwritten(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI, path: str
) -> None:
    """Whatever came in the scope: who calls is said by the middleware alone, on every path."""
    stranger = await on_behalf_of(entra).downstream_for(entra.token("bob"))
    preset = {SCOPE_KEY: stranger, "user": stranger.user, "auth": "root"}
    protected = OnBehalfOfMiddleware(
        app, obo, public_paths=["/health"], optional=path == "/optional"
    )
    headers = [bearer(entra.token())] if path == "/me" else []
    answer = await request(protected, path, headers, **preset)
    assert (identity(entra) if path == "/me" else b"") == answer.body
    scope = app.scopes[0]
    assert stranger is not scope[SCOPE_KEY]
    assert (["access_as_user"] if path == "/me" else []) == scope["auth"].scopes


@pytest.mark.parametrize("value", [True, 1, "alice", object(), {"user": "alice"}])
async def test_a_preset_key_is_no_pass(obo: OnBehalfOf, app: WhoAmI, value: object) -> None:
    """A value in the scope that this OnBehalfOf did not make does not stand for a token."""
    answer = await request(OnBehalfOfMiddleware(app, obo), obo_asgi=value, user=value)
    assert (401, []) == (answer.status, app.scopes)


async def test_the_app_finds_user_scopes_and_downstream(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI
) -> None:
    """A verified caller is in the scope in the places where Starlette and Litestar look."""
    await request(
        OnBehalfOfMiddleware(app, obo),
        headers=[bearer(entra.token(scp="read access_as_user", name="Alice"))],
    )
    scope = app.scopes[0]
    assert (True, "Alice") == (scope["user"].is_authenticated, scope["user"].display_name)
    assert ["read", "access_as_user"] == scope["auth"].scopes
    assert scope["user"] is downstream_from(scope).user


@pytest.mark.parametrize("path", ["/me", "/health"])
async def test_the_scope_is_copied(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI, path: str
) -> None:
    """The server's scope stays as it was; the app gets a copy."""
    scope = http_scope(path, [bearer(entra.token())])
    before = dict(scope)
    exchange = Exchange()
    await OnBehalfOfMiddleware(app, obo, public_paths=["/health"])(
        scope, exchange.receive, exchange.send
    )
    assert before == scope
    assert scope is not app.scopes[0]
    assert {SCOPE_KEY, "user", "auth"} == set(app.scopes[0]) - set(scope)


@pytest.mark.parametrize("kind", ["foo", "http2", "", "HTTP"])
async def test_an_unknown_scope_type_is_refused(obo: OnBehalfOf, app: WhoAmI, kind: str) -> None:
    """What the middleware cannot protect it does not pass on."""
    with pytest.raises(RuntimeError, match="unknown ASGI scope type"):
        await request(OnBehalfOfMiddleware(app, obo), type=kind)
    assert [] == app.scopes


async def test_mounted_twice_it_verifies_once(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI
) -> None:
    """An inner middleware of the same OnBehalfOf takes what the outer one found."""
    between: list[Any] = []

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        between.append(scope)
        await OnBehalfOfMiddleware(app, obo)(scope, receive, send)

    await request(OnBehalfOfMiddleware(layer, obo), headers=[bearer(entra.token())])
    assert between[0][SCOPE_KEY] is app.scopes[0][SCOPE_KEY]
    assert between[0]["user"] is app.scopes[0]["user"]


async def test_an_inner_middleware_does_not_end_the_outer_ones_downstream(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI
) -> None:
    """A layer between two middlewares may go on calling after the inner app has returned."""
    tokens = []

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        await OnBehalfOfMiddleware(app, obo)(scope, receive, send)
        tokens.append(await downstream_from(scope)["partner"].acquire_token())

    await request(OnBehalfOfMiddleware(layer, obo), headers=[bearer(entra.token())])
    assert 1 == len(tokens)


async def test_an_inner_middleware_still_answers_errors(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Errors become answers at the innermost middleware, before a framework makes them a 500."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise InsufficientScopeError(["read"])

    async def framework(scope: Any, receive: Any, send: Any) -> None:
        try:
            await OnBehalfOfMiddleware(failing, obo)(scope, receive, send)
        except Exception:
            await answer_with(send, 500)

    answer = await request(OnBehalfOfMiddleware(framework, obo), headers=[bearer(entra.token())])
    assert 403 == answer.status


async def test_inside_a_public_path_of_the_outer_one_the_inner_one_protects(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI
) -> None:
    """An outer middleware that let a caller in as anonymous has not verified for the inner one."""
    inner = OnBehalfOfMiddleware(app, obo)
    outer = OnBehalfOfMiddleware(inner, obo, public_paths=["/me"])
    assert 401 == (await request(outer)).status
    assert identity(entra) == (await request(outer, headers=[bearer(entra.token())])).body


async def test_another_on_behalf_of_verifies_anew(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI
) -> None:
    """What one OnBehalfOf accepted another one may refuse."""
    strict = on_behalf_of(entra, required_scopes=["admin"])
    stacked = OnBehalfOfMiddleware(OnBehalfOfMiddleware(app, strict), obo)
    assert 403 == (await request(stacked, headers=[bearer(entra.token())])).status
    assert (
        identity(entra) == (await request(stacked, headers=[bearer(entra.token(scp="admin"))])).body
    )


# --- Nothing in the way ---------------------------------------------------------------------------


async def test_ten_megabytes_pass_byte_by_byte(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Chunks of a request and of a response pass as they are: the same messages, in order."""
    block = hashlib.sha512(b"block").digest() * 1024
    incoming: list[Any] = [
        {"type": "http.request", "body": block, "more_body": True} for _ in range(160)
    ]
    incoming.append({"type": "http.request", "body": b"end"})
    exchange = Exchange(incoming)
    received: list[Any] = []

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            received.append(message := await receive())
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    await OnBehalfOfMiddleware(echo, obo)(
        http_scope(headers=[bearer(entra.token())]), exchange.receive, exchange.send
    )
    assert all(one is other for one, other in zip(received, incoming, strict=True))
    assert 160 * 65_536 + 3 == len(exchange.answer.body)
    assert block * 160 + b"end" == exchange.answer.body
    assert 162 == len(exchange.sent)


async def test_events_pass_when_they_are_sent(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """A server-sent event is with the client before the app sends the next one."""
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def events(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            body = f"data: {number}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
            assert body == (await asyncio.wait_for(seen.get(), 1))["body"]
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            seen.put_nowait(message)

    scope = http_scope(headers=[bearer(entra.token())])
    await OnBehalfOfMiddleware(events, obo)(scope, Exchange().receive, send)
    assert b"" == (await seen.get())["body"]


async def test_a_disconnect_reaches_the_app(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """An app that listens for it learns that its client has gone."""
    heard = []

    async def listener(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])

    exchange = Exchange([{"type": "http.disconnect"}])
    await OnBehalfOfMiddleware(listener, obo)(
        http_scope(headers=[bearer(entra.token())]), exchange.receive, exchange.send
    )
    assert (["http.disconnect"], []) == (heard, exchange.sent)


async def test_a_cancelled_request_is_cancelled(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Cancelling the server's task cancels the app, and ends its Downstream all the same."""
    kept = []

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        kept.append(downstream_from(scope))
        await asyncio.Event().wait()

    task = asyncio.create_task(
        request(OnBehalfOfMiddleware(waiting, obo), headers=[bearer(entra.token())])
    )
    while not kept:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(RuntimeError, match="start_session"):
        await kept[0]["partner"].acquire_token()


# --- Errors become answers ------------------------------------------------------------------------


def interaction(claims: str | None = None, suberror: str | None = None) -> InteractionRequiredError:
    error = InteractionRequiredError("consent", suberror=suberror)
    error.scopes, error.claims_challenge = (f"{PARTNER_ID}/read",), claims
    return error


ERRORS: dict[str, tuple[Exception, int, dict[str, str]]] = {
    "no-token": (AuthenticationRequiredError(), 401, {"www-authenticate": 'Bearer realm=""'}),
    "invalid": (InvalidTokenError("audience", "no"), 401, {"www-authenticate": "invalid_token"}),
    "expired": (ExpiredTokenError(), 401, {"www-authenticate": "invalid_token"}),
    "rejected": (AssertionRejectedError("no"), 401, {"www-authenticate": "invalid_token"}),
    "scope": (InsufficientScopeError(["a", "b"]), 403, {"www-authenticate": 'scope="a b"'}),
    "claims": (interaction('{"a":1}'), 401, {"www-authenticate": 'claims="eyJhIjoxfQ=="'}),
    "consent": (
        interaction(suberror="consent_required"),
        401,
        {"www-authenticate": 'error="consent_required"'},
    ),
    "sign-in": (interaction(), 401, {"www-authenticate": 'error="interaction_required"'}),
    "denied": (AccessDeniedError("no"), 403, {}),
    "keys": (KeysUnavailableError("no", retry_after=9), 503, {"retry-after": "9"}),
    "entra-busy": (TokenAcquisitionError("no", retry_after=8), 503, {"retry-after": "8"}),
    "misconfigured": (TokenAcquisitionError("no"), 500, {}),
    **{
        f"api-{status}": (DownstreamError("no", api="a", status_code=status), status, {})
        for status in (400, 404, 409, 412, 422)
    },
    **{
        f"api-{status}": (DownstreamError("no", api="a", status_code=status), 502, {})
        for status in (200, 302, 401, 403, 500, 502, None)
    },
    **{
        f"api-{status}": (
            DownstreamError("no", api="a", status_code=status, headers={"retry-after": "6"}),
            503,
            {"retry-after": "6"},
        )
        for status in (429, 503)
    },
    "api-busy": (DownstreamError("no", api="a", status_code=429), 503, {"retry-after": "5"}),
    "api-slow": (DownstreamTimeoutError("no", api="a"), 504, {}),
}


@pytest.mark.parametrize("is_grouped", [False, True], ids=["plain", "in-task-group"])
@pytest.mark.parametrize("what", list(ERRORS))
async def test_an_error_before_the_response_becomes_the_answer(
    entra: FakeEntra, obo: OnBehalfOf, what: str, is_grouped: bool
) -> None:
    """What a handler lets out before it answers is answered as the tree says, also in a group."""
    error, status, headers = ERRORS[what]

    async def fail() -> None:
        raise error

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        if is_grouped:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail())
        await fail()

    answer = await request(OnBehalfOfMiddleware(failing, obo), headers=[bearer(entra.token())])
    assert status == answer.status
    assert [] == [name for name, part in headers.items() if part not in answer.headers[name]]
    assert ("www-authenticate" in answer.headers) == (status == 401 or what == "scope")


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([DownstreamError("no", api="a"), interaction()], 401),
        (
            [ExceptionGroup("inner", [KeysUnavailableError("no", retry_after=1), interaction()])],
            401,
        ),
        ([DownstreamError("no", api="a"), DownstreamTimeoutError("no", api="b")], 502),
    ],
)
async def test_of_several_errors_the_user_hears_what_the_user_can_mend(
    entra: FakeEntra, obo: OnBehalfOf, errors: list[Exception], status: int
) -> None:
    """In a group an interaction comes first; else the first error speaks."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ExceptionGroup("several", errors)

    answer = await request(OnBehalfOfMiddleware(failing, obo), headers=[bearer(entra.token())])
    assert status == answer.status


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a handler's mistake"),
        ConfigurationError("wrong"),
        ExceptionGroup("both", [InvalidTokenError("a", "b"), ValueError("a handler's mistake")]),
        httpx.HTTPStatusError(
            "no", request=httpx.Request("GET", PARTNER), response=httpx.Response(404)
        ),
        httpx.ConnectError("no"),
        TimeoutError(),
    ],
    ids=[
        "ValueError",
        "configuration",
        "mixed-group",
        "foreign-status",
        "foreign-connect",
        "timeout",
    ],
)
async def test_what_is_not_ours_propagates(
    entra: FakeEntra, obo: OnBehalfOf, error: Exception
) -> None:
    """A handler's own exception, also of a client of its own, reaches the server untouched."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise error

    exchange = Exchange()
    with pytest.raises(type(error)) as caught:
        await OnBehalfOfMiddleware(failing, obo)(
            http_scope(headers=[bearer(entra.token())]), exchange.receive, exchange.send
        )
    assert error is caught.value
    assert [] == exchange.sent


async def test_an_error_after_the_start_of_the_response_propagates(
    entra: FakeEntra, obo: OnBehalfOf
) -> None:
    """A response that has started cannot become another one: the server must break it off."""
    error = InsufficientScopeError(["read"])

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    exchange = Exchange()
    with pytest.raises(InsufficientScopeError) as caught:
        await OnBehalfOfMiddleware(failing, obo)(
            http_scope(headers=[bearer(entra.token())]), exchange.receive, exchange.send
        )
    assert error is caught.value
    assert ["http.response.start"] == [message["type"] for message in exchange.sent]


async def get_and_raise(scope: Any, receive: Any, send: Any) -> None:
    """A handler that calls the path it was called with, as httpx users write it."""
    response = await downstream_from(scope)["partner"].get(scope["path"], params={"email": "a@b.c"})
    response.raise_for_status()
    await answer_with(send, body=response.content)


@pytest.mark.parametrize(
    ("path", "status", "retry_after"),
    [
        ("/200", 200, None),
        ("/404", 404, None),
        ("/409", 409, None),
        ("/401", 502, None),
        ("/403", 502, None),
        ("/500", 502, None),
        ("/302", 502, None),
        ("/503", 503, "7"),
        ("/429", 503, "7"),
        ("/slow", 504, None),
    ],
)
async def test_native_errors_of_a_downstream_call_become_answers(
    entra: FakeEntra, obo: OnBehalfOf, path: str, status: int, retry_after: str | None
) -> None:
    """httpx's own errors of our calls are answered like a DownstreamError."""
    app = OnBehalfOfMiddleware(get_and_raise, obo)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url=PARTNER
    ) as client:
        response = await client.get(path, headers=entra.bearer())
    assert (status, retry_after) == (response.status_code, response.headers.get("retry-after"))


async def test_an_unreachable_api_is_a_bad_gateway(entra: FakeEntra) -> None:
    """A connection that fails is a 502."""
    obo = on_behalf_of(entra, http_client=entra.client())
    answer = await request(
        OnBehalfOfMiddleware(get_and_raise, obo), headers=[bearer(entra.token())]
    )
    assert 502 == answer.status


async def test_a_sign_in_service_that_is_down_is_a_503(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI
) -> None:
    """Without keys nobody gets in, and the client is told to come back."""
    entra.down = True
    answer = await request(OnBehalfOfMiddleware(app, obo), headers=[bearer(entra.token())])
    assert (503, "10", []) == (answer.status, answer.headers["retry-after"], app.scopes)


async def test_after_a_consent_no_cache_asks_again(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """A refusal is remembered for a moment, unless the client says ``Cache-Control: no-cache``."""
    app = OnBehalfOfMiddleware(get_and_raise, obo)
    headers = [bearer(entra.token())]
    entra.withdraw_consent("alice")
    assert 401 == (await request(app, "/200", headers)).status
    entra.grant_consent("alice")
    assert 401 == (await request(app, "/200", headers)).status
    fresh = [*headers, (b"cache-control", b"max-age=0, No-Cache")]
    assert 200 == (await request(app, "/200", fresh)).status


# --- WebSockets -----------------------------------------------------------------------------------


async def converse(app: App, scope: Scope) -> list[Any]:
    exchange = Exchange(
        [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    )
    await app(scope, exchange.receive, exchange.send)
    return exchange.sent


class Socket:
    """An app that accepts, and says who called."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.kept: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.kept.append(scope[SCOPE_KEY])
        self.received.append((await receive())["type"])
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["user"].identity})
        self.received.append((await receive())["type"])


async def test_a_websocket_with_a_good_token_is_the_apps(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """The app gets every message itself, from the first one, and its Downstream ends with it."""
    socket = Socket()
    sent = await converse(
        OnBehalfOfMiddleware(socket, obo), websocket_scope(headers=[bearer(entra.token())])
    )
    assert ["websocket.connect", "websocket.disconnect"] == socket.received
    assert ["websocket.accept", "websocket.send"] == [message["type"] for message in sent]
    assert identity(entra).decode() == sent[1]["text"]
    with pytest.raises(RuntimeError, match="start_session"):
        await socket.kept[0]["partner"].acquire_token()


REFUSED_SOCKETS: dict[str, Callable[[FakeEntra], list[Header]]] = {
    "none": lambda entra: [],
    "bad": lambda entra: [bearer("bad")],
    "expired": lambda entra: [bearer(entra.token(lifetime=-600))],
    "subprotocol": lambda entra: [(b"sec-websocket-protocol", f"bearer, {entra.token()}".encode())],
}


@pytest.mark.parametrize("what", list(REFUSED_SOCKETS))
async def test_a_websocket_is_refused_before_it_is_accepted(
    entra: FakeEntra, obo: OnBehalfOf, what: str
) -> None:
    """Without a good token the reply to the connection is a close for policy, and no call."""
    socket = Socket()
    scope = websocket_scope(
        headers=REFUSED_SOCKETS[what](entra), subprotocols=["bearer", entra.token()]
    )
    sent = await converse(OnBehalfOfMiddleware(socket, obo), scope)
    assert [{"type": "websocket.close", "code": 1008}] == sent
    assert [] == socket.kept


@pytest.mark.parametrize(
    ("token", "status", "challenge"),
    [
        (None, 401, 'Bearer realm=""'),
        ("bad", 401, 'error="invalid_token"'),
        ("app", 403, 'error="insufficient_scope"'),
    ],
)
async def test_a_server_that_can_answers_a_websocket_with_http(
    entra: FakeEntra, obo: OnBehalfOf, token: str | None, status: int, challenge: str
) -> None:
    """Where the server offers it, a refused WebSocket hears the same answer as a request."""
    headers = [bearer(entra.token(None) if token == "app" else token)] if token else []
    scope = websocket_scope(headers=headers, extensions={"websocket.http.response": {}})
    start, body = await converse(OnBehalfOfMiddleware(Socket(), obo), scope)
    assert ("websocket.http.response.start", status) == (start["type"], start["status"])
    assert challenge in dict(start["headers"])[b"www-authenticate"].decode()
    assert "websocket.http.response.body" == body["type"]


async def test_a_websocket_may_be_public(obo: OnBehalfOf) -> None:
    """Public paths and optional authentication hold for WebSockets too."""
    socket = Socket()
    sent = await converse(
        OnBehalfOfMiddleware(socket, obo, public_paths=["/live"]), websocket_scope()
    )
    assert ("", [None]) == (sent[1]["text"], socket.kept)


async def test_a_server_may_say_that_it_has_no_extensions(obo: OnBehalfOf) -> None:
    """``extensions`` may be None, as the ASGI types say."""
    sent = await converse(OnBehalfOfMiddleware(Socket(), obo), websocket_scope(extensions=None))
    assert [{"type": "websocket.close", "code": 1008}] == sent


DENIAL = {"type": "websocket.http.response.start", "status": 418, "headers": []}


@dataclass
class Failing:
    """An app that takes the connect message or not, sends a reply or none, and raises an error."""

    is_connected: bool = True
    reply: dict[str, Any] | None = None
    error: Exception = field(default_factory=AuthenticationRequiredError)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.is_connected:
            await receive()
        if self.reply is not None:
            await send(self.reply)
        raise self.error


@pytest.mark.parametrize("is_connected", [True, False])
async def test_an_error_before_the_accept_refuses_a_websocket(
    obo: OnBehalfOf, is_connected: bool
) -> None:
    """What an app raises before it has accepted is answered, once it has been asked."""
    app = OnBehalfOfMiddleware(Failing(is_connected), obo, optional=True)
    assert [{"type": "websocket.close", "code": 1008}] == await converse(app, websocket_scope())

    extensions: Any = {"websocket.http.response": {}}
    exchange = Exchange([{"type": "websocket.connect"}])
    await app(websocket_scope(extensions=extensions), exchange.receive, exchange.send)
    start, body = exchange.sent
    assert ("websocket.http.response.start", 401) == (start["type"], start["status"])
    assert b'Bearer realm=""' == dict(start["headers"])[b"www-authenticate"]
    assert "token_required" == json.loads(body["body"])["error"]


@pytest.mark.parametrize(
    ("app", "options"),
    [
        (Failing(reply={"type": "websocket.accept"}), {}),
        (Failing(reply=DENIAL), {}),
        (Failing(error=LookupError()), {}),
        (Failing(), {"on_error": None}),
    ],
    ids=["accepted", "denied", "a mistake", "no on_error"],
)
async def test_other_errors_of_a_websocket_propagate(
    obo: OnBehalfOf, app: Failing, options: dict[str, Any]
) -> None:
    """Once the app has replied its errors are the server's, as are those that nothing answers."""
    exchange = Exchange([{"type": "websocket.connect"}])
    with pytest.raises(type(app.error)):
        await OnBehalfOfMiddleware(app, obo, optional=True, **options)(
            websocket_scope(), exchange.receive, exchange.send
        )
    assert [message for message in [app.reply] if message] == exchange.sent


async def test_an_error_handler_refuses_websockets_too(obo: OnBehalfOf) -> None:
    """The answer of `on_error` is what a WebSocket is denied with."""
    app = OnBehalfOfMiddleware(
        Failing(error=LookupError()),
        obo,
        optional=True,
        on_error=lambda error: ErrorResponse(404, {}, type(error).__name__.encode()),
    )
    scope = websocket_scope(extensions={"websocket.http.response": {}})
    start, body = await converse(app, scope)
    assert (404, b"LookupError") == (start["status"], body["body"])


@pytest.mark.parametrize("scope", [http_scope(), websocket_scope()], ids=["http", "websocket"])
async def test_a_mistake_of_ours_is_not_called_a_refusal(
    entra: FakeEntra, app: WhoAmI, scope: Scope
) -> None:
    """An error that is not about the caller propagates instead of becoming a 401 or a close."""
    transport: Any = _aiohttp_transport_with_cookies()
    obo = on_behalf_of(entra, http_client=httpx.AsyncClient(transport=transport))
    exchange = Exchange([{"type": "websocket.connect"}])
    with pytest.raises(ConfigurationError, match="cookies"):
        await OnBehalfOfMiddleware(app, obo)(
            {**scope, "headers": [bearer(entra.token())]}, exchange.receive, exchange.send
        )
    assert ([], []) == (exchange.sent, app.scopes)
    await transport.aclose()


def _aiohttp_transport_with_cookies() -> Any:
    from httpx_aiohttp import AiohttpTransport

    return AiohttpTransport()


# --- Lifespan -------------------------------------------------------------------------------------


async def lifespan_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": f"{(await receive())['type']}.complete"})
    else:
        await answer_with(send)


@pytest.mark.parametrize("outcome", ["complete", "failed"])
async def test_it_closes_before_the_shutdown_is_over(
    entra: FakeEntra, obo: OnBehalfOf, outcome: str
) -> None:
    """What is under way has ended when the server learns that the shutdown is complete."""
    events: list[tuple[str, bool]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": f"lifespan.shutdown.{outcome}"})

    async def send(message: Any) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        events.append((message["type"], pending.done()))

    entra.latency = 30
    pending = asyncio.create_task(obo.verify(entra.token()))
    exchange = Exchange([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    await OnBehalfOfMiddleware(app, obo)({"type": "lifespan"}, exchange.receive, send)
    assert [
        ("lifespan.startup.complete", False),
        (f"lifespan.shutdown.{outcome}", True),
    ] == events
    with pytest.raises(RuntimeError, match="closed"):
        await pending


async def test_the_lifespan_passes_as_it_is(obo: OnBehalfOf) -> None:
    """Scope and messages of the lifespan are the server's own; no token is asked for."""
    exchange = Exchange([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await lifespan_app(scope, receive, send)

    scope = {"type": "lifespan", "state": {}}
    await OnBehalfOfMiddleware(app, obo)(scope, exchange.receive, exchange.send)
    assert scope is scopes[0]
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == [
        message["type"] for message in exchange.sent
    ]


async def test_an_app_without_lifespan_works(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """An app that raises on the lifespan says so to the server, and is served all the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await get_and_raise(scope, receive, send)

    protected = OnBehalfOfMiddleware(app, obo)
    exchange = Exchange([{"type": "lifespan.startup"}])
    with pytest.raises(AssertionError):
        await protected({"type": "lifespan"}, exchange.receive, exchange.send)
    assert [] == exchange.sent
    assert 200 == (await request(protected, "/200", [bearer(entra.token())])).status


async def test_it_opens_again_after_a_shutdown(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """A request that comes after a shutdown, as in tests, is served."""
    protected = OnBehalfOfMiddleware(lifespan_app, obo)
    for _ in range(2):
        exchange = Exchange([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        await protected({"type": "lifespan"}, exchange.receive, exchange.send)
        assert 200 == (await request(protected, headers=[bearer(entra.token())])).status


# --- The end of a request -------------------------------------------------------------------------


async def test_a_downstream_ends_with_its_request(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """What was kept beyond the response says that it has ended, and what to use instead."""
    kept = []

    async def keeping(scope: Any, receive: Any, send: Any) -> None:
        kept.append(downstream_from(scope)["partner"])
        await kept[0].acquire_token()
        await answer_with(send)

    await request(OnBehalfOfMiddleware(keeping, obo), headers=[bearer(entra.token())])
    for use in (kept[0].acquire_token(), kept[0].get("200"), kept[0].authorization_header()):
        with pytest.raises(RuntimeError, match=r"start_session\(\)"):
            await use


async def test_work_after_the_response_but_inside_the_app_goes_on(
    entra: FakeEntra, obo: OnBehalfOf
) -> None:
    """Background tasks that the app waits for still call as the user."""
    statuses = []

    async def working(scope: Any, receive: Any, send: Any) -> None:
        await answer_with(send)
        statuses.append((await downstream_from(scope)["partner"].get("200")).status_code)

    answer = await request(OnBehalfOfMiddleware(working, obo), headers=[bearer(entra.token())])
    assert (200, [200]) == (answer.status, statuses)


# --- Secrets --------------------------------------------------------------------------------------


def rendered(records: Iterable[logging.LogRecord]) -> str:
    """Return everything that a handler could write of these records."""
    formatter = logging.Formatter("%(name)s %(message)s")
    return "\n".join(f"{formatter.format(record)} {record.args!r}" for record in records)


@pytest.fixture
async def served(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., OnBehalfOf]]:
    """Entra and the partner on real sockets; the fixture makes OnBehalfOf objects for them."""
    entra.add_api(PARTNER_ID, scopes=["read"])
    with entra.serve() as server, serve(partner) as partner_server:
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        made: list[OnBehalfOf] = []

        def make(**options: Any) -> OnBehalfOf:
            api = DownstreamAPI(
                base_url=partner_server.url, scopes=[f"{PARTNER_ID}/read"], timeout=0.3
            )
            made.append(OnBehalfOf(entra.registration(), downstream={"partner": api}, **options))
            return made[-1]

        yield make
        for obo in made:
            await obo.aclose()


@pytest.mark.parametrize("engine", ["httpx", "default"])
async def test_logs_hold_no_token_no_secret_and_no_query(
    entra: FakeEntra,
    served: Callable[..., OnBehalfOf],
    caplog: pytest.LogCaptureFixture,
    engine: str,
) -> None:
    """With every logger at DEBUG, nothing that came or went as a secret is in any record."""
    options = {"http_client": httpx.AsyncClient()} if engine == "httpx" else {}
    obo = served(**options)
    app = OnBehalfOfMiddleware(get_and_raise, obo)
    caplog.set_level(logging.DEBUG)
    tokens = [entra.token(user) for user in ("alice", "bob")]
    for token in tokens:
        assert 200 == (await request(app, "/200", [bearer(token)])).status
    statuses = [(await request(app, "/slow", [bearer(tokens[0])])).status]
    entra.withdraw_consent("alice")
    refused = [entra.token(), entra.token(lifetime=-600), entra.token(key=entra.unpublished_key())]
    statuses += [(await request(app, "/200", [bearer(token)])).status for token in refused]
    assert [504, 401, 401, 401] == statuses
    if options:
        await options["http_client"].aclose()
    log = rendered(caplog.records)
    assert "obo_asgi" in log
    secrets = [
        *(part for token in (*tokens, *refused) for part in token.split(".")[1:]),
        client_secret_of(entra),
        "a@b.c",
        "a%40b.c",
        "email=",
        entra.user("alice").oid,
        "alice@contoso.example",
        "eyJ",
    ]
    assert [] == [secret for secret in secrets if secret in log]


async def test_the_line_about_an_answer_holds_no_query(
    entra: FakeEntra, obo: OnBehalfOf, caplog: pytest.LogCaptureFixture
) -> None:
    """A downstream status that became an answer is logged without the URL that httpx names."""
    caplog.set_level(logging.DEBUG)
    await request(OnBehalfOfMiddleware(get_and_raise, obo), "/404", [bearer(entra.token())])
    assert "answered 404" in rendered(caplog.records)
    assert "email" not in rendered(caplog.records)


@pytest.mark.parametrize(
    "number", [50013, 50076, 50105, 50196, 53003, 65001, 90055, 90094, 7000215, 700016, 500011]
)
async def test_an_answer_says_nothing_of_entra_or_of_the_user(
    entra: FakeEntra, obo: OnBehalfOf, number: int
) -> None:
    """Neither Entra's text and numbers nor the user's claims are in the answer to the caller.

    A challenge names the tenant's sign-in page (and the tenant as its realm), and nothing else.
    """
    entra.fail(number, user="alice")
    answer = await request(
        OnBehalfOfMiddleware(get_and_raise, obo), "/200", [bearer(entra.token(name="Alice Archer"))]
    )
    assert answer.status >= 400
    page = f"https://login.microsoftonline.com/{entra.tenant_id}/oauth2/v2.0/authorize"
    named = [f'realm="{entra.tenant_id}"', f'authorization_uri="{page}"']
    text = repr(answer)
    for parameter in named:
        assert text.count(parameter) <= 1
        text = text.replace(parameter, "")
    said = ["AADSTS", str(number), "Trace", "Correlation", "Alice", entra.user("alice").oid]
    said += [entra.tenant_id, "alice@contoso", "login.microsoftonline.com", "spa"]
    assert [] == [word for word in said if word in text]


async def test_a_refusal_says_nothing_of_the_token(
    entra: FakeEntra, obo: OnBehalfOf, app: WhoAmI
) -> None:
    """The same constant sentence answers every bad token, whatever is wrong with it."""
    protected = OnBehalfOfMiddleware(app, obo)
    forged = [
        entra.token(audience="api://other"),
        entra.token(headers={"kid": "kid"}),
        entra.token(scp=None),
        entra.token(ver="3.0"),
        entra.token(key=entra.unpublished_key()),
        "garbage",
    ]
    answers = [await request(protected, headers=[bearer(token)]) for token in forged]
    assert {401} == {answer.status for answer in answers}
    assert 1 == len({(answer.body, tuple(answer.raw_headers)) for answer in answers})
