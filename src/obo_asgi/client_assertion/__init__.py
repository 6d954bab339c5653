"""What the API authenticates to Entra with: read from files and endpoints, renewed, rotated.

Files are looked at before an exchange, at most once a second, off the event loop. What cannot be
read after it could be leaves the last good one in use. When Entra refuses the client, what it was
refused with is read once more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from .._events import CREDENTIAL_UNREADABLE, emit
from .._types import HTTPClient
from ..config import AppRegistration
from ..credentials import (
    ClientAssertion,
    ClientCertificate,
    ClientCredential,
    ClientSecret,
    ManagedIdentity,
    WorkloadIdentity,
)
from ..errors import ConfigurationError, TokenAcquisitionError
from ..readiness import CredentialReadiness
from ._base import ClientAuthentication, Loader, Unusable
from ._certificate_source import CertificateSourceLoader
from ._files import CertificateLoader, FileLoader, SecretLoader, TokenFileLoader, WorkloadLoader
from ._handed_out import CallableLoader, ManagedIdentityLoader

__all__ = ["ClientAuthenticator"]

logger = logging.getLogger(__name__)


class ClientAuthenticator:
    """Authenticates the API with the first of its credentials that is usable.

    Args:
        registration: our app registration.
        client: returns the HTTP client of the running loop.
    """

    def __init__(self, registration: AppRegistration, client: Callable[[], HTTPClient]) -> None:
        self._credentials = registration.credentials
        self._loaders = [_loader(item, registration, client) for item in self._credentials]
        self._failed_at = [float("-inf")] * len(self._loaders)
        self._chosen = 0

    async def check(self) -> None:
        """Read what files and sources hold, so that a wrong path or password fails at start.

        Raises:
            ConfigurationError: no credential is usable; the message names each with its reason.
        """
        reasons = []
        for credential, loader in zip(self._credentials, self._loaders, strict=True):
            if not isinstance(loader, FileLoader):
                return
            try:
                await loader.load()
            except Unusable as problem:
                reasons.append(f"{credential!r}: {problem}")
            else:
                return
        raise ConfigurationError(f"no client credential is usable: {'; '.join(reasons)}")

    def readiness(self) -> CredentialReadiness:
        """Tell what is known of the credential that is in use, without a look at it."""
        known = [loader.readiness() for loader in self._loaders]
        for credential in known:
            if credential.ready:
                return credential
        reasons = "; ".join(credential.reason or "" for credential in known)
        ended_at = next((item.expires_at for item in known if item.expires_at is not None), None)
        return CredentialReadiness(False, f"No client credential can be used: {reasons}.", ended_at)

    async def key_material(self) -> bytes | None:
        """Return the client secret or the certificate's private key, of the first that has one."""
        for loader in self._loaders:
            if isinstance(loader, SecretLoader | CertificateLoader):
                with suppress(Unusable):
                    return await loader.key_material()
        return None

    async def authenticate(self, audience: str, correlation_id: str) -> ClientAuthentication:
        """Return the form fields for a token endpoint.

        Raises:
            TokenAcquisitionError: no credential is usable; its hint names each with its reason.
        """
        reasons: dict[int, str] = {}
        temporary = False
        for number in self._order():
            try:
                authentication = await self._loaders[number].authenticate(audience)
            except Unusable as problem:
                self._failed_at[number] = time.monotonic()
                reasons[number] = f"{self._credentials[number]!r}: {problem}"
                temporary = temporary or problem.temporary
            else:
                self._note_choice(number, reasons.values())
                return authentication
        raise TokenAcquisitionError(
            "no client credential is usable",
            error="invalid_client",
            correlation_id=correlation_id,
            retry_after=5 if temporary else None,
            hint="; ".join(reasons[number] for number in sorted(reasons)),
        )

    def _order(self) -> list[int]:
        """Return the credentials as they are tried: last what could not be had a while ago."""
        now = time.monotonic()
        return sorted(
            range(len(self._loaders)),
            key=lambda number: now - self._failed_at[number] < self._loaders[number].patience,
        )

    def _note_choice(self, number: int, reasons: Collection[str]) -> None:
        """Tell the operator, once, that a credential stands in for an earlier one."""
        before, self._chosen = self._chosen, number
        if reasons and number != before:
            emit(
                logger,
                logging.WARNING,
                CREDENTIAL_UNREADABLE,
                "%r is used instead of what goes before it: %s",
                self._credentials[number],
                "; ".join(reasons),
            )

    async def authenticate_again(
        self, refused: ClientAuthentication, audience: str, correlation_id: str
    ) -> ClientAuthentication | None:
        """Return other fields than those that Entra has refused; None if there are none."""
        await refused.loader.reload(refused.version)
        again = await self.authenticate(audience, correlation_id)
        same = again.loader is refused.loader and again.version == refused.version
        return None if same else again

    async def aclose(self) -> None:
        """End what is under way in the running loop."""
        for loader in self._loaders:
            await loader.aclose()


def _loader(
    credential: ClientCredential, registration: AppRegistration, client: Callable[[], HTTPClient]
) -> Loader:
    match credential:
        case ClientSecret():
            return SecretLoader(credential.path, credential.value)
        case ClientCertificate(load=load):
            client_id = registration.client_id
            if load is not None:
                return CertificateSourceLoader(credential, client_id, load)
            return CertificateLoader(credential, client_id)
        case ClientAssertion():
            get = credential.get
            return TokenFileLoader(credential.path) if get is None else CallableLoader(get)
        case WorkloadIdentity(path=path):
            return WorkloadLoader(path)
        case ManagedIdentity():
            return ManagedIdentityLoader(credential, client)
