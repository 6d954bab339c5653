"""The token endpoint's four grants, and everything that it refuses."""

import base64
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest

from obo_asgi.testing import FakeEntra
from obo_asgi.testing.aadsts import AADSTS
from tests.testing.calls import PARTNER, Calls, answer_in, claims_of, secret_of

pytestmark = pytest.mark.anyio

OTHER_TENANT = "11111111-2222-3333-4444-555555555555"
CP1 = '{"access_token":{"xms_cc":{"values":["cp1"]}}}'


def refused(number: int, response: httpx.Response) -> dict[str, Any]:
    """Check that a response is the refusal of that number, in the form of the table."""
    body: dict[str, Any] = response.json()
    row = AADSTS[number]
    assert [number] == body.get("error_codes"), body
    assert (row.status, row.error) == (response.status_code, body["error"])
    assert row.suberror == body.get("suberror")
    return body


# on behalf of


async def test_exchange_gives_a_token_for_the_downstream_api(calls: Calls) -> None:
    """The exchanged token is for the resource, about the user, and names our API as the client."""
    response = await calls.exchange(calls.entra.token("bob"))
    answer = response.json()
    assert {"token_type", "scope", "expires_in", "ext_expires_in", "access_token"} == set(answer)
    assert ("Bearer", f"{PARTNER}/read", 3600) == (
        answer["token_type"],
        answer["scope"],
        answer["expires_in"],
    )
    claims = claims_of(answer["access_token"])
    partner, api = calls.entra.registration(PARTNER), calls.entra.registration()
    assert (partner.client_id, api.client_id, "1") == (
        claims["aud"],
        claims["azp"],
        claims["azpacr"],
    )
    assert ("read", calls.entra.user("bob").oid) == (claims["scp"], claims["oid"])
    assert f"{calls.entra.authority}/{calls.entra.tenant_id}/v2.0" == claims["iss"]
    assert "xms_cc" not in claims
    assert 1 == calls.entra.exchanges


async def test_v1_resource_gets_v1_tokens(calls: Calls) -> None:
    """The tokens of a v1 resource have its identifier URI, those of Graph Graph's own."""
    calls.entra.add_api("https://database.windows.net", scopes=["user"], version="1.0")
    for scope, audience in [
        ("https://database.windows.net//.default", "https://database.windows.net"),
        ("User.Read", "https://graph.microsoft.com"),
        ("https://graph.microsoft.com/Mail.Read", "https://graph.microsoft.com"),
    ]:
        claims = claims_of((await calls.exchange(scope=scope)).json()["access_token"])
        assert (audience, "1.0") == (claims["aud"], claims["ver"])
        assert calls.entra.registration().client_id == claims["appid"]


async def test_default_means_everything_consented(calls: Calls) -> None:
    """``/.default`` gives all consented scopes, and says so."""
    answer = (await calls.exchange(scope=f"{PARTNER}/.default")).json()
    assert f"{PARTNER}/read {PARTNER}/write {PARTNER}/.default" == answer["scope"]
    assert "read write" == claims_of(answer["access_token"])["scp"]
    calls.entra.withdraw_consent(scope="write")
    answer = (await calls.exchange(scope=f"{PARTNER}/.default")).json()
    assert "read" == claims_of(answer["access_token"])["scp"]


async def test_openid_scopes_bring_more(calls: Calls) -> None:
    """What MSAL asks for besides comes along: ID token, refresh token and client info."""
    scope = f"{PARTNER}/read openid profile offline_access"
    answer = (await calls.exchange(scope=scope, client_info="1")).json()
    alice = calls.entra.user("alice")
    info = json.loads(base64.urlsafe_b64decode(answer["client_info"] + "=="))
    assert {"uid": alice.oid, "utid": alice.tenant_id} == info
    identity = claims_of(answer["id_token"])
    assert (calls.entra.registration().client_id, alice.oid) == (identity["aud"], identity["oid"])
    assert answer["refresh_token"]
    assert f"openid profile {PARTNER}/read" == answer["scope"]


async def test_declared_capability_stands_in_the_token(calls: Calls) -> None:
    """A client that declares cp1 gets tokens that say so."""
    answer = (await calls.exchange(claims=CP1)).json()
    assert ["cp1"] == claims_of(answer["access_token"])["xms_cc"]


@pytest.mark.parametrize(
    ("lifetime", "ordered", "expected"), [(3600, None, None), (86400, None, 43200), (3600, 5, 5)]
)
async def test_refresh_in(
    calls: Calls, lifetime: int, ordered: int | None, expected: int | None
) -> None:
    """Long-lived tokens say when to renew them, and others on command."""
    calls.entra.token_lifetime, calls.entra.refresh_in = lifetime, ordered
    assert ordered == calls.entra.refresh_in
    answer = (await calls.exchange()).json()
    assert lifetime == answer["expires_in"]
    assert expected == answer.get("refresh_in")


async def test_guest_is_exchanged_at_the_tenant_of_the_token(calls: Calls) -> None:
    """The exchange works at the tenant of the incoming token, and gives a token of that tenant."""
    calls.entra.add_tenant(OTHER_TENANT)
    assertion = calls.entra.token(tenant=OTHER_TENANT)
    answer = (await calls.exchange(assertion, tenant=OTHER_TENANT)).json()
    assert OTHER_TENANT == claims_of(answer["access_token"])["tid"]
    refused(50020, await calls.exchange(assertion))


async def test_user_outside_the_directory_is_known_by_the_token(calls: Calls) -> None:
    """A token about an object id that nobody added is exchanged for one about the same."""
    oid = str(uuid.uuid4())
    answer = (await calls.exchange(calls.entra.token(oid=oid, name="X", amr="odd"))).json()
    claims = claims_of(answer["access_token"])
    assert (oid, "X") == (claims["oid"], claims["name"])


Forge = Callable[[FakeEntra], str]


@pytest.mark.parametrize(
    ("number", "forge"),
    [
        (50027, lambda entra: "not a token"),
        (50027, lambda entra: entra.token(exp=None)),
        (50027, lambda entra: entra.token(exp="soon")),
        (50013, lambda entra: entra.token(key=entra.unpublished_key())),
        (50013, lambda entra: entra.token(key=entra.unpublished_key().private_key)),
        (50013, lambda entra: entra.token(key=entra.add_key(tenant=OTHER_TENANT))),
        (50013, lambda entra: entra.token(headers={"alg": "none"})),
        (50013, lambda entra: entra.token(headers={"alg": "HS256"}, key=b"k" * 32)),
        (50013, lambda entra: entra.token(iss="https://evil.example/")),
        (50013, lambda entra: entra.token(tid=OTHER_TENANT)),
        (50013, lambda entra: entra.token(ver="1.0")),
        (500131, lambda entra: entra.token(audience="https://graph.microsoft.com")),
        (500131, lambda entra: entra.token(aud=["a", "list"])),
        (500133, lambda entra: entra.token(lifetime=-1)),
        (500133, lambda entra: entra.token(nbf=int(time.time()) + 3600)),
        (240002, lambda entra: entra.token(scp=None)),
        (7000114, lambda entra: entra.token(None)),
        (7000114, lambda entra: entra.token(scp=None, roles=["Admin"])),
    ],
)
async def test_bad_assertion(calls: Calls, number: int, forge: Forge) -> None:
    """An assertion that is no valid access token of a user for our API is refused."""
    refused(number, await calls.exchange(forge(calls.entra)))


async def test_v1_assertion_and_key_of_its_own_tenant(calls: Calls) -> None:
    """A v1 token is as good an assertion as a v2 one, and so is one by the tenant's own key."""
    assert 200 == (await calls.exchange(calls.entra.token(version="1.0"))).status_code
    key = calls.entra.add_key(tenant=calls.entra.tenant_id)
    assert 200 == (await calls.exchange(calls.entra.token(key=key))).status_code


async def test_assertion_by_a_dropped_key(calls: Calls) -> None:
    """A token signed before a rollover is good until the old key is dropped."""
    assertion = calls.entra.token()
    calls.entra.roll_keys()
    assert 200 == (await calls.exchange(assertion)).status_code
    calls.entra.drop_old_keys()
    refused(50013, await calls.exchange(assertion))
    assert 200 == (await calls.exchange()).status_code


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (28003, {"scope": None}),
        (28003, {"scope": "openid profile"}),
        (700022, {"scope": f"{PARTNER}/read https://graph.microsoft.com/User.Read"}),
        (70011, {"scope": f"{PARTNER}/read {PARTNER}/.default"}),
        (70011, {"scope": f"{PARTNER}/undeclared"}),
        (500011, {"scope": "api://nowhere/read"}),
        (9002313, {"claims": "no json"}),
        (9002313, {"claims": "[]"}),
        (9002313, {"claims": '{"access_token": {"xms_cc": 1}}'}),
        (900144, {"grant_type": None}),
        (900144, {"client_id": None}),
        (900144, {"assertion": ""}),
        (900144, {"requested_token_use": None}),
        (9002313, {"requested_token_use": "nothing"}),
        (70003, {"grant_type": "password"}),
        (90002, {"tenant": OTHER_TENANT}),
        (9001023, {"tenant": "common"}),
        (700016, {"client_id": OTHER_TENANT}),
        (700016, {"client_id": "api"}),
        (7000215, {"client_secret": "wrong"}),
        (7000218, {"client_secret": None}),
        (7000218, {"client_assertion": "a.b.c"}),
    ],
)
async def test_bad_request(calls: Calls, number: int, fields: dict[str, Any]) -> None:
    """A request that is wrong in one thing is refused by that thing's number."""
    response = await calls.exchange(**fields)
    refused(number, response)


async def test_public_client_may_not_exchange(calls: Calls) -> None:
    """A public client has no secret to send, and no right to act on behalf of users."""
    spa = calls.entra.client_id("spa")
    refused(700025, await calls.exchange(client_id=spa))
    refused(7000114, await calls.exchange(client_id=spa, client_secret=None))


async def test_expired_secret(calls: Calls) -> None:
    """The secret of before its expiry is refused, the new one is good."""
    old = secret_of(calls.entra.registration())
    calls.entra.expire_secret()
    refused(7000222, await calls.exchange(client_secret=old))
    assert 200 == (await calls.exchange()).status_code


async def test_refusal_has_entras_form(calls: Calls) -> None:
    """A refusal carries the ids, the description and the correlation id that was sent."""
    correlation_id = str(uuid.uuid4())
    calls.entra.withdraw_consent()
    response = await calls.exchange(headers={"client-request-id": correlation_id})
    body = refused(65001, response)
    assert correlation_id == body["correlation_id"] == calls.entra.requests[0].client_request_id
    assert body["error_description"].startswith("AADSTS65001: The user or administrator has not")
    ids = f"Trace ID: {body['trace_id']} Correlation ID: {correlation_id} Timestamp: "
    assert body["error_description"].endswith(ids + body["timestamp"])
    assert f"{calls.entra.authority}/error?code=65001" == body["error_uri"]
    assert "claims" not in body


# refresh token


async def refresh_token(calls: Calls, assertion: str | None = None) -> str:
    answer = await calls.exchange(assertion, scope=f"{PARTNER}/read offline_access")
    token: str = answer.json()["refresh_token"]
    return token


async def test_refresh_token_rotates(calls: Calls) -> None:
    """A refresh token gives a new one with each token, and is used up by that."""
    first = await refresh_token(calls)
    answer = (await calls.token(grant_type="refresh_token", refresh_token=first)).json()
    assert "read" == claims_of(answer["access_token"])["scp"]
    assert first != answer["refresh_token"]
    refused(70000, await calls.token(grant_type="refresh_token", refresh_token=first))
    second = answer["refresh_token"]
    response = await calls.token(grant_type="refresh_token", refresh_token=second, client_info="1")
    assert "client_info" in response.json()
    assert 3 == calls.entra.counts["refresh_token"]


async def test_removed_users_refresh_token_is_refused(calls: Calls) -> None:
    """Once a user is removed nothing is issued by what the user had."""
    token = await refresh_token(calls, calls.entra.token("bob"))
    calls.entra.remove_user("bob")
    refused(50034, await calls.token(grant_type="refresh_token", refresh_token=token))


async def test_refresh_token_is_good_for_any_resource(calls: Calls) -> None:
    """A refresh token gives tokens of other resources, about the same user."""
    token = await refresh_token(calls, calls.entra.token("bob"))
    response = await calls.token(
        grant_type="refresh_token",
        refresh_token=token,
        scope="https://graph.microsoft.com/.default",
    )
    claims = claims_of(response.json()["access_token"])
    assert ("https://graph.microsoft.com", "Bob") == (claims["aud"], claims["name"])


async def test_refused_refresh_does_not_use_the_token_up(calls: Calls) -> None:
    """A refresh token that was refused for want of consent works after the consent."""
    token = await refresh_token(calls)
    calls.entra.withdraw_consent()
    refused(65001, await calls.token(grant_type="refresh_token", refresh_token=token))
    calls.entra.grant_consent()
    response = await calls.token(grant_type="refresh_token", refresh_token=token)
    assert 200 == response.status_code


async def test_bad_refresh_tokens(calls: Calls) -> None:
    """A refresh token that is unknown, of another client or of another tenant is refused."""
    calls.entra.add_tenant(OTHER_TENANT)
    token = await refresh_token(calls)
    refused(70000, await calls.token(grant_type="refresh_token", refresh_token="unknown"))
    partner = calls.entra.registration(PARTNER)
    other: dict[str, Any] = {
        "client_id": partner.client_id,
        "client_secret": secret_of(partner),
        "grant_type": "refresh_token",
        "refresh_token": token,
    }
    refused(70000, await calls.token(**other))
    response = await calls.token(OTHER_TENANT, grant_type="refresh_token", refresh_token=token)
    refused(50020, response)


# client credentials


@pytest.mark.parametrize(("resource", "roles"), [(PARTNER, ["Tasks.Run"]), ("api://none", None)])
async def test_client_credentials(calls: Calls, resource: str, roles: list[str] | None) -> None:
    """A client gets a token of its own with the resource's roles and without a scope."""
    calls.entra.add_api("api://none")
    response = await calls.token(
        grant_type="client_credentials", scope=f"{resource}/.default", claims=CP1
    )
    assert {"token_type", "expires_in", "ext_expires_in", "access_token"} == set(response.json())
    claims = claims_of(response.json()["access_token"])
    assert ("app", roles, ["cp1"]) == (claims["idtyp"], claims.get("roles"), claims["xms_cc"])
    assert calls.entra.registration().client_id == claims["azp"]
    assert "scp" not in claims


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (70011, {"scope": f"{PARTNER}/read"}),
        (28003, {"scope": None}),
        (9001023, {"tenant": "organizations"}),
        (7000215, {"client_secret": "wrong"}),
    ],
)
async def test_bad_client_credentials(calls: Calls, number: int, fields: dict[str, Any]) -> None:
    """Client credentials want ``/.default``, a tenant and a good secret."""
    form: dict[str, Any] = {
        "grant_type": "client_credentials",
        "scope": f"{PARTNER}/.default",
        **fields,
    }
    refused(number, await calls.token(**form))


async def test_public_client_has_no_credentials(calls: Calls) -> None:
    """A public client gets no token of its own."""
    spa: dict[str, Any] = {"client_id": calls.entra.client_id(), "client_secret": None}
    response = await calls.token(
        grant_type="client_credentials", scope=f"{PARTNER}/.default", **spa
    )
    refused(7000218, response)


# authorization code


async def test_code_is_redeemed_once(calls: Calls) -> None:
    """A code gives the SPA tokens of the user who signed in, once."""
    code = (await calls.sign_in("bob", nonce="n-0S6"))["code"]
    answer = (await calls.redeem(code)).json()
    claims, identity = claims_of(answer["access_token"]), claims_of(answer["id_token"])
    assert (calls.entra.client_id(), "0") == (claims["azp"], claims["azpacr"])
    assert ("Bob", "n-0S6") == (claims["name"], identity["nonce"])
    assert 200 == (await calls.exchange(answer["access_token"])).status_code
    refused(54005, await calls.redeem(code))
    refused(240002, await calls.exchange(await api_id_token(calls)))


async def api_id_token(calls: Calls) -> str:
    answer = await calls.exchange(scope=f"{PARTNER}/read openid")
    token: str = answer.json()["id_token"]
    return token


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (70000, {"code": "unknown"}),
        (900144, {"code": None}),
        (900144, {"redirect_uri": None}),
        (500112, {"redirect_uri": "http://localhost:9/other"}),
        (501481, {"code_verifier": "wrong"}),
        (501481, {"code_verifier": None}),
    ],
)
async def test_bad_code(calls: Calls, number: int, fields: dict[str, Any]) -> None:
    """A code is good only with its redirect URI and its verifier (PKCE)."""
    form: dict[str, Any] = {"code": (await calls.sign_in())["code"], **fields}
    refused(number, await calls.redeem(**form))


async def test_code_of_another_client_or_tenant(calls: Calls) -> None:
    """A code is good only for the client and the tenant that it was made for."""
    calls.entra.add_tenant(OTHER_TENANT)
    other = calls.entra.add_client("other")
    refused(70000, await calls.redeem((await calls.sign_in())["code"], client_id=other))
    response = await calls.redeem((await calls.sign_in())["code"], tenant=OTHER_TENANT)
    refused(50020, response)


async def test_old_code(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code lives for ten minutes."""
    code = (await calls.sign_in())["code"]
    later = time.time() + 601
    monkeypatch.setattr("obo_asgi.testing.grants.time.time", lambda: later)
    refused(70008, await calls.redeem(code))


async def test_confidential_client_redeems_with_its_secret(calls: Calls) -> None:
    """A web app may leave PKCE out, since it has a secret."""
    api = calls.entra.registration()
    page = await calls.client.get(
        calls.authorize_url(
            client_id=api.client_id,
            scope="openid",
            code_challenge=None,
            code_challenge_method=None,
        )
    )
    code = answer_in(await calls.press(page, "user", "alice"))["code"]
    form: dict[str, Any] = {"client_id": api.client_id, "code_verifier": None}
    refused(7000218, await calls.redeem(code, **form))
    secret = secret_of(api)
    answer = (await calls.redeem(code, client_secret=secret, tenant="common", **form)).json()
    assert "User.Read" == claims_of(answer["access_token"])["scp"]
    assert "RS256" == jwt.get_unverified_header(answer["id_token"])["alg"]


async def test_remembered_grants_are_bounded(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the refresh tokens only so many are kept, the newest."""
    monkeypatch.setattr("obo_asgi.testing.grants._MAX_KEPT", 1)
    first, second = await refresh_token(calls), await refresh_token(calls)
    refused(70000, await calls.token(grant_type="refresh_token", refresh_token=first))
    response = await calls.token(grant_type="refresh_token", refresh_token=second)
    assert 200 == response.status_code
