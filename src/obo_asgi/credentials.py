"""How the API proves to Entra ID who it is: values that show themselves to nobody.

What a credential names (a file, an endpoint, a callable) is read when it is needed, and again when
it has changed; `client_assertion` does that.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn, Self

from ._types import Secret, is_guid
from .certificates import SigningCertificate, parse_certificate
from .errors import ConfigurationError

__all__ = [
    "ClientAssertion",
    "ClientCertificate",
    "ClientCredential",
    "ClientSecret",
    "ManagedIdentity",
    "WorkloadIdentity",
    "check_credentials",
    "check_secret",
]

TOKEN_EXCHANGE: Final = "api://AzureADTokenExchange"
"""The audience of federated identity credentials in the public cloud."""

StrPath = str | os.PathLike[str]
CertificateSource = Callable[[], str | bytes | Awaitable[str | bytes]]


class _Credential:
    """What all credentials share: they are not pickled."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not pickled; build it where it is needed")


class ClientSecret(_Credential):
    """A client secret of the app registration.

    Args:
        value: the secret's *value* from "Certificates & secrets"; space around it is dropped.

    Raises:
        ConfigurationError: the value is empty, or it is the secret's id (a GUID).
    """

    __slots__ = ("path", "value")

    def __init__(self, value: str) -> None:
        self.value: Secret | None = Secret(check_secret(value))
        self.path: Path | None = None

    @classmethod
    def from_file(cls, path: StrPath) -> Self:
        """Name a file that holds the secret; it is read again when it changes."""
        credential = cls.__new__(cls)
        credential.value, credential.path = None, _check_path(path, "ClientSecret")
        return credential

    def reveal(self) -> str:
        """Return the secret itself.

        Raises:
            ConfigurationError: it stands in a file, which is read when it is needed.
        """
        if self.value is None:
            raise ConfigurationError(f"{self!r} is read when it is needed")
        return self.value.reveal()

    def __repr__(self) -> str:
        return f"ClientSecret.from_file({str(self.path)!r})" if self.path else "ClientSecret('***')"


class ClientCertificate(_Credential):
    """A certificate with its private key, uploaded (without the key) to the app registration.

    Args:
        data: PEM text with the private key and its certificate (and, for `send_x5c`, those of its
            issuers), or the bytes of a PFX (PKCS #12) file.
        password: of the private key or the PFX file.
        send_x5c: send the certificate itself with each assertion, for registrations that trust a
            subject name and issuer instead of one certificate.

    Raises:
        ConfigurationError: it cannot be read; the message says what to change.
    """

    __slots__ = ("certificate", "load", "password", "path", "refresh", "send_x5c")

    def __init__(
        self, data: str | bytes, *, password: str | bytes | None = None, send_x5c: bool = False
    ) -> None:
        if not isinstance(data, str | bytes) or not data:
            raise ConfigurationError(
                "ClientCertificate is empty: pass PEM text or PFX bytes, or use from_file(path)"
            )
        self.password = _check_password(password)
        self.send_x5c = send_x5c
        self.path: Path | None = None
        self.load: CertificateSource | None = None
        self.refresh = 0.0
        read = self.parse(data.encode() if isinstance(data, str) else data)
        if isinstance(read, str):
            del data, password  # so that the traceback of the error does not hold them
            raise ConfigurationError(f"ClientCertificate: {read}")
        self.certificate: SigningCertificate | None = read

    @classmethod
    def from_file(
        cls, path: StrPath, *, password: str | bytes | None = None, send_x5c: bool = False
    ) -> Self:
        """Name a PEM or PFX file; it is read again when it changes."""
        return cls._later(_check_path(path, "ClientCertificate"), None, 0.0, password, send_x5c)

    @classmethod
    def from_source(
        cls,
        load: CertificateSource,
        *,
        refresh: float = 3600,
        password: str | bytes | None = None,
        send_x5c: bool = False,
    ) -> Self:
        """Name a callable that brings the certificate, such as from a vault.

        It is called when the API starts, every `refresh` seconds in the background (on the last day
        of the certificate every five minutes), and at once when Entra refuses the client. While it
        fails, what it brought last stays in use.

        Args:
            load: called without arguments for PEM text or the bytes of a PEM or PFX file; may be
                asynchronous. A synchronous one runs in a thread. It has 10 seconds.
            refresh: seconds between two calls.
            password: of the private key or the PFX file.
            send_x5c: send the certificate itself with each assertion.
        """
        if not callable(load):
            raise ConfigurationError(
                "ClientCertificate.from_source takes a callable that returns the certificate; "
                "for a file use from_file(path)"
            )
        is_number = isinstance(refresh, int | float) and not isinstance(refresh, bool)
        if not is_number or not 0 < refresh < math.inf:
            raise ConfigurationError(
                "ClientCertificate.from_source: refresh must be a number of seconds above 0"
            )
        return cls._later(None, load, float(refresh), password, send_x5c)

    @classmethod
    def _later(
        cls,
        path: Path | None,
        load: CertificateSource | None,
        refresh: float,
        password: str | bytes | None,
        send_x5c: bool,
    ) -> Self:
        """Return one that is read when it is needed."""
        credential = cls.__new__(cls)
        credential.certificate = None
        credential.path, credential.load, credential.refresh = path, load, refresh
        credential.password = _check_password(password)
        credential.send_x5c = send_x5c
        return credential

    def parse(self, data: bytes) -> SigningCertificate | str:
        """Read PEM or PFX data with this credential's password, as `parse_certificate` does."""
        if self.password is None:
            return parse_certificate(data, None)
        return parse_certificate(data, self.password.reveal().encode("latin-1"))

    def __repr__(self) -> str:
        if self.load is not None:
            return "ClientCertificate.from_source(…)"
        where = f".from_file({str(self.path)!r})" if self.path else "('***')"
        return f"ClientCertificate{where}"


class ClientAssertion(_Credential):
    """A signed assertion that a callable of yours hands out, such as from a vault or an HSM.

    Args:
        get: called without arguments for a JWT whose audience is the tenant's token endpoint, or
            of a federated identity credential; may be asynchronous. A synchronous one runs in a
            thread. What it returns is used until shortly before its ``exp``.
    """

    __slots__ = ("get", "path")

    def __init__(self, get: Callable[[], str | Awaitable[str]]) -> None:
        if not callable(get):
            raise ConfigurationError(
                "ClientAssertion takes a callable that returns the assertion, because an assertion "
                "ends after minutes; for a file use ClientAssertion.from_file(path)"
            )
        self.get: Callable[[], str | Awaitable[str]] | None = get
        self.path: Path | None = None

    @classmethod
    def from_file(cls, path: StrPath) -> Self:
        """Name a file that holds the assertion; it is read again when it changes."""
        credential = cls.__new__(cls)
        credential.get, credential.path = None, _check_path(path, "ClientAssertion")
        return credential

    def __repr__(self) -> str:
        where = f".from_file({str(self.path)!r})" if self.path else "(…)"
        return f"ClientAssertion{where}"


class WorkloadIdentity(_Credential):
    """The federated token that Kubernetes mounts into a pod (Microsoft Entra Workload ID).

    Args:
        token_file: where it is; what ``AZURE_FEDERATED_TOKEN_FILE`` says if left out, as AKS sets
            it.
    """

    __slots__ = ("path",)

    def __init__(self, token_file: StrPath | None = None) -> None:
        self.path = None if token_file is None else _check_path(token_file, "WorkloadIdentity")

    def __repr__(self) -> str:
        return f"WorkloadIdentity({str(self.path)!r})" if self.path else "WorkloadIdentity()"


class ManagedIdentity(_Credential):
    """A managed identity that the app registration trusts as a federated identity credential.

    Args:
        client_id: of a user-assigned identity; or one of
        resource_id: its Azure resource id, or
        object_id: its principal id. The system-assigned identity if all are left out.
        audience: of the federated identity credential; ``api://AzureADTokenExchangeUSGov`` and
            ``api://AzureADTokenExchangeChina`` in those clouds.
    """

    __slots__ = ("audience", "client_id", "object_id", "resource_id")

    def __init__(
        self,
        *,
        client_id: str | None = None,
        resource_id: str | None = None,
        object_id: str | None = None,
        audience: str = TOKEN_EXCHANGE,
    ) -> None:
        if sum(value is not None for value in (client_id, resource_id, object_id)) > 1:
            raise ConfigurationError(
                "ManagedIdentity: name the identity by one of client_id, resource_id, object_id"
            )
        for name, value in (("client_id", client_id), ("object_id", object_id)):
            if value is not None and not is_guid(value):
                raise ConfigurationError(f"ManagedIdentity: {name} must be a GUID")
        if resource_id is not None and not resource_id.startswith("/subscriptions/"):
            raise ConfigurationError(
                "ManagedIdentity: resource_id must be the whole path, '/subscriptions/…'"
            )
        if not isinstance(audience, str) or not audience.startswith("api://"):
            raise ConfigurationError(
                f"ManagedIdentity: audience must be an identifier such as {TOKEN_EXCHANGE!r}"
            )
        self.client_id = client_id
        self.resource_id = resource_id
        self.object_id = object_id
        self.audience = audience

    def __repr__(self) -> str:
        return "ManagedIdentity()"


ClientCredential = (
    ClientSecret | ClientCertificate | ClientAssertion | WorkloadIdentity | ManagedIdentity
)


def check_credentials(
    credential: ClientCredential | Sequence[ClientCredential],
) -> tuple[ClientCredential, ...]:
    """Return one credential, or several in the order in which they are tried.

    Raises:
        ConfigurationError: there is none, or something else among them.
    """
    several = credential if isinstance(credential, list | tuple) else (credential,)
    if not several:
        raise ConfigurationError("client_credential is empty: name at least one credential")
    for item in several:
        if not isinstance(item, ClientCredential):
            raise ConfigurationError(
                "client_credential must be a credential such as ClientSecret('…'), or a list of "
                f"them, not {'a bare string' if isinstance(item, str) else type(item).__name__}"
            )
    return tuple(several)


def check_secret(value: str) -> str:
    """Return a client secret without space around it.

    Raises:
        ConfigurationError: it is empty, or it is a secret's id.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(
            "ClientSecret is empty: pass the secret's value "
            "(is the environment variable or file that should hold it set?)"
        )
    if is_guid(value.strip()):
        raise ConfigurationError(
            "ClientSecret looks like the secret's id: pass its value, "
            "which the portal shows once, when the secret is made"
        )
    return value.strip()


def _check_path(path: StrPath, name: str) -> Path:
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise ConfigurationError(f"{name}: the path of the file is missing")
    if str(path).startswith("-----BEGIN"):
        raise ConfigurationError(f"{name}.from_file takes a path, not the content of the file")
    return Path(path)


def _check_password(password: str | bytes | None) -> Secret | None:
    if password is None:
        return None
    if not isinstance(password, str | bytes) or not password:
        raise ConfigurationError("ClientCertificate: the password is empty: leave it out")
    return Secret((password.encode() if isinstance(password, str) else password).decode("latin-1"))
