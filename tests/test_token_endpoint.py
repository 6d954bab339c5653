"""The token endpoint: MSAL writes the request and reads the answer, and nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from obo_asgi import AccessToken, AppRegistration, ClientSecret
from obo_asgi._types import Secret
from obo_asgi.client_assertion import ClientAuthenticator
from obo_asgi.errors import (
    AccessDeniedError,
    AssertionRejectedError,
    InteractionRequiredError,
    TokenAcquisitionError,
)
from obo_asgi.token_endpoint import TokenEndpoint
from obo_asgi.tokens import Issued

pytestmark = pytest.mark.anyio

TENANT = "11111111-1111-4111-8111-111111111111"
CLIENT = "33333333-3333-4333-8333-333333333333"
AUTHORITY = "https://login.microsoftonline.com"
SECRET = "the-client-secret"
ASSERTION = "the-incoming-token"
REFRESH_TOKEN = "the-refresh-token"
ID = "44444444-4444-4444-8444-444444444444"
GOOD = {"token_type": "Bearer", "access_token": "the-new-token", "expires_in": 3599}

Answer = httpx.Response | Exception


class Entra:
    """A token endpoint that gives the answers of a list, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers) or [httpx.Response(200, json=GOOD)]
        self.requests: list[httpx.Request] = []
        self.documents: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    async def document(self, tenant_id: str) -> Mapping[str, Any]:
        self.documents.append(tenant_id)
        base = f"{AUTHORITY}/{tenant_id}"
        return {
            "issuer": f"{base}/v2.0",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        }

    def endpoint(self) -> TokenEndpoint:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))
        registration = AppRegistration(
            tenant_id=TENANT, client_id=CLIENT, client_credential=ClientSecret(SECRET)
        )
        authenticator = ClientAuthenticator(registration, lambda: client)
        return TokenEndpoint(registration, lambda: client, self.document, authenticator)


async def exchange(
    endpoint: TokenEndpoint, *, tenant_id: str = TENANT, claims: str | None = None
) -> AccessToken:
    issued = await endpoint.on_behalf_of(
        tenant_id,
        Secret(ASSERTION),
        ("api://partner/read",),
        claims=claims,
        correlation_id=ID,
    )
    return issued.token


async def refresh(endpoint: TokenEndpoint, *, claims: str | None = None) -> Issued:
    return await endpoint.refresh(
        TENANT,
        Secret(REFRESH_TOKEN),
        ("api://partner/read",),
        claims=claims,
        correlation_id=ID,
    )


def form(request: httpx.Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.content.decode()).items()}


async def test_the_request_is_an_on_behalf_of_grant() -> None:
    """MSAL writes the documented OBO request, at the tenant, with cp1 and our correlation id."""
    entra = Entra()
    await exchange(entra.endpoint())
    request = entra.requests[0]
    fields = form(request)
    assert f"{AUTHORITY}/{TENANT}/oauth2/v2.0/token" == str(request.url)
    assert ID == request.headers["client-request-id"]
    assert "urn:ietf:params:oauth:grant-type:jwt-bearer" == fields["grant_type"]
    assert "on_behalf_of" == fields["requested_token_use"]
    assert (CLIENT, SECRET, ASSERTION) == (
        fields["client_id"],
        fields["client_secret"],
        fields["assertion"],
    )
    assert "api://partner/read" in fields["scope"].split()
    assert {"access_token": {"xms_cc": {"values": ["cp1"]}}} == json.loads(fields["claims"])


async def test_a_claims_challenge_is_merged_with_our_capabilities() -> None:
    """The demanded claims go out together with cp1."""
    entra = Entra()
    await exchange(entra.endpoint(), claims='{"access_token":{"acrs":{"value":"c1"}}}')
    assert {"access_token": {"acrs": {"value": "c1"}, "xms_cc": {"values": ["cp1"]}}} == json.loads(
        form(entra.requests[0])["claims"]
    )


async def test_a_refresh_is_a_refresh_token_grant() -> None:
    """MSAL writes the documented request, at the tenant, with our capabilities and our id."""
    entra = Entra()
    await refresh(entra.endpoint())
    request = entra.requests[0]
    fields = form(request)
    assert f"{AUTHORITY}/{TENANT}/oauth2/v2.0/token" == str(request.url)
    assert ID == request.headers["client-request-id"]
    assert ("refresh_token", REFRESH_TOKEN) == (fields["grant_type"], fields["refresh_token"])
    assert (CLIENT, SECRET) == (fields["client_id"], fields["client_secret"])
    assert "api://partner/read" in fields["scope"].split()
    assert {"access_token": {"xms_cc": {"values": ["cp1"]}}} == json.loads(fields["claims"])


async def test_a_refresh_merges_a_claims_challenge_with_our_capabilities() -> None:
    """The demanded claims go out together with cp1 here too."""
    entra = Entra()
    await refresh(entra.endpoint(), claims='{"access_token":{"acrs":{"value":"c1"}}}')
    assert {"access_token": {"acrs": {"value": "c1"}, "xms_cc": {"values": ["cp1"]}}} == json.loads(
        form(entra.requests[0])["claims"]
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("newer", "newer"), (None, None), ("", None), (7, None), (["newer"], None)],
    ids=repr,
)
async def test_a_new_refresh_token_comes_along(answer: Any, expected: str | None) -> None:
    """A text is the next refresh token, hidden; anything else is none."""
    body = {**GOOD, "refresh_token": answer}
    issued = await refresh(Entra(httpx.Response(200, json=body)).endpoint())
    assert "the-new-token" == issued.token.token
    assert expected == (issued.refresh_token and issued.refresh_token.reveal())
    assert "newer" not in repr(issued)


async def test_the_exchange_runs_at_the_tenant_of_the_caller() -> None:
    """A guest's token is exchanged at the tenant that it names."""
    entra = Entra()
    other = "22222222-2222-4222-8222-222222222222"
    await exchange(entra.endpoint(), tenant_id=other)
    assert f"/{other}/oauth2/v2.0/token" == entra.requests[0].url.path


async def test_msal_keeps_nothing() -> None:
    """Every call is a request of its own: MSAL neither caches tokens nor remembers failures."""
    refusal = httpx.Response(400, json={"error": "invalid_grant"})
    entra = Entra(httpx.Response(200, json=GOOD), refusal, httpx.Response(200, json=GOOD))
    endpoint = entra.endpoint()
    await exchange(endpoint)
    with pytest.raises(AssertionRejectedError):
        await exchange(endpoint)
    await exchange(endpoint)
    assert 3 == len(entra.requests)


async def test_a_tenant_has_one_msal_client() -> None:
    """Any number of simultaneous exchanges at a tenant build one MSAL client, once."""
    entra = Entra()
    endpoint = entra.endpoint()
    await asyncio.gather(*(exchange(endpoint) for _ in range(20)))
    before = len(entra.documents)
    await exchange(endpoint)
    assert before == len(entra.documents)
    await endpoint.aclose()


@pytest.mark.parametrize(
    ("expires_in", "low", "high"),
    [
        (3600, 3590, 3600),
        ("3600", 3590, 3600),
        (None, -1, 0.5),
        (0, -1, 0.5),
        (-5, -1, 0.5),
        ("soon", -1, 0.5),
        (True, -1, 0.5),
        ([3600], -1, 0.5),
        (10**400, -1, 0.5),
        (1e300, 0, 7 * 24 * 3600.0),
        ("NaN", -1, 0.5),
        ("Infinity", -1, 0.5),
    ],
)
async def test_an_absurd_lifetime_is_bounded(expires_in: Any, low: float, high: float) -> None:
    """Whatever expires_in says, the token's life is a sane number of seconds or none."""
    token = await exchange(
        Entra(httpx.Response(200, json={**GOOD, "expires_in": expires_in})).endpoint()
    )
    assert low <= token.expires_at - time.time() <= high
    assert token.refresh_at <= token.expires_at


async def test_refresh_in_says_when_to_renew() -> None:
    """A token is renewed around the time that Entra names, else some minutes before its end."""
    early = await exchange(Entra(httpx.Response(200, json={**GOOD, "refresh_in": 1000})).endpoint())
    usual = await exchange(Entra().endpoint())
    assert 890 <= early.refresh_at - time.time() <= 1000
    assert 2900 <= usual.refresh_at - time.time() <= 3300


REFUSALS = [
    (400, {"error": "invalid_grant", "suberror": "consent_required"}, InteractionRequiredError),
    (400, {"error": "invalid_grant", "claims": '{"a":1}'}, InteractionRequiredError),
    (400, {"error": "invalid_grant", "suberror": "message_only"}, AccessDeniedError),
    (400, {"error": "invalid_grant", "error_codes": [50013]}, AssertionRejectedError),
    (401, {"error": "invalid_client", "error_codes": [7000215]}, TokenAcquisitionError),
]


@pytest.mark.parametrize(("status", "body", "expected"), REFUSALS)
async def test_a_refusal_becomes_its_error(
    status: int, body: Any, expected: type[Exception]
) -> None:
    """Entra's refusals are not repeated and come out as the class of the tree."""
    entra = Entra(httpx.Response(status, json=body))
    with pytest.raises(expected) as caught:
        await exchange(entra.endpoint())
    assert expected is type(caught.value)
    assert ID == getattr(caught.value, "correlation_id", None)
    assert 1 == len(entra.requests)


@pytest.mark.parametrize(
    ("first", "requests"),
    [
        (httpx.ConnectError("refused"), 2),
        (httpx.ReadTimeout("slow"), 2),
        (httpx.Response(500, json={"error": "server_error"}), 2),
        (httpx.Response(502, content=b"<html>bad gateway</html>"), 2),
        (httpx.Response(503, headers={"retry-after": "7"}, json={}), 1),
        (httpx.Response(429, headers={"retry-after": "7"}, json={}), 1),
        (httpx.Response(200, content=b""), 1),
        (httpx.Response(200, content=b"<html>proxy</html>"), 1),
        (httpx.Response(200, json=[]), 1),
        (httpx.Response(200, json={"token_type": "Bearer"}), 1),
        (httpx.Response(200, json={"access_token": 7}), 1),
        (httpx.Response(200, json={**GOOD, "id_token": "no.jwt"}), 1),
        (httpx.Response(200, content=b" " * (1024 * 1024 + 1)), 2),
        (httpx.Response(302, headers={"location": "https://evil.example/"}), 1),
        (httpx.Response(404, content=b"not found"), 1),
    ],
)
async def test_an_endpoint_in_trouble_is_temporary(first: Answer, requests: int) -> None:
    """No answer, a server error or nonsense is tried at most twice and then is a 503 of ours."""
    entra = Entra(first)
    with pytest.raises(TokenAcquisitionError) as caught:
        await exchange(entra.endpoint())
    assert TokenAcquisitionError is type(caught.value)
    assert isinstance(caught.value.retry_after, int)
    assert requests == len(entra.requests)


@pytest.mark.parametrize("first", [httpx.ConnectError("refused"), httpx.Response(500)])
async def test_one_failure_is_made_good(first: Answer) -> None:
    """A dropped connection or a single server error is not seen by the user."""
    entra = Entra(first, httpx.Response(200, json=GOOD))
    assert "the-new-token" == (await exchange(entra.endpoint())).token


def frames(error: BaseException) -> list[FrameType]:
    """Return the frames of a traceback and of everything that is chained to it."""
    found: list[FrameType] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is not None:
            found += [frame for frame, _ in traceback.walk_tb(current.__traceback__)]
            waiting += [current.__cause__, current.__context__]
    return found


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.Response(400, json={"error": "invalid_grant", "error_description": "bob@contoso"}),
        httpx.Response(200, content=b"the-new-token"),
        httpx.Response(200, json={**GOOD, "id_token": "no.jwt"}),
    ],
)
@pytest.mark.parametrize("ask", [exchange, refresh])
async def test_a_failure_shows_no_secret(
    answer: Answer, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the error, nor the locals of its frames, nor the log holds a token or the secret."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(TokenAcquisitionError) as caught:
        await ask(Entra(answer).endpoint())
    ours = [frame for frame in frames(caught.value) if "obo_asgi" in frame.f_code.co_filename]
    shown = [repr(value) for frame in ours for value in frame.f_locals.values()]
    shown += [str(caught.value), repr(caught.value), repr(vars(caught.value)), caplog.text]
    for word in (SECRET, ASSERTION, REFRESH_TOKEN, "the-new-token", "bob@contoso"):
        assert [] == [text for text in shown if word in text]
