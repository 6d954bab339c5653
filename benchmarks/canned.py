"""A server of prepared answers, each after its delay: Entra and APIs that cost next to nothing.

FakeEntra signs each token that it issues, a millisecond of CPU; under load that, and no longer
the caller, would be measured. Here the answer of each path is bytes that are sent as they are.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .processes import answer, questions, run_fast, standard_input

_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
_MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Answers:
    """What is answered: bytes and seconds by path, None for never; and what was asked."""

    by_path: dict[bytes, tuple[bytes, float | None]] = field(default_factory=dict)
    counts: Counter[bytes] = field(default_factory=Counter)

    def prepare(self, routes: dict[str, tuple[str, float | None]]) -> None:
        """Set the answers of some paths."""
        for path, (body, seconds) in routes.items():
            content = body.encode()
            self.by_path[path.encode()] = _HEAD.format(len(content)).encode() + content, seconds

    def take_counts(self) -> dict[str, int]:
        """Return how often each path was asked for since the last time."""
        counts, self.counts = self.counts, Counter()
        return {path.decode(): number for path, number in counts.items()}


class Connection(asyncio.Protocol):
    """A connection that stays open for one request after the other."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            size = end + 4 + _content_length(head)
            if len(self._received) < size:
                return
            self._received = self._received[size:]
            self._answer(head.split(b" ", 2)[1].partition(b"?")[0])

    def _answer(self, path: bytes) -> None:
        self._answers.counts[path] += 1
        content, seconds = self._answers.by_path.get(path, (_MISSING, 0.0))
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._send, content)

    def _send(self, content: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(content)


def _content_length(head: bytes) -> int:
    _, mark, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if mark else 0


async def main() -> None:
    """Listen, say where, and change or count answers until the parent closes the input.

    The first port speaks TLS, with the certificate that the command line names; the others are
    plain, each another origin.
    """
    answers = Answers()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Connection(answers), "127.0.0.1", 0, ssl=tls, backlog=1024)
        for tls in (context, None, None)
    ]
    answer([server.sockets[0].getsockname()[1] for server in servers])
    reader = await standard_input()
    while (question := await questions(reader)) is not None:
        answers.prepare(question)
        answer(answers.take_counts())


if __name__ == "__main__":
    run_fast(main)
