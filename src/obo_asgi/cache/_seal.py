"""Values sealed with AES-256-GCM, so that whoever reads or writes the shared cache learns nothing
and forges nothing.

A sealed value is base64 text, which every serializer of a cache carries: a version byte, four bytes
that name the key, a nonce of twelve bytes, and the ciphertext. Its associated data bind it to its
name in the cache, to the version and to its kind.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import ConfigurationError

__all__ = ["Sealer", "Unreadable", "check_keys", "derive_key", "new_cache_key"]

_VERSION: Final = b"\x01"
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_NONCE_START: Final = len(_VERSION) + _ID_BYTES
_CIPHERTEXT_START: Final = _NONCE_START + _NONCE_BYTES
_MAX_TEXT: Final = 256 * 1024


class Unreadable(Exception):
    """A value cannot be opened: of another key or version, cut off, or tampered with."""


def new_cache_key() -> str:
    """Return a new random key for the ring of a `TokenCache`: 256 bits, as base64url."""
    return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode("ascii").rstrip("=")


def check_keys(keys: Iterable[str | bytes]) -> tuple[bytes, ...]:
    """Return the keys of a ring as bytes, in their order.

    Raises:
        ConfigurationError: one is not 256 bits; no key is shown.
    """
    if isinstance(keys, str | bytes):
        raise ConfigurationError("keys must be a list, the newest first: keys=[key]")
    ring = []
    for position, key in enumerate(keys):
        try:
            raw = _unpad(key) if isinstance(key, str) else bytes(key)
        except (TypeError, ValueError):
            raw = b""
        if len(raw) != _KEY_BYTES:
            raise ConfigurationError(
                f"keys[{position}] is not a key of 32 bytes in base64url; make one with: "
                "python -c 'import obo_asgi; print(obo_asgi.new_cache_key())'"
            )
        ring.append(raw)
    if not ring:
        raise ConfigurationError("keys is empty: name at least one key, or leave it out")
    return tuple(ring)


def derive_key(secret: bytes, *, context: str) -> bytes:
    """Derive a key from a client secret or a private key (HKDF, RFC 5869)."""
    info = f"obo-asgi token cache 1 {context}".encode()
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=info).derive(secret)


class Sealer:
    """Seals with the first key of a ring and opens with any of them.

    Args:
        keys: of 32 bytes each, the newest first.
    """

    __slots__ = ("_ciphers", "_first")

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._first = next(iter(self._ciphers.items()))

    def seal(self, name: str, kind: str, value: bytes) -> str:
        """Return a value as text that only this ring opens, under this name and kind."""
        key_id, cipher = self._first
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = cipher.encrypt(nonce, value, _associated(name, kind))
        return _encode(_VERSION + key_id + nonce + ciphertext)

    def open(self, name: str, kind: str, text: object) -> bytes:
        """Return the value that was sealed under this name and kind.

        Raises:
            Unreadable: it is anything else.
        """
        raw = _decode(text)
        cipher = self._ciphers.get(raw[len(_VERSION) : _NONCE_START])
        if raw[: len(_VERSION)] != _VERSION or cipher is None:
            raise Unreadable("another version or key")
        nonce = raw[_NONCE_START:_CIPHERTEXT_START]
        try:
            return cipher.decrypt(nonce, raw[_CIPHERTEXT_START:], _associated(name, kind))
        except (InvalidTag, ValueError):
            raise Unreadable("not what was sealed here") from None

    def __repr__(self) -> str:
        return f"Sealer({len(self._ciphers)} keys)"


# msgspec's base64 is several times faster than the standard library's.
_decoder: Final = msgspec.json.Decoder(bytes)


def _encode(raw: bytes) -> str:
    return msgspec.json.encode(raw)[1:-1].decode("ascii")


def _decode(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise Unreadable("not a sealed text")
    try:
        return _decoder.decode(f'"{text}"')
    except ValueError:
        raise Unreadable("not a sealed text") from None


def _unpad(text: str) -> bytes:
    padded = text + "=" * (-len(text) % 4)
    return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"obo-asgi key id" + key).digest()[:_ID_BYTES]


def _associated(name: str, kind: str) -> bytes:
    return b"\0".join((_VERSION, kind.encode(), name.encode()))
