from collections.abc import AsyncIterator, Iterator

import pytest
import requests

from obo_asgi.testing import FakeEntra
from obo_asgi.testing.plugin import entra, entra_tls
from tests.testing.calls import PARTNER, Calls

__all__ = ["calls", "entra", "entra_tls", "session"]


@pytest.fixture
async def calls(entra: FakeEntra) -> AsyncIterator[Calls]:
    entra.add_api(PARTNER, scopes=["read", "write"], roles=["Tasks.Run"])
    async with entra.client() as client:
        yield Calls(entra, client)


@pytest.fixture
def session(entra_tls: FakeEntra, monkeypatch: pytest.MonkeyPatch) -> Iterator[requests.Session]:
    """The HTTP client of the real MSAL, which trusts `entra_tls`."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # they would beat `verify`
        monkeypatch.delenv(name, raising=False)
    with requests.Session() as session:
        session.verify = entra_tls.ca_file
        yield session
