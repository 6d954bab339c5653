"""Several calls at once, each with its own outcome, and one challenge for all that is missing."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from .._telemetry import called_api
from ..errors import DownstreamTimeoutError
from ..interaction import find_interactions, merge_interactions

__all__ = ["Part", "gather"]

T = TypeVar("T")
D = TypeVar("D")


class Part(Generic[T]):
    """The outcome of one call of several: a value, or the error that it ended with."""

    __slots__ = ("_value", "error")

    def __init__(self, value: T | None = None, error: Exception | None = None) -> None:
        self._value = value
        self.error = error
        """The call's own error; None if there is a value."""

    @property
    def value(self) -> T:
        """The value.

        Raises:
            Exception: the call's own error, if it failed.
        """
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]

    def value_or(self, default: D) -> T | D:
        """Return the value, or the default if the call failed."""
        return default if self.error is not None else self._value  # type: ignore[return-value]

    def __repr__(self) -> str:
        return "Part(value=…)" if self.error is None else f"Part(error={type(self.error).__name__})"


async def gather(
    awaitables: Sequence[Awaitable[Any]], *, timeout: float | None, strict: bool
) -> tuple[Part[Any], ...]:
    """Run all at the same time and return their parts, in their order."""
    _check(awaitables)
    contexts = [copy_context() for _ in awaitables]
    tasks = [_start(*pair) for pair in zip(awaitables, contexts, strict=True)]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        parts = tuple(_part(*pair) for pair in zip(tasks, contexts, strict=True))
    finally:
        await _end(tasks)
    errors = [part.error for part in parts if part.error is not None]
    interactions = [found for error in errors for found in find_interactions(error)]
    if interactions:
        raise merge_interactions(interactions)
    if strict and errors:
        raise errors[0]
    return parts


def _check(awaitables: Sequence[object]) -> None:
    """Refuse what cannot be awaited, before anything starts."""
    wrong = [value for value in awaitables if not inspect.isawaitable(value)]
    if wrong:
        for value in awaitables:
            if inspect.iscoroutine(value):
                value.close()
        raise TypeError(f"gather takes calls that are not awaited yet, not {type(wrong[0])!r}")


def _start(awaitable: Awaitable[Any], context: Context) -> asyncio.Future[Any]:
    if asyncio.iscoroutine(awaitable):
        return asyncio.get_running_loop().create_task(awaitable, context=context)
    return asyncio.ensure_future(awaitable)


def _part(task: asyncio.Future[Any], context: Context) -> Part[Any]:
    if not task.done():
        api = context.get(called_api, "")
        return Part(
            error=DownstreamTimeoutError(f"downstream API {api!r} did not answer in time", api=api)
        )
    if task.cancelled():
        return Part(error=RuntimeError("the call was cancelled"))
    error = task.exception()
    if error is None:
        return Part(task.result())
    if isinstance(error, Exception):
        return Part(error=error)
    raise error


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.gather(*pending, return_exceptions=True)
