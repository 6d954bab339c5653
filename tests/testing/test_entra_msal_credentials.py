"""What Microsoft's own clients make of certificates, federated tokens and managed identities."""

from pathlib import Path
from typing import Any

import msal
import pytest
import requests
from azure.identity import CertificateCredential
from cryptography.hazmat.primitives import hashes

from obo_asgi.testing import FakeEntra, serve
from tests.testing.calls import PARTNER, claims_of
from tests.testing.material import Material, material

EXCHANGE = "api://AzureADTokenExchange"


@pytest.fixture(autouse=True)
def partner(entra_tls: FakeEntra) -> None:
    """A downstream API, and no secret that could help."""
    entra_tls.add_api(PARTNER, scopes=["read"], roles=["Tasks.Run"])
    entra_tls.remove_secrets()


def acquire(entra: FakeEntra, session: requests.Session, credential: dict[str, Any]) -> Any:
    """Let the real MSAL exchange a token and get one of the app's own; return the last result."""
    client = msal.ConfidentialClientApplication(
        entra.client_id("api"),
        client_credential=credential,
        authority=f"{entra.authority}/{entra.tenant_id}",
        instance_discovery=False,
        http_client=session,
    )
    result = client.acquire_token_on_behalf_of(entra.token(), [f"{PARTNER}/read"])
    if "error" not in result:
        assert "read" == claims_of(result["access_token"])["scp"]
        result = client.acquire_token_for_client([f"{PARTNER}/.default"])
        assert ["Tasks.Run"] == claims_of(result["access_token"])["roles"]
    return result


def pem(own: Material, path: Path) -> dict[str, Any]:
    return {"private_key": own.key_pem, "public_certificate": own.pem}


def thumbprint(own: Material, path: Path) -> dict[str, Any]:
    digest = own.certificate.fingerprint(hashes.SHA1()).hex()
    return {"private_key": own.key_pem, "thumbprint": digest}


def pfx(own: Material, path: Path) -> dict[str, Any]:
    file = path / "api.pfx"
    file.write_bytes(own.pfx(b"password"))
    return {"private_key_pfx_path": str(file), "passphrase": "password"}


def pfx_x5c(own: Material, path: Path) -> dict[str, Any]:
    return {**pfx(own, path), "public_certificate": True}


@pytest.mark.parametrize("form", [pem, thumbprint, pfx, pfx_x5c])
def test_msal_with_a_certificate(
    entra_tls: FakeEntra, session: requests.Session, tmp_path: Path, form: Any
) -> None:
    """The real MSAL is served with a registered certificate, and refused without."""
    own = material()
    credential = form(own, tmp_path)
    assert [700027] == acquire(entra_tls, session, credential)["error_codes"]
    entra_tls.add_certificate(own.pem)
    assert "access_token" in acquire(entra_tls, session, credential)


@pytest.mark.parametrize("form", [pem, pfx_x5c])
def test_msal_with_a_trusted_subject(
    entra_tls: FakeEntra, session: requests.Session, tmp_path: Path, form: Any
) -> None:
    """The real MSAL's ``x5c`` is enough where the subject is trusted, and only that subject."""
    root = material("root.example", is_authority=True)
    entra_tls.trust_subject("leaf.example", root.pem)
    leaf = material("leaf.example", issuer=root)
    other = material("other.example", issuer=root)
    assert "access_token" in acquire(entra_tls, session, form(leaf, tmp_path))
    assert [700030] == acquire(entra_tls, session, form(other, tmp_path))["error_codes"]
    result = acquire(entra_tls, session, thumbprint(leaf, tmp_path))
    assert ("invalid_client", [700027]) == (result["error"], result["error_codes"])


def test_msal_with_a_federated_token(entra_tls: FakeEntra, session: requests.Session) -> None:
    """The real MSAL is served with the token that a callable returns."""
    entra_tls.add_federated_credential(subject="system:serviceaccount:default:api")
    assert "access_token" in acquire(
        entra_tls, session, {"client_assertion": entra_tls.federated_token}
    )
    expired = entra_tls.federated_token(lifetime=-1)
    result = acquire(entra_tls, session, {"client_assertion": lambda: expired})
    assert ("invalid_client", [700024]) == (result["error"], result["error_codes"])


def test_azure_identity_with_a_certificate(entra_tls: FakeEntra) -> None:
    """The real azure-identity is served with a certificate too."""
    own = material()
    entra_tls.add_certificate(own.pem)
    with CertificateCredential(
        entra_tls.tenant_id,
        entra_tls.client_id("api"),
        certificate_data=(own.key_pem + own.pem).encode(),
        authority=entra_tls.authority,
        disable_instance_discovery=True,
        connection_verify=entra_tls.ca_file,
    ) as credential:
        token = credential.get_token(f"{PARTNER}/.default").token
    assert ["Tasks.Run"] == claims_of(token)["roles"]


@pytest.fixture(params=["virtual machine", "app service"])
def host(
    request: pytest.FixtureRequest, entra_tls: FakeEntra, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The environment variables of an Azure host."""
    with serve(entra_tls.managed_identity, tls=False) as server:
        if request.param == "app service":
            monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/msi/token")
            monkeypatch.setenv("IDENTITY_HEADER", entra_tls.managed_identity_header)
        else:
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.url)
        yield request.param


def names_of(identity: Any) -> list[Any]:
    """Return the ways in which the real MSAL names an identity."""
    return [
        msal.UserAssignedManagedIdentity(client_id=identity.client_id),
        msal.UserAssignedManagedIdentity(object_id=identity.object_id),
        msal.UserAssignedManagedIdentity(resource_id=identity.resource_id),
    ]


def test_msal_with_a_managed_identity(
    entra_tls: FakeEntra, session: requests.Session, host: str
) -> None:
    """The real MSAL's token of a managed identity is a client assertion for the real MSAL."""
    mine = entra_tls.add_managed_identity("mine")
    for identity, trusted in [
        (msal.SystemAssignedManagedIdentity(), None),
        *((name, "mine") for name in names_of(mine)),
    ]:
        client = msal.ManagedIdentityClient(identity, http_client=requests.Session())
        result = client.acquire_token_for_client(resource=EXCHANGE)
        assert 3600 - result["expires_in"] in (0, 1, 2)
        assertion = {"client_assertion": lambda token=result["access_token"]: token}
        entra_tls.remove_federated_credentials()
        assert [70021] == acquire(entra_tls, session, assertion)["error_codes"]
        entra_tls.trust_managed_identity(identity=trusted)
        assert "access_token" in acquire(entra_tls, session, assertion)
    assert 4 == entra_tls.counts["managed_identity"]


def test_msal_understands_a_managed_identitys_refusal(entra_tls: FakeEntra, host: str) -> None:
    """The real MSAL hands on what the endpoint refuses."""
    client = msal.ManagedIdentityClient(
        msal.SystemAssignedManagedIdentity(), http_client=requests.Session()
    )
    result = client.acquire_token_for_client(resource="api://nowhere")
    error = {"virtual machine": "invalid_resource", "app service": "invalid_scope"}[host]
    assert error == result["error"]
    assert "AADSTS500011" in result["error_description"]
