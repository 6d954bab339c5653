"""Certificates that client assertions are signed with: thumbprints and chains."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from .keys import encode_base64url

CertificateData = str | bytes | x509.Certificate
"""A certificate: PEM text (a private key before it is passed over), DER bytes, or an object."""

THUMBPRINTS: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "x5t#S256": hashes.SHA256,
    "x5t": hashes.SHA1,
}
"""The JOSE header parameters that name a certificate, with the hash over its DER."""


def load_certificate(data: CertificateData) -> x509.Certificate:
    """Read a certificate with an RSA key.

    Raises:
        ValueError: it is none.
    """
    if isinstance(data, x509.Certificate):
        certificate = data
    else:
        raw = data.encode() if isinstance(data, str) else data
        is_pem = b"-----BEGIN" in raw
        certificate = (
            x509.load_pem_x509_certificate(raw) if is_pem else x509.load_der_x509_certificate(raw)
        )
    if not isinstance(certificate.public_key(), RSAPublicKey):
        raise ValueError("Entra ID takes certificates with RSA keys only")
    return certificate


def load_chain(x5c: object) -> list[x509.Certificate]:
    """Read an ``x5c`` header (RFC 7515 section 4.1.6), the leaf first; empty without one.

    Raises:
        ValueError: it is malformed.
    """
    if x5c is None:
        return []
    if isinstance(x5c, list) and x5c and all(isinstance(item, str) for item in x5c):
        return [x509.load_der_x509_certificate(base64.b64decode(item)) for item in x5c]
    raise ValueError("x5c is no list of certificates")


def thumbprint(certificate: x509.Certificate) -> str:
    """Return the SHA-1 thumbprint in hexadecimal, as the portal shows it."""
    return certificate.fingerprint(THUMBPRINTS["x5t"]()).hex().upper()


def encode_thumbprint(certificate: x509.Certificate, name: str) -> str:
    """Return the thumbprint that belongs into a JOSE header parameter."""
    return encode_base64url(certificate.fingerprint(THUMBPRINTS[name]()))


def has_thumbprint(certificate: x509.Certificate, text: str) -> bool:
    """Tell whether a text is a thumbprint of the certificate: SHA-1 or SHA-256, in any form."""
    for name, algorithm in THUMBPRINTS.items():
        digits = certificate.fingerprint(algorithm()).hex()
        if text.replace(":", "").lower() == digits or text == encode_thumbprint(certificate, name):
            return True
    return False


def is_current(certificate: x509.Certificate) -> bool:
    """Tell whether now is within the certificate's validity."""
    now = datetime.datetime.now(datetime.UTC)
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def is_issued_under(chain: Sequence[x509.Certificate], authority: x509.Certificate) -> bool:
    """Tell whether a chain of valid certificates leads from its leaf to an authority."""
    certificate, *others = chain
    if not is_current(certificate):
        return False
    if _is_issued_by(certificate, authority):
        return True
    return (
        bool(others)
        and _is_issued_by(certificate, others[0])
        and is_issued_under(others, authority)
    )


def has_subject(certificate: x509.Certificate, subject: str) -> bool:
    """Tell whether a name is the subject, its common name, or an alternative DNS name."""
    names = [certificate.subject.rfc4514_string()]
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    names += [str(attribute.value) for attribute in common]
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names += extension.value.get_values_for_type(x509.DNSName)
    return subject in names


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    is_authority = any(
        isinstance(extension.value, x509.BasicConstraints) and extension.value.ca
        for extension in issuer.extensions
    )
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return is_authority
