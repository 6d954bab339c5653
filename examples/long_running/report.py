"""What was seen while the example was played, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """Something that was done, and what came of it."""

    title: str
    outcome: str
    is_good: bool


def is_good(steps: Sequence[Step]) -> bool:
    """Return whether everything was as it must be."""
    return all(step.is_good for step in steps)


def format_report(steps: Sequence[Step], *, colour: bool = False) -> str:
    """Return the steps as a table."""
    verdict = "All is as it must be." if is_good(steps) else "Something is NOT as it must be."
    rows = [f"{step.title:<46}{step.outcome}  {_mark(step.is_good, colour)}" for step in steps]
    return "\n".join([f"{'what is done':<46}what comes of it", *rows, "", verdict])


def _mark(is_good: bool, colour: bool) -> str:
    text = "ok" if is_good else "WRONG"
    return f"\x1b[{32 if is_good else 31}m{text}\x1b[0m" if colour else text
