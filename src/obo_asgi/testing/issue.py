"""The token endpoint's good answer: what a sign-in, or a client itself, is given."""

from __future__ import annotations

import json
from typing import Any, Final

from .aadsts import EntraError
from .claims_request import ClaimsRequest
from .directory import App, User
from .grants import RefreshToken, SignIn
from .keys import encode_base64url
from .mint import access_claims, app_claims, id_claims, sign
from .scopes import Asked
from .world import World

_LONG_LIVED: Final = 7200


def issue_for_user(
    world: World,
    sign_in: SignIn,
    client: App,
    asked: Asked,
    wanted: ClaimsRequest,
    *,
    client_info: bool = False,
    nonce: str | None = None,
    with_refresh_token: bool = False,
) -> dict[str, Any]:
    """Return the tokens with which a client acts for a user.

    Raises:
        EntraError: the user must first step up, or consent.
    """
    _check_step_up(world, sign_in, asked.resource, wanted)
    scopes = _granted(world, sign_in.user, client, asked)
    claims = access_claims(world, sign_in, client, asked.resource, scopes)
    answer = _answer(world, claims | wanted.token_claims(), asked.qualify(scopes))
    if with_refresh_token or "offline_access" in asked.openid:
        grant = RefreshToken(sign_in, client.client_id, " ".join([*asked.openid, *asked.text]))
        answer["refresh_token"] = world.grants.new_refresh_token(grant)
    if "openid" in asked.openid:
        answer["id_token"] = sign(id_claims(world, sign_in, client, nonce), world.keys.current)
    if client_info:
        ids = {"uid": sign_in.user.oid, "utid": sign_in.user.tenant_id}
        answer["client_info"] = encode_base64url(json.dumps(ids).encode())
    return answer


def issue_for_app(
    world: World, tenant_id: str, client: App, asked: Asked, wanted: ClaimsRequest
) -> dict[str, Any]:
    """Return the token with which a client acts for itself."""
    claims = app_claims(world, tenant_id, client, asked.resource) | wanted.token_claims()
    answer = _answer(world, claims, scope="")
    del answer["scope"]
    return answer


def _check_step_up(world: World, sign_in: SignIn, resource: App, wanted: ClaimsRequest) -> None:
    if "mfa" in sign_in.methods:
        return
    if wanted.step_up or world.step_up.demanded(sign_in.user, resource):
        raise EntraError(50076, claims=wanted.step_up_challenge)


def _granted(world: World, user: User, client: App, asked: Asked) -> tuple[str, ...]:
    consented = world.consents.granted(user, client, asked.resource)
    names = asked.names or consented
    if not names or not set(names) <= set(consented):
        raise EntraError(
            65001,
            text="The user or administrator has not consented to use the application with ID "
            f"'{client.client_id}' named '{client.name}'. Send an interactive authorization "
            "request for this user and resource.",
        )
    return names


def _answer(world: World, claims: dict[str, Any], scope: str) -> dict[str, Any]:
    lifetime = world.token_lifetime
    refresh_in = world.refresh_in
    if refresh_in is None and lifetime >= _LONG_LIVED:
        refresh_in = lifetime // 2
    answer = {
        "token_type": "Bearer",
        "scope": scope,
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "access_token": sign(claims, world.keys.current),
    }
    return answer if refresh_in is None else answer | {"refresh_in": refresh_in}
