"""FakeEntra as a TOML file describes it, and at the address by which others reach it."""

from __future__ import annotations

import socket
import ssl
import tomllib
from pathlib import Path

import httpx
import pytest

from examples.fake_entra import web_api
from obo_asgi import ConfigurationError, DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi.testing import FakeEntra
from obo_asgi.testing.process import configured, description
from tests.testing.calls import claims_of, secret_of

pytestmark = pytest.mark.anyio

EXAMPLE = Path(web_api.__file__).with_name("users.toml")
GUID = "11111111-2222-3333-4444-555555555555"


def written(folder: Path, text: str) -> Path:
    path = folder / "users.toml"
    path.write_text(text, encoding="utf-8")
    return path


async def test_the_example_works() -> None:
    """A user of the example's file calls the example's web API, which gets its partner's token."""
    entra = configured(EXAMPLE).entra
    own = web_api.obo.registration
    apis = {"partner": DownstreamAPI(scopes=["api://partner/read"])}
    obo = OnBehalfOf(own, downstream=apis, http_client=entra.client())
    transport = httpx.ASGITransport(OnBehalfOfMiddleware(web_api.whoami, obo))
    headers = entra.bearer("alice", audience=own.client_id)
    async with obo, httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        answer = await client.get("/", headers=headers)

    assert (200, "Hello, Alice Example.") == (answer.status_code, answer.text)
    assert 1 == entra.exchanges


def test_what_the_file_says_is_there() -> None:
    """Tenant, users, APIs, clients and the lifetime are those of the file, and nobody else."""
    service = configured(EXAMPLE)
    entra = service.entra

    assert "https://fake-entra:8443" == service.public_url == entra.authority
    assert "b0c1f6a2-6f0e-4c53-9a57-3d5b7a1e4c10" == entra.tenant_id
    assert "Alice Example" == entra.user("alice").display_name
    assert "a-secret-for-development" == secret_of(entra.registration("api://web-api"))
    assert "5f1d7c1e-2f0b-4f5e-8a35-0a6d1a1f0b03" == entra.client_id("spa")
    claims = claims_of(entra.token("bob", audience="api://partner"))
    assert (3600, "api://partner") == (claims["exp"] - claims["iat"], claims["aud"])


def test_users_that_are_listed_are_all(tmp_path: Path) -> None:
    """Where users are listed, alice and bob are there only if they are among them."""
    entra = configured(written(tmp_path, '[[users]]\nname = "carol"\n')).entra

    assert "Carol" == entra.user("carol").display_name
    for name in ("alice", "bob"):
        with pytest.raises(LookupError):
            entra.user(name)


def test_the_description_is_toml(tmp_path: Path) -> None:
    """What is printed can be read: ids, and secrets of those who have one."""
    text = (
        'token_lifetime = 60\n[[apis]]\nidentifier_uri = "api://a"\n'
        f'[[clients]]\nname = "web"\npublic = false\nclient_id = "{GUID}"\nsecret = "s3cret"\n'
        '[[clients]]\nname = "page"\n'
    )
    service = configured(written(tmp_path, text))
    told = tomllib.loads(description(service, "/ca.pem"))

    api, (web, page) = told["apis"][0], told["clients"]
    assert {"name": "web", "client_id": GUID, "secret": "s3cret"} == web
    assert {"name": "page", "client_id": service.entra.client_id("page")} == page
    assert secret_of(service.entra.registration("api://a")) == api["secret"]
    assert f"{told['authority']}/{told['tenant']}/v2.0" == told["issuer"]
    assert "/ca.pem" == told["ca_file"]
    assert 60 == service.entra.token_lifetime


def test_an_empty_file_describes_what_is_there_at_first(tmp_path: Path) -> None:
    """Without APIs and clients, those that FakeEntra begins with are told."""
    told = tomllib.loads(description(configured(written(tmp_path, "")), "/ca.pem"))

    assert ["api"] == [item["name"] for item in told["apis"]]
    assert ["spa"] == [item["name"] for item in told["clients"]]


WRONG = [
    ("tenant = 1", "the file: tenant must be of type str"),
    ('tenant = "contoso"', "tenant must be a GUID"),
    ("token_lifetime = 0", "token_lifetime must be a number of seconds above 0"),
    ("tenants = []", "the file knows no 'tenants'"),
    ('authority = "http://entra"', "authority"),
    ("users = [1]", "users must be tables"),
    ('[[users]]\ndisplay_name = "A"', "[[users]] needs name"),
    ('[[users]]\nname = "a"\n[[users]]\nname = "a"', "[[users]] says the same name"),
    (
        f'[[apis]]\nidentifier_uri = "api://a"\nclient_id = "{GUID}"\n'
        f'[[clients]]\nname = "a"\nclient_id = "{GUID}"',
        "two apps have the same client_id",
    ),
    ('[[apis]]\nidentifier_uri = "api://a"\nversion = "3.0"', "version of api://a must be"),
    ('[[apis]]\nidentifier_uri = "api://a"\nclient_id = "a"', "client_id of api://a must be"),
    ('[[apis]]\nidentifier_uri = "api://a"\nscopes = [1]', "scopes must hold strings"),
    ('[[clients]]\nname = "a"\nclient_id = "a"', "client_id of a must be a GUID"),
    (f'[[clients]]\nname = "a"\nsecret = "{GUID}"', "the secret of a must be a text"),
    ("= 1", "is not TOML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_file_that_makes_no_sense(tmp_path: Path, text: str, message: str) -> None:
    """Each mistake is named with its place."""
    with pytest.raises(ConfigurationError) as caught:
        configured(written(tmp_path, text))

    assert message in str(caught.value)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    """A file that cannot be read is named."""
    with pytest.raises(ConfigurationError, match=r"missing\.toml cannot be read"):
        configured(tmp_path / "missing.toml")


def test_it_is_served_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a public URL the authority and the certificate have its name."""
    entra = FakeEntra()
    with entra.serve(host="0.0.0.0", public_url="https://fake-entra:8443/") as server:
        port = httpx.URL(server.url).port
        context = ssl.create_default_context(cafile=entra.ca_file)
        with (
            socket.create_connection(("127.0.0.1", port or 0)) as plain,
            context.wrap_socket(plain, server_hostname="fake-entra") as secured,
        ):
            assert "TLSv1.3" == secured.version()
        assert "https://fake-entra:8443" == entra.authority


def test_a_secret_of_ones_own(entra: FakeEntra) -> None:
    """A secret can be given, and registrations hold it."""
    assert "chosen" == entra.new_secret(value="chosen") == secret_of(entra.registration())


def test_public_clients_are_told_from_others(entra: FakeEntra) -> None:
    """A public client has no secret."""
    assert (True, False) == (entra.is_public("spa"), entra.is_public("api"))
