"""Certificates that tests make, and the client assertions that they sign with them."""

import base64
import datetime
import functools
import time
import uuid
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

DAY = datetime.timedelta(days=1)
CLIENT_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Material:
    """A certificate, its private key, and the certificates above it."""

    key: Key
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def x5c(self) -> list[str]:
        chain = (self.certificate, *self.above)
        return [base64.b64encode(item.public_bytes(Encoding.DER)).decode() for item in chain]

    def thumbprint(self, algorithm: hashes.HashAlgorithm) -> str:
        """Return the thumbprint as a JOSE header has it."""
        digest = self.certificate.fingerprint(algorithm)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def pfx(self, password: bytes) -> bytes:
        return pkcs12.serialize_key_and_certificates(
            b"api", self.key, self.certificate, None, BestAvailableEncryption(password)
        )

    def sign(
        self,
        claims: dict[str, Any],
        alg: str = "PS256",
        headers: dict[str, Any] | None = None,
    ) -> str:
        """Sign an assertion, named by its SHA-256 thumbprint if no other headers are given."""
        headers = headers or {"x5t#S256": self.thumbprint(hashes.SHA256())}
        return jwt.encode(claims, self.key, algorithm=alg, headers=headers)


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """Return the same key for the same name."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@functools.cache
def material(
    name: str = "api.contoso.example",
    *,
    issuer: Material | None = None,
    is_authority: bool = False,
    days: tuple[int, int] = (-1, 30),
    curve: bool = False,
    dns: str | None = None,
) -> Material:
    """Make a certificate: self-signed, or by an issuer."""
    key: Key = ec.generate_private_key(ec.SECP256R1()) if curve else rsa_key(name)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(
            issuer_name=issuer.certificate.subject if issuer else subject,
            subject_name=subject,
            public_key=key.public_key(),
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    )
    if dns:
        names = x509.SubjectAlternativeName([x509.DNSName(dns)])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    above = (issuer.certificate, *issuer.above) if issuer else ()
    return Material(key, certificate, above)


def assertion_claims(client_id: str, audience: str, **claims: Any) -> dict[str, Any]:
    """Return the claims of a good client assertion; None deletes one."""
    now = int(time.time())
    fields = {
        "aud": audience,
        "exp": now + 600,
        "iss": client_id,
        "jti": str(uuid.uuid4()),
        "nbf": now,
        "sub": client_id,
        **claims,
    }
    return {name: value for name, value in fields.items() if value is not None}
