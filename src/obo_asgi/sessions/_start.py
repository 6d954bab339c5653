"""A session that is being started: the user's token is exchanged, also for a refresh token."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable

from .._types import Secret
from ..cache._sessions import RECORD_FORMAT, SessionRecord
from ..errors import TokenAcquisitionError
from ..tokens import AccessToken, OnBehalfOfGrant, TokenEndpoint, TokenKey, User

_BINDING_BYTES = 16

Save = Callable[[SessionRecord], Awaitable[None]]


class StartingSession:
    """The grant by which a session gets its first tokens; then it is saved.

    Args:
        grant: the request's own.
        user: who is to be acted for.
        save: puts the session where others find it.
        scopes: all that it may ask for; None for whatever is configured.
        secret: SHA-256 of the key's secret half.
        started_at: when it starts, seconds since the epoch.
        ends_at: when it ends at the latest.
        idle_timeout: seconds after which it ends when nobody uses it.
    """

    is_current = True

    def __init__(
        self,
        grant: OnBehalfOfGrant,
        user: User,
        save: Save,
        *,
        scopes: tuple[str, ...] | None,
        secret: bytes,
        started_at: float,
        ends_at: float,
        idle_timeout: float | None,
    ) -> None:
        self._grant = grant
        self._user = user
        self._save = save
        self._scopes = scopes
        self._secret = secret
        self._started_at = started_at
        self._ends_at = ends_at
        self._idle_timeout = idle_timeout
        self._binding = secrets.token_bytes(_BINDING_BYTES)
        self._proven: set[str] = set()
        self._refresh_token: Secret | None = None

    async def confirm(self) -> None:
        """It stands as long as the request."""

    def key(self, scopes: tuple[str, ...], claims: str | None) -> TokenKey:
        key = self._grant.key(scopes, claims)
        return key._replace(kind="session", binding=self._binding)

    async def redeem(
        self,
        endpoint: TokenEndpoint,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> AccessToken:
        issued = await self._grant.exchange(
            endpoint, scopes, claims=claims, correlation_id=correlation_id
        )
        if issued.refresh_token is not None:
            self._refresh_token = issued.refresh_token
        self._proven.update(scopes)
        return issued.token

    async def save(self) -> None:
        """Let the session begin.

        Raises:
            TokenAcquisitionError: Entra gave no refresh token.
            CacheUnavailableError: it may not have begun.
        """
        if self._refresh_token is None:
            raise TokenAcquisitionError(
                "Entra gave no refresh token, without which a session is of no use",
                hint="let the app registration have the permission offline_access",
            )
        key = self.key((), None)
        await self._save(
            SessionRecord(
                format=RECORD_FORMAT,
                authority=key.authority,
                tenant_id=key.tenant_id,
                client_id=key.client_id,
                owner=key.owner,
                secret=self._secret,
                binding=self._binding,
                generation=1,
                refresh_token=self._refresh_token.reveal(),
                scopes=self._scopes,
                proven=tuple(sorted(self._proven)),
                claims=json.dumps(dict(self._user.claims)).encode(),
                user_scopes=self._user.scopes,
                user_roles=self._user.roles,
                token_ended_at=self._user.expires_at,
                started_at=self._started_at,
                ends_at=self._ends_at,
                idle_timeout=self._idle_timeout,
                used_at=self._started_at,
            )
        )
