"""What every way to authenticate the API has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from ..readiness import CredentialReadiness

RELOAD_INTERVAL: Final = 5.0
"""Seconds between two readings of a credential that Entra keeps refusing."""
PATIENCE: Final = 60.0
"""Seconds for which nobody waits again for a credential from elsewhere that cannot be had."""

_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Unusable(Exception):
    """A credential cannot be used now; the message says why and shows nothing of it."""

    def __init__(self, reason: str, *, temporary: bool = False) -> None:
        super().__init__(reason)
        self.temporary = temporary


class ClientAuthentication:
    """The form fields that authenticate one request to the token endpoint."""

    __slots__ = ("_fields", "loader", "version")

    def __init__(self, loader: Loader, version: int, fields: Mapping[str, str]) -> None:
        self.loader = loader
        self.version = version
        self._fields = fields

    def fields(self) -> dict[str, str]:
        """Return the fields; keep them out of the local variables of frames that may raise."""
        return dict(self._fields)

    def __repr__(self) -> str:
        return "ClientAuthentication(***)"


class Loader(Protocol):
    """Makes one credential usable."""

    patience: float
    """Seconds for which it is not tried again, while another credential is usable."""

    async def authenticate(self, audience: str) -> ClientAuthentication:
        """Return the fields for a token endpoint; raise `Unusable`."""
        ...

    def readiness(self) -> CredentialReadiness:
        """Tell what is known of the credential, without a look at it."""
        ...

    async def reload(self, version: int) -> None:
        """Read anew what was refused, unless a newer version is already in use."""
        ...

    async def aclose(self) -> None:
        """End what is under way in the running loop."""
        ...


def by_assertion(loader: Loader, version: int, assertion: str) -> ClientAuthentication:
    """Return the fields of a client assertion (RFC 7523 section 2.2)."""
    fields = {"client_assertion_type": _JWT_BEARER, "client_assertion": assertion}
    return ClientAuthentication(loader, version, fields)
