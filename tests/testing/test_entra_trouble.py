"""Trouble on command, and the record of what was asked."""

import math
import time
from typing import Any

import httpx
import pytest

from obo_asgi.testing import FakeEntra
from obo_asgi.testing.aadsts import AADSTS
from tests.testing.calls import PARTNER, Calls, secret_of

pytestmark = pytest.mark.anyio


async def test_throttling_of_one_user(calls: Calls) -> None:
    """A throttled user gets 429 with Retry-After until the time is over; the others none."""
    calls.entra.throttle(user="alice", retry_after=7)
    for _ in range(2):
        response = await calls.exchange()
        assert (429, "7") == (response.status_code, response.headers["retry-after"])
        assert ([90055], "temporarily_unavailable") == (
            response.json()["error_codes"],
            response.json()["error"],
        )
    assert 200 == (await calls.exchange(calls.entra.token("bob"))).status_code
    calls.entra.recover()
    assert 200 == (await calls.exchange()).status_code


async def test_throttling_of_everybody_ends(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Throttling without a user is about all requests, and ends by itself."""
    calls.entra.throttle(retry_after=60)
    form: dict[str, Any] = {"grant_type": "client_credentials", "scope": f"{PARTNER}/.default"}
    assert 429 == (await calls.token(**form)).status_code
    later = time.monotonic() + 61
    monkeypatch.setattr("obo_asgi.testing.faults.time.monotonic", lambda: later)
    assert 200 == (await calls.token(**form)).status_code


async def test_throttled_refresh_token_is_its_users(calls: Calls) -> None:
    """A refresh token counts as a request of its user."""
    answer = await calls.exchange(scope=f"{PARTNER}/read offline_access")
    calls.entra.throttle(user="alice")
    response = await calls.token(
        grant_type="refresh_token", refresh_token=answer.json()["refresh_token"]
    )
    assert 429 == response.status_code


@pytest.mark.parametrize("number", sorted(AADSTS))
async def test_every_known_number_on_command(calls: Calls, number: int) -> None:
    """Each number is answered in its wire form, once, and the next request is served."""
    calls.entra.fail(number)
    response = await calls.exchange()
    row = AADSTS[number]
    body = response.json()
    assert (row.status, row.error, [number]) == (
        response.status_code,
        body["error"],
        body["error_codes"],
    )
    assert row.suberror == body.get("suberror")
    assert row.has_claims == ("claims" in body)
    assert 200 == (await calls.exchange()).status_code


@pytest.mark.parametrize(
    ("number", "status", "error", "suberror", "claims"),
    [
        (65001, 400, "invalid_grant", "consent_required", False),
        (50076, 400, "invalid_grant", "basic_action", True),
        (50079, 400, "interaction_required", "basic_action", True),
        (53000, 400, "interaction_required", "additional_action", True),
        (53003, 400, "invalid_grant", "message_only", False),
        (50013, 400, "invalid_grant", None, False),
        (50173, 400, "invalid_grant", "bad_token", False),
        (700082, 400, "invalid_grant", "token_expired", False),
        (7000215, 401, "invalid_client", None, False),
        (700016, 400, "unauthorized_client", None, False),
        (500011, 400, "invalid_resource", None, False),
        (90055, 429, "temporarily_unavailable", None, False),
        (90012, 504, "temporarily_unavailable", None, False),
        (50000, 500, "server_error", None, False),
    ],
)
def test_table(number: int, status: int, error: str, suberror: str | None, claims: bool) -> None:
    """The wire form of the numbers that matter most is as documented."""
    row = AADSTS[number]
    assert (status, error, suberror, claims) == (
        row.status,
        row.error,
        row.suberror,
        row.has_claims,
    )


async def test_refusal_can_differ(calls: Calls) -> None:
    """An ordered refusal takes claims, no claims, Retry-After, a user and a number of times."""
    calls.entra.fail(53003, claims='{"x":1}', retry_after=3)
    response = await calls.exchange()
    assert ('{"x":1}', "3") == (response.json()["claims"], response.headers["retry-after"])
    calls.entra.fail(53000, claims="")
    assert "claims" not in (await calls.exchange()).json()
    calls.entra.fail(50057, user="bob", times=math.inf)
    assert 200 == (await calls.exchange()).status_code
    bob = calls.entra.token("bob")
    assert [400, 400] == [(await calls.exchange(bob)).status_code for _ in range(2)]
    with pytest.raises(KeyError):
        calls.entra.fail(1)


async def test_raw_answer(calls: Calls) -> None:
    """Any answer can be ordered, such as a proxy's page, for a number of requests."""
    calls.entra.fail_next(502, "<h1>Bad Gateway</h1>", headers={"X-Proxy": "1"}, times=2)
    for _ in range(2):
        response = await calls.exchange()
        assert (502, "<h1>Bad Gateway</h1>", "text/html", "1") == (
            response.status_code,
            response.text,
            response.headers["content-type"],
            response.headers["x-proxy"],
        )
    calls.entra.fail_next(200, b"{", content_type="application/json", user="alice")
    assert 200 == (await calls.exchange(calls.entra.token("bob"))).status_code
    assert b"{" == (await calls.exchange()).content
    assert 200 == (await calls.exchange()).status_code


@pytest.mark.parametrize(
    ("down", "reachable"),
    [
        (True, set()),
        (False, {"keys", "metadata", "token"}),
        ("keys", {"metadata", "token"}),
        (["keys", "token"], {"metadata"}),
        ({"metadata"}, {"keys", "token"}),
    ],
)
async def test_outage(calls: Calls, down: bool | str | list[str], reachable: set[str]) -> None:
    """Everything or single endpoints can be out of reach: in process, a failed connection."""
    calls.entra.down = down
    base = f"{calls.entra.authority}/{calls.entra.tenant_id}"
    urls = {
        "keys": f"{base}/discovery/v2.0/keys",
        "metadata": f"{base}/v2.0/.well-known/openid-configuration",
        "token": f"{base}/oauth2/v2.0/token",
    }
    reached = set()
    for name, url in urls.items():
        try:
            await calls.client.request("POST" if name == "token" else "GET", url)
            reached.add(name)
        except httpx.ConnectError:
            pass
    assert reachable == reached
    assert 3 - len(reachable) == calls.entra.counts["refused"]
    if not isinstance(down, bool):
        assert frozenset(urls) - reachable == calls.entra.down
    calls.entra.recover()
    assert calls.entra.down is False


def test_outage_of_an_unknown_endpoint(entra: FakeEntra) -> None:
    """A name that is no endpoint is a mistake in the test."""
    with pytest.raises(ValueError, match="keys"):
        entra.down = "sign-in"


async def test_latency(calls: Calls) -> None:
    """Every answer takes as long as was said."""
    calls.entra.latency = 0.05
    assert 0.05 == calls.entra.latency
    start = time.monotonic()
    await calls.exchange()
    assert time.monotonic() - start >= 0.05


async def test_requests_are_recorded_without_secrets_in_their_repr(calls: Calls) -> None:
    """A recorded request tells what was asked, and its repr neither secret nor token."""
    assertion = calls.entra.token()
    claims = '{"access_token":{"xms_cc":{"values":["cp1"]}}}'
    await calls.exchange(assertion, claims=claims, headers={"X-Ms-Client": "x"})
    [request] = calls.entra.requests
    secret = secret_of(calls.entra.registration())
    assert (calls.entra.tenant_id, "on_behalf_of", f"{PARTNER}/read", claims) == (
        request.tenant,
        request.grant,
        request.scope,
        request.claims,
    )
    assert calls.entra.registration().client_id == request.client_id
    assert (assertion, secret) == (request.form["assertion"], request.form["client_secret"])
    assert "x" == request.headers["x-ms-client"]
    assert secret not in repr(request)
    assert assertion not in repr(request)


async def test_counts_are_reset(calls: Calls) -> None:
    """Counters count failures too, and start again on command."""
    await calls.exchange("nonsense")
    await calls.token(grant_type="password")
    assert (1, 1, 1) == (
        calls.entra.exchanges,
        calls.entra.counts["on_behalf_of"],
        calls.entra.counts["password"],
    )
    calls.entra.reset_counts()
    assert 0 == calls.entra.exchanges
    assert [] == calls.entra.requests
