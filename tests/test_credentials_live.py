"""Every credential against FakeEntra: over TLS, with the real MSAL, and hidden from everybody."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import msal
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from obo_asgi import (
    ClientAssertion,
    ClientCertificate,
    ClientSecret,
    DownstreamAPI,
    ManagedIdentity,
    OnBehalfOf,
    TokenAcquisitionError,
    WorkloadIdentity,
)
from obo_asgi.credentials import ClientCredential
from obo_asgi.testing import FakeEntra, serve

pytestmark = pytest.mark.anyio

GRAPH = DownstreamAPI(scopes=["https://graph.microsoft.com/.default"])
SUBJECT = "system:serviceaccount:default:api"
PASSWORD = "the-password"


class Material:
    """A private RSA key with its self-signed certificate, in every form that people have."""

    def __init__(self, name: str) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self.key, hashes.SHA256())
        )

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def pem(self) -> str:
        return self.key_pem + self.certificate_pem

    @property
    def pfx(self) -> bytes:
        return pkcs12.serialize_key_and_certificates(
            b"api",
            self.key,
            self.certificate,
            None,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )


@cache
def material(name: str = "first") -> Material:
    return Material(name)


def place(path: Path, content: str | bytes) -> Path:
    """Put a file in place at once, as Kubernetes and careful people do."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    draft.replace(path)
    return path


def secret(entra: FakeEntra, folder: Path) -> ClientCredential:
    return ClientSecret(entra.new_secret())


def secret_file(entra: FakeEntra, folder: Path) -> ClientCredential:
    return ClientSecret.from_file(place(folder / "secret", entra.new_secret() + "\n"))


def pem(entra: FakeEntra, folder: Path) -> ClientCredential:
    entra.add_certificate(material().certificate)
    return ClientCertificate(material().pem)


def pem_file_x5c(entra: FakeEntra, folder: Path) -> ClientCredential:
    entra.add_certificate(material().certificate)
    return ClientCertificate.from_file(place(folder / "api.pem", material().pem), send_x5c=True)


def pfx_file(entra: FakeEntra, folder: Path) -> ClientCredential:
    entra.add_certificate(material().certificate)
    path = place(folder / "api.pfx", material().pfx)
    return ClientCertificate.from_file(path, password=PASSWORD)


def sync_callable(entra: FakeEntra, folder: Path) -> ClientCredential:
    entra.add_federated_credential(subject=SUBJECT)
    return ClientAssertion(lambda: entra.federated_token(SUBJECT))


def async_callable(entra: FakeEntra, folder: Path) -> ClientCredential:
    entra.add_federated_credential(subject=SUBJECT)

    async def assertion() -> str:
        await asyncio.sleep(0)
        return entra.federated_token(SUBJECT)

    return ClientAssertion(assertion)


def assertion_file(entra: FakeEntra, folder: Path) -> ClientCredential:
    entra.add_federated_credential(subject=SUBJECT)
    return ClientAssertion.from_file(place(folder / "token", entra.federated_token(SUBJECT)))


def workload_identity(entra: FakeEntra, folder: Path) -> ClientCredential:
    entra.add_federated_credential(subject=SUBJECT)
    return WorkloadIdentity(place(folder / "token", entra.federated_token(SUBJECT)))


KINDS = [
    secret,
    secret_file,
    pem,
    pem_file_x5c,
    pfx_file,
    sync_callable,
    async_callable,
    assertion_file,
    workload_identity,
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
Kind = Callable[[FakeEntra, Path], ClientCredential]


def on_behalf_of(entra: FakeEntra, credential: Any, **options: Any) -> OnBehalfOf:
    registration = entra.registration(client_credential=credential)
    return OnBehalfOf(registration, downstream={"graph": GRAPH}, **options)


async def exchange(obo: OnBehalfOf, entra: FakeEntra) -> str:
    """Make one exchange for a token that nobody has seen before."""
    downstream = await obo.downstream_for(entra.token())
    return (await downstream["graph"].acquire_token()).token


@kinds
async def test_every_credential_gets_a_token_over_tls(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over real sockets, with the library's own HTTP client, Entra accepts each credential."""
    entra = FakeEntra()
    with entra.serve() as server:
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        async with on_behalf_of(entra, kind(entra, tmp_path)) as obo:
            assert await exchange(obo, entra)
    assert 1 == entra.exchanges


@pytest.mark.parametrize("service", ["IMDS", "App Service"])
async def test_a_managed_identity_gets_a_token_over_sockets(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity's own token is the assertion; it is fetched once for several exchanges."""
    entra = FakeEntra()
    with entra.serve() as server, serve(entra.managed_identity, tls=False) as metadata:
        entra.trust_managed_identity()
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        if service == "IMDS":
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", metadata.url)
        else:
            monkeypatch.setenv("IDENTITY_ENDPOINT", f"{metadata.url}/msi/token")
            monkeypatch.setenv("IDENTITY_HEADER", entra.managed_identity_header)
        async with on_behalf_of(entra, ManagedIdentity()) as obo:
            for _ in range(3):
                assert await exchange(obo, entra)
    assert (3, 1) == (entra.exchanges, entra.counts["managed_identity"])


@contextlib.contextmanager
def real_msal(entra: FakeEntra, credential: Any) -> Iterator[Any]:
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE would beat `verify`
        session.verify = entra.ca_file
        yield msal.ConfidentialClientApplication(
            entra.registration().client_id,
            client_credential=credential,
            authority=f"{entra.authority}/{entra.tenant_id}",
            instance_discovery=False,
            http_client=session,
        )


@pytest.mark.parametrize("form", ["secret", "pem", "pfx", "assertion"])
def test_the_real_msal_accepts_the_same_material(form: str, tmp_path: Path) -> None:
    """What our credentials are made of works with Microsoft's own library against FakeEntra."""
    entra = FakeEntra()
    with entra.serve():
        entra.add_certificate(material().certificate)
        entra.add_federated_credential(subject=SUBJECT)
        credential: Any = {
            "secret": entra.new_secret(),
            "pem": {
                "private_key": material().key_pem,
                "public_certificate": material().certificate_pem,
            },
            "pfx": {
                "private_key_pfx_path": str(place(tmp_path / "api.pfx", material().pfx)),
                "passphrase": PASSWORD,
            },
            "assertion": {"client_assertion": lambda: entra.federated_token(SUBJECT)},
        }[form]
        with real_msal(entra, credential) as client:
            answer = client.acquire_token_on_behalf_of(
                entra.token(), ["https://graph.microsoft.com/.default"]
            )
    assert "access_token" in answer, answer


def frames(error: BaseException | None) -> list[FrameType]:
    found: list[FrameType] = []
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            found.append(trace.tb_frame)
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return found


def texts_of(value: Any, depth: int = 2) -> Iterator[str]:
    """Give what a debugger or an error reporter would show of a value."""
    yield from (repr(value), str(value))
    if depth and hasattr(value, "__dict__"):
        for inner in vars(value).values():
            yield from texts_of(inner, depth - 1)


@kinds
async def test_no_credential_shows_itself(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither repr, vars, pickle, frames of an error nor the DEBUG log holds a secret."""
    caplog.set_level(logging.DEBUG)
    entra = FakeEntra()
    credential = kind(entra, tmp_path)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(credential)
    async with on_behalf_of(entra, credential, http_client=entra.client()) as obo:
        await exchange(obo, entra)
        entra.remove_secrets()
        entra.remove_federated_credentials()
        with contextlib.suppress(LookupError):
            entra.remove_certificate(material().certificate)
        with pytest.raises(TokenAcquisitionError) as caught:
            await exchange(obo, entra)
    secrets = {
        value
        for request in entra.requests
        for name, value in request.form.items()
        if name in ("client_secret", "client_assertion", "assertion")
    }
    secrets |= {line for line in material().key_pem.splitlines() if len(line) > 40}
    ours = [frame for frame in frames(caught.value) if "/obo_asgi/" in frame.f_code.co_filename]
    ours = [frame for frame in ours if "testing" not in frame.f_code.co_filename]
    shown = [*texts_of(credential), *texts_of(obo), caplog.text, str(caught.value)]
    shown += [
        text for frame in ours for local in frame.f_locals.values() for text in texts_of(local)
    ]
    assert len(secrets) >= 3
    assert [] == [hidden[:12] for hidden in secrets for text in shown if hidden in text]


async def test_the_first_usable_of_several_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cluster the mounted token is used, on a laptop the secret, by one configuration."""
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE", raising=False)
    entra = FakeEntra()
    entra.add_federated_credential(subject=SUBJECT)
    several = [WorkloadIdentity(), ClientSecret(entra.new_secret())]
    async with on_behalf_of(entra, several, http_client=entra.client()) as obo:
        await exchange(obo, entra)
        token = place(tmp_path / "token", entra.federated_token(SUBJECT))
        monkeypatch.setitem(os.environ, "AZURE_FEDERATED_TOKEN_FILE", str(token))
        await exchange(obo, entra)
    used = [set(request.form) & {"client_secret", "client_assertion"} for request in entra.requests]
    assert [{"client_secret"}, {"client_assertion"}] == used
