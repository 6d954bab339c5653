"""The tokens that the service signs."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .directory import App, ManagedIdentity, User
from .grants import SignIn
from .keys import SigningKey, encode_base64url, encode_jws
from .world import World


def access_claims(
    world: World,
    sign_in: SignIn,
    client: App,
    resource: App,
    scopes: Sequence[str],
    *,
    version: str | None = None,
    lifetime: int | None = None,
) -> dict[str, Any]:
    """Return the claims of an access token with which a client acts for a user."""
    user = sign_in.user
    version = world.cloud.token_version(version or resource.version)
    claims = _common(world, user.tenant_id, client, resource, version, lifetime)
    named = {"unique_name": user.username, "upn": user.username}
    return claims | {
        "amr": list(sign_in.methods),
        "name": user.display_name,
        "oid": user.oid,
        "scp": " ".join(scopes),
        "sid": sign_in.session_id,
        "sub": _pairwise(user, resource),
        **(named if version == "1.0" else {"preferred_username": user.username}),
    }


def app_claims(
    world: World,
    tenant_id: str,
    client: App,
    resource: App,
    *,
    version: str | None = None,
    lifetime: int | None = None,
) -> dict[str, Any]:
    """Return the claims of an access token with which a client acts for itself."""
    version = world.cloud.token_version(version or resource.version)
    principal_id = client.principal_id(tenant_id)
    claims = _common(world, tenant_id, client, resource, version, lifetime)
    claims |= {"idtyp": "app", "oid": principal_id, "sub": principal_id}
    return claims | ({"roles": list(resource.roles)} if resource.roles else {})


def identity_claims(world: World, identity: ManagedIdentity, audience: str) -> dict[str, Any]:
    """Return the claims of an access token of a managed identity of the default tenant."""
    tenant_id, now = world.directory.tenant_id, int(time.time())
    return {
        "aud": audience,
        "iss": world.issuer(tenant_id, "2.0"),
        "iat": now,
        "nbf": now,
        "exp": now + world.token_lifetime,
        "azp": identity.client_id,
        "azpacr": "2",
        "idtyp": "app",
        "oid": identity.object_id,
        "sub": identity.object_id,
        "tid": tenant_id,
        "uti": encode_base64url(secrets.token_bytes(16)),
        "ver": "2.0",
        "xms_mirid": identity.resource_id,
    }


def id_claims(world: World, sign_in: SignIn, client: App, nonce: str | None) -> dict[str, Any]:
    """Return the claims of an ID token."""
    user, now = sign_in.user, int(time.time())
    claims = {
        "aud": client.client_id,
        "iss": world.issuer(user.tenant_id, "2.0"),
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "name": user.display_name,
        "oid": user.oid,
        "preferred_username": user.username,
        "rh": f"1.{encode_base64url(secrets.token_bytes(24))}.",
        "sid": sign_in.session_id,
        "sub": _pairwise(user, client),
        "tid": user.tenant_id,
        "uti": encode_base64url(secrets.token_bytes(16)),
        "ver": "2.0",
    }
    return claims if nonce is None else claims | {"nonce": nonce}


def sign(claims: Mapping[str, Any], key: SigningKey) -> str:
    """Sign claims as a token of the service."""
    header = {"typ": "JWT", "alg": "RS256", "kid": key.kid}
    if claims.get("ver") == "1.0":
        header["x5t"] = key.kid
    return encode_jws(header, claims, key.private_key)


def _common(
    world: World, tenant_id: str, client: App, resource: App, version: str, lifetime: int | None
) -> dict[str, Any]:
    now = int(time.time())
    party, how = ("appid", "appidacr") if version == "1.0" else ("azp", "azpacr")
    return {
        "aud": resource.audience(version),
        "iss": world.issuer(tenant_id, version),
        "iat": now,
        "nbf": now,
        "exp": now + (world.token_lifetime if lifetime is None else lifetime),
        "aio": encode_base64url(secrets.token_bytes(32)),
        party: client.client_id,
        how: "0" if client.public else "1",
        "rh": f"1.{encode_base64url(secrets.token_bytes(24))}.",
        "tid": tenant_id,
        "uti": encode_base64url(secrets.token_bytes(16)),
        "ver": version,
    }


def _pairwise(user: User, app: App) -> str:
    """Return the user's ``sub``, which differs from app to app."""
    digest = hashlib.sha256(f"{user.tenant_id}/{user.oid}/{app.client_id}".encode()).digest()
    return encode_base64url(digest)
