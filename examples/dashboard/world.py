"""Everything that the demo is made of, on real sockets with TLS, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from obo_asgi import AppRegistration
from obo_asgi.testing import FakeEntra, serve

from . import api, backstage, graph, partner
from .asgi import ASGIApp, Receive, Scope, Send
from .backstage import StartingLine
from .page import CONSENTED, SignIn
from .trouble import FaultSwitch, Trouble

PARTNER_API: Final = "api://partner-api-id"


@dataclass(frozen=True)
class World:
    """The running demo."""

    url: str
    """Where the page, the web API, and the sign-in pages for the browser are."""
    ca_file: str
    """The certificate authority (PEM) that every server's certificate is of."""
    entra: FakeEntra
    sign_in: SignIn
    starting_line: StartingLine
    """Before the web API."""
    partner: FaultSwitch
    """Before the partner's API."""


@contextlib.contextmanager
def start_world(*, latency: float = 0.05, port: int = 0) -> Iterator[World]:
    """Start the sign-in service, both downstream APIs and the web API; stop them at the end.

    Meanwhile ``SSL_CERT_FILE`` names the demo's own certificate authority, because that is how
    the library's HTTP client learns of a private one; proxies are passed by.

    Args:
        latency: seconds that the sign-in service and the downstream APIs take for each answer.
        port: where the page is; any free port if 0.
    """
    entra, not_before = FakeEntra(), dict[str, int]()
    with contextlib.ExitStack() as stack:
        ca_file = stack.enter_context(entra.serve()).ca_file
        stack.enter_context(_environment(SSL_CERT_FILE=ca_file, NO_PROXY="*", no_proxy="*"))
        graph_app = graph.create_app(entra.registration("graph"))
        graph_url = stack.enter_context(serve(_slow(graph_app, latency))).url
        registration = entra.add_api(PARTNER_API, scopes=["read"])
        switch = FaultSwitch(partner.create_app(registration, not_before))
        partner_url = stack.enter_context(serve(_slow(switch, latency))).url
        port = port or _free_port()
        sign_in = _sign_in(entra)
        web_api = api.create_app(
            _web_api_registration(entra, port),
            graph_url=graph_url,
            partner_url=partner_url,
            sign_in=sign_in,
        )
        starting_line = StartingLine(web_api)
        trouble = Trouble(entra, switch, partner_api=PARTNER_API, not_before=not_before)
        front_door = _front_door(starting_line, entra, backstage.create_app(entra, trouble))
        url = stack.enter_context(serve(front_door, port=port)).url
        entra.latency = latency
        yield World(url, ca_file, entra, sign_in, starting_line, switch)


def _web_api_registration(entra: FakeEntra, port: int) -> AppRegistration:
    """Register the page to which the browser returns after a consent."""
    consented = f"https://localhost:{port}{CONSENTED}"
    entra.add_redirect_uri("api", consented)
    return entra.registration(consent_redirect_uri=consented)


def _free_port() -> int:
    """Return a port that is free now: the registration names it before the server takes it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _sign_in(entra: FakeEntra) -> SignIn:
    registration = entra.registration()
    base = f"/{entra.tenant_id}/oauth2/v2.0"
    return SignIn(
        authorize_url=f"{base}/authorize",
        token_url=f"{base}/token",
        client_id=entra.client_id("spa"),
        scope=f"api://{registration.client_id}/access_as_user openid profile",
    )


def _front_door(web_api: ASGIApp, entra: FakeEntra, behind: ASGIApp) -> ASGIApp:
    """Let the browser reach everything at one origin, the sign-in pages too.

    A person then accepts one certificate of the demo, not two, in every browser. The APIs reach
    FakeEntra at its own origin, which its tokens name as their issuer.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.startswith(f"/{entra.tenant_id}/"):
            await entra(scope, receive, send)
        elif path.startswith(backstage.PREFIX):
            await behind(scope, receive, send)
        else:
            await web_api(scope, receive, send)

    return app


def _slow(app: ASGIApp, seconds: float) -> ASGIApp:
    """Let every answer of an app take longer, as a network would."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(seconds)
        await app(scope, receive, send)

    return slow


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
