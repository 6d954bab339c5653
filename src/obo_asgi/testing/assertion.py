"""The check of an assertion, as Entra makes it before it acts on behalf of a user."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import jwt

from .aadsts import EntraError
from .directory import App, User
from .grants import SignIn
from .world import World

_SKEW: Final = 300


def check_assertion(world: World, assertion: str, client: App, tenant_id: str) -> SignIn:
    """Return the sign-in that an access token for a client stands for.

    Raises:
        EntraError: it is no valid access token of a user of that tenant, made for the client.
    """
    claims = _verify_signature(world, assertion)
    tid = claims.get("tid")
    if claims.get("iss") != world.issuer(str(tid), str(claims.get("ver"))):
        raise EntraError(50013, text="Assertion failed signature validation: unknown issuer.")
    _check_times(claims)
    if claims.get("aud") not in client.audiences:
        raise EntraError(500131)
    if claims.get("idtyp") == "app" or ("roles" in claims and "scp" not in claims):
        raise EntraError(7000114)
    if "scp" not in claims:
        raise EntraError(240002)
    if tid != tenant_id:
        raise EntraError(50020)
    sign_in = _sign_in(world, claims)
    if world.sessions.is_revoked(sign_in.user, sign_in.session_id):
        raise EntraError(50173)
    return sign_in


def peek_user(world: World, assertion: str) -> User | None:
    """Return the user whom an assertion names, whether it is valid or not."""
    try:
        claims = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
    return world.directory.user_by_oid(claims.get("tid"), claims.get("oid"))


def _verify_signature(world: World, assertion: str) -> dict[str, Any]:
    try:
        header = jwt.get_unverified_header(assertion)
        unverified = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        raise EntraError(50027) from None
    key = world.keys.find(header.get("kid"))
    if key is None or key.tenant_id not in (None, unverified.get("tid")):
        raise EntraError(50013, text="Assertion failed signature validation: key was not found.")
    try:
        return jwt.decode(
            assertion,
            key.private_key.public_key(),
            algorithms=["RS256"],
            options={
                "verify_aud": False,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except jwt.InvalidTokenError:
        raise EntraError(50013) from None


def _check_times(claims: Mapping[str, Any]) -> None:
    now = time.time()
    try:
        valid = float(claims["nbf"]) - _SKEW <= now < float(claims["exp"])
    except (KeyError, TypeError, ValueError):
        raise EntraError(50027) from None
    if not valid:
        raise EntraError(500133)


def _sign_in(world: World, claims: Mapping[str, Any]) -> SignIn:
    """Rebuild the sign-in; a person outside the directory is known by the object id."""
    tid, oid = str(claims["tid"]), str(claims.get("oid"))
    user = world.directory.user_by_oid(tid, oid)
    if user is None:
        user = User(oid, oid, tid, str(claims.get("name", oid)))
    methods = claims.get("amr")
    amr = tuple(map(str, methods)) if isinstance(methods, list) else ()
    return SignIn(user, claims.get("sid"), amr)
