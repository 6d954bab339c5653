"""A program that serves on a port of 127.0.0.1, and what can befall it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"
START_SECONDS = 30.0
TRIES = 5
# Below the ports that the kernel gives to connections: none of these can take the port of a
# server that is down, or connect to itself there. A Redis Cluster node also listens 10,000 above.
PORTS = range(11_000, 22_000)
BUS = 10_000


def free_port() -> int:
    """Return a port that nobody listens on, nor on the one 10,000 above."""
    while True:
        port = random.choice(PORTS)
        if not any(_listens(candidate) for candidate in (port, port + BUS)):
            return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def accepts(port: int) -> bool:
    """Return whether a connection can be made."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


class Server:
    """A program that is started at once, and has accepted a connection when this returns.

    Args:
        directory: where it runs, and where what it prints goes (``output.txt``).
        command: the program and its arguments, for a port.
        user: whom it runs as; the caller when left out.
        environment: what is added to the environment.
    """

    def __init__(
        self,
        directory: Path,
        command: Callable[[int], Sequence[str]],
        *,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._command = command
        self._user = user
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        for attempt in range(TRIES):
            self.port = free_port()
            try:
                self._start()
            except _Ended:
                if attempt == TRIES - 1:
                    raise
            else:
                return

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def is_ready(self) -> bool:
        """Return whether it can be used; a subclass may ask for more than a connection."""
        return accepts(self.port)

    def kill(self) -> None:
        """End it at once, with all its children, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order; it may have ended before."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Start it again on the same port, with the data that it kept."""
        self.kill()
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._start()
            except _Ended:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def suspend(self) -> None:
        """Let it hang: connections stay open, and nothing is answered."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        output = self.directory / "output.txt"
        with output.open("ab") as file:
            self._process = process = subprocess.Popen(
                self._command(self.port),
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                user=self._user,
                group=self._user and _group_of(self._user),
                extra_groups=[] if self._user else None,
            )
        until = time.monotonic() + START_SECONDS
        while process.poll() is None:
            if self.is_ready():
                return
            if time.monotonic() > until:
                self.kill()
                break
            time.sleep(0.02)
        self._process = None
        text = output.read_text(errors="replace")
        raise _Ended(f"{self._command(self.port)[0]} did not start: {text[-2000:]}")

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        if process.poll() is None:
            if number == signal.SIGKILL:
                os.kill(process.pid, signal.SIGSTOP)
                for pid in reversed(_family_of(process.pid)):
                    _signal(pid, signal.SIGKILL)
            else:
                for pid in _family_of(process.pid):
                    _signal(pid, signal.SIGCONT)
                process.send_signal(number)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _family(self) -> list[int]:
        return _family_of(self.pid)


class _Ended(RuntimeError):
    """The program ended, or was ended, before it was ready."""


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _family_of(pid: int) -> list[int]:
    """Return the process and, where the system has ``/proc``, all that come from it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family
