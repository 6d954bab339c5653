"""Other processes of ours: they are asked and answer by lines of JSON, and end with this one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).parents[1]
_SECONDS_TO_END = 5.0


class Child:
    """A module of this package that runs in a process of its own.

    It reads questions until its standard input is closed, which is also what the end of this
    process does to it.

    Args:
        module: its name.
        arguments: its command line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def read(self) -> Any:
        """Return its next answer.

        Raises:
            RuntimeError: it has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} has ended")
        return json.loads(line)

    def ask(self, question: object) -> Any:
        """Ask and return the answer; what it is doing meanwhile lasts."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self.read()

    async def ask_async(self, question: object) -> Any:
        """Ask, and let the event loop run until the answer is there."""
        return await asyncio.to_thread(self.ask, question)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def answer(value: object) -> None:
    """Answer the parent, in a child."""
    print(json.dumps(value), flush=True)


async def questions(loop_reader: asyncio.StreamReader) -> Any:
    """Return the parent's next question, in a child; None at the end."""
    line = await loop_reader.readline()
    return json.loads(line) if line else None


async def standard_input() -> asyncio.StreamReader:
    """Return where the parent's questions come from; one may be long."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def run_fast(main: Any) -> None:
    """Run a coroutine function on uvloop where it is there: what is measured is another process."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
