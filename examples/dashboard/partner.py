"""A partner's API: data and settings of the user, for those whose token is made for it."""

from __future__ import annotations

from typing import Final

from obo_asgi import AppRegistration, OnBehalfOf, OnBehalfOfMiddleware, downstream_from

from .asgi import ASGIApp, Response, Scope, json_response, router

_PROJECTS: Final = {
    "Alice": ["Apollo", "Aurora", "Atlas"],
    "Bob": ["Borealis", "Beacon"],
}
_SETTINGS: Final = {
    "Alice": {"language": "English", "theme": "Light", "notifications": "Daily"},
    "Bob": {"language": "Deutsch", "theme": "Dark", "notifications": "Never"},
}


def create_app(registration: AppRegistration) -> ASGIApp:
    """Return the API, which demands the scope ``read``."""
    obo = OnBehalfOf(registration, required_scopes=["read"])
    return OnBehalfOfMiddleware(router({"/api/data": data, "/api/settings": settings}), obo)


async def data(scope: Scope) -> Response:
    """Answer with the projects of the user in the token."""
    user = downstream_from(scope).user
    return json_response(
        {
            "owner": user.display_name,
            "projects": _PROJECTS.get(user.display_name, []),
            "token_audience": user.claims["aud"],
            "token_scopes": user.claims["scp"],
        }
    )


async def settings(scope: Scope) -> Response:
    """Answer with the settings of the user in the token."""
    user = downstream_from(scope).user
    return json_response(
        {
            "owner": user.display_name,
            "values": _SETTINGS.get(user.display_name, {}),
            "token_audience": user.claims["aud"],
            "token_scopes": user.claims["scp"],
        }
    )
