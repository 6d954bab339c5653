"""What is known of each job, kept in Redis for a week: for its owner's eyes, without the key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec
from redis.asyncio import Redis

KEPT_SECONDS: Final = 7 * 24 * 3600


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    WAITING = "waiting"
    RETRY_LATER = "retry_later"
    DONE = "done"
    SIGN_IN_AGAIN = "sign_in_again"
    SESSION_EXPIRED = "session_expired"
    SESSION_NOT_FOUND = "session_not_found"
    FAILED = "failed"


@dataclass(frozen=True)
class Needed:
    """What the user has to do before another try, in the words of `InteractionRequiredError`."""

    scopes: tuple[str, ...]
    claims: str | None
    consent_uri: str | None


@dataclass(frozen=True)
class State:
    """A status, and what there is to say about it."""

    status: Status
    note: str
    needed: Needed | None = None
    retry_after: int | None = None
    """Seconds after which the worker tries again by itself."""


class Jobs:
    """The jobs by their id.

    Args:
        redis: where they are kept, as hashes; `aclose` closes it.
        prefix: what their names start with.
    """

    def __init__(self, redis: Redis, *, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix

    async def add(self, job_id: str, owner: str, state: State) -> None:
        """Keep a new job, whose owner is the user of this ``identity``."""
        name = self._prefix + job_id
        async with self._redis.pipeline() as pipe:
            pipe.hset(name, mapping={"owner": owner, "state": msgspec.json.encode(state)})
            pipe.expire(name, KEPT_SECONDS)
            await pipe.execute()

    async def set_state(self, job_id: str, state: State) -> None:
        """Say how a job stands."""
        await self._redis.hset(self._prefix + job_id, "state", msgspec.json.encode(state))

    async def find(self, job_id: str, owner: str) -> State | None:
        """Return how a job stands; None if there is none of this id, or it is somebody else's."""
        whose, state = await self._redis.hmget(self._prefix + job_id, ["owner", "state"])
        if state is None or whose != owner.encode():
            return None
        return msgspec.json.decode(state, type=State)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
