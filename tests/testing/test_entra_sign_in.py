"""The sign-in pages, walked through by plain httpx as a browser without JavaScript would."""

from urllib.parse import urlsplit

import pytest

from obo_asgi.testing import FakeEntra
from tests.testing.calls import PARTNER, REDIRECT_URI, Calls, answer_in, claims_of

pytestmark = pytest.mark.anyio

ACRS = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'


async def test_person_picks_a_user_and_is_sent_back(calls: Calls) -> None:
    """One click on a user leads back to the app with a code and the very state."""
    page = await calls.client.get(calls.authorize_url())
    assert (200, "text/html; charset=utf-8") == (page.status_code, page.headers["content-type"])
    assert '<html lang="en">' in page.text
    assert "<script" not in page.text
    assert "alice@contoso.example" in page.text
    response = await calls.press(page, "user", "bob")
    assert response.headers["location"].startswith(f"{REDIRECT_URI}?code=")
    assert "a state & more" == answer_in(response)["state"]
    assert 2 == calls.entra.counts["authorize"]


async def test_names_are_escaped(calls: Calls) -> None:
    """A user's name can hold no markup."""
    calls.entra.add_user('"><script>', display_name="<b>Eve</b>")
    page = await calls.client.get(calls.authorize_url())
    assert "<script>" not in page.text
    assert "&lt;b&gt;Eve&lt;/b&gt;" in page.text
    assert "code" in answer_in(await calls.press(page, "user", '"><script>'))


async def test_only_users_of_the_tenant_are_offered(calls: Calls) -> None:
    """A tenant's page offers its own users, the shared one all of them."""
    tenant = "11111111-2222-3333-4444-555555555555"
    calls.entra.add_user("zoe", tenant=tenant)
    for asked, alice, zoe in [
        (calls.entra.tenant_id, True, False),
        (tenant, False, True),
        ("common", True, True),
    ]:
        page = await calls.client.get(calls.authorize_url(asked))
        assert (alice, zoe) == ("alice" in page.text, "zoe" in page.text)


async def test_login_hint_skips_the_choice(calls: Calls) -> None:
    """A login hint that names a user signs them in at once; another one asks."""
    url = calls.authorize_url(login_hint="alice@contoso.example")
    assert "code" in answer_in(await calls.client.get(url))
    page = await calls.client.get(calls.authorize_url(login_hint="nobody"))
    assert "Pick an account" in page.text


@pytest.mark.parametrize(
    ("redirect_uri", "mode", "start"),
    [
        (REDIRECT_URI, None, f"{REDIRECT_URI}?"),
        (REDIRECT_URI, "query", f"{REDIRECT_URI}?"),
        (REDIRECT_URI, "fragment", f"{REDIRECT_URI}#"),
        (f"{REDIRECT_URI}?x=1", "query", f"{REDIRECT_URI}?x=1&"),
        ("https://app.example/cb", "query", "https://app.example/cb?"),
    ],
)
async def test_answer_travels_in_query_or_fragment(
    calls: Calls, redirect_uri: str, mode: str | None, start: str
) -> None:
    """The answer is added to the registered redirect URI, in the mode that was asked for."""
    calls.entra.add_redirect_uri("spa", "https://app.example/cb")
    url = calls.authorize_url(
        redirect_uri=redirect_uri, response_mode=mode, state=None, login_hint="alice"
    )
    response = await calls.client.get(url)
    assert response.headers["location"].startswith(f"{start}code=")


@pytest.mark.parametrize(
    ("number", "parameters"),
    [
        (90002, {"tenant": "99999999-2222-3333-4444-555555555555"}),
        (700016, {"client_id": "unknown"}),
        (50011, {"redirect_uri": "https://evil.example/cb"}),
        (50011, {"redirect_uri": None}),
        (50011, {"redirect_uri": "http://[broken"}),
        (700054, {"response_type": "token"}),
        (9002313, {"response_mode": "form_post"}),
        (9002313, {"code_challenge_method": "plain"}),
        (9002313, {"claims": "no json"}),
        (9002325, {"code_challenge": None}),
        (28003, {"scope": None}),
        (500011, {"scope": "api://nowhere/read"}),
    ],
)
async def test_wrong_request_is_told_to_the_person(
    calls: Calls, number: int, parameters: dict[str, str | None]
) -> None:
    """A wrong authorization request ends on a page, never at the redirect URI."""
    page = await calls.client.get(calls.authorize_url(**parameters))
    assert 400 == page.status_code
    assert f"AADSTS{number}:" in page.text
    assert "<form" not in page.text


async def test_missing_consent_is_asked_for(calls: Calls) -> None:
    """A person whose consent to the app is missing is asked, and the consent is kept."""
    calls.entra.withdraw_consent(client="spa")
    page = await calls.client.get(calls.authorize_url(login_hint="alice"))
    assert "access_as_user" in page.text
    response = await calls.press(page, "consent", "accept")
    assert "code" in answer_in(response)
    assert "code" in answer_in(await calls.client.get(calls.authorize_url(login_hint="alice")))
    page = await calls.client.get(calls.authorize_url(login_hint="bob"))
    assert "Permissions requested" in page.text


async def test_consent_for_our_api_is_given_at_its_own_client_id(calls: Calls) -> None:
    """What cures a refused exchange is consent at *our API's* client id, not the caller's."""
    calls.entra.withdraw_consent()
    parameters: dict[str, str | None] = {"scope": f"{PARTNER}/read", "prompt": "consent"}
    page = await calls.client.get(calls.authorize_url(login_hint="alice", **parameters))
    await calls.press(page, "consent", "accept")
    assert [65001] == (await calls.exchange()).json()["error_codes"]
    parameters["client_id"] = calls.entra.registration().client_id
    page = await calls.client.get(calls.authorize_url(login_hint="alice", **parameters))
    await calls.press(page, "consent", "accept")
    assert 200 == (await calls.exchange()).status_code


async def test_known_client_consents_for_the_api_too(calls: Calls) -> None:
    """A client that our API lists as known gets both consents by one page."""
    calls.entra.withdraw_consent()
    calls.entra.add_known_client("spa")
    scope = f"api://{calls.entra.registration().client_id}/.default"
    page = await calls.client.get(calls.authorize_url(login_hint="alice", scope=scope))
    assert PARTNER in page.text
    await calls.press(page, "consent", "accept")
    assert 200 == (await calls.exchange()).status_code


async def test_declined_consent(calls: Calls) -> None:
    """Whoever declines is sent back with access_denied, and nothing is granted."""
    page = await calls.client.get(calls.authorize_url(login_hint="alice", prompt="consent"))
    answer = answer_in(await calls.press(page, "consent", "decline"))
    assert ("access_denied", "a state & more") == (answer["error"], answer["state"])
    assert answer["error_description"].startswith("AADSTS65004:")


@pytest.mark.parametrize("by_claims", [False, True])
async def test_second_factor(calls: Calls, by_claims: bool) -> None:
    """Where it is demanded, the person approves, then consents, and the new token meets it."""
    api = calls.entra.registration().client_id
    if not by_claims:
        calls.entra.require_mfa(resource="api")
    page = await calls.client.get(
        calls.authorize_url(
            claims=ACRS if by_claims else None,
            scope=f"api://{api}/access_as_user",
            prompt="consent",
            login_hint="alice",
        )
    )
    assert "Approve sign-in" in page.text
    page = await calls.press(page, "mfa", "done")
    code = answer_in(await calls.press(page, "consent", "accept"))["code"]
    claims = claims_of((await calls.redeem(code)).json()["access_token"])
    assert ["pwd", "mfa"] == claims["amr"]
    assert (["c1"] if by_claims else None) == claims.get("acrs")


async def test_second_factor_done_before(calls: Calls) -> None:
    """A user who is known to have done it is not asked again."""
    calls.entra.require_mfa()
    calls.entra.complete_mfa("alice")
    assert "code" in await calls.sign_in("alice")


@pytest.mark.parametrize(
    ("setting", "hint", "error"),
    [
        ("", None, "login_required"),
        ("consent", "alice", "interaction_required"),
        ("mfa", "alice", "interaction_required"),
        ("", "alice", None),
    ],
)
async def test_silent_sign_in(
    calls: Calls, setting: str, hint: str | None, error: str | None
) -> None:
    """``prompt=none`` shows no page: it gives a code, or the error that a page would cure."""
    if setting == "consent":
        calls.entra.withdraw_consent(client="spa")
    if setting == "mfa":
        calls.entra.require_mfa()
    answer = answer_in(await calls.client.get(calls.authorize_url(prompt="none", login_hint=hint)))
    assert error == answer.get("error")
    assert (error is None) == ("code" in answer)


@pytest.mark.parametrize(
    ("revoked", "hint", "error"),
    [(False, None, None), (True, None, "login_required"), (False, "nobody", "login_required")],
)
async def test_session_id_names_the_user(
    calls: Calls, revoked: bool, hint: str | None, error: str | None
) -> None:
    """MSAL asks in silence by the ``sid`` of an ID token: good until it is revoked."""
    signed_in = await calls.redeem((await calls.sign_in("bob"))["code"])
    session_id = claims_of(signed_in.json()["id_token"])["sid"]
    if revoked:
        calls.entra.revoke("bob")
    url = calls.authorize_url(prompt="none", sid=session_id, login_hint=hint)
    answer = answer_in(await calls.client.get(url))
    assert error == answer.get("error")
    if error is None:
        token = (await calls.redeem(answer["code"])).json()["access_token"]
        assert "Bob" == claims_of(token)["name"]


async def test_added_client_signs_in_at_its_own_redirect_uri(
    calls: Calls, entra: FakeEntra
) -> None:
    """A client that was added brings its redirect URIs."""
    client_id = entra.add_client("portal", redirect_uris=["https://portal.example/cb"])
    url = calls.authorize_url(
        client_id=client_id, redirect_uri="https://portal.example/cb", login_hint="alice"
    )
    location = (await calls.client.get(url)).headers["location"]
    assert "portal.example" == urlsplit(location).hostname
