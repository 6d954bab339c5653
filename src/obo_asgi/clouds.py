"""The clouds of Entra ID: which sign-in host issues tokens under which names.

Sources: Entra's "National clouds" and "Access token claims reference"; "OpenID Connect" of
external tenants (CIAM) for ``*.ciamlogin.com``.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ._urls import check_base_url
from .errors import ConfigurationError

__all__ = ["TENANT", "Issuers", "is_external", "issuers_of"]

TENANT: Final = "{tenantid}"
"""Stands for the tenant id in an issuer, as in Entra's shared metadata."""

_GLOBAL: Final = f"https://sts.windows.net/{TENANT}/"
_V1_ISSUERS: Final = {
    "login.microsoftonline.com": _GLOBAL,
    "login.microsoftonline.us": _GLOBAL,
    "login.partner.microsoftonline.cn": f"https://sts.chinacloudapi.cn/{TENANT}/",
}
_CANONICAL: Final = {
    "login.windows.net": "login.microsoftonline.com",
    "login.microsoft.com": "login.microsoftonline.com",
    "sts.windows.net": "login.microsoftonline.com",
    "login-us.microsoftonline.com": "login.microsoftonline.us",
    "login.usgovcloudapi.net": "login.microsoftonline.us",
    "login.chinacloudapi.cn": "login.partner.microsoftonline.cn",
    "sts.chinacloudapi.cn": "login.partner.microsoftonline.cn",
}
_EXTERNAL: Final = ".ciamlogin.com"


class Issuers(NamedTuple):
    """The issuers of a cloud's tokens by version, with `TENANT` for the tenant id."""

    v1: str | None
    v2: str


def is_external(authority: str) -> bool:
    """Tell whether an authority is an external tenant's own (CIAM, ``*.ciamlogin.com``)."""
    return (urlsplit(authority).hostname or "").endswith(_EXTERNAL)


def issuers_of(authority: str, pinned: str | None) -> Issuers:
    """Return the issuers of an authority.

    Args:
        authority: the sign-in service's origin.
        pinned: the v2 issuer that the developer names for a host that is none of Microsoft's.

    Raises:
        ConfigurationError: the host is not known and nothing is pinned, or the reverse.
    """
    host = urlsplit(authority).hostname or ""
    if host in _CANONICAL:
        raise ConfigurationError(f"authority: write https://{_CANONICAL[host]} for {host}")
    known = host in _V1_ISSUERS or is_external(authority)
    if known and urlsplit(authority).port is not None:
        raise ConfigurationError(f"authority: leave the port of {host} out")
    if known and pinned is not None:
        raise ConfigurationError(f"issuer: leave it out, that of {host} is known")
    if not known and pinned is None:
        raise ConfigurationError(
            f"authority: {host} is none of Microsoft's sign-in hosts; for a custom domain or a "
            "test service pin the issuer of its tokens, such as "
            f"issuer='https://<tenant id>{_EXTERNAL}/<tenant id>/v2.0'"
        )
    if is_external(authority):
        return Issuers(None, f"https://{TENANT}{_EXTERNAL}/{TENANT}/v2.0")
    if pinned is not None:
        return Issuers(_GLOBAL, _check_issuer(pinned))
    return Issuers(_V1_ISSUERS[host], f"{authority}/{TENANT}/v2.0")


def _check_issuer(issuer: str) -> str:
    sample = issuer.replace(TENANT, "tenantid") if isinstance(issuer, str) else issuer
    check_base_url(sample, name="issuer")
    return issuer
