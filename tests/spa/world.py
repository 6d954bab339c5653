"""A page, a sign-in service and a web API on three origins, over TLS on real sockets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from obo_asgi import (
    AppRegistration,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)
from obo_asgi.testing import FakeEntra, serve
from tests.npm import installed, why_not_installed

PARTNER: Final = "api://partner-api-id"
_PARTNER_URL: Final = "https://partner.example.com"
EXPOSED: Final = ("WWW-Authenticate", "Retry-After")
_STATIC: Final = Path(__file__).parent / "static"
_PACKAGE: Final = "@azure/msal-browser@5.30.0"
_LIB: Final = "@azure/msal-browser/lib"
_BUNDLE: Final = "msal-browser.min.js"
_BRIDGE: Final = "redirect-bridge/msal-redirect-bridge.min.js"


@cache
def why_no_msal() -> str | None:
    """Return why there is no msal-browser, or None if there is; installs it at first."""
    return why_not_installed(_PACKAGE, f"{_LIB}/{_BUNDLE}")


@dataclass(frozen=True)
class SpaWorld:
    """The running origins."""

    entra: FakeEntra
    page: str
    """The origin of the single-page app."""
    api: str
    """The origin of the web API."""


@contextlib.contextmanager
def start_spa_world() -> Iterator[SpaWorld]:
    """Start everything, and stop it at the end."""
    entra, settings = FakeEntra(), dict[str, str]()
    with contextlib.ExitStack() as stack:
        stack.enter_context(entra.serve())
        page = stack.enter_context(serve(_create_site(settings))).url
        entra.add_redirect_uri("api", f"{page}/consented")
        api = stack.enter_context(serve(create_api(entra, page))).url
        settings |= {
            "authority": f"{entra.authority}/{entra.tenant_id}",
            "clientId": entra.client_id("spa"),
            "apiClientId": entra.client_id("api"),
            "api": api,
        }
        yield SpaWorld(entra, page, api)


def create_api(
    entra: FakeEntra, page: str, *, exposed: Sequence[str] = EXPOSED, cors_inside: bool = False
) -> Starlette:
    """Return the web API, which asks a partner's API for the user's projects.

    Args:
        entra: the sign-in service, which is being served.
        page: the origin whose scripts may call.
        exposed: the headers of answers that those scripts may read.
        cors_inside: put the two middlewares in the wrong order.
    """
    partner = _create_partner(entra, entra.add_api(PARTNER, scopes=["read"]))
    obo = OnBehalfOf(
        entra.registration(consent_redirect_uri=f"{page}/consented"),
        downstream={"partner": DownstreamAPI(base_url=_PARTNER_URL, scopes=[f"{PARTNER}/read"])},
        http_client=entra.client(apps={_PARTNER_URL: partner}),
    )
    ours = Middleware(OnBehalfOfMiddleware, obo=obo)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=[page],
        allow_headers=["Authorization", "Cache-Control"],
        expose_headers=exposed,
    )
    middlewares = [ours, cors] if cors_inside else [cors, ours]  # from the outside in
    return Starlette(routes=[Route("/projects", _projects)], middleware=middlewares)


async def _projects(request: Request) -> Response:
    response = await downstream_from(request.scope)["partner"].get("projects")
    response.raise_for_status()
    return JSONResponse(response.json())


def _create_partner(entra: FakeEntra, registration: AppRegistration) -> ASGIApp:
    """Return the partner's API, which tells the projects of the user in the token."""

    async def projects(request: Request) -> Response:
        return JSONResponse({"owner": request.user.display_name, "projects": ["Apollo", "Aurora"]})

    obo = OnBehalfOf(registration, required_scopes=["read"], http_client=entra.client())
    return OnBehalfOfMiddleware(Starlette(routes=[Route("/projects", projects)]), obo)


def _create_site(settings: dict[str, str]) -> Starlette:
    """Return the server of the page: static files, MSAL, and where everything is."""
    lib = installed(_PACKAGE, _LIB)
    files = {
        "/": _STATIC / "index.html",
        "/consented": _STATIC / "index.html",
        "/bridge": _STATIC / "bridge.html",
        **{f"/{name}": _STATIC / name for name in ("spa.css", "spa.js", "bridge.js")},
        **{f"/{Path(name).name}": lib / name for name in (_BUNDLE, _BRIDGE)},
    }

    async def serve_file(request: Request) -> Response:
        return FileResponse(files[request.url.path])

    async def tell_settings(request: Request) -> Response:
        return JSONResponse(settings)

    routes = [Route(path, serve_file) for path in files]
    return Starlette(routes=[*routes, Route("/settings.json", tell_settings)])
