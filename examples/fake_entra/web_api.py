"""A web API that trusts the pretend Entra ID of users.toml, and gets a token for its partner."""

from __future__ import annotations

from typing import Any

from obo_asgi import (
    AppRegistration,
    ClientSecret,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
)

AUTHORITY = "https://fake-entra:8443"

obo = OnBehalfOf(
    AppRegistration(
        tenant_id="b0c1f6a2-6f0e-4c53-9a57-3d5b7a1e4c10",
        client_id="5f1d7c1e-2f0b-4f5e-8a35-0a6d1a1f0b01",
        client_credential=ClientSecret("a-secret-for-development"),
        audiences=["5f1d7c1e-2f0b-4f5e-8a35-0a6d1a1f0b01", "api://web-api"],
        authority=AUTHORITY,
        issuer=f"{AUTHORITY}/{{tenantid}}/v2.0",
    ),
    downstream={"partner": DownstreamAPI(scopes=["api://partner/read"])},
    required_scopes=["access_as_user"],
)


async def whoami(scope: Any, receive: Any, send: Any) -> None:
    """Say who calls, once there is a token for the partner."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    downstream = downstream_from(scope)
    await downstream["partner"].acquire_token()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send(
        {"type": "http.response.body", "body": f"Hello, {scope['user'].display_name}.".encode()}
    )


app = OnBehalfOfMiddleware(whoami, obo)
