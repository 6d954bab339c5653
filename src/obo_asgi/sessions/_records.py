"""A session as its key opens it: found, alive, used, and with a new refresh token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from hmac import compare_digest
from typing import Final

import msgspec

from ..cache import SessionRecord, SessionRecords
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

__all__ = ["check_scopes", "find", "load", "refresh", "touch"]

_TOUCH_PART: Final = 0.1
"""The part of its idle time after which the use of a session is written down."""

Redeem = Callable[[SessionRecord], Awaitable[Issued]]


async def find(records: SessionRecords, key: SessionKey) -> SessionRecord | None:
    """Return the session of a key, alive or not; None if there is none.

    Raises:
        CacheUnavailableError: it cannot be told.
    """
    record = await records.read(key.name)
    return record if record is not None and compare_digest(record.secret, key.secret) else None


async def load(records: SessionRecords, key: SessionKey) -> SessionRecord:
    """Return the session of a key that is alive.

    Raises:
        SessionNotFoundError: there is none, or it was ended.
        SessionExpiredError: its time is up.
        CacheUnavailableError: it cannot be told.
    """
    record = await find(records, key)
    if record is None:
        raise SessionNotFoundError
    if record.end <= records.clock():
        raise SessionExpiredError("the session has reached the end of its lifetime")
    ended_at = await records.ended_at(record.client_id, record.tenant_id, record.owner)
    if record.started_at <= ended_at:
        raise SessionNotFoundError
    return record


async def touch(records: SessionRecords, key: SessionKey, record: SessionRecord) -> None:
    """Write down that a session is used, as far as its end depends on it, and not each time."""
    idle = record.idle_timeout
    if idle is None or records.clock() - record.used_at < idle * _TOUCH_PART:
        return
    with suppress(CacheUnavailableError):
        async with records.lock(key.name):
            await _change(records, key, await load(records, key), record.refresh_token)


def check_scopes(record: SessionRecord, scopes: tuple[str, ...]) -> None:
    """Refuse what a session was not started for.

    Raises:
        AccessDeniedError: it may not ask for these scopes.
    """
    if record.scopes is not None and not set(scopes) <= set(record.scopes):
        raise AccessDeniedError(
            "the session was started for other APIs or scopes",
            error="access_denied",
            hint="start_session(apis=[…]) names all that the work needs",
        )


async def refresh(
    records: SessionRecords, key: SessionKey, scopes: tuple[str, ...], redeem: Redeem
) -> AccessToken | OboError:
    """Get a token by a session's refresh token, and keep the newer one; a failure is returned.

    Args:
        records: where sessions are kept.
        key: the session's.
        scopes: what the token is for.
        redeem: redeems the refresh token of a record.
    """
    try:
        async with records.lock(key.name):
            record = await load(records, key)
            check_scopes(record, scopes)
            record, issued = await _redeem(records, key, record, scopes, redeem)
            if issued.refresh_token is None:
                newer = record.refresh_token
            else:
                newer = issued.refresh_token.reveal()
            with suppress(SessionUnreadableError):  # a newer version's by now: left to it
                await _change(records, key, record, newer)
            return issued.token
    except OboError as error:
        return clone_error(error)  # its traceback would keep the refresh token alive


async def _redeem(
    records: SessionRecords,
    key: SessionKey,
    record: SessionRecord,
    scopes: tuple[str, ...],
    redeem: Redeem,
) -> tuple[SessionRecord, Issued]:
    """Redeem a refresh token; a session whose own is of no use any more is deleted."""
    try:
        return record, await redeem(record)
    except AssertionRejectedError as error:
        newer = await load(records, key)
        if newer.generation > record.generation:  # the lock has not held for long enough
            return await _redeem(records, key, newer, scopes, redeem)
        await _delete(records, key)
        ended = SessionExpiredError(
            "Entra has ended the session: the user has to sign in again",
            error_codes=error.error_codes,
            correlation_id=error.correlation_id,
        )
    except InteractionRequiredError as error:
        if error.needs_consent and set(scopes) <= set(record.proven):
            await _delete(records, key)
        raise
    raise ended


async def _change(
    records: SessionRecords, key: SessionKey, record: SessionRecord, refresh_token: str
) -> None:
    """Write the next generation of a session, unless it was ended or changed meanwhile."""
    try:
        current = await records.read(key.name)
    except SessionUnreadableError:
        raise
    except CacheUnavailableError:
        current = record
    if current is None:
        raise SessionNotFoundError
    if current.generation <= record.generation:
        changed = msgspec.structs.replace(
            record,
            generation=record.generation + 1,
            refresh_token=refresh_token,
            used_at=records.clock(),
        )
        await records.write_or_keep(key.name, changed)


async def _delete(records: SessionRecords, key: SessionKey) -> None:
    with suppress(CacheUnavailableError):  # then its next use finds the same and tries again
        await records.delete(key.name)
