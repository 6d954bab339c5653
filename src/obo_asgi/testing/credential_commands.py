"""What a test says about the credentials of app registrations."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

from .certificates import CertificateData, load_certificate, thumbprint
from .credentials import TOKEN_EXCHANGE, Credentials, FederatedCredential, TrustedSubject
from .directory import ManagedIdentity
from .keys import encode_jws
from .world import World

CLUSTER_ISSUER: Final = "https://oidc.fake-aks.example/"
"""The issuer of the Kubernetes cluster that the service plays."""


class CredentialCommands:
    """The part of `FakeEntra` that registers, rotates and revokes what apps authenticate with.

    Apps are named by name, client id or identifier URI; an unknown one is a `LookupError`.
    """

    _world: World

    def new_secret(self, app: str = "api", *, value: str | None = None) -> str:
        """Add a client secret, and return it; registrations from then on hold it.

        The older ones stay valid. It is random if no value is given.
        """
        with self._world.lock:
            return self._credentials(app).new_secret(value)

    def expire_secret(self, app: str = "api") -> None:
        """Let the client secrets expire (AADSTS7000222); registrations then hold a new one."""
        with self._world.lock:
            self._credentials(app).expire_secrets()

    def revoke_secret(self, value: str, app: str = "api") -> None:
        """Remove one client secret (AADSTS7000215).

        Raises:
            LookupError: the app has no such valid secret.
        """
        with self._world.lock:
            self._credentials(app).remove_secrets(value)

    def remove_secrets(self, app: str = "api") -> None:
        """Remove all client secrets; registrations still hold the last one, which is refused."""
        with self._world.lock:
            self._credentials(app).remove_secrets()

    def add_certificate(self, certificate: CertificateData, app: str = "api") -> str:
        """Upload a certificate, and return its thumbprint as the portal shows it (SHA-1, hex).

        Args:
            certificate: PEM (a private key beside it is ignored), DER, or an object of
                `cryptography.x509`; `ValueError` without an RSA key.
            app: the app that it authenticates.
        """
        loaded = load_certificate(certificate)
        with self._world.lock:
            self._credentials(app).certificates.append(loaded)
        return thumbprint(loaded)

    def remove_certificate(self, certificate: CertificateData, app: str = "api") -> None:
        """Remove a certificate, given itself or by its thumbprint (AADSTS700027).

        Raises:
            LookupError: it is not registered.
        """
        with self._world.lock:
            self._credentials(app).remove_certificate(certificate)

    def trust_subject(self, subject: str, authority: CertificateData, app: str = "api") -> None:
        """Trust every certificate of an authority with that subject (subject name and issuer).

        Its assertions must bring the certificate, and those between it and the authority, in
        ``x5c``. Another subject is AADSTS700030.

        Args:
            subject: the whole subject (RFC 4514), its common name, or an alternative DNS name.
            authority: the certificate of the authority.
            app: the app that trusts it.
        """
        trusted = TrustedSubject(subject, load_certificate(authority))
        with self._world.lock:
            self._credentials(app).subjects.append(trusted)

    def add_federated_credential(
        self,
        *,
        issuer: str = CLUSTER_ISSUER,
        subject: str,
        audience: str = TOKEN_EXCHANGE,
        app: str = "api",
    ) -> None:
        """Accept an issuer's tokens about a subject as client assertions, all compared exactly.

        The service plays the issuer as well: `federated_token`.
        """
        with self._world.lock:
            self._world.add_issuer(issuer)
            self._credentials(app).federated.append(FederatedCredential(issuer, subject, audience))

    def remove_federated_credentials(self, app: str = "api") -> None:
        """Accept no other issuer's tokens any more (AADSTS70021)."""
        with self._world.lock:
            self._credentials(app).federated.clear()

    def add_managed_identity(self, name: str) -> ManagedIdentity:
        """Add a user-assigned managed identity (``client_id``, ``object_id``, ``resource_id``)."""
        with self._world.lock:
            return self._world.directory.add_identity(name)

    def trust_managed_identity(
        self,
        app: str = "api",
        *,
        identity: str | None = None,
        audience: str = TOKEN_EXCHANGE,
    ) -> None:
        """Accept the tokens of a managed identity as client assertions.

        The credential names the issuer of the moment: while `serve` runs, that of the server.

        Args:
            app: the app that trusts it.
            identity: the name of a user-assigned one; the system-assigned one if left out.
            audience: the ``resource`` that the token is asked for.
        """
        with self._world.lock:
            self.add_federated_credential(
                issuer=self._world.issuer(self._world.directory.tenant_id, "2.0"),
                subject=self._world.directory.identity(identity).object_id,
                audience=audience,
                app=app,
            )

    def federated_token(
        self,
        subject: str = "system:serviceaccount:default:api",
        *,
        issuer: str | None = None,
        audience: str = TOKEN_EXCHANGE,
        lifetime: int = 3600,
        **claims: Any,
    ) -> str:
        """Sign a token as another issuer does, such as the one that Kubernetes mounts into a pod.

        Args:
            subject: its ``sub``, such as a service account.
            issuer: its ``iss``; that of a cluster if left out, as in `add_federated_credential`.
            audience: the only one of its audiences.
            lifetime: seconds until ``exp``; may be negative.
            claims: claims that shall differ; None deletes one.
        """
        issuer = issuer or CLUSTER_ISSUER
        with self._world.lock:
            key = self._world.add_issuer(issuer)
        now = int(time.time())
        payload: dict[str, Any] = {
            "aud": [audience],
            "exp": now + lifetime,
            "iat": now,
            "iss": issuer,
            "jti": str(uuid.uuid4()),
            "nbf": now,
            "sub": subject,
            **claims,
        }
        payload = {name: value for name, value in payload.items() if value is not None}
        return encode_jws({"alg": "RS256", "kid": key.kid}, payload, key.private_key)

    def _credentials(self, app: str) -> Credentials:
        return self._world.directory.app(app).credentials
