"""The world around what is measured: an Entra and APIs of prepared answers, tokens, our wiring."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import trustme

from obo_asgi import AppRegistration, ClientSecret, DownstreamAPI, OnBehalfOf
from obo_asgi.testing import FakeEntra

from .processes import Child

API: Final = "api://partner"
OTHER_API: Final = "api://other"
SECRET: Final = "a client secret, of no meaning to prepared answers"
Settings = Mapping[str, str]
"""What an app in another process has to know of a world, as JSON can say it."""
LATENCY: Final = 0.05
"""Seconds that Entra and the APIs take for an answer, where nothing else is said."""


@dataclass(frozen=True)
class World:
    """Entra and two APIs in another process; FakeEntra signs what callers bring."""

    child: Child
    entra: FakeEntra
    ca_file: str
    metadata_url: str
    jwks_uri: str
    jwks: dict[str, Any]
    """The keys that are published there."""
    api_url: str
    other_url: str

    @property
    def registration(self) -> AppRegistration:
        """The registration of the API that is called."""
        return self.entra.registration(client_credential=ClientSecret(SECRET))

    @property
    def token_path(self) -> str:
        """Where the token endpoint is."""
        return f"/{self.entra.tenant_id}/oauth2/v2.0/token"

    @property
    def metadata_path(self) -> str:
        """Where the metadata is, of its origin."""
        return urlsplit(self.metadata_url).path

    @property
    def jwks_path(self) -> str:
        """Where the keys are, of its origin."""
        return urlsplit(self.jwks_uri).path

    @functools.cached_property
    def settings(self) -> Settings:
        """What its apps and clients have to know."""
        registration = self.registration
        return {
            "authority": registration.authority,
            "tenant_id": registration.tenant_id,
            "client_id": registration.client_id,
            "client_secret": SECRET,
            "issuer": str(registration.issuer),
            "metadata_url": self.metadata_url,
            "ca_file": self.ca_file,
            "api_url": self.api_url,
        }

    def tokens(self, number: int) -> list[str]:
        """Sign an access token for each of so many users."""
        names = [f"user{index}" for index in range(number)]
        for name in names:
            self.entra.add_user(name)
        return [self.entra.token(name) for name in names]

    def obo(self, **options: Any) -> OnBehalfOf:
        """Wire our library to this world, with its own HTTP client."""
        return OnBehalfOf(
            self.registration,
            downstream={
                "api": DownstreamAPI(base_url=self.api_url, scopes=[f"{API}/read"]),
                "other": DownstreamAPI(base_url=self.other_url, scopes=[f"{OTHER_API}/read"]),
            },
            **options,
        )

    def prepare(self, path: str, seconds: float | None, body: str = "{}") -> None:
        """Set the answer of a path, and after how long it comes; never, if None."""
        self.child.ask({path: (body, seconds)})

    async def roll_keys(self) -> None:
        """Sign with a new key from now on, and publish it beside the old one."""
        self.entra.roll_keys()
        _, keys = await _documents(self.entra)
        self.prepare(self.jwks_path, 0.0, keys.text)

    def set_latency(self, seconds: float) -> None:
        """Let the token endpoint take so long."""
        self.set_token(self.entra.token(audience=API), seconds)

    def set_token(self, token: str, seconds: float = 0.0) -> None:
        """Let the token endpoint answer with this token."""
        answer = {"token_type": "Bearer", "expires_in": 3600, "access_token": token}
        self.prepare(self.token_path, seconds, json.dumps(answer))

    def take_counts(self) -> dict[str, int]:
        """Return how often each path was asked for since the last time."""
        counts: dict[str, int] = self.child.ask({})
        return counts


@contextlib.contextmanager
def start_world(latency: float = LATENCY) -> Iterator[World]:
    """Start it, trusted by this process and those that it starts, and stop it at the end."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ca_file, key_file = directory / "ca.pem", directory / "server.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        certificate.private_key_and_cert_chain_pem.write_to_path(str(key_file))
        child = stack.enter_context(Child("benchmarks.canned", str(key_file)))
        tls, plain, other = child.read()
        stack.enter_context(_trusting(str(ca_file)))
        entra = FakeEntra(authority=f"https://127.0.0.1:{tls}")
        metadata, keys = asyncio.run(_documents(entra))
        world = World(
            child,
            entra,
            str(ca_file),
            metadata_url=str(metadata.request.url),
            jwks_uri=str(keys.request.url),
            jwks=keys.json(),
            api_url=f"http://127.0.0.1:{plain}",
            other_url=f"http://127.0.0.1:{other}",
        )
        world.prepare(world.metadata_path, 0.0, metadata.text)
        world.prepare(world.jwks_path, 0.0, keys.text)
        world.set_latency(latency)
        yield world


async def _documents(entra: FakeEntra) -> tuple[httpx.Response, httpx.Response]:
    """Return the metadata and the keys that FakeEntra publishes."""
    async with entra.client() as client:
        path = f"{entra.tenant_id}/v2.0/.well-known/openid-configuration"
        metadata = await client.get(f"{entra.authority}/{path}")
        return metadata, await client.get(metadata.raise_for_status().json()["jwks_uri"])


@contextlib.contextmanager
def _trusting(ca_file: str) -> Iterator[None]:
    """Let every client of this process, and of those that it starts, trust a CA meanwhile."""
    variables = {
        "SSL_CERT_FILE": ca_file,
        "REQUESTS_CA_BUNDLE": ca_file,
        "NO_PROXY": "*",
        "no_proxy": "*",
    }
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
