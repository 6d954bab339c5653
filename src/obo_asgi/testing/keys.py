"""Signing keys: the pairs, their published form, and compact JWS made with them."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from .cloud import TENANT, Cloud

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes
"""What a token can be signed with; bytes are a shared secret (HMAC)."""

_FITTING: Final = {
    "ES256": ("ES256",),
    "HS256": ("HS256", "HS384", "HS512"),
    "RS256": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
}
_pairs: list[tuple[rsa.RSAPrivateKey, bytes]] = []
_pairs_lock: Final = threading.Lock()


@dataclass(frozen=True)
class SigningKey:
    """A key pair of the sign-in service. Made by `KeyRing`, which shares pairs in the process."""

    kid: str
    private_key: rsa.RSAPrivateKey = field(repr=False)
    certificate: bytes = field(repr=False)
    tenant_id: str | None = None
    """The one tenant that it signs for; None: all of them."""

    def jwk(self, cloud: Cloud | None = None) -> dict[str, object]:
        """Return the public half as JWK, with the key's issuer if a cloud is given."""
        numbers = self.private_key.public_key().public_numbers()
        jwk: dict[str, object] = {
            "kty": "RSA",
            "use": "sig",
            "kid": self.kid,
            "x5t": self.kid,
            "n": encode_base64url(numbers.n.to_bytes(256, "big")),
            "e": encode_base64url(numbers.e.to_bytes(3, "big")),
            "x5c": [base64.b64encode(self.certificate).decode()],
        }
        if cloud is not None:
            jwk["cloud_instance_name"] = cloud.name
            jwk["issuer"] = cloud.issuer(self.tenant_id or TENANT, "2.0")
        return jwk


class KeyRing:
    """The keys of one sign-in service: the one that signs, and those that are published."""

    def __init__(self) -> None:
        self._used = 0
        self.current = self.new()
        self._published = [self.current]

    def new(self, tenant_id: str | None = None) -> SigningKey:
        """Return a key that this ring has not used yet and does not publish."""
        private_key, certificate = _pair(self._used)
        self._used += 1
        kid = encode_base64url(hashlib.sha1(certificate, usedforsecurity=False).digest())
        return SigningKey(kid, private_key, certificate, tenant_id)

    def publish(self, key: SigningKey) -> None:
        """Publish a key without signing with it."""
        self._published = [*self._published, key]

    def roll(self) -> SigningKey:
        """Publish a new key and sign with it from now on; the older ones stay published."""
        key = self.new()
        self.publish(key)
        self.current = key
        return key

    def drop_old(self) -> None:
        """Publish the signing key alone."""
        self._published = [self.current]

    def find(self, kid: object) -> SigningKey | None:
        """Return the published key of that id."""
        return next((key for key in self._published if key.kid == kid), None)

    def document(self, cloud: Cloud | None = None) -> dict[str, object]:
        """Return the JWKS; the v2 form, whose keys name an issuer, if a cloud is given."""
        return {"keys": [key.jwk(cloud) for key in self._published]}


def encode_base64url(data: bytes) -> str:
    """Encode without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encode_jws(header: Mapping[str, Any], claims: Mapping[str, Any], key: PrivateKey) -> str:
    """Sign claims; the ``alg`` of the header, if it has one, says how.

    An ``alg`` that is unknown or unfit for the key is kept, over a signature of the key's usual
    kind; with "none" the signature is empty. That is how forged tokens are made.
    """
    usual = _usual_algorithm(key)
    header = {"alg": usual, **header}
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in (header, claims))
    signing_input = ".".join(map(encode_base64url, parts))
    alg = header["alg"]
    if alg == "none":
        return f"{signing_input}."
    name = alg if alg in _FITTING[usual] else usual
    signature = jwt.get_algorithm_by_name(name).sign(signing_input.encode(), key)
    return f"{signing_input}.{encode_base64url(signature)}"


def _usual_algorithm(key: PrivateKey) -> str:
    if isinstance(key, bytes):
        return "HS256"
    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"


def _pair(index: int) -> tuple[rsa.RSAPrivateKey, bytes]:
    """Return the process's key pair of that index, with its certificate in DER."""
    with _pairs_lock:
        while len(_pairs) <= index:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            _pairs.append((key, _certificate(key)))
        return _pairs[index]


def _certificate(key: rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "accounts.accesscontrol.fake")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
