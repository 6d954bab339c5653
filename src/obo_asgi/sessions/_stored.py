"""A session as its key opens it: found, alive, used, and with a new refresh token."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hmac import compare_digest
from typing import Final

from msgspec.structs import replace

from .._events import SESSION_EXPIRED, emit
from .._types import Secret
from ..cache._sessions import SessionRecord, SessionRecords
from ..entra_errors import ACCOUNT_GONE
from ..errors import (
    AccessDeniedError,
    AssertionRejectedError,
    CacheUnavailableError,
    InteractionRequiredError,
    OboError,
    SessionExpiredError,
    SessionNotFoundError,
    SessionUnreadableError,
    clone_error,
)
from ..tokens import AccessToken, Issued
from ._keys import SessionKey
from ._requester import may_use

logger = logging.getLogger(__name__)

TOUCH_PART: Final = 0.1
"""The part of its idle time after which the use of a session is written down."""

Redeem = Callable[[SessionRecord], Awaitable[Issued]]


class StoredSession:
    """What stands under the key of a session, by now.

    Args:
        records: where sessions are kept.
        key: the session's.
        owner: tenant id and oid of the only user whose session is meant; None for whoever's.
    """

    def __init__(
        self, records: SessionRecords, key: SessionKey, owner: tuple[str, str] | None = None
    ) -> None:
        self._records = records
        self._key = key
        self._owner = owner

    async def find(self) -> SessionRecord:
        """Return the session, alive or not.

        Raises:
            SessionNotFoundError: there is none, or it is another user's.
            CacheUnavailableError: it cannot be told.
        """
        record = await self._records.read(self._key.name)
        if record is None or not self._is_meant(record):
            raise SessionNotFoundError
        return record

    async def load(self) -> SessionRecord:
        """Return the session, which is alive.

        Raises:
            SessionNotFoundError: there is none, it was ended, or it is another user's.
            SessionExpiredError: its time is up.
            CacheUnavailableError: it cannot be told.
        """
        record = await self.find()
        if record.end <= self._records.clock():
            raise SessionExpiredError("the session has reached the end of its lifetime")
        if await self._records.is_ended(record):
            raise SessionNotFoundError
        return record

    async def use(self) -> SessionRecord:
        """Return the session, which is alive, and write down that it is used.

        Raises:
            As `load` does.
        """
        record = await self.load()
        if self._is_due(record):
            with suppress(CacheUnavailableError):  # or somebody changes it, and writes it down
                async with self._records.lock(self._key.name, wait=False):
                    record = await self.load()
                    if self._is_due(record):
                        await self._change(record)
        return record

    async def refresh(self, scopes: tuple[str, ...], redeem: Redeem) -> AccessToken | OboError:
        """Get a token by the refresh token, and keep the newer one; a failure is returned.

        Args:
            scopes: what the token is for.
            redeem: redeems the refresh token of a record.
        """
        try:
            async with self._records.lock(self._key.name):
                record, issued = await self._redeem(await self.load(), scopes, redeem)
                with suppress(SessionUnreadableError):  # a newer version's by now: left to it
                    await self._change(record, issued.refresh_token)
                return issued.token
        except OboError as error:
            return clone_error(error)  # its traceback would keep the refresh token alive

    async def _redeem(
        self, record: SessionRecord, scopes: tuple[str, ...], redeem: Redeem
    ) -> tuple[SessionRecord, Issued]:
        """Redeem a refresh token; a session whose own is of no use any more is deleted."""
        check_scopes(record, scopes)
        try:
            return record, await redeem(record)
        except (AssertionRejectedError, AccessDeniedError) as error:
            is_denied = isinstance(error, AccessDeniedError)
            if is_denied and ACCOUNT_GONE.isdisjoint(error.error_codes):
                raise
            current = await self.load()
            if not _is_same(current, record):  # the lock has not held for long enough
                return await self._redeem(current, scopes, redeem)
            with suppress(CacheUnavailableError):  # then its next use tries again
                await self._records.delete(self._key.name)
            ended = SessionExpiredError(
                "Entra has ended the session: the user has to sign in again",
                error_codes=error.error_codes,
                correlation_id=error.correlation_id,
            )
        except InteractionRequiredError as error:
            if error.needs_consent and set(scopes) <= set(record.proven):
                with suppress(OboError):  # then what is there now is not to be touched
                    if _is_same(await self.load(), record):
                        await self._records.delete(self._key.name)
            raise
        emit(
            logger,
            logging.INFO,
            SESSION_EXPIRED,
            "session refused: %s",
            ended,
            tenant=record.tenant_id,
            correlation_id=ended.correlation_id,
        )
        raise ended

    async def _change(self, record: SessionRecord, newer: Secret | None = None) -> None:
        """Write the next generation of a session, unless it was ended or changed meanwhile."""
        try:
            current = await self.find()
        except SessionUnreadableError:
            raise
        except CacheUnavailableError:
            current = record
        if current.binding == record.binding and current.generation <= record.generation:
            changed = replace(
                record,
                generation=record.generation + 1,
                refresh_token=newer.reveal() if newer else record.refresh_token,
                used_at=self._records.clock(),
            )
            await self._records.write_or_keep(self._key.name, changed)

    def _is_meant(self, record: SessionRecord) -> bool:
        owner = (record.tenant_id, record.owner)
        return (
            compare_digest(record.secret, self._key.secret)
            and self._owner in (None, owner)
            and may_use(*owner)
        )

    def _is_due(self, record: SessionRecord) -> bool:
        """Tell whether its end depends on its use, which was not written down for a while."""
        idle = record.idle_timeout
        return idle is not None and self._records.clock() - record.used_at >= idle * TOUCH_PART


def check_scopes(record: SessionRecord, scopes: tuple[str, ...]) -> None:
    """Refuse what a session was not started for.

    Raises:
        AccessDeniedError: it may not ask for these scopes.
    """
    if record.scopes is not None and not set(scopes) <= set(record.scopes):
        raise AccessDeniedError(
            "the session was started for other APIs or scopes",
            error="access_denied",
            hint="start_session(apis=[…]) names all that the work needs; if "
            "DownstreamAPI(scopes=[…]) has changed since, its user has to start it again",
        )


def _is_same(record: SessionRecord, other: SessionRecord) -> bool:
    return (record.binding, record.generation) == (other.binding, other.generation)
