"""The endpoints of Azure hosts for tokens of managed identities."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from obo_asgi._types import Message
from obo_asgi.testing import FakeEntra, serve
from tests.testing.calls import PARTNER, Calls, claims_of
from tests.testing.material import CLIENT_ASSERTION_TYPE

pytestmark = pytest.mark.anyio

EXCHANGE = "api://AzureADTokenExchange"
IMDS = "http://169.254.169.254/metadata/identity/oauth2/token"
SITE = "http://127.0.0.1:41741"


async def ask_imds(
    client: httpx.AsyncClient, headers: dict[str, str] | None = None, **query: str | None
) -> httpx.Response:
    """Ask as a virtual machine does; a parameter given as None is left out."""
    fields: dict[str, str | None] = {"api-version": "2018-02-01", "resource": EXCHANGE, **query}
    return await client.get(
        IMDS,
        params={name: value for name, value in fields.items() if value is not None},
        headers={"Metadata": "true"} if headers is None else headers,
    )


async def ask_site(
    entra: FakeEntra, headers: dict[str, str] | None = None, **query: str
) -> httpx.Response:
    """Ask as a web app of App Service does."""
    if headers is None:
        headers = {"X-IDENTITY-HEADER": entra.managed_identity_header}
    params = {"api-version": "2019-08-01", "resource": EXCHANGE, **query}
    async with entra.client(apps={SITE: entra.managed_identity}) as client:
        return await client.get(f"{SITE}/msi/token", params=params, headers=headers)


async def test_virtual_machine_gets_a_token(entra: FakeEntra) -> None:
    """IMDS answers in strings, with a token of the tenant about the identity."""
    entra.token_lifetime = 86400
    async with entra.client() as client:
        answer = (await ask_imds(client)).json()
    assert all(isinstance(value, str) for value in answer.values())
    assert ("Bearer", EXCHANGE) == (answer["token_type"], answer["resource"])
    assert 86400 - int(answer["expires_in"]) in (0, 1, 2)
    claims = claims_of(answer["access_token"])
    assert str(claims["exp"]) == answer["expires_on"]
    assert (EXCHANGE, f"{entra.authority}/{entra.tenant_id}/v2.0") == (claims["aud"], claims["iss"])
    assert (claims["oid"], entra.tenant_id) == (claims["sub"], claims["tid"])
    assert {"managed_identity": 1} == dict(entra.counts)


async def test_web_app_gets_a_token(entra: FakeEntra) -> None:
    """App Service says when the token ends, not how long it lives."""
    answer = (await ask_site(entra)).json()
    assert {"access_token", "client_id", "expires_on", "resource", "token_type"} == set(answer)
    assert 3600 - (int(answer["expires_on"]) - time.time()) < 3
    assert EXCHANGE == claims_of(answer["access_token"])["aud"]
    assert {"managed_identity": 1} == dict(entra.counts)


async def test_user_assigned_identity(entra: FakeEntra) -> None:
    """A user-assigned identity is found by each of its ids, and differs from the system's."""
    other, mine = entra.add_managed_identity("other"), entra.add_managed_identity("mine")
    assert mine == entra.add_managed_identity("mine")
    async with entra.client() as client:
        system = (await ask_imds(client)).json()
        queries: tuple[dict[str, Any], ...] = (
            {"client_id": mine.client_id},
            {"object_id": mine.object_id},
            {"msi_res_id": mine.resource_id.upper()},
            {"mi_res_id": mine.resource_id},
        )
        for query in queries:
            answer = (await ask_imds(client, **query)).json()
            assert mine.client_id == answer["client_id"]
            assert mine.object_id == claims_of(answer["access_token"])["sub"]
    answer = (await ask_site(entra, principal_id=mine.object_id)).json()
    assert mine.client_id == answer["client_id"]
    assert 3 == len({system["client_id"], mine.client_id, other.client_id})


async def test_token_for_a_resource(calls: Calls) -> None:
    """A managed identity gets tokens for the APIs of the tenant as well, with their audience."""
    partner = calls.entra.registration(PARTNER)
    answer = (await ask_imds(calls.client, resource=PARTNER)).json()
    assert (PARTNER, partner.client_id) == (
        answer["resource"],
        claims_of(answer["access_token"])["aud"],
    )


@pytest.mark.parametrize(
    ("error", "headers", "query"),
    [
        ("invalid_request", {}, {}),
        ("invalid_request", {"Metadata": "false"}, {}),
        ("invalid_request", None, {"api-version": None}),
        ("invalid_request", None, {"api-version": "2017-01-01"}),
        ("invalid_resource", None, {"resource": None}),
        ("invalid_resource", None, {"resource": "api://nowhere"}),
        ("invalid_request", None, {"client_id": "11111111-2222-3333-4444-555555555555"}),
    ],
)
async def test_refusal_of_a_virtual_machine(
    entra: FakeEntra, error: str, headers: dict[str, str] | None, query: dict[str, Any]
) -> None:
    """What IMDS refuses is a 400 with an OAuth error."""
    entra.add_managed_identity("mine")
    async with entra.client() as client:
        response = await ask_imds(client, headers, **query)
    assert (400, error) == (response.status_code, response.json()["error"])
    assert response.json()["error_description"]


@pytest.mark.parametrize(
    ("status", "headers", "query"),
    [
        (401, {}, {}),
        (401, {"X-IDENTITY-HEADER": "guessed"}, {}),
        (401, {"Metadata": "true"}, {}),
        (400, None, {"api-version": "2018-02-01"}),
        (400, None, {"resource": "api://nowhere"}),
        (400, None, {"client_id": "11111111-2222-3333-4444-555555555555"}),
    ],
)
async def test_refusal_of_a_web_app(
    entra: FakeEntra, status: int, headers: dict[str, str] | None, query: dict[str, str]
) -> None:
    """What App Service refuses has its status in the body too."""
    response = await ask_site(entra, headers, **query)
    assert (status, status) == (response.status_code, response.json()["statusCode"])
    assert response.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/metadata/instance", 404), ("POST", "/msi/token", 405)]
)
async def test_wrong_path_or_method(entra: FakeEntra, method: str, path: str, status: int) -> None:
    """What is not there is 404, and only GET is known."""
    async with entra.client() as client:
        response = await client.request(method, f"http://169.254.169.254{path}")
    assert status == response.status_code


@pytest.mark.parametrize("identity", [None, "mine"])
@pytest.mark.parametrize("audience", [EXCHANGE, f"{EXCHANGE}USGov", f"{EXCHANGE}China"])
async def test_token_serves_as_client_assertion(
    calls: Calls, identity: str | None, audience: str
) -> None:
    """An app that trusts a managed identity is authenticated by its token, not by another's."""
    calls.entra.add_managed_identity("mine")
    calls.entra.trust_managed_identity(identity=identity, audience=audience)
    client_ids = {None: None, "mine": calls.entra.add_managed_identity("mine").client_id}
    for name, client_id in client_ids.items():
        token = (await ask_imds(calls.client, resource=audience, client_id=client_id)).json()
        response = await calls.exchange(
            client_secret=None,
            client_assertion_type=CLIENT_ASSERTION_TYPE,
            client_assertion=token["access_token"],
        )
        assert (200 if name == identity else 401) == response.status_code, response.text
        if name != identity:
            assert [700213] == response.json()["error_codes"]


async def test_own_issuer_signs_with_the_services_keys(calls: Calls) -> None:
    """A federated token of the tenant's own issuer is as good as the endpoint's, until the key is
    dropped.
    """
    issuer = f"{calls.entra.authority}/{calls.entra.tenant_id}/v2.0"
    calls.entra.trust_managed_identity()
    token = (await ask_imds(calls.client)).json()["access_token"]
    fields: dict[str, Any] = {
        "client_secret": None,
        "client_assertion_type": CLIENT_ASSERTION_TYPE,
    }
    same = calls.entra.federated_token(claims_of(token)["sub"], issuer=issuer)
    for assertion in (token, same):
        response = await calls.exchange(client_assertion=assertion, **fields)
        assert 200 == response.status_code
    calls.entra.roll_keys()
    calls.entra.drop_old_keys()
    user = calls.entra.token()
    assert [700027] == (await calls.exchange(user, client_assertion=token, **fields)).json()[
        "error_codes"
    ]


def test_unknown_identity_is_a_lookup_error(entra: FakeEntra) -> None:
    """An identity that nobody added is a mistake in the test, and the error says what to do."""
    with pytest.raises(LookupError, match="add_managed_identity"):
        entra.trust_managed_identity(identity="nobody")


async def test_outage_in_process(entra: FakeEntra) -> None:
    """An endpoint that is down cannot be reached, here or at another origin, and is counted."""
    entra.down = "managed_identity"
    async with entra.client() as client:
        with pytest.raises(httpx.ConnectError):
            await ask_imds(client)
        keys = await client.get(f"{entra.authority}/common/discovery/keys")
        assert 200 == keys.status_code
    with pytest.raises(httpx.ConnectError):
        await ask_site(entra)
    assert 2 == entra.counts["refused"]
    entra.recover()
    assert 200 == (await ask_site(entra)).status_code


async def test_latency(entra: FakeEntra) -> None:
    """The endpoint is as slow as the service is told to be."""
    entra.latency = 0.05
    started = asyncio.get_running_loop().time()
    assert 200 == (await ask_site(entra)).status_code
    assert asyncio.get_running_loop().time() - started >= 0.05


def test_endpoint_over_a_socket(entra: FakeEntra) -> None:
    """Served without TLS it answers like on a host, and an outage is a 503."""
    with serve(entra.managed_identity, tls=False) as server, httpx.Client() as client:
        url = f"{server.url}/metadata/identity/oauth2/token"
        params = {"api-version": "2018-02-01", "resource": EXCHANGE}
        assert 200 == client.get(url, params=params, headers={"Metadata": "true"}).status_code
        entra.down = {"managed_identity"}
        assert 503 == client.get(url).status_code
        entra.down = False
        assert 400 == client.get(url).status_code


async def test_app_of_ones_own_in_its_place(entra: FakeEntra) -> None:
    """A test can put another app where the endpoint is."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        start: Message = {"type": "http.response.start", "status": 418, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    async with entra.client(apps={"http://169.254.169.254": app}) as client:
        assert 418 == (await ask_imds(client)).status_code
