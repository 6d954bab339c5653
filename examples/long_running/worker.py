"""The worker: another process, which calls the partner's API as the user who started the job.

``python -m taskiq worker examples.long_running.worker:create_worker`` runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypedDict

from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, TaskiqEvents, TaskiqState

from obo_asgi import (
    CacheUnavailableError,
    InteractionRequiredError,
    KeysUnavailableError,
    OboError,
    OnBehalfOf,
    SessionExpiredError,
    SessionNotFoundError,
    TokenAcquisitionError,
)

from .jobs import Jobs, Needed, State, Status
from .wiring import create_broker, create_jobs, create_obo

TRIES: Final = 5
SILENT_SECONDS: Final = 300.0
"""How long a worker may take for calls, and waits for another's, before its job counts as lost."""

Task = AsyncTaskiqDecoratedTask[[str, str, float], Coroutine[Any, Any, None]]


class Data(TypedDict):
    """What the partner's API has to be processed."""

    owner: str
    items: list[str]


class Completed(TypedDict):
    """What the partner's API says in the end."""

    owner: str
    completed: int


def create_worker() -> AsyncBroker:
    """Return the broker of a worker process, for which all is opened once and closed at its end."""
    obo, broker, jobs = create_obo(), create_broker(), create_jobs()
    create_task(broker, obo, jobs)

    @broker.on_event(TaskiqEvents.WORKER_STARTUP)
    async def start(_: TaskiqState) -> None:
        await obo.open()

    @broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
    async def end(_: TaskiqState) -> None:
        await obo.aclose()
        await jobs.aclose()

    return broker


def create_task(broker: AsyncBroker, obo: OnBehalfOf, jobs: Jobs) -> Task:
    """Return the task, which the API sends and the worker does."""

    @broker.task("process")
    async def process(job_id: str, session_key: str, wait: float) -> None:
        state = State(Status.FAILED, "it cannot be done")
        try:
            for _ in range(TRIES):
                latest = await _try(obo, jobs, job_id, session_key, wait)
                if latest.retry_after is None:
                    state = latest
                    break
                await jobs.set_state(job_id, latest, seconds=latest.retry_after + SILENT_SECONDS)
                await asyncio.sleep(latest.retry_after)
        finally:
            with suppress(CacheUnavailableError):  # then it ends with its lifetime
                await obo.end_session(session_key)
            await jobs.set_state(job_id, state)

    return process


async def _try(obo: OnBehalfOf, jobs: Jobs, job_id: str, session_key: str, wait: float) -> State:
    """Do the job: two calls as its user, however long after each other; return how it ended."""
    try:
        async with obo.resume_session(session_key) as downstream:
            partner = downstream["partner"]
            data = await partner.get("api/process/data", into=Data)
            note = f"{len(data['items'])} items of {data['owner']}'s are being processed"
            waiting = State(Status.WAITING, note)
            await jobs.set_state(job_id, waiting, seconds=wait + SILENT_SECONDS)
            await asyncio.sleep(wait)
            answer = await partner.post("api/process/complete", json=data, into=Completed)
    except OboError as error:
        return explain(error)
    return State(Status.DONE, f"{answer['completed']} items of {answer['owner']}'s are done")


def explain(error: OboError) -> State:
    """Say what an error means for the job and its owner."""
    match error:
        case SessionNotFoundError():
            return State(Status.SESSION_NOT_FOUND, "the session was ended: start again")
        case SessionExpiredError():
            return State(Status.SESSION_EXPIRED, "the session is over: sign in and start again")
        case InteractionRequiredError():
            needed = Needed(error.scopes, error.claims_challenge, error.consent_uri)
            return State(Status.SIGN_IN_AGAIN, "do what is needed, then start again", needed)
        case (
            CacheUnavailableError()
            | KeysUnavailableError()
            | TokenAcquisitionError(retry_after=int())
        ):
            note = "the worker tries again by itself"
            return State(Status.RETRY_LATER, note, retry_after=error.retry_after)
    return State(Status.FAILED, "it cannot be done")
