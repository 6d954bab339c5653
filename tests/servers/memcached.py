"""A real memcached, which keeps nothing over a restart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ._process import HOST, Server


def why_no_memcached() -> str | None:
    """Return why there is no memcached, or None if there is one."""
    return None if shutil.which("memcached") else "no memcached on PATH"


class MemcachedServer(Server):
    """One memcached.

    Args:
        directory: where what it prints goes.
    """

    def __init__(self, directory: Path) -> None:
        program = shutil.which("memcached")
        assert program is not None, why_no_memcached()
        who = ["-u", "nobody"] if os.geteuid() == 0 else []

        def command(port: int) -> list[str]:
            return [program, "-l", HOST, "-p", str(port), "-U", "0", *who]

        super().__init__(directory, command)


def start_memcached(directory: Path) -> MemcachedServer:
    """Start a memcached."""
    return MemcachedServer(directory)
