"""Starting early and telling probes: warm_up, readiness and stats, and the example of their use."""

from __future__ import annotations

import time
from dataclasses import FrozenInstanceError, asdict
from typing import Any

import httpx
import pytest

from examples import health
from obo_asgi import (
    ClientCertificate,
    ClientSecret,
    ConfigurationError,
    DownstreamAPI,
    KeysUnavailableError,
    ManagedIdentity,
    OnBehalfOf,
    TokenAcquisitionError,
    TokenCache,
)
from obo_asgi.metadata import MAX_AGE
from obo_asgi.testing import FakeEntra
from tests.session_world import RING
from tests.shared_cache import FaultyCache, fail
from tests.test_certificates import certificate, key_pem, pem, rsa_key

pytestmark = pytest.mark.anyio


def build(entra: FakeEntra, cache: TokenCache | None = None, **overrides: Any) -> OnBehalfOf:
    return OnBehalfOf(
        entra.registration(**overrides),
        downstream={"graph": DownstreamAPI(scopes=["User.Read"])},
        cache=cache,
        http_client=entra.client(),
    )


async def test_a_warm_app_waits_for_one_exchange_alone() -> None:
    """After it, the first request fetches neither metadata nor keys."""
    entra = FakeEntra()
    async with build(entra) as obo:
        await obo.warm_up()
        assert {"metadata": 2, "keys": 2} == entra.counts
        entra.reset_counts()
        await (await obo.downstream_for(entra.token()))["graph"].acquire_token()
        assert 1 == entra.exchanges
        assert 0 == entra.counts["metadata"] + entra.counts["keys"]


async def test_it_can_be_warmed_up_again() -> None:
    """A second time costs nothing while the keys are fresh."""
    entra = FakeEntra()
    async with build(entra) as obo:
        await obo.warm_up()
        entra.reset_counts()
        await obo.warm_up()
    assert 0 == sum(entra.counts.values())


async def test_a_start_fails_without_the_sign_in_service() -> None:
    """What the first user would be told is raised at start."""
    entra = FakeEntra()
    entra.down = "metadata"
    async with build(entra) as obo:
        with pytest.raises(KeysUnavailableError):
            await obo.warm_up()
        assert not obo.readiness().ready


async def test_a_start_fails_without_a_credential(tmp_path: Any) -> None:
    """A file that is missing fails it, before anything is fetched."""
    credential = ClientSecret.from_file(tmp_path / "missing")
    obo = build(FakeEntra(), client_credential=credential)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await obo.warm_up()
    readiness = obo.readiness().credential
    assert (False, None) == (readiness.ready, readiness.expires_at)
    assert "cannot be read" in (readiness.reason or "")
    await obo.aclose()


async def test_a_start_asks_the_managed_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that gives nothing fails it, with the reason as a hint."""
    monkeypatch.setenv("IDENTITY_SERVER_THUMBPRINT", "x")
    async with build(FakeEntra(), client_credential=ManagedIdentity()) as obo:
        with pytest.raises(TokenAcquisitionError) as caught:
            await obo.warm_up()
        assert "Service Fabric" in (caught.value.hint or "")
        assert not obo.readiness().credential.ready
        assert "Service Fabric" in (obo.readiness().credential.reason or "")


async def test_before_the_first_use_it_is_not_ready() -> None:
    """Without keys nobody can be verified."""
    readiness = build(FakeEntra()).readiness()
    assert (False, False, "The signing keys have not been fetched yet.") == (
        readiness.ready,
        readiness.keys.ready,
        readiness.keys.reason,
    )


async def test_a_warm_app_is_ready() -> None:
    """Fresh keys, no shared cache, and a secret whose end nobody knows."""
    async with build(FakeEntra()) as obo:
        await obo.warm_up()
        readiness = obo.readiness()
    told = asdict(readiness)
    keys = told.pop("keys")
    assert {
        "ready": True,
        "shared_cache": {"state": "none", "reason": None},
        "credential": {"ready": True, "reason": None, "expires_at": None},
    } == told
    assert (True, None) == (keys["ready"], keys["reason"])
    assert MAX_AGE == pytest.approx(keys["age"] + keys["expires_in"])


async def test_keys_go_stale() -> None:
    """Keys that could not be renewed for a day are a reason not to be ready."""
    async with build(FakeEntra()) as obo:
        await obo.warm_up()
        later = time.monotonic() + MAX_AGE + 1
        for metadata in obo._metadata.values():
            metadata._clock = lambda: later
        readiness = obo.readiness()
    assert (False, False, 0.0) == (readiness.ready, readiness.keys.ready, readiness.keys.expires_in)
    assert "could not be renewed for 24 hours" in (readiness.keys.reason or "")


async def test_a_dead_shared_cache_is_told_but_no_reason_to_stop() -> None:
    """The app goes on without it; its breaker is open, and says so."""
    shared = FaultyCache()
    async with build(FakeEntra(), TokenCache(shared=shared, keys=RING)) as obo:
        await obo.warm_up()
        closed = obo.readiness()
        shared.fault = fail(ConnectionError)
        for _ in range(3):
            await obo.warm_up()
        opened = obo.readiness()
    assert (True, "closed", None) == (closed.ready, closed.shared_cache.state, None)
    assert (True, "open") == (opened.ready, opened.shared_cache.state)
    assert "left alone" in (opened.shared_cache.reason or "")
    assert 3 == obo.stats()["shared_cache.failures"]


async def test_a_certificate_that_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is known beforehand, and once it has come the app is not ready."""
    entra = FakeEntra()
    key = rsa_key()
    credential = ClientCertificate(key_pem(key) + pem(certificate(key)))
    async with build(entra, client_credential=credential) as obo:
        await obo.warm_up()
        end = obo.readiness().credential.expires_at
        assert end is not None
        assert time.time() < end
        monkeypatch.setattr(time, "time", lambda: end + 1)
        readiness = obo.readiness()
    assert (False, end) == (readiness.ready, readiness.credential.expires_at)
    assert "No client credential can be used: its certificate has ended." == (
        readiness.credential.reason
    )


def test_what_is_told_cannot_be_changed() -> None:
    """It is a value."""
    with pytest.raises(FrozenInstanceError):
        build(FakeEntra()).readiness().ready = True  # type: ignore[misc]


async def test_stats_have_the_same_names_always() -> None:
    """They are plain numbers under a bounded set of names, the same before and after use."""
    entra = FakeEntra()
    async with build(entra) as obo:
        before = obo.stats()
        for name in ("alice", "bob"):
            await (await obo.downstream_for(entra.token(user=name)))["graph"].acquire_token()
        after = obo.stats()
    assert before.keys() == after.keys()
    assert {0} == set(before.values())
    grown = {name: n for name, n in after.items() if n and not name.endswith(".seconds")}
    assert {"tokens.verified": 2, "cache.miss": 2, "exchanges.success": 2} == grown
    assert 0 < after["exchange.seconds"]


async def test_the_example_tells_probes() -> None:
    """It is alive at once, ready once it is warm, and shows its counts to callers alone."""
    entra = FakeEntra()
    obo = build(entra)
    entra.down = "metadata"
    app = health.create_app(obo)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="https://api"
    ) as client:
        alive, unready = await client.get("/livez"), await client.get("/readyz")
        entra.recover()
        for metadata in obo._metadata.values():
            metadata._retry_at = float("-inf")
        ready, refused = await client.get("/readyz"), await client.get("/stats")
        stats = await client.get("/stats", headers=entra.bearer())
    await obo.aclose()
    codes = [r.status_code for r in (alive, unready, ready, refused, stats)]
    assert [200, 503, 200, 401, 200] == codes
    assert (False, True) == (unready.json()["ready"], ready.json()["ready"])
    assert 1 == stats.json()["tokens.verified"]
