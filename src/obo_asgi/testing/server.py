"""ASGI apps on real sockets with TLS, in a background thread."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import pathlib
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._types import ASGIApp

if TYPE_CHECKING:
    import trustme
    import uvicorn

_START_TIMEOUT: Final = 10.0
_authority_lock: Final = threading.Lock()


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    """Its origin, such as ``https://localhost:43210``."""
    ca_file: str
    """A PEM file with the certificate authority that all servers of this process share."""


@contextlib.contextmanager
def serve(
    app: ASGIApp,
    *,
    tls: bool = True,
    port: int = 0,
    host: str = "127.0.0.1",
    names: Collection[str] = (),
) -> Iterator[Server]:
    """Serve an ASGI app on a port of this machine while the block runs; its lifespan is run.

    Needs uvicorn and trustme, the extra ``testing``.

    Args:
        app: the app; it runs in an event loop of its own, in another thread.
        tls: with a certificate of the process's own authority; else plain HTTP.
        port: 0 for any free one.
        host: the IPv4 address to listen at; "0.0.0.0" for all, as in a container.
        names: the names that the certificate is for beside ``localhost`` and ``127.0.0.1``.

    Raises:
        OSError: the port is taken, or there is no such address.
        RuntimeError: the app's start-up failed.
    """
    with _authority_lock:
        authority, ca_file = _certificate_authority()
    # asyncio switches Nagle's algorithm off only where the protocol is named
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        url = f"{'https' if tls else 'http'}://localhost:{listener.getsockname()[1]}"
        server = _server(app, authority if tls else None, names)
        with _running(server, listener):
            yield Server(url, ca_file)


def _server(app: ASGIApp, authority: trustme.CA | None, names: Collection[str]) -> uvicorn.Server:
    import uvicorn

    class AbruptServer(uvicorn.Server):
        """Drops idle connections at its end, and those that outlast it, without a farewell."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await self._abort(only_idle=True)
            await super().shutdown(sockets)
            await self._abort(only_idle=False)

        async def _abort(self, *, only_idle: bool) -> None:
            for connection in list(self.server_state.connections):
                cycle = getattr(connection, "cycle", ...)  # a WebSocket has none
                if not only_idle or cycle is None or getattr(cycle, "response_complete", False):
                    connection.transport.abort()
            await asyncio.sleep(0.01)

    config = uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="auto",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,  # not in the middle of a test that was held up
    )
    config.load()
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own = dict.fromkeys(("localhost", "127.0.0.1", *names))
        authority.issue_cert(*own).configure_cert(context)
        config.ssl = context
    return AbruptServer(config)


@contextlib.contextmanager
def _running(server: uvicorn.Server, listener: socket.socket) -> Iterator[None]:
    def run() -> None:
        with contextlib.suppress(SystemExit):  # how uvicorn ends when a start-up fails
            server.run(sockets=[listener])

    thread = threading.Thread(target=run, name="obo-asgi-server", daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_TIMEOUT
    try:
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the app did not start; its log says why")
            time.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        thread.join()


@functools.cache
def _certificate_authority() -> tuple[trustme.CA, str]:
    """Return the process's certificate authority and the file that holds its certificate."""
    import trustme

    authority = trustme.CA(organization_name="obo-asgi tests")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="obo-asgi-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    ca_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    return authority, str(ca_file)
