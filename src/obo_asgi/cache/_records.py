"""What is kept in a shared cache: names that tell nothing, and sealed values."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from ..tokens import AccessToken, TokenKey
from ._seal import Sealer, Unreadable

__all__ = [
    "PURGES",
    "hashed_name",
    "lock_of",
    "name_of",
    "open_time",
    "open_token",
    "purge_name",
    "seal_time",
    "seal_token",
]

_PREFIX = "obo:1:"  # the number is that of the format

PURGES = f"{_PREFIX}purges"
"""Where the moment of the last purge of anybody stands."""

_TOKEN = "token"
_PURGE = "purge"


class _TokenRecord(msgspec.Struct, array_like=True, frozen=True):
    """A token, and whose it is."""

    authority: str
    tenant_id: str
    client_id: str
    owner: str
    token: str
    expires_at: float
    refresh_at: float
    issued_at: float

    def __repr__(self) -> str:
        return "_TokenRecord()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # msgspec's, which rich prefers, shows all
        return []


_token_decoder = msgspec.msgpack.Decoder(_TokenRecord)
_time_decoder = msgspec.msgpack.Decoder(float)


def name_of(key: TokenKey) -> str:
    """Return the name of a token."""
    return _PREFIX + key.digest()


def lock_of(name: str) -> str:
    """Return the name of the lock of whoever may change what stands under a name."""
    return f"{name}:lock"


def purge_name(client_id: str, tenant_id: str, owner: str) -> str:
    """Return the name of the moment at which a user was purged, however the ids are spelled."""
    return hashed_name(*(text.lower() for text in (_PURGE, client_id, tenant_id, owner)))


def hashed_name(*texts: str) -> str:
    """Return a name that tells nothing; different texts never share one."""
    parts = (text.encode() for text in texts)
    joined = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return _PREFIX + hashlib.sha256(joined).hexdigest()


def seal_token(sealer: Sealer, name: str, key: TokenKey, token: AccessToken) -> str:
    """Return a token as it stands in the shared cache, under the name of its key."""
    record = _TokenRecord(
        key.authority,
        key.tenant_id,
        key.client_id,
        key.owner,
        token.token,
        token.expires_at,
        token.refresh_at,
        token.issued_at,
    )
    return sealer.seal(name, _TOKEN, msgspec.msgpack.encode(record))


def open_token(sealer: Sealer, name: str, key: TokenKey, text: object) -> AccessToken:
    """Return the token that stands under the name of a key.

    Raises:
        Unreadable: it is not a token that was sealed for this key and this owner.
    """
    try:
        record = _token_decoder.decode(sealer.open(name, _TOKEN, text))
    except msgspec.MsgspecError:
        raise Unreadable("another form") from None
    owner = (record.authority, record.tenant_id, record.client_id, record.owner)
    if owner != (key.authority, key.tenant_id, key.client_id, key.owner):
        raise Unreadable("another owner")
    return AccessToken(record.token, record.expires_at, record.refresh_at, record.issued_at)


def seal_time(sealer: Sealer, name: str, moment: float) -> str:
    """Return a moment, in seconds since the epoch, as it stands in the shared cache."""
    return sealer.seal(name, _PURGE, msgspec.msgpack.encode(moment))


def open_time(sealer: Sealer, name: str, text: object) -> float:
    """Return a moment.

    Raises:
        Unreadable: it is none that was sealed under this name.
    """
    try:
        return _time_decoder.decode(sealer.open(name, _PURGE, text))
    except msgspec.MsgspecError:
        raise Unreadable("another form") from None
