"""What was seen while the demo was played, and how it is printed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

CROWD: Final = 200
"""How many requests come at once to a web API that has no token for their user yet."""

_WIDTH: Final = 100
_HARD_SPACE: Final = "\N{NO-BREAK SPACE}"
_GUID_REST: Final = re.compile(r"\b([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_LONG_VALUE: Final = re.compile(r'="([^"]{76})[^"]+"')
_VALUE: Final = re.compile(r'"[^"]*"')


@dataclass(frozen=True)
class Load:
    """One load of a dashboard, as the client saw it."""

    title: str
    milliseconds: float
    exchanges: int
    names: tuple[str, ...]
    """Whose data the three parts are, each name once."""
    is_good: bool


@dataclass(frozen=True)
class Crowd:
    """Simultaneous requests with one fresh token."""

    answered: int
    exchanges: int

    @property
    def is_good(self) -> bool:
        """Whether everybody was answered, by one exchange."""
        return (self.answered, self.exchanges) == (CROWD, 1)


@dataclass(frozen=True)
class Refusal:
    """What a bad token is answered with."""

    title: str
    status: int
    challenge: str

    @property
    def is_good(self) -> bool:
        """Whether it was refused as RFC 6750 demands."""
        return self.status == 401 and 'error="invalid_token"' in self.challenge


@dataclass(frozen=True)
class Step:
    """One request while there is trouble, or after what the client did about it."""

    title: str
    status: int
    outcome: str
    """What the client makes of the answer."""
    challenge: str
    """The ``WWW-Authenticate`` header; empty if there is none."""
    is_good: bool


@dataclass(frozen=True)
class Report:
    """What was seen."""

    loads: list[Load]
    crowd: Crowd
    refusals: list[Refusal]
    steps: list[Step] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether everything was as it must be."""
        seen: list[Load | Crowd | Refusal | Step] = [
            *self.loads,
            self.crowd,
            *self.refusals,
            *self.steps,
        ]
        return all(part.is_good for part in seen)


def format_report(report: Report, *, colour: bool = False) -> str:
    """Return the report as a table."""
    verdict = "All is as it must be." if report.is_good else "Something is NOT as it must be."
    lines = [*_loads(report, colour), *_refusals(report, colour), *_steps(report, colour)]
    return "\n".join([*lines, verdict])


def shorten(challenge: str) -> str:
    """Return a challenge without the tails of its GUIDs and of its long values."""
    return _LONG_VALUE.sub(r'="\1…"', _GUID_REST.sub(r"\1…", challenge))


def _loads(report: Report, colour: bool) -> Iterator[str]:
    yield f"{'dashboard':<28}{'ms':>8}{'exchanges':>11}   shows the data of"
    for load in report.loads:
        text = f"{load.title:<28}{load.milliseconds:>8.1f}{load.exchanges:>11}"
        yield f"{text}   {', '.join(load.names):<13}{_mark(load.is_good, colour)}"
    crowd = report.crowd
    text = f"{CROWD} simultaneous cold requests → {count(crowd.exchanges, 'exchange')}"
    yield from ("", f"{text}  ({crowd.answered} answered)  {_mark(crowd.is_good, colour)}", "")


def _refusals(report: Report, colour: bool) -> Iterator[str]:
    yield f"{'refused token':<28}status"
    for refusal in report.refusals:
        yield f"{refusal.title:<28}{refusal.status:<9}{_mark(refusal.is_good, colour)}"
        yield f"    WWW-Authenticate: {refusal.challenge}"
    yield ""


def _steps(report: Report, colour: bool) -> Iterator[str]:
    yield f"{'trouble, and what helps':<48}status   outcome"
    last = ""
    for step in report.steps:
        text = f"{step.title:<48}{step.status:<9}{step.outcome}"
        yield f"{text}  {_mark(step.is_good, colour)}"
        if step.challenge not in ("", last):
            yield _wrap(f"WWW-Authenticate: {shorten(step.challenge)}")
        last = step.challenge
    yield ""


def _wrap(header: str) -> str:
    """Wrap a header between its parameters."""
    lines = textwrap.wrap(
        _VALUE.sub(lambda value: value[0].replace(" ", _HARD_SPACE), header),
        _WIDTH,
        initial_indent=" " * 4,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_HARD_SPACE, " ")


def count(number: int, thing: str) -> str:
    """Return such as "1 exchange" or "2 exchanges"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _mark(is_good: bool, colour: bool) -> str:
    text = "ok" if is_good else "WRONG"
    return f"\x1b[{32 if is_good else 31}m{text}\x1b[0m" if colour else text
