"""P12: fetches of metadata and keys: a cold crowd, then forgers, and a key rolled after start."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

import anyio.to_thread
import jwt

from obo_asgi import InvalidTokenError

from .calls import Message, http_scope, receive_nothing
from .peers import build, later
from .report import Report, Table, at_most, exactly
from .web_apps import azure_scheme, fastapi, issuer_of
from .world import World, start_world

CROWD: Final = 200
FORGERS: Final = 300
OURS: Final = "ours"

Verify = Callable[[str], Awaitable[bool]]
"""Tells whether a token is accepted."""


class Fetches(NamedTuple):
    """What was fetched, and who was accepted."""

    metadata: int
    keys: int
    for_forgers: int
    accepted: int
    rolled: bool
    """Whether a token of a key rolled after the first request was accepted at once."""


def run(*, quick: bool) -> Report:
    """Count the fetches; a count is the same in a quick run."""
    with start_world() as world:
        seen, missing = asyncio.run(_measure(world))
    ours = seen[OURS]
    rows = [
        (name, [found.metadata, found.keys, found.for_forgers, "yes" if found.rolled else "no"])
        for name, found in seen.items()
    ]
    columns = ["metadata", "keys", "for forgers", "rolled key accepted"]
    return Report(
        f"keys: {CROWD} cold requests, {FORGERS} unknown kids, a rolled key (P12)",
        [Table(columns, rows)],
        [
            exactly(f"accepted of {CROWD} cold requests", ours.accepted, CROWD),
            exactly("metadata fetches for them", ours.metadata, 1),
            exactly("key fetches for them", ours.keys, 1),
            at_most(f"fetches for {FORGERS} unknown kids", ours.for_forgers, 1),
            exactly("rolled key accepted at its first request", int(ours.rolled), 1),
        ],
        missing,
    )


async def _measure(world: World) -> tuple[dict[str, Fetches], dict[str, str]]:
    async with AsyncExitStack() as stack:
        verifiers = Verifiers(world, stack)
        factories = {
            OURS: verifiers.ours,
            "PyJWKClient in threads": later(verifiers.pyjwk_client),
            "fastapi-azure-auth": later(verifiers.fastapi_azure_auth),
        }
        crowds, missing = await build(factories)
        fresh, _ = await build(factories)
        crowd, forged = world.tokens(CROWD), _forged(world)
        counted = {name: await _count(world, v, crowd, forged) for name, v in crowds.items()}
        rolled = await _roll(world, fresh)
    return {
        name: Fetches(*counts, rolled=rolled[name]) for name, counts in counted.items()
    }, missing


async def _count(
    world: World, verify: Verify, crowd: list[str], forged: list[str]
) -> tuple[int, int, int, int]:
    """Return the fetches of metadata, of keys and for forgers, and how many were accepted."""
    world.take_counts()
    accepted = sum(await asyncio.gather(*map(verify, crowd)))
    cold = world.take_counts()
    if any(await asyncio.gather(*map(verify, forged))):
        raise RuntimeError("a forged token is accepted")
    return (
        cold.get(world.metadata_path, 0),
        cold.get(world.jwks_path, 0),
        sum(world.take_counts().values()),
        accepted,
    )


async def _roll(world: World, cases: dict[str, Verify]) -> dict[str, bool]:
    """Let all of them start, roll the key, and return who accepts the new one at once."""
    before = world.entra.token()
    for verify in cases.values():
        await verify(before)
    await world.roll_keys()
    after = world.entra.token()
    return {name: await verify(after) for name, verify in cases.items()}


def _forged(world: World) -> list[str]:
    """Return tokens whose headers name keys that nobody has."""
    key = world.entra.unpublished_key()
    return [
        world.entra.token(key=key.private_key, headers={"kid": f"unknown-{number}"})
        for number in range(FORGERS)
    ]


class Verifiers:
    """The cases; none of them has any key yet."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self._world = world
        self._stack = stack

    async def ours(self) -> Verify:
        """Verify."""
        obo = await self._stack.enter_async_context(self._world.obo())

        async def verify(token: str) -> bool:
            try:
                await obo.verify(token)
            except InvalidTokenError:
                return False
            return True

        return verify

    def pyjwk_client(self) -> Verify:
        """Do as PyJWT's documentation does, in the threads that a sync handler runs in."""
        settings = self._world.settings
        context = ssl.create_default_context(cafile=settings["ca_file"])
        client = jwt.PyJWKClient(self._world.jwks_uri, ssl_context=context)

        def decode(token: str) -> bool:
            try:
                key = client.get_signing_key_from_jwt(token)
                jwt.decode(
                    token,
                    key,
                    algorithms=["RS256"],
                    audience=settings["client_id"],
                    issuer=issuer_of(settings),
                )
            except jwt.PyJWTError:
                return False
            return True

        return lambda token: anyio.to_thread.run_sync(decode, token)

    def fastapi_azure_auth(self) -> Verify:
        """Send a request through a FastAPI app."""
        logging.getLogger("fastapi_azure_auth").setLevel(logging.CRITICAL)
        app = fastapi(azure_scheme(self._world.settings))

        async def verify(token: str) -> bool:
            statuses: list[int] = []

            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await app(http_scope(token), receive_nothing, send)
            return statuses == [200]

        return verify
