"""One process of several that share a cache: ``python -m tests.shared_cache_worker SETTINGS``.

It says "ready", waits for a line, lets a crowd of requests of one user ask for one token at the
same moment, and prints the tokens that they got, and how often the shared cache took too long.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from obo_asgi import AppRegistration, ClientSecret, DownstreamAPI, OnBehalfOf, TokenCache


def shared_cache(url: str) -> Any:
    """Return the cache that a URL names."""
    if url.startswith("redis"):
        from obo_asgi.cache.redis import redis_cache

        return redis_cache(url)
    from obo_asgi.cache.sql import SQLCache

    return SQLCache(url, create_if_not_exists=True)


def create_cache(settings: dict[str, Any]) -> TokenCache:
    """Return the token cache of one process."""
    return TokenCache(shared=shared_cache(settings["cache"]), keys=settings["keys"])


def create_obo(settings: dict[str, Any], cache: TokenCache | None = None) -> OnBehalfOf:
    """Wire one process."""
    return OnBehalfOf(
        AppRegistration(
            tenant_id=settings["tenant_id"],
            client_id=settings["client_id"],
            client_credential=ClientSecret(settings["client_secret"]),
            authority=settings["authority"],
            issuer=settings["issuer"],
        ),
        downstream={"partner": DownstreamAPI(scopes=["api://partner/read"])},
        cache=cache or create_cache(settings),
    )


async def main(settings: dict[str, Any]) -> None:
    """Be the process."""

    async def request() -> str:
        downstream = await obo.downstream_for(settings["token"])
        return (await downstream["partner"].acquire_token()).token

    cache = create_cache(settings)
    async with create_obo(settings, cache) as obo:
        await obo.verify(settings["token"])
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        tokens = set(await asyncio.gather(*(request() for _ in range(settings["crowd"]))))
        print(json.dumps([sorted(tokens), cache.counts["timeouts"]]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
