"""Wrong configurations: each has one sentence that says what to change, before a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from obo_asgi import (
    ANY_TENANT,
    AppRegistration,
    ClientAssertion,
    ClientCertificate,
    ClientSecret,
    ConfigurationError,
    ManagedIdentity,
    OnBehalfOf,
    WorkloadIdentity,
)
from tests.test_certificates import KEY, LEAF, certificate, key_pem, pem, pfx, rsa_key

pytestmark = pytest.mark.anyio

TENANT = "11111111-1111-4111-8111-111111111111"
CLIENT = "33333333-3333-4333-8333-333333333333"
SECRET = "very~secret.value"
PASSWORD = "correct horse battery staple"
PEM = key_pem(KEY) + pem(LEAF)
SHORT = rsa_key("short", 1024)

Make = Callable[[Path], Any]
"""Configures the API, with files in a folder."""


def registration(**changes: Any) -> AppRegistration:
    fields = {
        "tenant_id": TENANT,
        "client_id": CLIENT,
        "client_credential": ClientSecret(SECRET),
    }
    return AppRegistration(**{**fields, **changes})


def wrong(**changes: Any) -> Make:
    """Return what makes a registration with these fields."""
    return lambda folder: registration(**changes)


def credential(make: Callable[[], Any]) -> Make:
    """Return what makes a registration with this credential."""
    return lambda folder: registration(client_credential=make())


def file(read: Callable[[Path], Any], content: bytes | None = None) -> Make:
    """Return what makes a registration with a credential of a file; None: the file is not there."""

    def make(folder: Path) -> AppRegistration:
        path = folder / "credential"
        if content is not None:
            path.write_bytes(content)
        return registration(client_credential=read(path))

    return make


def files(*reads: Callable[[Path], Any]) -> Make:
    return lambda folder: registration(
        client_credential=[read(folder / f"missing-{number}") for number, read in enumerate(reads)]
    )


secret_file = ClientSecret.from_file
certificate_file = ClientCertificate.from_file
token_file = ClientAssertion.from_file


def predicate(tenant_id: str) -> bool:
    return True


RESOURCE = "/subscriptions/s/resourcegroups/g/providers/p/i"

MISTAKES = [
    # the secret
    pytest.param(credential(lambda: ClientSecret("")), "is empty", id="no secret"),
    pytest.param(
        credential(lambda: ClientSecret(None)),  # type: ignore[arg-type]
        "is the environment variable or file that should hold it set?",
        id="a variable that is not set",
    ),
    pytest.param(
        credential(lambda: ClientSecret(CLIENT)), "looks like the secret's id", id="the secret's id"
    ),
    pytest.param(wrong(client_credential=SECRET), "not a bare string", id="a bare secret"),
    pytest.param(wrong(client_credential=None), "must be a credential", id="no credential"),
    pytest.param(wrong(client_credential=[]), "name at least one", id="an empty list"),
    pytest.param(wrong(client_credential={"secret": SECRET}), "not dict", id="MSAL's dict"),
    pytest.param(wrong(client_credential=ClientSecret), "not type", id="the class itself"),
    pytest.param(
        wrong(client_credential=[ClientSecret(SECRET), SECRET]), "bare string", id="one of two"
    ),
    pytest.param(file(secret_file), "cannot be read (FileNotFoundError)", id="no secret file"),
    pytest.param(file(secret_file, b""), "ClientSecret is empty", id="an empty secret file"),
    pytest.param(file(secret_file, b" \n"), "ClientSecret is empty", id="a blank secret file"),
    pytest.param(
        file(secret_file, CLIENT.encode()), "looks like the secret's id", id="the id in the file"
    ),
    pytest.param(file(secret_file, b"\xff\xfe\x00"), "the file is not text", id="a binary secret"),
    pytest.param(
        lambda folder: registration(client_credential=ClientSecret.from_file(folder)),
        "cannot be read (IsADirectoryError)",
        id="a folder instead of a file",
    ),
    pytest.param(credential(lambda: ClientSecret.from_file("")), "path of the file", id="no path"),
    pytest.param(
        credential(lambda: ClientSecret.from_file(None)),  # type: ignore[arg-type]
        "path of the file is missing",
        id="path None",
    ),
    # the certificate
    pytest.param(credential(lambda: ClientCertificate("")), "use from_file(path)", id="no PEM"),
    pytest.param(
        credential(lambda: ClientCertificate("/etc/api.pem")), "neither PEM nor", id="a path as PEM"
    ),
    pytest.param(
        credential(lambda: ClientCertificate.from_file(PEM.decode())),
        "takes a path, not the content",
        id="PEM as a path",
    ),
    pytest.param(
        credential(lambda: ClientCertificate(pem(LEAF))), "0 private keys", id="no private key"
    ),
    pytest.param(
        credential(lambda: ClientCertificate(key_pem(KEY))), "put both into", id="no certificate"
    ),
    pytest.param(
        credential(lambda: ClientCertificate(key_pem(SHORT) + pem(certificate(SHORT)))),
        "shorter than 2048 bits",
        id="a short key",
    ),
    pytest.param(
        credential(lambda: ClientCertificate(key_pem(KEY, PASSWORD.encode()) + pem(LEAF))),
        "encrypted: pass its password",
        id="no password",
    ),
    pytest.param(
        credential(lambda: ClientCertificate(PEM, password=PASSWORD)),
        "leave the password out",
        id="a superfluous password",
    ),
    pytest.param(
        credential(lambda: ClientCertificate(PEM, password="")),
        "the password is empty: leave it out",
        id="an empty password",
    ),
    pytest.param(
        credential(lambda: ClientCertificate(pfx(KEY, LEAF, PASSWORD.encode()), password="wrong")),
        "that this password opens",
        id="a wrong password",
    ),
    pytest.param(file(certificate_file), "(FileNotFoundError)", id="no certificate file"),
    pytest.param(
        file(certificate_file, PEM[:-300]), "no certificate belongs", id="half a certificate file"
    ),
    pytest.param(
        file(partial(certificate_file, password="wrong"), pfx(KEY, LEAF, PASSWORD.encode())),
        "that this password opens",
        id="a wrong password of a file",
    ),
    # assertions and identities
    pytest.param(
        credential(lambda: ClientAssertion("eyJ0eXAi.e30.c2ln")),  # type: ignore[arg-type]
        "takes a callable that returns the assertion",
        id="an assertion instead of a callable",
    ),
    pytest.param(file(token_file), "(FileNotFoundError)", id="no assertion file"),
    pytest.param(file(token_file, b"\n"), "the file is empty", id="an empty assertion file"),
    pytest.param(file(token_file, b"\xff"), "the file is not text", id="a binary assertion"),
    pytest.param(file(WorkloadIdentity), "(FileNotFoundError)", id="no federated token file"),
    pytest.param(
        credential(WorkloadIdentity),
        "AZURE_FEDERATED_TOKEN_FILE is not set: label the pod",
        id="not on AKS",
    ),
    pytest.param(
        credential(lambda: WorkloadIdentity("")), "path of the file is missing", id="no token path"
    ),
    pytest.param(
        credential(lambda: ManagedIdentity(client_id="my-identity")),
        "client_id must be a GUID",
        id="the identity's name",
    ),
    pytest.param(
        credential(lambda: ManagedIdentity(object_id="my-identity")),
        "object_id must be a GUID",
        id="the identity's name as object id",
    ),
    pytest.param(
        credential(lambda: ManagedIdentity(resource_id="my-identity")),
        "the whole path, '/subscriptions/",
        id="the identity's name as resource id",
    ),
    pytest.param(
        credential(lambda: ManagedIdentity(client_id=CLIENT, resource_id=RESOURCE)),
        "by one of client_id, resource_id, object_id",
        id="an identity named twice",
    ),
    pytest.param(
        credential(lambda: ManagedIdentity(audience="https://vault.azure.net")),
        "an identifier such as 'api://AzureADTokenExchange'",
        id="a resource as audience",
    ),
    pytest.param(
        files(secret_file, certificate_file, WorkloadIdentity),
        "ClientSecret.from_file(",
        id="three files, none there",
    ),
    # the app and its tenants
    pytest.param(wrong(client_id="my-api"), "application (client) id", id="the app's name"),
    pytest.param(wrong(client_id=""), "client_id must be", id="no client id"),
    pytest.param(wrong(client_id=f"api://{CLIENT}"), "client_id must be", id="the app's URI"),
    pytest.param(wrong(tenant_id="contoso.com"), "directory (tenant) id", id="a domain"),
    pytest.param(wrong(tenant_id=None), "tenant_id must be", id="no tenant"),
    pytest.param(wrong(tenant_id="consumers"), "tenant_id must be", id="consumers"),
    pytest.param(wrong(tenant_id="common"), "list the tenants in allowed_tenants", id="common"),
    pytest.param(
        wrong(tenant_id="organizations"), "ANY_TENANT on purpose", id="organizations, no list"
    ),
    pytest.param(wrong(allowed_tenants=[]), "nobody could call", id="no allowed tenant"),
    pytest.param(wrong(allowed_tenants=TENANT), "a list of strings", id="a bare tenant"),
    pytest.param(wrong(allowed_tenants=["*"]), "allowed_tenants must be", id="a wildcard"),
    pytest.param(wrong(allowed_tenants=["common"]), "allowed_tenants must be", id="common listed"),
    pytest.param(wrong(allowed_tenants=predicate), "must be asynchronous", id="def, not async"),
    pytest.param(
        wrong(allowed_tenants=lambda tenant_id: True), "(async def)", id="a lambda as predicate"
    ),
    pytest.param(wrong(audiences=[]), "every token would be refused", id="no audience"),
    pytest.param(wrong(audiences=CLIENT), "must be a list of strings", id="a bare audience"),
    # the cloud
    pytest.param(
        wrong(authority=f"https://login.microsoftonline.com/{TENANT}"),
        "without a path; the tenant belongs into tenant_id",
        id="the tenant in the authority",
    ),
    pytest.param(wrong(authority="http://login.microsoftonline.com"), "must use https", id="http"),
    pytest.param(
        wrong(authority="login.microsoftonline.com"), "absolute https URL", id="a host alone"
    ),
    pytest.param(
        wrong(authority="https://sts.windows.net"),
        "write https://login.microsoftonline.com",
        id="the v1 issuer",
    ),
    pytest.param(
        wrong(authority="https://login.chinacloudapi.cn"),
        "write https://login.partner.microsoftonline.cn",
        id="the old name in China",
    ),
    pytest.param(
        wrong(authority="https://login.contoso.com"), "pin the issuer", id="a custom domain"
    ),
    pytest.param(
        wrong(authority="https://contoso.b2clogin.com"), "none of Microsoft's sign-in", id="B2C"
    ),
    pytest.param(
        wrong(issuer=f"https://login.microsoftonline.com/{TENANT}/v2.0"),
        "issuer: leave it out",
        id="a known issuer pinned",
    ),
    pytest.param(
        wrong(authority="https://login.contoso.com", issuer="contoso"),
        "issuer must be an absolute https URL",
        id="an issuer that is none",
    ),
    pytest.param(
        wrong(authority="https://contoso.ciamlogin.com", allowed_tenants=ANY_TENANT),
        "serves that tenant alone",
        id="any tenant of an external one",
    ),
    pytest.param(
        wrong(authority="https://contoso.ciamlogin.com", tenant_id="contoso"),
        "tenant_id must be",
        id="an external tenant's name",
    ),
]


async def no_network(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"a wrong configuration asked for {request.url}")


async def configure(make: Make, folder: Path) -> None:
    client = httpx.AsyncClient(transport=httpx.MockTransport(no_network))
    obo = OnBehalfOf(make(folder), http_client=client)
    await obo.open()


@pytest.mark.parametrize(("make", "fragment"), MISTAKES)
async def test_a_mistake_is_named_at_start(
    make: Make, fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At construction or open, without any request, one sentence says what to change."""
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        await configure(make, tmp_path)

    message = str(caught.value)
    assert fragment in message
    assert "\n" not in message
    assert [] == [word for word in (SECRET, PASSWORD, "PRIVATE KEY-") if word in message]


def test_the_table_is_long_enough() -> None:
    """At least forty mistakes are known, each once."""
    assert len({mistake.id for mistake in MISTAKES}) == len(MISTAKES) >= 40


async def test_each_of_several_is_named_with_its_reason(tmp_path: Path) -> None:
    """Where no file of several is usable, the error lists them in order with what is wrong."""
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    half = tmp_path / "half.pem"
    half.write_bytes(PEM[:-300])
    several = [
        ClientSecret.from_file(empty),
        ClientCertificate.from_file(half),
        WorkloadIdentity(tmp_path / "token"),
    ]
    with pytest.raises(ConfigurationError) as caught:
        await configure(wrong(client_credential=several), tmp_path)

    message = str(caught.value)
    reasons = ("ClientSecret is empty", "no certificate belongs", "(FileNotFoundError)")
    places = [
        message.index(word)
        for credential, reason in zip(several, reasons, strict=True)
        for word in (repr(credential), reason)
    ]
    assert sorted(places) == places


async def test_one_that_is_usable_is_enough(tmp_path: Path) -> None:
    """Files that are not there are no mistake where a later credential can be used."""
    several = [
        WorkloadIdentity(tmp_path / "token"),
        ClientCertificate.from_file(tmp_path / "api.pem"),
        ClientSecret(SECRET),
    ]
    await configure(wrong(client_credential=several), tmp_path)


async def test_a_mistake_can_be_corrected_while_the_process_runs(tmp_path: Path) -> None:
    """A file that comes late, as mounts do, is found by the next try to open."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(no_network))
    path = tmp_path / "secret"
    credential = ClientSecret.from_file(path)
    obo = OnBehalfOf(registration(client_credential=credential), http_client=client)
    with pytest.raises(ConfigurationError):
        await obo.open()
    path.write_text(SECRET)
    async with OnBehalfOf(registration(client_credential=credential), http_client=client) as other:
        assert credential is other.registration.client_credential
