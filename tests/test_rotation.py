"""Rotation while requests run: volumes swapped as Kubernetes does it, and early revocations."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from obo_asgi import (
    ClientAssertion,
    ClientCertificate,
    ClientSecret,
    DownstreamAPI,
    OnBehalfOf,
    WorkloadIdentity,
)
from obo_asgi.credentials import ClientCredential
from obo_asgi.errors import TokenAcquisitionError
from obo_asgi.testing import FakeEntra
from tests.test_certificates import certificate, key_pem, pem, rsa_key

pytestmark = pytest.mark.anyio

GRAPH = DownstreamAPI(scopes=["https://graph.microsoft.com/User.Read"])
CERTIFICATES = {name: certificate(rsa_key(name), name) for name in ("old", "new")}
TICK = 0.02
"""Seconds between two requests: fifty a second."""


class Volume:
    """A folder that is mounted, and swapped, as Kubernetes does it: by its ``..data`` link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = 0
        self.path = folder / "file"

    def mount(self, content: str | bytes) -> None:
        self._versions += 1
        version = self._folder / f"..version_{self._versions}"
        version.mkdir()
        (version / "file").write_bytes(content.encode() if isinstance(content, str) else content)
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")
        if not self.path.is_symlink():
            self.path.symlink_to("..data/file")


class Rotation:
    """A credential of one kind at Entra and in a volume: the old one, and then the new one."""

    def __init__(self, kind: str, entra: FakeEntra, folder: Path) -> None:
        self._kind = kind
        self._entra = entra
        self._volume = Volume(folder)
        self._secrets: dict[str, str] = {}
        self.register("old")
        self.mount("old")
        from_file: dict[str, Callable[[Path], ClientCredential]] = {
            "secret": ClientSecret.from_file,
            "certificate": ClientCertificate.from_file,
            "token": WorkloadIdentity,
        }
        self.credential = from_file[kind](self._volume.path)

    def register(self, name: str) -> None:
        if self._kind == "secret":
            self._secrets[name] = self._entra.new_secret()
        elif self._kind == "certificate":
            self._entra.add_certificate(CERTIFICATES[name])
        else:
            self._entra.add_federated_credential(subject=name)

    def mount(self, name: str) -> None:
        contents: dict[str, Callable[[], str | bytes]] = {
            "secret": lambda: self._secrets[name],
            "certificate": lambda: key_pem(rsa_key(name)) + pem(CERTIFICATES[name]),
            "token": lambda: self._entra.federated_token(name),
        }
        self._volume.mount(contents[self._kind]())

    def revoke_old(self) -> None:
        if self._kind == "secret":
            self._entra.revoke_secret(self._secrets["old"])
        elif self._kind == "certificate":
            self._entra.remove_certificate(CERTIFICATES["old"])
        else:
            self._entra.remove_federated_credentials()
            self.register("new")


def obo_of(entra: FakeEntra, credential: Any, **options: Any) -> OnBehalfOf:
    registration = entra.registration(client_credential=credential)
    return OnBehalfOf(registration, downstream={"graph": GRAPH}, **options)


async def exchange(obo: OnBehalfOf, entra: FakeEntra) -> str:
    """Exchange a token that nobody has seen before."""
    downstream = await obo.downstream_for(entra.token())
    return (await downstream["graph"].acquire_token()).token


async def run(
    obo: OnBehalfOf, entra: FakeEntra, ticks: int, events: Mapping[int, Callable[[], object]]
) -> list[Any]:
    """Send one request each tick, without waiting for the others, and return what came of each."""
    requests = []
    for tick in range(ticks):
        if tick in events:
            await asyncio.to_thread(events[tick])
        requests.append(asyncio.create_task(exchange(obo, entra)))
        await asyncio.sleep(TICK)
    return await asyncio.gather(*requests, return_exceptions=True)


kinds = pytest.mark.parametrize("kind", ["secret", "certificate", "token"])


@kinds
async def test_a_volume_is_swapped_and_the_old_one_revoked_over_tls(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request fails, and only those in flight at that moment are sent a second time."""
    entra = FakeEntra()
    with entra.serve() as server:
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        rotation = Rotation(kind, entra, tmp_path)

        def rotate() -> None:
            rotation.register("new")
            rotation.mount("new")
            rotation.revoke_old()

        async with obo_of(entra, rotation.credential) as obo:
            results = await run(obo, entra, 80, {30: rotate})

    assert [] == [result for result in results if isinstance(result, BaseException)]
    assert entra.exchanges - 80 <= 10


@kinds
async def test_a_swap_is_noticed_before_the_old_one_is_revoked(kind: str, tmp_path: Path) -> None:
    """With the old one revoked later than a look at the file, nothing is ever refused."""
    entra = FakeEntra()
    rotation = Rotation(kind, entra, tmp_path)

    def swap() -> None:
        rotation.register("new")
        rotation.mount("new")

    async with obo_of(entra, rotation.credential, http_client=entra.client()) as obo:
        results = await run(obo, entra, 120, {20: swap, 95: rotation.revoke_old})

    assert [] == [result for result in results if isinstance(result, BaseException)]
    assert 120 == entra.exchanges


@kinds
async def test_a_credential_is_revoked_before_the_new_one_is_mounted(
    kind: str, tmp_path: Path
) -> None:
    """In between requests fail once each, without a storm; soon after the swap none fails."""
    entra = FakeEntra()
    rotation = Rotation(kind, entra, tmp_path)

    def revoke() -> None:
        rotation.register("new")
        rotation.revoke_old()

    async with obo_of(entra, rotation.credential, http_client=entra.client()) as obo:
        events = {10: revoke, 25: lambda: rotation.mount("new")}
        results = await run(obo, entra, 100, events)

    failed = [tick for tick, result in enumerate(results) if isinstance(result, BaseException)]
    assert {TokenAcquisitionError} == {type(results[tick]) for tick in failed}
    assert set(failed) >= set(range(12, 24))
    # a look at the file each second, whatever Entra says: fifty ticks, and some for the clock
    assert 8 <= min(failed) <= max(failed) <= 25 + 60
    assert entra.exchanges - 100 <= 10


async def test_a_callable_is_asked_once_more_for_all_who_were_refused() -> None:
    """When what a callable gave is revoked, one more call serves everybody."""
    entra = FakeEntra()
    entra.add_federated_credential(subject="old")
    subject, calls = "old", 0

    async def get() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(TICK)
        return entra.federated_token(subject)

    def revoke() -> None:
        nonlocal subject
        subject = "new"
        entra.remove_federated_credentials()
        entra.add_federated_credential(subject="new")

    async with obo_of(entra, ClientAssertion(get), http_client=entra.client()) as obo:
        results = await run(obo, entra, 40, {20: revoke})

    assert [] == [result for result in results if isinstance(result, BaseException)]
    assert 2 == calls
    assert entra.exchanges - 40 <= 10


async def test_several_event_loops_share_one_rotation(tmp_path: Path) -> None:
    """Loops in three threads, over one object, pass through a rotation without a failure."""
    entra = FakeEntra()
    rotation = Rotation("secret", entra, tmp_path)
    rotation.register("new")
    failures: list[BaseException] = []
    with entra.serve() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", server.ca_file)
        obo = obo_of(entra, rotation.credential)

        async def serve() -> None:
            try:
                results = await run(obo, entra, 50, {})
            finally:
                await obo.aclose()
            failures.extend(result for result in results if isinstance(result, BaseException))

        threads = [threading.Thread(target=lambda: asyncio.run(serve())) for _ in range(3)]
        for thread in threads:
            thread.start()
        await asyncio.sleep(0.4)
        rotation.mount("new")
        rotation.revoke_old()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    assert [] == failures
    assert entra.exchanges - 150 <= 75  # once each, and not those sent after
