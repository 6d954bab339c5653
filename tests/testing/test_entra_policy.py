"""Consent, multi-factor authentication and revocation."""

import json

import pytest

from obo_asgi.testing import FakeEntra
from tests.testing.calls import PARTNER, Calls, claims_of

pytestmark = pytest.mark.anyio

ACRS = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'


@pytest.mark.parametrize(
    ("withdrawn", "refuses"),
    [
        ({}, True),
        ({"user": "alice"}, True),
        ({"user": "bob"}, False),
        ({"resource": PARTNER}, True),
        ({"resource": "graph"}, False),
        ({"scope": "read"}, True),
        ({"scope": "write"}, False),
        ({"client": None}, True),
        ({"client": "spa"}, False),
        ({"user": "alice", "client": "api", "resource": PARTNER, "scope": "read"}, True),
    ],
)
async def test_exchange_needs_consent(
    calls: Calls, withdrawn: dict[str, str | None], refuses: bool
) -> None:
    """An exchange needs the consent of this user to our API for this scope of this resource."""
    calls.entra.withdraw_consent(**withdrawn)
    response = await calls.exchange()
    assert (400 if refuses else 200) == response.status_code


async def test_consent_to_the_client_app_does_not_help(calls: Calls) -> None:
    """What the user lets the calling app do is nothing to our API; what our API may do is."""
    calls.entra.withdraw_consent()
    calls.entra.grant_consent(user="alice", client="spa", resource=PARTNER)
    assert [65001] == (await calls.exchange()).json()["error_codes"]
    calls.entra.grant_consent(user="alice", client="api", resource=PARTNER, scope="read")
    assert 200 == (await calls.exchange()).status_code
    assert [65001] == (await calls.exchange(scope=f"{PARTNER}/write")).json()["error_codes"]
    assert [65001] == (await calls.exchange(calls.entra.token("bob"))).json()["error_codes"]


async def test_default_without_any_consent(calls: Calls) -> None:
    """``/.default`` of nothing is a missing consent as well."""
    calls.entra.withdraw_consent(user="alice", resource=PARTNER)
    response = await calls.exchange(scope=f"{PARTNER}/.default")
    assert ([65001], "consent_required") == (
        response.json()["error_codes"],
        response.json()["suberror"],
    )


def test_names_must_exist(entra: FakeEntra) -> None:
    """A consent about an app that is not there is a mistake in the test."""
    with pytest.raises(LookupError, match="api://typo"):
        entra.withdraw_consent(resource="api://typo")
    with pytest.raises(LookupError, match="api://typo"):
        entra.require_mfa(resource="api://typo")


@pytest.mark.parametrize(
    ("demand", "demanded"),
    [
        ({}, True),
        ({"user": "alice"}, True),
        ({"user": "bob"}, False),
        ({"resource": PARTNER}, True),
        ({"resource": "graph"}, False),
    ],
)
async def test_demand_for_mfa(calls: Calls, demand: dict[str, str], demanded: bool) -> None:
    """Where multi-factor authentication is demanded, the answer has the claims to ask it with."""
    calls.entra.require_mfa(**demand)
    body = (await calls.exchange()).json()
    assert demanded == (body.get("error_codes") == [50076])
    if demanded:
        assert ("invalid_grant", "basic_action") == (body["error"], body["suberror"])
        assert json.loads(body["claims"])["access_token"]["capolids"]["essential"]


async def test_mfa_belongs_to_the_assertion(calls: Calls) -> None:
    """After the second factor a new token is good; the one of before stays refused."""
    calls.entra.require_mfa(user="alice", resource=PARTNER)
    old = calls.entra.token()
    calls.entra.complete_mfa("alice")
    assert [50076] == (await calls.exchange(old)).json()["error_codes"]
    assert 200 == (await calls.exchange(calls.entra.token())).status_code
    assert 200 == (await calls.exchange(calls.entra.token("bob", amr=["mfa"]))).status_code


async def test_demand_of_the_resource(calls: Calls) -> None:
    """A resource's own claims challenge is refused until met, and then stands in the token."""
    body = (await calls.exchange(claims=ACRS)).json()
    assert ([50076], ACRS) == (body["error_codes"], body["claims"])
    calls.entra.complete_mfa("alice")
    answer = (await calls.exchange(calls.entra.token(), claims=ACRS)).json()
    assert ["c1"] == claims_of(answer["access_token"])["acrs"]


async def test_revocation(calls: Calls) -> None:
    """Assertions and refresh tokens of before a revocation are refused; new ones are good."""
    before, bobs = calls.entra.token(), calls.entra.token("bob")
    scope = f"{PARTNER}/read offline_access"
    refresh_token = (await calls.exchange(before, scope=scope)).json()["refresh_token"]
    calls.entra.revoke("alice")
    assert [50173] == (await calls.exchange(before)).json()["error_codes"]
    body = (await calls.token(grant_type="refresh_token", refresh_token=refresh_token)).json()
    assert ([50173], "bad_token") == (body["error_codes"], body["suberror"])
    assert 200 == (await calls.exchange(bobs)).status_code
    assert 200 == (await calls.exchange(calls.entra.token())).status_code
