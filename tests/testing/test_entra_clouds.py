"""National clouds, external tenants and custom domains: issuers, documents, registrations."""

from typing import Any

import jwt
import pytest

from obo_asgi import ClientAssertion, ClientSecret
from obo_asgi.testing import FakeEntra
from obo_asgi.testing.directory import GRAPH
from tests.testing.calls import PARTNER, Calls, claims_of

pytestmark = pytest.mark.anyio

GLOBAL = "https://login.microsoftonline.com"
US_GOVERNMENT = "https://login.microsoftonline.us"
CHINA = "https://login.partner.microsoftonline.cn"
EXTERNAL = "https://contoso.ciamlogin.com"
CUSTOM = "https://login.contoso.example"
EXTERNAL_ISSUER = "https://{tenantid}.ciamlogin.com/{tenantid}/v2.0"
V1 = "https://sts.windows.net/{tenantid}/"


async def document(entra: FakeEntra, path: str) -> dict[str, Any]:
    async with entra.client() as client:
        response = await client.get(f"{entra.authority}{path}")
    assert 200 == response.status_code
    result: dict[str, Any] = response.json()
    return result


@pytest.mark.parametrize(
    ("authority", "issuer", "v1", "v2", "cloud"),
    [
        (GLOBAL, None, V1, GLOBAL + "/{tenantid}/v2.0", "microsoftonline.com"),
        (GLOBAL, EXTERNAL_ISSUER, V1, GLOBAL + "/{tenantid}/v2.0", "microsoftonline.com"),
        (US_GOVERNMENT, None, V1, US_GOVERNMENT + "/{tenantid}/v2.0", "microsoftonline.us"),
        (
            CHINA,
            None,
            "https://sts.chinacloudapi.cn/{tenantid}/",
            CHINA + "/{tenantid}/v2.0",
            "partner.microsoftonline.cn",
        ),
        (CUSTOM, None, V1, CUSTOM + "/{tenantid}/v2.0", "microsoftonline.com"),
        (CUSTOM, EXTERNAL_ISSUER, V1, EXTERNAL_ISSUER, "microsoftonline.com"),
        (CUSTOM, "https://one.example/v2.0", V1, "https://one.example/v2.0", "microsoftonline.com"),
    ],
)
async def test_issuers_of_a_cloud(
    authority: str, issuer: str | None, v1: str, v2: str, cloud: str
) -> None:
    """Documents, keys and tokens name the issuers of the authority's cloud."""
    entra = FakeEntra(authority=authority, issuer=issuer)
    metadata = "/.well-known/openid-configuration"
    for version, path, expected in [("1.0", "", v1), ("2.0", "/v2.0", v2)]:
        own = expected.replace("{tenantid}", entra.tenant_id)
        assert expected == (await document(entra, f"/common{path}{metadata}"))["issuer"]
        found = await document(entra, f"/{entra.tenant_id}{path}{metadata}")
        assert (own, cloud) == (found["issuer"], found["cloud_instance_name"])
        assert found["token_endpoint"].startswith(f"{authority}/{entra.tenant_id}/oauth2/")
        assert own == claims_of(entra.token(version=version))["iss"]
    [key] = (await document(entra, "/common/discovery/v2.0/keys"))["keys"]
    assert (v2, cloud) == (key["issuer"], key["cloud_instance_name"])


async def test_external_tenant_has_v2_tokens_only() -> None:
    """An external tenant answers on its own host with v2 documents and tokens alone."""
    entra = FakeEntra(authority=EXTERNAL)
    entra.add_api(PARTNER, scopes=["read"], version="1.0")
    issuer = EXTERNAL_ISSUER.replace("{tenantid}", entra.tenant_id)
    found = await document(entra, f"/{entra.tenant_id}/v2.0/.well-known/openid-configuration")
    assert issuer == found["issuer"]
    for name in ("token_endpoint", "authorization_endpoint", "jwks_uri"):
        assert found[name].startswith(f"{EXTERNAL}/{entra.tenant_id}/")
    async with entra.client() as client:
        for path in ("/.well-known/openid-configuration", "/discovery/keys"):
            response = await client.get(f"{EXTERNAL}/{entra.tenant_id}{path}")
            assert 404 == response.status_code
        answer = (await Calls(entra, client).exchange(entra.token(version="1.0"))).json()
    for token in (answer["access_token"], entra.token(version="1.0"), entra.token(None)):
        assert (issuer, "2.0") == (claims_of(token)["iss"], claims_of(token)["ver"])


@pytest.mark.parametrize("authority", [US_GOVERNMENT, CHINA, EXTERNAL, CUSTOM])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_exchange_in_a_cloud(authority: str, version: str) -> None:
    """An exchange works at every authority, with tokens of either version."""
    entra = FakeEntra(authority=authority, issuer=EXTERNAL_ISSUER)
    entra.add_api(PARTNER, scopes=["read"])
    async with entra.client() as client:
        response = await Calls(entra, client).exchange(entra.token(version=version))
    assert 200 == response.status_code, response.text
    [key] = [entra._world.keys.current]
    token = response.json()["access_token"]
    issuer = claims_of(entra.token())["iss"]
    partner = entra.registration(PARTNER)
    jwt.decode(
        token,
        key.private_key.public_key(),
        algorithms=["RS256"],
        issuer=issuer,
        audience=partner.client_id,
    )


@pytest.mark.parametrize(
    ("authority", "issuer", "pinned"),
    [
        (GLOBAL, None, None),
        (GLOBAL, EXTERNAL_ISSUER, None),
        (US_GOVERNMENT, None, None),
        (CHINA, None, None),
        (EXTERNAL, None, None),
        (CUSTOM, None, CUSTOM + "/{tenantid}/v2.0"),
        (CUSTOM, EXTERNAL_ISSUER, EXTERNAL_ISSUER),
        ("https://ciamlogin.com.evil.example", None, "https://ciamlogin.com.evil.example"),
    ],
)
def test_registration_pins_the_issuer(
    authority: str, issuer: str | None, pinned: str | None
) -> None:
    """Registrations pin the issuer of an authority that is none of Microsoft's."""
    registration = FakeEntra(authority=authority, issuer=issuer).registration()
    assert authority == registration.authority
    expected = pinned and (pinned if "{" in pinned else pinned + "/{tenantid}/v2.0")
    assert expected == registration.issuer


def test_issuer_while_serving() -> None:
    """While it is served, the issuer is the server's, or the one that was asked for."""
    for issuer in (None, EXTERNAL_ISSUER):
        entra = FakeEntra(authority=CHINA, issuer=issuer)
        with entra.serve() as server:
            expected = issuer or f"{server.url}/{{tenantid}}/v2.0"
            assert expected == entra.registration().issuer
            own = expected.replace("{tenantid}", entra.tenant_id)
            assert own == claims_of(entra.token())["iss"]
        assert entra.registration().issuer is None


@pytest.mark.parametrize(
    "credential",
    [
        ClientSecret("another"),
        ClientAssertion(lambda: "assertion"),
        [ClientAssertion.from_file("token"), ClientSecret("another")],
    ],
)
def test_registration_takes_any_credential(entra: FakeEntra, credential: Any) -> None:
    """Any credential, or several, can stand in for the secret of a registration."""
    assert credential is entra.registration(client_credential=credential).client_credential
    assert credential is entra.registration(GRAPH, client_credential=credential).client_credential
