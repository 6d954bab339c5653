"""A Graph-like API: who the user is, for those whose token is made for Microsoft Graph."""

from __future__ import annotations

from obo_asgi import AppRegistration, OnBehalfOf, OnBehalfOfMiddleware, downstream_from

from .asgi import ASGIApp, Response, Scope, json_response, router


def create_app(registration: AppRegistration) -> ASGIApp:
    """Return the API.

    Args:
        registration: whose audience is ``https://graph.microsoft.com``.
    """
    obo = OnBehalfOf(registration, required_scopes=["User.Read"])
    return OnBehalfOfMiddleware(router({"/v1.0/me": me}), obo)


async def me(scope: Scope) -> Response:
    """Answer with the profile of the user in the token."""
    user = downstream_from(scope).user
    return json_response(
        {
            "id": user.oid,
            "displayName": user.display_name,
            "userPrincipalName": user.claims["upn"],
            "tokenAudience": user.claims["aud"],
            "tokenScopes": user.claims["scp"],
        }
    )
