"""The web API: it calls Graph and the partner API on behalf of the user who called it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypedDict, TypeVar

from obo_asgi import (
    APIClient,
    AppRegistration,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)

from . import page
from .asgi import ASGIApp, Response, Scope, json_response, router
from .timeline import Span, Timeline, timeline_from, with_timeline

T = TypeVar("T")


class Profile(TypedDict):
    """What Graph says about the user."""

    displayName: str
    userPrincipalName: str
    tokenAudience: str
    tokenScopes: str


@dataclass(frozen=True)
class Data:
    """What the partner API holds for the user."""

    owner: str
    projects: list[str]
    token_audience: str
    token_scopes: str


@dataclass(frozen=True)
class Settings:
    """How the user wants the partner API to be."""

    owner: str
    values: dict[str, str]
    token_audience: str
    token_scopes: str


@dataclass(frozen=True)
class Dashboard:
    """All of it, and when it happened."""

    me: Profile
    data: Data
    settings: Settings
    timeline: list[Span]
    total: float
    """Milliseconds from the arrival of the request until its answer was ready."""


def create_app(
    registration: AppRegistration, *, graph_url: str, partner_url: str, sign_in: page.SignIn
) -> ASGIApp:
    """Return the web API, which also serves the page.

    Args:
        registration: of this API.
        graph_url: the origin of Graph.
        partner_url: the origin of the partner API.
        sign_in: what the page has to know to sign a person in.
    """
    obo = OnBehalfOf(
        registration,
        downstream={
            "graph": DownstreamAPI(
                base_url=f"{graph_url}/v1.0", scopes=["https://graph.microsoft.com/User.Read"]
            ),
            "partner": DownstreamAPI(base_url=partner_url, scopes=["api://partner-api-id/read"]),
        },
        required_scopes=["access_as_user"],
    )
    pages = page.routes(sign_in)
    app = router({"/dashboard": dashboard, "/data": data, **pages})
    return with_timeline(OnBehalfOfMiddleware(app, obo, public_paths=pages))


async def dashboard(scope: Scope) -> Response:
    """Answer with three parts, which are fetched in parallel, and the timeline of it."""
    timeline = timeline_from(scope)
    timeline.record_until_now("web API", "validation")
    downstream = downstream_from(scope)
    graph, partner = downstream["graph"], downstream["partner"]
    async with asyncio.TaskGroup() as group:
        me = group.create_task(timed_get(timeline, graph, "me", Profile))
        data = group.create_task(timed_get(timeline, partner, "api/data", Data))
        settings = group.create_task(timed_get(timeline, partner, "api/settings", Settings))
    return json_response(
        Dashboard(me.result(), data.result(), settings.result(), timeline.spans(), timeline.now())
    )


async def data(scope: Scope) -> Response:
    """Answer with the partner's part alone: one call, one scope."""
    return json_response(await downstream_from(scope)["partner"].get("api/data", into=Data))


async def timed_get(timeline: Timeline, api: APIClient, path: str, into: type[T]) -> T:
    """Return ``await api.get(path, into=into)``, which would do, with its two halves measured.

    The token that the first half has waited for is in the cache for the second.
    """
    lane = f"{api.name}: {path}"
    with timeline.span(lane, "token"):
        await api.acquire_token()
    with timeline.span(lane, "call"):
        return await api.get(path, into=into)
