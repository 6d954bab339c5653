"""OpenID metadata and signing keys: fetched once, renewed quietly, pinned to the authority."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from obo_asgi import ANY_TENANT, AppRegistration, ClientSecret
from obo_asgi.errors import InvalidTokenError, KeysUnavailableError
from obo_asgi.metadata import COOLDOWN, MAX_AGE, REFRESH_INTERVAL, RETRY_AFTER, Metadata

pytestmark = pytest.mark.anyio

TENANT = "11111111-1111-4111-8111-111111111111"
OTHER_TENANT = "22222222-2222-4222-8222-222222222222"
AUTHORITY = "https://login.microsoftonline.com"
RSA_KEY = rsa.generate_private_key(65537, 2048).public_key()
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048).public_key()
WEAK_RSA_KEY = rsa.generate_private_key(65537, 1024).public_key()
EC_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def jwk(kid: str, key: Any = RSA_KEY, **more: Any) -> dict[str, Any]:
    algorithm: Any = (
        jwt.algorithms.RSAAlgorithm
        if isinstance(key, rsa.RSAPublicKey)
        else jwt.algorithms.ECAlgorithm
    )
    return {**algorithm.to_jwk(key, as_dict=True), "kid": kid, "use": "sig", **more}


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SignInService:
    """A remote that serves one metadata document and one key set, as a test wants them."""

    def __init__(self, issuer: str = f"{AUTHORITY}/{TENANT}/v2.0", tenant: str = TENANT) -> None:
        self.document: Any = {
            "issuer": issuer,
            "jwks_uri": f"{AUTHORITY}/{tenant}/discovery/v2.0/keys",
            "token_endpoint": f"{AUTHORITY}/{tenant}/oauth2/v2.0/token",
            "authorization_endpoint": f"{AUTHORITY}/{tenant}/oauth2/v2.0/authorize",
            "scopes_supported": ["openid"],
        }
        self.keys: Any = {"keys": [jwk("first")]}
        self.answer: Any = None
        self.counts: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        kind = "keys" if request.url.path.endswith("/keys") else "document"
        self.counts[kind] += 1
        await self.gate.wait()
        if self.answer is not None:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer(request, kind)  # type: ignore[no-any-return]
        return httpx.Response(200, json=self.keys if kind == "keys" else self.document)


def metadata_of(
    service: SignInService, clock: Clock | None = None, *, version: str = "2.0", **registration: Any
) -> Metadata:
    client = httpx.AsyncClient(transport=httpx.MockTransport(service))
    return Metadata(
        AppRegistration(
            **{
                "tenant_id": TENANT,
                "client_id": "33333333-3333-4333-8333-333333333333",
                "client_credential": ClientSecret("secret"),
                **registration,
            }
        ),
        version,
        lambda: client,
        clock=clock or Clock(),
    )


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_two_hundred_cold_requests_make_one_fetch_of_each() -> None:
    """Any number of first requests share one metadata fetch and one key fetch."""
    service = SignInService()
    metadata = metadata_of(service)
    await asyncio.gather(*(metadata.signing_key("first") for _ in range(200)))
    assert {"document": 1, "keys": 1} == service.counts


async def test_a_storm_of_unknown_ids_makes_one_more_fetch() -> None:
    """Three hundred unknown key ids cost one key fetch within the cooldown, and all are refused."""
    service = SignInService()
    metadata = metadata_of(service)
    await metadata.signing_key("first")
    results = await asyncio.gather(
        *(metadata.signing_key(f"unknown-{n}") for n in range(300)), return_exceptions=True
    )
    assert {InvalidTokenError} == {type(result) for result in results}
    assert {"document": 1, "keys": 2} == service.counts


async def test_a_key_rolled_right_after_the_start_is_found() -> None:
    """The first load does not start the cooldown of on-demand fetches."""
    service = SignInService()
    metadata = metadata_of(service)
    await metadata.signing_key("first")
    service.keys = {"keys": [jwk("first"), jwk("second", OTHER_RSA_KEY)]}
    await metadata.signing_key("second")
    assert 2 == service.counts["keys"]


async def test_the_cooldown_ends() -> None:
    """After the cooldown an unknown key id is looked for again."""
    service, clock = SignInService(), Clock()
    metadata = metadata_of(service, clock)
    with pytest.raises(InvalidTokenError):
        await metadata.signing_key("second")
    service.keys = {"keys": [jwk("second", OTHER_RSA_KEY)]}
    clock.now += COOLDOWN - 1
    with pytest.raises(InvalidTokenError):
        await metadata.signing_key("second")
    clock.now += 1
    await metadata.signing_key("second")


async def test_known_keys_never_wait_for_a_fetch() -> None:
    """While an on-demand fetch hangs, a token with a known key is served at once."""
    service = SignInService()
    metadata = metadata_of(service)
    await metadata.signing_key("first")
    service.gate.clear()
    unknown = asyncio.create_task(metadata.signing_key("unknown"))
    await settle()
    await asyncio.wait_for(metadata.signing_key("first"), 0.1)
    service.gate.set()
    with pytest.raises(InvalidTokenError):
        await unknown


async def test_a_cancelled_first_caller_harms_nobody() -> None:
    """The fetch belongs to no caller: the first one leaves, the others are served by it."""
    service = SignInService()
    service.gate.clear()
    metadata = metadata_of(service)
    first = asyncio.create_task(metadata.signing_key("first"))
    await settle()
    others = [asyncio.create_task(metadata.signing_key("first")) for _ in range(9)]
    await settle()
    first.cancel()
    await settle()
    service.gate.set()
    await asyncio.gather(*others)
    assert first.cancelled()
    assert {"document": 1, "keys": 1} == service.counts


async def test_keys_are_renewed_in_the_background() -> None:
    """Past the interval one request triggers one renewal and does not wait for it."""
    service, clock = SignInService(), Clock()
    metadata = metadata_of(service, clock)
    await metadata.signing_key("first")
    clock.now += REFRESH_INTERVAL * 1.1
    service.gate.clear()
    for _ in range(5):
        await asyncio.wait_for(metadata.signing_key("first"), 0.1)
    await settle()
    service.gate.set()
    await settle()
    assert {"document": 2, "keys": 2} == service.counts


async def test_a_removed_key_is_retired() -> None:
    """A renewal that drops a key marks it, so that tokens verified with it are forgotten."""
    service, clock = SignInService(), Clock()
    metadata = metadata_of(service, clock)
    key = await metadata.signing_key("first")
    service.keys = {"keys": [jwk("second", OTHER_RSA_KEY)]}
    clock.now += REFRESH_INTERVAL * 1.1
    await metadata.signing_key("first")
    await settle()
    assert key.retired


async def test_a_key_published_again_stays_the_same_object() -> None:
    """A renewal with the same keys retires nothing."""
    service, clock = SignInService(), Clock()
    metadata = metadata_of(service, clock)
    key = await metadata.signing_key("first")
    clock.now += REFRESH_INTERVAL * 1.1
    await metadata.signing_key("first")
    await settle()
    assert 2 == service.counts["keys"]
    assert key is await metadata.signing_key("first")


async def test_a_key_that_changes_under_its_id_is_retired() -> None:
    """Another key under a known id replaces the old one, which no longer counts."""
    service, clock = SignInService(), Clock()
    metadata = metadata_of(service, clock)
    key = await metadata.signing_key("first")
    service.keys = {"keys": [jwk("first", OTHER_RSA_KEY)]}
    clock.now += REFRESH_INTERVAL * 1.1
    await metadata.signing_key("first")
    await settle()
    assert key.retired
    assert key is not await metadata.signing_key("first")


async def test_last_known_good_keys_serve_for_a_bounded_time() -> None:
    """While the sign-in service is down its keys stay in use for a day, then it is a 503."""
    service, clock = SignInService(), Clock()
    metadata = metadata_of(service, clock)
    await metadata.signing_key("first")
    service.answer = httpx.ConnectError("down")
    clock.now += MAX_AGE - 1
    await metadata.signing_key("first")
    await settle()
    clock.now += RETRY_AFTER
    with pytest.raises(KeysUnavailableError) as caught:
        await metadata.signing_key("first")
    assert RETRY_AFTER == caught.value.retry_after


async def test_a_failed_first_fetch_is_repeated_after_a_pause() -> None:
    """A sign-in service that is down is asked again every few seconds, not at each request."""
    service, clock = SignInService(), Clock()
    service.answer = httpx.ConnectError("down")
    metadata = metadata_of(service, clock)
    for _ in range(5):
        with pytest.raises(KeysUnavailableError):
            await metadata.signing_key("first")
    assert {"document": 1} == service.counts
    service.answer = None
    clock.now += RETRY_AFTER
    await metadata.signing_key("first")


async def test_an_unknown_id_is_no_verdict_while_the_keys_cannot_be_asked() -> None:
    """When the on-demand fetch fails the token is not called invalid: it is a 503."""
    service = SignInService()
    metadata = metadata_of(service)
    await metadata.signing_key("first")
    service.answer = httpx.ConnectError("down")
    for _ in range(2):
        with pytest.raises(KeysUnavailableError):
            await metadata.signing_key("unknown")
    assert 2 == service.counts["keys"]
    await metadata.signing_key("first")


def _redirect(request: httpx.Request, kind: str) -> httpx.Response:
    return httpx.Response(302, headers={"location": "https://evil.example/keys"})


def _huge(request: httpx.Request, kind: str) -> httpx.Response:
    return httpx.Response(200, content=b" " * (1024 * 1024 + 1))


def _garbage(request: httpx.Request, kind: str) -> httpx.Response:
    return httpx.Response(200, content=b"<html>not json</html>")


def _list(request: httpx.Request, kind: str) -> httpx.Response:
    return httpx.Response(200, json=[])


def _deep(request: httpx.Request, kind: str) -> httpx.Response:
    return httpx.Response(200, content=b"[" * 100_000)


def _server_error(request: httpx.Request, kind: str) -> httpx.Response:
    return httpx.Response(500, json={"keys": [jwk("first")]})


@pytest.mark.parametrize(
    "answer",
    [_redirect, _huge, _garbage, _list, _deep, _server_error, httpx.ReadTimeout("slow")],
    ids=["redirect", "huge", "garbage", "list", "deep", "500", "timeout"],
)
async def test_an_answer_that_is_no_document_is_a_503(answer: Any) -> None:
    """Redirects, oversized bodies, garbage, errors and time-outs never yield keys."""
    service = SignInService()
    service.answer = answer
    with pytest.raises(KeysUnavailableError):
        await metadata_of(service).signing_key("first")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("issuer", f"{AUTHORITY}/{OTHER_TENANT}/v2.0"),
        ("issuer", f"{AUTHORITY}/{{tenantid}}/v2.0"),
        ("issuer", None),
        ("jwks_uri", "http://169.254.169.254/keys"),
        ("jwks_uri", "https://evil.example/keys"),
        ("jwks_uri", "https://login.microsoftonline.com:8443/keys"),
        ("jwks_uri", "https://login.microsoftonline.com.evil.example/keys"),
        ("jwks_uri", "https://login.microsoftonline.com:port/keys"),
        ("jwks_uri", None),
        ("token_endpoint", "https://evil.example/token"),
        ("token_endpoint", ["https://login.microsoftonline.com/token"]),
        ("authorization_endpoint", "https://evil.example/authorize"),
    ],
)
async def test_a_document_that_points_elsewhere_is_refused(name: str, value: Any) -> None:
    """The issuer must be the configured tenant's, and every endpoint on the authority."""
    service = SignInService()
    service.document[name] = value
    with pytest.raises(KeysUnavailableError):
        await metadata_of(service).signing_key("first")
    assert 0 == service.counts["keys"]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"keys": []},
        {"keys": "first"},
        {"keys": [None, 1, "first"]},
        {"keys": [jwk("first", WEAK_RSA_KEY)]},
        {"keys": [jwk("first", EC_KEY)]},
        {"keys": [jwk("first", use="enc")]},
        {"keys": [jwk("first", alg="RS512")]},
        {"keys": [jwk("first", key_ops=["sign"])]},
        {"keys": [jwk("first", key_ops="verify")]},
        {"keys": [jwk("first", issuer=7)]},
        {"keys": [jwk("first", n="!")]},
        {"keys": [{"kid": "first", "kty": "RSA"}]},
        {"keys": [{"kid": "first", "kty": "oct", "k": "c2VjcmV0"}]},
        {"keys": [jwk("first") | {"kid": 7}]},
    ],
)
async def test_a_key_set_without_a_usable_key_replaces_nothing(keys: Any) -> None:
    """Unusable keys are passed over; a set of nothing else is a failed fetch."""
    service, clock = SignInService(), Clock()
    metadata = metadata_of(service, clock)
    key = await metadata.signing_key("first")
    service.keys = keys
    clock.now += REFRESH_INTERVAL * 1.1
    await metadata.signing_key("first")
    await settle()
    assert 2 == service.counts["keys"]
    assert key is await metadata.signing_key("first")
    assert not key.retired


async def test_the_first_of_two_keys_with_one_id_counts() -> None:
    """A repeated key id does not replace the key before it."""
    service = SignInService()
    service.keys = {"keys": [jwk("first"), jwk("first", OTHER_RSA_KEY)]}
    key = await metadata_of(service).signing_key("first")
    service.keys = {"keys": [jwk("first")]}
    assert key.same_as(await metadata_of(service).signing_key("first"))


@pytest.mark.parametrize(
    ("version", "registration", "url"),
    [
        ("2.0", {}, f"{AUTHORITY}/{TENANT}/v2.0/.well-known/openid-configuration"),
        ("1.0", {}, f"{AUTHORITY}/{TENANT}/.well-known/openid-configuration"),
        (
            "2.0",
            {"tenant_id": "organizations", "allowed_tenants": ANY_TENANT},
            f"{AUTHORITY}/organizations/v2.0/.well-known/openid-configuration",
        ),
        (
            "2.0",
            {"allowed_tenants": [TENANT, OTHER_TENANT]},
            f"{AUTHORITY}/common/v2.0/.well-known/openid-configuration",
        ),
    ],
)
async def test_where_the_document_is(version: str, registration: Any, url: str) -> None:
    """Each version and tenant has its own document; several tenants share the common one."""
    assert url == metadata_of(SignInService(), version=version, **registration).url


async def test_the_shared_document_reads_for_each_tenant() -> None:
    """For one tenant the shared document names that tenant's endpoints and issuer."""
    service = SignInService(f"{AUTHORITY}/{{tenantid}}/v2.0", "common")
    metadata = metadata_of(service, allowed_tenants=ANY_TENANT)
    document = await metadata.document(OTHER_TENANT)
    assert f"{AUTHORITY}/{OTHER_TENANT}/v2.0" == document["issuer"]
    assert f"{AUTHORITY}/{OTHER_TENANT}/oauth2/v2.0/token" == document["token_endpoint"]
    assert ["openid"] == document["scopes_supported"]


@pytest.mark.parametrize(
    ("issuer", "tenant", "expected"),
    [
        (None, TENANT, True),
        (f"{AUTHORITY}/{{tenantid}}/v2.0", TENANT, True),
        (f"{AUTHORITY}/{{tenantid}}/v2.0", OTHER_TENANT, True),
        (f"{AUTHORITY}/{TENANT}/v2.0", TENANT, True),
        (f"{AUTHORITY}/{TENANT}/v2.0", OTHER_TENANT, False),
    ],
)
async def test_a_key_signs_for_its_own_issuer_only(
    issuer: str | None, tenant: str, expected: bool
) -> None:
    """The issuer that the key set names for a key must be the token's (Entra's per-key issuer)."""
    service = SignInService()
    service.keys = {"keys": [jwk("first", issuer=issuer)]}
    key = await metadata_of(service).signing_key("first")
    assert expected == key.may_sign_for(f"{AUTHORITY}/{tenant}/v2.0", tenant)


async def test_closing_ends_a_fetch_under_way() -> None:
    """After closing no fetch goes on, and the waiting callers are told."""
    service = SignInService()
    service.gate.clear()
    metadata = metadata_of(service)
    caller = asyncio.create_task(metadata.signing_key("first"))
    await settle()
    await metadata.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await caller
