"""The demo, played without a browser."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.dashboard.report import CROWD, Crowd, Load, Refusal, Report, Step, format_report

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-W", "error", "-m", "examples.dashboard", "--once"]
CONSENT = "consent_required for https://graph.microsoft.com/User.Read"
GOOD = Report(
    loads=[Load("alice, cold", 100.0, 2, ("Alice",), is_good=True)],
    crowd=Crowd(answered=CROWD, exchanges=1),
    refusals=[Refusal("expired", 401, 'Bearer error="invalid_token"')],
    steps=[Step("MFA demanded", 401, "insufficient_claims", "Bearer", is_good=True)],
)


@pytest.fixture(scope="module")
def table() -> str:
    """What ``--once`` prints; it ends well, with every warning an error."""
    run = subprocess.run(DEMO, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (0, "") == (run.returncode, run.stderr), run.stdout
    return run.stdout


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


@pytest.mark.parametrize(
    ("title", "status", "outcome"),
    [
        ("consent withdrawn, new sign-in", 401, CONSENT),
        ("  consent given to the client app (spa) alone", 401, CONSENT),
        ("  consent given on consent_uri, same token", 200, "complete"),
        ("MFA demanded, new sign-in", 401, "insufficient_claims: capolids"),
        ("before the revocation", 200, "complete"),
        ("revoked (CAE)", 401, "insufficient_claims: nbf"),
        ("  signed in again with these claims", 200, "complete"),
        (
            "token refused (CAE), user still signed in",
            200,
            "unnoticed: 2 calls, 1 more exchange",
        ),
        (
            "partner API down (503)",
            200,
            "me; data: not available now, settings: not available now",
        ),
        (
            "partner API slow",
            200,
            "me; data: did not answer in time, settings: did not answer in time",
        ),
        ("partner API: 404", 200, "me; data: not found, settings: not found"),
        ("  after the trouble, same token", 200, "complete"),
    ],
)
def test_once_shows_what_helps(table: str, title: str, status: int, outcome: str) -> None:
    """Each trouble has its answer, and what helps against it helps."""
    row = rf"^{re.escape(title)} +{status} +{re.escape(outcome)}  ok$"
    assert re.search(row, table, re.M), table


@pytest.mark.parametrize(
    ("title", "parameters"),
    [
        ("consent withdrawn, new sign-in", ["consent_required", "https://localhost", "client_id="]),
        ("MFA demanded, new sign-in", ["insufficient_claims", 'claims="eyJ']),
        ("revoked (CAE)", ["insufficient_claims", 'claims="eyJ']),
    ],
)
def test_once_shows_challenges(table: str, title: str, parameters: list[str]) -> None:
    """The challenge stands below its status, shortened, on lines that are not too long."""
    after = table.partition(f"\n{title}")[2].partition("\n")[2]
    [header] = re.findall(r"\A    WWW-Authenticate: Bearer.*(?:\n        .*)*", after)
    assert [] == [parameter for parameter in parameters if parameter not in header]
    assert [] == [line for line in header.splitlines() if len(line) > 100]
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", header)


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
        dataclasses.replace(GOOD, steps=[dataclasses.replace(GOOD.steps[0], is_good=False)]),
    ],
)
def test_report_says_what_is_wrong(report: Report) -> None:
    """A report in which one thing is wrong is not good, and says where."""
    assert GOOD.is_good
    assert not report.is_good
    text = format_report(report, colour=True)
    assert 1 == text.count("\x1b[31mWRONG\x1b[0m")
    assert text.endswith("Something is NOT as it must be.")
