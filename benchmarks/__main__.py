"""``python -m benchmarks [name ...] [--quick]``: measure, print, and judge by the targets."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from .report import Report, format_report

NAMES: Final = {
    "request": "request",
    "verify": "verify",
    "token": "token",
    "shared": "shared",
    "single_flight": "single_flight",
    "dashboard": "dashboard",
    "crowd": "crowd",
    "exchanges": "exchanges",
    "end_to_end": "end_to_end",
    "memory": "memory",
    "import": "import_time",
    "keys": "keys",
    "starvation": "starvation",
}
"""The modules of the benchmarks, by name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks and return 1 if a target is missed; a quick run judges nothing but counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="much shorter; judges only counts")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"unknown: {', '.join(unknown)} (known: {', '.join(NAMES)})")
    missed = []
    for name in options.names or NAMES:
        report = run(name, quick=options.quick)
        print(format_report(report, quick=options.quick), end="\n\n", flush=True)
        missed += [f"{name}: {what}" for what in report.missed(quick=options.quick)]
    print("\n".join(["MISSED", *missed]) if missed else "No target is missed.")
    return 1 if missed else 0


def run(name: str, *, quick: bool) -> Report:
    """Run one benchmark."""
    module = importlib.import_module(f"benchmarks.{NAMES[name]}")
    report: Report = module.run(quick=quick)
    return report


if __name__ == "__main__":
    sys.exit(main())
