"""The partner's API: data to be processed, for those whose token is made for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from obo_asgi import OnBehalfOf, OnBehalfOfMiddleware

_ITEMS: Final = ["Apollo", "Aurora", "Atlas"]


@dataclass(frozen=True)
class Call:
    """Who called, when, and with which token."""

    path: str
    oid: str
    name: str
    at: float
    token_id: str
    token_ends_at: float


def create_app(obo: OnBehalfOf, calls: list[Call]) -> Starlette:
    """Return the API.

    Args:
        obo: verifies the callers.
        calls: where it is written down who called.
    """

    async def data(request: Request) -> Response:
        return JSONResponse({"owner": write_down(request), "items": _ITEMS})

    async def complete(request: Request) -> Response:
        items = (await request.json())["items"]
        return JSONResponse({"owner": write_down(request), "completed": len(items)})

    def write_down(request: Request) -> str:
        user, path = request.user, request.url.path
        token_id = user.claims["uti"]
        call = Call(path, user.oid, user.display_name, time.time(), token_id, user.expires_at)
        calls.append(call)
        return call.name

    app = Starlette(
        routes=[
            Route("/api/process/data", data),
            Route("/api/process/complete", complete, methods=["POST"]),
        ]
    )
    app.add_middleware(OnBehalfOfMiddleware, obo=obo)
    return app
