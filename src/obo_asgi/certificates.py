"""A certificate with its private key, which signs the client assertions of an app registration."""

from __future__ import annotations

import re
import time
import uuid
from base64 import b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING, Final

import jwt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

__all__ = ["ASSERTION_LIFETIME", "SigningCertificate", "parse_certificate"]

ASSERTION_LIFETIME: Final = 600.0
"""Seconds that a client assertion is valid."""

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


class SigningCertificate:
    """A private RSA key and its certificate, loaded once.

    Args:
        key: the private key.
        chain: the certificate and, after it, those of its issuers.
    """

    __slots__ = ("_chain", "_key", "_thumbprint", "ends_at")

    def __init__(self, key: RSAPrivateKey, chain: list[Certificate]) -> None:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

        self._key = key
        self.ends_at = chain[0].not_valid_after_utc.timestamp()
        self._thumbprint = urlsafe_b64encode(chain[0].fingerprint(SHA256())).decode().rstrip("=")
        self._chain = [b64encode(item.public_bytes(Encoding.DER)).decode() for item in chain]

    def key_material(self) -> bytes:
        """Return the private key, to derive others from."""
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, client_id: str, audience: str, *, send_x5c: bool) -> str:
        """Sign a client assertion (RFC 7523; Entra's "Certificate credentials").

        Args:
            client_id: the app registration, issuer and subject of the assertion.
            audience: the token endpoint that it is for.
            send_x5c: with the certificates themselves, for trust by subject name and issuer.
        """
        now = int(time.time())
        headers: dict[str, object] = {"x5t#S256": self._thumbprint}
        if send_x5c:
            headers["x5c"] = self._chain
        claims = {
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": str(uuid.uuid4()),
            "nbf": now,
            "iat": now,
            "exp": now + int(ASSERTION_LIFETIME),
        }
        return jwt.encode(claims, self._key, algorithm="PS256", headers=headers)


def parse_certificate(data: bytes, password: bytes | None) -> SigningCertificate | str:
    """Read PEM data with a private key and certificates, or a PFX (PKCS #12) file.

    Returns:
        The certificate; or a sentence that says what to change. It is returned, not raised,
        because the frames down here hold the key.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    read = (_read_pem if b"-----BEGIN" in data else _read_pfx)(data, password)
    if isinstance(read, str):
        return read
    key, certificates = read
    if key is None:
        return "there is no private key in it: put the key and its certificate into one file"
    if not isinstance(key, RSAPrivateKey):
        return "the private key is not an RSA key, which Entra needs"
    if key.key_size < 2048:
        return "the RSA key is shorter than 2048 bits"
    numbers = key.public_key().public_numbers()
    leaves = [item for item in certificates if _public_numbers(item) == numbers]
    if not leaves:
        return "no certificate belongs to the private key: put both into the file"
    return SigningCertificate(key, [leaves[0], *(c for c in certificates if c is not leaves[0])])


def _read_pem(data: bytes, password: bytes | None) -> tuple[object, list[Certificate]] | str:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    blocks = [(match[1], match[0]) for match in _PEM.finditer(data)]
    keys = [block for label, block in blocks if label.endswith(b"PRIVATE KEY")]
    if rb"\n" in data:
        return "the PEM data holds '\\n' in place of line breaks: replace them before passing it"
    if len(keys) != 1:
        return f"the PEM data holds {len(keys)} private keys; it needs exactly one"
    try:
        key = load_pem_private_key(keys[0], password)
        certificates = [
            x509.load_pem_x509_certificate(block)
            for label, block in blocks
            if label == b"CERTIFICATE"
        ]
    except TypeError:  # cryptography's way to say that a password is missing, or one too many
        if password is None:
            return "the private key is encrypted: pass its password"
        return "the private key is not encrypted: leave the password out"
    except UnsupportedAlgorithm:
        return "the private key cannot be read: its kind is not supported, RSA is needed"
    except ValueError:
        doubt = "" if password is None else ": is the password right?"
        return f"the PEM data cannot be read{doubt}"
    return key, certificates


def _read_pfx(data: bytes, password: bytes | None) -> tuple[object, list[Certificate]] | str:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

    try:
        key, certificate, others = load_key_and_certificates(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        opens = "opens without a password" if password is None else "this password opens"
        return f"it is neither PEM nor a PFX file that {opens}"
    return key, [item for item in (certificate, *others) if item is not None]


def _public_numbers(certificate: Certificate) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        numbers = getattr(certificate.public_key(), "public_numbers", None)
    except (ValueError, UnsupportedAlgorithm):  # an issuer's key is none of our business
        return None
    return numbers() if numbers else None
