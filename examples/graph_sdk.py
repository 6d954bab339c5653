"""The user's own profile from Microsoft Graph, by the Graph SDK as the user who asks."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urlsplit

import httpx
from msgraph.graph_request_adapter import GraphClientFactory, GraphRequestAdapter, options
from msgraph.graph_service_client import AzureIdentityAuthenticationProvider, GraphServiceClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from obo_asgi import AppRegistration, ClientSecret, DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi_azure import credential_from

GRAPH = DownstreamAPI(scopes=["https://graph.microsoft.com/User.Read"])


def create_app(obo: OnBehalfOf, url: str = "https://graph.microsoft.com/v1.0") -> Starlette:
    """Return the API."""
    connections = httpx.AsyncHTTPTransport()  # for all users; the SDK would not close its own
    client = httpx.AsyncClient(transport=connections)
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    client = GraphClientFactory.create_with_default_middleware(client=client, options=options)

    def graph_of(request: Request) -> GraphServiceClient:
        auth = AzureIdentityAuthenticationProvider(
            credential_from(request, "graph"), allowed_hosts=[urlsplit(url).hostname]
        )
        adapter = GraphRequestAdapter(auth, client)
        adapter.base_url = url
        return GraphServiceClient(request_adapter=adapter)

    async def me(request: Request) -> Response:
        user = await graph_of(request).me.get()
        return JSONResponse({"name": user.display_name, "mail": user.mail})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with connections:
            yield

    app = Starlette(routes=[Route("/me", me)], lifespan=lifespan)
    app.add_middleware(OnBehalfOfMiddleware, obo=obo)
    return app


NOBODY = "00000000-0000-0000-0000-000000000000"
env = {"TENANT_ID": NOBODY, "CLIENT_ID": NOBODY, "CLIENT_SECRET": "none", **os.environ}
registration = AppRegistration(
    tenant_id=env["TENANT_ID"],
    client_id=env["CLIENT_ID"],
    client_credential=ClientSecret(env["CLIENT_SECRET"]),
)
obo = OnBehalfOf(registration, downstream={"graph": GRAPH})
app = create_app(obo)
