"""Which tenants' users may call, where a predicate of the developer's decides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from ._events import TENANT_UNDECIDED, emit
from ._flights import Flights
from ._lru import LRU
from .config import TenantPredicate
from .errors import InvalidTokenError, KeysUnavailableError

logger = logging.getLogger(__name__)

ALLOWED_SECONDS: Final = 300.0
"""How long a yes is used."""
REFUSED_SECONDS: Final = 30.0
"""How long a no is used: a customer who has just signed up waits no longer."""

_TIMEOUT = 5.0
_RETRY_AFTER = 5
_MAX_TENANTS = 10_000


class _Answer(NamedTuple):
    allowed: bool
    until: float


class TenantPolicy:
    """Asks the predicate, once for all who wait, and remembers its answers for a bounded time.

    Args:
        predicate: tells for a tenant id whether its users may call.
        clock: monotonic seconds.
    """

    def __init__(
        self, predicate: TenantPredicate, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._predicate = predicate
        self._clock = clock
        self._answers: LRU[str, _Answer] = LRU(_MAX_TENANTS)
        self._flights: Flights[bool | None] = Flights()

    def recently_allowed(self, tenant_id: str) -> bool:
        """Tell whether the predicate has lately said yes."""
        answer = self._answers.get(tenant_id)
        return answer is not None and answer.allowed and self._clock() < answer.until

    async def check(self, tenant_id: str) -> None:
        """Let a tenant pass.

        Raises:
            InvalidTokenError: the predicate says no.
            KeysUnavailableError: it fails or takes too long, so nobody can tell.
        """
        answer = self._answers.get(tenant_id)
        if answer is not None and self._clock() < answer.until:
            allowed: bool | None = answer.allowed
        else:
            allowed = await self._flights.join(tenant_id, partial(self._ask, tenant_id))
        if allowed is None:
            raise KeysUnavailableError(
                "whether the tenant may call cannot be told now", retry_after=_RETRY_AFTER
            )
        if not allowed:
            raise InvalidTokenError("tenant", "tid is not an allowed tenant", claim="tid")

    async def aclose(self) -> None:
        """End what is under way in the running loop."""
        await self._flights.aclose()

    async def _ask(self, tenant_id: str) -> bool | None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                allowed = await self._predicate(tenant_id) is True
        except Exception as error:
            kind, message = type(error).__name__, "the predicate over tenants failed: %s"
            emit(logger, logging.WARNING, TENANT_UNDECIDED, message, kind, error=kind)
            return None
        seconds = ALLOWED_SECONDS if allowed else REFUSED_SECONDS
        self._answers.put(tenant_id, _Answer(allowed, self._clock() + seconds))
        return allowed
