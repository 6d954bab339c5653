"""How a protected API describes itself (RFC 9728), and where its challenges say so."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from obo_asgi import (
    ConfigurationError,
    InsufficientScopeError,
    InteractionRequiredError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    ProtectedResource,
    any_of,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.challenges import parse_challenge
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

RESOURCE = "https://api.example.com/mcp"
METADATA = "https://api.example.com/.well-known/oauth-protected-resource/mcp"
SCOPE = f"{RESOURCE}/access_as_user"


class App:
    """An app that raises what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"app"})


def protect(
    entra: FakeEntra, app: App | None = None, resource: Any = None, **options: Any
) -> OnBehalfOfMiddleware:
    options = {"required_scopes": ["access_as_user"], **options}
    obo = OnBehalfOf(entra.registration(), http_client=entra.client(), **options)
    resource = resource or ProtectedResource(resource=RESOURCE)
    return OnBehalfOfMiddleware(app or App(), obo, resource=resource)


async def send(
    app: OnBehalfOfMiddleware, url: str = METADATA, method: str = "GET", **headers: str
) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return await client.request(method, url, headers=headers)


@pytest.fixture
def entra() -> FakeEntra:
    return FakeEntra()


async def test_the_description_is_public_and_exact(entra: FakeEntra) -> None:
    """Without a token anybody reads it, also a page of another origin."""
    response = await send(protect(entra))

    assert {
        "resource": RESOURCE,
        "authorization_servers": [f"{entra.authority}/{entra.tenant_id}/v2.0"],
        "bearer_methods_supported": ["header"],
        "scopes_supported": [SCOPE],
    } == response.json()
    assert (200, "application/json", "*") == (
        response.status_code,
        response.headers["Content-Type"],
        response.headers["Access-Control-Allow-Origin"],
    )


async def test_the_authorization_server_describes_itself(entra: FakeEntra) -> None:
    """The named issuer is found by OpenID Connect discovery, as clients look for it."""
    [issuer] = (await send(protect(entra))).json()["authorization_servers"]
    async with entra.client() as client:
        document = (await client.get(f"{issuer}/.well-known/openid-configuration")).json()

    assert issuer == document["issuer"]


@pytest.mark.parametrize(
    ("method", "status", "length"), [("HEAD", 200, 0), ("OPTIONS", 204, 0), ("POST", 405, None)]
)
async def test_only_reading_is_offered(
    entra: FakeEntra, method: str, status: int, length: int | None
) -> None:
    """HEAD and a preflight work, everything else is not allowed."""
    response = await send(protect(entra), method=method)

    assert status == response.status_code
    assert length in (None, len(response.content))


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/.well-known/oauth-protected-resource",
        "https://api.example.com/.well-known/oauth-protected-resource/mcp/",
        "https://api.example.com/.well-known/oauth-protected-resource/mcp/x",
        "https://api.example.com/mcp/.well-known/oauth-protected-resource",
    ],
)
async def test_no_other_path_is_public(entra: FakeEntra, url: str) -> None:
    """The description is at its one URL; whatever is near it needs a token."""
    assert 401 == (await send(protect(entra), url)).status_code


async def test_it_is_an_opt_in(entra: FakeEntra) -> None:
    """Without a resource nothing is described, and challenges name nothing."""
    obo = OnBehalfOf(entra.registration(), http_client=entra.client())
    response = await send(OnBehalfOfMiddleware(App(), obo))

    assert (401, False) == (
        response.status_code,
        "resource_metadata" in response.headers["WWW-Authenticate"],
    )


def refusals(entra: FakeEntra) -> dict[str, tuple[App, dict[str, str], int]]:
    interaction = InteractionRequiredError("consent", suberror="consent_required")
    good = entra.bearer()
    return {
        "no token": (App(), {}, 401),
        "bad token": (App(), {"Authorization": "Bearer x"}, 401),
        "expired": (App(), entra.bearer(lifetime=-3600), 401),
        "scope": (App(), entra.bearer(scp="other"), 403),
        "scope of a route": (App(InsufficientScopeError(["write"])), good, 403),
        "interaction": (App(interaction), good, 401),
        "group": (App(ExceptionGroup("", [interaction])), good, 401),
    }


@pytest.mark.parametrize("name", list(refusals(FakeEntra())))
async def test_every_challenge_names_the_description(entra: FakeEntra, name: str) -> None:
    """Each challenge names it, whoever raised the error and whatever is wrong."""
    app, headers, status = refusals(entra)[name]
    response = await send(protect(entra, app), RESOURCE, **headers)
    challenge = parse_challenge(response)

    assert status == response.status_code
    assert challenge is not None
    assert METADATA == challenge.resource_metadata


@pytest.mark.parametrize(
    ("name", "scopes"),
    [
        ("no token", (SCOPE,)),
        ("bad token", (SCOPE,)),
        ("scope", (SCOPE,)),
        ("scope of a route", (f"{RESOURCE}/write",)),
    ],
)
async def test_scopes_are_fully_qualified(
    entra: FakeEntra, name: str, scopes: tuple[str, ...]
) -> None:
    """A client can ask for the scopes of a challenge as they are; a bare name would be Graph's."""
    app, headers, _ = refusals(entra)[name]
    challenge = parse_challenge(await send(protect(entra, app), RESOURCE, **headers))

    assert challenge is not None
    assert scopes == challenge.scopes


async def test_without_a_required_scope_none_is_advertised(entra: FakeEntra) -> None:
    """An API that takes any scope names none, unless the resource does."""
    plain = await send(protect(entra, required_scopes=None))
    either = await send(protect(entra, required_scopes=any_of("read", "write")))
    named = ProtectedResource(resource=RESOURCE, scopes=["api://other/read"])
    explicit = await send(protect(entra, resource=named))

    assert "scopes_supported" not in plain.json()
    assert [f"{RESOURCE}/read", f"{RESOURCE}/write"] == either.json()["scopes_supported"]
    assert ["api://other/read"] == explicit.json()["scopes_supported"]


async def test_below_a_root_path_it_is_found_too(entra: FakeEntra) -> None:
    """A server that puts ``root_path`` into the path, or leaves it out, finds the description."""
    app = protect(entra)
    for path, root in [
        ("/.well-known/oauth-protected-resource/mcp", "/api"),
        ("/api/.well-known/oauth-protected-resource/mcp", "/api"),
    ]:
        transport = httpx.ASGITransport(app, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
            assert 200 == (await client.get(path)).status_code


def test_a_wrong_resource_fails_at_start(entra: FakeEntra) -> None:
    """A bare URL is refused with a sentence that says what to write."""
    with pytest.raises(ConfigurationError, match="must be a ProtectedResource"):
        protect(entra, resource=RESOURCE)
