"""How the API proves to Entra ID who it is."""

from __future__ import annotations

from ._types import Secret, is_guid
from .errors import ConfigurationError

__all__ = ["ClientCredential", "ClientSecret"]


class ClientSecret(Secret):
    """A client secret of the app registration.

    It shows its value to nobody: not in a repr, not in ``vars()``, and it refuses to be pickled.

    Args:
        value: the secret's *value* from "Certificates & secrets"; space around it is dropped.

    Raises:
        ConfigurationError: the value is empty, or it is the secret's id (a GUID).
    """

    __slots__ = ()

    def __init__(self, value: str) -> None:
        if not isinstance(value, str) or not value.strip():
            raise ConfigurationError(
                "ClientSecret is empty: pass the secret's value "
                "(is the environment variable that should hold it set?)"
            )
        if is_guid(value.strip()):
            raise ConfigurationError(
                "ClientSecret looks like the secret's id: pass its value, "
                "which the portal shows once, when the secret is made"
            )
        super().__init__(value.strip())


ClientCredential = ClientSecret
