"""Peers may be missing: they are installed by ``scripts/bench`` alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


async def build(
    factories: Mapping[str, Callable[[], Awaitable[T]]],
) -> tuple[dict[str, T], dict[str, str]]:
    """Build cases by name; return those that could be built, and why others could not."""
    cases: dict[str, T] = {}
    missing: dict[str, str] = {}
    for name, factory in factories.items():
        try:
            cases[name] = await factory()
        except ImportError as error:
            missing[name] = f"{error.name} is not installed"
    return cases, missing


def later(factory: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    """Return a factory that waits for nothing in the form that `build` takes."""

    async def build_now() -> T:
        return factory()

    return build_now
