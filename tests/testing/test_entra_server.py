"""Over real sockets: the server, the fixtures, and what Microsoft's own clients say."""

import asyncio
import gc
import logging
import ssl
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msal
import pytest
import requests
from azure.identity.aio import OnBehalfOfCredential

from obo_asgi._types import Receive, Scope, Send
from obo_asgi.testing import FakeEntra, serve
from tests.testing.calls import PARTNER, claims_of, secret_of

pytestmark = pytest.mark.anyio


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


def get(url: str, ca_file: str) -> httpx.Response:
    with httpx.Client(verify=ssl.create_default_context(cafile=ca_file)) as client:
        return client.get(url)


@pytest.mark.parametrize("tls", [True, False])
def test_any_app_is_served(tls: bool) -> None:
    """An ASGI app answers on a port of its own, with TLS or without."""
    with serve(hello, tls=tls) as server:
        assert server.url.startswith("https://localhost:" if tls else "http://localhost:")
        assert ("https" if tls else "http") == get(server.url, server.ca_file).text
    with pytest.raises(httpx.ConnectError):
        get(server.url, server.ca_file)


def test_one_authority_for_all_servers(entra_tls: FakeEntra) -> None:
    """One CA file trusts every server of the process."""
    with serve(hello) as server:
        assert entra_tls.ca_file == server.ca_file
        assert 200 == get(server.url, entra_tls.ca_file).status_code
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{entra_tls.authority}/common/discovery/keys")


def test_app_that_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    """A failing start-up is an error here, not a hang."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with (
        caplog.at_level(logging.CRITICAL),
        pytest.raises(RuntimeError, match="did not start"),
        serve(app),
    ):
        pytest.fail("it started")


def test_running_request_ends_before_its_server() -> None:
    """The end of the block waits for an answer that is on its way."""
    started = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            started.set()
            await asyncio.sleep(0.1)
        await hello(scope, receive, send)

    with ThreadPoolExecutor(1) as pool:
        with serve(app) as server:
            answer = pool.submit(get, server.url, server.ca_file)
            assert started.wait(5)
        assert "https" == answer.result().text


def test_authority_is_the_server_while_it_serves(entra: FakeEntra) -> None:
    """Issuers and registrations name the server as long as it runs, and the old authority after."""
    before = entra.authority
    with pytest.raises(RuntimeError, match="serve"):
        _ = entra.ca_file
    with entra.serve() as server:
        assert server.url == entra.authority == entra.registration().authority
        assert server.ca_file == entra.ca_file
        metadata = get(
            f"{server.url}/{entra.tenant_id}/v2.0/.well-known/openid-configuration", entra.ca_file
        ).json()
        assert f"{server.url}/{entra.tenant_id}/v2.0" == metadata["issuer"]
        assert claims_of(entra.token())["iss"] == metadata["issuer"]
    assert before == entra.authority


def test_outage_over_tls(entra_tls: FakeEntra) -> None:
    """Over TLS an outage is a 503 for each endpoint that is down."""
    entra_tls.down = {"keys"}
    url = f"{entra_tls.authority}/common"
    assert 503 == get(f"{url}/discovery/keys", entra_tls.ca_file).status_code
    assert 200 == get(f"{url}/.well-known/openid-configuration", entra_tls.ca_file).status_code
    assert 1 == entra_tls.counts["refused"]


@pytest.mark.parametrize("name", ["first", "second"])
def test_fixture_is_fresh(entra_tls: FakeEntra, name: str) -> None:
    """Every test gets a service without the state of another."""
    assert 0 == sum(entra_tls.counts.values())
    entra_tls.add_user(name)
    get(f"{entra_tls.authority}/common/discovery/keys", entra_tls.ca_file)
    others = {"first": "second", "second": "first"}
    with pytest.raises(LookupError):
        entra_tls.user(others[name])


def test_import_is_light() -> None:
    """Importing the package imports no server, no pytest and no Redis."""
    code = (
        "import sys, obo_asgi.testing;"
        "heavy = {'uvicorn', 'trustme', 'pytest', 'redis', 'msal', 'aiocache', 'requests'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "[]" == output.strip()


# Microsoft's own clients


def confidential_client(
    entra: FakeEntra, session: requests.Session, *, instance_discovery: str | bool = False
) -> Any:
    registration = entra.registration()
    return msal.ConfidentialClientApplication(
        registration.client_id,
        client_credential=secret_of(registration),
        authority=f"{entra.authority}/{entra.tenant_id}",
        instance_discovery=instance_discovery,
        http_client=session,
        client_capabilities=["cp1"],
    )


@pytest.fixture
def msal_client(entra_tls: FakeEntra, session: requests.Session) -> Any:
    entra_tls.add_api(PARTNER, scopes=["read", "write"], roles=["Tasks.Run"])
    return confidential_client(entra_tls, session)


def test_msal_acts_on_behalf_of(entra_tls: FakeEntra, msal_client: Any) -> None:
    """The real MSAL exchanges a token, then refreshes it, and files the account."""
    result = msal_client.acquire_token_on_behalf_of(entra_tls.token("bob"), [f"{PARTNER}/read"])
    claims = claims_of(result["access_token"])
    assert ("read", ["cp1"], "Bob") == (claims["scp"], claims["xms_cc"], claims["name"])
    assert ["bob@contoso.example"] == [a["username"] for a in msal_client.get_accounts()]
    refreshed = msal_client.acquire_token_by_refresh_token(
        result["refresh_token"], scopes=["https://graph.microsoft.com/.default"]
    )
    assert "https://graph.microsoft.com" == claims_of(refreshed["access_token"])["aud"]
    account = msal_client.get_accounts()[0]
    silent = msal_client.acquire_token_silent([f"{PARTNER}/write"], account=account)
    assert "write" == claims_of(silent["access_token"])["scp"]
    assert 1 == entra_tls.exchanges


def test_msal_acts_for_itself(entra_tls: FakeEntra, msal_client: Any) -> None:
    """The real MSAL gets a token of the client's own, and keeps it."""
    for source in ("identity_provider", "cache"):
        result = msal_client.acquire_token_for_client([f"{PARTNER}/.default"])
        assert source == result["token_source"]
    assert ["Tasks.Run"] == claims_of(result["access_token"])["roles"]


def test_msal_understands_the_refusals(entra_tls: FakeEntra, msal_client: Any) -> None:
    """The real MSAL hands on error, suberror, claims and the correlation id."""
    entra_tls.withdraw_consent()
    scopes = [f"{PARTNER}/read"]
    result = msal_client.acquire_token_on_behalf_of(entra_tls.token(), scopes)
    assert ("invalid_grant", "consent_required", [65001]) == (
        result["error"],
        result["suberror"],
        result["error_codes"],
    )
    assert entra_tls.requests[-1].client_request_id == result["correlation_id"]
    entra_tls.grant_consent()
    entra_tls.require_mfa()
    result = msal_client.acquire_token_on_behalf_of(entra_tls.token("bob"), scopes)
    assert "capolids" in result["claims"]


def test_msal_signs_a_user_in(entra_tls: FakeEntra, msal_client: Any) -> None:
    """The real MSAL's authorization code flow, with state, nonce and PKCE, passes the pages."""
    redirect_uri = "https://localhost/cb"
    with pytest.warns(UserWarning, match="form_post"):
        flow = msal_client.initiate_auth_code_flow([f"{PARTNER}/read"], redirect_uri=redirect_uri)
    page = get(f"{flow['auth_uri']}&login_hint=alice", entra_tls.ca_file)
    answer = dict(httpx.URL(page.headers["location"]).params)
    result = msal_client.acquire_token_by_auth_code_flow(flow, answer)
    assert "Alice" == result["id_token_claims"]["name"]
    assert "read" == claims_of(result["access_token"])["scp"]


def test_msal_discovers_the_instance(entra_tls: FakeEntra, session: requests.Session) -> None:
    """The real MSAL's instance discovery gets an answer that leads to the tenant."""
    url = f"{entra_tls.authority}/common/discovery/instance"
    client = confidential_client(entra_tls, session, instance_discovery=url)
    assert entra_tls.tenant_id == client.authority.tenant
    assert 2 == entra_tls.counts["metadata"]


async def test_azure_identity_acts_on_behalf_of(entra_tls: FakeEntra) -> None:
    """The real azure-identity gets a token, and with CAE one that says cp1."""
    entra_tls.add_api(PARTNER, scopes=["read"])
    registration = entra_tls.registration()
    async with OnBehalfOfCredential(
        registration.tenant_id,
        registration.client_id,
        client_secret=secret_of(registration),
        user_assertion=entra_tls.token("bob"),
        authority=entra_tls.authority,
        disable_instance_discovery=True,
        connection_verify=entra_tls.ca_file,
    ) as credential:
        claims = claims_of((await credential.get_token(f"{PARTNER}/.default")).token)
        assert ("read", "Bob") == (claims["scp"], claims["name"])
        claims = claims_of((await credential.get_token(f"{PARTNER}/read", enable_cae=True)).token)
        assert ["CP1"] == claims["xms_cc"]
    assert 2 == entra_tls.exchanges


def test_serving_warns_of_nothing(entra: FakeEntra) -> None:
    """Start and stop leave no warning behind, not even an unclosed socket."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with entra.serve() as server:
            get(f"{server.url}/common/discovery/keys", server.ca_file)
        gc.collect()
    assert [] == [str(warning.message) for warning in caught]
