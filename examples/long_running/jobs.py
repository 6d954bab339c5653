"""What is known of each job, kept in Redis for a week: for its owner's eyes, without the key."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

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
    LOST = "lost"


UNFINISHED: Final = frozenset({Status.QUEUED, Status.WAITING, Status.RETRY_LATER})


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

    async def add(self, job_id: str, owner: str, state: State, *, seconds: float) -> None:
        """Keep a new job, whose owner is the user of this ``identity``.

        Args:
            job_id: its id.
            owner: whose it is.
            state: how it stands.
            seconds: after which it is lost, if nothing is heard of it.
        """
        name = self._prefix + job_id
        async with self._redis.pipeline() as pipe:
            pipe.hset(name, mapping={"owner": owner, **_fields(state, seconds)})
            pipe.expire(name, KEPT_SECONDS)
            await pipe.execute()

    async def set_state(self, job_id: str, state: State, *, seconds: float = 0.0) -> None:
        """Say how a job stands, and after how many seconds it is lost, if it has not ended."""
        await self._redis.hset(self._prefix + job_id, mapping=_fields(state, seconds))

    async def find(self, job_id: str, owner: str) -> State | None:
        """Return how a job stands; None if there is none of this id, or it is somebody else's."""
        names = ["owner", "state", "lost_at"]
        whose, encoded, lost_at = await self._redis.hmget(self._prefix + job_id, names)
        if encoded is None or whose != owner.encode():
            return None
        state = msgspec.json.decode(encoded, type=State)
        if state.status in UNFINISHED and time.time() >= float(lost_at or 0):
            return State(Status.LOST, "nothing was heard of it for too long: start again")
        return state

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _fields(state: State, seconds: float) -> dict[Any, Any]:
    return {"state": msgspec.json.encode(state), "lost_at": time.time() + seconds}
