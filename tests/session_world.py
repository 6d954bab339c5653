"""Long-running sessions as tests see them: processes over one shared cache, beside a FakeEntra."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import Any, Self

import httpx

from obo_asgi import (
    AppRegistration,
    Downstream,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    TokenCache,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.challenges import bearer_challenge, encode_claims
from obo_asgi.sessions._keys import SessionKey
from obo_asgi.testing import FakeEntra
from tests.shared_cache import FaultyCache

RING = [b"k" * 32]
OTHER_TENANT = "22222222-2222-4222-8222-222222222222"
READ, WRITE, OTHER_READ = "api://partner/read", "api://partner/write", "api://other/read"
NEWER = '{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}'
"""The claims that an API demands, and that Entra grants to every user."""


class API:
    """A downstream API that says whose token it got, and may demand claims of its first caller."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.demands: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        self.tokens.append(token)
        status, headers = 200, [(b"content-type", b"text/plain")]
        if self.demands:
            claims = encode_claims(self.demands.pop(0))
            challenge = bearer_challenge(error="insufficient_claims", claims=claims)
            status, headers = 401, [(b"www-authenticate", challenge.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": claims_of(token)["oid"].encode()})


class World:
    """A sign-in service, two APIs, a shared cache, and any number of processes of ours.

    The clock of the processes' caches stands still until a test moves it.
    """

    def __init__(self) -> None:
        self.entra = FakeEntra()
        self.entra.add_api("api://partner", scopes=["read", "write"])
        self.entra.add_api("api://other", scopes=["read"])
        self.partner, self.other = API(), API()
        self.shared = FaultyCache()
        self.now = time.time()
        self._opened: list[OnBehalfOf] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shared.fault, self.shared.delay = None, 0.0
        for obo in self._opened:
            await obo.aclose()

    def process(
        self,
        registration: AppRegistration | None = None,
        *,
        cache: TokenCache | None = None,
        keys: list[bytes] = RING,
        ahead: float = 0.0,
        apis: Collection[str] = ("partner", "other"),
    ) -> OnBehalfOf:
        """Return what a process of ours has; ``ahead`` is how far its clock is wrong."""
        known = {
            "partner": DownstreamAPI(base_url="https://partner.example.com", scopes=[READ]),
            "other": DownstreamAPI(base_url="https://other.example.com", scopes=[OTHER_READ]),
        }
        if cache is None:
            cache = TokenCache(shared=self.shared, keys=keys, clock=lambda: self.now + ahead)
        obo = OnBehalfOf(
            registration or self.entra.registration(),
            downstream={name: known[name] for name in apis},
            app_roles=["Caller"],
            cache=cache,
            http_client=self.entra.client(
                apps={
                    "https://partner.example.com": self.partner,
                    "https://other.example.com": self.other,
                }
            ),
        )
        self._opened.append(obo)
        return obo

    async def user(self, obo: OnBehalfOf, name: str = "alice", **token: Any) -> Downstream:
        """Return what the handler of a user's request has."""
        return await obo.downstream_for(self.entra.token(name, **token))

    async def start(self, obo: OnBehalfOf, name: str = "alice", **arguments: Any) -> str:
        """Start a session in a user's request, and return its key."""
        return await (await self.user(obo, name)).start_session(**arguments)

    def oid(self, name: str = "alice") -> str:
        """Return what an API answers to a call on behalf of a user."""
        return self.entra.user(name).oid

    def value(self, key: str) -> Any:
        """Return what stands in the shared cache for a session; None for nothing."""
        return self.shared.values.get(self.name(key))

    def name(self, key: str) -> str:
        """Return the name of a session in the shared cache."""
        registration = self.entra.registration()
        return SessionKey.parse(key, registration.authority, registration.client_id).name

    @property
    def grants(self) -> tuple[int, int]:
        """How many exchanges and how many refreshes came to Entra."""
        return self.entra.exchanges, self.entra.counts["refresh_token"]


async def call(obo: OnBehalfOf, key: str, api: str = "partner", **options: Any) -> str:
    """Be a worker that calls an API once; return whom the API has seen."""
    async with obo.resume_session(key) as downstream:
        return await downstream[api].get("data", into=str, **options)


async def call_late(
    world: World,
    obo: OnBehalfOf,
    key: str,
    meanwhile: Callable[[], Awaitable[object]],
    api: str = "other",
) -> asyncio.Task[str]:
    """Be a worker whose refresh takes longer than its lock; return how its call has ended."""
    await settled()
    world.entra.latency = 0.3
    late = asyncio.create_task(call(obo, key, api))
    await asyncio.sleep(0.1)
    world.entra.latency = 0.0
    for lock in world.shared.locks:  # it has come to its end
        del world.shared.values[lock]
    await meanwhile()
    await asyncio.wait([late])
    return late


async def request(
    obo: OnBehalfOf,
    bearer: dict[str, str],
    work: Callable[[Scope], Awaitable[object]],
    path: str = "/",
) -> httpx.Response:
    """Send a request to an API of ours, whose handler does this work and catches nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = str(await work(scope)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    transport = httpx.ASGITransport(OnBehalfOfMiddleware(app, obo, public_paths=["/public"]))
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        return await client.get(path, headers=bearer)


async def settled() -> None:
    """Let the work in the background end."""
    await asyncio.sleep(0.02)


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token, unverified."""
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=" * 3))
    return claims
