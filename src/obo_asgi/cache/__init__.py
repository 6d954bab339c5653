"""Where tokens for downstream APIs are kept."""

from __future__ import annotations

import time

from .._lru import LRU
from ..errors import ConfigurationError
from ..tokens import AccessToken, TokenKey

__all__ = ["TokenCache"]


class TokenCache:
    """Tokens in the memory of this process, bounded; reading one is a dictionary look-up.

    Args:
        max_entries: how many tokens are kept; one takes about 2.5 kB.
    """

    def __init__(self, *, max_entries: int = 50_000) -> None:
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ConfigurationError(f"max_entries must be a whole number above 0: {max_entries!r}")
        self._tokens: LRU[TokenKey, AccessToken] = LRU(max_entries)

    def get(self, key: TokenKey) -> AccessToken | None:
        """Return the token unless it has ended."""
        token = self._tokens.get(key)
        if token is not None and token.expires_at <= time.time():
            self._tokens.drop(key)
            return None
        return token

    def put(self, key: TokenKey, token: AccessToken) -> None:
        """Keep a token until it ends."""
        if token.expires_at > time.time():
            self._tokens.put(key, token)

    def drop(self, key: TokenKey) -> None:
        """Forget a token."""
        self._tokens.drop(key)

    def __len__(self) -> int:
        return len(self._tokens)
