"""A partner's API: data and settings of the user, for those whose token is made for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from obo_asgi import AppRegistration, OnBehalfOf, OnBehalfOfMiddleware, downstream_from
from obo_asgi.challenges import bearer_challenge, encode_claims

from .asgi import ASGIApp, Handler, Response, Scope, json_response, router

_PROJECTS: Final = {
    "Alice": ["Apollo", "Aurora", "Atlas"],
    "Bob": ["Borealis", "Beacon"],
}
_SETTINGS: Final = {
    "Alice": {"language": "English", "theme": "Light", "notifications": "Daily"},
    "Bob": {"language": "Deutsch", "theme": "Dark", "notifications": "Never"},
}


def create_app(registration: AppRegistration, not_before: Mapping[str, int]) -> ASGIApp:
    """Return the API, which demands the scope ``read``.

    Args:
        registration: of this API.
        not_before: by object id, the second before which a user's tokens are refused although
            they have not expired: what the sign-in service tells of users that were revoked
            (continuous access evaluation). It is read anew for each request.
    """
    obo = OnBehalfOf(registration, required_scopes=["read"])
    sign_in_page = f"{registration.authority}/{registration.tenant_id}/oauth2/v2.0/authorize"
    routes = {"/api/data": data, "/api/settings": settings}
    checked = {
        path: _with_newer_tokens(handler, not_before, sign_in_page)
        for path, handler in routes.items()
    }
    return OnBehalfOfMiddleware(router(checked), obo)


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


def _with_newer_tokens(
    handler: Handler, not_before: Mapping[str, int], sign_in_page: str
) -> Handler:
    async def checked(scope: Scope) -> Response:
        user = downstream_from(scope).user
        moment = not_before.get(user.oid, 0)
        if user.claims["iat"] >= moment:
            return await handler(scope)
        claims = {"access_token": {"nbf": {"essential": True, "value": str(moment)}}}
        challenge = bearer_challenge(
            authorization_uri=sign_in_page,
            error="insufficient_claims",
            claims=encode_claims(json.dumps(claims, separators=(",", ":"))),
        )
        return Response(b"", status=401, headers={"WWW-Authenticate": challenge})

    return checked
