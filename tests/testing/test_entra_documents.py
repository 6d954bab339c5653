"""Metadata, keys, instance discovery, and the manners of the HTTP side."""

import base64

import httpx
import jwt
import pytest
from cryptography import x509

from obo_asgi.testing import FakeEntra
from tests.testing.calls import Calls

pytestmark = pytest.mark.anyio

OTHER_TENANT = "9188040d-6c67-4c5b-b112-36a304b66dad"


async def get(entra: FakeEntra, path: str) -> httpx.Response:
    async with entra.client() as client:
        return await client.get(entra.authority + path)


@pytest.mark.parametrize(
    ("path", "issuer", "jwks_path"),
    [
        ("/{tid}/v2.0", "{authority}/{tid}/v2.0", "/{tid}/discovery/v2.0/keys"),
        ("/common/v2.0", "{authority}/{{tenantid}}/v2.0", "/common/discovery/v2.0/keys"),
        (
            "/organizations/v2.0",
            "{authority}/{{tenantid}}/v2.0",
            "/organizations/discovery/v2.0/keys",
        ),
        ("/{tid}", "https://sts.windows.net/{tid}/", "/{tid}/discovery/keys"),
        ("/common", "https://sts.windows.net/{{tenantid}}/", "/common/discovery/keys"),
    ],
)
async def test_metadata_names_issuer_and_keys(
    entra: FakeEntra, path: str, issuer: str, jwks_path: str
) -> None:
    """Each metadata document names its own version's issuer and keys; shared ones a template."""
    names = {"authority": entra.authority, "tid": entra.tenant_id}
    response = await get(entra, f"{path.format(**names)}/.well-known/openid-configuration")
    assert issuer.format(**names) == response.json()["issuer"]
    assert entra.authority + jwks_path.format(**names) == response.json()["jwks_uri"]
    keys = await get(entra, jwks_path.format(**names))
    assert 200 == keys.status_code
    assert {"metadata": 1, "keys": 1} == dict(entra.counts)


@pytest.mark.parametrize("path", ["/v2.0/.well-known/openid-configuration", "/discovery/keys"])
async def test_unknown_tenant_has_no_documents(entra: FakeEntra, path: str) -> None:
    """An unknown tenant is AADSTS90002, and a known one is found whatever its case."""
    assert [90002] == (await get(entra, f"/{OTHER_TENANT}{path}")).json()["error_codes"]
    entra.add_tenant(OTHER_TENANT)
    assert 200 == (await get(entra, f"/{OTHER_TENANT.upper()}{path}")).status_code


async def test_v2_keys_name_their_issuer_and_v1_keys_do_not(entra: FakeEntra) -> None:
    """A v2 key names the issuers that it signs for: all by a template, or one tenant."""
    key = entra.add_key(tenant=OTHER_TENANT)
    v2 = (await get(entra, "/common/discovery/v2.0/keys")).json()["keys"]
    v1 = (await get(entra, "/common/discovery/keys")).json()["keys"]
    assert [f"{entra.authority}/{{tenantid}}/v2.0", f"{entra.authority}/{OTHER_TENANT}/v2.0"] == [
        jwk["issuer"] for jwk in v2
    ]
    assert key.kid == v2[1]["kid"]
    assert all("issuer" not in jwk for jwk in v1)


async def test_certificate_in_x5c_is_of_the_same_key(entra: FakeEntra) -> None:
    """``x5c`` holds a certificate of the very key that ``n`` and ``e`` are of."""
    [jwk] = (await get(entra, "/common/discovery/keys")).json()["keys"]
    certificate = x509.load_der_x509_certificate(base64.b64decode(jwk["x5c"][0]))
    assert jwt.PyJWK(jwk).key == certificate.public_key()


async def test_rollover_publishes_both_until_the_old_are_dropped(entra: FakeEntra) -> None:
    """After a rollover tokens are signed by the new key, and the old stays until it is dropped."""
    old = entra.token()
    new = entra.roll_keys()
    assert new.kid == jwt.get_unverified_header(entra.token())["kid"]
    kids = [jwk["kid"] for jwk in (await get(entra, "/common/discovery/keys")).json()["keys"]]
    assert [jwt.get_unverified_header(old)["kid"], new.kid] == kids
    entra.drop_old_keys()
    kids = [jwk["kid"] for jwk in (await get(entra, "/common/discovery/keys")).json()["keys"]]
    assert [new.kid] == kids


async def test_unpublished_key_is_not_published(entra: FakeEntra) -> None:
    """The forger's key stands in no document."""
    stranger = entra.unpublished_key()
    keys = (await get(entra, "/common/discovery/keys")).json()["keys"]
    assert stranger.kid not in [jwk["kid"] for jwk in keys]


@pytest.mark.parametrize(
    ("endpoint", "tenant"), [("https://x/{tid}/oauth2/v2.0/authorize", "{tid}"), ("", "common")]
)
async def test_instance_discovery_leads_to_the_metadata(
    entra: FakeEntra, endpoint: str, tenant: str
) -> None:
    """Instance discovery, as MSAL asks for it, leads to a tenant's metadata."""
    asked = endpoint.format(tid=entra.tenant_id)
    response = await get(entra, f"/common/discovery/instance?authorization_endpoint={asked}")
    tid = tenant.format(tid=entra.tenant_id)
    url = f"{entra.authority}/{tid}/v2.0/.well-known/openid-configuration"
    assert url == response.json()["tenant_discovery_endpoint"]
    assert ["login.microsoftonline.com"] == response.json()["metadata"][0]["aliases"]


@pytest.mark.parametrize(
    ("path", "cors"),
    [
        ("/common/v2.0/.well-known/openid-configuration", True),
        ("/common/discovery/v2.0/keys", True),
        ("/common/oauth2/v2.0/token", True),
        ("/common/oauth2/v2.0/authorize", False),
    ],
)
async def test_scripts_of_any_origin_may_ask(calls: Calls, path: str, cors: bool) -> None:
    """The endpoints that a single-page app calls answer preflights; the sign-in page does not."""
    headers = {
        "Origin": "https://spa.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "client-request-id",
    }
    url = calls.entra.authority + path
    response = await calls.client.options(url, headers=headers)
    assert (200 if cors else 405) == response.status_code
    assert ("*" if cors else None) == response.headers.get("access-control-allow-origin")
    if cors:
        assert "client-request-id" == response.headers["access-control-allow-headers"]


async def test_refusal_of_the_token_endpoint_is_readable_by_scripts(calls: Calls) -> None:
    """A refusal has the CORS header as well, else the app would see a network error."""
    response = await calls.token(grant_type="nonsense")
    assert 400 == response.status_code
    assert "*" == response.headers["access-control-allow-origin"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/common/oauth2/v2.0/token", 405),
        ("DELETE", "/common/oauth2/v2.0/authorize", 405),
        ("POST", "/common/discovery/keys", 405),
    ],
)
async def test_wrong_path_or_method(calls: Calls, method: str, path: str, status: int) -> None:
    """What is not there is 404, and a method that does not fit is 405."""
    response = await calls.client.request(method, calls.entra.authority + path)
    assert status == response.status_code
