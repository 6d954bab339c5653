"""The contract: requests, and what every framework must answer to them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from obo_asgi import DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware, any_of
from obo_asgi._types import ASGIApp, Receive, Scope, Send
from obo_asgi.challenges import encode_claims
from obo_asgi.testing import FakeEntra

__all__ = [
    "REFUSED_SOCKETS",
    "SCENARIOS",
    "Answer",
    "Scenario",
    "World",
    "ask",
    "converse",
    "knock",
]

PARTNER, SLOW = "https://partner.example.com", "https://slow.example.com"
RETURN = "https://app.example.com/consented"
STRONGER = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'
COMPARED = ("WWW-Authenticate", "Retry-After", "Cache-Control")
READ, WRITE = "api://partner/read", "api://other/write"


async def partner(scope: Scope, receive: Receive, send: Send) -> None:
    """A downstream API: says who calls, or answers with the status that its path ends in."""
    name = scope["path"].rpartition("/")[2]
    status, headers = 200, {"content-type": "application/json"}
    if name == "slow":
        await asyncio.sleep(5)
    elif name == "challenge":
        challenge = f'Bearer error="insufficient_claims", claims="{encode_claims(STRONGER)}"'
        status, headers["www-authenticate"] = 401, challenge
    elif name.isdigit():
        status, headers["retry-after"] = int(name), "7"
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
    }
    await send(start)
    body = json.dumps({"name": scope["user"].display_name, "detail": "a detail of the partner"})
    await send({"type": "http.response.body", "body": body.encode()})


class World:
    """FakeEntra with one user for each kind of trouble, and a downstream API.

    Alice has none. Bob has consented to nothing, Carol lacks a second factor, a policy blocks Dan,
    and Entra is down for Erin.
    """

    def __init__(self) -> None:
        self.entra = entra = FakeEntra()
        for name in ("alice", "bob", "carol", "dan", "erin"):
            entra.add_user(name)
        registration = entra.add_api("api://partner", scopes=["read"])
        entra.add_api("api://other", scopes=["write"])
        entra.add_redirect_uri("api", RETURN)
        for resource in ("api://partner", "api://other"):
            entra.withdraw_consent("bob", resource=resource)
        entra.require_mfa("carol", "api://partner")
        entra.fail(53003, user="dan", times=math.inf)
        entra.fail_next(503, user="erin", times=math.inf, headers={"Retry-After": "9"})
        self._partner = OnBehalfOf(registration, http_client=entra.client())

    def obo(self) -> OnBehalfOf:
        """Wire one app."""
        protected = OnBehalfOfMiddleware(partner, self._partner)
        return OnBehalfOf(
            self.entra.registration(consent_redirect_uri=RETURN),
            downstream={
                "partner": DownstreamAPI(base_url=PARTNER, scopes=[READ]),
                "other": DownstreamAPI(scopes=[WRITE]),
                "slow": DownstreamAPI(base_url=SLOW, scopes=[READ], timeout=0.05),
            },
            required_scopes=["access_as_user"],
            app_roles=any_of("Read.All", "Admin"),
            http_client=self.entra.client(apps={PARTNER: protected, SLOW: protected}),
        )


Headers = list[tuple[str, str]]


def bearer(*arguments: Any, **token: Any) -> Callable[[FakeEntra], Headers]:
    return lambda entra: list(entra.bearer(*arguments, **token).items())


def nobody(entra: FakeEntra) -> Headers:
    return []


def garbage(entra: FakeEntra) -> Headers:
    return [("Authorization", "Bearer garbage")]


def doubled(entra: FakeEntra) -> Headers:
    return list(entra.bearer().items()) * 2


ALICE, BOB, CAROL, DAN, ERIN = map(bearer, ("alice", "bob", "carol", "dan", "erin"))
DAEMON = bearer(None, None, roles=["Read.All"])


@dataclass(frozen=True)
class Scenario:
    """A request, and what is known of its answer besides that it is the reference's."""

    path: str
    status: int = 200
    who: Callable[[FakeEntra], Headers] = ALICE
    method: str = "GET"
    text: str | None = None
    """The body of a good answer."""
    error: str | None = None
    """The ``error`` of a refusal."""
    is_ours: bool = True
    """Whether the answer is this library's to give; else the framework's, but for its status."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the answer, by a part of each."""
    body: dict[str, Any] = field(default_factory=dict)
    """Members of the answer's JSON."""


SCENARIOS: dict[str, Scenario] = {
    # good ones
    "GET": Scenario("/me", text="GET Alice"),
    "POST": Scenario("/me", text="POST Alice", method="POST"),
    "HEAD": Scenario("/me", text="", method="HEAD"),
    "session": Scenario("/op/session", text="session: None"),
    "stream": Scenario("/stream", text="all of it"),
    "public": Scenario("/public", text="public", who=nobody),
    "public path": Scenario("/health", text="public", who=nobody),
    "public, bad token": Scenario("/health", text="public", who=garbage),
    # tokens
    "no token": Scenario("/me", 401, nobody, error="token_required"),
    "no token, HEAD": Scenario("/me", 401, nobody, "HEAD"),
    "no token, POST": Scenario("/me", 401, nobody, "POST", error="token_required"),
    "bad token": Scenario("/me", 401, garbage, error="invalid_token"),
    "expired": Scenario("/me", 401, bearer(lifetime=-600), error="invalid_token"),
    "other audience": Scenario("/me", 401, bearer(audience="api://other"), error="invalid_token"),
    "two headers": Scenario("/me", 401, doubled, error="invalid_token"),
    "not our scope": Scenario(
        "/me",
        403,
        bearer(scp="other"),
        error="insufficient_scope",
        headers={"WWW-Authenticate": 'scope="access_as_user"'},
    ),
    "daemon without a role": Scenario("/me", 403, bearer(None, None), error="insufficient_scope"),
    # what routes require
    "scope": Scenario("/scope", who=bearer(scp="access_as_user read"), text="allowed"),
    "scope missing": Scenario(
        "/scope",
        403,
        error="insufficient_scope",
        headers={"WWW-Authenticate": 'scope="read"'},
    ),
    "scope missing, daemon": Scenario("/scope", 403, DAEMON, error="insufficient_scope"),
    "role": Scenario("/role", who=bearer(roles=["Admin"]), text="allowed"),
    "role missing": Scenario("/role", 403, error="insufficient_scope"),
    "role missing, daemon": Scenario("/role", 403, DAEMON, error="insufficient_scope"),
    "either, scope": Scenario("/either", who=bearer(scp="access_as_user read"), text="allowed"),
    "either, role": Scenario("/either", who=bearer(roles=["Read.All"]), text="allowed"),
    "either, daemon": Scenario("/either", who=DAEMON, text="allowed"),
    "either, neither": Scenario("/either", 403, error="insufficient_scope"),
    # what Entra wants
    "consent": Scenario(
        "/op/call",
        401,
        BOB,
        error="consent_required",
        headers={"WWW-Authenticate": f'scope="{READ}"'},
        body={"scopes": [READ]},
    ),
    "consent, in a dependency's handler": Scenario("/me", 401, BOB, error="consent_required"),
    "second factor": Scenario("/op/call", 401, CAROL, error="insufficient_claims"),
    "policy": Scenario("/op/call", 403, DAN, error="access_denied"),
    "Entra is down": Scenario("/op/call", 503, ERIN, headers={"Retry-After": ""}),
    "two consents": Scenario(
        "/op/consent-twice",
        401,
        BOB,
        error="consent_required",
        body={"scopes": [WRITE, READ]},
    ),
    # what the downstream API says
    **{
        f"{kind} {status}": Scenario(f"/op/{kind}-{status}", answer, body={"status": answer})
        for kind, status, answer in [
            ("typed", 400, 400),
            ("typed", 404, 404),
            ("typed", 500, 502),
            ("native", 404, 404),
            ("native", 500, 502),
            ("typed", "slow", 504),
            ("native", "slow", 504),
        ]
    },
    "typed 429": Scenario("/op/typed-429", 503, headers={"Retry-After": "7"}),
    "native 429": Scenario("/op/native-429", 503, headers={"Retry-After": "7"}),
    "challenge": Scenario("/op/typed-challenge", 401, error="insufficient_claims"),
    # what is not ours
    "a mistake": Scenario("/op/fail", 500, is_ours=False),
    "a mistake and a consent": Scenario("/op/consent-and-fail", 500, BOB, is_ours=False),
}

REFUSED_SOCKETS: dict[str, Scenario] = {
    "no token": Scenario("/live", 401, nobody, error="token_required"),
    "bad token": Scenario("/live", 401, garbage, error="invalid_token"),
    "anonymous on a public path": Scenario("/live-public", 401, nobody, error="token_required"),
    "scope missing": Scenario(
        "/live-scope",
        403,
        error="insufficient_scope",
        headers={"WWW-Authenticate": 'scope="read"'},
    ),
    "consent": Scenario(
        "/live-call",
        401,
        BOB,
        error="consent_required",
        headers={"WWW-Authenticate": f'scope="{READ}"'},
    ),
}


@dataclass(frozen=True)
class Answer:
    """What is compared."""

    status: int
    headers: dict[str, str | None]
    body: bytes
    content_type: str = field(compare=False)

    @property
    def is_json(self) -> bool:
        return "json" in self.content_type


async def ask(
    client: httpx.AsyncClient, entra: FakeEntra, scenario: Scenario, path: str = ""
) -> Answer:
    """Send the request of a scenario."""
    response = await client.request(
        scenario.method, path or scenario.path, headers=scenario.who(entra)
    )
    compared = {name: response.headers.get(name) for name in COMPARED}
    content_type = response.headers.get("Content-Type", "")
    if scenario.is_ours and scenario.status >= 400:
        compared |= {"Content-Type": content_type}
        if scenario.method != "HEAD":
            assert str(len(response.content)) == response.headers["Content-Length"]
    return Answer(response.status_code, compared, response.content, content_type)


async def knock(app: ASGIApp, entra: FakeEntra, scenario: Scenario) -> Answer:
    """Open a WebSocket at a server that can deny one, and return how it is denied."""
    start, *bodies = await converse(app, scenario.path, scenario.who(entra), can_deny=True)
    assert "websocket.http.response.start" == start["type"]
    headers = httpx.Headers(start["headers"])
    compared = {name: headers.get(name) for name in (*COMPARED, "Content-Type")}
    body = b"".join(each.get("body", b"") for each in bodies)
    return Answer(start["status"], compared, body, headers.get("Content-Type", ""))


def check(scenario: Scenario, answer: Answer) -> None:
    """Check what is known of an answer."""
    assert scenario.status == answer.status, answer
    for name, part in scenario.headers.items():
        assert part in (answer.headers[name] or ""), answer
        assert answer.headers[name] is not None
    assert (scenario.status in (401,)) <= (answer.headers["WWW-Authenticate"] is not None)
    if scenario.text is not None:
        assert scenario.text == answer.body.decode()
    if scenario.error is not None:
        assert scenario.error == json.loads(answer.body)["error"]
    if scenario.body:
        assert scenario.body == {name: json.loads(answer.body)[name] for name in scenario.body}
    assert b"a detail" not in answer.body


async def converse(
    app: ASGIApp,
    path: str,
    headers: Headers,
    texts: tuple[str, ...] = (),
    *,
    can_deny: bool = False,
) -> list[Any]:
    """Be a server with a WebSocket whose client says something and leaves; return what is sent."""
    incoming = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        while len(sent) < len(texts) + 1 and len(incoming) == 1:
            await asyncio.sleep(0.001)  # the client leaves when it has heard everything
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"api"),
            *((name.lower().encode(), value.encode()) for name, value in headers),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("api", 443),
        "subprotocols": [],
        "state": {},
        "extensions": {"websocket.http.response": {}} if can_deny else {},
    }
    await asyncio.wait_for(app(scope, receive, send), 10)
    return sent
