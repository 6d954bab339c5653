"""A user's token for a client of one's own: ``httpx.AsyncClient(auth=…)``, and httpx2's."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

from .._http import MARK
from .._telemetry import called_api, trace_headers
from ..config import DownstreamAPI
from ._caller import Caller
from ._demands import drop_refused, find_demand, meet_claims
from ._requests import check_destination, is_repeatable

__all__ = ["create_auth"]

_LIBRARIES = ("httpx", "httpx2")


class _AuthFlow:
    """Signs requests to one API, and meets its claims challenge once."""

    requires_request_body = False
    requires_response_body = False

    def __init__(self, caller: Caller, name: str, api: DownstreamAPI, base_url: str) -> None:
        self._caller = caller
        self._name = name
        self._api = api
        self._base_url = base_url

    def sync_auth_flow(self, request: Any) -> NoReturn:
        raise RuntimeError("the auth of a downstream API is for an AsyncClient")

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        check_destination(self._base_url, str(request.url))
        request.extensions[MARK] = self._name
        caller, api, scopes = self._caller, self._api, tuple(self._api.scopes)
        can_repeat = is_repeatable(request)
        called_api.set(self._name)
        for name, value in {**caller.trace.headers, **trace_headers()}.items():
            request.headers.setdefault(name, value)
        token = await caller.acquire_token(api, scopes)
        request.headers["Authorization"] = f"Bearer {token.token}"
        demand = find_demand((yield request), caller)
        if demand is None or not drop_refused(caller, api, scopes, token, demand) or not can_repeat:
            return
        token = await meet_claims(caller, api, scopes, demand)
        request.headers["Authorization"] = f"Bearer {token.token}"
        again = find_demand((yield request), caller)
        drop_refused(caller, api, scopes, token, again, claims=demand.claims_challenge)


def create_auth(caller: Caller, name: str, api: DownstreamAPI, base_url: str) -> Any:
    """Return an ``Auth`` for the clients of whichever of httpx and httpx2 is in use."""
    loaded = [sys.modules[library] for library in _LIBRARIES if library in sys.modules]
    bases = tuple(library.Auth for library in loaded)
    return _auth_class(bases)(caller, name, api, base_url)


@functools.cache
def _auth_class(bases: tuple[type, ...]) -> type[_AuthFlow]:
    """Make one class for both libraries: each takes only an instance of its own ``Auth``."""
    return type("DownstreamAuth", (_AuthFlow, *bases), {})
