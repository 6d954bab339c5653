"""P2: a token never seen before, and the same token again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from .peers import build, later
from .report import Check, Report, Table
from .rounds import Measured, cpu_of, middle, ratio, scaled, take_turns
from .world import World, start_world

OURS: Final = "ours, never seen before"
AGAIN: Final = "ours, again"
PYJWT: Final = "PyJWT decode"
RAW: Final = "raw RSA-2048 verify (limit)"


def run(*, quick: bool) -> Report:
    """Measure what it costs to verify a token."""
    with start_world() as world:
        verification = Verification(world, number=20 if quick else 300)
        return asyncio.run(_measure(verification, rounds=2 if quick else 21))


async def _measure(verification: Verification, *, rounds: int) -> Report:
    cases, missing = await build(
        {
            RAW: later(verification.raw),
            PYJWT: later(verification.pyjwt),
            "PyJWKClient pattern": later(verification.pyjwk_client),
            "joserfc": later(verification.joserfc),
            OURS: later(verification.ours),
            AGAIN: later(verification.ours_again),
        }
    )
    values = await take_turns(cases, rounds=rounds)
    return Report(
        "verify: a token never seen before, and the same again (P2)",
        [Table(["us"], [(name, [scaled(middle(values, name), 1e6)]) for name in cases])],
        _checks(values),
        missing,
    )


def _checks(values: Measured[float]) -> list[Check]:
    return [
        Check("never seen before / PyJWT decode", ratio(values, OURS, PYJWT), "<=", 1.15),
        Check("again / raw RSA verify", ratio(values, AGAIN, RAW), "<=", 0.20, 0.12),
    ]


class Verification:
    """The cases, all of them over the same tokens.

    Args:
        world: who signs.
        number: how many tokens.
    """

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._registration = world.registration
        self._tokens = world.tokens(number)
        self._key = jwt.PyJWK(world.jwks["keys"][0], "RS256")

    def _each(self, verify: Callable[[str], object]) -> Callable[[], Awaitable[float]]:
        tokens = cycle(self._tokens)

        async def call() -> None:
            verify(next(tokens))

        return lambda: cpu_of(call, len(self._tokens))

    def raw(self) -> Callable[[], Awaitable[float]]:
        """Check the signature, of parts that are decoded before, and nothing else."""
        parts = []
        for token in self._tokens:
            signed, _, signature = token.rpartition(".")
            parts.append((jwt.utils.base64url_decode(signature), signed.encode()))
        key, padding, algorithm, turns = self._key.key, PKCS1v15(), SHA256(), cycle(parts)

        async def call() -> None:
            key.verify(*next(turns), padding, algorithm)

        return lambda: cpu_of(call, len(parts))

    def pyjwt(self) -> Callable[[], Awaitable[float]]:
        """Decode with a key that is at hand."""
        return self._each(lambda token: self._decode(token, self._key))

    def pyjwk_client(self) -> Callable[[], Awaitable[float]]:
        """Decode as PyJWT's documentation does, with a client that has its keys."""
        context = ssl.create_default_context(cafile=self._world.ca_file)
        client = jwt.PyJWKClient(self._world.jwks_uri, lifespan=3600, ssl_context=context)
        client.fetch_data()
        return self._each(lambda token: self._decode(token, client.get_signing_key_from_jwt(token)))

    def _decode(self, token: str, key: jwt.PyJWK) -> object:
        return jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=self._registration.client_id,
            issuer=f"{self._registration.authority}/{self._registration.tenant_id}/v2.0",
            options={"require": ["exp", "iat", "nbf", "sub"]},
        )

    def joserfc(self) -> Callable[[], Awaitable[float]]:
        """Decode and validate the claims with joserfc."""
        from joserfc import jwt as jose
        from joserfc.jwk import KeySet

        keys = KeySet.import_key_set(self._world.jwks)
        claims = jose.JWTClaimsRegistry(
            aud={"essential": True, "value": self._registration.client_id},
            exp={"essential": True},
        )
        return self._each(
            lambda token: claims.validate(jose.decode(token, keys, algorithms=["RS256"]).claims)
        )

    def ours(self) -> Callable[[], Awaitable[float]]:
        """Verify tokens by an object that has the keys and has not seen these tokens."""

        async def measure() -> float:
            async with self._world.obo() as obo:
                await obo.verify(self._world.entra.token())
                tokens = iter(self._tokens)
                return await cpu_of(lambda: obo.verify(next(tokens)), len(self._tokens))

        return measure

    def ours_again(self) -> Callable[[], Awaitable[float]]:
        """Verify tokens by an object that has verified them before."""

        async def measure() -> float:
            async with self._world.obo() as obo:
                for token in self._tokens:
                    await obo.verify(token)
                tokens = cycle(self._tokens)
                return await cpu_of(lambda: obo.verify(next(tokens)), 10 * len(self._tokens))

        return measure
