"""The demo: played without a browser, served to a person, and used by one in a browser."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from examples.dashboard.once import CROWD, Crowd, Load, Refusal, Report, format_report
from examples.dashboard.world import World, start_world
from tests.browser import Page, open_browser

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-W", "error", "-m", "examples.dashboard"]
GOOD = Report(
    loads=[Load("alice, cold", 100.0, 2, ("Alice",), is_good=True)],
    crowd=Crowd(answered=CROWD, exchanges=1),
    refusals=[Refusal("expired", 401, 'Bearer error="invalid_token"')],
)


@pytest.fixture(scope="module")
def table() -> str:
    """What ``--once`` prints; it ends well, with every warning an error."""
    run = subprocess.run([*DEMO, "--once"], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (0, "") == (run.returncode, run.stderr), run.stdout
    return run.stdout


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with start_world(latency=0.01) as world:
        yield world


@pytest.fixture
def cold_world() -> Iterator[World]:
    with start_world() as world:
        yield world


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=world.ca_file)
    with httpx.Client(base_url=world.url, verify=context, trust_env=False) as client:
        yield client


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser() as page:
        yield page


@pytest.mark.parametrize(
    ("title", "exchanges", "names"),
    [
        ("alice, cold, first of all", 2, "Alice"),
        ("alice, warm", 0, "Alice"),
        ("bob, cold", 2, "Bob"),
        ("bob, warm", 0, "Bob"),
        ("both, 20 at once, warm", 0, "Alice, Bob"),
    ],
)
def test_once_counts_exchanges(table: str, title: str, exchanges: int, names: str) -> None:
    """A cold dashboard costs two exchanges, a warm one none, and shows its own user's data."""
    row = rf"^{title} +[0-9]+\.[0-9] +{exchanges} +{names} +ok$"
    assert re.search(row, table, re.M), table


def test_once_exchanges_once_for_a_crowd(table: str) -> None:
    """Two hundred requests that are let in at the same moment share one exchange."""
    row = "200 simultaneous cold requests → 1 exchange  (200 answered)  ok"
    assert row in table.splitlines()


@pytest.mark.parametrize("title", ["forged signature", "expired", "for another audience"])
def test_once_shows_refusals(table: str, title: str) -> None:
    """Each bad token is refused, and the table shows with which challenge."""
    row = rf'^{title} +401 +ok\n +WWW-Authenticate: Bearer .*error="invalid_token"'
    assert re.search(row, table, re.M), table


def test_once_is_plain_text(table: str) -> None:
    """Where the output is no terminal, it holds no colour codes."""
    assert "\x1b" not in table
    assert table.endswith("All is as it must be.\n")


@pytest.mark.parametrize(
    "report",
    [
        dataclasses.replace(GOOD, loads=[dataclasses.replace(GOOD.loads[0], is_good=False)]),
        dataclasses.replace(GOOD, crowd=Crowd(answered=CROWD, exchanges=2)),
        dataclasses.replace(GOOD, crowd=Crowd(answered=CROWD - 1, exchanges=1)),
        dataclasses.replace(GOOD, refusals=[Refusal("expired", 200, "")]),
        dataclasses.replace(GOOD, refusals=[Refusal("expired", 401, "Basic")]),
    ],
)
def test_report_says_what_is_wrong(report: Report) -> None:
    """A report in which one thing is wrong is not good, and says where."""
    assert GOOD.is_good
    assert not report.is_good
    text = format_report(report, colour=True)
    assert 1 == text.count("\x1b[31mWRONG\x1b[0m")
    assert text.endswith("Something is NOT as it must be.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    """The demo names its URL and the browser's warning, and ends cleanly when it is interrupted."""
    with subprocess.Popen(
        DEMO, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        try:
            assert demo.stdout is not None
            said = "".join(iter(demo.stdout.readline, "Ctrl-C ends the demo.\n"))
            url = re.search(r"Open (https://localhost:[0-9]+)$", said, re.M)
            assert url is not None, said
            assert "Your browser will warn you" in said
            page = httpx.get(url[1], verify=False, trust_env=False)
            assert (200, "default-src 'none'") == (
                page.status_code,
                page.headers["Content-Security-Policy"].partition(";")[0],
            )
            demo.send_signal(number)
            output, errors = demo.communicate(timeout=20)
        finally:
            demo.kill()
    assert (0, "", "") == (demo.returncode, output, errors)


def test_dashboard_is_the_callers(world: World, client: httpx.Client) -> None:
    """Every part of the dashboard comes with a token that was made for that API alone."""
    answer = client.get("/dashboard", headers=world.entra.bearer("bob")).raise_for_status().json()
    assert ["Bob", "Bob", "Bob"] == [
        answer["me"]["displayName"],
        answer["data"]["owner"],
        answer["settings"]["owner"],
    ]
    assert {
        ("https://graph.microsoft.com", "User.Read"),
        (world.entra.client_id("api://partner-api-id"), "read"),
    } == {
        (answer["me"]["tokenAudience"], answer["me"]["tokenScopes"]),
        (answer["data"]["token_audience"], answer["data"]["token_scopes"]),
        (answer["settings"]["token_audience"], answer["settings"]["token_scopes"]),
    }


def test_timeline_is_in_order(world: World, client: httpx.Client) -> None:
    """The timeline has one validation, then in each lane a token and a call, up to the total."""
    answer = client.get("/dashboard", headers=world.entra.bearer("alice")).json()
    lanes: dict[str, list[tuple[str, float, float]]] = {}
    for span in answer["timeline"]:
        lanes.setdefault(span["lane"], []).append((span["kind"], span["start"], span["end"]))
    [(kind, arrival, validated)] = lanes.pop("web API")
    assert ("validation", 0.0) == (kind, arrival)
    assert {"graph: me", "partner: api/data", "partner: api/settings"} == set(lanes)
    for token, call in lanes.values():
        assert ("token", "call") == (token[0], call[0])
        times = [validated, *token[1:], *call[1:], answer["total"]]
        assert sorted(times) == times


def test_backstage_counts_the_exchanges_of_one_token(world: World, client: httpx.Client) -> None:
    """The number of exchanges on the page is that of the page's own token."""
    alice, bob = world.entra.bearer("alice"), world.entra.bearer("bob")
    client.get("/dashboard", headers=alice).raise_for_status()
    client.get("/data", headers=bob).raise_for_status()
    counts = [
        client.get("/backstage/exchanges", headers=headers).json()["exchanges"]
        for headers in (alice, bob, {})
    ]
    assert [2, 1, 0] == counts


@pytest.mark.parametrize("path", ["/dashboard", "/data", "/elsewhere"])
def test_web_api_demands_a_token(client: httpx.Client, path: str) -> None:
    """Whatever is not the page needs a token."""
    answer = client.get(path)
    assert 401 == answer.status_code
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_unknown_paths_and_methods(world: World, client: httpx.Client) -> None:
    """Behind the door, unknown paths and methods are told apart."""
    headers = world.entra.bearer("alice")
    assert 404 == client.get("/elsewhere", headers=headers).status_code
    assert 405 == client.post("/dashboard", headers=headers).status_code


def test_world_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the world has ended, the environment and the threads are as they were."""
    monkeypatch.setenv("SSL_CERT_FILE", "mine.pem")
    monkeypatch.delenv("NO_PROXY", raising=False)
    threads = threading.enumerate()
    with start_world(latency=0) as world:
        assert world.ca_file == os.environ["SSL_CERT_FILE"]
    assert ("mine.pem", None) == (os.environ["SSL_CERT_FILE"], os.environ.get("NO_PROXY"))
    assert threads == threading.enumerate()


def test_person_signs_in_and_loads_twice(cold_world: World, page: Page, tmp_path: Path) -> None:
    """In a browser Alice signs in by clicking, and sees her three parts and both timelines."""
    page.resize(1280, 900)
    page.open(cold_world.url)
    page.click("#sign-in")
    page.click("button[value=alice]")
    assert "2 exchanges" in page.see("[data-load=cold] figcaption")
    assert "Alice" == page.see("#user")
    assert "1 load, 2 exchanges so far." == page.see("#exchanges")
    page.click("#load-again")
    assert "0 exchanges" in page.see("[data-load=warm] figcaption")
    assert "2 loads, 2 exchanges so far." == page.see("#exchanges")
    assert "alice@contoso.example" in page.see("#part-me")
    assert "Apollo" in page.see("#part-data")
    assert "English" in page.see("#part-settings")
    check_picture(page, "cold", bars=7)
    check_picture(page, "warm", bars=7)
    assert f"{cold_world.url}/" == page.evaluate("location.href")
    save_screenshots(page, tmp_path)
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
    assert not page.evaluate("document.querySelector('#dashboard').checkVisibility()")
    cold_world.entra.grant_consent("bob", resource="graph")
    page.click("#try-again")
    assert "Bob" == page.see("#user")
    assert not page.evaluate("document.querySelector('#problem').checkVisibility()")


def test_phone_width(world: World, page: Page) -> None:
    """On a phone nothing is wider than the screen, and every lane keeps its name."""
    page.resize(360, 740)
    page.open(world.url)
    page.click("#sign-in")
    page.click("button[value=bob]")
    assert "partner: api/settings" in page.see("[data-load] svg")
    assert 360 == page.evaluate("document.documentElement.scrollWidth")
    check_picture(page, "cold", bars=7)
    assert [] == page.errors


def check_picture(page: Page, load: str, *, bars: int) -> None:
    """Check that a picture draws so many bars, each inside it and none invisible."""
    boxes = page.evaluate(
        f"""[...document.querySelectorAll("[data-load={load}] svg .bar")].map((bar) => {{
            const [box, whole] = [bar, bar.ownerSVGElement].map((e) => e.getBoundingClientRect());
            return box.width > 1 && box.left >= whole.left && box.right <= whole.right + 1;
        }})"""
    )
    assert [True] * bars == boxes


def save_screenshots(page: Page, directory: Path) -> None:
    """Save what the page shows, and in docs/assets if ``OBO_ASGI_SCREENSHOTS`` is set."""
    target = ROOT / "docs/assets" if os.environ.get("OBO_ASGI_SCREENSHOTS") else directory
    page.save_screenshot(target / "dashboard.png")
    assert (target / "dashboard.png").stat().st_size > 10_000
