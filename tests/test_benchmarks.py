"""The benchmarks run, with the peers or without, and their reports judge rightly."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.report import Check, Report, Table, at_most, exactly, format_cell, format_report
from benchmarks.rounds import difference, middle, percentile, ratio, take_turns

ROOT = Path(__file__).parents[1]
RUN = [sys.executable, "-W", "error", "-m", "benchmarks"]


@pytest.mark.parametrize("name", ["dashboard", "keys", "memory"])
def test_a_benchmark_runs(name: str) -> None:
    """A quick run measures, meets the counts that it judges, and leaves no peer out in silence."""
    unmeasured = {key: text for key, text in os.environ.items() if not key.startswith("COVERAGE")}
    run = subprocess.run(
        [*RUN, name, "--quick"],
        cwd=ROOT,
        env=unmeasured,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (0, "") == (run.returncode, run.stderr)
    assert f"{name}: " in run.stdout
    assert run.stdout.endswith("No target is missed.\n")


def test_every_benchmark_has_a_module() -> None:
    """What the command line names is there."""
    missing = [
        name
        for name, module in bench.NAMES.items()
        if not (ROOT / "benchmarks" / f"{module}.py").is_file()
    ]
    assert [] == missing


def test_unknown_benchmarks_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is none is refused with those that are."""
    with pytest.raises(SystemExit) as stop:
        bench.main(["nonsense"])
    assert 2 == stop.value.code
    assert "unknown: nonsense (known: request, verify," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("check", "verdict", "quick_verdict"),
    [
        (Check("a", 0.9, "<=", 1.0), "ok", "not judged"),
        (Check("a", 1.1, "<=", 1.0), "MISSED", "not judged"),
        (Check("a", 0.4, "<=", 1.0, 0.5), "stretch", "not judged"),
        (Check("a", 0.7, ">=", 0.8), "MISSED", "not judged"),
        (Check("a", None, "<=", 1.0), "not available", "not available"),
        (exactly("a", 2, 2), "ok", "ok"),
        (exactly("a", 3, 2), "MISSED", "MISSED"),
        (at_most("a", 1, 1), "ok", "ok"),
        (at_most("a", 2, 1), "MISSED", "MISSED"),
    ],
)
def test_a_value_is_judged(check: Check, verdict: str, quick_verdict: str) -> None:
    """Values are judged by their targets in a whole run, counts in every run."""
    assert (verdict, quick_verdict) == (check.verdict(quick=False), check.verdict(quick=True))


def test_a_report_shows_everything() -> None:
    """Values, peers that are missing, and every target with its verdict are printed."""
    checks = [Check("ours / limit", 1.234, "<=", 2), exactly("exchanges", 2, 1)]
    report = Report("title", [Table(["us"], [("ours", [12.34])])], checks, {"peer": "no peer"})
    lines = format_report(report, quick=False).splitlines()
    assert ["title", "=====", ""] == lines[:3]
    assert ["ours", "12.3"] == lines[4].split()
    assert "not available: no peer" in lines[5]
    assert ["1.23x", "<=", "2x", "ok"] == lines[7].split()[-4:]
    assert ["2", "==", "1", "MISSED"] == lines[8].split()[-4:]
    assert ["exchanges"] == report.missed(quick=True)


@pytest.mark.parametrize(
    ("cell", "text"),
    [(None, "-"), ("yes", "yes"), (1234, "1,234"), (0.0, "0"), (1.2345, "1.23"), (1234.5, "1,234")],
)
def test_a_cell_has_three_digits(cell: float | str | None, text: str) -> None:
    """A number shows three digits, or all before its point."""
    assert text == format_cell(cell)


def test_cases_take_turns() -> None:
    """Every case is measured once a round; every second round goes backwards."""
    order: list[str] = []

    def case(name: str) -> Callable[[], Awaitable[float]]:
        async def measure() -> float:
            order.append(name)
            return float(len(order))

        return measure

    values = asyncio.run(take_turns({name: case(name) for name in "abc"}, rounds=2))
    assert list("abccba") == order
    assert {"a": [1.0, 6.0], "b": [2.0, 5.0], "c": [3.0, 4.0]} == values


def test_cases_are_compared_round_by_round() -> None:
    """Ratios and differences are the medians of those of each round, and None without a peer."""
    values = {"ours": [1.0, 10.0, 3.0], "peer": [2.0, 40.0, 4.0]}
    assert (3.0, 0.5, -1.0) == (
        middle(values, "ours"),
        ratio(values, "ours", "peer"),
        difference(values, "ours", "peer"),
    )
    assert (None, None) == (middle(values, "other"), ratio(values, "ours", "other"))


def test_a_percentile_is_a_value() -> None:
    """The p95 of a hundred values is the ninety-fifth."""
    assert (95, 1) == (percentile(range(1, 101), 95), percentile([1], 95))
