"""``WWW-Authenticate: Bearer`` challenges (RFC 6750 section 3, Entra's claims challenge)."""

from __future__ import annotations

import re
from base64 import b64encode

__all__ = ["bearer_challenge", "encode_claims"]

# What RFC 6750 lets stand inside a quoted parameter: printable ASCII without '"' and '\'.
_UNSAFE = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")


def bearer_challenge(**parameters: str | None) -> str:
    """Build one challenge with every given parameter once; what cannot be quoted becomes ``?``.

    The realm is empty, as Entra's is: a challenge needs at least one parameter.
    """
    given = {"realm": "", **parameters}
    quoted = (
        f'{name}="{_UNSAFE.sub("?", value)}"' for name, value in given.items() if value is not None
    )
    return "Bearer " + ", ".join(quoted)


def encode_claims(claims: str) -> str:
    """Return a claims challenge as the base64 that the header carries."""
    return b64encode(claims.encode()).decode("ascii")
