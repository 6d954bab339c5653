"""The endpoints from which Azure hosts get tokens of managed identities.

Those of virtual machines (IMDS) and of App Service, in the forms of Microsoft's documentation "How
to use managed identities on an Azure VM" and "… for App Service and Azure Functions".
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any, Final

from .._types import Receive, Scope, Send
from ._asgi import Request, Response, json_response, serve_requests
from .credentials import TOKEN_EXCHANGE
from .directory import ManagedIdentity
from .mint import identity_claims, sign
from .world import World

IMDS_ORIGIN: Final = "http://169.254.169.254"
"""Where virtual machines find the endpoint."""

_IMDS: Final = "/metadata/identity/oauth2/token"
_APP_SERVICE: Final = "/msi/token"
_VERSIONS: Final = {_IMDS: "2018-02-01", _APP_SERVICE: "2019-08-01"}
_RESOURCES: Final = (TOKEN_EXCHANGE, f"{TOKEN_EXCHANGE}USGov", f"{TOKEN_EXCHANGE}China")


class _Refusal(Exception):
    """The answer to a request that is refused."""

    def __init__(self, error: str, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.error = error
        self.text = text
        self.status = status

    def response(self, path: str) -> Response:
        body: dict[str, object] = {"error": self.error, "error_description": self.text}
        if path == _APP_SERVICE:
            body = {"statusCode": self.status, "message": self.text}
        return json_response(body, status=self.status)


class ManagedIdentityEndpoint:
    """An ASGI app that hands out tokens of the identities of a directory."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.header = secrets.token_hex(16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve_requests(scope, receive, send, self._respond)

    def refuses(self, path: str) -> bool:
        """Tell, and count, whether a connection fails because of an outage."""
        with self._world.lock:
            is_down = self._world.faults.is_down("managed_identity")
            if is_down:
                self._world.ledger.counts["refused"] += 1
        return is_down

    async def _respond(self, request: Request) -> Response:
        if self.refuses(request.path):
            return Response(503, b"Service Unavailable", {"content-type": "text/plain"})
        if self._world.faults.latency:
            await asyncio.sleep(self._world.faults.latency)
        if request.path not in _VERSIONS:
            return Response(404, b"Not Found", {"content-type": "text/plain"})
        if request.method != "GET":
            return Response(405, headers={"allow": "GET"})
        with self._world.lock:
            self._world.ledger.counts["managed_identity"] += 1
            try:
                self._check_request(request)
                return json_response(self._token(request))
            except _Refusal as refusal:
                return refusal.response(request.path)

    def _check_request(self, request: Request) -> None:
        if request.path == _APP_SERVICE:
            sent = request.headers.get("x-identity-header", "")
            if not secrets.compare_digest(sent.encode(), self.header.encode()):
                raise _Refusal("unauthorized", "X-IDENTITY-HEADER is missing or wrong", 401)
        elif request.headers.get("metadata", "").lower() != "true":
            raise _Refusal("invalid_request", "Required metadata header not specified")
        if request.query.get("api-version") != _VERSIONS[request.path]:
            raise _Refusal("invalid_request", "The api-version is missing or not supported")

    def _token(self, request: Request) -> dict[str, Any]:
        world = self._world
        asked = request.query.get("resource", "")
        resource = world.directory.find_app(asked)
        if resource is None and asked not in _RESOURCES:
            text = f"AADSTS500011: The resource principal named {asked} was not found in the tenant"
            raise _Refusal("invalid_resource", text)
        identity = self._identity(request.query)
        audience = asked if resource is None else resource.audience("2.0")
        claims = identity_claims(world, identity, audience)
        answer = {
            "access_token": sign(claims, world.keys.current),
            "client_id": identity.client_id,
            "expires_on": str(claims["exp"]),
            "resource": asked,
            "token_type": "Bearer",
        }
        if request.path == _APP_SERVICE:
            return answer
        expires_in = str(int(claims["exp"] - time.time()))
        return answer | {"expires_in": expires_in, "not_before": str(claims["nbf"])}

    def _identity(self, query: dict[str, str]) -> ManagedIdentity:
        identity = self._world.directory.find_identity(
            client_id=query.get("client_id"),
            object_id=query.get("object_id") or query.get("principal_id"),
            resource_id=query.get("msi_res_id") or query.get("mi_res_id"),
        )
        if identity is None:
            raise _Refusal("invalid_request", "Identity not found")
        return identity
