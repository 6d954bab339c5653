"""The log: one tree of loggers, ``obo_asgi``, whose events have names and fields that stay."""

from __future__ import annotations

import logging
from typing import Any, Final

TOKEN_VERIFIED: Final = "token.verified"
TOKEN_REFUSED: Final = "token.refused"
REQUEST_REFUSED: Final = "request.refused"
TOKEN_ACQUIRED: Final = "token.acquired"
TOKEN_EXCHANGED: Final = "token.exchanged"
EXCHANGE_FAILED: Final = "exchange.failed"
EXCHANGE_UNANSWERED: Final = "exchange.unanswered"
KEYS_FETCHED: Final = "keys.fetched"
KEYS_UNAVAILABLE: Final = "keys.unavailable"
CREDENTIAL_REFUSED: Final = "credential.refused"
CREDENTIAL_UNREADABLE: Final = "credential.unreadable"
TENANT_UNDECIDED: Final = "tenant.undecided"
CACHE_OPENED: Final = "cache.breaker_opened"
CACHE_CLOSED: Final = "cache.breaker_closed"
CACHE_UNAVAILABLE: Final = "cache.unavailable"
CACHE_IN_MEMORY: Final = "cache.sessions_in_memory"
SESSION_STARTED: Final = "session.started"
SESSION_RESUMED: Final = "session.resumed"
SESSION_ENDED: Final = "session.ended"
SESSION_EXPIRED: Final = "session.expired"
WEBSOCKET_ENDED: Final = "websocket.ended"
DOWNSTREAM_CALLED: Final = "downstream.called"
DOWNSTREAM_FAILED: Final = "downstream.failed"

EVENTS: Final = tuple(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str)
)
"""Every event; docs/observability.md says when it happens and which fields it has."""

logging.getLogger("obo_asgi").addHandler(logging.NullHandler())


def emit(
    logger: logging.Logger, level: int, event: str, message: str, *args: object, **fields: Any
) -> None:
    """Log an event; what is None is left out, and nothing is made where nobody listens."""
    if logger.isEnabledFor(level):
        extra = {name: value for name, value in fields.items() if value is not None}
        logger.log(level, message, *args, extra={"event": event, **extra}, stacklevel=2)


def milliseconds(seconds: float) -> float:
    """Return a duration as the log has it."""
    return round(seconds * 1000, 1)
