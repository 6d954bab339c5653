"""The app itself as the caller: one token for everybody, in one tenant, and without a user."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from obo_asgi import (
    AccessDeniedError,
    ConfigurationError,
    Downstream,
    DownstreamAPI,
    OboError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    TokenAcquisitionError,
    downstream_from,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.challenges import encode_claims
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

PARTNER = "https://partner.example.com"
SCOPE = "api://partner/read"
OTHER_TENANT = "22222222-2222-4222-8222-222222222222"
STRANGE_TENANT = "33333333-3333-4333-8333-333333333333"
NEWER = '{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}'

Call = Callable[[Downstream], Awaitable[object]]


class Partner:
    """A downstream API that remembers the tokens, and demands claims of those it refuses."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.revoked: set[str] = set()
        self.refuses_all = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        self.tokens.append(token)
        headers = [(b"content-type", b"text/plain")]
        refused = self.refuses_all or token in self.revoked
        if refused:
            challenge = f'Bearer error="insufficient_claims", claims="{encode_claims(NEWER)}"'
            headers.append((b"www-authenticate", challenge.encode()))
        status = 401 if refused else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"fine"})


@pytest.fixture
def entra() -> FakeEntra:
    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read", "write"], roles=["Read.All"])
    entra.add_api("https://slash.example.com/", scopes=["read"])
    entra.add_tenant(OTHER_TENANT)
    return entra


@pytest.fixture
def partner() -> Partner:
    return Partner()


def on_behalf_of(
    entra: FakeEntra, partner: Partner, *, serve_app_callers: bool = False, **registration: Any
) -> OnBehalfOf:
    api = DownstreamAPI(base_url=PARTNER, scopes=[SCOPE], serve_app_callers=serve_app_callers)
    return OnBehalfOf(
        entra.registration(**registration),
        downstream={"partner": api},
        app_roles=["Caller"],
        http_client=entra.client(apps={PARTNER: partner}),
    )


@pytest.fixture
def obo(entra: FakeEntra, partner: Partner) -> OnBehalfOf:
    return on_behalf_of(entra, partner)


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * 3))
    return claims


def grants(entra: FakeEntra) -> tuple[int, int]:
    """Return how many requests came for the app, and how many for users."""
    return entra.counts["client_credentials"], entra.exchanges


# --- One token ------------------------------------------------------------------------------------


async def test_a_rush_makes_one_exchange(
    entra: FakeEntra, partner: Partner, obo: OnBehalfOf
) -> None:
    """Two hundred callers at the same time, each with an ``as_app()`` of its own, share a token."""
    calls = (obo.as_app()["partner"].get("data", into=str) for _ in range(200))

    assert ["fine"] * 200 == await asyncio.gather(*calls)
    assert (200, 1) == (len(partner.tokens), len(set(partner.tokens)))
    assert (1, 0) == grants(entra)


async def test_the_apps_token_does_not_depend_on_the_user(
    entra: FakeEntra, partner: Partner, obo: OnBehalfOf
) -> None:
    """Within the requests of several users, and without any request, it is the same."""
    users = [await obo.downstream_for(entra.token(name)) for name in ("alice", "bob")]
    for downstream in [obo.as_app(), *(user.as_app() for user in users)]:
        await downstream["partner"].get("data")

    assert (1, (1, 0)) == (len(set(partner.tokens)), grants(entra))


async def test_the_app_and_its_user_have_a_token_each(
    entra: FakeEntra, partner: Partner, obo: OnBehalfOf
) -> None:
    """The same API called as the user and as the app gets the user's token and the app's."""
    downstream = await obo.downstream_for(entra.token("alice"))
    for caller in (downstream, downstream.as_app(), downstream, downstream.as_app().as_app()):
        await caller["partner"].get("data")
    user, app = (claims_of(token) for token in partner.tokens[:2])

    assert (partner.tokens[:2], (1, 1)) == (partner.tokens[2:], grants(entra))
    assert (entra.user("alice").oid, "read") == (user["oid"], user["scp"])
    assert (["Read.All"], False) == (app["roles"], "scp" in app)
    assert app["oid"] != user["oid"]


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ([SCOPE], "api://partner/.default"),
        ([SCOPE, "api://partner/write"], "api://partner/.default"),
        (["api://partner/.default"], "api://partner/.default"),
        (["https://graph.microsoft.com/User.Read"], "https://graph.microsoft.com/.default"),
        (["User.Read"], ".default"),
        (["https://slash.example.com//read"], "https://slash.example.com//.default"),
    ],
)
async def test_all_that_is_granted_is_asked_for(
    entra: FakeEntra, obo: OnBehalfOf, scopes: list[str], expected: str
) -> None:
    """Whatever scopes are configured or given, the app asks for ``<resource>/.default``."""
    await obo.as_app()["partner"].acquire_token(scopes)

    assert [expected] == [request.scope for request in entra.requests]


async def test_scopes_of_one_resource_share_the_token(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Two scopes of one API are one ``/.default``, so one exchange."""
    api = obo.as_app()["partner"]
    tokens = [await api.acquire_token([f"api://partner/{name}"]) for name in ("read", "write")]

    assert (tokens[0].token, (1, 0)) == (tokens[1].token, grants(entra))


async def test_a_refusal_is_the_operators_to_mend(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """A wrong client secret is a TokenAcquisitionError that says so, and asks no user."""
    entra.fail(7000215, times=2)
    with pytest.raises(TokenAcquisitionError, match="client secret is wrong") as caught:
        await obo.as_app()["partner"].get("data")

    assert TokenAcquisitionError is type(caught.value)


async def test_no_interaction_mends_what_the_app_lacks(
    entra: FakeEntra, partner: Partner, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Entra demands a user of the app itself, the operator is told, and no user is asked."""
    obo = on_behalf_of(entra, partner)
    entra.fail(50076, times=2)
    response = await request(obo, entra.bearer("alice"), as_the_app)

    assert (500, False) == (response.status_code, "WWW-Authenticate" in response.headers)
    assert ["ERROR"] == [record.levelname for record in caplog.records if "acquired" in record.msg]


# --- Tenants --------------------------------------------------------------------------------------


async def test_the_registrations_tenant_is_the_apps(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Without a word the app is that of the registration's own tenant, also when it is named."""
    for tenant_id in (None, entra.tenant_id, entra.tenant_id.upper()):
        await obo.as_app(tenant_id=tenant_id)["partner"].get("data")

    assert [entra.tenant_id] == [request.tenant for request in entra.requests]


@pytest.mark.parametrize("tenant", ["common", "organizations"])
async def test_an_app_of_many_tenants_names_one(
    entra: FakeEntra, partner: Partner, tenant: str
) -> None:
    """Where the registration has no tenant of its own, ``tenant_id`` is needed."""
    allowed = [entra.tenant_id, OTHER_TENANT]
    obo = on_behalf_of(entra, partner, tenant_id=tenant, allowed_tenants=allowed)
    with pytest.raises(ConfigurationError, match=r"say as_app\(tenant_id=…\)"):
        obo.as_app()
    await obo.as_app(tenant_id=OTHER_TENANT)["partner"].get("data")

    assert [OTHER_TENANT] == [request.tenant for request in entra.requests]


async def test_each_tenant_has_a_token_of_its_own(entra: FakeEntra, partner: Partner) -> None:
    """No tenant's token serves another tenant."""
    tenants = [entra.tenant_id, OTHER_TENANT]
    obo = on_behalf_of(entra, partner, allowed_tenants=tenants)
    for tenant_id in tenants * 2:
        await obo.as_app(tenant_id=tenant_id)["partner"].get("data")

    assert tenants == [claims_of(token)["tid"] for token in partner.tokens[:2]]
    assert (partner.tokens[:2], (2, 0)) == (partner.tokens[2:], grants(entra))


async def test_within_a_request_it_is_the_users_tenant(entra: FakeEntra, partner: Partner) -> None:
    """`Downstream.as_app` acts in the tenant of the user who called."""
    obo = on_behalf_of(entra, partner, allowed_tenants=[entra.tenant_id, OTHER_TENANT])
    entra.add_user("carol", tenant=OTHER_TENANT)
    downstream = await obo.downstream_for(entra.token("carol", tenant=OTHER_TENANT))
    await downstream.as_app()["partner"].get("data")

    assert OTHER_TENANT == claims_of(partner.tokens[0])["tid"]


@pytest.mark.parametrize("tenant_id", [STRANGE_TENANT, "contoso.com", "common", "../x", " "])
async def test_a_tenant_that_is_not_allowed_is_refused(
    entra: FakeEntra, partner: Partner, tenant_id: str
) -> None:
    """A tenant outside ``allowed_tenants``, or what is no tenant's id, gets no token."""
    obo = on_behalf_of(entra, partner, allowed_tenants=[entra.tenant_id, OTHER_TENANT])
    with pytest.raises(ConfigurationError, match="the id of an allowed tenant"):
        obo.as_app(tenant_id=tenant_id)


# --- Its life -------------------------------------------------------------------------------------


async def test_there_is_no_user(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Who asks the app for its user is told that there is none."""
    downstream = await obo.downstream_for(entra.token("alice"))
    for app in (obo.as_app(), downstream.as_app()):
        with pytest.raises(RuntimeError, match="there is no user"):
            _ = app.user

    assert entra.user("alice").oid == downstream.user.oid


async def test_it_ends_with_its_request(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """Made within a request, it ends with it; its own end does not end the request."""
    downstream = await obo.downstream_for(entra.token("alice"))
    first, second = downstream.as_app(), downstream.as_app()
    first.close()
    with pytest.raises(RuntimeError, match="ended with its request"):
        await first["partner"].get("data")
    assert 200 == (await second["partner"].get("data")).status_code
    assert 200 == (await downstream["partner"].get("data")).status_code

    downstream.close()
    with pytest.raises(RuntimeError, match="ended with its request"):
        await second["partner"].get("data")


async def test_the_app_of_the_app_ends_with_the_request_too(
    entra: FakeEntra, obo: OnBehalfOf
) -> None:
    """However often ``as_app()`` is said, the end of the request is the end of it."""
    downstream = await obo.downstream_for(entra.token("alice"))
    app = downstream.as_app().as_app()
    downstream.close()
    with pytest.raises(RuntimeError, match="ended with its request"):
        await app["partner"].get("data")


async def test_a_worker_has_one_for_a_block(
    entra: FakeEntra, partner: Partner, obo: OnBehalfOf
) -> None:
    """``async with obo, obo.as_app()`` gives one that ends with the block; another goes on."""
    async with obo, obo.as_app() as downstream:
        assert "fine" == await downstream["partner"].get("data", into=str)
    with pytest.raises(RuntimeError, match="ended"):
        await downstream["partner"].get("data")
    await obo.as_app()["partner"].get("data")

    assert (1, (1, 0)) == (len(set(partner.tokens)), grants(entra))


# --- Callers that are applications ----------------------------------------------------------------


async def as_the_caller(downstream: Downstream) -> None:
    await downstream["partner"].get("data", into=str)


async def as_the_app(downstream: Downstream) -> None:
    await downstream.as_app()["partner"].get("data", into=str)


async def request(
    obo: OnBehalfOf, bearer: dict[str, str], call: Call = as_the_caller
) -> httpx.Response:
    """Call our API, whose handler makes this call and catches nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await call(downstream_from(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(OnBehalfOfMiddleware(app, obo))
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        return await client.get("/", headers=bearer)


def daemon(entra: FakeEntra) -> dict[str, str]:
    """Return the header of an application that calls for itself."""
    return entra.bearer(None, None, roles=["Caller"])


async def test_an_application_has_nobody_to_act_for(
    entra: FakeEntra, partner: Partner, obo: OnBehalfOf, caplog: pytest.LogCaptureFixture
) -> None:
    """On a route for users an application gets a 403, and the log says what would let it in."""
    caplog.set_level(logging.INFO, "obo_asgi")
    response = await request(obo, daemon(entra))

    assert (403, {"error": "access_denied", "error_description": "access is denied"}) == (
        response.status_code,
        response.json(),
    )
    assert "there is no user to act for" in caplog.text
    assert "DownstreamAPI(serve_app_callers=True)" in caplog.text
    assert ([], (0, 0)) == (partner.tokens, grants(entra))


async def test_the_handler_can_tell_why(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """The error itself is an AccessDeniedError with the reason and the way out."""
    downstream = await obo.downstream_for(entra.token(None, None, roles=["Caller"]))
    assert downstream.user.is_app
    for call in (as_the_caller(downstream), downstream["partner"].acquire_token()):
        with pytest.raises(AccessDeniedError, match=r"no user to act for: .*serve_app_callers"):
            await call


async def test_an_api_may_serve_applications(entra: FakeEntra, partner: Partner) -> None:
    """With ``serve_app_callers=True`` it is called with this app's token, a user's call is not."""
    obo = on_behalf_of(entra, partner, serve_app_callers=True)
    assert 200 == (await request(obo, daemon(entra))).status_code
    assert 200 == (await request(obo, entra.bearer("alice"))).status_code
    app, user = (claims_of(token) for token in partner.tokens)

    assert (["Read.All"], entra.client_id("api")) == (app["roles"], app["azp"])
    assert entra.user("alice").oid == user["oid"]
    assert (1, 1) == grants(entra)


async def test_a_handler_may_act_as_the_app_for_anybody(entra: FakeEntra, obo: OnBehalfOf) -> None:
    """An explicit ``as_app()`` serves users and applications alike."""
    callers = [entra.bearer("alice"), daemon(entra)]

    assert [200, 200] == [(await request(obo, each, as_the_app)).status_code for each in callers]
    assert (1, 0) == grants(entra)


# --- Claims challenges ----------------------------------------------------------------------------


async def test_a_claims_challenge_is_met_for_the_app_too(
    entra: FakeEntra, partner: Partner, obo: OnBehalfOf
) -> None:
    """A refused token of the app is exchanged anew with the claims, and the request repeated."""
    api = obo.as_app()["partner"]
    old = (await api.acquire_token()).token
    partner.revoked.add(old)

    assert "fine" == await api.get("data", into=str)
    assert ([old, partner.tokens[1]], True) == (partner.tokens, old != partner.tokens[1])
    assert [False, True] == ["nbf" in (request.claims or "") for request in entra.requests]
    assert ["api://partner/.default"] * 2 == [request.scope for request in entra.requests]


async def test_one_refused_token_of_the_app_makes_one_exchange(
    entra: FakeEntra, partner: Partner, obo: OnBehalfOf
) -> None:
    """Everybody who meets the refusal of the shared token goes on with one new token."""
    partner.revoked.add((await obo.as_app()["partner"].acquire_token()).token)
    calls = (obo.as_app()["partner"].get("data", into=str) for _ in range(50))

    assert ["fine"] * 50 == await asyncio.gather(*calls)
    assert (2, 0) == grants(entra)


async def test_an_api_that_serves_applications_is_met_too(
    entra: FakeEntra, partner: Partner
) -> None:
    """The token for an application's call is dropped and exchanged anew like any other."""
    obo = on_behalf_of(entra, partner, serve_app_callers=True)
    await request(obo, daemon(entra))
    partner.revoked.add(partner.tokens[0])

    assert 200 == (await request(obo, daemon(entra))).status_code
    assert (3, 2) == (len(partner.tokens), len(set(partner.tokens)))


async def test_it_never_loops(entra: FakeEntra, partner: Partner, obo: OnBehalfOf) -> None:
    """An API that always refuses the app gets two requests, and the caller an error."""
    partner.refuses_all = True
    with pytest.raises(OboError):
        await obo.as_app()["partner"].get("data", into=str)

    assert (2, (2, 0)) == (len(partner.tokens), grants(entra))


@pytest.mark.parametrize("caller", ["user", "application"])
async def test_what_the_app_lacks_is_not_asked_of_its_caller(
    entra: FakeEntra, partner: Partner, caller: str
) -> None:
    """No sign-in of the caller mends the app's own token: that it is refused is a bad gateway."""
    obo = on_behalf_of(entra, partner, serve_app_callers=True)
    partner.refuses_all = True
    if caller == "user":
        response = await request(obo, entra.bearer("alice"), as_the_app)
    else:
        response = await request(obo, daemon(entra), as_the_caller)

    assert (502, False) == (response.status_code, "WWW-Authenticate" in response.headers)
