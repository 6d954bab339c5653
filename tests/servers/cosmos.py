"""A server that speaks Cosmos DB's protocol, in memory, over https with its own certificate."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from ._process import HOST, Server

PACKAGE = "@vercel/cosmosdb-server@1.0.1"
# Any key will do: the server looks at none.
KEY = "bm90IGEgc2VjcmV0"


@cache
def why_no_cosmos() -> str | None:
    """Return why there is no such server, or None if there is one; installs it at first."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"no {program} on PATH"
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _program().exists():
            quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts"]
            answer = subprocess.run(
                ["npm", "install", *quiet, "--prefix", str(home), PACKAGE],
                capture_output=True,
                text=True,
                timeout=50,
            )
            if answer.returncode:
                return f"npm cannot install {PACKAGE}: {answer.stderr[-500:]}"
    return None


def _home() -> Path:
    """Return where the server is installed once for all runs."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parent = Path(cache_home)
    if not os.access(parent if parent.exists() else parent.parent, os.W_OK):
        parent = Path(tempfile.gettempdir()) / f"cache-{os.geteuid()}"
    return parent / "obo-asgi-tests" / "cosmosdb-server-1.0.1"


def _program() -> Path:
    return _home() / "node_modules" / ".bin" / "cosmosdb-server"


class CosmosServer(Server):
    """One account without data; whoever asks with any key is let in.

    Args:
        directory: where what it prints goes.
    """

    key = KEY

    def __init__(self, directory: Path) -> None:
        reason = why_no_cosmos()
        assert reason is None, reason

        def command(port: int) -> list[str]:
            return [str(_program()), "--host", HOST, "--port", str(port)]

        super().__init__(directory, command)

    @property
    def url(self) -> str:
        """The URL of the account."""
        return f"https://{HOST}:{self.port}"


def start_cosmos(directory: Path) -> CosmosServer:
    """Start a Cosmos DB server."""
    return CosmosServer(directory)
