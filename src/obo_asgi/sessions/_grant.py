"""The right of a session to tokens, in whatever process its key is known."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from types import MappingProxyType
from typing import Final

from .._flights import Flights
from .._types import Secret
from ..cache._sessions import SessionRecord, SessionRecords
from ..errors import CacheUnavailableError, OboError
from ..tokens import AccessToken, Issued, TokenEndpoint, TokenKey, User
from ._keys import SessionKey
from ._stored import TOUCH_PART, StoredSession, check_scopes

_CONFIRMED_SECONDS: Final = 30.0
"""For how long tokens in memory are used without a look whether the session was ended."""

Refreshes = Flights[AccessToken | OboError]


class SessionGrant:
    """Gets tokens by the session's refresh token, one process at a time.

    Args:
        records: where sessions are kept.
        refreshes: what is under way; it outlives whoever waits for it, because a new refresh token
            must not be lost.
        key: the session's.
        record: the session as it was read.
        check_tenant: raises an error where the session's tenant is not allowed any more.
    """

    def __init__(
        self,
        records: SessionRecords,
        refreshes: Refreshes,
        key: SessionKey,
        record: SessionRecord,
        check_tenant: Callable[[str], Awaitable[None]],
    ) -> None:
        self._records = records
        self._refreshes = refreshes
        self._stored = StoredSession(records, key, (record.tenant_id, record.owner))
        self._record = record
        self._check_tenant = check_tenant
        self._stand(records.epoch)

    @property
    def user(self) -> User:
        """The user, as the token told that the session was started with."""
        record = self._record
        return User(
            oid=record.owner,
            tid=record.tenant_id,
            claims=MappingProxyType(json.loads(record.claims)),
            scopes=record.user_scopes,
            roles=record.user_roles,
            expires_at=record.token_ended_at,
        )

    @property
    def is_current(self) -> bool:
        """Whether the session was seen a while ago, and this process has ended none since."""
        return self._records.clock() < self._confirmed_until and self._epoch == self._records.epoch

    async def confirm(self) -> None:
        """Make sure that the session was not ended; a cache that is down says nothing of that.

        Raises:
            SessionNotFoundError: it was, or its tenant is not allowed any more.
            SessionExpiredError: its time is up.
            KeysUnavailableError: whether its tenant is allowed cannot be told.
        """
        await self._check_tenant(self._record.tenant_id)
        epoch = self._records.epoch
        try:
            self._record = await self._stored.use()  # the user may have renewed it
        except CacheUnavailableError:
            if self._record.ends_at <= self._records.clock():
                raise
        self._stand(epoch)

    def key(self, scopes: tuple[str, ...], claims: str | None) -> TokenKey:
        record = self._record
        check_scopes(record, scopes)
        return TokenKey(
            "session",
            record.authority,
            record.tenant_id,
            record.client_id,
            record.owner,
            record.binding,
            scopes,
            claims,
        )

    async def redeem(
        self,
        endpoint: TokenEndpoint,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> AccessToken:
        async def redeem(record: SessionRecord) -> Issued:
            return await endpoint.refresh(
                record.tenant_id,
                Secret(record.refresh_token),
                scopes,
                claims=claims,
                correlation_id=correlation_id,
            )

        work = partial(self._stored.refresh, scopes, redeem)
        outcome = await self._refreshes.join(object(), work)
        if isinstance(outcome, OboError):
            raise outcome
        return outcome

    def _stand(self, epoch: int) -> None:
        self._epoch, record = epoch, self._record
        seconds = _CONFIRMED_SECONDS
        if record.idle_timeout is not None:
            seconds = min(seconds, record.idle_timeout * TOUCH_PART)
        self._confirmed_until = min(self._records.clock() + seconds, record.ends_at)
