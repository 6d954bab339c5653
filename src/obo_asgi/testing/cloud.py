"""The clouds of Entra ID: whose tokens an authority issues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

TENANT: Final = "{tenantid}"
"""Stands for the tenant in an issuer, as in the metadata of all tenants."""

_GLOBAL: Final = ("https://sts.windows.net", "microsoftonline.com")
_NATIONAL: Final = {
    "login.microsoftonline.com": _GLOBAL,
    "login.microsoftonline.us": ("https://sts.windows.net", "microsoftonline.us"),
    "login.partner.microsoftonline.cn": (
        "https://sts.chinacloudapi.cn",
        "partner.microsoftonline.cn",
    ),
}
_EXTERNAL: Final = ".ciamlogin.com"


@dataclass(frozen=True)
class Cloud:
    """What follows from an authority.

    Args:
        authority: the origin of the sign-in service.
        own_issuer: the v2 issuer behind a host that is none of Microsoft's.
    """

    authority: str
    own_issuer: str | None = None

    @property
    def name(self) -> str:
        """The cloud instance's name in metadata and keys."""
        return _NATIONAL.get(self._host, _GLOBAL)[1]

    @property
    def is_external(self) -> bool:
        """Whether it is an external tenant (CIAM), which has v2 tokens only."""
        return self._host.endswith(_EXTERNAL)

    @property
    def issuer_template(self) -> str:
        """The issuer of v2 tokens, with `TENANT` for the tenant."""
        if self.is_external:
            return f"https://{TENANT}{_EXTERNAL}/{TENANT}/v2.0"
        return self.pinned_issuer or f"{self.authority}/{TENANT}/v2.0"

    @property
    def pinned_issuer(self) -> str | None:
        """What a registration must pin: the issuer, if the host is none of Microsoft's."""
        if self.is_external or self._host in _NATIONAL:
            return None
        return self.own_issuer or f"{self.authority}/{TENANT}/v2.0"

    def token_version(self, wanted: str) -> str:
        """Return the version that tokens have where another, perhaps, is wanted."""
        return "2.0" if self.is_external else wanted

    def issuer(self, tenant_id: str, version: str) -> str:
        """Return the issuer of a tenant's tokens, of version "1.0" or "2.0"."""
        if self.token_version(version) == "1.0":
            return f"{_NATIONAL.get(self._host, _GLOBAL)[0]}/{tenant_id}/"
        return self.issuer_template.replace(TENANT, tenant_id)

    @property
    def _host(self) -> str:
        return urlsplit(self.authority).hostname or ""
