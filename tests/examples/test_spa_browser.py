"""A single-page app with the real MSAL, used by a person in a browser, and its web API."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from obo_asgi.testing import serve
from tests.browser import Page
from tests.servers.fixtures import need
from tests.spa.world import EXPOSED, PARTNER, SpaWorld, create_api, start_spa_world, why_no_msal

ROOT = Path(__file__).parents[2]
SOON: Final = 120
"""A lifetime (seconds) at whose end MSAL looks five minutes ahead: it renews at each call."""


@pytest.fixture(scope="module")
def running() -> Iterator[SpaWorld]:
    need(why_no_msal())
    with start_spa_world() as world:
        yield world


@pytest.fixture
def spa(running: SpaWorld) -> Iterator[SpaWorld]:
    """The running world, in which every test begins anew."""
    entra, lifetime = running.entra, running.entra.token_lifetime
    entra.reset_counts()
    yield running
    entra.token_lifetime = lifetime
    entra.recover()
    entra.grant_consent("alice")
    entra.waive_mfa("alice", resource=PARTNER)


def test_consent_is_given_and_the_page_completes(spa: SpaWorld, page: Page, tmp_path: Path) -> None:
    """MSAL signs in, the script reads the refusal, Alice consents, and the same token suffices."""
    spa.entra.withdraw_consent("alice")
    page.resize(900, 600)
    sign_in(page, spa)
    assert "Your consent is missing" == page.see("#title")
    assert f"{PARTNER}/read" == page.see("#missing")
    page.click("#go-on")
    page.wait_for("document.body?.innerText.includes('api would like to')")
    page.click("button[value=accept]")
    assert "Projects of Alice" == page.see("#owner")
    assert [
        f"Alice signed in at {spa.entra.authority}",
        f'{spa.api}/projects answered 401, error="consent_required"',
        "the consent was given",
        f"{spa.api}/projects answered 200",
    ] == page.see("#steps").splitlines()
    assert f"{spa.page}/" == page.evaluate("location.href")
    assert 3 == len({spa.page, spa.api, spa.entra.authority})
    assert 1 == spa.entra.counts["authorization_code"]
    assert 2 == spa.entra.exchanges
    save_screenshot(page, tmp_path)
    check_errors(page, refusals=1)


def test_declined_consent_can_be_given_later(spa: SpaWorld, page: Page) -> None:
    """Who declines is asked again, and may change their mind."""
    spa.entra.withdraw_consent("alice")
    sign_in(page, spa)
    page.click("#go-on")
    page.click("button[value=decline]")
    assert "Your consent is missing" == page.see("#title")
    assert "the consent was declined" in page.see("#steps")
    page.click("#go-on")
    page.click("button[value=accept]")
    assert "Projects of Alice" == page.see("#owner")
    check_errors(page, refusals=2)


def test_claims_go_to_the_sign_in(spa: SpaWorld, page: Page) -> None:
    """A second factor that a downstream API's policy demands is met by MSAL with the claims."""
    spa.entra.require_mfa("alice", resource=PARTNER)
    sign_in(page, spa)
    assert "Sign in again" == page.see("#title")
    assert "capolids" in page.see("#missing")
    page.click("#go-on")
    assert "Approve" in page.see("h1")
    assert "capolids" in page.evaluate("new URLSearchParams(location.search).get('claims')")
    page.click("button[value=done]")
    assert "Projects of Alice" == page.see("#owner")
    check_errors(page, refusals=1)


def test_sign_in_by_popup(spa: SpaWorld, page: Page) -> None:
    """A sign-in by popup leaves the page where it is."""
    page.open(spa.page)
    page.click("#sign-in-by-popup")
    page.popup().click("button[value=alice]")
    assert "Projects of Alice" == page.see("#owner")
    assert [] == page.errors


def test_refresh_token_renews_the_access_token(spa: SpaWorld, page: Page) -> None:
    """An access token that ends soon is renewed by MSAL's refresh token, the new one's too."""
    spa.entra.token_lifetime = SOON
    sign_in(page, spa)
    page.see("#owner")
    spa.entra.reset_counts()
    load_again(page)
    load_again(page)
    assert (2, 0) == (spa.entra.counts["refresh_token"], spa.entra.counts["authorize"])
    assert [] == page.errors


def test_expired_refresh_token_is_made_up_for_in_an_iframe(spa: SpaWorld, page: Page) -> None:
    """Where the refresh token has expired, MSAL gets a new one in an iframe, unseen."""
    spa.entra.token_lifetime = SOON
    sign_in(page, spa)
    page.see("#owner")
    spa.entra.fail(700084)
    load_again(page)
    assert 1 == page.see("#steps").count("signed in")
    assert 2 == spa.entra.counts["authorization_code"]
    check_errors(page, refused_tokens=1)


def test_revoked_user_signs_in_again(spa: SpaWorld, page: Page) -> None:
    """Where the user's sessions were revoked, the page leaves for a sign-in, and completes."""
    spa.entra.token_lifetime = SOON
    sign_in(page, spa)
    page.see("#owner")
    spa.entra.revoke("alice")
    page.click("#again")
    page.wait_for("document.querySelectorAll('#steps li').length === 4")
    assert "Projects of Alice" == page.see("#owner")
    assert 2 == page.see("#steps").count("signed in")
    check_errors(page, refused_tokens=1)


def test_retry_after_can_be_read(spa: SpaWorld, page: Page) -> None:
    """Where Entra throttles, the page reads when to try again."""
    spa.entra.throttle("alice", retry_after=17)
    page.open(spa.page)
    read = f"fetch('{spa.api}/projects', {{ headers: {json.dumps(spa.entra.bearer())} }})"
    status, seconds = settle(page, f"{read}.then((r) => [r.status, r.headers.get('Retry-After')])")
    assert (503, True) == (status, 0 < int(seconds) <= 17)


@pytest.mark.parametrize("exposed", [True, False])
def test_challenge_is_readable_where_it_is_exposed(
    spa: SpaWorld, page: Page, exposed: bool
) -> None:
    """A preflight passes; the refusal's status is told, its challenge only if it is exposed."""
    app = create_api(spa.entra, spa.page, exposed=EXPOSED if exposed else ())
    with serve(app) as api:
        page.open(spa.page)
        status, challenge = settle(page, read_refusal(api.url, authorization="Bearer forged"))
    assert 401 == status
    assert exposed == ('error="invalid_token"' in (challenge or ""))


def test_refusal_is_unreadable_where_cors_is_inside(
    spa: SpaWorld, page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    """With CORSMiddleware inside ours the script sees a network error, of which the log warns."""
    with serve(create_api(spa.entra, spa.page, cors_inside=True)) as api:
        assert ["CORSMiddleware is inside OnBehalfOfMiddleware"] == warnings(caplog)
        page.open(spa.page)
        for authorization in (None, "Bearer forged"):  # without and with a preflight
            answer = settle(page, read_refusal(api.url, authorization=authorization))
            assert "TypeError: Failed to fetch" == answer


def test_no_warning_where_cors_is_outside(spa: SpaWorld, caplog: pytest.LogCaptureFixture) -> None:
    """The right order is nothing to warn of."""
    with serve(create_api(spa.entra, spa.page)):
        assert [] == warnings(caplog)


def test_other_origins_read_nothing(spa: SpaWorld, page: Page) -> None:
    """A page of an origin that is not allowed does not get to call the API."""
    page.open(f"{spa.entra.authority}/")
    answer = settle(page, read_refusal(spa.api, authorization=spa.entra.bearer()["Authorization"]))
    assert "TypeError: Failed to fetch" == answer
    assert 0 == spa.entra.exchanges


def test_page_shows_what_the_documentation_shows() -> None:
    """Every JavaScript block of the page about browsers is part of this app, word for word."""
    script = (ROOT / "tests/spa/static/spa.js").read_text(encoding="utf-8")
    text = (ROOT / "docs/browsers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```js\n(.*?)\n```", text, re.M | re.S)
    assert 5 == len(blocks)
    assert [] == [block for block in blocks if block not in script]


def sign_in(page: Page, spa: SpaWorld) -> None:
    """Open the page and sign in as Alice."""
    page.open(spa.page)
    page.click("#sign-in")
    page.click("button[value=alice]")


def load_again(page: Page) -> None:
    """Load once more, and wait for the answer."""
    lines = len(page.see("#steps").splitlines())
    page.click("#again")
    page.wait_for(f"document.querySelectorAll('#steps li').length === {lines + 1}")
    assert page.see("#steps").endswith("answered 200")


def check_errors(page: Page, *, refusals: int = 0, refused_tokens: int = 0) -> None:
    """Check that the console tells of so many refusals of the API and of FakeEntra, and no more."""
    expected = {"401": refusals, "400": refused_tokens}
    told = [error.partition("a status of ")[2][:3] for error in page.errors]
    assert (expected, page.errors) == (
        {status: told.count(status) for status in expected},
        [error for error in page.errors if "/projects" in error or "/v2.0/token" in error],
    )
    assert refusals + refused_tokens == len(told)


def read_refusal(api: str, *, authorization: str | None) -> str:
    """Return the JavaScript that asks without success, for the status and the challenge."""
    headers = {} if authorization is None else {"Authorization": authorization}
    return (
        f"fetch('{api}/projects', {{ headers: {json.dumps(headers)} }})"
        ".then((response) => [response.status, response.headers.get('WWW-Authenticate')])"
    )


def settle(page: Page, promise: str) -> Any:
    """Return what a promise is resolved with, or the error as text."""
    page.evaluate(
        f"void {promise}.catch(String).then((value) => {{ globalThis.settled = {{ value }}; }})"
    )
    return page.wait_for("globalThis.settled")["value"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of the library so far, as far as the colon or comma."""
    return [
        re.split("[,:]", record.message)[0]
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


def save_screenshot(page: Page, directory: Path) -> None:
    """Save what the page shows, and in docs/assets if ``OBO_ASGI_SCREENSHOTS`` is set."""
    target = ROOT / "docs/assets" if os.environ.get("OBO_ASGI_SCREENSHOTS") else directory
    page.save_screenshot(target / "spa.png")
    assert (target / "spa.png").stat().st_size > 10_000
