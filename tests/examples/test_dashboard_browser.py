"""The demo, used by a person in a browser."""

from __future__ import annotations

import os
from pathlib import Path

from examples.dashboard.world import World
from tests.browser import Page

ROOT = Path(__file__).parents[2]


def test_person_signs_in_and_loads_twice(cold_world: World, page: Page, tmp_path: Path) -> None:
    """In a browser Alice signs in by clicking, and sees her three parts and both timelines."""
    page.resize(1280, 1010)
    sign_in(page, cold_world, "alice")
    assert "2 exchanges" in page.see("[data-load=cold] figcaption")
    assert "Alice" == page.see("#user")
    assert "1 load, 2 exchanges so far." == page.see("#exchanges")
    page.click("#load-again")
    assert "0 exchanges" in page.see("[data-load=warm] figcaption")
    assert "2 loads, 2 exchanges so far." == page.see("#exchanges")
    check_complete(page)
    check_picture(page, "cold", bars=7)
    check_picture(page, "warm", bars=7)
    assert f"{cold_world.url}/" == page.evaluate("location.href")
    save_screenshot(page, tmp_path, "dashboard.png")
    page.click("#sign-out")
    assert "Sign in" == page.see("#sign-in")
    assert [] == page.errors


def test_page_says_what_went_wrong(cold_world: World, page: Page) -> None:
    """A failure is told, does not pass for a dashboard, and can be tried again."""
    page.open(cold_world.url)
    page.click("#sign-in")
    page.see("button[value=alice]")
    page.open(f"{cold_world.url}/?state=stolen&code=0")
    assert "This sign-in was not started here." == page.see("#reason")
    page.click("#sign-in")
    cold_world.entra.withdraw_consent("bob", resource="graph")
    page.click("button[value=bob]")
    assert page.see("#reason").startswith("Status 401: ")
    assert not page.evaluate("document.querySelector('#parts').checkVisibility()")
    cold_world.entra.grant_consent("bob", resource="graph")
    page.click("#try-again")
    assert "Bob" == page.see("#part-me .big")
    assert not page.evaluate("document.querySelector('#problem').checkVisibility()")


def test_consent_is_given_in_a_popup(world: World, page: Page, tmp_path: Path) -> None:
    """A missing consent is asked for on the API's own page, and the same token then suffices."""
    page.resize(1280, 680)
    sign_in(page, world, "alice")
    page.click("[data-trouble=withdraw-consent]")
    assert "Your consent is missing" == page.see("#problem-title")
    assert "https://graph.microsoft.com/User.Read" in page.see("#missing")
    assert world.entra.client_id("api") in page.see("#missing")
    assert "you were signed in anew" in page.see("#notice")
    signed_in = world.entra.counts["authorization_code"]

    page.click("#give-consent")
    popup = page.popup()
    popup.resize(460, 540)
    assert "User.Read" in popup.see("li")
    page.lay_over(popup, 780, 96)
    save_screenshot(page, tmp_path, "consent.png")
    page.evaluate("document.body.lastElementChild.remove()")
    popup.close()
    page.click("#give-consent")
    page.popup().click("button[value=decline]")
    page.wait_for("document.querySelector('#reason').innerText.includes('declined')")
    page.click("#give-consent")
    page.popup().click("button[value=accept]")
    check_complete(page)
    assert signed_in == world.entra.counts["authorization_code"]
    check_errors(page, refusals=1)


def test_person_signs_in_again_as_demanded(world: World, page: Page) -> None:
    """A second factor, then a revocation: each time the claims go along, and all is well again."""
    sign_in(page, world, "alice")
    page.click("[data-trouble=demand-mfa]")
    assert "capolids" in page.see("#missing")
    assert "you were signed in anew" in page.see("#notice")
    page.click("#sign-in-again")
    assert "Approve" in page.see("h1")
    assert "capolids" in page.evaluate("new URLSearchParams(location.search).get('claims')")
    page.click("button[value=done]")
    check_complete(page)

    page.click("[data-trouble=revoke]")
    assert '"nbf"' in page.see("#missing")
    assert 'error="insufficient_claims"' in page.evaluate(
        "document.querySelector('#header').textContent"
    )
    page.click("#sign-in-again")
    check_complete(page)
    check_errors(page, refusals=2)


def test_phone_width(world: World, page: Page) -> None:
    """On a phone nothing is wider than the screen, in good times and in bad."""
    page.resize(360, 740)
    sign_in(page, world, "bob")
    assert "partner: api/settings" in page.see("[data-load] svg")
    check_width(page, 360)
    check_picture(page, "cold", bars=7)
    page.click("[data-trouble=partner-404]")
    assert "Partner API: not found." == page.see("#part-data .failure")
    assert "Partner API: not found." == page.see("#part-settings .failure")
    assert "Bob" == page.see("#part-me .big")
    assert "404" in page.see("#notice")
    assert 2 == page.evaluate("document.querySelectorAll('[data-load=warm] .failed').length")
    check_width(page, 360)
    page.click("[data-trouble=withdraw-consent]")
    page.see("#give-consent")
    page.click("#challenge summary")
    assert 'error="consent_required"' in page.see("#header")
    check_width(page, 360)
    page.click("[data-trouble=end]")
    assert "Borealis" in page.see("#part-data ul")
    check_errors(page, refusals=1)


def sign_in(page: Page, world: World, user: str) -> None:
    """Open the page, sign in, and wait for the dashboard."""
    page.open(world.url)
    page.click("#sign-in")
    page.click(f"button[value={user}]")
    page.see("#part-me .big")


def check_complete(page: Page) -> None:
    """Check that all of Alice's parts are there, and no problem."""
    assert "alice@contoso.example" in page.see("#part-me .content")
    assert "Apollo" in page.see("#part-data ul")
    assert "English" in page.see("#part-settings dl")
    assert not page.evaluate("document.querySelector('#problem').checkVisibility()")


def check_errors(page: Page, *, refusals: int) -> None:
    """Check that the console tells of so many refused dashboards, and of nothing else."""
    refused = [e for e in page.errors if "status of 401" in e and e.endswith("/dashboard")]
    assert (refusals, refused) == (len(page.errors), page.errors)


def check_width(page: Page, width: int) -> None:
    """Check that nothing, no button either, reaches out of the window or of its card."""
    assert width == page.evaluate("document.documentElement.scrollWidth")
    assert [] == page.evaluate(
        """[...document.querySelectorAll("button, .card")].filter((element) => {
            const [box, around] = [element, element.parentElement.closest(".card, body")]
                .map((e) => e.getBoundingClientRect());
            return element.checkVisibility()
                && (box.right > around.right || element.scrollWidth > element.clientWidth);
        }).map((element) => element.innerText)"""
    )


def check_picture(page: Page, load: str, *, bars: int) -> None:
    """Check that a picture draws so many bars, each inside it and none invisible."""
    boxes = page.evaluate(
        f"""[...document.querySelectorAll("[data-load={load}] svg .bar")].map((bar) => {{
            const [box, whole] = [bar, bar.ownerSVGElement].map((e) => e.getBoundingClientRect());
            return box.width > 1 && box.left >= whole.left && box.right <= whole.right + 1;
        }})"""
    )
    assert [True] * bars == boxes


def save_screenshot(page: Page, directory: Path, name: str) -> None:
    """Save what the page shows, and in docs/assets if ``OBO_ASGI_SCREENSHOTS`` is set."""
    target = ROOT / "docs/assets" if os.environ.get("OBO_ASGI_SCREENSHOTS") else directory
    page.save_screenshot(target / name)
    assert (target / name).stat().st_size > 10_000
