"""Serves one app by uvicorn: ``python -m benchmarks.web module:factory SETTINGS OPTIONS``."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import threading
from typing import Any

import uvicorn

from .processes import answer


class _Announcing(uvicorn.Server):
    """Tells the parent when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        answer("ready")


def main(factory: str, settings: str, options: str) -> None:
    """Serve what a factory makes of the settings until the parent closes the input.

    Args:
        factory: where it is, as ``module:name``.
        settings: what it is called with, as JSON.
        options: more of uvicorn's configuration, as JSON.
    """
    module, _, name = factory.partition(":")
    app = getattr(importlib.import_module(module), name)(json.loads(settings))
    config: dict[str, Any] = {"log_level": "warning", "access_log": False, **json.loads(options)}
    server = _Announcing(uvicorn.Config(app, **config))
    # asyncio switches Nagle's algorithm off only where the protocol is named
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        answer(listener.getsockname()[1])

        def wait_for_the_end() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=wait_for_the_end, daemon=True).start()
        server.run(sockets=[listener])
    os._exit(0)  # the peers' clients are open, and would say so


if __name__ == "__main__":
    main(*sys.argv[1:])
