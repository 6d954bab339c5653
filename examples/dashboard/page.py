"""The pages that a person opens: static files, and what they have to know to sign in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from .asgi import Handler, Response, Scope, json_response

CONSENTED: Final = "/consented"
"""Where the browser goes after the person has consented for the web API."""

_STATIC: Final = Path(__file__).parent / "static"
_PAGES: Final = {"/": "page.html", CONSENTED: "consented.html"}
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
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
    """Return the pages' routes, all of them public: they hold no data of any user."""

    async def config(scope: Scope) -> Response:
        return json_response(asdict(sign_in))

    pages = {path: _file(_STATIC / name) for path, name in _PAGES.items()}
    parts = {
        f"/{file.name}": _file(file) for file in _STATIC.iterdir() if file.suffix in (".css", ".js")
    }
    return {**pages, **parts, "/config.json": config}


def _file(file: Path) -> Handler:
    content_type = f"{_TYPES[file.suffix]}; charset=utf-8"
    response = Response(file.read_bytes(), content_type, 200, _HEADERS)

    async def handler(scope: Scope) -> Response:
        return response

    return handler
