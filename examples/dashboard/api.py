"""The web API: it calls Graph and the partner API on behalf of the user who called it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypedDict, TypeVar

from obo_asgi import (
    APIClient,
    AppRegistration,
    DownstreamAPI,
    DownstreamError,
    DownstreamTimeoutError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)

from . import page
from .asgi import ASGIApp, Response, Scope, json_response, router
from .timeline import Span, Timeline, timeline_from, with_timeline

T = TypeVar("T")

TIMEOUT: Final = 2.0
"""Seconds that the parts of a dashboard have, all of them together."""


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
    """As much of it as could be had, and when it happened."""

    me: Profile | None
    data: Data | None
    settings: Settings | None
    failures: dict[str, str]
    """Why a part is missing, by its name."""
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
    """Answer with three parts, which are fetched in parallel, as far as their APIs deliver them.

    Where the user has to do something first, `gather` raises, and the middleware answers 401.
    """
    timeline = timeline_from(scope)
    timeline.record_until_now("web API", "validation")
    downstream = downstream_from(scope)
    graph, partner = downstream["graph"], downstream["partner"]
    me, data, settings = await downstream.gather(
        timed_get(timeline, graph, "me", Profile),
        timed_get(timeline, partner, "api/data", Data),
        timed_get(timeline, partner, "api/settings", Settings),
        timeout=TIMEOUT,
    )
    errors = {"me": me.error, "data": data.error, "settings": settings.error}
    return json_response(
        Dashboard(
            me=me.value_or(None),
            data=data.value_or(None),
            settings=settings.value_or(None),
            failures={name: explain(error) for name, error in errors.items() if error},
            timeline=timeline.spans(),
            total=timeline.now(),
        )
    )


async def data(scope: Scope) -> Response:
    """Answer with the partner's part alone: one call, one scope."""
    return json_response(await downstream_from(scope)["partner"].get("api/data", into=Data))


def explain(error: Exception) -> str:
    """Say why an API's part is missing; what is not the API's failure is raised."""
    match error:
        case DownstreamTimeoutError():
            return "did not answer in time"
        case DownstreamError(status_code=None):
            return "could not be reached"
        case DownstreamError(status_code=404):
            return "not found"
        case DownstreamError(status_code=503):
            return "not available now"
        case DownstreamError():
            return f"answered with status {error.status_code}"
    raise error


async def timed_get(timeline: Timeline, api: APIClient, path: str, into: type[T]) -> T:
    """Return ``await api.get(path, into=into)``, which would do, with its two halves measured.

    The token that the first half has waited for is in the cache for the second.
    """
    lane = f"{api.name}: {path}"
    with timeline.span(lane, "token"):
        await api.acquire_token()
    with timeline.span(lane, "call"):
        return await api.get(path, into=into)
