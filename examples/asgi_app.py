"""A plain ASGI app that calls an API as its own caller: uvicorn examples.asgi_app:app."""

import json
import os
from typing import Any

from obo_asgi import (
    AccessRule,
    AppRegistration,
    ClientSecret,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)


async def orders_api(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    status, answer = 200, dict[str, Any]()
    match scope["method"], scope["path"].split("/"):
        case "GET", ["", "health"]:
            answer = {"status": "ok"}
        case "GET", ["", "orders"]:
            answer = await downstream_from(scope)["partner"].get("orders", into=dict[str, Any])
        case "DELETE", ["", "orders", number]:
            AccessRule("orders.write").check(scope)
            answer = {"cancelled": int(number), "by": scope["user"].display_name}
        case _:
            status = 404
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def create_app(obo: OnBehalfOf) -> OnBehalfOfMiddleware:
    return OnBehalfOfMiddleware(orders_api, obo, public_paths=["/health"])


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
