"""The sign-in service as an ASGI app: which request goes where."""

from __future__ import annotations

import asyncio
import re
from typing import Final, NamedTuple

from .._types import Receive, Scope, Send
from ._asgi import Request, Response, json_response, serve_requests
from .aadsts import EntraError
from .metadata import instance_discovery, openid_metadata
from .sign_in import SignInPages
from .token_endpoint import TokenEndpoint
from .world import World

_ROUTES: Final = (
    ("instance", "metadata", re.compile(r"/common/discovery/instance")),
    ("metadata_v2", "metadata", re.compile(r"/([^/]+)/v2\.0/\.well-known/openid-configuration")),
    ("metadata_v1", "metadata", re.compile(r"/([^/]+)/\.well-known/openid-configuration")),
    ("keys_v2", "keys", re.compile(r"/([^/]+)/discovery/v2\.0/keys")),
    ("keys_v1", "keys", re.compile(r"/([^/]+)/discovery/keys")),
    ("token", "token", re.compile(r"/([^/]+)/oauth2/v2\.0/token")),
    ("authorize", "authorize", re.compile(r"/([^/]+)/oauth2/v2\.0/authorize")),
)
_METHODS: Final = {"token": ("POST",), "authorize": ("GET", "POST")}
_ALIASES: Final = ("common", "organizations")
_V1: Final = ("metadata_v1", "keys_v1")
_CORS: Final = {"access-control-allow-origin": "*"}
_PREFLIGHT: Final = {
    "access-control-allow-methods": "GET, POST, OPTIONS",
    "access-control-max-age": "600",
}


class _Route(NamedTuple):
    name: str
    endpoint: str
    tenant: str


class EntraApp:
    """The ASGI app over a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._token = TokenEndpoint(world)
        self._sign_in = SignInPages(world)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve_requests(scope, receive, send, self._respond)

    def refuses(self, path: str) -> bool:
        """Tell, and count, whether a connection for that path fails because of an outage."""
        route = _find_route(path)
        with self._world.lock:
            is_down = self._world.faults.is_down(route.endpoint if route else "")
            if is_down:
                self._world.ledger.counts["refused"] += 1
        return is_down

    async def _respond(self, request: Request) -> Response:
        route = _find_route(request.path)
        if self.refuses(request.path):
            return Response(503, b"Service Unavailable", {"content-type": "text/plain"})
        if self._world.faults.latency:
            await asyncio.sleep(self._world.faults.latency)
        if route is None or (self._world.cloud.is_external and route.name in _V1):
            return Response(404, b"Not Found", {"content-type": "text/plain"})
        cors = {} if route.name == "authorize" else _CORS
        if request.method == "OPTIONS" and cors:
            asked = request.headers.get("access-control-request-headers", "*")
            return Response(
                200, headers=cors | _PREFLIGHT | {"access-control-allow-headers": asked}
            )
        methods = _METHODS.get(route.name, ("GET",))
        if request.method not in methods:
            return Response(405, headers={"allow": ", ".join(methods)})
        with self._world.lock:
            return self._dispatch(request, route).with_headers(cors)

    def _dispatch(self, request: Request, route: _Route) -> Response:
        try:
            if route.name == "token":
                return self._token.handle(request, route.tenant)
            if route.name == "authorize":
                return self._sign_in.handle(request, route.tenant)
            return self._document(request, route)
        except EntraError as error:
            correlation_id = request.headers.get("client-request-id")
            return error.response(self._world.authority, correlation_id)

    def _document(self, request: Request, route: _Route) -> Response:
        world = self._world
        world.ledger.counts[route.endpoint] += 1
        if route.name == "instance":
            endpoint = request.query.get("authorization_endpoint", "")
            return json_response(instance_discovery(world, endpoint))
        if route.tenant not in _ALIASES and not world.directory.has_tenant(route.tenant):
            raise EntraError(90002, text=f"Tenant '{route.tenant}' not found.")
        if route.endpoint == "keys":
            return json_response(
                world.keys.document(world.cloud if route.name == "keys_v2" else None)
            )
        version = "2.0" if route.name == "metadata_v2" else "1.0"
        return json_response(openid_metadata(world, route.tenant, version))


def _find_route(path: str) -> _Route | None:
    for name, endpoint, pattern in _ROUTES:
        if match := pattern.fullmatch(path):
            return _Route(name, endpoint, "".join(match.groups()).lower())
    return None
