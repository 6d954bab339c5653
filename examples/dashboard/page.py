"""The page that a person opens: static files, and what they have to know to sign in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from .asgi import Handler, Response, Scope, json_response

_FILES: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class SignIn:
    """What a public client has to know to sign a person in."""

    authorize_url: str
    token_url: str
    client_id: str
    scope: str


def routes(sign_in: SignIn) -> dict[str, Handler]:
    """Return the page's routes, all of them public: they hold no data of any user."""

    async def config(scope: Scope) -> Response:
        return json_response(asdict(sign_in))

    files = {path: _file(name, content_type) for path, (name, content_type) in _FILES.items()}
    return {**files, "/config.json": config}


def _file(name: str, content_type: str) -> Handler:
    response = Response((Path(__file__).parent / name).read_bytes(), content_type, 200, _HEADERS)

    async def handler(scope: Scope) -> Response:
        return response

    return handler
