"""What a benchmark has found: tables of values, and values held against their targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Cell = float | str | None
"""A value, a word in its place, or nothing."""


@dataclass(frozen=True)
class Table:
    """Absolute values: rows of a name and a cell for each column."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True)
class Check:
    """A value and its target; the value is None where a peer that it needs is missing."""

    what: str
    value: float | None
    relation: Literal["<=", ">=", "=="]
    target: float
    stretch: float | None = None
    unit: str = "x"
    is_count: bool = False
    """Counts get no tolerance, and are judged in a quick run too."""

    def verdict(self, *, quick: bool) -> str:
        """Return "stretch", "ok", "MISSED", or why it is not judged."""
        if self.value is None:
            return "not available"
        if quick and not self.is_count:
            return "not judged"
        if not self._meets(self.target):
            return "MISSED"
        return "stretch" if self.stretch is not None and self._meets(self.stretch) else "ok"

    def _meets(self, target: float) -> bool:
        assert self.value is not None
        if self.relation == "==":
            return self.value == target
        return self.value <= target if self.relation == "<=" else self.value >= target


def exactly(what: str, value: int, target: int) -> Check:
    """Return the check of a count that must be so and not otherwise."""
    return Check(what, value, "==", target, unit="", is_count=True)


def at_most(what: str, value: int, target: int) -> Check:
    """Return the check of a count that must not be higher."""
    return Check(what, value, "<=", target, unit="", is_count=True)


@dataclass(frozen=True)
class Report:
    """What one benchmark has found."""

    title: str
    tables: Sequence[Table]
    checks: Sequence[Check] = ()
    missing: dict[str, str] = field(default_factory=dict)
    """Peers that could not be measured, and why."""

    def missed(self, *, quick: bool) -> list[str]:
        """Return what did not meet its target."""
        return [check.what for check in self.checks if check.verdict(quick=quick) == "MISSED"]


def format_report(report: Report, *, quick: bool) -> str:
    """Return the report as text."""
    lines = [report.title, "=" * len(report.title)]
    for table in report.tables:
        lines += ["", *_format_table(table)]
    lines += [f"{name:<40}  not available: {why}" for name, why in report.missing.items()]
    if report.checks:
        lines.append("")
    lines += [_format_check(check, check.verdict(quick=quick)) for check in report.checks]
    return "\n".join(lines)


def _format_table(table: Table) -> list[str]:
    widths = [max(len(column), 9) for column in table.columns]

    def line(name: str, cells: Sequence[str]) -> str:
        columns = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        return "  ".join([f"{name:<40}", *columns])

    rows = [line(name, [format_cell(cell) for cell in cells]) for name, cells in table.rows]
    return [line("", table.columns), *rows]


def _format_check(check: Check, verdict: str) -> str:
    value = f"{format_cell(check.value)}{check.unit}"
    target = f"{check.relation} {format_cell(check.target)}{check.unit}"
    if check.stretch is not None:
        target += f" [{format_cell(check.stretch)}{check.unit}]"
    return f"  {check.what:<52}{value:>11}   {target:<24}  {verdict}"


def format_cell(cell: Cell) -> str:
    """Return three digits of a number, or all that stand before its point."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    digits = 0 if cell == 0 else 2 - math.floor(math.log10(abs(cell)))
    return f"{cell:,.{min(max(digits, 0), 3)}f}"
