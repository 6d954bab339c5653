"""The command ``obo-asgi``, as processes of its own."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from obo_asgi import TokenCache
from obo_asgi.cache._memory import MemoryCache
from obo_asgi.cli import main
from obo_asgi.testing import FakeEntra
from tests.servers._process import free_port
from tests.testing.calls import CHALLENGE, VERIFIER

COMMAND = [sys.executable, "-W", "error", "-m", "obo_asgi.cli"]
WEB_API = "5f1d7c1e-2f0b-4f5e-8a35-0a6d1a1f0b01"
SECRET = "a-secret-that-nobody-may-see"
REDIRECT_URI = "http://localhost:3000/"
USERS = f"""
[[users]]
name = "carol"
display_name = "Carol Example"
[[apis]]
identifier_uri = "api://web-api"
client_id = "{WEB_API}"
secret = "{SECRET}"
scopes = ["access_as_user"]
[[apis]]
identifier_uri = "api://partner"
scopes = ["read"]
[[clients]]
name = "page"
"""


def run(*arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """Run the command, and return its exit code and what it says."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb"} | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr


@dataclass(frozen=True)
class Fake:
    """A running ``obo-asgi fake-entra``."""

    process: subprocess.Popen[bytes]
    told: Mapping[str, Any]

    @property
    def ca_file(self) -> str:
        return str(self.told["ca_file"])

    def client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.ca_file)
        return httpx.Client(base_url=self.told["authority"], verify=context, trust_env=False)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


@contextmanager
def fake_entra(folder: Path) -> Iterator[Fake]:
    """Run it on any free port, until the block ends."""
    config, output = folder / "users.toml", folder / "output.toml"
    config.write_text(USERS, encoding="utf-8")
    options = ["--config", str(config), "--port", "0", "--ca-file", str(folder / "ca.pem")]
    with (
        output.open("wb") as file,
        subprocess.Popen([*COMMAND, "fake-entra", *options], stdout=file) as process,
    ):
        try:
            until = time.monotonic() + 20
            while not output.read_bytes().endswith(b"\n\n"):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
            yield Fake(process, tomllib.loads(output.read_text(encoding="utf-8")))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    with fake_entra(tmp_path_factory.mktemp("fake-entra")) as fake:
        yield fake


def sign_in(fake: Fake, client: httpx.Client) -> str:
    """Pick the user on the page, and return the token that the page's app then gets."""
    tenant, page = fake.told["tenant"], fake.told["clients"][0]["client_id"]
    scope = "api://web-api/access_as_user"
    parameters = {
        "client_id": page,
        "response_type": "code",
        "redirect_uri": REDIRECT_URI,
        "scope": scope,
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    picked = client.get(f"/{tenant}/oauth2/v2.0/authorize", params=parameters)
    assert "Carol Example" in picked.text
    assert "alice" not in picked.text
    answer = client.post(picked.url, data={"user": "carol"})
    code = httpx.URL(answer.headers["location"]).params["code"]
    form = {
        "grant_type": "authorization_code",
        "client_id": page,
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
        "scope": scope,
    }
    answer = client.post(
        f"/{tenant}/oauth2/v2.0/token", data=form, headers={"origin": "http://localhost:3000"}
    )
    assert "*" == answer.headers["access-control-allow-origin"]
    return str(answer.json()["access_token"])


def settings(told: Mapping[str, Any], folder: Path, **azure_ad: Any) -> str:
    """Write the settings of the web API that a service knows, and return the path of the file."""
    content = {
        "AzureAd": {
            "Instance": told["authority"],
            "Issuer": told["issuer"],
            "TenantId": told["tenant"],
            "ClientId": WEB_API,
            "ClientSecret": SECRET,
            "RequiredScopes": "access_as_user",
            **azure_ad,
        },
        "DownstreamApis": {"partner": {"Scopes": ["api://partner/read"]}},
    }
    path = folder / "appsettings.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_new_cache_key_prints_a_key() -> None:
    """What is printed is a key that a cache takes."""
    code, output, errors = run("new-cache-key")

    assert (0, "") == (code, errors)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", output)
    TokenCache(shared=MemoryCache(1), keys=[output.strip()])


def test_fake_entra_signs_in_and_exchanges(fake: Fake) -> None:
    """With what it prints a user signs in over TLS, and the web API exchanges the token."""
    api = fake.told["apis"][0]
    assert {"name": "api://web-api", "client_id": WEB_API, "secret": SECRET} == api
    with fake.client() as client:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "requested_token_use": "on_behalf_of",
            "client_id": WEB_API,
            "client_secret": api["secret"],
            "assertion": sign_in(fake, client),
            "scope": "api://partner/read",
        }
        answer = client.post(f"/{fake.told['tenant']}/oauth2/v2.0/token", data=form)

    assert (200, "api://partner/read") == (answer.status_code, answer.json()["scope"])


def test_doctor_finds_all_well(fake: Fake, tmp_path: Path) -> None:
    """In a set-up that works, with a token that is accepted and exchanged, the exit code is 0."""
    with fake.client() as client:
        token = sign_in(fake, client)
    arguments = ["--settings", settings(fake.told, tmp_path), "--token", "-", "--exchange"]
    code, output, errors = run("doctor", *arguments, stdin=token, SSL_CERT_FILE=fake.ca_file)

    assert (0, "") == (code, errors)
    assert re.search(r"^ok       exchange partner +exchanged for a token", output, re.M)
    assert "failed" not in output
    private = [SECRET, *token.split("."), "carol", "Carol"]
    assert [] == [value for value in private if value in output]


def test_doctor_writes_json(fake: Fake, tmp_path: Path) -> None:
    """A wrong secret makes the exit code 1; JSON holds each check, with the remedy, no secret."""
    wrong = "a-wrong-secret"
    arguments = ["--settings", settings(fake.told, tmp_path, ClientSecret=wrong), "--json"]
    resource = ["--resource", "https://api.example.com/other"]
    code, output, errors = run("doctor", *arguments, *resource, SSL_CERT_FILE=fake.ca_file)

    answer = json.loads(output)
    assert (1, "", False) == (code, errors, answer["ok"])
    assert {("message", "name", "outcome", "remedy")} == {
        tuple(sorted(check)) for check in answer["checks"]
    }
    found = {check["name"]: check for check in answer["checks"]}
    assert "failed" == found["credential"]["outcome"]
    assert "pass its value, not its id" in found["credential"]["remedy"]
    assert "warning" == found["resource"]["outcome"]
    assert wrong not in output


def test_doctor_refuses_settings(fake: Fake, tmp_path: Path) -> None:
    """Settings that make no sense are named, without their secret, with the exit code 2."""
    path = settings(fake.told, tmp_path, TenantId="contoso")
    code, output, errors = run("doctor", "--settings", path)

    assert (2, "") == (code, errors)
    assert output.startswith("failed   settings  ")
    assert "TenantId" in output
    assert SECRET not in output


def test_doctor_explains_a_token_of_a_file(fake: Fake, tmp_path: Path) -> None:
    """A file with what is no token is explained, and not shown."""
    file = tmp_path / "token.txt"
    file.write_text("no-token-at-all\n", encoding="utf-8")
    arguments = ["--settings", settings(fake.told, tmp_path), "--token", str(file)]
    code, output, _ = run("doctor", *arguments, SSL_CERT_FILE=fake.ca_file)

    assert 1 == code
    assert re.search(r"^failed   token: form +this is no access token", output, re.M)
    assert "no-token-at-all" not in output


class Here(NamedTuple):
    """What the command did in this process."""

    code: int
    output: bytes
    errors: bytes


def run_here(
    patch: pytest.MonkeyPatch, *arguments: str, stdin: bytes = b"", encoding: str = "utf-8"
) -> Here:
    """Run the command in this process, with streams of an encoding."""
    output, errors = io.BytesIO(), io.BytesIO()
    patch.setattr(sys, "argv", ["obo-asgi", *arguments])
    patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding=encoding))
    patch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    patch.setattr(sys, "stderr", io.TextIOWrapper(errors, encoding=encoding))
    with pytest.raises(SystemExit) as ended:
        main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return Here(int(ended.value.code or 0), output.getvalue(), errors.getvalue())


def of_nothing(folder: Path, **azure_ad: Any) -> str:
    """Write settings of a sign-in service that is not there, and return the path of the file."""
    entra = FakeEntra()
    authority = f"https://localhost:{free_port()}"
    told = {"authority": authority, "issuer": authority, "tenant": entra.tenant_id}
    return settings(told, folder, ClientId=entra.client_id("api"), **azure_ad)


@pytest.mark.parametrize(
    ("encoding", "arguments", "code", "words"),
    [
        ("ascii", ["--help"], 0, b"Usage"),
        ("ascii", ["doctor", "--help"], 0, b"--exchange"),
        ("ascii", ["new-cache-key", "--help"], 0, b"TokenCache(keys=[...])"),
        ("ascii", ["fake-entra", "--help"], 0, b"--ca-file"),
        ("ascii", ["doctor", "--settings", "WRONG"], 2, b" correct the settings"),
        ("cp1252", ["new-cache-key", "--help"], 0, "TokenCache(keys=[…])".encode("cp1252")),
        ("cp1252", ["doctor", "--settings", "WRONG"], 2, b" -> correct the settings"),
        ("cp1252", ["doctor", "--settings", "GONE"], 1, b" -> put that right first"),
    ],
)
def test_an_output_that_is_not_utf8(
    encoding: str,
    arguments: list[str],
    code: int,
    words: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a pipe of Windows cannot hold is written in ASCII, and nothing breaks."""
    changes = {"ClientSecret": None} if "WRONG" in arguments else {}
    path = of_nothing(tmp_path, **changes)
    arguments = [path if word in ("WRONG", "GONE") else word for word in arguments]
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    done = run_here(monkeypatch, *arguments, encoding=encoding)

    assert (code, b"") == (done.code, done.errors)
    assert words in done.output


@pytest.mark.parametrize("source", ["token.txt", "-"])
def test_a_token_may_start_with_a_mark(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The byte order mark that Windows writes is no part of the token."""
    data = FakeEntra().token().encode("utf-8-sig")
    if source != "-":
        source = str(tmp_path / source)
        Path(source).write_bytes(data)
    path = of_nothing(tmp_path)
    arguments = ["--settings", path, "--token", source, "--json"]
    done = run_here(monkeypatch, "doctor", *arguments, stdin=data, encoding="cp1252")

    found = {check["name"]: check["outcome"] for check in json.loads(done.output)["checks"]}
    assert "ok" == found["token: form"]


def test_each_mistake_in_the_settings_is_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mistakes are two checks, each with its remedy."""
    path = of_nothing(tmp_path, TenantId="contoso", AppRoles="a/b")
    done = run_here(monkeypatch, "doctor", "--settings", path, "--json")

    checks = json.loads(done.output)["checks"]
    assert (2, 2) == (done.code, len(checks))
    assert {("settings", "correct the settings, and run this again")} == {
        (check["name"], check["remedy"]) for check in checks
    }
    assert ["AzureAd.TenantId", "AzureAd.AppRoles"] == [
        check["message"].partition(" ")[0] for check in checks
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["doctor", "--exchange"], "--exchange needs --token"),
        (["doctor", "--token", "eyJhbGciOi.secret.token"], "--token takes a file, or -"),
        (["doctor", "--resource", "api://web-api"], "--resource: resource must"),
        (["doctor", "--unknown"], "No such option"),
        (["fake-entra", "--config", "missing.toml"], "missing.toml cannot be read"),
        (["fake-entra", "--config", os.devnull, "--host", "192.0.2.1"], "cannot listen at 192.0"),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wrong usage is said in a sentence, with the exit code 2 and without a traceback."""
    monkeypatch.setattr(sys, "argv", ["obo-asgi", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()

    output, errors = capsys.readouterr()
    assert (2, "") == (ended.value.code, output)
    assert words in errors
    assert "Traceback" not in errors
    assert "eyJhbGciOi" not in errors


def test_fake_entra_ends_on_sigterm(tmp_path: Path) -> None:
    """It ends at once on SIGTERM, with the exit code 0."""
    with fake_entra(tmp_path) as fake:
        assert 0 == fake.end()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ["new-cache-key"]),
        ("trustme", ["fake-entra", "--config", os.devnull]),
    ],
)
def test_a_missing_extra(module: str, arguments: list[str]) -> None:
    """Without the extra each command says in one sentence what to install."""
    code = f"import sys; sys.modules[{module!r}] = None; from obo_asgi.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=30
    )

    message = "obo-asgi: the command needs an extra: pip install 'obo-asgi[cli]'\n"
    assert (2, "", message) == (done.returncode, done.stdout, done.stderr)
