"""How an API describes itself to clients that discover it (RFC 9728), as MCP clients do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ._urls import check_base_url
from .clouds import TENANT
from .config import AppRegistration, check_scopes

__all__ = ["ProtectedResource"]

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, kw_only=True)
class ProtectedResource:
    """The API as a protected resource (RFC 9728): named in challenges, described at a public URL.

    Raises:
        ConfigurationError: a value is wrong; the message says what to change.
    """

    resource: str
    """The resource identifier: the https URL of the API, sent byte for byte. Entra wants it to be
    an Application ID URI of the app registration, with or without a final slash as it is there."""
    scopes: Sequence[str] | None = None
    """The fully qualified scopes that clients ask for; the required scopes, each after the resource
    and a slash, if left out."""

    def __post_init__(self) -> None:
        check_base_url(self.resource, name="resource", loopback_http=True)
        if self.scopes is not None:
            object.__setattr__(self, "scopes", check_scopes(self.scopes))

    @property
    def metadata_url(self) -> str:
        """Where the description is: the well-known path inserted before the resource's own."""
        parts = urlsplit(self.resource)
        path = "" if parts.path == "/" else parts.path
        return f"{parts.scheme}://{parts.netloc}{_WELL_KNOWN}{path}"

    @property
    def metadata_path(self) -> str:
        """The path of `metadata_url`, as ASGI has it."""
        return unquote(urlsplit(self.metadata_url).path)

    def qualify(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the fully qualified form of scopes that stand bare in a token."""
        known = {scope.rpartition("/")[2]: scope for scope in self.scopes or ()}
        return tuple(
            name if "/" in name else known.get(name, f"{self.resource}/{name}") for name in names
        )

    def document(self, registration: AppRegistration) -> dict[str, Any]:
        """Return the description of the API of an app registration (RFC 9728 section 2)."""
        document: dict[str, Any] = {
            "resource": self.resource,
            "authorization_servers": [_authorization_server(registration)],
            "bearer_methods_supported": ["header"],
        }
        return document | ({"scopes_supported": list(self.scopes)} if self.scopes else {})


def _authorization_server(registration: AppRegistration) -> str:
    """Return the issuer; of many tenants, the one below which clients find their metadata."""
    if registration.is_multi_tenant:
        return f"{registration.authority}/{registration.metadata_tenant}/v2.0"
    return registration.issuers.v2.replace(TENANT, registration.tenant_id)
