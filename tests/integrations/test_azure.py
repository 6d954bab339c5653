"""The Azure adapter: real SDKs, as the user, against services and an Entra ID on sockets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import UserDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import httpx
import pytest
from azure.core import AsyncPipelineClient
from azure.core.credentials_async import AsyncSupportsTokenInfo, AsyncTokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy, AsyncRetryPolicy
from azure.core.rest import HttpRequest
from azure.storage.blob.aio import BlobServiceClient
from starlette.requests import Request

from obo_asgi import (
    AccessDeniedError,
    AuthenticationRequiredError,
    ConfigurationError,
    Downstream,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
)
from obo_asgi.testing import FakeEntra, fake_downstream
from obo_asgi_azure import KeyVaultCertificate, UserCredential, credential_from
from tests.integrations.azure_world import (
    CLAIMS,
    GRAPH,
    GRAPH_SDK_IS_QUIET,
    STORAGE,
    VAULT,
    KeyVault,
    Service,
    blob_service,
    graph_service,
    serving,
)
from tests.servers.fixtures import need
from tests.test_certificates import certificate, key_pem, pem, pfx, rsa_key

pytestmark = pytest.mark.anyio

APIS = {
    "storage": DownstreamAPI(scopes=[f"{STORAGE}/user_impersonation"]),
    "graph": DownstreamAPI(scopes=["User.Read"]),
}
OTHER_TENANT = "99999999-9999-4999-8999-999999999999"
PEM, PKCS12 = "application/x-pem-file", "application/x-pkcs12"
Handler = Callable[[Request], Awaitable[str]]


@pytest.fixture
def entra(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An Entra ID on a socket, whose authority every client trusts."""
    fake = FakeEntra()
    with fake.serve() as server:
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        yield fake


@dataclass
class World:
    """A web API whose handler a test writes, and who calls it."""

    entra: FakeEntra
    obo: OnBehalfOf

    async def ask(self, handler: Handler, user: str = "alice") -> httpx.Response:
        """Call the API, whose answer is what the handler returns."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            text = await handler(Request(scope))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text.encode()})

        transport = httpx.ASGITransport(OnBehalfOfMiddleware(app, self.obo))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.get("/", headers=self.entra.bearer(user=user))


@pytest.fixture
async def world(entra: FakeEntra) -> AsyncIterator[World]:
    entra.add_api(STORAGE, scopes=["user_impersonation"])
    async with OnBehalfOf(entra.registration(), downstream=APIS) as obo:
        yield World(entra, obo)


@pytest.fixture
async def downstream(world: World) -> Downstream:
    return await world.obo.downstream_for(world.entra.token())


# The credential


async def test_it_is_what_azure_core_expects(downstream: Downstream) -> None:
    """It has both protocols of azure-core, and gives the same token by both, with its end."""
    async with credential_from(downstream) as credential:
        assert isinstance(credential, AsyncTokenCredential)
        assert isinstance(credential, AsyncSupportsTokenInfo)
        token = await credential.get_token(f"{GRAPH}/User.Read", enable_cae=True, more="x")
        info = await credential.get_token_info(f"{GRAPH}/User.Read")

    assert (token.token, token.expires_on) == (info.token, info.expires_on)
    assert time.time() < (info.refresh_on or 0) <= info.expires_on
    assert (await downstream["graph"].acquire_token([f"{GRAPH}/User.Read"])).token == token.token


@pytest.mark.parametrize(
    ("api", "asked", "scope"),
    [
        pytest.param(None, f"{STORAGE}/.default", f"{STORAGE}/.default", id="all at storage"),
        pytest.param(None, f"{STORAGE}//.default", f"{STORAGE}//.default", id="a second slash"),
        pytest.param(None, f"{GRAPH}/Mail.Read", f"{GRAPH}/Mail.Read", id="one at Graph"),
        pytest.param("graph", f"{GRAPH}/.default", "User.Read", id="an API's own"),
        pytest.param("graph", f"{STORAGE}/.default", "User.Read", id="an API's own, always"),
    ],
)
async def test_whose_scopes_are_asked_for(
    api: str | None, asked: str, scope: str, downstream: Downstream, world: World
) -> None:
    """The SDK's scopes, at a resource that is configured; of an API that is named, its own."""
    try:
        await credential_from(downstream, api).get_token(asked)
    finally:
        sent = str(world.entra.requests[-1].scope).split()
    assert scope in sent


@pytest.mark.parametrize(
    ("scopes", "api", "fragment"),
    [
        pytest.param([f"{VAULT}/.default"], None, "no downstream API has scopes of", id="unknown"),
        pytest.param([], None, "scopes is empty", id="none"),
        pytest.param([f"{GRAPH}/.default", f"{VAULT}/.default"], None, "several", id="two"),
        pytest.param([f"{GRAPH}/.default"], "mail", "no downstream API is called", id="a name"),
    ],
)
async def test_a_token_is_for_configured_resources_alone(
    scopes: list[str], api: str | None, fragment: str, downstream: Downstream, world: World
) -> None:
    """Whatever a service or an SDK names, no token is acquired for what is not configured."""
    with pytest.raises(ConfigurationError, match=fragment):
        await credential_from(downstream, api).get_token(*scopes)
    assert 0 == world.entra.exchanges


async def test_claims_are_exchanged_for(downstream: Downstream, world: World) -> None:
    """Claims that are demanded go into a new exchange, by both protocols, once."""
    credential = credential_from(downstream, "graph")
    plain = await credential.get_token(f"{GRAPH}/.default")
    token = await credential.get_token(f"{GRAPH}/.default", claims=CLAIMS)
    info = await credential.get_token_info(f"{GRAPH}/.default", options={"claims": CLAIMS})

    assert (True, token.token) == (plain.token != token.token, info.token)
    assert 2 == world.entra.exchanges
    assert '"nbf"' in str(world.entra.requests[-1].claims)


async def test_the_users_tenant_may_be_named(downstream: Downstream, world: World) -> None:
    """A challenge that names the user's own tenant, in any case, changes nothing."""
    credential = credential_from(downstream)
    tenant = world.entra.tenant_id.upper()
    token = await credential.get_token(f"{GRAPH}/.default", tenant_id=tenant)

    assert token == await credential.get_token(f"{GRAPH}/.default")


@pytest.mark.parametrize("as_app", [False, True])
async def test_another_tenant_is_refused(as_app: bool, downstream: Downstream) -> None:
    """No token of another tenant than the caller's is asked for, and the API answers 403."""
    credential = credential_from(downstream.as_app() if as_app else downstream)
    with pytest.raises(AccessDeniedError, match="another tenant"):
        await credential.get_token(f"{GRAPH}/.default", tenant_id=OTHER_TENANT)
    with pytest.raises(AccessDeniedError, match="another tenant"):
        await credential.get_token_info(f"{GRAPH}/.default", options={"tenant_id": OTHER_TENANT})


async def test_it_ends_with_its_request(world: World) -> None:
    """A credential that outlives its request gives nothing more."""
    kept: list[UserCredential] = []

    async def handler(request: Request) -> str:
        kept.append(credential_from(request, "graph"))
        return (await kept[0].get_token(f"{GRAPH}/.default")).token

    assert 200 == (await world.ask(handler)).status_code
    with pytest.raises(RuntimeError, match="start_session"):
        await kept[0].get_token(f"{GRAPH}/.default")


async def test_it_comes_from_a_request_its_scope_or_a_downstream(world: World) -> None:
    """Whatever a handler has at hand gives the credential of the same user."""

    async def handler(request: Request) -> str:
        copy = UserDict(request.scope)
        sources: list[Any] = [request, request.scope, copy, request.scope["obo_asgi"]]
        found = {await credential_from(source).get_token("User.Read") for source in sources}
        return str(len(found))

    assert "1" == (await world.ask(handler)).text


async def test_without_a_user_there_is_none() -> None:
    """An anonymous caller gets a 401, and a missing middleware is told."""
    with pytest.raises(AuthenticationRequiredError):
        credential_from({"obo_asgi": None})
    with pytest.raises(ConfigurationError, match="OnBehalfOfMiddleware"):
        credential_from({})


async def test_a_stand_in_serves_unit_tests() -> None:
    """`fake_downstream` gives a credential whose token is of the API that is named."""
    token = await credential_from(fake_downstream(graph={}), "graph").get_token("whatever")
    assert "fake token" in token.token


# Azure's own SDKs


@pytest.fixture
def blobs(entra: FakeEntra) -> Any:
    service = blob_service(entra)
    with serving(service):
        yield service


def files_of(world: World, service: Service, api: str | None = None) -> Handler:
    async def handler(request: Request) -> str:
        client = BlobServiceClient(
            service.url,
            credential=credential_from(request, api),
            connection_verify=world.entra.ca_file,
        )
        async with client:
            container = client.get_container_client("files")
            names = [name async for name in container.list_blob_names()]
            content = await (await container.download_blob(names[0])).readall()
        return f"{names} {content!r}"

    return handler


async def test_files_are_read_as_the_user(world: World, blobs: Service) -> None:
    """The storage account sees each user, by one exchange for all calls of a request."""
    for user in ("alice", "bob", "alice"):
        answer = await world.ask(files_of(world, blobs), user)
        assert "['hello.txt'] b'hello'" == answer.text

    assert ["Alice", "Alice", "Bob", "Bob", "Alice", "Alice"] == blobs.callers
    assert 2 <= world.entra.exchanges <= 3


@pytest.mark.parametrize("trouble", ["consent", "mfa"])
async def test_what_the_user_has_to_do_reaches_the_caller(
    trouble: str, world: World, blobs: Service
) -> None:
    """A refusal by Entra goes through the SDK unwrapped and is a 401 with its challenge."""
    if trouble == "consent":
        world.entra.withdraw_consent(resource=STORAGE)
    else:
        world.entra.require_mfa(resource=STORAGE)
    answer = await world.ask(files_of(world, blobs, "storage"))

    assert 401 == answer.status_code
    assert {"consent": "consent_required", "mfa": "insufficient_claims"}[trouble] in answer.text
    assert f"{STORAGE}/user_impersonation" in answer.headers["www-authenticate"]
    assert [] == blobs.callers


async def test_an_entra_that_is_down_is_a_503(world: World, blobs: Service) -> None:
    """The SDK does not take it for a failure of its own, which it would try again and again."""
    await world.ask(files_of(world, blobs, "storage"))
    world.entra.down = "token"
    answer = await world.ask(files_of(world, blobs, "storage"), "bob")
    assert 503 == answer.status_code


def with_core_policy(world: World, service: Service) -> Handler:
    """Return a handler with the pipeline that most SDKs of Azure are made of."""

    async def handler(request: Request) -> str:
        credential = credential_from(request, "storage")
        policies = [
            AsyncRetryPolicy(),
            AsyncBearerTokenCredentialPolicy(credential, f"{STORAGE}/.default"),
        ]
        client: Any = AsyncPipelineClient(
            service.url, policies=policies, connection_verify=world.entra.ca_file
        )
        async with client:
            answer = await client.send_request(HttpRequest("GET", f"{service.url}/files"))
            return str(answer.status_code)

    return handler


async def test_a_claims_challenge_is_met(world: World, blobs: Service) -> None:
    """Continuous access evaluation: the SDK asks with the claims, and the call succeeds."""
    blobs.demands_claims = True
    answer = await world.ask(with_core_policy(world, blobs))

    assert "200" == answer.text
    assert [None, CLAIMS] == [
        CLAIMS if "nbf" in str(request.claims) else None for request in world.entra.requests
    ]
    assert 2 == len(set(blobs.tokens))


async def test_a_claims_challenge_that_only_the_user_meets_reaches_the_caller(
    world: World, blobs: Service
) -> None:
    """What Entra answers to the demanded claims is a 401 of ours with the claims in it."""
    blobs.demands_claims = True

    async def handler(request: Request) -> str:
        await credential_from(request, "storage").get_token(f"{STORAGE}/.default")
        world.entra.require_mfa(resource=STORAGE)
        return await with_core_policy(world, blobs)(request)

    answer = await world.ask(handler)
    assert (401, True) == (answer.status_code, "insufficient_claims" in answer.text)


async def test_storage_asks_without_the_claims(world: World, blobs: Service) -> None:
    """The storage SDK passes by claims challenges: its own error, which no user can meet."""
    blobs.demands_claims = True
    with pytest.raises(ClientAuthenticationError):
        await world.ask(files_of(world, blobs))


@pytest.mark.parametrize("api", [None, "storage"])
async def test_storage_may_name_tenant_and_resource(
    api: str | None, world: World, blobs: Service
) -> None:
    """A storage account's challenge cannot make us hand over a token for something else."""
    page = f"{world.entra.authority}/{world.entra.tenant_id}/oauth2/authorize"
    blobs.demands_claims = True
    blobs.claims_challenge = f"Bearer authorization_uri={page} resource_id={VAULT}"
    if api is None:
        with pytest.raises(ConfigurationError, match="no downstream API has scopes of"):
            await world.ask(files_of(world, blobs))
    else:
        with pytest.raises(ClientAuthenticationError):
            await world.ask(files_of(world, blobs, api))
    assert 1 == len(set(blobs.tokens))


# The SDK of Microsoft Graph


@pytest.fixture
def graph_sdk() -> Any:
    need(None if find_spec("msgraph") else "msgraph-sdk is not installed (29 MB)")
    import msgraph.graph_service_client

    return msgraph.graph_service_client


@pytest.fixture
def graph(entra: FakeEntra) -> Any:
    service = graph_service(entra)
    with serving(service):
        yield service


def profile(sdk: Any, service: Service) -> Handler:
    async def handler(request: Request) -> str:
        client = sdk.GraphServiceClient(credentials=credential_from(request, "graph"))
        client.request_adapter.base_url = f"{service.url}/v1.0"
        # what closes the connections: the SDK's own transport does not hand on its end
        async with client.request_adapter._http_client._transport.transport:
            return str((await client.me.get()).display_name)

    return handler


@GRAPH_SDK_IS_QUIET
async def test_graph_is_asked_as_the_user(world: World, graph: Service, graph_sdk: Any) -> None:
    """The Graph SDK reads the profile of each user."""
    users = [(await world.ask(profile(graph_sdk, graph), user)).text for user in ("alice", "bob")]
    assert ["Alice", "Bob"] == users == graph.callers


@GRAPH_SDK_IS_QUIET
async def test_graphs_claims_challenge_is_met(world: World, graph: Service, graph_sdk: Any) -> None:
    """The Graph SDK asks again with the claims that Graph demands."""
    graph.demands_claims = True
    assert "Alice" == (await world.ask(profile(graph_sdk, graph))).text
    assert '"nbf"' in str(world.entra.requests[-1].claims)


@GRAPH_SDK_IS_QUIET
async def test_a_missing_consent_goes_through_the_graph_sdk(
    world: World, graph: Service, graph_sdk: Any
) -> None:
    """A refusal by Entra is a 401 with its challenge."""
    world.entra.withdraw_consent(resource=GRAPH)
    answer = await world.ask(profile(graph_sdk, graph))

    assert (401, True) == (answer.status_code, "consent_required" in answer.text)
    assert [] == graph.callers


# Key Vault


@pytest.mark.parametrize("content_type", [PEM, PKCS12])
async def test_a_certificate_in_a_vault_is_rotated_without_a_restart(
    content_type: str, entra: FakeEntra
) -> None:
    """The certificate authenticates; when it is replaced and revoked, the new one does."""
    leaves = {name: certificate(rsa_key(name), name) for name in ("old", "new")}
    values = {
        name: key_pem(rsa_key(name)) + pem(leaf)
        if content_type == PEM
        else pfx(rsa_key(name), leaf)
        for name, leaf in leaves.items()
    }
    entra.add_certificate(leaves["old"])
    vault = KeyVault(entra, values["old"], content_type)
    vault_api = {"vault": DownstreamAPI(scopes=[f"{VAULT}/.default"])}
    reader = OnBehalfOf(entra.registration(), downstream=vault_api)
    with serving(vault):
        async with reader, reader.as_app() as app:
            credential = KeyVaultCertificate(
                vault.url,
                "api",
                credential=credential_from(app),
                connection_verify=entra.ca_file,
                verify_challenge_resource=False,  # the vault is not at vault.azure.net
            )
            registration = entra.registration(client_credential=credential)
            async with OnBehalfOf(registration, downstream=APIS) as obo:
                first = await exchange(obo, entra)
                vault.put(values["new"], content_type)
                entra.remove_certificate(leaves["old"])
                entra.add_certificate(leaves["new"])
                second = await exchange(obo, entra)

    assert first != second
    assert 2 == len(vault.callers)


async def exchange(obo: OnBehalfOf, entra: FakeEntra) -> str:
    downstream = await obo.downstream_for(entra.token())
    return (await downstream["graph"].acquire_token()).token


async def test_a_vault_that_is_gone_is_told_at_the_start(entra: FakeEntra) -> None:
    """The error names the kind of failure, and nothing of the vault's words."""
    credential: Any = credential_from(fake_downstream(vault={}), "vault")
    certificate = KeyVaultCertificate(
        "https://localhost:1", "api", credential=credential, retry_total=0
    )
    obo = OnBehalfOf(entra.registration(client_credential=certificate), downstream=APIS)
    with pytest.raises(ConfigurationError, match=r"failed \(ServiceRequestError\)"):
        await obo.open()
    await obo.aclose()


@pytest.mark.parametrize(
    ("url", "name"), [("my-vault", "api"), ("http://v.vault.azure.net", "a"), ("https://v", "")]
)
def test_wrong_vaults_are_told(url: str, name: str) -> None:
    """A vault is named by its URL, over https, and the certificate by its name."""
    credential: Any = None
    with pytest.raises(ConfigurationError, match="KeyVaultCertificate"):
        KeyVaultCertificate(url, name, credential=credential)


def test_a_missing_client_is_told_with_the_command() -> None:
    """Without Key Vault's client the adapter works, and says what to install."""
    code = """
import sys
sys.modules["azure.keyvault.secrets.aio"] = None
from obo_asgi_azure import KeyVaultCertificate
try:
    KeyVaultCertificate("https://v.vault.azure.net", "api", credential=None)
except ValueError as error:
    print(error)
assert not {"msgraph", "azure.storage", "azure.identity", "aiohttp"} & set(sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True)
    assert ("", True) == (run.stderr, "pip install 'obo-asgi-azure[keyvault]'" in run.stdout)
