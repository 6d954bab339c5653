"""Certificates that a callable brings: when it is called, and what its failures do."""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from obo_asgi import ClientCertificate, ConfigurationError
from obo_asgi.client_assertion import ClientAuthenticator
from obo_asgi.testing import FakeEntra
from tests.test_certificates import KEY, LEAF, certificate, key_pem, pem, pfx, rsa_key
from tests.test_client_assertion import (
    AUDIENCE,
    ID,
    Clock,
    assertion,
    authenticator,
    clock,
    exchange,
    obo_of,
    refusal,
    settle,
)

__all__ = ["clock"]
pytestmark = pytest.mark.anyio

NEW_KEY = rsa_key("new")
NEW_LEAF = certificate(NEW_KEY)
OLD, NEW = key_pem(KEY) + pem(LEAF), key_pem(NEW_KEY) + pem(NEW_LEAF)
HOUR, DAY = 3600.0, 86400.0


def pem_for(seconds: float, name: str = "short") -> bytes:
    """Return a certificate that ends in some seconds."""
    now, subject = datetime.datetime.now(datetime.UTC), x509.Name([])
    key = rsa_key(name)
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(days=30),
        not_valid_after=now + datetime.timedelta(seconds=seconds),
    )
    return key_pem(key) + pem(builder.sign(key, hashes.SHA256()))


class Vault:
    """Brings what a test puts into it, and counts."""

    def __init__(self, content: Any = OLD) -> None:
        self.content = content
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def sync(self) -> Any:
        self.calls += 1
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    async def load(self) -> Any:
        await self.gate.wait()
        return self.sync()

    def authenticator(self, **options: Any) -> ClientAuthenticator:
        return authenticator(ClientCertificate.from_source(self.load, **options))


async def thumbprint(auth: ClientAuthenticator) -> str:
    return str(jwt.get_unverified_header(await assertion(auth))["x5t#S256"])


async def later(auth: ClientAuthenticator) -> str:
    """Use the certificate, and return what is in use once the look in the background is over."""
    await thumbprint(auth)
    named = [(task, getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks()]
    await asyncio.gather(*[task for task, name in named if name == "_run"])
    return await thumbprint(auth)


THREADS: list[str] = []


def load_in_thread() -> str:
    THREADS.append(threading.current_thread().name)
    return OLD.decode()


async def load_later() -> bytes:
    await asyncio.sleep(0)
    return pfx(KEY, LEAF, b"password")


@pytest.mark.parametrize(
    ("load", "password"),
    [
        pytest.param(load_in_thread, None, id="text, sync"),
        pytest.param(lambda: OLD, None, id="bytes, sync"),
        pytest.param(load_later, "password", id="a PFX, async"),
        pytest.param(lambda: load_later(), "password", id="a lambda"),
    ],
)
async def test_what_a_source_brings_signs(
    load: Callable[[], Any | Awaitable[Any]], password: str | None
) -> None:
    """PEM text, PEM bytes and a PFX, brought at once or later, sign assertions."""
    auth = authenticator(ClientCertificate.from_source(load, password=password))
    key: Any = LEAF.public_key()
    claims = jwt.decode(await assertion(auth), key, algorithms=["PS256"], audience=AUDIENCE)

    assert AUDIENCE == claims["aud"]
    assert not [name for name in THREADS if name == threading.main_thread().name]


async def test_a_source_is_asked_once_and_by_check() -> None:
    """The first look serves the start and all who come with it, and lasts for an hour."""
    vault = Vault()
    auth = vault.authenticator()
    await asyncio.gather(auth.check(), *(assertion(auth) for _ in range(50)))

    assert 1 == vault.calls


@pytest.mark.parametrize(
    ("refresh", "before", "after"),
    [
        pytest.param(HOUR, HOUR - 10, 20, id="an hour"),
        pytest.param(60, 50, 20, id="a minute"),
    ],
)
async def test_a_source_is_asked_again_in_the_background(
    refresh: float, before: float, after: float, clock: Clock
) -> None:
    """After the interval the held certificate is used while the source is asked for the next."""
    vault = Vault()
    auth = vault.authenticator(refresh=refresh)
    first = await thumbprint(auth)
    vault.content = NEW
    clock.pass_by(before)
    assert (first, 1) == (await later(auth), vault.calls)
    clock.pass_by(after)
    vault.gate.clear()

    assert first == await thumbprint(auth)
    vault.gate.set()
    assert first != await later(auth)
    assert 2 == vault.calls


@pytest.mark.parametrize(("left", "calls"), [(2 * DAY, 1), (DAY / 2, 2)])
async def test_a_certificate_on_its_last_day_is_asked_for_more_often(
    left: float, calls: int, clock: Clock
) -> None:
    """Five minutes are the interval when it ends within a day."""
    vault = Vault(pem_for(left))
    auth = vault.authenticator()
    await later(auth)
    clock.pass_by(301)
    await later(auth)

    assert calls == vault.calls


BAD = [
    pytest.param(RuntimeError("hunter2"), "the callable failed (RuntimeError)", id="failing"),
    pytest.param(None, "returned no certificate", id="nothing"),
    pytest.param("", "returned no certificate", id="empty"),
    pytest.param(b"hunter2", "neither PEM nor a PFX", id="no certificate"),
    pytest.param(NEW[:900], "PEM data", id="half a key"),
    pytest.param(key_pem(NEW_KEY) + pem(LEAF), "belongs to the private key", id="a mixture"),
    pytest.param(pem_for(-5), "has ended", id="one that has ended"),
]


@pytest.mark.parametrize(("content", "reason"), BAD)
async def test_a_source_in_trouble_leaves_the_last_good_one(
    content: Any, reason: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong is logged by its kind and changes nothing; a minute later it is tried again."""
    vault = Vault()
    auth = vault.authenticator()
    first = await thumbprint(auth)
    vault.content = content
    clock.pass_by(HOUR)
    assert first == await later(auth)
    assert (2, 1) == (vault.calls, len(caplog.records))
    assert reason in caplog.text
    assert "hunter2" not in caplog.text
    assert "PRIVATE KEY-" not in caplog.text
    vault.content = NEW
    clock.pass_by(60)

    assert first != await later(auth)


@pytest.mark.parametrize(("content", "reason"), BAD)
async def test_a_source_that_brings_nothing_is_told(
    content: Any, reason: str, clock: Clock
) -> None:
    """At the start it is an error of the configuration, later a 503, until it brings one."""
    vault = Vault(content)
    auth = vault.authenticator()
    with pytest.raises(ConfigurationError) as caught:
        await auth.check()
    refused = await refusal(auth)
    assert 1 == vault.calls, "it is not asked for each exchange"
    assert f"ClientCertificate.from_source(…): {reason}"[:34] in str(caught.value)
    assert reason in str(refused.hint)
    assert refused.retry_after is not None
    assert "hunter2" not in str(refused) + str(caught.value)
    vault.content = NEW
    clock.pass_by(5)

    assert await assertion(auth)


async def test_a_certificate_past_its_end_is_not_used(clock: Clock) -> None:
    """When it has ended and the source fails there is a 503; once there is another, it is used."""
    vault = Vault(pem_for(HOUR))
    auth = vault.authenticator()
    first = await thumbprint(auth)
    vault.content = RuntimeError("down")
    clock.pass_by(HOUR + 1)
    refused = await refusal(auth)
    assert (5, True) == (refused.retry_after, "(RuntimeError)" in str(refused.hint))
    vault.content = NEW
    clock.pass_by(5)

    assert first != await thumbprint(auth)


async def test_a_source_that_brings_the_ended_one_again_is_told(clock: Clock) -> None:
    """The same certificate, brought after its end, is no new one."""
    vault = Vault(pem_for(HOUR))
    auth = vault.authenticator()
    await thumbprint(auth)
    clock.pass_by(HOUR + 1)

    assert "the certificate has ended" in str((await refusal(auth)).hint)


async def test_what_was_refused_is_asked_for_at_once() -> None:
    """When Entra refuses the client the source is asked before the exchange is tried again."""
    vault = Vault()
    auth = vault.authenticator()
    refused = await auth.authenticate(AUDIENCE, ID)
    vault.content = NEW
    again = await auth.authenticate_again(refused, AUDIENCE, ID)

    assert again is not None
    assert (2, refused.version + 1) == (vault.calls, again.version)


async def test_a_refusal_that_stays_asks_once_in_five_seconds(clock: Clock) -> None:
    """What the source brings anew unchanged is not tried again, nor asked for each time."""
    vault = Vault()
    auth = vault.authenticator()
    refused = await auth.authenticate(AUDIENCE, ID)
    for calls in (2, 2, 3):
        assert None is await auth.authenticate_again(refused, AUDIENCE, ID)
        assert calls == vault.calls
        clock.pass_by(3)


async def test_fifty_refused_at_once_ask_the_source_once(clock: Clock) -> None:
    """When the old certificate is revoked, fifty exchanges go on with the new after one look."""
    entra = FakeEntra()
    entra.add_certificate(NEW_LEAF)
    vault = Vault()
    async with obo_of(entra, ClientCertificate.from_source(vault.load)) as obo:
        await obo.verify(entra.token())
        vault.content = NEW
        results = await asyncio.gather(*(exchange(obo, entra) for _ in range(50)))

    assert (50, 2) == (len(set(results)), vault.calls)


async def test_closing_ends_a_look() -> None:
    """A source that hangs in the background ends with the API."""
    vault = Vault()
    auth = vault.authenticator(refresh=0.001)
    await assertion(auth)
    before = asyncio.all_tasks()
    vault.gate.clear()
    await asyncio.sleep(0.01)
    await assertion(auth)
    await settle()
    assert 1 == len(asyncio.all_tasks() - before)
    await auth.aclose()

    assert before == asyncio.all_tasks()


async def test_a_source_that_hangs_is_bounded(clock: Clock) -> None:
    """Who has to wait for the source waits ten seconds."""
    vault = Vault()
    vault.gate.clear()
    waiting = asyncio.create_task(refusal(vault.authenticator()))
    await settle()
    clock.pass_by(11)
    async with asyncio.timeout(5):
        assert "(TimeoutError)" in str((await waiting).hint)


async def test_its_key_seals_the_cache() -> None:
    """The key of a certificate from a source is there to derive others from, as that of a file."""
    assert await authenticator(ClientCertificate(OLD)).key_material() == (
        await Vault().authenticator().key_material()
    )


async def test_it_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Neither its repr nor a log shows what it brought."""
    caplog.set_level(logging.DEBUG)
    credential = ClientCertificate.from_source(lambda: OLD, password=None)
    await assertion(authenticator(credential))

    assert "ClientCertificate.from_source(…)" == repr(credential)
    assert "PRIVATE KEY-" not in caplog.text


@pytest.mark.parametrize(
    ("load", "options", "fragment"),
    [
        pytest.param("api.pem", {}, "from_file", id="a path"),
        pytest.param(lambda: OLD, {"refresh": 0}, "refresh", id="zero"),
        pytest.param(lambda: OLD, {"refresh": float("nan")}, "refresh", id="no number"),
        pytest.param(lambda: OLD, {"refresh": True}, "refresh", id="a bool"),
        pytest.param(lambda: OLD, {"password": ""}, "password", id="an empty password"),
    ],
)
def test_wrong_arguments_are_told(load: Any, options: dict[str, Any], fragment: str) -> None:
    """What makes no sense is refused where it is written."""
    with pytest.raises(ConfigurationError, match=fragment):
        ClientCertificate.from_source(load, **options)


def test_the_end_of_a_certificate_is_known() -> None:
    """A certificate says when it ends, in seconds since the epoch."""
    read = ClientCertificate(pem_for(HOUR)).certificate

    assert read is not None
    assert 0 < time.time() + HOUR - read.ends_at + 1 < 5
