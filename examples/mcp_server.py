"""An MCP server whose tools call other APIs as the user of each HTTP request."""

import os
from typing import Any
from urllib.parse import urlsplit

from mcp.server.mcpserver import Context
from mcp.server.transport_security import TransportSecuritySettings

from examples.mcp_glue import Server, downstream_of, tell_owner
from obo_asgi import (
    AppRegistration,
    ClientSecret,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    ProtectedResource,
)


def create_app(obo: OnBehalfOf, resource: str, **options: Any) -> OnBehalfOfMiddleware:
    """Return the server; its answers are event streams, or JSON with ``json_response=True``."""
    server = Server("orders", log_level="WARNING")

    @server.tool()
    async def orders(ctx: Context[Any, Any]) -> dict[str, Any]:
        """List the user's orders."""
        return await downstream_of(ctx)["partner"].get("api/orders", into=dict[str, Any])

    @server.tool()
    async def profile(ctx: Context[Any, Any]) -> dict[str, Any]:
        """Tell who the user is."""
        return await downstream_of(ctx)["graph"].get("me", into=dict[str, Any])

    url = urlsplit(resource)  # the public name alone: against DNS rebinding
    security = TransportSecuritySettings(
        allowed_hosts=[url.netloc], allowed_origins=[f"{url.scheme}://{url.netloc}"]
    )
    app = server.streamable_http_app(
        streamable_http_path=url.path, transport_security=security, **options
    )
    described = ProtectedResource(resource=resource)
    return OnBehalfOfMiddleware(tell_owner(app), obo, acquire_first=["partner"], resource=described)


GRAPH, NOBODY = "https://graph.microsoft.com", "00000000-0000-0000-0000-000000000000"
env = {"TENANT_ID": NOBODY, "CLIENT_ID": NOBODY, "CLIENT_SECRET": "none", **os.environ}
secret = ClientSecret(env["CLIENT_SECRET"])
registration = AppRegistration(
    tenant_id=env["TENANT_ID"],
    client_id=env["CLIENT_ID"],
    client_credential=secret,
    consent_redirect_uri=env.get("CONSENT_REDIRECT_URI"),  # with it, failures name a consent_uri
)
partner = DownstreamAPI(base_url="https://partner.example.com", scopes=["api://partner-id/read"])
graph = DownstreamAPI(base_url=f"{GRAPH}/v1.0", scopes=[f"{GRAPH}/User.Read"])
apis = {"partner": partner, "graph": graph}
obo = OnBehalfOf(registration, downstream=apis, required_scopes=["access_as_user"])
app = create_app(obo, env.get("RESOURCE", "https://mcp.example.com/mcp"))
