"""The wiring: what is handed in is checked at start, and it opens and closes as it is used."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from obo_asgi import ConfigurationError, Downstream, DownstreamAPI, OnBehalfOf, TokenCache, any_of
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

GRAPH = DownstreamAPI(scopes=["https://graph.microsoft.com/.default"])


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        pytest.param({"downstream": {"": GRAPH}}, "a name is missing", id="empty name"),
        pytest.param({"downstream": {7: GRAPH}}, "a name is missing", id="name is a number"),
        pytest.param({"downstream": {"graph": "https://g"}}, "must be a DownstreamAPI", id="a URL"),
        pytest.param({"downstream": [GRAPH]}, "maps names", id="a list"),
        pytest.param({"required_scopes": []}, "required_scopes is empty", id="no scopes"),
        pytest.param({"required_scopes": "read"}, "must be a list", id="bare scope"),
        pytest.param({"app_roles": []}, "app_roles is empty", id="no roles"),
        pytest.param({"http_client": "https://proxy"}, "httpx.AsyncClient", id="no client"),
        pytest.param({"cache": {}}, "TokenCache", id="a dict as cache"),
    ],
)
def test_a_wrong_argument_fails_at_start(options: dict[str, Any], fragment: str) -> None:
    """Each wrong argument is told in a sentence that says what to change."""
    with pytest.raises(ConfigurationError) as caught:
        OnBehalfOf(FakeEntra().registration(), **options)
    assert fragment in str(caught.value)


def test_a_synchronous_client_is_refused() -> None:
    """An httpx.Client, which would block the loop, is not taken for an asynchronous one."""
    with httpx.Client() as client, pytest.raises(ConfigurationError, match="AsyncClient"):
        OnBehalfOf(FakeEntra().registration(), http_client=client)  # type: ignore[arg-type]


def test_the_registration_comes_first() -> None:
    """Something else in its place is refused."""
    with pytest.raises(ConfigurationError, match="must be an AppRegistration"):
        OnBehalfOf({"tenant_id": "x"})  # type: ignore[arg-type]


async def test_any_of_several_scopes_suffices() -> None:
    """A requirement of one of several scopes is met by each of them."""
    entra = FakeEntra()
    obo = OnBehalfOf(
        entra.registration(), required_scopes=any_of("read", "write"), http_client=entra.client()
    )
    assert ("write",) == (await obo.verify(entra.token(scp="write"))).scopes
    await obo.aclose()


async def test_a_cache_of_ones_own_is_used() -> None:
    """Tokens are kept in the cache that was handed in."""
    entra, cache = FakeEntra(), TokenCache(max_entries=3)
    obo = OnBehalfOf(
        entra.registration(), downstream={"graph": GRAPH}, cache=cache, http_client=entra.client()
    )
    downstream = await obo.downstream_for(entra.token())
    await downstream["graph"].acquire_token()
    assert 1 == len(cache)
    assert (True, False) == (obo.made(downstream), obo.made(None))
    assert isinstance(downstream, Downstream)
    await obo.aclose()


async def test_it_may_be_closed_twice_and_used_again() -> None:
    """Closing is repeatable, and what is used after it opens again."""
    entra = FakeEntra()
    obo = OnBehalfOf(entra.registration(), http_client=entra.client())
    async with obo:
        await obo.verify(entra.token())
    await obo.aclose()
    assert "Alice" == (await obo.verify(entra.token())).display_name
    await obo.aclose()


async def test_the_users_own_client_stays_open() -> None:
    """A client that was handed in is the user's to close."""
    entra = FakeEntra()
    client = entra.client()
    async with OnBehalfOf(entra.registration(), http_client=client) as obo:
        await obo.verify(entra.token())
    assert not client.is_closed
    await client.aclose()
