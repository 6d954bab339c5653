"""A server that speaks Cosmos DB's protocol, in memory, over https with its own certificate."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.npm import installed, why_not_installed

from ._process import HOST, Server

PACKAGE = "@vercel/cosmosdb-server@1.0.1"
# Any key will do: the server looks at none.
KEY = "bm90IGEgc2VjcmV0"
_PROGRAM = ".bin/cosmosdb-server"


@cache
def why_no_cosmos() -> str | None:
    """Return why there is no such server, or None if there is one; installs it at first."""
    return why_not_installed(PACKAGE, _PROGRAM, programs=("node", "npm"))


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
            return [str(installed(PACKAGE, _PROGRAM)), "--host", HOST, "--port", str(port)]

        super().__init__(directory, command)

    @property
    def url(self) -> str:
        """The URL of the account."""
        return f"https://{HOST}:{self.port}"


def start_cosmos(directory: Path) -> CosmosServer:
    """Start a Cosmos DB server."""
    return CosmosServer(directory)
