"""What our caller hears when Entra's token endpoint refuses, or talks nonsense."""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from obo_asgi import DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware, downstream_from
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.challenges import parse_challenge
from obo_asgi.testing import FakeEntra
from obo_asgi.testing.aadsts import STEP_UP_CLAIMS
from tests.aadsts_table import TABLE

pytestmark = pytest.mark.anyio

PARTNER = "https://partner.example.com"
SCOPE = "api://partner/read"
RETURN = "https://app.example.com/consented"
TRANSIENT = {row[0] for row in TABLE if row[1] == "transient"}
NOT_OURS = ["AADSTS", "Trace ID", "Correlation ID", "Timestamp", "trace_id", "contoso", "Alice"]


async def answer(send: Send, status: int = 200, body: bytes = b"{}") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def partner(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send)


async def handler(scope: Scope, receive: Receive, send: Send) -> None:
    """Call the partner, as a handler without any error handling does."""
    await downstream_from(scope)["partner"].get("data", into=dict)
    await answer(send)


@dataclass
class World:
    """FakeEntra, and a web API that calls a partner."""

    entra: FakeEntra
    client: httpx.AsyncClient

    async def call(self, user: str = "alice", **headers: str) -> httpx.Response:
        bearer = self.entra.bearer(user)
        return await self.client.get("/", headers=bearer | headers)


@pytest.fixture
def world() -> World:
    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read"])
    entra.add_redirect_uri("api", RETURN)
    obo = OnBehalfOf(
        entra.registration(consent_redirect_uri=RETURN),
        downstream={"partner": DownstreamAPI(base_url=PARTNER, scopes=[SCOPE])},
        http_client=entra.client(apps={PARTNER: partner}),
    )
    transport = httpx.ASGITransport(OnBehalfOfMiddleware(handler, obo))
    return World(entra, httpx.AsyncClient(transport=transport, base_url="https://api"))


def logged(records: list[logging.LogRecord]) -> str:
    """Return everything that a log handler could write."""
    formatter = logging.Formatter("%(name)s %(message)s")
    return "\n".join(f"{formatter.format(record)} {vars(record)}" for record in records)


def check_retry_after(response: httpx.Response) -> None:
    assert (503 == response.status_code) is ("Retry-After" in response.headers)
    if response.status_code == 503:
        assert 1 <= int(response.headers["Retry-After"]) <= 300


@pytest.mark.parametrize("row", TABLE, ids=[str(row[0]) for row in TABLE])
async def test_every_refusal_has_the_answer_of_the_table(
    world: World, caplog: pytest.LogCaptureFixture, row: tuple[Any, ...]
) -> None:
    """Status, header and body are the table's; nothing of Entra's text or of a secret is shown."""
    number, kind, _, _, _, has_claims, accepted = row
    caplog.set_level(logging.DEBUG)
    world.entra.fail(number, retry_after=7 if number in TRANSIENT else None)
    response = await world.call()
    body = response.json()

    assert response.status_code in accepted
    check_retry_after(response)
    assert (401 == response.status_code) is ("WWW-Authenticate" in response.headers)
    if response.status_code == 401:
        check_challenge(response, kind, has_claims)
    else:
        assert {"error", "error_description"} == body.keys() or "about:blank" == body["type"]
    text = f"{response.headers} {response.text}"
    assert [] == [word for word in [*NOT_OURS, str(number)] if word in text]
    check_log(world, caplog, response.request.headers["Authorization"])


def check_challenge(response: httpx.Response, kind: str, has_claims: bool) -> None:
    """Check header and body, as they come and as a client reads them."""
    challenge = parse_challenge(response)
    assert challenge is not None
    if kind not in ("interaction", "denied"):
        assert "invalid_token" == challenge.error == response.json()["error"]
        return
    header = response.headers["WWW-Authenticate"]
    body = response.json()
    assert ((SCOPE,), [SCOPE]) == (challenge.scopes, body["scopes"])
    assert challenge.error == body["error"]
    assert challenge.authorization_uri is not None
    assert challenge.authorization_uri.endswith("/oauth2/v2.0/authorize")
    if has_claims:
        claims = b64decode(header.partition('claims="')[2].partition('"')[0]).decode()
        assert [STEP_UP_CLAIMS] * 3 == [claims, body["claims"], challenge.claims]
        assert ("insufficient_claims", None) == (challenge.error, challenge.consent_uri)
    else:
        assert "claims" not in body
        assert challenge.consent_uri == body["consent_uri"]


def check_log(world: World, caplog: pytest.LogCaptureFixture, bearer: str) -> None:
    """Check that no log record, at any level, holds a token, a secret or Entra's text."""
    text = logged(caplog.records)
    assert "obo_asgi" in text
    secrets = [request.form["client_secret"] for request in world.entra.requests]
    signature = bearer.rpartition(".")[2]
    said = [*NOT_OURS[1:], *secrets, bearer.removeprefix("Bearer "), signature]
    assert [] == [word for word in said if word in text]


NONSENSE: list[Any] = [
    pytest.param(400, b"<html>proxy</html>", {}, 503, id="HTML, 400"),
    pytest.param(403, b"<html>proxy</html>", {}, 503, id="HTML, 403"),
    pytest.param(200, b"<html>proxy</html>", {}, 503, id="HTML, 200"),
    pytest.param(200, b"", {}, 503, id="nothing, 200"),
    pytest.param(400, b"", {}, 503, id="nothing, 400"),
    pytest.param(204, b"", {}, 503, id="204"),
    pytest.param(302, b"", {"location": "https://evil.example/token"}, 503, id="redirect"),
    pytest.param(503, b"", {"retry-after": "9"}, 503, id="503 with a wait"),
    pytest.param(429, b"", {"retry-after": "86400"}, 503, id="429, a day"),
    pytest.param(429, b"", {"retry-after": "-1"}, 503, id="429, negative"),
    pytest.param(429, b"", {"retry-after": "1e9"}, 503, id="429, not a number"),
    pytest.param(429, b"", {"retry-after": "9" * 400}, 503, id="429, huge"),
    pytest.param(429, b"", {"retry-after": "5, 7"}, 503, id="429, two"),
    pytest.param(400, b'{"error":"brand_new"}', {}, 500, id="unknown error"),
    pytest.param(
        400, b'{"error":"invalid_grant","suberror":"brand_new"}', {}, 401, id="unknown suberror"
    ),
    pytest.param(
        400, b'{"error":"invalid_grant","error_codes":[999999]}', {}, 401, id="unknown number"
    ),
    pytest.param(400, b'{"error":"invalid_grant","claims":"{"}', {}, 401, id="claims not JSON"),
    pytest.param(400, b'["invalid_grant"]', {}, 503, id="a list"),
    pytest.param(400, b"[" * 100_000, {}, 503, id="deep"),
    pytest.param(400, b"\xff\xfe\x00", {}, 503, id="binary"),
    pytest.param(200, b'{"access_token":""}', {}, 503, id="empty token"),
    pytest.param(200, b'{"access_token":["x"]}', {}, 503, id="token of another type"),
    pytest.param(200, b'{"token_type":"Bearer"}', {}, 503, id="no token"),
]


@pytest.mark.parametrize(("status", "body", "headers", "expected"), NONSENSE)
@pytest.mark.parametrize("content_type", ["application/json", "text/html", "image/png"])
async def test_nonsense_is_no_disaster(
    world: World,
    caplog: pytest.LogCaptureFixture,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    expected: int,
    content_type: str,
) -> None:
    """Whatever comes from the token endpoint, our caller gets a plain answer of ours."""
    caplog.set_level(logging.DEBUG)
    world.entra.fail_next(status, body, headers=headers, content_type=content_type)
    response = await world.call()

    assert expected == response.status_code
    check_retry_after(response)
    assert "proxy" not in response.text + logged(caplog.records)
    assert "evil" not in f"{response.headers}{response.text}"


LIFETIMES = ["-1", "0", "1e400", "1e18", '"3600"', '"abc"', "null", "true", "[1]", "NaN", "9" * 400]


@pytest.mark.parametrize("lifetime", LIFETIMES, ids=[text[:8] for text in LIFETIMES])
async def test_an_absurd_lifetime_does_no_harm(world: World, lifetime: str) -> None:
    """A token whose lifetime makes no sense is used or refused, and nothing breaks after it."""
    good = json.dumps({"token_type": "Bearer", "access_token": "opaque"})
    body = f'{good[:-1]}, "expires_in": {lifetime}}}'
    world.entra.fail_next(200, body, content_type="application/json")
    first = await world.call()

    assert first.status_code in (200, 503)
    check_retry_after(first)
    assert 200 == (await world.call("bob")).status_code


@pytest.mark.parametrize("number", [90055, 50196, 50033, 50000])
async def test_one_users_trouble_is_nobody_elses(world: World, number: int) -> None:
    """A 429, a loop or a 5xx for Alice's requests leaves Bob alone."""
    world.entra.fail(number, user="alice", times=float("inf"), retry_after=60)
    statuses = [(await world.call(user)).status_code for user in ("alice", "bob") * 2]

    assert [503, 200, 503, 200] == statuses


async def test_one_tenants_trouble_is_no_other_tenants() -> None:
    """A tenant whose every request is throttled leaves the users of another tenant alone."""
    entra = FakeEntra()
    other = "99999999-9999-4999-8999-999999999999"
    entra.add_user("carol", tenant=other)
    entra.add_api("api://partner", scopes=["read"])
    obo = OnBehalfOf(
        entra.registration(tenant_id="organizations", allowed_tenants=[entra.tenant_id, other]),
        downstream={"partner": DownstreamAPI(base_url=PARTNER, scopes=[SCOPE])},
        http_client=entra.client(apps={PARTNER: partner}),
    )
    transport = httpx.ASGITransport(OnBehalfOfMiddleware(handler, obo))
    for user in ("alice", "bob"):
        entra.fail(90055, user=user, times=float("inf"), retry_after=60)
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        statuses = [
            (await client.get("/", headers=entra.bearer(user, tenant=tenant))).status_code
            for user, tenant in [("alice", None), ("bob", None), ("carol", other)] * 2
        ]

    assert [503, 503, 200] * 2 == statuses


async def test_operators_are_told_once_a_minute(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong secret is one ERROR line with its number and what to do, not one a request."""
    world.entra.fail(7000215, times=float("inf"))
    statuses = {(await world.call(user)).status_code for user in ("alice", "bob") for _ in range(5)}
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]

    assert {500} == statuses
    assert 1 == len(lines)
    assert "AADSTS7000215" in lines[0]
    assert "its value, not its id" in lines[0]


# --- Consent -------------------------------------------------------------------------------------


async def sign_in(world: World, url: str, user: str, **form: str) -> httpx.Response:
    """Be the person in the browser: open a page of the sign-in service and answer it."""
    async with world.entra.client() as browser:
        return await browser.post(url, data={"user": user, **form})


async def test_consent_for_the_client_itself_does_not_help(world: World) -> None:
    """Only a consent for our API helps; one for the client app leaves the answer as it was."""
    entra = world.entra
    entra.withdraw_consent("alice", client=None, resource="api://partner")
    first = await world.call()
    entra.grant_consent("alice", client="spa", resource="api://partner")
    bearer = entra.bearer("alice")
    second = await world.client.get("/", headers=bearer)

    assert ([401, 401], 2) == ([first.status_code, second.status_code], entra.exchanges)
    challenge = parse_challenge(second)
    assert challenge is not None
    assert challenge.consent_uri is not None
    consented = await sign_in(world, challenge.consent_uri, "alice", consent="accept")
    assert (302, True) == (consented.status_code, consented.headers["Location"].startswith(RETURN))
    completed = await world.client.get("/", headers=bearer | {"Cache-Control": "no-cache"})
    assert 200 == completed.status_code


async def test_a_declined_consent_changes_nothing(world: World) -> None:
    """Who declines on the consent page is asked again at the next call."""
    world.entra.withdraw_consent("alice", resource="api://partner")
    bearer = world.entra.bearer("alice")
    challenge = parse_challenge(await world.client.get("/", headers=bearer))
    assert challenge is not None
    assert challenge.consent_uri is not None
    declined = await sign_in(world, challenge.consent_uri, "alice", consent="decline")
    again = await world.client.get("/", headers=bearer | {"Cache-Control": "no-cache"})

    assert "error=access_denied" in declined.headers["Location"]
    assert 401 == again.status_code


async def test_the_consent_page_is_our_apis_own(world: World) -> None:
    """The page asks for our client id, the missing scopes and the configured redirect URI."""
    world.entra.withdraw_consent("alice", resource="api://partner")
    challenge = parse_challenge(await world.call())
    assert challenge is not None
    assert challenge.consent_uri is not None
    url = httpx.URL(challenge.consent_uri)

    assert f"{world.entra.authority}/{world.entra.tenant_id}/oauth2/v2.0/authorize" == str(
        url.copy_with(query=None)
    )
    assert {
        "client_id": world.entra.client_id("api"),
        "response_type": "code",
        "response_mode": "query",
        "redirect_uri": RETURN,
        "scope": SCOPE,
        "prompt": "consent",
    } == dict(url.params)


async def test_mfa_is_met_by_a_new_sign_in(world: World) -> None:
    """The claims of the challenge lead to a sign-in whose token is accepted."""
    entra = world.entra
    entra.require_mfa("alice", "api://partner")
    refused = await world.call()
    entra.complete_mfa("alice")
    completed = await world.call()

    assert [401, 200] == [refused.status_code, completed.status_code]
    assert "insufficient_claims" == refused.json()["error"]
