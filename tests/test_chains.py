"""Chains of APIs: what the last one lacks reaches the first caller whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from obo_asgi import (
    Downstream,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)
from obo_asgi._types import ASGIApp, Receive, Scope, Send
from obo_asgi.challenges import Challenge, parse_challenge, raise_for_challenge
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

A, B, C = "https://a.example.com", "https://b.example.com", "https://c.example.com"
RETURN = "https://app.example.com/consented"

Call = Callable[[Downstream], Awaitable[object]]


def answering(call: Call) -> ASGIApp:
    """Return an app that makes a call and says ok."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await call(downstream_from(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'"ok"'})

    return app


async def typed(downstream: Downstream) -> None:
    await downstream["next"].get("data", into=str)


async def native(downstream: Downstream) -> None:
    (await downstream["next"].get("data")).raise_for_status()


async def asked(downstream: Downstream) -> None:
    raise_for_challenge(await downstream["next"].get("data"))


async def streamed(downstream: Downstream) -> None:
    async with downstream["next"].stream("GET", "data") as response:
        response.raise_for_status()


async def gathered(downstream: Downstream) -> None:
    await downstream.gather(downstream["next"].get("data", into=str), asyncio.sleep(0))


async def grouped(downstream: Downstream) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(downstream["next"].get("data", into=str))


async def nothing(downstream: Downstream) -> None:
    """The end of the chain."""


@dataclass
class Chain:
    """Client → A → B → C, each API behind this middleware, with a registration of its own."""

    call_b: Call = typed
    b: ASGIApp | None = None
    entra: FakeEntra = field(default_factory=FakeEntra)

    def __post_init__(self) -> None:
        entra = self.entra
        for name, scope in (("api://b", "use"), ("api://c", "read")):
            entra.add_api(name, scopes=[scope])
            entra.add_redirect_uri(name, RETURN)
        entra.add_redirect_uri("api", RETURN)
        self.apps: dict[str, ASGIApp] = {}
        self.network = entra.client(apps={B: self._app(B), C: self._app(C)})
        self.apps = {
            A: self._protect("api", self.call_b, B, "api://b/use"),
            B: self.b or self._protect("api://b", typed, C, "api://c/read"),
            C: self._protect("api://c", nothing),
        }
        self.bearer = entra.bearer("alice")

    def _app(self, url: str) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self.apps[url](scope, receive, send)

        return app

    def _protect(self, name: str, call: Call, url: str = "", scope: str = "") -> ASGIApp:
        downstream = {"next": DownstreamAPI(base_url=url, scopes=[scope])} if url else {}
        registration = self.entra.registration(name, consent_redirect_uri=RETURN)
        obo = OnBehalfOf(registration, downstream=downstream, http_client=self.network)
        return OnBehalfOfMiddleware(answering(call), obo)

    async def request(self, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.apps[A])
        async with httpx.AsyncClient(transport=transport, base_url=A) as client:
            return await client.get("/data", headers=self.bearer | headers)

    async def refused(self) -> Challenge:
        """Return the challenge that the client gets."""
        response = await self.request()
        challenge = parse_challenge(response)
        assert 401 == response.status_code
        assert challenge is not None
        return challenge

    async def sign_in(self, url: str, **form: str) -> None:
        async with self.entra.client() as browser:
            answer = await browser.post(url, data={"user": "alice", **form})
        assert "code=" in answer.headers["Location"]


def query(url: str | None) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url or "").query).items()}


@pytest.mark.parametrize("call", [typed, native, asked, streamed, gathered, grouped])
async def test_a_consent_missing_at_the_end_reaches_the_client(call: Call) -> None:
    """However A calls B, its client hears B's demand: B's page, C's scope; consent completes it."""
    chain = Chain(call)
    chain.entra.withdraw_consent("alice", client="api://b", resource="api://c")
    challenge = await chain.refused()
    page = query(challenge.consent_uri)

    assert ("consent_required", ("api://c/read",)) == (challenge.error, challenge.scopes)
    assert (chain.entra.client_id("api://b"), "api://c/read") == (page["client_id"], page["scope"])
    assert challenge.consent_uri is not None
    await chain.sign_in(challenge.consent_uri, consent="accept")
    assert 200 == (await chain.request(**{"Cache-Control": "no-cache"})).status_code


async def test_a_missing_consent_is_no_claims_challenge() -> None:
    """A consent that B lacks makes A neither exchange nor call again."""
    chain = Chain()
    chain.entra.withdraw_consent("alice", client="api://b", resource="api://c")
    await chain.refused()

    assert ["api://b/use", "api://c/read"] == scopes_of(chain)


async def test_claims_demanded_at_the_end_reach_the_client() -> None:
    """What Entra demands for C makes A try once more for B, and then the client is asked."""
    chain = Chain()
    chain.entra.require_mfa("alice", "api://c")
    challenge = await chain.refused()

    assert "insufficient_claims" == challenge.error
    assert challenge.claims is not None
    assert "capolids" in challenge.claims
    assert ["api://b/use", "api://c/read", "api://b/use"] == scopes_of(chain)
    chain.entra.complete_mfa("alice")
    chain.bearer = chain.entra.bearer("alice")
    assert 200 == (await chain.request()).status_code


def scopes_of(chain: Chain) -> list[str]:
    """Return what was exchanged for, without the scopes that MSAL adds."""
    return [
        next(scope for scope in (request.scope or "").split() if "://" in scope)
        for request in chain.entra.requests
    ]


async def test_two_things_missing_in_one_chain_are_told_in_turn() -> None:
    """A consent missing at A comes first; once it is there, the one missing at B is told."""
    chain = Chain()
    chain.entra.withdraw_consent("alice", client="api", resource="api://b")
    chain.entra.withdraw_consent("alice", client="api://b", resource="api://c")
    asked_for = []
    for _ in range(2):
        challenge = await chain.refused()
        asked_for.append(challenge.scopes)
        assert challenge.consent_uri is not None
        await chain.sign_in(challenge.consent_uri, consent="accept")
        chain.bearer = chain.entra.bearer("alice")

    assert [("api://b/use",), ("api://c/read",)] == asked_for
    assert 200 == (await chain.request()).status_code


def dotnet(header: str) -> ASGIApp:
    """Return an API on Microsoft.Identity.Web, which answers so in place of our middleware."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"www-authenticate", header.encode())]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_a_dotnet_api_in_the_middle_is_understood() -> None:
    """What Microsoft.Identity.Web answers (403, its own parameters) reaches the client as a 401."""
    page = "https://login.microsoftonline.com/common/oauth2/v2.0/authorize?client_id=b&scope=c"
    parameters: dict[str, Any] = {
        "consentUri": page,
        "claims": "",
        "scopes": "api://c/read,api://c/write",
        "proposedAction": "consent",
    }
    header = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())
    challenge = await Chain(b=dotnet(header)).refused()

    assert ("consent_required", page) == (challenge.error, challenge.consent_uri)
    assert ("api://c/read", "api://c/write") == challenge.scopes


async def test_a_page_elsewhere_is_left_out() -> None:
    """An API cannot make ours send users to a page that is not the sign-in service's."""
    header = 'Bearer error="consent_required", scope="api://c/read", '
    evil = 'consent_uri="https://evil.example/", authorization_uri="https://evil.example/"'
    challenge = await Chain(b=dotnet(header + evil)).refused()

    assert ("consent_required", ("api://c/read",)) == (challenge.error, challenge.scopes)
    assert (None, None) == (challenge.consent_uri, challenge.authorization_uri)


@pytest.mark.parametrize(
    "header",
    [
        'Bearer realm="", error="invalid_token"',
        'Bearer realm="", error="insufficient_scope", scope="c"',
        'Basic realm="b"',
        "",
    ],
)
async def test_any_other_refusal_is_a_bad_gateway(header: str) -> None:
    """That B refuses A's own token is A's trouble, not the client's."""
    response = await Chain(b=dotnet(header)).request()

    assert (502, False) == (response.status_code, "WWW-Authenticate" in response.headers)
