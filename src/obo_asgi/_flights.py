"""Single flight: callers that want the same thing at the same time share one task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flights(Generic[T]):
    """Tasks by key and event loop.

    The task belongs to the flight: a caller that is cancelled, also the first one, leaves it
    running for the others and for whatever the task stores at its end. The work must not raise;
    it returns its failures as values, so that a flight nobody waits for any more stays silent.
    """

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, dict[Hashable, asyncio.Task[T]]] = {}

    def get(self, key: Hashable) -> asyncio.Task[T] | None:
        """Return the task that is under way for this key in the running loop."""
        return self._by_loop.get(asyncio.get_running_loop(), {}).get(key)

    def start(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Return the task that is under way for this key, or start one."""
        loop = asyncio.get_running_loop()
        tasks = self._by_loop.get(loop)
        if tasks is None:
            for other in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[other]
            tasks = self._by_loop[loop] = {}
        task = tasks.get(key)
        if task is None:
            task = tasks[key] = loop.create_task(_run(work))
            task.add_done_callback(lambda _: tasks.pop(key, None))
        return task

    async def join(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for the flight of this key, starting it if there is none.

        Raises:
            RuntimeError: `aclose` has ended the flight.
        """
        task = self.start(key, work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not task.cancelled() or (caller is not None and caller.cancelling()):
                raise
        raise RuntimeError("closed while somebody was waiting")

    async def aclose(self, seconds: float = 0) -> None:
        """Cancel what is under way in the running loop and wait until it has ended.

        Args:
            seconds: how long it has until it is cancelled.
        """
        tasks = list(self._by_loop.pop(asyncio.get_running_loop(), {}).values())
        if tasks and seconds:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
