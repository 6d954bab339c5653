"""Fixtures for pytest; name them by ``pytest_plugins = ["obo_asgi.testing.plugin"]``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import FakeEntra

__all__ = ["entra", "entra_tls"]


@pytest.fixture
def entra() -> FakeEntra:
    """A fresh `FakeEntra`, reached in process through ``entra.client()``."""
    return FakeEntra()


@pytest.fixture
def entra_tls() -> Iterator[FakeEntra]:
    """A fresh `FakeEntra`, served over TLS at ``entra_tls.authority``, trusted by ``.ca_file``."""
    fake = FakeEntra()
    with fake.serve():
        yield fake
