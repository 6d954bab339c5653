"""The discovery documents: OpenID metadata (v1, v2, for all tenants) and instance discovery."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from .cloud import TENANT
from .world import World


def openid_metadata(world: World, tenant: str, version: str) -> dict[str, Any]:
    """Return the metadata of a tenant, or of ``common`` with the issuer as a template."""
    base = f"{world.authority}/{tenant}"
    issuer_tenant = tenant if world.directory.has_tenant(tenant) else TENANT
    oauth2, keys = ("oauth2", "") if version == "1.0" else ("oauth2/v2.0", "v2.0/")
    return {
        "token_endpoint": f"{base}/{oauth2}/token",
        "token_endpoint_auth_methods_supported": [
            "client_secret_post",
            "private_key_jwt",
            "client_secret_basic",
        ],
        "jwks_uri": f"{base}/discovery/{keys}keys",
        "response_modes_supported": ["query", "fragment"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": world.issuer(issuer_tenant, version),
        "request_uri_parameter_supported": False,
        "authorization_endpoint": f"{base}/{oauth2}/authorize",
        "http_logout_supported": True,
        "frontchannel_logout_supported": True,
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "name", "tid", "ver", "nonce"],
        "tenant_region_scope": None,
        "cloud_instance_name": world.cloud.name,
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
        "rbac_url": "https://pas.windows.net",
    }


def instance_discovery(world: World, authorization_endpoint: str) -> dict[str, Any]:
    """Return which hosts belong to this cloud, and where the asked tenant's metadata is."""
    host = urlsplit(world.authority).netloc
    tenant = urlsplit(authorization_endpoint).path.strip("/").split("/")[0] or "common"
    return {
        "tenant_discovery_endpoint": (
            f"{world.authority}/{tenant}/v2.0/.well-known/openid-configuration"
        ),
        "api-version": "1.1",
        "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
    }
