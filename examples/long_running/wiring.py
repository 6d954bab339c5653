"""What the API and the worker are made of, from environment variables."""

from __future__ import annotations

import os
from typing import Final

from redis.asyncio import Redis
from taskiq import AsyncBroker
from taskiq_redis import ListQueueBroker

from obo_asgi import AppRegistration, ClientSecret, DownstreamAPI, OnBehalfOf, TokenCache
from obo_asgi.cache.redis import redis_cache

from .jobs import Jobs

PREFIX: Final = "long-running:"
"""What every name in Redis starts with."""


def create_obo() -> OnBehalfOf:
    """Return what verifies callers, and keeps their sessions where the other process finds them."""
    env = os.environ
    return OnBehalfOf(
        AppRegistration(
            tenant_id=env["TENANT_ID"],
            client_id=env["CLIENT_ID"],
            client_credential=ClientSecret(env["CLIENT_SECRET"]),
            authority=env.get("AUTHORITY", "https://login.microsoftonline.com"),
            issuer=env.get("ISSUER"),
            consent_redirect_uri=env.get("CONSENT_REDIRECT_URI"),
        ),
        downstream={
            "partner": DownstreamAPI(base_url=env["PARTNER_URL"], scopes=[env["PARTNER_SCOPE"]])
        },
        required_scopes=["access_as_user"],
        cache=TokenCache(
            shared=redis_cache(env["REDIS_URL"], prefix=PREFIX), keys=env["CACHE_KEYS"].split()
        ),
    )


def create_broker() -> AsyncBroker:
    """Return the queue: a list, which keeps no session key that a worker has taken.

    So a job is lost whose worker dies, or loses Redis, in the middle of it: in time its status says
    so. Where that is too little take a queue whose messages are acknowledged; then a job may be
    done twice, and its key stays in the queue until the end.
    """
    return ListQueueBroker(
        os.environ["REDIS_URL"],
        queue_name=f"{PREFIX}queue",
        socket_timeout=None,  # redis-py's own, 5 seconds, would end a worker that has nothing to do
    )


def create_jobs() -> Jobs:
    """Return what is known of the jobs."""
    return Jobs(Redis.from_url(os.environ["REDIS_URL"], protocol=2), prefix=f"{PREFIX}job:")
