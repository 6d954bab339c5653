"""Settings: a file as Microsoft.Identity.Web has it, TOML, the environment, and mistakes."""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from obo_asgi import (
    ANY_TENANT,
    ConfigurationError,
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    TokenCache,
    downstream_from,
    new_cache_key,
)
from obo_asgi.settings import Settings, read_settings
from obo_asgi.testing import FakeEntra
from obo_asgi_azure import _BriefCredential
from tests.test_certificates import KEY, LEAF, key_pem, pem, pfx

pytestmark = pytest.mark.anyio

TENANT = "11111111-1111-4111-8111-111111111111"
CLIENT = "33333333-3333-4333-8333-333333333333"
SECRET = "very~secret.value"
PASSWORD = "correct horse battery staple"
GRAPH = "https://graph.microsoft.com"

ARTICLE = """
{
  "AzureAd": {
    "Instance": "https://login.microsoftonline.com/",
    "TenantId": "<tenant>",
    "ClientId": "<client>",
    "ClientCredentials": [
      {
        "SourceType": "ClientSecret",
        "ClientSecret": "<secret>"
      }
    ],
    "Audience": "api://<client>"
  },
  "DownstreamApis": {
    "GraphAPI": {
      "BaseUrl": "https://graph.microsoft.com/v1.0",
      "Scopes": ["https://graph.microsoft.com/.default"]
    },
    "PartnerAPI": {
      "BaseUrl": "https://partnerapi.example.com",
      "Scopes": ["api://partner-api-id/read"]
    }
  }
}
"""
BASE: dict[str, Any] = {
    "AzureAd": {"TenantId": TENANT, "ClientId": CLIENT, "ClientSecret": SECRET},
    "DownstreamApis": {"Graph": {"BaseUrl": f"{GRAPH}/v1.0", "Scopes": ["User.Read"]}},
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the machine's own environment says out of the tests."""
    for name in list(os.environ):
        if name.startswith(("AZURE_", "OBO_")):
            monkeypatch.delenv(name)


def article(tenant: str = TENANT, client: str = CLIENT, secret: str = SECRET) -> str:
    text = ARTICLE.replace("<tenant>", tenant).replace("<client>", client)
    return text.replace("<secret>", secret)


def settings_with(section: str = "AzureAd", **changes: Any) -> dict[str, Any]:
    """Return good settings with other values in a section; None takes a key out."""
    tree = copy.deepcopy(BASE)
    tree.setdefault(section, {}).update(changes)
    return tree


def with_credential(**item: Any) -> dict[str, Any]:
    return settings_with(ClientSecret=None, ClientCredentials=[item])


def graph_with(**changes: Any) -> dict[str, Any]:
    tree = copy.deepcopy(BASE)
    tree["DownstreamApis"]["Graph"].update(changes)
    return tree


def credentials(source: Any) -> list[str]:
    return [repr(item) for item in read_settings(source).registration.credentials]


def error_of(source: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(source)
    shown = "".join(traceback.format_exception(caught.value))
    assert [] == [secret for secret in (SECRET, PASSWORD) if secret in shown]
    assert caught.value.__context__ is None
    return str(caught.value)


async def who(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["user"].display_name.encode()})


async def web_api(scope: Any, receive: Any, send: Any) -> None:
    downstream = downstream_from(scope)
    names = await downstream.gather(
        downstream["GraphAPI"].get("me", into=str), downstream["PartnerAPI"].get("me", into=str)
    )
    body = json.dumps([part.value for part in names]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def apis_of(entra: FakeEntra) -> dict[str, Any]:
    """Return the downstream APIs of the article's file, which take only tokens made for them."""
    partner = entra.add_api("api://partner-api-id", scopes=["read"])
    registrations = {GRAPH: entra.registration("graph"), "https://partnerapi.example.com": partner}
    return {
        url: OnBehalfOfMiddleware(who, OnBehalfOf(registration, http_client=entra.client()))
        for url, registration in registrations.items()
    }


async def call(obo: OnBehalfOf, entra: FakeEntra, **token: Any) -> httpx.Response:
    transport = httpx.ASGITransport(OnBehalfOfMiddleware(web_api, obo))
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.get("https://api", headers=entra.bearer(**token))


# --- Where settings come from


@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_the_articles_file_starts_an_api(version: str, tmp_path: Path) -> None:
    """Both versions of a caller's token are taken, and both APIs are called as the user."""
    entra = FakeEntra()
    registration = entra.registration()
    file = tmp_path / "appsettings.json"
    text = article(registration.tenant_id, registration.client_id, entra.new_secret())
    file.write_text(text, encoding="utf-8-sig")
    apps = apis_of(entra)

    obo = OnBehalfOf.from_settings(file, http_client=entra.client(apps=apps))

    response = await call(obo, entra, version=version)
    assert (200, ["Alice", "Alice"]) == (response.status_code, response.json())


async def test_an_authority_of_ones_own_is_pinned_by_its_issuer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instance and Issuer, put over the file by variables, lead to another sign-in service."""
    issuer = "https://entra.example.com/{tenantid}/v2.0"
    entra = FakeEntra(authority="https://entra.example.com", issuer=issuer)
    registration = entra.registration()
    file = tmp_path / "appsettings.json"
    file.write_text(article(registration.tenant_id, registration.client_id))
    monkeypatch.setenv("OBO__AZUREAD__INSTANCE", entra.authority + "/")
    monkeypatch.setenv("OBO__AZUREAD__ISSUER", issuer)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", entra.new_secret())
    apps = apis_of(entra)

    obo = OnBehalfOf.from_settings(str(file), http_client=entra.client(apps=apps))

    assert 200 == (await call(obo, entra)).status_code


def test_json_may_have_what_net_lets_it_have(tmp_path: Path) -> None:
    """Comments, trailing commas, keys in any case, and sections that are not ours."""
    file = tmp_path / "appsettings.json"
    file.write_text(
        f"""{{ // the API
          "Logging": {{"LogLevel": {{"Default": "Information"}}}}, "AllowedHosts": "*",
          "AzureAD": {{"tenantId": "{TENANT}", "CLIENTID": "{CLIENT}", /* // */
            "clientsecret": "a//b,]", "Domain": "contoso.com", "Audience": null,}},
          "downstreamApi": {{"graph": {{"scopes": "User.Read  Mail.Read", "TIMEOUT": 2}}}},
        }}"""
    )

    settings = read_settings(file)

    assert {"graph": DownstreamAPI(scopes=["User.Read", "Mail.Read"], timeout=2)} == dict(
        settings.downstream
    )
    assert ["a//b,]"] == [item.reveal() for item in settings.registration.credentials]  # type: ignore[union-attr]


def test_toml_says_the_same_in_snake_case(tmp_path: Path) -> None:
    """Sections and keys are found with underscores too."""
    file = tmp_path / "obo.toml"
    file.write_text(f"""
        [azure_ad]
        tenant_id = "{TENANT}"
        client_id = "{CLIENT}"
        client_secret_file = "/secrets/api"
        allowed_tenants = "*"
        required_scopes = ["access_as_user"]
        app_roles = ["Sync"]
        consent_redirect_uri = "https://api.example.com/consented"

        [downstream.graph]
        base_url = "https://graph.microsoft.com/v1.0"
        scopes = ["User.Read"]
        serve_app_callers = true
        headers = {{ "Prefer" = "return=minimal" }}
    """)

    settings = read_settings(file)
    api = settings.downstream["graph"]

    assert ["ClientSecret.from_file('/secrets/api')"] == credentials(file)
    assert ANY_TENANT is settings.registration.allowed_tenants
    assert "https://api.example.com/consented" == settings.registration.consent_redirect_uri
    assert settings.required_scopes is not None
    assert ("access_as_user",) == settings.required_scopes.names
    assert ("https://graph.microsoft.com/v1.0", True) == (api.base_url, api.serve_app_callers)
    assert {"Prefer": "return=minimal"} == dict(api.headers)
    names = {"registration", "downstream", "required_scopes", "app_roles"}
    assert names == settings.arguments().keys()


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Azure SDKs' variables, and nested ones for what those have no name for."""
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.microsoftonline.us")
    monkeypatch.setenv("OBO__DOWNSTREAMAPIS__GRAPH__BASEURL", "https://graph.microsoft.us/v1.0")
    monkeypatch.setenv("OBO__DOWNSTREAMAPIS__GRAPH__SCOPES", '["User.Read"]')
    monkeypatch.setenv("OBO__AZUREAD__REQUIREDSCOPES", '["read", "write"]')
    monkeypatch.setenv("OBO__AZUREAD__AUDIENCE", "  ")

    settings = read_settings()

    assert "https://login.microsoftonline.us" == settings.registration.authority
    assert ["ClientSecret('***')"] == credentials(None)
    assert ["graph"] == list(settings.downstream)
    assert settings.required_scopes is not None
    assert ("read", "write") == settings.required_scopes.names


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key, in the file's spelling of names; nested variables win over the SDKs'."""
    other = "44444444-4444-4444-8444-444444444444"
    third = "55555555-5555-4555-8555-555555555555"
    monkeypatch.setenv("AZURE_TENANT_ID", other)
    monkeypatch.setenv("AZURE_CLIENT_ID", other)
    monkeypatch.setenv("OBO__AzureAd__ClientId", third)
    monkeypatch.setenv("OBO__AZUREAD__CLIENTCREDENTIALS__0__CLIENTSECRET", "of the environment")
    monkeypatch.setenv("OBO__DOWNSTREAMAPIS__PARTNERAPI__TIMEOUT", "5")
    monkeypatch.setenv("OBO__DOWNSTREAMAPIS__MAIL", '{"Scopes": ["Mail.Read"]}')
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", "/not/used")

    settings = read_settings(json.loads(article()))

    registration = settings.registration
    assert (other, third) == (registration.tenant_id, registration.client_id)
    assert "https://login.microsoftonline.com" == registration.authority
    assert ["of the environment"] == [item.reveal() for item in registration.credentials]  # type: ignore[union-attr]
    assert {"GraphAPI": 30, "PartnerAPI": 5, "mail": 30} == {
        name: api.timeout for name, api in settings.downstream.items()
    }


def test_each_section_takes_lists_by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """As .NET gives lists in variables: item by item, over the items of the file."""
    monkeypatch.setenv("OBO__AZUREAD__REQUIREDSCOPES__1", "write")
    monkeypatch.setenv("OBO__DOWNSTREAMAPIS__GRAPH__SCOPES__0", "Mail.Read")
    monkeypatch.setenv("OBO__TOKENCACHE__KEYS__0", new_cache_key())
    source = settings_with(RequiredScopes=("read", "wirte"))
    source["TokenCache"] = {"Redis": "redis://localhost"}

    settings = read_settings(source)

    assert settings.required_scopes is not None
    assert ("read", "write") == settings.required_scopes.names
    assert ("Mail.Read",) == settings.downstream["Graph"].scopes
    assert settings.cache is not None
    assert settings.cache.has_keys


@pytest.mark.parametrize(
    ("item", "key", "expected"),
    [
        (
            {"SourceType": "ClientSecret", "ClientSecretPath": "/s"},
            "CLIENTSECRET",
            "ClientSecret('***')",
        ),
        (
            {"SourceType": "ClientSecret", "ClientSecret": SECRET},
            "CLIENTSECRETFILE",
            f"ClientSecret.from_file('{CLIENT}-')",
        ),
        (
            {
                "SourceType": "SignedAssertionFromManagedIdentity",
                "ManagedIdentityResourceId": "/subscriptions/s",
            },
            "MANAGEDIDENTITYCLIENTID",
            "ManagedIdentity()",
        ),
    ],
)
def test_a_key_of_an_item_replaces_its_alternative(
    item: dict[str, str], key: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret over the file's path of one is no contradiction, in an item as in a section."""
    value = CLIENT if "IDENTITY" in key else f"{CLIENT}-"
    monkeypatch.setenv(f"OBO__AZUREAD__CLIENTCREDENTIALS__0__{key}", value)

    assert [expected] == credentials(with_credential(**item))


def test_the_example_of_the_docs_takes_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON of docs/settings.md starts with the variable that the page names for its secret."""
    page = (Path(__file__).parents[1] / "docs/settings.md").read_text(encoding="utf-8")
    source = page.partition("```json\n")[2].partition("```")[0]
    source = source.replace("<tenant id>", TENANT).replace("<client id>", CLIENT)
    monkeypatch.setenv("OBO__AZUREAD__CLIENTCREDENTIALS__0__CLIENTSECRET", SECRET)

    assert ["ClientSecret('***')"] == credentials(json.loads(source))


@pytest.mark.parametrize("audience", [f"api://{CLIENT}", f"API://{CLIENT.upper()}"])
def test_an_audience_of_the_client_id_stands_for_it(audience: str) -> None:
    """In whichever case it is written, v2 tokens for that API are taken."""
    client_id = CLIENT.replace("3", "a")
    source = settings_with(ClientId=client_id, Audience=audience.replace("3", "A"))

    audiences = read_settings(source).registration.audiences or ()

    assert (client_id, f"api://{client_id}") == tuple(audiences)[:2]


def test_a_mapping_may_hold_tuples() -> None:
    """They are read as lists are, their keys found in any case and their secrets wrapped."""
    items = ({"sourcetype": "ClientSecret", "clientsecret": SECRET, "x": 1},)

    assert (
        "AzureAd.ClientCredentials[0].x is not known: leave it out; known are ClientSecret, "
        in (error_of(settings_with(ClientSecret=None, ClientCredentials=items)))
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AZURE_CLIENT_SECRET": SECRET}, ["ClientSecret('***')"]),
        (
            {"AZURE_CLIENT_CERTIFICATE_PATH": "/c.pem", "AZURE_CLIENT_SECRET": SECRET},
            ["ClientSecret('***')", "ClientCertificate.from_file('/c.pem')"],
        ),
        (
            {
                "AZURE_CLIENT_CERTIFICATE_PATH": "/c.pfx",
                "AZURE_CLIENT_CERTIFICATE_PASSWORD": PASSWORD,
            },
            ["ClientCertificate.from_file('/c.pfx')"],
        ),
        ({"OBO__AZUREAD__CLIENTSECRETFILE": "/s"}, ["ClientSecret.from_file('/s')"]),
        (
            {"OBO__AZUREAD__CLIENTCREDENTIALS": '[{"SourceType": "WorkloadIdentity"}]'},
            ["WorkloadIdentity()"],
        ),
        (
            {"OBO__AZUREAD__CLIENTCREDENTIALS__0__SOURCETYPE": "WorkloadIdentity"},
            ["WorkloadIdentity()"],
        ),
        (
            {"OBO__AZUREAD__CLIENTSECRETPATH": "/s", "AZURE_CLIENT_SECRET": SECRET},
            ["ClientSecret.from_file('/s')"],
        ),
    ],
)
def test_a_credential_of_the_environment_replaces_the_files(
    variables: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever form each of them has."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    source = with_credential(SourceType="Path", CertificateDiskPath="/file")

    assert expected == credentials(source)


def test_aks_needs_no_credential_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody names one, the token that AKS has mounted is the credential."""
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token")

    assert ["WorkloadIdentity()"] == credentials(settings_with(ClientSecret=None))


def test_a_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OBO_SETTINGS is read where the code names no file."""
    file = tmp_path / "appsettings.json"
    file.write_text(article())
    monkeypatch.setenv("OBO_SETTINGS", str(file))

    assert {"GraphAPI", "PartnerAPI"} == read_settings().downstream.keys()


def test_arguments_of_the_code_win() -> None:
    """Of `from_settings` over all that a file says."""
    obo = OnBehalfOf.from_settings(
        settings_with(RequiredScopes=["read"]), required_scopes=["write"]
    )

    assert obo.required_scopes is not None
    assert ("write",) == obo.required_scopes.names


# --- Credentials

PFX = base64.b64encode(pfx(KEY, LEAF, PASSWORD.encode())).decode()
SOURCES = [
    ({"SourceType": "ClientSecret", "ClientSecret": SECRET}, "ClientSecret('***')"),
    ({"SourceType": "clientsecret", "ClientSecretPath": "/s"}, "ClientSecret.from_file('/s')"),
    ({"SourceType": "ClientSecret", "ClientSecretFile": "/s"}, "ClientSecret.from_file('/s')"),
    (
        {"SourceType": "Path", "CertificateDiskPath": "/c", "CertificatePassword": PASSWORD},
        "ClientCertificate.from_file('/c')",
    ),
    (
        {
            "SourceType": "Base64Encoded",
            "Base64EncodedValue": PFX,
            "CertificatePassword": PASSWORD,
            "SendX5C": True,
        },
        "ClientCertificate('***')",
    ),
    (
        {
            "SourceType": "Certificate",
            "Id": "1",
            "Base64EncodedValue": base64.b64encode(key_pem(KEY) + pem(LEAF)).decode(),
        },
        "ClientCertificate('***')",
    ),
    (
        {"SourceType": "SignedAssertionFilePath", "SignedAssertionFileDiskPath": "/t"},
        "ClientAssertion.from_file('/t')",
    ),
    ({"SourceType": "SignedAssertionFilePath"}, "WorkloadIdentity()"),
    (
        {"SourceType": "SignedAssertionFromManagedIdentity", "ManagedIdentityClientId": CLIENT},
        "ManagedIdentity()",
    ),
    ({"SourceType": "WorkloadIdentity"}, "WorkloadIdentity()"),
    (
        {"SourceType": "KeyVault", "KeyVaultUrl": "https://v", "KeyVaultCertificateName": "c"},
        "ClientCertificate.from_source(…)",
    ),
]


@pytest.mark.parametrize(("item", "expected"), SOURCES)
def test_each_source_type_makes_its_credential(item: dict[str, Any], expected: str) -> None:
    """The names are those of Microsoft.Identity.Web."""
    assert [expected] == credentials(with_credential(**item))


def test_credentials_keep_their_order() -> None:
    """The first usable one wins, so the order of the list is that of the registration."""
    items = [
        {"SourceType": "WorkloadIdentity"},
        {"SourceType": "ClientSecret", "ClientSecret": "s"},
    ]

    source = settings_with(ClientSecret=None, ClientCredentials=items)

    assert ["WorkloadIdentity()", "ClientSecret('***')"] == credentials(source)


async def test_a_secret_in_a_file_is_rotated(tmp_path: Path) -> None:
    """A new secret in the file is used when Entra refuses the old one, without a restart."""
    entra = FakeEntra()
    registration, file = entra.registration(), tmp_path / "secret"
    file.write_text(entra.new_secret())
    source = settings_with(
        TenantId=registration.tenant_id,
        ClientId=registration.client_id,
        ClientSecret=None,
        ClientSecretFile=str(file),
    )
    obo = OnBehalfOf.from_settings(source, http_client=entra.client())
    first = await obo.downstream_for(entra.token())
    await first["Graph"].acquire_token()
    entra.remove_secrets()
    file.write_text(entra.new_secret() + "\n")

    second = await obo.downstream_for(entra.token(user="bob"))

    assert (await second["Graph"].acquire_token()).token


ADAPTER = """
from obo_asgi import ClientSecret, ConfigurationError
def make(settings):
    if "Slot" not in settings:
        raise ConfigurationError("Slot is missing: say which")
    return ClientSecret(f"of slot {settings['Slot']} {settings['ClientSecret']}")
"""


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution that brings a SourceType, and one that cannot be imported."""
    (tmp_path / "hsm_of_a_test.py").write_text(ADAPTER)
    info = tmp_path / "hsm_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hsm-of-a-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[obo_asgi.credentials]\nHsm = hsm_of_a_test:make\nGone = gone_of_a_test:make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("adapter")
def test_an_installed_adapter_brings_its_own_source_type() -> None:
    """It gets the item of the file, and its credential is used."""
    source = with_credential(SourceType="hsm", Slot=7, ClientSecret="x")

    found = read_settings(source).registration.credentials

    assert ["of slot 7 x"] == [item.reveal() for item in found]  # type: ignore[union-attr]


@pytest.mark.usefixtures("adapter")
def test_what_an_adapter_refuses_is_named() -> None:
    """With the item's path; one that cannot be imported too."""
    path = "AzureAd.ClientCredentials[0]"

    assert f"{path}: Slot is missing: say which" == error_of(with_credential(SourceType="Hsm"))
    assert (
        f"{path}.SourceType: what gone_of_a_test:make brings for Gone cannot be imported "
        "(No module named 'gone_of_a_test')"
    ) == error_of(with_credential(SourceType="Gone"))


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({}, "KeyVaultUrl is missing: SourceType KeyVault needs it"),
        ({"KeyVaultUri": "x"}, "KeyVaultUri is not for SourceType KeyVault: leave it out"),
    ],
)
def test_key_vault_says_what_it_needs(item: dict[str, str], sentence: str) -> None:
    """The adapter's sentence follows the path of the item."""
    source = with_credential(SourceType="KeyVault", **item)

    assert f"AzureAd.ClientCredentials[0]: {sentence}" == error_of(source)


async def test_key_vault_is_opened_by_a_credential_that_nobody_has_to_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Azure's default credential is made for one token, for the identity that the item names."""
    events: list[Any] = []

    class Fake:
        def __init__(self, **options: str) -> None:
            events.append(options)

        async def __aenter__(self) -> Fake:
            return self

        async def __aexit__(self, *details: object) -> None:
            events.append("closed")

        async def get_token(self, *scopes: str, **options: Any) -> str:
            return f"token for {scopes[0]}"

    monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", Fake)

    async with _BriefCredential(CLIENT) as credential:
        token = await credential.get_token("https://vault.azure.net/.default")

    assert "token for https://vault.azure.net/.default" == str(token)
    assert [{"managed_identity_client_id": CLIENT}, "closed"] == events


def test_variables_that_say_the_same_thing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section as JSON, and one of its keys beside it."""
    monkeypatch.setenv("OBO__DOWNSTREAMAPIS__GRAPH", '{"Scopes": ["User.Read"]}')
    monkeypatch.setenv("OBO__downstreamApi__GRAPH", '{"Scopes": ["Mail.Read"]}')

    assert (
        "OBO__downstreamApi__GRAPH says something that another variable says too: keep one"
    ) == error_of(BASE)


def test_a_variable_that_may_mean_two_apis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that differ in their dashes alone cannot be told apart in a variable."""
    monkeypatch.setenv("OBO__DOWNSTREAMAPIS__MY_API__TIMEOUT", "5")
    apis: dict[str, Any] = {name: {"Scopes": ["api://x/read"]} for name in ("my_api", "my-api")}

    assert (
        "OBO__DOWNSTREAMAPIS__MY_API__TIMEOUT may mean my_api or my-api: rename one of them"
    ) == error_of(settings_with("DownstreamApis", **apis))


def test_key_vault_without_its_adapter_names_the_package(tmp_path: Path) -> None:
    """The sentence is the command that installs it."""
    code = (
        "import importlib.metadata\n"
        "importlib.metadata.entry_points = lambda **_: []\n"
        "from obo_asgi.settings import read_settings\n"
        f"read_settings({with_credential(SourceType='KeyVault')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (
        "obo_asgi.errors.ConfigurationError: AzureAd.ClientCredentials[0].SourceType: "
        "KeyVault needs pip install 'obo-asgi-azure[keyvault]'"
    ) == done.stderr.splitlines()[-1]


# --- The cache

CACHES: list[dict[str, Any]] = [
    {"Redis": "redis://user:very~secret.value@cache.example.com:6379/0", "Prefix": "my-api:"},
    {"Sql": {"Url": "sqlite+aiosqlite:///cache.db", "Table": "tokens", "CreateIfNotExists": True}},
    {
        "Cosmos": {
            "Url": "https://account.documents.azure.com",
            "Key": "a2V5",
            "Database": "TokenCache",
            "Container": "Tokens",
        }
    },
]


def test_a_keys_file_may_start_with_a_mark(tmp_path: Path) -> None:
    """The byte order mark that Windows writes is no part of the first key."""
    keys = tmp_path / "keys"
    keys.write_text(f"{new_cache_key()}\n", encoding="utf-8-sig")

    cache = read_settings(settings_with("TokenCache", **CACHES[0], KeysFile=str(keys))).cache

    assert cache is not None
    assert cache.has_keys


@pytest.mark.parametrize("section", CACHES, ids=lambda section: next(iter(section)))
def test_a_section_makes_the_cache(section: dict[str, Any], tmp_path: Path) -> None:
    """Redis, SQL or Cosmos DB, with keys of the file or of a file of their own."""
    keys = tmp_path / "keys"
    keys.write_text(f"{new_cache_key()}\n{new_cache_key()}\n")
    here = settings_with("TokenCache", **section, Keys=[new_cache_key()])
    there = settings_with("TokenCache", **section, KeysFile=str(keys))

    found = [read_settings(source).arguments()["cache"] for source in (here, there)]

    assert [TokenCache, TokenCache] == [type(cache) for cache in found]


def test_the_cache_of_the_environment_replaces_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kind of cache is no contradiction, when the environment names it."""
    monkeypatch.setenv("OBO__TOKENCACHE__SQL__URL", "sqlite+aiosqlite:///cache.db")
    monkeypatch.setenv("OBO__TOKENCACHE__KEYS", json.dumps([new_cache_key()]))

    settings = read_settings(settings_with("TokenCache", Redis="redis://localhost", KeysFile="/no"))

    assert settings.cache is not None


def test_the_memory_can_be_bounded() -> None:
    """MaxEntries needs no shared cache."""
    assert read_settings(settings_with("TokenCache", MaxEntries=10)).cache is not None


# --- What is wrong

ITEM = "AzureAd.ClientCredentials[0]"
MISTAKES: list[tuple[Any, str]] = [
    (settings_with(TennantId="x"), "AzureAd.TennantId is not known: did you mean TenantId?"),
    (settings_with(tennant_id="x"), "AzureAd.tennant_id is not known: did you mean TenantId?"),
    (
        settings_with(Authority="https://login.microsoftonline.com/x"),
        "AzureAd.Authority is not known: say Instance (https://login.microsoftonline.com/) and "
        "TenantId",
    ),
    (
        settings_with(Scopes="access_as_user"),
        "AzureAd.Scopes is not known: say RequiredScopes, all of which a token must hold",
    ),
    (
        settings_with(TenantId="your-tenant-id"),
        "AzureAd.TenantId must be the directory (tenant) id, a GUID from the app registration's "
        "overview page",
    ),
    (
        settings_with(ClientId="your-api-client-id"),
        "AzureAd.ClientId must be the application (client) id, a GUID from the app registration's "
        "overview page",
    ),
    (
        settings_with(TenantId=None),
        "AzureAd.TenantId is missing: the directory (tenant) id from the app registration's "
        "overview page, here or in AZURE_TENANT_ID",
    ),
    (settings_with(TenantId=5), "AzureAd.TenantId must be a string"),
    (settings_with(tenantid=TENANT), "AzureAd.TenantId is there twice: keep one of them"),
    (
        settings_with(TenantId="common"),
        "AzureAd.TenantId='common' opens the API to every tenant: list the tenants in "
        'AllowedTenants, or say AllowedTenants: "*" on purpose',
    ),
    (
        settings_with(Instance=f"https://login.microsoftonline.com/{TENANT}"),
        "AzureAd.Instance must be an origin such as https://login.microsoftonline.com, without a "
        f"path; the tenant belongs into TenantId (got 'https://login.microsoftonline.com/{TENANT}')",
    ),
    (
        settings_with(Instance="https://login.windows.net/"),
        "AzureAd.Instance: write https://login.microsoftonline.com for login.windows.net",
    ),
    (
        settings_with(Audience="a", Audiences=["a"]),
        "AzureAd.Audience and Audiences say two things: keep one of them",
    ),
    (
        settings_with(Audiences=[]),
        "AzureAd.Audiences is empty, so every token would be refused: name the Application ID URI "
        "or the client id, or leave Audiences out",
    ),
    (
        settings_with(RequiredScopes=["api://x/read"]),
        "AzureAd.RequiredScopes takes the bare names that stand in the token, such as "
        "'access_as_user', not 'api://x/read'",
    ),
    (settings_with(AppRoles={"a": 1}), "AzureAd.AppRoles must be a list"),
    (
        settings_with(AppRoles="[oops"),
        "AzureAd.AppRoles must be a list of strings; this is not JSON",
    ),
    (
        settings_with(ClientSecret=None),
        "AzureAd.ClientCredentials is missing: name at least one credential, as in "
        '[{"SourceType": "ClientSecret", "ClientSecretPath": "…"}]; or set AZURE_CLIENT_SECRET',
    ),
    (
        settings_with(ClientCredentials=[{"SourceType": "WorkloadIdentity"}]),
        "AzureAd.ClientSecret and ClientCredentials both say how the API proves who it is: keep "
        "ClientCredentials",
    ),
    (
        settings_with(ClientSecret=CLIENT),
        "AzureAd.ClientSecret: ClientSecret looks like the secret's id: pass its value, which the "
        "portal shows once, when the secret is made",
    ),
    (
        settings_with(ClientSecret=None, ClientCredentials=[]),
        "AzureAd.ClientCredentials is empty: name at least one credential",
    ),
    (
        settings_with(ClientSecret=None, ClientCredentials={"SourceType": "ClientSecret"}),
        "AzureAd.ClientCredentials must be a list",
    ),
    (
        with_credential(ClientSecret=SECRET),
        f"{ITEM}.SourceType is missing: say one of ClientSecret, Path, Base64Encoded, Certificate, "
        "SignedAssertionFilePath, SignedAssertionFromManagedIdentity, WorkloadIdentity",
    ),
    (
        with_credential(SourceType="ClientSecrets", ClientSecret=SECRET),
        f"{ITEM}.SourceType: 'ClientSecrets' is not known: did you mean ClientSecret?",
    ),
    (
        with_credential(SourceType="StoreWithThumbprint", CertificateThumbprint="AB"),
        f"{ITEM}.SourceType: StoreWithThumbprint reads the certificate store of Windows: export "
        "the certificate with its key, and say SourceType Path with CertificateDiskPath",
    ),
    (
        with_credential(SourceType="AutoDecryptKeys"),
        f"{ITEM}.SourceType: AutoDecryptKeys decrypts tokens and signs nobody in: leave this item "
        "out",
    ),
    (
        with_credential(SourceType="ClientSecret"),
        f"{ITEM}.ClientSecret is missing: SourceType ClientSecret needs it, or ClientSecretPath",
    ),
    (
        with_credential(SourceType="ClientSecret", ClientSecret=SECRET, ClientSecretFile="/s"),
        f"{ITEM}.ClientSecretPath and ClientSecret say two things: keep one of them",
    ),
    (
        with_credential(SourceType="ClientSecret", ClientSecret=SECRET, CertificateDiskPath="/c"),
        f"{ITEM}.CertificateDiskPath is not for SourceType ClientSecret: leave it out, or say "
        "SourceType Path",
    ),
    (
        with_credential(SourceType="Path", CertificatePath="/c"),
        f"{ITEM}.CertificatePath is not known: did you mean CertificateDiskPath?",
    ),
    (
        with_credential(SourceType="Path", CertificateDiskPath="/c", CertificatePassword=""),
        f"{ITEM}.CertificatePassword is empty: leave it out",
    ),
    (
        with_credential(SourceType="Base64Encoded", Base64EncodedValue=SECRET),
        f"{ITEM}.Base64EncodedValue must be a PFX or PEM file in base64",
    ),
    (
        with_credential(
            SourceType="SignedAssertionFromManagedIdentity", ManagedIdentityClientId="mine"
        ),
        f"{ITEM}.ManagedIdentityClientId: ManagedIdentity: client_id must be a GUID",
    ),
    (
        graph_with(Scope=["User.Read"]),
        "DownstreamApis.Graph.Scope is not known: did you mean Scopes?",
    ),
    (
        graph_with(RelativePath="me"),
        "DownstreamApis.Graph.RelativePath is not known: say it in the call, "
        "downstream['…'].get('path')",
    ),
    (
        graph_with(Scopes=None),
        "DownstreamApis.Graph.Scopes is missing: what the tokens are for, such as "
        "['api://<api id>/.default']",
    ),
    (
        graph_with(BaseUrl="http://graph.example.com"),
        "DownstreamApis.Graph.BaseUrl must use https, not 'http://graph.example.com': a token must "
        "not travel in clear (http is accepted for 127.0.0.1, ::1 and localhost)",
    ),
    (
        graph_with(Scopes="openid"),
        "DownstreamApis.Graph.Scopes: 'openid' is a reserved scope that is asked for anyway: leave "
        "it out",
    ),
    (graph_with(Timeout=True), "DownstreamApis.Graph.Timeout must be a number of seconds"),
    (graph_with(Timeout="soon"), "DownstreamApis.Graph.Timeout must be a number"),
    (
        graph_with(Timeout=0),
        "DownstreamApis.Graph.Timeout must be a number of seconds above 0 and below a day, not 0.0",
    ),
    (
        graph_with(Headers={"Authorization": SECRET}),
        "DownstreamApis.Graph.Headers.Authorization: header 'Authorization' is reserved: it is set "
        "by this library, the protocol or a proxy",
    ),
    (
        graph_with(Headers=[SECRET]),
        "DownstreamApis.Graph.Headers must be a section of keys and values",
    ),
    (
        settings_with("DownstreamApi", BaseUrl=GRAPH, Scopes=["User.Read"])
        | {"DownstreamApis": None},
        "DownstreamApi.BaseUrl stands outside of any API: give the API a name, "
        "DownstreamApis.<name>\n"
        "DownstreamApi.Scopes stands outside of any API: give the API a name, "
        "DownstreamApis.<name>",
    ),
    (
        settings_with("DownstreamApis", GRAPH={"Scopes": ["User.Read"]}),
        "DownstreamApis.GRAPH is there twice, as Graph too: rename one",
    ),
    (
        settings_with("DownstreamApis", Partner="https://x"),
        "DownstreamApis.Partner must be a section with BaseUrl and Scopes",
    ),
    (BASE | {"downstream": {}}, "downstream is a second DownstreamApis: put all into one section"),
    (BASE | {"TokenCash": {}}, "TokenCash is not known: did you mean TokenCache?"),
    (BASE | {"TokenCache": SECRET}, "TokenCache must be a section of keys and values"),
    (
        settings_with("TokenCache", Keys=[SECRET]),
        "TokenCache.Keys is for a shared cache: say Redis, Sql or Cosmos too",
    ),
    (
        settings_with("TokenCache", Redis="redis://x", Sql={"Url": "y"}),
        "TokenCache.Sql and Redis are two caches: keep one of them",
    ),
    (
        settings_with("TokenCache", Redis=f"https://user:{SECRET}@host"),
        "TokenCache.Redis: the URL of Redis must start with redis://, rediss:// or unix://, as in "
        "rediss://cache.example.com:6380/0",
    ),
    (
        settings_with("TokenCache", Redis="redis://x", KeysFile="/not/there"),
        "TokenCache.KeysFile: the file cannot be read (FileNotFoundError)",
    ),
    (
        settings_with("TokenCache", Redis="redis://x", KeysFile="/k", Keys=["k"]),
        "TokenCache.KeysFile and Keys say two things: keep one of them",
    ),
    (
        settings_with("TokenCache", Sql={"Url": "sqlite+aiosqlite://", "Tabel": "t"}),
        "TokenCache.Sql.Tabel is not known: did you mean Table?",
    ),
    (
        settings_with("TokenCache", MaxEntries=0),
        "TokenCache.MaxEntries must be a whole number above 0: 0",
    ),
    (
        settings_with("TokenCache", Cosmos={"Url": "https://x", "Database": "d", "Container": "c"}),
        "TokenCache.Cosmos.Key is missing: the account's key; with a credential of azure-identity "
        "make the cache in code, "
        "OnBehalfOf.from_settings(…, cache=TokenCache(shared=CosmosCache(…)))",
    ),
    (5, "settings come from the path of a .json or .toml file, or from a mapping, not from int"),
    ("", "the path of the settings file is empty"),
    ("settings.yaml", "settings.yaml: a settings file ends in .json or .toml"),
    (
        "/not/there.json",
        "/not/there.json: the settings file cannot be read (FileNotFoundError)",
    ),
]


@pytest.mark.parametrize(("source", "sentence"), MISTAKES, ids=[text[:60] for _, text in MISTAKES])
def test_a_mistake_has_one_sentence(source: Any, sentence: str) -> None:
    """It names the key by its path and says what to change, and holds no secret."""
    assert sentence == error_of(source)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.json",
            f'{{"AzureAd": "{SECRET}"',
            "this is not JSON: Expecting ',' delimiter in line 1",
        ),
        ("a.json", f'["{SECRET}"]', 'the file must hold an object: {"AzureAd": …}'),
        (
            "a.json",
            f'{{"ClientSecret": "{SECRET}", "ClientSecret": ""}}',
            "ClientSecret is there twice in one section: keep one of them",
        ),
        ("a.toml", f'x = "{SECRET}', "this is not TOML"),
        ("a.toml", f'\nx = "{SECRET}"\nx = 1\n', "this is not TOML: see line 3"),
        ("a.json", b"\xff\xfe\x00", "the settings file is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_parsed_shows_nothing_of_itself(
    name: str, content: str | bytes, sentence: str, tmp_path: Path
) -> None:
    """The sentence names the file and, where it can, the line."""
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())

    assert f"{file}: {sentence}" == error_of(file).replace(" (at end of document)", "")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "OBO__AZUREAD__TENNANTID",
            "x",
            "AzureAd.TENNANTID (OBO__AZUREAD__TENNANTID) is not known: did you mean TenantId?",
        ),
        (
            "AZURE_TENANT_ID",
            "x",
            "AzureAd.TenantId (AZURE_TENANT_ID) must be the directory (tenant) id, a GUID from the "
            "app registration's overview page",
        ),
        (
            "AZURE_CLIENT_SECRET",
            CLIENT,
            "AzureAd.ClientCredentials[0].ClientSecret (AZURE_CLIENT_SECRET): ClientSecret looks "
            "like the secret's id: pass its value, which the portal shows once, when the secret is "
            "made",
        ),
        (
            "OBO__DOWNSTREAMAPIS__GRAPH__TIMEOUT",
            "x",
            "DownstreamApis.Graph.Timeout (OBO__DOWNSTREAMAPIS__GRAPH__TIMEOUT) must be a number",
        ),
        (
            "OBO__AZURE__TENANTID",
            "x",
            "OBO__AZURE__TENANTID is not known: write OBO__AZUREAD__TENANTID and the like",
        ),
        (
            "OBO__AZUREAD",
            "{oops",
            "AzureAd must be a section of keys and values",
        ),
        (
            "OBO_SETTINGS",
            "/not/there.json",
            "/not/there.json (OBO_SETTINGS): the settings file cannot be read (FileNotFoundError)",
        ),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(
    variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the key that it stands for."""
    monkeypatch.setenv(variable, value)

    assert sentence == error_of(None if variable == "OBO_SETTINGS" else BASE)


def test_all_mistakes_are_said_at_once() -> None:
    """Each on a line of its own, across all sections."""
    source = {
        "AzureAd": {
            "TenantId": "x",
            "ClientId": "y",
            "Instance": "http://z",
            "ClientCredentials": [{"SourceType": "ClientSecret"}, {"SourceType": "Nothing"}],
        },
        "DownstreamApis": {"a": {"Scopes": "openid", "BaseUrl": "ftp://a"}, "b": {}},
        "TokenCache": {"Redis": "http://x", "Foo": 1},
    }

    assert [
        "DownstreamApis.b.Scopes",
        "DownstreamApis.a.Scopes",
        "DownstreamApis.a.BaseUrl",
        "TokenCache.Foo",
        "AzureAd.ClientCredentials[0].ClientSecret",
        "AzureAd.ClientCredentials[1].SourceType",
        "AzureAd.TenantId",
        "AzureAd.ClientId",
        "AzureAd.Instance",
    ] == [line.partition(" ")[0].rstrip(":") for line in error_of(source).splitlines()]


@pytest.mark.parametrize(
    "show",
    [repr, lambda settings: repr(settings.arguments()), lambda settings: str(vars(settings))],
)
def test_settings_show_no_secret(show: Callable[[Settings], str]) -> None:
    """Neither the credential's, nor the cache's, nor a header's."""
    source = graph_with(Headers={"Ocp-Apim-Subscription-Key": SECRET})
    source["TokenCache"] = CACHES[0]

    assert SECRET not in show(read_settings(source))


def test_a_missing_extra_is_named() -> None:
    """Without pydantic-settings `from_settings` says which command installs it."""
    code = (
        "import sys; sys.modules['pydantic_settings'] = None\n"
        "from obo_asgi import OnBehalfOf\n"
        "OnBehalfOf.from_settings({})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (
        "obo_asgi.errors.ConfigurationError: from_settings needs pydantic-settings: "
        "pip install 'obo-asgi[settings]'"
    ) == done.stderr.splitlines()[-1].partition(" (")[0]
