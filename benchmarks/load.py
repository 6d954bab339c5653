"""The load generator: connections that send their next request as soon as they are answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from .processes import answer, questions, run_fast, standard_input


class Slice:
    """One slice of load on one server.

    Args:
        requests: the whole requests, as bytes, over and over.
    """

    def __init__(self, requests: Iterator[bytes]) -> None:
        self.requests = requests
        self.answered = self.failed = 0
        self.is_over = False


class Connection(asyncio.Protocol):
    """A connection of a slice, which it keeps alive."""

    def __init__(self, work: Slice) -> None:
        self._work = work
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._received) < end + 4 + length:
            return
        self._work.answered += 1
        self._work.failed += not head.startswith(b"http/1.1 200 ")
        self._received = b""
        if not self._work.is_over:
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._work.is_over:
            self._work.failed += 1

    def _ask(self) -> None:
        self._transport.write(next(self._work.requests))


async def load(port: int, heads: list[str], connections: int, seconds: float) -> dict[str, float]:
    """Load a server and return how many requests it answered, how many badly, and how long."""
    work = Slice(cycle([head.encode() for head in heads]))
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    opened = [
        await loop.create_connection(lambda: Connection(work), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    work.is_over = True
    elapsed = time.perf_counter() - started
    answered, failed = work.answered, work.failed
    for transport, _ in opened:
        transport.close()
    return {"answered": answered, "failed": failed, "seconds": elapsed}


async def main() -> None:
    """Load what the parent names, one slice after the other, until it closes the input."""
    reader = await standard_input()
    while (question := await questions(reader)) is not None:
        answer(await load(**question))


if __name__ == "__main__":
    run_fast(main)
