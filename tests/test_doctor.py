"""What is wrong with a set-up, as the doctor says it: the cause, the remedy, and never a secret."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from obo_asgi import (
    ANY_TENANT,
    ClientAssertion,
    ClientCertificate,
    ClientSecret,
    DownstreamAPI,
    ProtectedResource,
    TokenCache,
    new_cache_key,
)
from obo_asgi.cache.redis import redis_cache
from obo_asgi.cache.sql import SQLCache
from obo_asgi.doctor import Check, examine, failed
from obo_asgi.testing import FakeEntra
from tests.servers._process import free_port
from tests.servers.redis import RedisServer, start_redis
from tests.test_certificates import certificate, key_pem, pem, rsa_key
from tests.testing.calls import secret_of

pytestmark = pytest.mark.anyio

PARTNER = "api://partner"
ORIGIN = "https://partner.example.com"
ALL_WELL = {
    "settings": "ok",
    "metadata": "ok",
    "clock": "skipped",
    "credential": "ok",
    "api partner: scopes": "ok",
    "api partner: host": "ok",
    "cache": "skipped",
    "resource": "skipped",
}
TOKEN_WELL = dict.fromkeys(
    ("form", "version", "signature", "issuer", "audience", "times", "permissions", "verdict"), "ok"
)


async def partner(scope: Any, receive: Any, send: Any) -> None:
    """Answer that nothing is here, which is an answer."""
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def entra() -> FakeEntra:
    entra = FakeEntra()
    entra.add_api(PARTNER, scopes=["read"])
    return entra


@pytest.fixture(scope="module")
def served() -> Iterator[FakeEntra]:
    entra = FakeEntra()
    with entra.serve() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", server.ca_file)
        yield entra


def arguments(entra: FakeEntra, **options: Any) -> dict[str, Any]:
    """Return a set-up that works, in which one thing may differ."""
    api = DownstreamAPI(scopes=[f"{PARTNER}/read"], base_url=ORIGIN)
    return {
        "registration": entra.registration(),
        "downstream": {"partner": api},
        "http_client": entra.client({ORIGIN: partner}),
        **options,
    }


def ending(end: datetime) -> x509.Certificate:
    """Return a certificate that ends then."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "doctor")])
    return x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=rsa_key("doctor").public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=end - timedelta(days=365),
        not_valid_after=end,
    ).sign(rsa_key("doctor"), hashes.SHA256())


def outcomes(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks}


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def token_outcomes(checks: list[Check]) -> dict[str, str]:
    return {
        check.name.removeprefix("token: "): check.outcome
        for check in checks
        if check.name.startswith("token: ")
    }


async def test_all_is_well(entra: FakeEntra) -> None:
    """In a set-up that works no check fails, and none has a remedy."""
    checks = await examine(arguments(entra))

    assert ALL_WELL == outcomes(checks)
    assert {""} == {check.remedy for check in checks}
    assert not failed(checks)


async def test_a_wrong_secret(entra: FakeEntra) -> None:
    """A secret that Entra does not know is named by its code, with what to pass in its place."""
    registration = entra.registration(client_credential=ClientSecret("wrong"))
    checks = await examine(arguments(entra, registration=registration))

    check = named(checks, "credential")
    assert "failed" == check.outcome
    assert "AADSTS7000215, invalid_client" in check.message
    assert "the client secret is wrong: pass its value, not its id" == check.remedy
    assert "skipped" == named(checks, "api partner: scopes").outcome
    assert failed(checks)


async def test_an_expired_secret(entra: FakeEntra) -> None:
    """A secret that has ended is told from one that is wrong."""
    registration = entra.registration()
    entra.expire_secret()
    check = named(await examine(arguments(entra, registration=registration)), "credential")

    assert ("failed", True) == (check.outcome, "AADSTS7000222" in check.message)
    assert "the client secret has expired: make a new one" == check.remedy


@pytest.mark.parametrize(
    ("days", "outcome", "start"),
    [
        (-2, "failed", "the certificate ended on "),
        (10, "warning", "the certificate ends on "),
        (90, "ok", "the certificate ends on "),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
async def test_a_certificate_and_its_end(
    entra: FakeEntra, tmp_path: Path, days: int, outcome: str, start: str, from_file: bool
) -> None:
    """A certificate that has ended has failed, and one of less than thirty days is a warning."""
    end = datetime.now(UTC) + timedelta(days=days, hours=1)
    own = ending(end)
    entra.add_certificate(own)
    data = key_pem(rsa_key("doctor")) + pem(own)
    path = tmp_path / "api.pem"
    path.write_bytes(data)
    credential = ClientCertificate.from_file(path) if from_file else ClientCertificate(data)
    registration = entra.registration(client_credential=credential)
    checks = await examine(arguments(entra, registration=registration))

    check = named(checks, "certificate")
    assert outcome == check.outcome
    assert check.message.startswith(f"{start}{end:%Y-%m-%d}")
    assert (outcome != "ok") == ("upload a new certificate" in check.remedy)
    assert ("failed" if days < 0 else "ok") == named(checks, "credential").outcome


async def test_a_certificate_that_is_not_registered(entra: FakeEntra) -> None:
    """A certificate that was not uploaded is named by its code."""
    data = key_pem(rsa_key("doctor")) + pem(certificate(rsa_key("doctor"), "doctor"))
    registration = entra.registration(client_credential=ClientCertificate(data))
    check = named(await examine(arguments(entra, registration=registration)), "credential")

    assert ("failed", True) == (check.outcome, "AADSTS700027" in check.message)
    assert "upload the certificate to the app registration, or check the key" == check.remedy


async def test_a_credential_that_cannot_be_read(entra: FakeEntra, tmp_path: Path) -> None:
    """A file that is missing is named; as nothing was sent, there is no correlation id."""
    path = tmp_path / "missing.pem"
    registration = entra.registration(client_credential=ClientCertificate.from_file(path))
    checks = await examine(arguments(entra, registration=registration))

    message = f"ClientCertificate.from_file({str(path)!r}): the file cannot be read"
    check = named(checks, "credential")
    assert f"it cannot be used: {message} (FileNotFoundError)" == check.message
    assert "put right what it comes from: the file, the variable or the service" == check.remedy
    assert "certificate" not in outcomes(checks)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["missing", "good"], ["warning", "ok"]),
        (["good", "wrong", "missing"], ["ok", "warning", "warning"]),
        (["wrong", "good"], ["failed", "ok"]),
        (["missing", "wrong"], ["failed", "failed"]),
    ],
)
async def test_each_of_several_credentials(
    entra: FakeEntra, tmp_path: Path, kinds: list[str], expected: list[str]
) -> None:
    """Each has a line; the first that can be used has to be accepted, the others may be wrong."""
    known = {
        "missing": ClientSecret.from_file(tmp_path / "missing"),
        "good": ClientSecret(entra.new_secret()),
        "wrong": ClientSecret("wrong"),
    }
    registration = entra.registration(client_credential=[known[kind] for kind in kinds])
    checks = await examine(arguments(entra, registration=registration))

    found = [named(checks, f"credential {number}") for number in range(1, len(kinds) + 1)]
    assert expected == [check.outcome for check in found]
    reasons = {"missing": "(FileNotFoundError)", "good": "accepts", "wrong": "AADSTS7000215"}
    assert all(reasons[kind] in check.message for kind, check in zip(kinds, found, strict=True))
    assert failed(checks) == ("failed" in expected)
    scopes = "skipped" if "failed" in expected else "ok"
    assert scopes == named(checks, "api partner: scopes").outcome


async def test_each_of_several_certificates(entra: FakeEntra) -> None:
    """Each has a line with its end; one that has ended is a warning while another is in use."""
    pems = []
    for days in (-2, 90):
        own = ending(datetime.now(UTC) + timedelta(days=days))
        entra.add_certificate(own)
        pems.append(key_pem(rsa_key("doctor")) + pem(own))
    good = ClientSecret(entra.new_secret())
    several = [good, *map(ClientCertificate, pems)]
    registration = entra.registration(client_credential=several)
    checks = await examine(arguments(entra, registration=registration))

    ends = {"certificate 2": "warning", "certificate 3": "ok"}
    assert ends == {check.name: check.outcome for check in checks if "certif" in check.name}
    assert not failed(checks)


async def test_a_certificate_that_a_source_brings(entra: FakeEntra) -> None:
    """Its end is told as that of a file's, and the source is asked once."""
    own = ending(datetime.now(UTC) + timedelta(days=10, hours=1))
    entra.add_certificate(own)
    calls = []

    async def vault() -> bytes:
        calls.append(1)
        return key_pem(rsa_key("doctor")) + pem(own)

    registration = entra.registration(client_credential=ClientCertificate.from_source(vault))
    checks = await examine(arguments(entra, registration=registration))

    check = named(checks, "certificate")
    assert ("warning", True) == (check.outcome, check.message.endswith("in 10 days"))
    assert "ok" == named(checks, "credential").outcome
    assert [1] == calls


async def test_a_wrong_tenant(entra: FakeEntra) -> None:
    """A tenant that does not exist is found by the metadata, and what needs it is skipped."""
    tenant = "11111111-2222-3333-4444-555555555555"
    registration = entra.registration(tenant_id=tenant)
    checks = await examine(arguments(entra, registration=registration))

    check = named(checks, "metadata")
    assert "failed" == check.outcome
    assert f"there is no tenant {tenant} at this authority (AADSTS90002)" == check.message
    assert "check tenant_id, and authority: each cloud has its own" == check.remedy
    assert "skipped" == named(checks, "credential").outcome


async def test_another_issuer(served: FakeEntra) -> None:
    """Metadata of another issuer than the one that is pinned are named so."""
    registration = served.registration(issuer="https://login.example.com/{tenantid}/v2.0")
    check = named(await examine({"registration": registration}), "metadata")

    message = "the metadata names another issuer than this registration expects"
    assert ("failed", message) == (check.outcome, check.message)
    assert "expected is https://login.example.com/" in check.remedy


@pytest.mark.parametrize("down", ["metadata", "keys"])
async def test_a_sign_in_service_that_is_down(entra: FakeEntra, down: str) -> None:
    """What cannot be fetched is named, and what to look at."""
    entra.down = down
    check = named(await examine(arguments(entra)), "metadata")

    assert "failed" == check.outcome
    assert ("cannot be reached" if down == "metadata" else "its signing keys") in check.message
    assert check.remedy


async def test_a_token_endpoint_that_is_down(entra: FakeEntra) -> None:
    """A token endpoint that gives no answer is not taken for a wrong credential."""
    entra.down = "token"
    check = named(await examine(arguments(entra)), "credential")

    assert "failed" == check.outcome
    assert "the sign-in service is not available (temporarily_unavailable" in check.message
    assert "try again in 5 seconds" == check.remedy


async def test_metadata_that_are_refused(entra: FakeEntra) -> None:
    """Any other status of the metadata is told."""

    async def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, text="no")

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
        checks = await examine(arguments(entra, http_client=client))

    assert named(checks, "metadata").message.endswith("is refused with status 403")


async def test_a_ca_that_is_not_trusted(served: FakeEntra, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is not trusted is told from a service that is down."""
    monkeypatch.delenv("SSL_CERT_FILE")
    check = named(await examine({"registration": served.registration()}), "metadata")

    assert check.message.endswith("its certificate is not trusted")
    assert "name the CA's file in SSL_CERT_FILE" == check.remedy


@pytest.mark.parametrize(
    ("seconds", "outcome", "words"),
    [
        (0, "ok", "agrees"),
        (60, "warning", "seconds ahead of"),
        (600, "failed", "seconds ahead of"),
        (-600, "failed", "seconds behind"),
    ],
)
async def test_the_clock(served: FakeEntra, seconds: int, outcome: str, words: str) -> None:
    """A clock that is off by half a minute is a warning, and by five minutes a failure."""
    checks = await examine(
        {"registration": served.registration()}, clock=lambda: time.time() + seconds
    )

    check = named(checks, "clock")
    assert (outcome, True) == (check.outcome, words in check.message)
    assert (outcome != "ok") == ("NTP" in check.remedy)


async def allowed(tenant_id: str) -> bool:
    """Let every tenant's users call."""
    return True


@pytest.mark.parametrize("tenants", [ANY_TENANT, allowed])
async def test_a_registration_without_a_tenant_to_ask_in(entra: FakeEntra, tenants: Any) -> None:
    """A registration for whichever tenant is checked in that of a token which it accepts."""
    registration = entra.registration(tenant_id="common", allowed_tenants=tenants)
    settings = arguments(entra, registration=registration)
    checks = await examine(settings)
    refused = await examine(settings, token=entra.token(lifetime=-600))
    accepted = await examine(settings, token=entra.token(), exchange=True)

    credential = named(checks, "credential")
    assert ("skipped", True) == (credential.outcome, "--token" in credential.remedy)
    assert ("skipped", "") == (
        named(checks, "api partner: scopes").outcome,
        named(checks, "api partner: scopes").remedy,
    )
    assert "skipped" == named(refused, "credential").outcome
    assert TOKEN_WELL == token_outcomes(accepted)
    assert {**ALL_WELL, "exchange partner": "ok"} == {
        name: outcome
        for name, outcome in outcomes(accepted).items()
        if not name.startswith("token: ")
    }


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SSL_CERT_FILE", "/missing.pem", "that SSL_CERT_FILE or SSL_CERT_DIR name cannot be"),
        ("HTTPS_PROXY", "http://user:hunter2@host:port", "no HTTP client can be made (InvalidURL)"),
    ],
)
async def test_an_environment_that_no_client_can_use(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    """What it names for connections is a fault of the network, not of the settings."""
    monkeypatch.setenv(variable, value)
    checks = await examine({"registration": entra.registration()})

    check = named(checks, "network")
    assert {"settings": "ok", "network": "failed"} == outcomes(checks)
    assert (True, True) == (words in check.message, variable in check.remedy)
    assert "hunter2" not in repr(checks)


async def test_a_bad_scope(entra: FakeEntra) -> None:
    """A scope of a resource that the tenant does not know is named, with its code."""
    api = DownstreamAPI(scopes=["api://patrner/read"])
    checks = await examine(arguments(entra, downstream={"partner": api}))

    check = named(checks, "api partner: scopes")
    assert "failed" == check.outcome
    assert check.message.startswith("api://patrner/read: ")
    assert "AADSTS500011" in check.message
    assert "check the scope" in check.remedy
    assert "skipped" == named(checks, "api partner: host").outcome


async def test_a_host_that_does_not_answer(served: FakeEntra) -> None:
    """An API whose port is closed is named with its host."""
    port = free_port()
    api = DownstreamAPI(
        scopes=["https://graph.microsoft.com/User.Read"], base_url=f"https://localhost:{port}"
    )
    checks = await examine({"registration": served.registration(), "downstream": {"graph": api}})

    check = named(checks, "api graph: host")
    assert ("failed", f"localhost:{port} cannot be reached: no connection") == (
        check.outcome,
        check.message,
    )


@pytest.mark.parametrize(("slash", "outcome"), [("", "ok"), ("/", "ok"), ("/other", "warning")])
async def test_the_advertised_resource(entra: FakeEntra, slash: str, outcome: str) -> None:
    """A resource that is advertised and is none of the audiences is a warning."""
    url = "https://api.example.com"
    registration = entra.registration(audiences=[url])
    resource = ProtectedResource(resource=f"{url}{slash}")
    checks = await examine(arguments(entra, registration=registration), resource=resource)

    check = named(checks, "resource")
    assert outcome == check.outcome
    assert (outcome == "warning") == ("Application ID URI" in check.remedy)


# the shared cache


async def test_a_redis_that_works(entra: FakeEntra, redis_server: RedisServer) -> None:
    """A sealed value comes back, and a Redis that keeps what it is given is well."""
    cache = TokenCache(shared=redis_cache(redis_server.url), keys=[new_cache_key()])
    checks = await examine(arguments(entra, cache=cache))

    assert ("ok", "ok") == (
        named(checks, "cache").outcome,
        named(checks, "cache: eviction").outcome,
    )
    assert named(checks, "cache").message.startswith("a sealed value came back in ")


async def test_a_redis_that_evicts(entra: FakeEntra, tmp_path: Path) -> None:
    """A Redis that drops keys when it is full is a warning, because sessions live there."""
    with start_redis(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        checks = await examine(arguments(entra, cache=TokenCache(shared=redis_cache(server.url))))

    check = named(checks, "cache: eviction")
    assert ("warning", True) == (check.outcome, "(allkeys-lru)" in check.message)
    assert "set maxmemory-policy to noeviction" == check.remedy
    assert "new-cache-key" in named(checks, "cache").remedy


async def test_a_redis_that_does_not_tell(entra: FakeEntra, tmp_path: Path) -> None:
    """Where CONFIG is not permitted the check is skipped, with what to look at."""
    with start_redis(tmp_path, "--rename-command", "CONFIG", "") as server:
        checks = await examine(arguments(entra, cache=TokenCache(shared=redis_cache(server.url))))

    check = named(checks, "cache: eviction")
    assert ("skipped", True) == (check.outcome, "(ResponseError)" in check.message)
    assert "it should be noeviction" in check.remedy


async def test_a_redis_that_is_down(entra: FakeEntra) -> None:
    """A Redis that is down is named, and its password is not."""
    url = f"redis://user:hunter2@localhost:{free_port()}"
    checks = await examine(arguments(entra, cache=TokenCache(shared=redis_cache(url))))

    check = named(checks, "cache")
    assert ("failed", "the cache cannot be reached (ConnectionError)") == (
        check.outcome,
        check.message,
    )
    assert "check the cache's address, that it runs, and the firewall" == check.remedy
    assert "hunter2" not in repr(checks)
    assert "cache: eviction" not in outcomes(checks)


class Shared:
    """A cache of somebody's own."""

    def __init__(self, answer: str | Exception | None = None, *, pause: float = 0) -> None:
        self._answer = answer
        self._pause = pause
        self._values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        time.sleep(self._pause)
        if isinstance(self._answer, Exception):
            raise self._answer
        if key.startswith("obo:1:doctor") and self._answer is not None:
            return self._answer
        return self._values.get(key)

    async def set(self, key: str, value: str, ttl: int) -> None:
        self._values[key] = value

    async def add(self, key: str, value: str, ttl: int) -> None:
        self._values[key] = value

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)

    async def close(self) -> None:
        """Do nothing."""


class AuthenticationRefused(Exception):
    """What a client raises when the password is wrong."""


class ServiceRequestError(Exception):
    """What Azure's SDK raises when there is no connection."""


@pytest.mark.parametrize(
    ("shared", "outcome", "words"),
    [
        (Shared(), "ok", "came back"),
        (Shared(pause=0.06), "warning", "which is slow"),
        (Shared("mangled"), "failed", "does not give back"),
        (Shared(AuthenticationRefused("hunter2")), "failed", "refuses us (AuthenticationRefused)"),
        (Shared(RuntimeError("hunter2")), "failed", "answers with an error (RuntimeError)"),
        (Shared(ServiceRequestError("hunter2")), "failed", "cannot be reached (ServiceRequest"),
    ],
    ids=["good", "slow", "mangled", "password", "error", "no connection"],
)
async def test_a_cache_of_another_kind(
    entra: FakeEntra, shared: Shared, outcome: str, words: str
) -> None:
    """Any aiocache cache is tried, and the text of its errors is not shown."""
    cache = TokenCache(shared=shared, keys=[new_cache_key()])
    checks = await examine(arguments(entra, cache=cache))

    check = named(checks, "cache")
    assert (outcome, True) == (check.outcome, words in check.message)
    assert "hunter2" not in repr(checks)


async def test_a_cache_whose_table_is_missing(entra: FakeEntra, tmp_path: Path) -> None:
    """It is named, with what to do about it."""
    shared = SQLCache(f"sqlite+aiosqlite:///{tmp_path / 'cache.db'}")
    cache = TokenCache(shared=shared, keys=[new_cache_key()])
    check = named(await examine(arguments(entra, cache=cache)), "cache")

    assert ("failed", True) == (
        check.outcome,
        check.message.startswith("the table obo_cache does not exist: create it, or pass"),
    )
    assert "create it beforehand, or set CreateIfNotExists" == check.remedy


async def test_a_cache_without_a_key(entra: FakeEntra) -> None:
    """A cache for which no key can be derived says what to pass."""
    registration = entra.registration(client_credential=ClientAssertion(lambda: "a.b.c"))
    cache = TokenCache(shared=Shared())
    checks = await examine(arguments(entra, registration=registration, cache=cache))

    assert ("failed", True) == (
        named(checks, "cache").outcome,
        "a shared cache needs a key" in named(checks, "cache").message,
    )


# tokens

SENTENCES: list[tuple[str, dict[str, Any], str, str]] = [
    ("times", {"lifetime": -3000}, "the token ended 50 minutes ago", "get a new one"),
    ("times", {"exp": None}, "exp is missing", "access token"),
    ("times", {"exp": True}, "exp is missing", "access token"),
    ("times", {"nbf": 9e9}, "the token begins in ", "set the clock"),
    (
        "audience",
        {"aud": "api://other"},
        "aud is 'api://other', and this API",
        "add it to audiences",
    ),
    ("audience", {"aud": "https://graph.microsoft.com/"}, "for Microsoft Graph", "not of Graph"),
    ("issuer", {"iss": "https://evil.example"}, "not the tenant's issuer", "check authority"),
    ("issuer", {"tid": None}, "tid is missing", "access token"),
    ("issuer", {"tid": "1" * 8 + "-1111-1111-1111-" + "1" * 12}, "may not call", "sign in to an"),
    ("version", {"ver": "3.0"}, "ver is '3.0'", "access token of Entra ID"),
    ("permissions", {"scp": None}, "scp is missing", "not the ID token"),
    ("permissions", {"scp": "other"}, "holds 'other', and access_as_user is", "consent"),
    ("permissions", {"user": None, "scp": None}, "calls for itself", "app_roles"),
    ("form", {"headers": {"nonce": "x"}}, "for Microsoft Graph", "a scope of this API"),
    (
        "form",
        {"headers": {"alg": "HS256"}, "key": b"k" * 32},
        "the algorithm is 'HS256'",
        "that Entra has issued",
    ),
    ("signature", {"headers": {"kid": None}}, "names no key", "another token"),
    ("signature", {"headers": {"kid": "unknown"}}, "no key of the id", "check that authority"),
]


@pytest.mark.parametrize(("name", "token", "words", "remedy"), SENTENCES)
async def test_a_token_that_is_refused(
    entra: FakeEntra, name: str, token: Mapping[str, Any], words: str, remedy: str
) -> None:
    """Why a token is refused stands in a sentence, and the verdict is that of the API."""
    text = entra.token(**token)
    checks = await examine(arguments(entra, required_scopes=["access_as_user"]), token=text)

    check = named(checks, f"token: {name}")
    assert ("failed", True) == (check.outcome, words in check.message)
    assert remedy in check.remedy
    verdict = named(checks, "token: verdict")
    assert ("failed", True) == (
        verdict.outcome,
        "this API refuses the token (40" in verdict.message,
    )


async def test_a_token_that_is_accepted(entra: FakeEntra) -> None:
    """Every check of a good token is well, and the verdict says whose it is."""
    checks = await examine(arguments(entra), token=entra.token())

    assert TOKEN_WELL == token_outcomes(checks)
    verdict = "this API accepts the token, as that of a user"
    assert verdict == named(checks, "token: verdict").message


@pytest.mark.parametrize(("held", "outcome"), [(["Tasks.Run"], "ok"), (["Other"], "failed")])
async def test_a_token_of_an_application(entra: FakeEntra, held: list[str], outcome: str) -> None:
    """An application's token is accepted with the role, and not without."""
    text = entra.token(None, None, roles=held)
    checks = await examine(arguments(entra, app_roles=["Tasks.Run"]), token=text, exchange=True)

    assert outcome == named(checks, "token: permissions").outcome
    assert outcome == named(checks, "token: verdict").outcome
    assert "skipped" == named(checks, "exchange partner").outcome


async def test_a_forged_signature(entra: FakeEntra) -> None:
    """A token that was changed is told from one of an unknown key."""
    header, claims, signature = entra.token().split(".")
    forged = f"{header}.{claims}.{signature[:-6]}AAAAAA"[:-1] + "A"
    checks = await examine(arguments(entra), token=forged)

    check = named(checks, "token: signature")
    assert ("failed", True) == (check.outcome, "copy it whole" in check.remedy)


@pytest.mark.parametrize("text", ["", "opaque", "Bearer a.b.c", "a.b.c"])
async def test_what_is_no_token(entra: FakeEntra, text: str) -> None:
    """What is not a signed token is not looked into."""
    checks = await examine(arguments(entra), token=text)

    assert {"form": "failed"} == token_outcomes(checks)


async def test_a_token_while_keys_cannot_be_had(entra: FakeEntra) -> None:
    """Without keys neither the signature nor the verdict is known."""
    entra.down = "keys"
    checks = await examine(arguments(entra), token=entra.token(), exchange=True)

    assert "failed" == named(checks, "token: signature").outcome
    assert "this API cannot tell now (503)" in named(checks, "token: verdict").message


# exchanges


async def test_an_exchange(entra: FakeEntra) -> None:
    """The exchange for each API is tried, once."""
    checks = await examine(arguments(entra), token=entra.token(), exchange=True)

    message = f"exchanged for a token with {PARTNER}/read"
    assert ("ok", message) == (
        named(checks, "exchange partner").outcome,
        named(checks, "exchange partner").message,
    )
    assert 1 == entra.exchanges


async def test_no_consent(entra: FakeEntra) -> None:
    """A consent that is missing is named by its code, with who must do what."""
    entra.withdraw_consent(resource=PARTNER)
    checks = await examine(arguments(entra), token=entra.token(), exchange=True)

    check = named(checks, "exchange partner")
    assert ("failed", True) == (check.outcome, "AADSTS65001" in check.message)
    assert "send the user to the consent page" in check.remedy


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (50076, "multi-factor"),
        (53003, "Conditional Access"),
        (50173, "sign in again"),
        (50105, "assign the user"),
        (90055, "try again in 60 seconds"),
        (70003, "look the code up at https://learn.microsoft.com/"),
    ],
)
async def test_a_refused_exchange(entra: FakeEntra, number: int, remedy: str) -> None:
    """Every AADSTS number comes with a remedy."""
    entra.fail(number, user="alice", times=9)
    checks = await examine(arguments(entra), token=entra.token(), exchange=True)

    check = named(checks, "exchange partner")
    assert ("failed", True) == (check.outcome, f"AADSTS{number}" in check.message)
    assert remedy in check.remedy


async def test_an_exchange_needs_an_accepted_token_and_credential(entra: FakeEntra) -> None:
    """Without a token that is accepted, or without a credential, no exchange is tried."""
    wrong = entra.registration(client_credential=ClientSecret("wrong"))
    for options, text in (
        ({}, entra.token(lifetime=-600)),
        ({"registration": wrong}, entra.token()),
    ):
        checks = await examine(arguments(entra, **options), token=text, exchange=True)
        assert "skipped" == named(checks, "exchange partner").outcome
    assert 0 == entra.exchanges


async def test_nothing_secret_or_personal_is_told(entra: FakeEntra) -> None:
    """No finding holds the token, a part of it, a secret, or who the user is."""
    entra.withdraw_consent(resource=PARTNER)
    text, settings = entra.token(), arguments(entra)
    told = repr(await examine(settings, token=text, exchange=True))

    private = [
        *text.split("."),
        secret_of(settings["registration"]),
        entra.user("alice").oid,
        "alice",
        "Alice",
    ]
    assert [] == [value for value in private if value in told]


async def test_a_check_that_takes_too_long(
    entra: FakeEntra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check without an answer ends after its time, and says so."""
    monkeypatch.setattr("obo_asgi.doctor._check.SECONDS", 0.05)
    entra.latency = 0.2
    check = named(await examine(arguments(entra, downstream={})), "metadata")

    assert ("failed", True) == (check.outcome, "no answer within" in check.message)


async def test_a_check_that_breaks(entra: FakeEntra) -> None:
    """What nobody foresaw is told by its type, because its text may hold anything."""

    class Strange:
        status_code = 200
        headers: Mapping[str, str] = {}

        @property
        def content(self) -> bytes:
            raise RuntimeError("hunter2")

    class Client:
        def build_request(self, *args: Any, **kwargs: Any) -> httpx.Request:
            return httpx.Request("GET", "https://example.com")

        async def send(self, *args: Any, **kwargs: Any) -> Strange:
            return Strange()

        async def aclose(self) -> None:
            """Do nothing."""

    checks = await examine(arguments(entra, http_client=Client(), downstream={}))

    assert "the check itself broke (RuntimeError)" == named(checks, "metadata").message
