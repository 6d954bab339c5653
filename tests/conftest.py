"""What every test shares: asyncio alone, and hypothesis without a clock and without files."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = ["tests.servers.fixtures"]

settings.register_profile("tests", deadline=None, database=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, the only loop that the library speaks to."""
    return "asyncio"
