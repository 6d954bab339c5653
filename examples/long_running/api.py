"""The web API: it starts a job that goes on as the user who asked for it, and says how it stands.

``python -m uvicorn --factory examples.long_running.api:create_api`` serves it.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import msgspec
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from taskiq import AsyncBroker
from taskiq.exceptions import SendTaskError

from obo_asgi import OnBehalfOf, OnBehalfOfMiddleware, downstream_from

from .jobs import Jobs, State, Status
from .wiring import create_broker, create_jobs, create_obo
from .worker import create_task

SESSION_SECONDS: Final = 24 * 3600.0
"""How long a session lives whose worker never ends it."""


class Order(msgspec.Struct):
    """What the caller of ``POST /start`` wants."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60
    """Seconds that the job waits between its two calls."""


def create_api() -> Starlette:
    """Return the API that the environment variables describe."""
    return create_app(create_obo(), create_broker(), create_jobs())


def create_app(obo: OnBehalfOf, broker: AsyncBroker, jobs: Jobs) -> Starlette:
    """Return the API.

    Args:
        obo: verifies the callers.
        broker: takes the jobs to the workers.
        jobs: where it is read how they stand.
    """
    process = create_task(broker, obo, jobs)

    async def start(request: Request) -> Response:
        try:
            order = msgspec.json.decode(await request.body() or b"{}", type=Order)
        except msgspec.ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        except msgspec.DecodeError:
            return JSONResponse({"error": "the body must be JSON"}, 400)
        downstream = downstream_from(request.scope)
        job_id, queued = uuid.uuid4().hex, State(Status.QUEUED, "a worker will take it")
        # The key is a secret: it goes to the worker alone. The caller gets the job's id.
        session_key = await downstream.start_session(apis=["partner"], lifetime=SESSION_SECONDS)
        try:
            identity = downstream.user.identity
            await jobs.add(job_id, identity, queued, seconds=SESSION_SECONDS)
            await process.kiq(job_id, session_key, order.wait)
        except (RedisError, SendTaskError):
            await obo.end_session(session_key)
            answer = {"error": "no job can be started now"}
            return JSONResponse(answer, 503, headers={"Retry-After": "5"})
        location = request.app.url_path_for("status", job_id=job_id)
        return JSONResponse(_shown(job_id, queued), 202, headers={"Location": location})

    async def status(request: Request) -> Response:
        job_id = request.path_params["job_id"]
        state = await jobs.find(job_id, downstream_from(request.scope).user.identity)
        if state is None:
            return JSONResponse({"error": "there is no such job"}, 404)
        return JSONResponse(_shown(job_id, state))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await broker.startup()
        yield
        await broker.shutdown()
        await jobs.aclose()

    app = Starlette(
        routes=[
            Route("/start", start, methods=["POST"]),
            Route("/status/{job_id}", status, name="status"),
        ],
        lifespan=lifespan,
    )
    # Inside the app: so it answers what a handler raises, such as 401 for a missing consent.
    app.add_middleware(OnBehalfOfMiddleware, obo=obo)
    return app


def _shown(job_id: str, state: State) -> dict[str, object]:
    """Return what the owner may see of a job."""
    shown: dict[str, object] = msgspec.to_builtins(state)
    return {"job": job_id, **shown}
