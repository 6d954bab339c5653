"""Tenants: whose users may call, where their tokens are exchanged, and that many cost little."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from msal import ConfidentialClientApplication

from obo_asgi import (
    ANY_TENANT,
    ConfigurationError,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    TokenCache,
)
from obo_asgi.errors import InvalidTokenError, KeysUnavailableError
from obo_asgi.metadata import Metadata
from obo_asgi.tenants import ALLOWED_SECONDS, REFUSED_SECONDS, TenantPolicy
from obo_asgi.testing import FakeEntra
from obo_asgi.tokens import token_digest
from obo_asgi.verifier import Verifier

pytestmark = pytest.mark.anyio

FABRIKAM = "22222222-2222-4222-8222-222222222222"
ADATUM = "44444444-4444-4444-8444-444444444444"
GRAPH = DownstreamAPI(scopes=["https://graph.microsoft.com/User.Read"])


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Customers:
    """A predicate whose answers a test gives, holds up or lets fail."""

    def __init__(self, *tenants: str) -> None:
        self.tenants = set(tenants)
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, tenant_id: str) -> bool:
        self.counts[tenant_id] += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return tenant_id in self.tenants


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# the policy, by itself


async def test_a_predicate_is_asked_once_for_all_who_wait() -> None:
    """A hundred first requests of a tenant are one question."""
    customers = Customers(FABRIKAM)
    customers.gate.clear()
    policy = TenantPolicy(customers)
    callers = [asyncio.create_task(policy.check(FABRIKAM)) for _ in range(100)]
    await settle()
    customers.gate.set()
    await asyncio.gather(*callers)

    assert {FABRIKAM: 1} == customers.counts


@pytest.mark.parametrize(
    ("tenants", "seconds"),
    [
        pytest.param([FABRIKAM], ALLOWED_SECONDS, id="yes"),
        pytest.param([], REFUSED_SECONDS, id="no"),
    ],
)
async def test_an_answer_is_used_for_a_bounded_time(tenants: list[str], seconds: float) -> None:
    """A yes is used for minutes, a no for half a minute, and then the predicate is asked anew."""
    clock, customers = Clock(), Customers(*tenants)
    policy = TenantPolicy(customers, clock=clock)

    async def ask() -> int:
        try:
            await policy.check(FABRIKAM)
        except InvalidTokenError:
            assert [] == tenants
        return customers.counts[FABRIKAM]

    assert 1 == await ask()
    clock.now += seconds - 0.5
    assert 1 == await ask()
    clock.now += 1
    assert 2 == await ask()


def test_a_yes_is_used_for_minutes_and_a_no_for_less() -> None:
    """Who signs up waits no longer than a minute; who is offboarded is out after minutes."""
    assert 60 <= ALLOWED_SECONDS <= 600
    assert REFUSED_SECONDS <= 60


async def test_who_signs_up_and_who_leaves_is_noticed() -> None:
    """A no turns into a yes, and a yes into a no, once the answer has ended."""
    clock, customers = Clock(), Customers(ADATUM)
    policy = TenantPolicy(customers, clock=clock)
    await policy.check(ADATUM)
    with pytest.raises(InvalidTokenError):
        await policy.check(FABRIKAM)
    customers.tenants = {FABRIKAM}
    clock.now += ALLOWED_SECONDS
    await policy.check(FABRIKAM)
    with pytest.raises(InvalidTokenError) as caught:
        await policy.check(ADATUM)

    assert ("tenant", "tid") == (caught.value.code, caught.value.claim)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("database: password=hunter2"), id="an exception"),
        pytest.param(TimeoutError(), id="a time-out of its own"),
        pytest.param(PermissionError(), id="permission"),
    ],
)
async def test_a_failing_predicate_lets_nobody_in(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A predicate that fails is a 503, is asked anew by the next one, and is not quoted."""
    caplog.set_level(logging.DEBUG)
    customers = Customers(FABRIKAM)
    policy = TenantPolicy(customers)
    customers.error = error
    with pytest.raises(KeysUnavailableError) as caught:
        await policy.check(FABRIKAM)
    assert caught.value.retry_after is not None
    assert "hunter2" not in caplog.text + str(caught.value)
    assert not policy.recently_allowed(FABRIKAM)

    customers.error = None
    await policy.check(FABRIKAM)
    assert 2 == customers.counts[FABRIKAM]


@pytest.mark.parametrize("answer", [1, "yes", [FABRIKAM], object(), None, 0, ""])
async def test_only_true_is_a_yes(answer: Any) -> None:
    """Whatever is not True itself, such as a forgotten comparison, lets nobody in."""

    async def predicate(tenant_id: str) -> bool:
        return answer  # type: ignore[no-any-return]

    with pytest.raises(InvalidTokenError):
        await TenantPolicy(predicate).check(FABRIKAM)


async def test_a_hanging_predicate_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """A predicate that does not come back holds callers up for seconds, not for ever."""
    loop = asyncio.get_running_loop()
    customers = Customers(FABRIKAM)
    customers.gate.clear()
    policy = TenantPolicy(customers)
    callers = [asyncio.create_task(policy.check(FABRIKAM)) for _ in range(3)]
    await settle()
    ahead = loop.time
    monkeypatch.setattr(loop, "time", lambda: ahead() + 30)
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [KeysUnavailableError] * 3 == [type(result) for result in results]
    assert {FABRIKAM: 1} == customers.counts


async def test_a_cancelled_caller_leaves_the_question_to_the_others() -> None:
    """Whoever asked first may go: the answer is for the others too."""
    customers = Customers(FABRIKAM)
    customers.gate.clear()
    policy = TenantPolicy(customers)
    callers = [asyncio.create_task(policy.check(FABRIKAM)) for _ in range(3)]
    await settle()
    callers[0].cancel()
    await settle()
    customers.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [asyncio.CancelledError, type(None), type(None)] == [type(result) for result in results]
    assert {FABRIKAM: 1} == customers.counts


async def test_closing_ends_a_question() -> None:
    """What hangs is ended by `aclose`, and no task is left."""
    customers = Customers(FABRIKAM)
    customers.gate.clear()
    policy = TenantPolicy(customers)
    before = asyncio.all_tasks()
    caller = asyncio.create_task(policy.check(FABRIKAM))
    await settle()
    await policy.aclose()
    result = (await asyncio.gather(caller, return_exceptions=True))[0]

    assert isinstance(result, RuntimeError)
    assert before == asyncio.all_tasks()


# the policy, in the verifier


def obo_of(entra: FakeEntra, allowed: Any, **changes: Any) -> OnBehalfOf:
    registration = entra.registration(allowed_tenants=allowed, **changes)
    return OnBehalfOf(registration, downstream={"graph": GRAPH}, http_client=entra.client())


def entra_with(*tenants: str) -> FakeEntra:
    entra = FakeEntra()
    for tenant in tenants:
        entra.add_tenant(tenant)
    return entra


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("tenant_id", ["own", "common", "organizations"])
async def test_a_predicate_decides_over_verified_tenants(version: str, tenant_id: str) -> None:
    """Customers get in with tokens of either version, others get a 401, each asked about once."""
    entra, customers = entra_with(FABRIKAM, ADATUM), Customers(FABRIKAM)
    changes = {} if tenant_id == "own" else {"tenant_id": tenant_id}
    async with obo_of(entra, customers, **changes) as obo:
        for _ in range(3):
            user = await obo.verify(entra.token(tenant=FABRIKAM, version=version))
            assert FABRIKAM == user.tid
            with pytest.raises(InvalidTokenError) as caught:
                await obo.verify(entra.token(tenant=ADATUM, version=version))
            assert "tenant" == caught.value.code

    assert {FABRIKAM: 1, ADATUM: 1} == customers.counts


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda entra: {"key": entra.unpublished_key()}, id="an unknown key"),
        pytest.param(
            lambda entra: {"key": entra.unpublished_key().private_key}, id="a wrong signature"
        ),
        pytest.param(lambda entra: {"lifetime": -120}, id="an expired token"),
        pytest.param(lambda entra: {"aud": "api://other"}, id="another audience"),
        pytest.param(lambda entra: {"iss": "https://evil.example/"}, id="another issuer"),
        pytest.param(lambda entra: {"tid": "evil'; --"}, id="no tenant id"),
        pytest.param(
            lambda entra: {"key": entra.add_key(tenant=ADATUM)}, id="another tenant's key"
        ),
    ],
)
async def test_a_predicate_is_asked_about_genuine_tokens_alone(
    forge: Callable[[FakeEntra], dict[str, Any]],
) -> None:
    """Nobody makes the predicate look up a tenant, or fills its memory, by forging tokens."""
    entra, customers = entra_with(FABRIKAM, ADATUM), Customers(FABRIKAM)
    changes = forge(entra)
    async with obo_of(entra, customers) as obo:
        with pytest.raises(InvalidTokenError):
            await obo.verify(entra.token(tenant=FABRIKAM, **changes))

    assert {} == customers.counts


async def test_an_offboarded_tenant_is_out_though_its_token_was_verified() -> None:
    """A token that was verified, and is remembered, counts no longer than the predicate's yes."""
    entra, clock, customers = entra_with(FABRIKAM), Clock(), Customers(FABRIKAM)
    registration = entra.registration(allowed_tenants=customers)
    client = entra.client()
    verifier = Verifier(
        registration,
        {"2.0": Metadata(registration, "2.0", lambda: client)},
        tenants=TenantPolicy(customers, clock=clock),
    )
    token = entra.token(tenant=FABRIKAM)
    digest = token_digest(token)
    user = await verifier.verify(token)
    customers.tenants.clear()
    clock.now += ALLOWED_SECONDS - 1
    assert user is verifier.recall(digest)
    clock.now += 1
    assert None is verifier.recall(digest)
    with pytest.raises(InvalidTokenError) as caught:
        await verifier.verify(token)

    assert "tenant" == caught.value.code
    assert {FABRIKAM: 2} == customers.counts


async def test_a_predicate_that_fails_is_a_503_of_the_api() -> None:
    """A request gets 503 with Retry-After while nobody can tell, and is served afterwards."""
    entra, customers = entra_with(FABRIKAM), Customers(FABRIKAM)
    customers.error = RuntimeError("down")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with obo_of(entra, customers) as obo:
        api = OnBehalfOfMiddleware(app, obo)
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
            headers = entra.bearer(tenant=FABRIKAM)
            refused = await client.get("/", headers=headers)
            customers.error = None
            served = await client.get("/", headers=headers)

    assert (503, 204) == (refused.status_code, served.status_code)
    assert int(refused.headers["retry-after"]) > 0


async def test_a_list_of_tenants_is_exact() -> None:
    """Listed tenants get in, and any other is refused before a key is looked up."""
    entra = entra_with(FABRIKAM, ADATUM)
    async with obo_of(entra, [entra.tenant_id, FABRIKAM.upper()]) as obo:
        with pytest.raises(InvalidTokenError):
            await obo.verify(entra.token(tenant=ADATUM))
        assert 0 == entra.counts["keys"]
        for tenant in (entra.tenant_id, FABRIKAM):
            assert tenant == (await obo.verify(entra.token(tenant=tenant))).tid


async def test_any_tenant_is_any_tenant_and_nobody_else() -> None:
    """With ANY_TENANT every tenant gets in, but not under another tenant's issuer or key."""
    entra = entra_with(FABRIKAM, ADATUM)
    key = entra.add_key(tenant=ADATUM)
    async with obo_of(entra, ANY_TENANT) as obo:
        assert FABRIKAM == (await obo.verify(entra.token(tenant=FABRIKAM))).tid
        assert ADATUM == (await obo.verify(entra.token(tenant=ADATUM, key=key))).tid
        for changes in ({"tid": ADATUM}, {"key": key}, {"tid": "common"}):
            with pytest.raises(InvalidTokenError):
                await obo.verify(entra.token(tenant=FABRIKAM, **changes))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    ("allowed", "changes"),
    [
        pytest.param(ANY_TENANT, {}, id="any"),
        pytest.param([FABRIKAM], {}, id="a list"),
        pytest.param([FABRIKAM], {"tenant_id": "organizations"}, id="organizations"),
        pytest.param(Customers, {}, id="a predicate"),
    ],
)
async def test_a_guest_is_exchanged_at_the_tenant_of_the_token(
    allowed: Any, changes: dict[str, Any], version: str
) -> None:
    """Alice, a guest of another tenant, gets a token from that tenant's endpoint, and of it."""
    entra = entra_with(FABRIKAM)
    allowed = Customers(FABRIKAM) if allowed is Customers else allowed
    async with obo_of(entra, allowed, **changes) as obo:
        downstream = await obo.downstream_for(entra.token(tenant=FABRIKAM, version=version))
        assert await downstream["graph"].acquire_token()

    assert [FABRIKAM] == [request.tenant for request in entra.requests]


# ten thousand tenants


async def everybody(tenant_id: str) -> bool:
    return True


class Traffic:
    """Users of ever new tenants, each of whom needs one exchange."""

    def __init__(self) -> None:
        self.entra = FakeEntra()
        self.exchanged_at: set[str] = set()

    def client(self) -> httpx.AsyncClient:
        """Return a client whose token endpoint knows every tenant and keeps no request."""
        metadata = self.entra.client()

        async def answer(request: httpx.Request) -> httpx.Response:
            if request.method == "GET":
                answer = await metadata.get(request.url)
                return httpx.Response(answer.status_code, content=answer.content)
            self.exchanged_at.add(request.url.path.split("/")[1])
            body = {"token_type": "Bearer", "access_token": "token", "expires_in": 3599}
            return httpx.Response(200, json=body)

        return httpx.AsyncClient(transport=httpx.MockTransport(answer))

    async def visit(self, obo: OnBehalfOf) -> None:
        tid = str(uuid.uuid4())
        token = self.entra.token(tid=tid, iss=f"{self.entra.authority}/{tid}/v2.0")
        downstream = await obo.downstream_for(token)
        assert "token" == (await downstream["graph"].acquire_token()).token

    async def visits(self, obo: OnBehalfOf, count: int) -> None:
        for _ in range(count // 50):
            async with asyncio.TaskGroup() as group:
                for _ in range(50):
                    group.create_task(self.visit(obo))


def used_memory() -> int:
    """Return the bytes of physical memory that this process uses."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def living(kind: type) -> int:
    gc.collect()
    return sum(isinstance(item, kind) for item in gc.get_objects())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc says what is used")
async def test_thousands_of_tenants_pass_through_one_process() -> None:
    """Tenants come and go: what is kept of them is bounded, as is the number of MSAL's clients."""
    traffic, others = Traffic(), living(ConfidentialClientApplication)
    registration = traffic.entra.registration(allowed_tenants=everybody)
    async with OnBehalfOf(
        registration,
        downstream={"graph": GRAPH},
        http_client=traffic.client(),
        cache=TokenCache(max_entries=500),
    ) as obo:
        await traffic.visits(obo, 600)
        before = used_memory()
        await traffic.visits(obo, 600)
        growth = used_memory() - before
        clients = living(ConfidentialClientApplication) - others

    assert 1200 == len(traffic.exchanged_at)
    assert 1 <= clients <= 256
    # 600 verified users, which are bounded as well, are 2 MB
    assert growth < 4_000_000


@pytest.mark.parametrize("state", [None, "a&b=c d"])
@pytest.mark.parametrize("tenant", [FABRIKAM, "organizations"])
@pytest.mark.parametrize(
    "authority", ["https://login.microsoftonline.com", "https://login.microsoftonline.us"]
)
def test_the_admin_consent_url(authority: str, tenant: str, state: str | None) -> None:
    """An administrator is sent to the page of the tenant, at the cloud, for our app."""
    entra = FakeEntra(authority=authority)
    url = obo_of(entra, ANY_TENANT).admin_consent_url(
        tenant, redirect_uri="https://api.example.com/signed-up", state=state
    )

    assert f"{authority}/{tenant}/adminconsent" == url.partition("?")[0]
    expected = {
        "client_id": [entra.client_id("api")],
        "redirect_uri": ["https://api.example.com/signed-up"],
    }
    assert expected | ({"state": [state]} if state else {}) == parse_qs(urlsplit(url).query)


@pytest.mark.parametrize(
    ("tenant", "redirect_uri"),
    [
        pytest.param("common", "https://api.example.com/", id="common"),
        pytest.param("contoso.com", "https://api.example.com/", id="a domain"),
        pytest.param(f"{FABRIKAM}/../x", "https://api.example.com/", id="a path"),
        pytest.param(None, "https://api.example.com/", id="None"),
        pytest.param(FABRIKAM, "http://api.example.com/", id="http"),
        pytest.param(FABRIKAM, "javascript:alert(1)", id="a script"),
        pytest.param(FABRIKAM, "/signed-up", id="a path alone"),
        pytest.param(FABRIKAM, "", id="no redirect"),
    ],
)
def test_a_wrong_admin_consent_url_is_not_made(tenant: Any, redirect_uri: str) -> None:
    """Neither an alias or a path in the tenant's place, nor an unsafe way back is accepted."""
    with pytest.raises(ConfigurationError):
        obo_of(FakeEntra(), ANY_TENANT).admin_consent_url(tenant, redirect_uri=redirect_uri)
