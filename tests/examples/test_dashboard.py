"""The demo, served: the web API, the pages, and what goes on behind the stage."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from examples.dashboard.api import explain
from examples.dashboard.world import World, start_world
from obo_asgi import AccessDeniedError, DownstreamError, DownstreamTimeoutError

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-W", "error", "-m", "examples.dashboard"]


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


@pytest.mark.parametrize(
    ("command", "reason"), [("partner-down", "not available now"), ("partner-404", "not found")]
)
def test_dashboard_is_partial(
    world: World, client: httpx.Client, command: str, reason: str
) -> None:
    """Where the partner's API fails its parts say why; Graph's part and the timeline are there."""
    alice = world.entra.bearer("alice")
    client.post(f"/backstage/{command}", headers=alice).raise_for_status()
    answer = client.get("/dashboard", headers=alice).raise_for_status().json()
    client.post("/backstage/end", headers=alice).raise_for_status()
    assert ("Alice", None, None) == (
        answer["me"]["displayName"],
        answer["data"],
        answer["settings"],
    )
    assert {"data": reason, "settings": reason} == answer["failures"]
    assert {"partner: api/data", "partner: api/settings"} == {
        span["lane"] for span in answer["timeline"] if span["failed"]
    }
    assert {} == client.get("/dashboard", headers=alice).json()["failures"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DownstreamTimeoutError("", api="partner"), "did not answer in time"),
        (DownstreamError("", api="partner"), "could not be reached"),
        (DownstreamError("", api="partner", status_code=500), "answered with status 500"),
    ],
)
def test_api_explains_failures_of_apis(error: Exception, reason: str) -> None:
    """What an API does wrong is said in a few words."""
    assert reason == explain(error)


def test_api_explains_nothing_else() -> None:
    """What is no API's failure is no reason to leave a part out."""
    with pytest.raises(AccessDeniedError):
        explain(AccessDeniedError(""))


def test_revoked_sign_in_is_refused(world: World, client: httpx.Client) -> None:
    """A user whose sessions have ended gets no partial dashboard, but is asked for a new token."""
    world.entra.add_user("carol")
    carol = world.entra.bearer("carol")
    world.entra.revoke("carol")
    answer = client.get("/dashboard", headers=carol)
    assert (401, "invalid_token") == (answer.status_code, answer.json()["error"])


def test_trouble_comes_one_at_a_time(world: World, client: httpx.Client) -> None:
    """New trouble ends the one before, also where it was the same, and the end ends all."""
    errors = []
    for command in ["withdraw-consent", "demand-mfa", "demand-mfa", "partner-404", "end"]:
        headers = world.entra.bearer("bob")
        client.post(f"/backstage/{command}", headers=headers).raise_for_status()
        errors.append(client.get("/dashboard", headers=headers).json().get("error"))
    assert ["consent_required", "insufficient_claims", "insufficient_claims", None, None] == errors


def test_trouble_is_the_callers(world: World, client: httpx.Client) -> None:
    """Whose consent is withdrawn is said by the token, and nobody else's is."""
    alice, bob = world.entra.bearer("alice"), world.entra.bearer("bob")
    client.post("/backstage/withdraw-consent", headers=alice).raise_for_status()
    statuses = [client.get("/dashboard", headers=who).status_code for who in (alice, bob)]
    client.post("/backstage/end", headers=alice).raise_for_status()
    assert [401, 200] == statuses


def test_trouble_needs_a_token_and_a_command(world: World, client: httpx.Client) -> None:
    """Trouble is ordered by POST, by somebody, and by a name that is known."""
    alice = world.entra.bearer("alice")
    assert [401, 405, 404] == [
        client.post("/backstage/revoke").status_code,
        client.get("/backstage/revoke", headers=alice).status_code,
        client.post("/backstage/nonsense", headers=alice).status_code,
    ]


def test_every_button_has_its_command(client: httpx.Client) -> None:
    """The buttons of the page, the sentences about them, and the commands are the same."""
    buttons = set(re.findall(r'data-trouble="([a-z0-9-]+)"', client.get("/").text))
    sentences = set(re.findall(r'^  "([a-z0-9-]+)": ', client.get("/trouble.js").text, re.M))
    assert buttons == sentences
    posted = {name: client.post(f"/backstage/{name}").status_code for name in buttons}
    assert dict.fromkeys(buttons, 401) == posted


def test_pages_are_public_and_strict(client: httpx.Client) -> None:
    """The page and the one to which consent returns need no token, and run only their own code."""
    for path in ("/", "/consented?code=1&state=2"):
        answer = client.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert (200, True) == (answer.status_code, "script-src 'self';" in policy)
        assert "unsafe" not in policy


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
