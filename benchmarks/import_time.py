"""P11: what ``import obo_asgi`` takes, and what it brings along."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from functools import partial
from typing import Final

from .report import Check, Report, Table, exactly
from .rounds import middle, ratio, scaled, take_turns

OURS: Final = "import obo_asgi"
LIMIT: Final = "import jwt, httpx (limit)"
FORBIDDEN: Final = (
    "aiocache",
    "azure",
    "django",
    "fastapi",
    "litestar",
    "msal",
    "pydantic",
    "quart",
    "redis",
    "requests",
    "sqlalchemy",
    "starlette",
)
"""Frameworks, SQL, Redis, requests, and what is slow and needed later; all that are installed."""

_PROGRAM: Final = """
import json, sys, time
started = time.process_time()
import {modules}
print(json.dumps([time.process_time() - started, sorted(sys.modules)]))
"""


def run(*, quick: bool) -> Report:
    """Measure imports, each in a fresh interpreter."""
    return asyncio.run(_measure(rounds=1 if quick else 15))


async def _measure(*, rounds: int) -> Report:
    cases = {
        OURS: partial(_seconds, "obo_asgi"),
        LIMIT: partial(_seconds, "jwt, httpx"),
        "import msal": partial(_seconds, "msal"),
    }
    await take_turns(cases, rounds=1)  # compiled files, the disk's cache
    values = await take_turns(cases, rounds=rounds)
    _, modules = await asyncio.to_thread(_import, "obo_asgi")
    brought = {module.partition(".")[0] for module in modules} & set(FORBIDDEN)
    return Report(
        "import: of the package (P11)",
        [Table(["ms"], [(name, [scaled(middle(values, name), 1000)]) for name in values])],
        [
            exactly(f"slow or foreign packages imported {sorted(brought)}", len(brought), 0),
            Check("ours / jwt and the HTTP client", ratio(values, OURS, LIMIT), "<=", 1.3),
        ],
    )


async def _seconds(modules: str) -> float:
    seconds, _ = await asyncio.to_thread(_import, modules)
    return seconds


def _import(modules: str) -> tuple[float, list[str]]:
    """Return the CPU seconds that an import takes, and all modules that are there then."""
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _PROGRAM.format(modules=modules)],
        check=True,
        stdout=subprocess.PIPE,
    )
    seconds, names = json.loads(run.stdout)
    return seconds, names
