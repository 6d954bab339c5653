"""A FastAPI app that calls an API as its own caller: uvicorn examples.fastapi_app:app."""

import os
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI

from obo_asgi import AppRegistration, ClientSecret, DownstreamAPI, OnBehalfOf
from obo_asgi_fastapi import CurrentDownstream, CurrentUser, protect, requires

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/orders")
async def orders(downstream: CurrentDownstream) -> dict[str, Any]:
    """Return the orders that the partner's API holds for the caller."""
    return await downstream["partner"].get("orders", into=dict[str, Any])


@router.delete("/orders/{number}", dependencies=[requires("orders.write")])
async def cancel(number: int, user: CurrentUser) -> dict[str, Any]:
    """Cancel an order, which takes a scope of its own."""
    return {"cancelled": number, "by": user.display_name}


def create_app(
    obo: OnBehalfOf, *, swagger_client_id: str | None = None, public_paths: Iterable[str] = ()
) -> FastAPI:
    app = FastAPI(title="Orders")
    app.include_router(router)
    paths = ["/health", *public_paths]
    protect(app, obo, swagger_client_id=swagger_client_id, public_paths=paths)
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


app = create_app(obo_from_env(), swagger_client_id=os.environ.get("SWAGGER_CLIENT_ID"))
