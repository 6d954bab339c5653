"""A callable of the developer's, called so that it can neither block, hang nor break anything."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

_TIMEOUT: Final = 10.0


class DeveloperCall:
    """Calls a callable without arguments, asynchronous or not; a synchronous one in a thread.

    Args:
        get: the callable.
    """

    def __init__(self, get: Callable[[], Any]) -> None:
        self._get = get
        # One thread of its own, so that a callable that hangs takes no other work with it.
        self._thread = ThreadPoolExecutor(1, "obo-asgi-credential")

    async def __call__(self) -> Any:
        """Return what it returns, or the exception that it raises; a `TimeoutError` if it hangs."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await self._call()
        except Exception as error:
            return error

    async def _call(self) -> Any:
        if inspect.iscoroutinefunction(self._get):
            return await self._get()
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._thread, _outcome, self._get)
        return await result if inspect.isawaitable(result) else result


def _outcome(get: Callable[[], Any]) -> Any:
    """Return what a callable returns or raises: a thread cannot hand on a StopIteration."""
    try:
        return get()
    except Exception as error:
        return error
