"""Blob storage, Microsoft Graph and Key Vault, each faked on a socket with TLS."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from obo_asgi import AppRegistration, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi.challenges import encode_claims
from obo_asgi.testing import FakeEntra
from obo_asgi.testing.server import Server, serve

STORAGE = "https://storage.azure.com"
GRAPH = "https://graph.microsoft.com"
VAULT = "https://vault.azure.net"
CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}'

# Its own code defines and uses what it deprecates, at the first import of each module.
GRAPH_SDK_IS_QUIET = pytest.mark.filterwarnings(
    "ignore:GetQueryParameters is deprecated:DeprecationWarning",
    "ignore:This class is deprecated. Please use the generic:DeprecationWarning",
)


@dataclass
class Service:
    """A service of Azure: who called it, and which challenges it sends."""

    registration: AppRegistration
    routes: list[Route]
    url: str = ""
    callers: list[str] = field(default_factory=list)
    """The names of the users that it let in, in order."""
    cookies: list[str] = field(default_factory=list)
    """The names of the cookies that came."""
    tokens: list[str] = field(default_factory=list)
    """The ``Authorization`` headers that came, in order."""
    challenge: str | None = None
    """What is sent in place of an answer to whoever comes without a token."""
    demands_claims: bool = False
    """Whether the first token that comes is refused by a claims challenge."""
    claims_challenge: str = f'Bearer error="insufficient_claims", claims="{encode_claims(CLAIMS)}"'
    roles: tuple[str, ...] | None = None
    _refused: str | None = None

    def app(self) -> ASGIApp:
        inner = Starlette(routes=self.routes)
        protected = OnBehalfOf(self.registration, app_roles=self.roles)
        outer = OnBehalfOfMiddleware(self._note_caller(inner), protected)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            answer = None
            if scope["type"] == "http":
                answer = self._refusal(Request(scope).headers.get("authorization"))
            await (answer or outer)(scope, receive, send)

        return app

    def _note_caller(self, app: ASGIApp) -> ASGIApp:
        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                self.callers.append(scope["user"].display_name)
                self.cookies.extend(Request(scope).cookies)
            await app(scope, receive, send)

        return noted

    def _refusal(self, authorization: str | None) -> Response | None:
        challenge = self.challenge if authorization is None else None
        if authorization is not None:
            self.tokens.append(authorization)
            if self.demands_claims and self._refused is None:
                self._refused = authorization
            if authorization == self._refused:
                challenge = self.claims_challenge
        if challenge is None:
            return None
        return Response(status_code=401, headers={"WWW-Authenticate": challenge})


def blob_service(entra: FakeEntra) -> Service:
    """Return a storage account with the container "files" and the file "hello.txt" in it."""

    async def list_blobs(request: Request) -> Response:
        found = "<Blob><Name>hello.txt</Name></Blob>"
        return Response(
            f"<EnumerationResults><Blobs>{found}</Blobs><NextMarker/></EnumerationResults>",
            media_type="application/xml",
        )

    async def download(request: Request) -> Response:
        if request.path_params["name"] != "hello.txt":
            return Response(status_code=404, headers={"x-ms-error-code": "BlobNotFound"})
        headers = {"Content-Range": "bytes 0-4/5", "ETag": '"1"', "x-ms-blob-type": "BlockBlob"}
        return Response(b"hello", status_code=206, headers=headers)

    registration = entra.add_api(STORAGE, scopes=["user_impersonation"])
    return Service(registration, [Route("/files", list_blobs), Route("/files/{name}", download)])


def graph_service(entra: FakeEntra) -> Service:
    """Return a Graph that knows who asks."""

    async def me(request: Request) -> Response:
        name = request.scope["user"].display_name
        profile = {"displayName": name, "mail": f"{name.lower()}@contoso.example"}
        return JSONResponse(profile, headers={"Set-Cookie": f"who={name}; Path=/"})

    return Service(entra.registration(GRAPH), [Route("/v1.0/me", me)])


class KeyVault(Service):
    """A vault with one certificate, "api"."""

    def __init__(self, entra: FakeEntra, value: bytes, content_type: str) -> None:
        registration = entra.add_api(VAULT, roles=["Secrets.Read"])
        super().__init__(registration, [Route("/secrets/api/", self._secret)])
        tenant = f"{entra.authority}/{entra.tenant_id}"
        self.challenge = f'Bearer authorization="{tenant}", resource="{VAULT}"'
        self.roles = ("Secrets.Read",)
        self.put(value, content_type)

    def put(self, value: bytes, content_type: str) -> None:
        """Rotate the certificate."""
        is_pem = content_type == "application/x-pem-file"
        text = value.decode() if is_pem else base64.b64encode(value).decode()
        self._bundle: dict[str, Any] = {"value": text, "contentType": content_type}

    async def _secret(self, request: Request) -> Response:
        return JSONResponse({"id": f"{self.url}/secrets/api/1", "attributes": {}, **self._bundle})


@contextmanager
def serving(service: Service) -> Iterator[Server]:
    """Serve a service while the block runs."""
    with serve(service.app()) as server:
        service.url = server.url
        yield server
