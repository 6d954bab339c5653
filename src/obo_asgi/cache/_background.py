"""Work that nobody waits for, bounded, and ended with its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

_MAX_TASKS: Final = 1000


class Background:
    """Tasks by event loop."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, set[asyncio.Task[None]]] = {}

    def start(self, work: Coroutine[Any, Any, None]) -> bool:
        """Start some work, which must not raise; False if too much is under way already."""
        loop = asyncio.get_running_loop()
        tasks = self._by_loop.get(loop)
        if tasks is None:
            for closed in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[closed]
            tasks = self._by_loop[loop] = set()
        if len(tasks) >= _MAX_TASKS:
            work.close()
            return False
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return True

    async def aclose(self, seconds: float) -> None:
        """Let the work of the running loop end, for so long, and cancel the rest."""
        tasks = self._by_loop.pop(asyncio.get_running_loop(), set())
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
