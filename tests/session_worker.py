"""One process in the life of a session: ``python -m tests.session_worker SETTINGS``.

It says "ready" and waits for a line: a user's token, of which it starts a session and prints the
key; or, told to "call", a session's key, as whose user it gets a token and says what it knows.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from obo_asgi import OnBehalfOf
from tests.shared_cache_worker import create_obo


async def start(obo: OnBehalfOf, token: str) -> str:
    """Start a session in the request of a user."""
    downstream = await obo.downstream_for(token)
    return await downstream.start_session(apis=["partner"])


async def call(obo: OnBehalfOf, key: str) -> dict[str, Any]:
    """Get a token as the user of a session."""
    async with obo.resume_session(key) as downstream:
        token = (await downstream["partner"].acquire_token()).token
        user = downstream.user
        return {"token": token, "oid": user.oid, "has_ended": user.expires_at < time.time()}


async def main(settings: dict[str, Any]) -> None:
    """Be the process."""
    work = {"start": start, "call": call}[settings["work"]]
    async with create_obo(settings) as obo:
        print("ready", flush=True)
        line = await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(await work(obo, line.strip())), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
