"""The keys of sessions: allocated ones, which nobody guesses, and the application's own."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import Final, NamedTuple

from ..cache._sessions import session_name
from ..errors import ConfigurationError

_PREFIX: Final = "obo-session-"
_ID_BYTES: Final = 15
_SECRET_BYTES: Final = 33  # 264 bits; both lengths are whole groups of base64
_ALLOCATED: Final = re.compile(rf"{_PREFIX}([A-Za-z0-9_-]{{20}})([A-Za-z0-9_-]{{44}})")
_MAX_CHARACTERS: Final = 512


class SessionKey(NamedTuple):
    """What a key says: where the session stands, and what proves the right to it."""

    name: str
    """The session's name in the cache."""
    secret: bytes
    """SHA-256 of the key's secret half; empty for an explicit key."""

    @classmethod
    def parse(cls, text: object, *namespace: str) -> SessionKey:
        """Read a key.

        Args:
            text: the key.
            namespace: the app registration that it is of.

        Raises:
            ConfigurationError: it is no text, is empty or too long.
        """
        if not isinstance(text, str) or not 0 < len(text) <= _MAX_CHARACTERS:
            raise ConfigurationError(
                f"a session key is a text of 1 to {_MAX_CHARACTERS} characters, such as a job's id"
            )
        allocated = _ALLOCATED.fullmatch(text)
        if allocated is None:
            named = text.encode(errors="surrogatepass").hex()
            return cls(session_name(*namespace, "explicit", named), b"")
        digest = hashlib.sha256(base64.urlsafe_b64decode(allocated[2])).digest()
        return cls(session_name(*namespace, "allocated", allocated[1]), digest)


def new_session_key() -> str:
    """Return a key with an id, and a secret half of 264 random bits that the cache never sees."""
    random = secrets.token_bytes(_ID_BYTES + _SECRET_BYTES)
    return _PREFIX + base64.urlsafe_b64encode(random).decode("ascii")
