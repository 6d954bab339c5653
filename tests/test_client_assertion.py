"""What the API authenticates with: files, callables and endpoints, renewed and rotated."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from obo_asgi import (
    AppRegistration,
    ClientAssertion,
    ClientCertificate,
    ClientSecret,
    ConfigurationError,
    DownstreamAPI,
    ManagedIdentity,
    OnBehalfOf,
    WorkloadIdentity,
)
from obo_asgi.client_assertion import ClientAuthenticator
from obo_asgi.credentials import ClientCredential
from obo_asgi.errors import TokenAcquisitionError
from obo_asgi.testing import FakeEntra
from tests.test_certificates import ISSUER, KEY, LEAF, certificate, key_pem, pem, rsa_key

pytestmark = pytest.mark.anyio

TENANT = "11111111-1111-4111-8111-111111111111"
CLIENT = "33333333-3333-4333-8333-333333333333"
AUDIENCE = f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"
OTHER_AUDIENCE = AUDIENCE.replace(TENANT, CLIENT)
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ID = "correlation-id"
SUBJECT = "system:serviceaccount:default:api"
GRAPH = DownstreamAPI(scopes=["https://graph.microsoft.com/User.Read"])
PEM = key_pem(KEY) + pem(LEAF, ISSUER)
NEW_KEY = rsa_key("new")
NEW_LEAF = certificate(NEW_KEY)
NEW_PEM = key_pem(NEW_KEY) + pem(NEW_LEAF)
ENDPOINT_VARIABLES = (
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "DEFAULT_IDENTITY_CLIENT_ID",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "MSI_SECRET",
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on no platform at all."""
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


class Clock:
    """The clocks of the process, which a test puts ahead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        for name in ("time", "monotonic"):
            monkeypatch.setattr(time, name, self._shifted(getattr(time, name)))

    def _shifted(self, clock: Callable[[], float]) -> Callable[[], float]:
        return lambda: clock() + self._ahead

    def pass_by(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def unreachable(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"nobody should ask for {request.url}")


def authenticator(
    credential: ClientCredential | list[ClientCredential],
    answer: Callable[[httpx.Request], httpx.Response] = unreachable,
) -> ClientAuthenticator:
    registration = AppRegistration(tenant_id=TENANT, client_id=CLIENT, client_credential=credential)
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return ClientAuthenticator(registration, lambda: client)


async def fields(authenticator: ClientAuthenticator, audience: str = AUDIENCE) -> dict[str, str]:
    return (await authenticator.authenticate(audience, ID)).fields()


async def assertion(authenticator: ClientAuthenticator, audience: str = AUDIENCE) -> str:
    return (await fields(authenticator, audience))["client_assertion"]


async def refusal(authenticator: ClientAuthenticator) -> TokenAcquisitionError:
    with pytest.raises(TokenAcquisitionError) as caught:
        await authenticator.authenticate(AUDIENCE, ID)
    return caught.value


def token(name: str = "first", lifetime: float | None = 3600, **claims: Any) -> str:
    """Return a token of another issuer, which only Entra checks."""
    ends = {} if lifetime is None else {"exp": int(time.time() + lifetime)}
    return jwt.encode({"sub": name, **ends, **claims}, "k" * 32, algorithm="HS256")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# the form fields


async def sign_later() -> str:
    await asyncio.sleep(0)
    return "async.assertion.x"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda path: ClientSecret("s3cret"), "s3cret", id="a secret"),
        pytest.param(
            lambda path: ClientSecret.from_file(write(path, " s3cret \r\n")), "s3cret", id="a file"
        ),
        pytest.param(
            lambda path: ClientSecret.from_file(write(path, "\ufeffs3cret\r\n")), "s3cret", id="BOM"
        ),
    ],
)
async def test_a_secret_is_one_field(
    make: Callable[[Path], ClientCredential], expected: str, tmp_path: Path
) -> None:
    """A secret, also of a file with a line break or a byte order mark, is sent as client_secret."""
    auth = authenticator(make(tmp_path / "secret"))

    assert {"client_secret": expected} == await fields(auth)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda path: ClientAssertion(lambda: "a.b.c"), "a.b.c", id="a callable"),
        pytest.param(lambda path: ClientAssertion(sign_later), "async.assertion.x", id="async"),
        pytest.param(
            lambda path: ClientAssertion(lambda: sign_later()), "async.assertion.x", id="a lambda"
        ),
        pytest.param(
            lambda path: ClientAssertion.from_file(write(path, "a.b.c\n")), "a.b.c", id="a file"
        ),
        pytest.param(lambda path: WorkloadIdentity(write(path, "a.b.c")), "a.b.c", id="workload"),
        pytest.param(
            lambda path: WorkloadIdentity(str(write(path, "a.b.c"))), "a.b.c", id="path as text"
        ),
    ],
)
async def test_an_assertion_is_two_fields(
    make: Callable[[Path], ClientCredential], expected: str, tmp_path: Path
) -> None:
    """An assertion, wherever it comes from, is sent with the type of RFC 7523."""
    auth = authenticator(make(tmp_path / "token"))

    assert {"client_assertion_type": JWT_BEARER, "client_assertion": expected} == await fields(auth)


@pytest.mark.parametrize("from_file", [False, True], ids=["data", "file"])
@pytest.mark.parametrize("send_x5c", [False, True])
async def test_a_certificate_signs_for_the_audience(
    from_file: bool, send_x5c: bool, tmp_path: Path
) -> None:
    """A certificate's assertion names us and the token endpoint, and the chain only by option."""
    credential = (
        ClientCertificate.from_file(write(tmp_path / "api.pem", PEM), send_x5c=send_x5c)
        if from_file
        else ClientCertificate(PEM, send_x5c=send_x5c)
    )
    signed = await fields(authenticator(credential))
    key: Any = LEAF.public_key()
    claims = jwt.decode(signed["client_assertion"], key, algorithms=["PS256"], audience=AUDIENCE)

    assert JWT_BEARER == signed["client_assertion_type"]
    assert (CLIENT, CLIENT) == (claims["iss"], claims["sub"])
    header = jwt.get_unverified_header(signed["client_assertion"])
    assert (2 if send_x5c else 0) == len(header.get("x5c", []))


# a certificate's assertions


async def test_an_assertion_is_signed_once_per_audience(clock: Clock) -> None:
    """A signature is reused, for its own audience only, until shortly before it ends."""
    auth = authenticator(ClientCertificate(PEM))
    first = await assertion(auth)
    assert first == await assertion(auth)
    other = await assertion(auth, OTHER_AUDIENCE)
    assert other != first
    clock.pass_by(500)
    assert (first, other) == (await assertion(auth), await assertion(auth, OTHER_AUDIENCE))
    clock.pass_by(60)

    renewed = await assertion(auth)
    assert renewed != first
    claims = jwt.decode(renewed, options={"verify_signature": False})
    assert claims["exp"] - time.time() > 500


async def test_signed_assertions_are_bounded() -> None:
    """However many tenants there are, only so many of their assertions are kept."""
    auth = authenticator(ClientCertificate(PEM))
    first = await assertion(auth)
    for number in range(256):
        await fields(auth, f"{OTHER_AUDIENCE}/{number}")

    assert first != await assertion(auth)


# callables


class Vault:
    """Hands out assertions, as a test wants them."""

    def __init__(self, lifetime: float | None = 3600) -> None:
        self.lifetime = lifetime
        self.calls = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def _next(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return token(f"number {self.calls}", self.lifetime)

    def sync(self) -> str:
        return self._next()

    async def later(self) -> str:
        await self.gate.wait()
        return self._next()

    async def __call__(self) -> str:
        return await self.later()


@pytest.mark.parametrize("form", ["sync", "later", "__call__"])
async def test_a_callables_assertion_is_used_until_shortly_before_its_end(
    form: str, clock: Clock
) -> None:
    """The callable is asked again when the assertion's exp comes near, and not before."""
    vault = Vault(lifetime=600)
    auth = authenticator(ClientAssertion(getattr(vault, form)))
    first = await assertion(auth)
    clock.pass_by(500)
    assert first == await assertion(auth)
    assert first == await assertion(auth, OTHER_AUDIENCE)
    assert 1 == vault.calls
    clock.pass_by(60)

    assert first != await assertion(auth)
    assert 2 == vault.calls


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({}, id="no exp"),
        pytest.param({"exp": "soon"}, id="text"),
        pytest.param({"exp": 0}, id="long ago"),
        pytest.param({"exp": 10**400}, id="beyond floats"),
        pytest.param(None, id="no JWT"),
    ],
)
async def test_an_assertion_without_a_sensible_end_is_used(claims: dict[str, Any] | None) -> None:
    """What does not say when it ends is sent as it is, and asked for anew the next time."""
    text = "opaque" if claims is None else token("x", None, **claims)
    calls = 0

    def get() -> str:
        nonlocal calls
        calls += 1
        return text

    auth = authenticator(ClientAssertion(get))
    assert [text, text] == [await assertion(auth), await assertion(auth)]
    assert calls <= 2


async def test_one_call_serves_all_who_wait() -> None:
    """A hundred simultaneous exchanges ask the callable once."""
    vault = Vault()
    vault.gate.clear()
    auth = authenticator(ClientAssertion(vault.later))
    waiting = [asyncio.create_task(assertion(auth)) for _ in range(100)]
    await settle()
    waiting[0].cancel()
    await settle()
    vault.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)

    assert 1 == vault.calls
    assert 1 == len({result for result in results if isinstance(result, str)})
    assert 99 == sum(isinstance(result, str) for result in results)


def fail(error: Exception) -> Callable[[], str]:
    def get() -> str:
        raise error

    return get


def fail_later(error: Exception) -> Callable[[], Awaitable[str]]:
    async def get() -> str:
        raise error

    return get


@pytest.mark.parametrize("make", [fail, fail_later])
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("vault: token=hunter2"), id="RuntimeError"),
        pytest.param(TimeoutError("hunter2"), id="TimeoutError"),
        pytest.param(KeyError("hunter2"), id="KeyError"),
        pytest.param(ConfigurationError("hunter2"), id="ConfigurationError"),
    ],
)
async def test_a_failing_callable_is_named_without_its_words(
    make: Callable[[Exception], Any], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the kind of failure and says when to come back; the message stays unsaid."""
    caplog.set_level(logging.DEBUG)
    refused = await refusal(authenticator(ClientAssertion(make(error))))

    assert f"the callable failed ({type(error).__name__})" in str(refused.hint)
    assert ("invalid_client", ID) == (refused.error, refused.correlation_id)
    assert refused.retry_after is not None
    assert "hunter2" not in str(refused) + repr(refused) + repr(vars(refused)) + caplog.text


async def test_an_exhausted_iterator_is_a_failure_like_any_other() -> None:
    """StopIteration, which no thread can hand on, holds nobody up."""
    tokens = iter([token(lifetime=30)])
    auth = authenticator(ClientAssertion(lambda: next(tokens)))
    async with asyncio.timeout(5):
        assert await assertion(auth)
        assert await assertion(auth)  # it is still valid
    auth = authenticator(ClientAssertion(lambda: next(iter(()))))
    async with asyncio.timeout(5):
        assert "the callable failed" in str((await refusal(auth)).hint)


@pytest.mark.parametrize(
    "result", [None, "", b"a.b.c", 7, ["a.b.c"], {"client_assertion": "a.b.c"}], ids=repr
)
async def test_a_callable_must_return_text(result: Any) -> None:
    """What is no str is refused by name, and shows nothing of what came."""
    refused = await refusal(authenticator(ClientAssertion(lambda: result)))

    assert "the callable returned no assertion (a str)" in str(refused.hint)
    assert "a.b.c" not in str(refused)


async def test_a_failed_renewal_leaves_a_valid_assertion_in_use(clock: Clock) -> None:
    """While an assertion is valid a vault that is down does no harm; then its failure is told."""
    vault = Vault(lifetime=600)
    auth = authenticator(ClientAssertion(vault.later))
    first = await assertion(auth)
    vault.error = RuntimeError("down")
    clock.pass_by(560)
    assert first == await assertion(auth)
    assert 2 == vault.calls
    assert first == await assertion(auth)
    assert 2 == vault.calls, "a vault that is down is not asked for each exchange"
    clock.pass_by(60)
    assert "RuntimeError" in str((await refusal(auth)).hint)
    vault.error = None

    assert first != await assertion(auth)


async def test_a_hanging_callable_is_bounded(clock: Clock) -> None:
    """A callable that does not come back is a failure after seconds, not a hang."""
    vault = Vault()
    vault.gate.clear()
    auth = authenticator(ClientAssertion(vault.later))
    waiting = asyncio.create_task(refusal(auth))
    await settle()
    clock.pass_by(30)
    async with asyncio.timeout(5):
        refused = await waiting

    assert refused.retry_after is not None
    assert "TimeoutError" in str(refused.hint)


async def test_closing_leaves_no_task() -> None:
    """A callable that hangs ends with the API."""
    vault = Vault()
    vault.gate.clear()
    entra = FakeEntra()
    before = asyncio.all_tasks()
    obo = obo_of(entra, ClientAssertion(vault.later))
    waiting = asyncio.create_task(exchange(obo, entra))
    async with asyncio.timeout(5):
        while entra.counts["keys"] == 0 or len(asyncio.all_tasks() - before) < 3:
            await asyncio.sleep(0.01)
        await settle()
        await obo.aclose()
        await asyncio.gather(waiting, return_exceptions=True)

    assert before == asyncio.all_tasks()


# files


FILES: list[Any] = [
    pytest.param(ClientSecret.from_file, "first", "other", id="secret"),
    pytest.param(ClientAssertion.from_file, token("first"), token("other"), id="assertion"),
    pytest.param(WorkloadIdentity, token("first"), token("other"), id="workload identity"),
    pytest.param(ClientCertificate.from_file, PEM, NEW_PEM, id="certificate"),
]
files = pytest.mark.parametrize(("from_file", "first", "second"), FILES)
FromFile = Callable[[Path], ClientCredential]


async def identity(auth: ClientAuthenticator) -> str:
    """Return what the content of the file can be told by: the value, or the key's thumbprint."""
    sent = await fields(auth)
    value = sent.get("client_secret") or sent["client_assertion"]
    header = jwt.get_unverified_header(value) if value.count(".") == 2 else {}
    return str(header.get("x5t#S256", value))


@files
async def test_a_file_is_read_again_when_it_changes(
    from_file: FromFile, first: str | bytes, second: str | bytes, tmp_path: Path, clock: Clock
) -> None:
    """A changed file is noticed a second later, without a restart, and then stays in use."""
    path = write(tmp_path / "file", first)
    auth = authenticator(from_file(path))
    before = await identity(auth)
    write(path, second)
    clock.pass_by(1)
    after = await identity(auth)
    clock.pass_by(1)

    assert before != after
    assert after == await identity(auth)


@files
async def test_a_file_is_read_again_after_a_kubernetes_swap(
    from_file: FromFile, first: str | bytes, second: str | bytes, tmp_path: Path, clock: Clock
) -> None:
    """A mount that is swapped by its ``..data`` link, as Kubernetes does it, is noticed."""
    for name, content in (("..first", first), ("..second", second)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "file", content)
        # the same size and time, so that only the file itself differs
        os.utime(tmp_path / name / "file", ns=(10**18, 10**18))
    (tmp_path / "..data").symlink_to("..first")
    (tmp_path / "file").symlink_to("..data/file")
    auth = authenticator(from_file(tmp_path / "file"))
    before = await identity(auth)
    (tmp_path / "..data_tmp").symlink_to("..second")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    clock.pass_by(1)

    assert before != await identity(auth)


async def test_a_file_is_looked_at_once_a_second(tmp_path: Path, clock: Clock) -> None:
    """Between two looks the content stays in use, whatever happens to the file."""
    path = write(tmp_path / "secret", "first")
    auth = authenticator(ClientSecret.from_file(path))
    assert "first" == await identity(auth)
    write(path, "second")
    clock.pass_by(0.5)
    assert "first" == await identity(auth)
    clock.pass_by(0.6)

    assert "second" == await identity(auth)


HALF: list[Any] = [
    pytest.param(ClientSecret.from_file, "first", b"", id="an empty secret"),
    pytest.param(ClientSecret.from_file, "first", b"\xff\xfe", id="a binary secret"),
    pytest.param(ClientSecret.from_file, "first", CLIENT.encode(), id="a secret's id"),
    pytest.param(WorkloadIdentity, token(), b"\n", id="an empty token"),
    pytest.param(ClientCertificate.from_file, PEM, b"", id="an empty certificate"),
    pytest.param(ClientCertificate.from_file, PEM, NEW_PEM[:900], id="half a key"),
    pytest.param(ClientCertificate.from_file, PEM, NEW_PEM[:-300], id="half a certificate"),
    pytest.param(ClientCertificate.from_file, PEM, key_pem(NEW_KEY) + pem(LEAF), id="a mixture"),
    pytest.param(ClientCertificate.from_file, PEM, None, id="a vanished certificate"),
    pytest.param(ClientSecret.from_file, "first", None, id="a vanished secret"),
    pytest.param(WorkloadIdentity, token(), None, id="a vanished token"),
]


@pytest.mark.parametrize(("from_file", "good", "bad"), HALF)
async def test_a_file_in_the_middle_of_a_change_does_no_harm(
    from_file: FromFile,
    good: str | bytes,
    bad: bytes | None,
    tmp_path: Path,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What makes no sense, or is gone, leaves the last good one in use until there is a new one."""
    path = write(tmp_path / "file", good)
    auth = authenticator(from_file(path))
    before = await identity(auth)
    if bad is None:
        path.unlink()
    else:
        write(path, bad)
    for _ in range(3):
        clock.pass_by(1)
        assert before == await identity(auth)
    assert len(caplog.records) <= 1, "a file that stays wrong is logged once"
    write(path, NEW_PEM if isinstance(good, bytes) else "second")
    clock.pass_by(1)

    assert before != await identity(auth)


async def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    """What cannot be read is told by the kind of failure and the path."""
    refused = await refusal(authenticator(ClientSecret.from_file(tmp_path)))

    assert f"ClientSecret.from_file('{tmp_path}')" in str(refused.hint)
    assert "the file cannot be read (IsADirectoryError)" in str(refused.hint)


async def test_a_file_without_permission_is_named(tmp_path: Path, clock: Clock) -> None:
    """A file that the process may not read is named, and read once it may."""
    path = write(tmp_path / "secret", "first")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    auth = authenticator(ClientSecret.from_file(path))
    assert "(PermissionError)" in str((await refusal(auth)).hint)
    path.chmod(0o600)
    clock.pass_by(1)

    assert "first" == await identity(auth)


async def test_a_file_that_comes_late_is_found(tmp_path: Path, clock: Clock) -> None:
    """A file that is not there at first is looked for again a second later."""
    path = tmp_path / "secret"
    auth = authenticator(ClientSecret.from_file(path))
    assert "(FileNotFoundError)" in str((await refusal(auth)).hint)
    write(path, "first")
    clock.pass_by(1)

    assert "first" == await identity(auth)


async def test_one_look_serves_all_who_wait(tmp_path: Path, clock: Clock) -> None:
    """Fifty exchanges at the same time see the same content of a file that has just changed."""
    path = write(tmp_path / "secret", "first")
    auth = authenticator(ClientSecret.from_file(path))
    await fields(auth)
    write(path, "second")
    clock.pass_by(1)

    assert {"second"} == set(await asyncio.gather(*(identity(auth) for _ in range(50))))


async def test_a_file_that_was_being_read_at_the_end_is_read_at_the_next_start(
    tmp_path: Path,
) -> None:
    """Closing in the middle of a look leaves nothing half done: the next use reads the file."""
    slow = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(1_500_000).build(b"password")
    data = serialize_key_and_certificates(b"api", KEY, LEAF, None, slow)
    path = write(tmp_path / "api.pfx", data)
    auth = authenticator(ClientCertificate.from_file(path, password="password"))
    first = asyncio.create_task(fields(auth))
    await asyncio.sleep(0.1)
    assert not first.done(), "the key derivation is too fast for this test"
    await auth.aclose()
    await asyncio.gather(first, return_exceptions=True)

    assert JWT_BEARER == (await fields(auth))["client_assertion_type"]


# workload identity


async def test_aks_says_where_the_token_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path the token is where AZURE_FEDERATED_TOKEN_FILE says."""
    path = write(tmp_path / "token", "a.b.c")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(path))
    auth = authenticator(WorkloadIdentity())
    await auth.check()

    assert "a.b.c" == await assertion(auth)


async def test_a_path_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the developer names is used, whatever the environment says."""
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(write(tmp_path / "other", "o.t.h")))
    auth = authenticator(WorkloadIdentity(write(tmp_path / "token", "a.b.c")))

    assert "a.b.c" == await assertion(auth)


@pytest.mark.parametrize("value", [None, ""])
async def test_outside_of_aks_the_label_is_named(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is mounted the error says how AKS is told to."""
    if value is not None:
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", value)
    auth = authenticator(WorkloadIdentity())
    hint = str((await refusal(auth)).hint)

    assert "AZURE_FEDERATED_TOKEN_FILE is not set: label the pod" in hint
    with pytest.raises(ConfigurationError, match="label the pod"):
        await auth.check()


# managed identity


def obo_of(entra: FakeEntra, credential: Any, **apps: Any) -> OnBehalfOf:
    return OnBehalfOf(
        entra.registration(client_credential=credential),
        downstream={"graph": GRAPH},
        http_client=entra.client(**apps),
    )


async def exchange(obo: OnBehalfOf, entra: FakeEntra) -> str:
    """Exchange a token that nobody has seen before."""
    downstream = await obo.downstream_for(entra.token())
    return (await downstream["graph"].acquire_token()).token


@pytest.mark.parametrize("named_by", ["client_id", "object_id", "resource_id", None])
async def test_an_identity_of_a_virtual_machine_is_trusted(named_by: str | None) -> None:
    """IMDS gives the token of the identity that is named, or the system's, and Entra takes it."""
    entra = FakeEntra()
    credential = ManagedIdentity()
    if named_by is None:
        entra.trust_managed_identity()
    else:
        identity = entra.add_managed_identity("api")
        entra.trust_managed_identity(identity="api")
        credential = ManagedIdentity(**{named_by: getattr(identity, named_by)})
    async with obo_of(entra, credential) as obo:
        for _ in range(3):
            assert await exchange(obo, entra)

    assert (3, 1) == (entra.exchanges, entra.counts["managed_identity"])


async def test_an_identity_of_app_service_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """App Service's endpoint is found in the environment and asked with its header."""
    entra = FakeEntra()
    entra.trust_managed_identity()
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", entra.managed_identity_header)
    apps = {"http://127.0.0.1:41741": entra.managed_identity}
    async with obo_of(entra, ManagedIdentity(), apps=apps) as obo:
        for _ in range(3):
            assert await exchange(obo, entra)

    assert (3, 1) == (entra.exchanges, entra.counts["managed_identity"])


@pytest.mark.parametrize("suffix", ["USGov", "China"])
async def test_other_clouds_have_another_audience(suffix: str) -> None:
    """The identity's token is asked for the audience that the credential names."""
    entra = FakeEntra()
    audience = f"api://AzureADTokenExchange{suffix}"
    entra.trust_managed_identity(audience=audience)
    async with obo_of(entra, ManagedIdentity(audience=audience)) as obo:
        assert await exchange(obo, entra)
    async with obo_of(entra, ManagedIdentity()) as obo:
        with pytest.raises(TokenAcquisitionError) as caught:
            await exchange(obo, entra)

    assert "invalid_client" == caught.value.error


async def test_an_unknown_identity_is_told() -> None:
    """An identity that the machine does not have is an error that names the credential."""
    entra = FakeEntra()
    async with obo_of(entra, ManagedIdentity(client_id=CLIENT)) as obo:
        with pytest.raises(TokenAcquisitionError) as caught:
            await exchange(obo, entra)

    assert "gave no token: is the identity assigned?" in str(caught.value.hint)
    assert 0 == entra.exchanges


class Metadata:
    """A managed identity endpoint that answers as a test wants, and counts."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def granted(name: str = "first", **changes: Any) -> httpx.Response:
    body = {
        "access_token": token(name),
        "expires_in": "86400",
        "resource": "api://AzureADTokenExchange",
        "token_type": "Bearer",
    }
    return httpx.Response(200, json={**body, **changes})


def managed(metadata: Metadata, **identity: str) -> ClientAuthenticator:
    return authenticator(ManagedIdentity(**identity), metadata)


async def test_imds_is_asked_as_documented() -> None:
    """The request has the documented address, version, resource and header."""
    metadata = Metadata(granted())
    sent = await fields(managed(metadata, client_id=CLIENT))
    request = metadata.requests[0]

    assert JWT_BEARER == sent["client_assertion_type"]
    assert "http://169.254.169.254/metadata/identity/oauth2/token" == str(
        request.url.copy_with(query=None)
    )
    assert "true" == request.headers["metadata"].lower()
    assert ("2018-02-01", "api://AzureADTokenExchange", CLIENT) == (
        request.url.params["api-version"],
        request.url.params["resource"],
        request.url.params["client_id"],
    )


async def test_an_identitys_token_is_renewed_before_its_end(clock: Clock) -> None:
    """The token of a day is used for half of it, and an endpoint that is down does no harm."""
    metadata = Metadata(granted("first"), httpx.ConnectError("down"), granted("second"))
    auth = managed(metadata)
    first = await assertion(auth)
    clock.pass_by(11 * 3600)
    assert first == await assertion(auth)
    assert 1 == len(metadata.requests)
    clock.pass_by(1.5 * 3600)
    assert first == await assertion(auth)
    assert 2 == len(metadata.requests)
    clock.pass_by(60)

    assert first != await assertion(auth)


async def test_one_request_serves_all_who_wait() -> None:
    """A hundred simultaneous exchanges ask the endpoint once."""
    metadata = Metadata(granted())
    auth = managed(metadata)
    results = await asyncio.gather(*(assertion(auth) for _ in range(100)))

    assert (1, 1) == (len(set(results)), len(metadata.requests))


HTML = httpx.Response(200, content=b"<html>sign in to the network</html>")
NOT_FOUND = {"error": "invalid_request", "error_description": "Identity not found; pw=hunter2"}


@pytest.mark.parametrize(
    ("answer", "fragment", "temporary"),
    [
        pytest.param(httpx.ConnectError("no route"), "endpoint failed", True, id="down"),
        pytest.param(httpx.ConnectTimeout("slow"), "endpoint timed out", True, id="slow"),
        pytest.param(HTML, "answers nonsense", True, id="a captive portal"),
        pytest.param(httpx.Response(404), "gave no token", False, id="404"),
        pytest.param(httpx.Response(429), "managed identity endpoint", True, id="too many"),
        pytest.param(httpx.Response(500), "managed identity endpoint", True, id="500"),
        pytest.param(httpx.Response(503, json=NOT_FOUND), "identity endpoint", True, id="503"),
        pytest.param(httpx.Response(400, content=b"[]"), "gave no token", False, id="400, a list"),
        pytest.param(httpx.Response(400, content=b"null"), "no token", False, id="400, null"),
        pytest.param(httpx.Response(400, json=NOT_FOUND), "assigned?", False, id="no identity"),
        pytest.param(httpx.Response(200, json={}), "gave no token", False, id="nothing in it"),
        pytest.param(httpx.Response(200, json=[]), "answers nonsense", True, id="a list"),
        pytest.param(granted(expires_in="soon"), "gave no token", False, id="no lifetime"),
        pytest.param(granted(expires_in="-5"), "gave no token", False, id="ended"),
        pytest.param(granted(access_token=7), "gave no token", False, id="a number"),
        pytest.param(
            httpx.Response(302, headers={"location": "https://x/"}),
            "no token",
            False,
            id="a redirect",
        ),
    ],
)
async def test_an_endpoint_in_trouble_is_told(
    answer: Any, fragment: str, temporary: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure of the endpoint has its reason, and only a passing one advises to come back."""
    caplog.set_level(logging.DEBUG)
    metadata = Metadata(answer)
    refused = await refusal(managed(metadata))

    assert fragment in str(refused.hint)
    assert "ManagedIdentity()" in str(refused.hint)
    assert temporary is (refused.retry_after is not None)
    assert "hunter2" not in str(refused)
    assert 1 == len(metadata.requests)


@pytest.mark.parametrize(
    "environment",
    [
        {"IDENTITY_ENDPOINT": "http://evil.example/msi/token", "IDENTITY_HEADER": "x"},
        {"IDENTITY_ENDPOINT": "http://10.0.0.1/msi/token", "IDENTITY_HEADER": "x"},
        {"IDENTITY_ENDPOINT": "http://127.0.0.1.evil.example/", "IDENTITY_HEADER": "x"},
        {"IDENTITY_ENDPOINT": "http://evil.example/", "IMDS_ENDPOINT": "http://evil.example/"},
        {"MSI_ENDPOINT": "http://evil.example/", "MSI_SECRET": "x"},
        {"AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://evil.example"},
    ],
    ids=" ".join,
)
async def test_a_token_is_not_asked_for_in_clear(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain http reaches this machine and the link-local address alone: no request is made."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    metadata = Metadata(granted())
    refused = await refusal(managed(metadata))

    assert "over http that is not on this machine" in str(refused.hint)
    assert [] == metadata.requests


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:42/msi/token",
        "http://127.0.0.1:42/msi/token",
        "http://[::1]:42/msi/token",
        "http://169.254.130.1:8081/msi/token",
        "https://identity.example.com/msi/token",
    ],
)
async def test_the_endpoints_of_app_service_are_reached(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses that Azure's hosts really use are asked."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", url)
    monkeypatch.setenv("IDENTITY_HEADER", "the-header")
    metadata = Metadata(granted(expires_in=None, expires_on=str(int(time.time()) + 3600)))
    assert await assertion(managed(metadata))

    assert url == str(metadata.requests[0].url.copy_with(query=None))
    assert "the-header" == metadata.requests[0].headers["x-identity-header"]


async def test_a_challenge_of_azure_arc_reads_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sits at Arc's port cannot make us send the content of a file of their choice."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://localhost:40342/metadata/identity/oauth2/token")
    monkeypatch.setenv("IMDS_ENDPOINT", "http://localhost:40342")
    path = write(tmp_path / "secret.key", "hunter2")
    challenge = {"www-authenticate": f"Basic realm={path}"}
    metadata = Metadata(httpx.Response(401, headers=challenge), granted())

    assert "gave no token" in str((await refusal(managed(metadata))).hint)
    assert ["true"] == [request.headers["metadata"] for request in metadata.requests]


async def test_service_fabric_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its endpoint has a certificate that only a thumbprint vouches for: it is not asked."""
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT"):
        monkeypatch.setenv(name, "https://localhost:2377/metadata/identity/oauth2/token")
    metadata = Metadata(granted())

    assert "Service Fabric" in str((await refusal(managed(metadata))).hint)
    assert [] == metadata.requests


async def test_an_identity_shows_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the header of the endpoint nor the identity's token is logged or shown."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:42/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "the-header")
    ends = str(int(time.time()) + 3600)
    metadata = Metadata(granted(expires_on=ends), httpx.ConnectError("the-header"))
    authentication = await managed(metadata).authenticate(AUDIENCE, ID)
    secrets = ("the-header", authentication.fields()["client_assertion"])
    refused = await refusal(managed(metadata))
    shown = caplog.text + repr(authentication) + str(refused) + repr(vars(refused))

    assert [] == [secret for secret in secrets if secret in shown]


async def test_half_an_answer_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that breaks off after the token is a failure, and the token is in no log."""
    caplog.set_level(logging.DEBUG)
    body = granted(access_token="the-identitys-token").content
    half = body[: body.index(b"the-identitys-token") + 25]
    await refusal(managed(Metadata(httpx.Response(200, content=half))))

    assert "the-identitys-token" not in caplog.text


# several in order


@pytest.mark.parametrize("usable", range(4))
async def test_the_first_usable_wins(usable: int, tmp_path: Path) -> None:
    """Those before it are passed over, and those after it are not asked."""
    asked: list[str] = []

    def later() -> str:
        asked.append("callable")
        return "a.b.c"

    several: list[ClientCredential] = [
        ClientSecret.from_file(tmp_path / "secret"),
        WorkloadIdentity(tmp_path / "token"),
        ClientCertificate.from_file(tmp_path / "api.pem"),
        ClientAssertion(later),
    ]
    if usable < 3:
        contents: list[tuple[str, str | bytes]] = [
            ("secret", "s3cret"),
            ("token", "t.o.k"),
            ("api.pem", PEM),
        ]
        write(tmp_path / contents[usable][0], contents[usable][1])
    auth = authenticator(several)
    await auth.check()
    sent = await fields(auth)

    assert (usable == 3) is (asked == ["callable"])
    assert {0: "s3cret", 1: "t.o.k", 3: "a.b.c"}.get(usable) in (*sent.values(), None)


async def test_a_better_one_is_used_as_soon_as_it_is_there(tmp_path: Path, clock: Clock) -> None:
    """The order decides at each exchange, not once: a token that is mounted late is used then."""
    auth = authenticator([WorkloadIdentity(tmp_path / "token"), ClientSecret("s3cret")])
    assert {"client_secret"} == set(await fields(auth))
    write(tmp_path / "token", "a.b.c")
    clock.pass_by(1)

    assert "a.b.c" == await assertion(auth)


async def test_what_cannot_be_had_from_elsewhere_is_not_waited_for_each_time(
    clock: Clock,
) -> None:
    """While a later one is usable, a managed identity that cannot be had is tried once a minute."""
    metadata = Metadata(httpx.ConnectError("no route"), httpx.ConnectError("no route"), granted())
    auth = authenticator([ManagedIdentity(), ClientSecret("s3cret")], metadata)
    for _ in range(3):
        assert {"client_secret": "s3cret"} == await fields(auth)
    assert 1 == len(metadata.requests)
    clock.pass_by(60)
    assert {"client_secret": "s3cret"} == await fields(auth)
    assert 2 == len(metadata.requests)
    clock.pass_by(60)

    assert {"client_assertion", "client_assertion_type"} == set(await fields(auth))


async def test_a_lone_identity_is_asked_each_time() -> None:
    """What has no other in its place is tried at each exchange."""
    metadata = Metadata(httpx.ConnectError("no route"), granted())
    auth = managed(metadata)
    await refusal(auth)

    assert JWT_BEARER == (await fields(auth))["client_assertion_type"]


async def test_a_stand_in_is_told_once(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names what is used, and why what goes before it is not, when that changes."""
    auth = authenticator([WorkloadIdentity(tmp_path / "token"), ClientSecret("s3cret")])
    for _ in range(3):
        await fields(auth)
        clock.pass_by(1)
    [told] = [record for record in caplog.records if "is used instead" in record.message]

    assert "credential.unreadable" == vars(told)["event"]
    assert told.message.startswith("ClientSecret('***') is used instead")
    assert "the file cannot be read (FileNotFoundError)" in told.message
    assert "s3cret" not in caplog.text


async def test_a_file_that_is_gone_is_told_each_time_it_goes(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that goes, comes back as it was, and goes again is two warnings."""
    path = write(tmp_path / "secret", "s3cret")
    auth = authenticator(ClientSecret.from_file(path))
    for exists in (True, False, False, True, False):
        if exists:
            write(path, "s3cret")
        else:
            path.unlink(missing_ok=True)
        clock.pass_by(1)
        assert {"client_secret": "s3cret"} == await fields(auth)

    assert 2 == caplog.text.count("the file cannot be read (FileNotFoundError)")


async def test_where_none_is_usable_each_is_named(tmp_path: Path) -> None:
    """One error lists every credential in order with its reason, and shows none of them."""
    write(tmp_path / "half.pem", PEM[:-900])
    several: list[ClientCredential] = [
        WorkloadIdentity(),
        ClientSecret.from_file(tmp_path / "secret"),
        ClientCertificate.from_file(tmp_path / "half.pem", password="hunter2"),
        ManagedIdentity(),
        ClientAssertion(fail(RuntimeError("hunter2"))),
    ]
    metadata = Metadata(httpx.ConnectError("no route"))
    refused = await refusal(authenticator(several, metadata))
    reasons = ["label the pod", "FileNotFoundError", "half.pem", "endpoint failed", "callable"]
    hint = str(refused.hint)
    names = [repr(credential) for credential in several]
    places = [hint.index(word) for pair in zip(names, reasons, strict=True) for word in pair]

    assert sorted(places) == places
    assert refused.retry_after is not None
    assert "hunter2" not in str(refused)
    assert "PRIVATE KEY-" not in str(refused)


async def test_what_only_waiting_will_not_cure_is_no_503(tmp_path: Path) -> None:
    """Where nothing but a change of the configuration helps, nobody is told to come back."""
    assert None is (await refusal(authenticator(WorkloadIdentity(tmp_path / "t")))).retry_after


# what Entra refuses


async def test_what_was_refused_is_read_once_more(tmp_path: Path) -> None:
    """A file that has changed within the second is read at once, and the new content is used."""
    path = write(tmp_path / "secret", "first")
    auth = authenticator(ClientSecret.from_file(path))
    refused = await auth.authenticate(AUDIENCE, ID)
    write(path, "second")
    again = await auth.authenticate_again(refused, AUDIENCE, ID)

    assert again is not None
    assert {"client_secret": "second"} == again.fields()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: ClientSecret("first"), id="secret"),
        pytest.param(lambda path: ClientSecret.from_file(write(path, "first")), id="secret file"),
        pytest.param(lambda path: ClientCertificate(PEM), id="certificate"),
        pytest.param(
            lambda path: ClientCertificate.from_file(write(path, PEM)), id="certificate file"
        ),
        pytest.param(lambda path: WorkloadIdentity(write(path, "a.b.c")), id="token file"),
        pytest.param(lambda path: ClientAssertion(lambda: "a.b.c"), id="callable"),
    ],
)
async def test_nothing_new_is_not_tried_again(
    make: Callable[[Path], ClientCredential], tmp_path: Path
) -> None:
    """Where the same would be sent again, it is not sent."""
    auth = authenticator(make(tmp_path / "file"))
    refused = await auth.authenticate(AUDIENCE, ID)

    assert None is await auth.authenticate_again(refused, AUDIENCE, ID)


async def test_a_vanished_file_is_not_tried_again(tmp_path: Path) -> None:
    """Where the file is gone when Entra has refused it, the refusal stands."""
    path = write(tmp_path / "secret", "first")
    auth = authenticator(ClientSecret.from_file(path))
    refused = await auth.authenticate(AUDIENCE, ID)
    path.unlink()

    assert None is await auth.authenticate_again(refused, AUDIENCE, ID)


@pytest.mark.parametrize("kind", ["file", "callable", "certificate"])
async def test_fifty_refused_at_once_read_anew_once(kind: str, tmp_path: Path) -> None:
    """When fifty exchanges are refused at once there is one reload, and one retry of each."""
    entra = FakeEntra()
    entra.add_federated_credential(subject=SUBJECT)
    calls = 0

    def get() -> str:
        nonlocal calls
        calls += 1
        return entra.federated_token(SUBJECT if calls > 1 else "somebody-else")

    path = tmp_path / "file"
    credential: ClientCredential
    if kind == "callable":
        credential = ClientAssertion(get)
    elif kind == "file":
        credential = ClientSecret.from_file(write(path, "revoked"))
    else:
        credential = ClientCertificate.from_file(write(path, PEM))
        entra.add_certificate(NEW_LEAF)
    async with obo_of(entra, credential) as obo:
        if kind != "callable":
            await obo.verify(entra.token())  # it has been opened, and has read the file
            write(path, entra.new_secret() if kind == "file" else NEW_PEM)
        results = await asyncio.gather(*(exchange(obo, entra) for _ in range(50)))

    assert 50 == len(set(results))
    assert entra.exchanges <= 100
    assert calls == (2 if kind == "callable" else 0)


@pytest.mark.parametrize("kind", ["callable", "file", "secret", "managed identity"])
async def test_a_credential_that_stays_refused_makes_no_storm(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fifty exchanges with a credential that Entra does not accept are fifty requests, no more."""
    entra = FakeEntra()
    calls = 0

    def get() -> str:
        nonlocal calls
        calls += 1
        return "e30.e30.e30"

    credentials: dict[str, ClientCredential] = {
        "callable": ClientAssertion(get),
        "file": ClientSecret.from_file(write(tmp_path / "secret", "revoked")),
        "secret": ClientSecret("revoked"),
        "managed identity": ManagedIdentity(),
    }
    async with obo_of(entra, credentials[kind]) as obo:
        results = await asyncio.gather(
            *(exchange(obo, entra) for _ in range(50)), return_exceptions=True
        )

    assert {TokenAcquisitionError} == {type(result) for result in results}
    # an endpoint signs a new token each time, so that each exchange is tried once more with it
    assert (100 if kind == "managed identity" else 50) >= entra.exchanges >= 50
    assert calls <= 51
    assert entra.counts["managed_identity"] <= 2
