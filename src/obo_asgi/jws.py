"""The strict compact form of a signed token (RFC 7515 section 7.1), taken apart but not trusted."""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple

import msgspec

from .errors import InvalidTokenError

__all__ = ["MAX_TOKEN_BYTES", "Compact", "parse_compact"]

MAX_TOKEN_BYTES = 32 * 1024
"""Longer tokens are refused unread; 200 group claims make about 11 kB."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Compact(NamedTuple):
    """The parts of a token whose signature nobody has checked yet."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signing_input: bytes
    signature: bytes

    def __repr__(self) -> str:
        return "Compact(***)"


def parse_compact(token: str) -> Compact:
    """Take a token apart.

    Raises:
        InvalidTokenError: it is too large, not three canonical base64url parts, or its header or
            claims are not JSON objects in UTF-8.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidTokenError("size", f"the token is larger than {MAX_TOKEN_BYTES} bytes")
    if not _COMPACT.fullmatch(token):
        raise InvalidTokenError("malformed", "the token is not a compact JWS of three parts")
    header, claims, signature = token.split(".")
    return Compact(
        _json_object(_decode(header), "header"),
        _json_object(_decode(claims), "payload"),
        f"{header}.{claims}".encode("ascii"),
        _decode(signature),
    )


def _decode(part: str) -> bytes:
    """Decode base64url without padding, refusing a second spelling of the same bytes."""
    raw = part.encode("ascii")
    try:
        decoded = urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except binascii.Error:
        decoded = b""
    if urlsafe_b64encode(decoded).rstrip(b"=") != raw:
        raise InvalidTokenError("malformed", "a part of the token is not canonical base64url")
    return decoded


def _json_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidTokenError("malformed", f"the token's {name} is not a JSON object")
    return value
