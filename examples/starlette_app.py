"""A Starlette app that calls an API as its own caller: uvicorn examples.starlette_app:app."""

import os
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from obo_asgi import AppRegistration, ClientSecret, DownstreamAPI, OnBehalfOf
from obo_asgi_starlette import OnBehalfOfMiddleware, downstream_from, requires


async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def orders(request: Request) -> Response:
    downstream = downstream_from(request)
    return JSONResponse(await downstream["partner"].get("orders", into=dict[str, Any]))


@requires("orders.write")
async def cancel(request: Request) -> Response:
    number = request.path_params["number"]
    return JSONResponse({"cancelled": number, "by": request.user.display_name})


def create_app(obo: OnBehalfOf) -> Starlette:
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/orders", orders),
            Route("/orders/{number:int}", cancel, methods=["DELETE"]),
        ]
    )
    app.add_middleware(OnBehalfOfMiddleware, obo=obo, public_paths=["/health"])
    return app


def obo_from_env() -> OnBehalfOf:
    """Configure by the environment; the defaults only let the module be imported."""
    env, nobody = os.environ.get, "00000000-0000-4000-8000-000000000000"
    registration = AppRegistration(
        tenant_id=env("TENANT_ID", nobody),
        client_id=env("CLIENT_ID", nobody),
        client_credential=ClientSecret(env("CLIENT_SECRET", "unset")),
    )
    url = env("PARTNER_URL", "https://partner.example.com")
    partner = DownstreamAPI(base_url=url, scopes=["api://partner/read"])
    return OnBehalfOf(
        registration, downstream={"partner": partner}, required_scopes=["access_as_user"]
    )


app = create_app(obo_from_env())
