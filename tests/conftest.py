"""What every test shares: asyncio alone, hypothesis without a clock, and a log that is read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.secrets_scan import SecretsScan, scanned_log, scanned_telemetry

pytest_plugins = ["tests.servers.fixtures"]

settings.register_profile("tests", deadline=None, database=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, the only loop that the library speaks to."""
    return "asyncio"


@pytest.fixture(autouse=True)
def root_log() -> Iterator[None]:
    """Leave nothing to the next test of how a framework sets the root logger up."""
    yield
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers[:]:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def library_log() -> Iterator[SecretsScan]:
    """Read everything that the library logs during the whole run; no secret may be in it."""
    with scanned_log() as scan:
        yield scan
    assert [] == scan.findings


@pytest.fixture(scope="session", autouse=True)
def library_telemetry() -> Iterator[None]:
    """Where OBO_ASGI_TRACED is set, record all spans and metrics too; no secret may be in them."""
    if not os.environ.get("OBO_ASGI_TRACED"):
        yield
        return
    with scanned_telemetry() as findings:
        yield
    assert [] == findings
