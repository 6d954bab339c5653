"""ASGI apps on real sockets: uvicorn, hypercorn and granian, each with a loop in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import hypercorn.asyncio
from granian.constants import Interfaces
from granian.server.embed import Server as Granian
from hypercorn.config import Config

from obo_asgi._types import ASGIApp
from obo_asgi.testing import serve
from tests.servers._process import accepts, free_port

__all__ = ["SERVERS"]

SECONDS = 15.0


@contextmanager
def uvicorn(apps: Mapping[str, ASGIApp]) -> Iterator[dict[str, str]]:
    """Serve each app; give their URLs."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(serve(app, tls=False)).url for name, app in apps.items()}


@contextmanager
def hypercorns(apps: Mapping[str, ASGIApp]) -> Iterator[dict[str, str]]:
    """Serve each app; give their URLs."""
    stop = asyncio.Event()

    def start(app: ASGIApp, port: int) -> Any:
        config = Config()
        config.bind = [f"127.0.0.1:{port}"]
        config.graceful_timeout, config.errorlog = 1, None
        served: Any = app
        return hypercorn.asyncio.serve(served, config, shutdown_trigger=stop.wait, mode="asgi")

    with _running(apps, start, stop.set) as urls:
        yield urls


@contextmanager
def granians(apps: Mapping[str, ASGIApp]) -> Iterator[dict[str, str]]:
    """Serve each app; give their URLs."""
    running: list[Any] = []

    def start(app: ASGIApp, port: int) -> Any:
        running.append(Granian(app, port=port, interface=Interfaces.ASGI, log_enabled=False))
        return running[-1].serve()

    def stop() -> None:
        for server in running:
            server.stop()

    with _running(apps, start, stop) as urls:
        yield urls


SERVERS = {"uvicorn": uvicorn, "hypercorn": hypercorns, "granian": granians}


@contextmanager
def _running(
    apps: Mapping[str, ASGIApp], start: Callable[[ASGIApp, int], Any], stop: Callable[[], None]
) -> Iterator[dict[str, str]]:
    """Run a server for each app, all in one loop in a thread, and wait until they accept."""
    ports = {name: free_port() for name in apps}
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.gather(*(start(app, ports[name]) for name, app in apps.items()))

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    try:
        until = time.monotonic() + SECONDS
        while not all(accepts(port) for port in ports.values()):
            assert thread.is_alive(), "a server did not start"
            assert time.monotonic() < until, "a server does not accept connections"
            time.sleep(0.02)
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    finally:
        with suppress(RuntimeError):  # its loop has ended
            loops[0].call_soon_threadsafe(stop)
        thread.join(SECONDS)
        assert not thread.is_alive(), "a server did not stop"
