"""What the sign-in service remembers to redeem later: authorization codes and refresh tokens."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from .aadsts import EntraError
from .directory import User

_MAX_KEPT: Final = 100_000
_CODE_LIFETIME: Final = 600


@dataclass(frozen=True)
class SignIn:
    """That a user signed in, and how."""

    user: User
    session_id: object
    """The session (``sid``) that it belongs to."""
    methods: tuple[str, ...] = ("pwd",)
    """The authentication methods (``amr``)."""


@dataclass(frozen=True)
class Code:
    """What an authorization code stands for."""

    sign_in: SignIn
    client_id: str
    redirect_uri: str
    scope: str
    challenge: str | None
    nonce: str | None
    claims: str | None
    expires_at: float


@dataclass(frozen=True)
class RefreshToken:
    """What a refresh token stands for; it is good for every resource."""

    sign_in: SignIn
    client_id: str
    scope: str


class Grants:
    """The codes and refresh tokens that were given out; each is redeemed once."""

    def __init__(self) -> None:
        self._codes: OrderedDict[str, Code | None] = OrderedDict()
        self._refresh_tokens: OrderedDict[str, RefreshToken] = OrderedDict()

    def new_code(
        self,
        sign_in: SignIn,
        *,
        client_id: str,
        redirect_uri: str,
        scope: str,
        challenge: str | None,
        nonce: str | None,
        claims: str | None,
    ) -> str:
        """Make an authorization code, good for ten minutes."""
        text = f"0.{secrets.token_urlsafe(48)}"
        expires_at = time.time() + _CODE_LIFETIME
        self._codes[text] = Code(
            sign_in, client_id, redirect_uri, scope, challenge, nonce, claims, expires_at
        )
        _bound(self._codes)
        return text

    def redeem_code(self, text: str) -> Code:
        """Take a code.

        Raises:
            EntraError: it is unknown, used, or too old.
        """
        if text not in self._codes:
            raise EntraError(70000)
        code, self._codes[text] = self._codes[text], None
        if code is None:
            raise EntraError(54005)
        if code.expires_at < time.time():
            raise EntraError(70008)
        return code

    def new_refresh_token(self, grant: RefreshToken) -> str:
        """Make a refresh token."""
        text = f"1.{secrets.token_urlsafe(64)}"
        self._refresh_tokens[text] = grant
        _bound(self._refresh_tokens)
        return text

    def find_refresh_token(self, text: str) -> RefreshToken | None:
        """Look a refresh token up without using it."""
        return self._refresh_tokens.get(text)

    def drop_refresh_token(self, text: str) -> None:
        """Forget a refresh token, because another has taken its place."""
        self._refresh_tokens.pop(text, None)


def _bound(kept: OrderedDict[str, Any]) -> None:
    while len(kept) > _MAX_KEPT:
        kept.popitem(last=False)
