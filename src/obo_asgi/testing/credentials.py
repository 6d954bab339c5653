"""What an app registration may authenticate with."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography import x509

from .certificates import CertificateData, has_thumbprint, load_certificate

TOKEN_EXCHANGE: Final = "api://AzureADTokenExchange"
"""The audience that federated credentials usually have."""


class TrustedSubject(NamedTuple):
    """A subject name that is trusted in every certificate of an authority."""

    name: str
    authority: x509.Certificate


class FederatedCredential(NamedTuple):
    """Whose tokens are good as client assertions."""

    issuer: str
    subject: str
    audience: str


def _new_secret() -> str:
    return f"fake~{secrets.token_urlsafe(24)}"


@dataclass
class Credentials:
    """The credentials of one app registration; one secret at first."""

    latest_secret: str = field(default_factory=_new_secret, repr=False)
    """What registrations hold: the newest valid secret, or the last one that there was."""
    expired_secrets: set[str] = field(default_factory=set, repr=False)
    certificates: list[x509.Certificate] = field(default_factory=list)
    subjects: list[TrustedSubject] = field(default_factory=list)
    federated: list[FederatedCredential] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._secrets = [self.latest_secret]

    def new_secret(self, value: str | None = None) -> str:
        """Make another secret."""
        self.latest_secret = _new_secret() if value is None else value
        self._secrets.append(self.latest_secret)
        return self.latest_secret

    def expire_secrets(self) -> None:
        """Let all secrets expire, and make a new one."""
        self.expired_secrets.update(self._secrets)
        self._secrets.clear()
        self.new_secret()

    def remove_secrets(self, value: str | None = None) -> None:
        """Remove one secret, or all.

        Raises:
            LookupError: that is none of the valid secrets.
        """
        if value is not None and value not in self._secrets:
            raise LookupError("the app has no such secret")
        self._secrets = [secret for secret in self._secrets if value not in (None, secret)]
        if self._secrets:
            self.latest_secret = self._secrets[-1]

    def accepts_secret(self, value: str) -> bool:
        """Tell whether a secret is valid."""
        return any(secrets.compare_digest(value.encode(), own.encode()) for own in self._secrets)

    def remove_certificate(self, reference: CertificateData) -> None:
        """Remove a certificate, given itself or by a thumbprint.

        Raises:
            LookupError: it is not registered.
        """
        found = [item for item in self.certificates if _is_meant(item, reference)]
        if not found:
            raise LookupError("the app has no such certificate")
        self.certificates.remove(found[0])


def _is_meant(certificate: x509.Certificate, reference: CertificateData) -> bool:
    if isinstance(reference, str) and "-----BEGIN" not in reference:
        return has_thumbprint(certificate, reference)
    return certificate == load_certificate(reference)
