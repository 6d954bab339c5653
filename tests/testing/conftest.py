from collections.abc import AsyncIterator

import pytest

from obo_asgi.testing import FakeEntra
from obo_asgi.testing.plugin import entra, entra_tls
from tests.testing.calls import PARTNER, Calls

__all__ = ["calls", "entra", "entra_tls"]


@pytest.fixture
async def calls(entra: FakeEntra) -> AsyncIterator[Calls]:
    entra.add_api(PARTNER, scopes=["read", "write"], roles=["Tasks.Run"])
    async with entra.client() as client:
        yield Calls(entra, client)
