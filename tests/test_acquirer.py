"""The acquirer: one exchange for all who want it, and nobody's failure is another's."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from types import MappingProxyType

import pytest

from obo_asgi import AccessToken, TokenCache, User
from obo_asgi._types import Secret
from obo_asgi.acquirer import Acquirer
from obo_asgi.errors import (
    AccessDeniedError,
    AssertionRejectedError,
    CacheUnavailableError,
    ExpiredTokenError,
    InteractionRequiredError,
    KeysUnavailableError,
    OboError,
    SessionExpiredError,
    SessionNotFoundError,
    SessionUnreadableError,
    TokenAcquisitionError,
)
from obo_asgi.tokens import EARLY_EXPIRY, Issued, OnBehalfOfGrant, token_digest

pytestmark = pytest.mark.anyio

TENANT = "11111111-1111-4111-8111-111111111111"
SCOPES = ("api://partner/read",)


class Clock:
    """Seconds since the epoch, which a test moves ahead of the real ones."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Endpoint:
    """A token endpoint that a test holds up, lets fail, or lets answer."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.error: OboError | None = None
        self.lifetime = 3600.0
        self.refresh_in = 3000.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def on_behalf_of(
        self,
        tenant_id: str,
        assertion: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        return await self._answer(assertion.reveal(), claims)

    async def client_credentials(
        self,
        tenant_id: str,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        return await self._answer("app", claims)

    async def refresh(
        self,
        tenant_id: str,
        refresh_token: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        return await self._answer(refresh_token.reveal(), claims)

    async def _answer(self, who: str, claims: str | None) -> Issued:
        self.counts[who] += 1
        number = self.counts.total()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        now = time.time()
        text = f"{who}-{claims}-{number}"
        return Issued(AccessToken(text, now + self.lifetime, now + self.refresh_in))


def grant(name: str = "alice", *, ends_in: float = 3600.0) -> OnBehalfOfGrant:
    user = User(
        oid=name,
        tid=TENANT,
        claims=MappingProxyType({}),
        scopes=("access_as_user",),
        roles=(),
        expires_at=time.time() + ends_in,
    )
    return OnBehalfOfGrant(
        user,
        Secret(name),
        token_digest(name),
        authority="https://login.microsoftonline.com",
        client_id="33333333-3333-4333-8333-333333333333",
    )


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_second_call_is_served_from_memory() -> None:
    """A token is exchanged once and then comes from memory."""
    endpoint = Endpoint()
    acquirer = Acquirer(endpoint, TokenCache())
    tokens = [await acquirer.acquire_token(grant(), SCOPES) for _ in range(3)]
    assert 1 == endpoint.counts.total()
    assert 1 == len({token.token for token in tokens})


async def test_a_hit_switches_no_task() -> None:
    """A token in memory is returned without giving the loop to anybody else."""
    acquirer = Acquirer(Endpoint(), TokenCache())
    await acquirer.acquire_token(grant(), SCOPES)
    hit = acquirer.acquire_token(grant(), SCOPES)
    with pytest.raises(StopIteration):
        hit.send(None)


async def test_five_hundred_cold_callers_share_one_exchange() -> None:
    """Whoever wants the same token at the same time gets it from one exchange."""
    endpoint = Endpoint()
    endpoint.gate.clear()
    acquirer = Acquirer(endpoint, TokenCache())
    callers = [asyncio.create_task(acquirer.acquire_token(grant(), SCOPES)) for _ in range(500)]
    await settle()
    endpoint.gate.set()
    tokens = await asyncio.gather(*callers)
    assert 1 == endpoint.counts.total()
    assert 1 == len({token.token for token in tokens})


@pytest.mark.parametrize("leaver", [0, 50, 99], ids=["first", "middle", "last"])
async def test_a_cancelled_caller_harms_nobody(leaver: int) -> None:
    """The exchange belongs to no caller: one is cancelled, the 99 others are served by it."""
    endpoint = Endpoint()
    endpoint.gate.clear()
    acquirer = Acquirer(endpoint, TokenCache())
    callers = [asyncio.create_task(acquirer.acquire_token(grant(), SCOPES)) for _ in range(100)]
    await settle()
    callers[leaver].cancel()
    await settle()
    endpoint.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert Counter({AccessToken: 99, asyncio.CancelledError: 1}) == Counter(map(type, results))
    assert 1 == endpoint.counts.total()


async def test_an_exchange_that_all_left_still_counts() -> None:
    """When every caller is cancelled the exchange ends all the same, and the next one profits."""
    endpoint = Endpoint()
    endpoint.gate.clear()
    acquirer = Acquirer(endpoint, TokenCache())
    callers = [asyncio.create_task(acquirer.acquire_token(grant(), SCOPES)) for _ in range(5)]
    await settle()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    endpoint.gate.set()
    await settle()
    await acquirer.acquire_token(grant(), SCOPES)
    assert 1 == endpoint.counts.total()


async def test_an_exchange_that_fails_after_all_left_is_silent() -> None:
    """A failure that nobody waits for is not reported as a forgotten exception."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    endpoint = Endpoint()
    endpoint.gate.clear()
    endpoint.error = AccessDeniedError("no")
    acquirer = Acquirer(endpoint, TokenCache())
    caller = asyncio.create_task(acquirer.acquire_token(grant(), SCOPES))
    await settle()
    caller.cancel()
    endpoint.gate.set()
    await settle()
    gc.collect()
    assert [] == complaints


async def test_different_assertions_scopes_and_claims_never_share_a_token() -> None:
    """Two tokens of one user, two scopes and two claims challenges are separate exchanges."""
    endpoint = Endpoint()
    acquirer = Acquirer(endpoint, TokenCache())
    tokens = [
        await acquirer.acquire_token(grant("alice"), SCOPES),
        await acquirer.acquire_token(grant("alice again"), SCOPES),
        await acquirer.acquire_token(grant("alice"), ("api://other/read",)),
        await acquirer.acquire_token(grant("alice"), SCOPES, claims='{"a":1}'),
    ]
    assert 4 == len({token.token for token in tokens})


async def test_two_users_interleaved_a_thousand_times_stay_apart() -> None:
    """Whatever the order, each user gets tokens of their own assertion alone."""
    endpoint = Endpoint()
    acquirer = Acquirer(endpoint, TokenCache())

    async def one(name: str) -> bool:
        await asyncio.sleep(0)
        token = await acquirer.acquire_token(grant(name), SCOPES)
        return token.token.startswith(name)

    results = await asyncio.gather(*(one(("alice", "bob")[n % 2]) for n in range(2000)))
    assert all(results)
    assert Counter({"alice": 1, "bob": 1}) == endpoint.counts


async def test_a_token_near_its_end_is_renewed_in_the_background() -> None:
    """Past its refresh time the old token is served at once while one renewal runs."""
    endpoint = Endpoint()
    endpoint.refresh_in = -1
    acquirer = Acquirer(endpoint, TokenCache())
    old = await acquirer.acquire_token(grant(), SCOPES)
    endpoint.gate.clear()
    endpoint.refresh_in = 3000
    during = [await acquirer.acquire_token(grant(), SCOPES) for _ in range(20)]
    await settle()
    endpoint.gate.set()
    await settle()
    assert {old} == set(during)
    assert old != await acquirer.acquire_token(grant(), SCOPES)
    assert 2 == endpoint.counts.total()


async def test_a_valid_token_is_served_while_entra_is_down() -> None:
    """A renewal that fails leaves the old token in use and is not repeated at every request."""
    endpoint = Endpoint()
    endpoint.refresh_in = -1
    acquirer = Acquirer(endpoint, TokenCache())
    old = await acquirer.acquire_token(grant(), SCOPES)
    endpoint.error = TokenAcquisitionError("down", retry_after=5)
    for _ in range(10):
        assert old == await acquirer.acquire_token(grant(), SCOPES)
        await settle()
    assert 2 == endpoint.counts.total()


async def test_an_expiring_token_is_never_returned() -> None:
    """A token about to end is exchanged anew before it is handed out."""
    endpoint, clock = Endpoint(), Clock()
    acquirer = Acquirer(endpoint, TokenCache(), clock=clock)
    endpoint.lifetime = 60.0
    await acquirer.acquire_token(grant(), SCOPES)
    clock.ahead = 60.0 - EARLY_EXPIRY - 1
    await acquirer.acquire_token(grant(), SCOPES)
    assert 1 == endpoint.counts.total()
    clock.ahead = 60.0 - EARLY_EXPIRY
    await acquirer.acquire_token(grant(), SCOPES)
    assert 2 == endpoint.counts.total()


@pytest.mark.parametrize("lifetime", [0.0, -1.0])
async def test_a_token_without_a_lifetime_is_used_once(lifetime: float) -> None:
    """A token that ends at once is returned to its caller but not kept."""
    endpoint = Endpoint()
    endpoint.lifetime = lifetime
    cache = TokenCache()
    await Acquirer(endpoint, cache).acquire_token(grant(), SCOPES)
    assert 0 == len(cache)


FAILURES = [
    (InteractionRequiredError("consent"), 2.0),
    (AccessDeniedError("policy"), 60.0),
    (AssertionRejectedError("assertion"), 60.0),
    (TokenAcquisitionError("throttled", retry_after=17), 17.0),
    (TokenAcquisitionError("configuration"), 5.0),
    (KeysUnavailableError("keys", retry_after=10), 10.0),
    (SessionExpiredError("expired"), 60.0),
    (SessionNotFoundError("not found"), 60.0),
    (CacheUnavailableError("cache", retry_after=5), 5.0),
    (SessionUnreadableError("unreadable", retry_after=5), 5.0),
]


@pytest.mark.parametrize(("error", "seconds"), FAILURES, ids=[str(e) for e, _ in FAILURES])
async def test_a_failure_is_remembered_for_its_time(error: OboError, seconds: float) -> None:
    """A failed exchange is not repeated for its user for some seconds, and then it is."""
    endpoint, clock = Endpoint(), Clock()
    endpoint.error = error
    acquirer = Acquirer(endpoint, TokenCache(), clock=clock)
    for ahead, expected in [(0.0, 1), (seconds - 0.5, 1), (seconds + 0.5, 2)]:
        clock.ahead = ahead
        with pytest.raises(type(error)):
            await acquirer.acquire_token(grant(), SCOPES)
        assert expected == endpoint.counts.total()


async def test_one_users_failure_is_nobody_elses() -> None:
    """While Alice is throttled Bob's exchange reaches Entra and succeeds."""
    endpoint = Endpoint()
    acquirer = Acquirer(endpoint, TokenCache())
    endpoint.error = TokenAcquisitionError("throttled", retry_after=300)
    with pytest.raises(TokenAcquisitionError):
        await acquirer.acquire_token(grant("alice"), SCOPES)
    endpoint.error = None
    assert (await acquirer.acquire_token(grant("bob"), SCOPES)).token.startswith("bob")


async def test_a_refusal_can_be_passed_by_once_a_second() -> None:
    """After a consent the first no-cache request asks Entra at once, the next not for a second."""
    endpoint, clock = Endpoint(), Clock()
    acquirer = Acquirer(endpoint, TokenCache(), clock=clock)
    endpoint.error = AccessDeniedError("policy")
    for ahead, expected in [(0.0, 1), (0.1, 2), (0.5, 2), (1.2, 3)]:
        clock.ahead = ahead
        with pytest.raises(AccessDeniedError):
            await acquirer.acquire_token(grant(), SCOPES, bypass_failures=True)
        assert expected == endpoint.counts.total()
    endpoint.error = None
    clock.ahead = 3.0
    await acquirer.acquire_token(grant(), SCOPES, bypass_failures=True)


async def test_a_throttled_caller_cannot_pass_by() -> None:
    """No-cache does not lift the wait that Entra asks for."""
    endpoint = Endpoint()
    endpoint.error = TokenAcquisitionError("throttled", retry_after=60)
    acquirer = Acquirer(endpoint, TokenCache())
    for _ in range(3):
        with pytest.raises(TokenAcquisitionError):
            await acquirer.acquire_token(grant(), SCOPES, bypass_failures=True)
    assert 1 == endpoint.counts.total()


async def test_an_assertion_about_to_end_is_not_sent() -> None:
    """Within seconds of its end the caller's token is refused here, not at Entra."""
    endpoint = Endpoint()
    with pytest.raises(ExpiredTokenError):
        await Acquirer(endpoint, TokenCache()).acquire_token(grant(ends_in=1.0), SCOPES)
    assert 0 == endpoint.counts.total()


async def test_each_caller_gets_an_error_of_their_own() -> None:
    """A shared failure is raised as copies, so that tracebacks do not pile up on one object."""
    endpoint = Endpoint()
    endpoint.error = InteractionRequiredError("consent", correlation_id="id")
    endpoint.error.scopes = SCOPES
    acquirer = Acquirer(endpoint, TokenCache())
    results = await asyncio.gather(
        *(acquirer.acquire_token(grant(), SCOPES) for _ in range(3)), return_exceptions=True
    )
    errors = [error for error in results if isinstance(error, InteractionRequiredError)]
    assert 3 == len({id(error) for error in errors})
    assert {SCOPES} == {error.scopes for error in errors}
    assert {"id"} == {error.correlation_id for error in errors}


async def test_failures_are_bounded() -> None:
    """Any number of failing users leaves a bounded memory of failures."""
    endpoint = Endpoint()
    endpoint.error = AccessDeniedError("policy")
    acquirer = Acquirer(endpoint, TokenCache(), max_failures=10)
    for number in range(30):
        with pytest.raises(AccessDeniedError):
            await acquirer.acquire_token(grant(f"user-{number}"), SCOPES)
    with pytest.raises(AccessDeniedError):
        await acquirer.acquire_token(grant("user-29"), SCOPES)
    with pytest.raises(AccessDeniedError):
        await acquirer.acquire_token(grant("user-0"), SCOPES)
    assert Counter({"user-0": 2, "user-29": 1}) == Counter(
        {name: endpoint.counts[name] for name in ("user-0", "user-29")}
    )


async def test_closing_ends_an_exchange_under_way() -> None:
    """After closing no exchange goes on, and the waiting callers are told."""
    endpoint = Endpoint()
    endpoint.gate.clear()
    acquirer = Acquirer(endpoint, TokenCache())
    caller = asyncio.create_task(acquirer.acquire_token(grant(), SCOPES))
    await settle()
    await acquirer.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await caller


class Doubtful(OnBehalfOfGrant):
    """A right that has to be confirmed first, as that of a session after a while."""

    is_current = False
    doubt: OboError | None = None

    async def confirm(self) -> None:
        if self.doubt is not None:
            raise self.doubt
        self.is_current = True


def doubtful(error: OboError | None) -> Doubtful:
    sure = grant()
    authority, client_id = "https://login.microsoftonline.com", sure.key((), None).client_id
    doubtful = Doubtful(
        sure._user, Secret("alice"), token_digest("alice"), authority=authority, client_id=client_id
    )
    doubtful.doubt = error
    return doubtful


async def test_a_right_in_doubt_gets_no_token_from_memory() -> None:
    """A token in memory is used once the right is confirmed, and not if it has ended."""
    endpoint = Endpoint()
    acquirer = Acquirer(endpoint, TokenCache())
    token = await acquirer.acquire_token(grant(), SCOPES)
    right, wrong = doubtful(None), doubtful(SessionNotFoundError())

    assert [None, None] == [acquirer.recall(each, SCOPES) for each in (right, wrong)]
    with pytest.raises(SessionNotFoundError):
        await acquirer.acquire_token(wrong, SCOPES)
    assert token == await acquirer.acquire_token(right, SCOPES)
    assert token == acquirer.recall(right, SCOPES)
    assert 1 == endpoint.counts.total()
