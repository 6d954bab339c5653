"""The shared cache as it behaves in production: slow, down or lying, and never an error to a user.

Whatever goes wrong is a miss and a counter. After a few failures in a row nothing is asked for a
while, then one caller tries again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Literal, Protocol

from .._events import CACHE_CLOSED, CACHE_OPENED, CACHE_UNAVAILABLE, emit
from .._telemetry import span
from ..errors import ConfigurationError
from ._background import Background

logger = logging.getLogger(__name__)

FAILURES: Final = 3
"""Failures in a row after which the store is left alone."""
PERIOD: Final = 5.0
"""Seconds for which it is."""

COUNTS: Final = (
    *("hits", "misses", "waits", "timeouts", "failures"),
    *("skipped", "dropped", "unreadable", "unwritten"),
)
"""What is counted."""

_BACKGROUND_SECONDS: Final = 2.0
_ON_ITS_WAY_SECONDS: Final = 0.1

State = Literal["closed", "open", "half-open"]


class SharedCache(Protocol):
    """What is used of an aiocache cache."""

    async def get(self, key: str) -> Any: ...

    async def set(self, key: str, value: str, ttl: int) -> Any: ...

    async def add(self, key: str, value: str, ttl: int) -> Any: ...

    async def delete(self, key: str) -> Any: ...

    async def close(self) -> Any: ...


class Unavailable(Exception):
    """The store did not answer, or is left alone for a while."""


class Budget:
    """The seconds that the store itself may take in one acquisition; a time-out ends it."""

    __slots__ = ("left",)

    def __init__(self, seconds: float) -> None:
        self.left = seconds


class Breaker:
    """Lets calls through until some failed in a row; then one at a time, once in a while.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._opened_at = float("-inf")
        self._is_trying = False

    @property
    def state(self) -> State:
        """Whether calls go through: all ("closed"), none ("open"), or one ("half-open")."""
        if self._failures < FAILURES:
            return "closed"
        return "open" if self._clock() - self._opened_at < PERIOD else "half-open"

    def enter(self) -> bool:
        """Tell whether a call may go through; it must then be told how it ended."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._is_trying:
            return False
        self._is_trying = True
        return True

    def succeeded(self) -> None:
        """The store has answered."""
        self._failures, self._is_trying = 0, False

    def failed(self) -> None:
        """The store has not answered, or nonsense."""
        self._failures += 1
        self._is_trying = False
        self._opened_at = self._clock()

    def left(self) -> None:
        """The call was given up by its caller, which says nothing of the store."""
        self._is_trying = False


class Store:
    """Asks a shared cache within bounds.

    Args:
        cache: any aiocache cache, or what has its four methods.
        clock: monotonic seconds.
    """

    def __init__(self, cache: SharedCache, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._clock = clock
        self.breaker = Breaker(clock)
        self.counts: Counter[str] = Counter()
        self._background = Background()
        self._calls: set[asyncio.Future[None]] = set()
        self.failure: ConfigurationError | str = ""
        """Why it did not answer the last time: what must change first, or a word."""

    async def get(self, name: str, budget: Budget) -> Any:
        """Return what is kept under a name; None for nothing.

        Raises:
            Unavailable: it cannot be told.
        """
        return await self._ask("get", self._cache.get, (name,), budget)

    async def add(self, name: str, value: str, ttl: int, budget: Budget) -> bool:
        """Keep a value if there is none, and tell whether there was none.

        Raises:
            Unavailable: it cannot be told.
        """
        try:
            await self._ask("add", self._add, (name, value, ttl), budget)
        except _Exists:
            return False
        return True

    async def set(self, name: str, value: str, ttl: int, budget: Budget) -> None:
        """Keep a value.

        Raises:
            Unavailable: it may not have been kept.
        """
        await self._ask("set", self._cache.set, (name, value, ttl), budget)

    async def delete(self, name: str, budget: Budget) -> None:
        """Forget a value.

        Raises:
            Unavailable: it may still be there.
        """
        await self._ask("delete", self._cache.delete, (name,), budget)

    async def unlock(self, lock: str, mine: str, budget: Budget) -> None:
        """Give up a lock that was taken by `add`, if it is still one's own.

        Raises:
            Unavailable: it stays until its time is up.
        """
        if await self.get(lock, budget) != mine:
            # Taking it may have been given up on its way, and arrive after this.
            await asyncio.sleep(_ON_ITS_WAY_SECONDS)
            if await self.get(lock, budget) != mine:
                return
        await self.delete(lock, budget)

    def in_background(self, work: Callable[[Budget], Coroutine[Any, Any, None]]) -> None:
        """Do something that nobody waits for; when too much of it is under way, leave it."""
        if not self._background.start(self._quietly(work)):
            self.counts["dropped"] += 1

    async def aclose(self) -> None:
        """Let what is under way in the running loop end, for a moment, and close the cache."""
        await self._background.aclose(_BACKGROUND_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(_BACKGROUND_SECONDS):
                while calls := self._calls_here():  # closed amid a call, it may connect afterwards
                    await asyncio.wait(calls)
        try:
            async with asyncio.timeout(_BACKGROUND_SECONDS):
                await self._cache.close()
        except Exception as error:
            self._warn("the shared cache did not close: %s", error)

    async def _ask(
        self,
        operation: str,
        method: Callable[..., Awaitable[Any]],
        arguments: tuple[Any, ...],
        budget: Budget,
    ) -> Any:
        if budget.left <= 0 or not self.breaker.enter():
            self.counts["skipped"] += 1
            raise Unavailable
        with span("cache", operation=operation) as current:
            try:
                result = await self._call(method, arguments, budget)
            except (_Exists, Unavailable) as error:
                exists = isinstance(error, _Exists)
                current.set_attribute("obo_asgi.outcome", "exists" if exists else "failure")
            else:
                outcome = "miss" if operation == "get" and result is None else "success"
                current.set_attribute("obo_asgi.outcome", outcome)
                return result
        raise _Exists if exists else Unavailable

    async def _call(
        self, method: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...], budget: Budget
    ) -> Any:
        started = self._clock()
        call = asyncio.get_running_loop().create_future()
        self._calls.add(call)
        try:
            async with asyncio.timeout(budget.left):
                result = await method(*arguments)
        except _Exists:
            self._note_success()
            raise
        except TimeoutError:
            budget.left = 0
            self._note_failure("timeouts", "took too long")
        except ConfigurationError as error:
            self._note_failure("failures", ConfigurationError(str(error)))
        except Exception as error:
            self._note_failure("failures", type(error).__name__)
        except BaseException:
            self.breaker.left()
            raise
        else:
            self._note_success()
            return result
        finally:
            budget.left -= self._clock() - started
            self._calls.discard(call)
            call.set_result(None)
        raise Unavailable

    def _calls_here(self) -> list[asyncio.Future[None]]:
        loop = asyncio.get_running_loop()
        return [call for call in list(self._calls) if call.get_loop() is loop]

    async def _add(self, name: str, value: str, ttl: int) -> None:
        """Add, telling "it is there" from every other failure."""
        try:
            await self._cache.add(name, value, ttl)
        except ConfigurationError:
            raise
        except ValueError:
            raise _Exists from None

    def _note_success(self) -> None:
        was_open = self.breaker.state != "closed"
        self.breaker.succeeded()
        if was_open:
            message = "the shared cache answers again"
            emit(logger, logging.INFO, CACHE_CLOSED, message)

    def _note_failure(self, counter: str, reason: ConfigurationError | str) -> None:
        self.counts[counter] += 1
        self.failure = reason
        before = self.breaker.state
        self.breaker.failed()
        if before == "closed" and self.breaker.state == "open":
            emit(
                logger,
                logging.WARNING,
                CACHE_OPENED,
                "the shared cache is left alone for %d s: %s",
                PERIOD,
                reason,
                error=str(reason),
            )

    async def _quietly(self, work: Callable[[Budget], Coroutine[Any, Any, None]]) -> None:
        try:
            await work(Budget(_BACKGROUND_SECONDS))
        except Exception as error:
            self.counts["unwritten"] += 1
            if not isinstance(error, Unavailable):
                self._warn("the shared cache could not be written: %s", error)

    @staticmethod
    def _warn(message: str, error: Exception) -> None:
        kind = type(error).__name__
        emit(logger, logging.WARNING, CACHE_UNAVAILABLE, message, kind, error=kind)


class _Exists(Exception):
    """There is a value already."""
