"""P1: an authenticated request, its token seen before: in process, and under uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from statistics import median
from typing import Final

import jwt

from .calls import ASGIApp, bare_app, calling, check_answers, http_scope
from .peers import build, later
from .report import Check, Report, Table
from .rounds import Measured, difference, middle, ratio, repeated, scaled, take_turns
from .servers import CONNECTIONS, Generator, serve
from .web_apps import (
    PyJWTMiddleware,
    azure_scheme,
    fastapi,
    limit,
    litestar,
    ours,
)
from .world import World, start_world

BARE: Final = "bare ASGI app"
OURS: Final = "ours"
LIMIT: Final = "limit"
LITESTAR: Final = "Litestar"
FASTAPI: Final = "FastAPI"
BASES: Final = {"Litestar JWTAuth": LITESTAR, "fastapi-azure-auth": FASTAPI}
"""What a case is compared with, where it is not the bare ASGI app."""
PYJWT: Final = "pure ASGI + PyJWT"
PLAIN: Final = "uvicorn"
SERVERS: Final = {PLAIN: {"loop": "asyncio", "http": "h11"}, "uvicorn[standard]": {}}
"""uvicorn's options. "standard" brings httptools and uvloop: a request costs a fifth, so that the
limit too falls below the target, which is for the plain one."""


def run(*, quick: bool) -> Report:
    """Measure what authentication adds to a request."""
    with start_world() as world:
        in_process, missing = asyncio.run(_in_process(world, quick=quick))
        under_uvicorn = asyncio.run(_under_uvicorn(world, quick=quick))
    return Report(
        "request: authenticated, its token seen before (P1)",
        [_cpu_table(in_process), _rate_table(under_uvicorn)],
        [
            Check("added in process, ours / PyJWT", _added_ratio(in_process), "<=", 0.105, 0.053),
            Check(
                f"requests/s, {PLAIN}, ours / bare app",
                ratio(under_uvicorn, f"{OURS}, {PLAIN}", f"{BARE}, {PLAIN}"),
                ">=",
                0.75,
                0.85,
            ),
        ],
        missing,
    )


def _cpu_table(values: Measured[float]) -> Table:
    return Table(
        ["us", "us added"],
        [
            (
                name,
                [
                    scaled(middle(values, name), 1e6),
                    scaled(difference(values, name, BASES.get(name, BARE)), 1e6),
                ],
            )
            for name in values
        ],
    )


def _rate_table(values: Measured[float]) -> Table:
    return Table(["requests/s"], [(name, [middle(values, name)]) for name in values])


def _added_ratio(values: Measured[float]) -> float:
    """Return what ours adds to the bare app over what PyJWT's decode adds, from each round.

    The target in microseconds (10, of PyJWT's 95) moves with the machine; this does not.
    """
    rounds = zip(values[BARE], values[OURS], values[PYJWT], strict=True)
    return median((ours - bare) / (pyjwt - bare) for bare, ours, pyjwt in rounds)


async def _in_process(world: World, *, quick: bool) -> tuple[Measured[float], dict[str, str]]:
    factories = {name: later(factory) for name, factory in _factories(world).items()}
    apps, missing = await build(factories)
    scope = http_scope(world.entra.token())
    cases: dict[str, Callable[[], Awaitable[float]]] = {}
    for name, app in apps.items():
        await check_answers(app, scope)
        cases[name] = repeated(calling(app, scope), 20 if quick else 400)
    return await take_turns(cases, rounds=2 if quick else 31), missing


def _factories(world: World) -> dict[str, Callable[[], ASGIApp]]:
    key = jwt.PyJWK(world.jwks["keys"][0], "RS256")
    settings = world.settings
    return {
        BARE: lambda: bare_app,
        OURS: lambda: ours(settings),
        LIMIT: lambda: limit(settings),
        PYJWT: lambda: PyJWTMiddleware(bare_app, key, settings),
        LITESTAR: lambda: litestar(settings, None),
        "Litestar JWTAuth": lambda: litestar(settings, key),
        FASTAPI: fastapi,
        "fastapi-azure-auth": lambda: fastapi(azure_scheme(settings)),
    }


async def _under_uvicorn(world: World, *, quick: bool) -> Measured[float]:
    """Load one server after the other, over kept connections, from a process of its own."""
    factories = {BARE: "bare", OURS: "ours", LIMIT: "limit"}
    tokens = world.tokens(CONNECTIONS)
    with ExitStack() as stack:
        generator = stack.enter_context(Generator())
        cases = {}
        for server, options in SERVERS.items():
            for name, factory in factories.items():
                path = f"benchmarks.web_apps:{factory}"
                port = stack.enter_context(serve(path, world, **options))
                seconds = 0.3 if quick else 0.25
                cases[f"{name}, {server}"] = generator.slices(port, tokens, seconds=seconds)
        await take_turns(cases, rounds=1)  # keys, connections, caches
        return await take_turns(cases, rounds=1 if quick else 25)
