"""Files of Azure Storage, listed and read as the user who asks: their own roles decide."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob.aio import ContainerClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from obo_asgi import AppRegistration, ClientSecret, DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi_azure import credential_from

STORAGE = DownstreamAPI(scopes=["https://storage.azure.com/user_impersonation"])


def create_app(obo: OnBehalfOf, container_url: str, **options: Any) -> Starlette:
    """Return the API; the options are those of the connections to the storage account."""
    connections = AioHttpTransport(**options)  # for all users; it keeps no cookies

    def files_of(request: Request) -> ContainerClient:
        """Return a client of its own, because it keeps the token of its user."""
        user = credential_from(request, "storage")
        return ContainerClient.from_container_url(container_url, user, transport=connections)

    async def list_files(request: Request) -> Response:
        return JSONResponse([name async for name in files_of(request).list_blob_names()])

    async def read_file(request: Request) -> Response:
        try:
            download = await files_of(request).download_blob(request.path_params["name"])
        except ResourceNotFoundError:
            return Response(status_code=404)
        return Response(await download.readall())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with connections:
            yield

    routes = [Route("/files", list_files), Route("/files/{name:path}", read_file)]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(OnBehalfOfMiddleware, obo=obo)
    return app


NOBODY = "00000000-0000-0000-0000-000000000000"
env = {"TENANT_ID": NOBODY, "CLIENT_ID": NOBODY, "CLIENT_SECRET": "none", **os.environ}
registration = AppRegistration(
    tenant_id=env["TENANT_ID"],
    client_id=env["CLIENT_ID"],
    client_credential=ClientSecret(env["CLIENT_SECRET"]),
)
obo = OnBehalfOf(registration, downstream={"storage": STORAGE})
app = create_app(obo, env.get("CONTAINER_URL", "https://account.blob.core.windows.net/files"))
