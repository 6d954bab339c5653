"""Apps under uvicorn, each in a process of its own, and the generator that loads them in turn."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence

from .processes import Child
from .world import World

CONNECTIONS = 32


@contextlib.contextmanager
def serve(factory: str, world: World, **options: str) -> Iterator[int]:
    """Serve the app that a factory, ``module:name``, makes of the world's settings.

    Args:
        factory: where the factory is.
        world: whose settings.
        options: more of uvicorn's configuration; by default it takes what is fastest of what is
            installed.

    Yields:
        The port.
    """
    arguments = [factory, json.dumps(world.settings), json.dumps(options)]
    with Child("benchmarks.web", *arguments) as child:
        port: int = child.read()
        child.read()  # it listens
        yield port


class Generator(Child):
    """The load generator."""

    def __init__(self) -> None:
        super().__init__("benchmarks.load")

    def slices(
        self, port: int, tokens: Sequence[str], *, seconds: float
    ) -> Callable[[], Awaitable[float]]:
        """Return the case that loads a server for a while and returns its requests per second."""
        question = {
            "port": port,
            "heads": [_head(token) for token in tokens],
            "connections": CONNECTIONS,
            "seconds": seconds,
        }

        async def measure() -> float:
            answer = await self.ask_async(question)
            if answer["failed"] or not answer["answered"]:
                raise RuntimeError(f"a server does not answer 200: {answer}")
            return float(answer["answered"]) / float(answer["seconds"])

        return measure


def _head(token: str) -> str:
    lines = [
        "GET / HTTP/1.1",
        "Host: api.example.com",
        "User-Agent: benchmark",
        "Accept: */*",
        f"Authorization: Bearer {token}",
    ]
    return "\r\n".join([*lines, "", ""])
