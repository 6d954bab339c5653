"""Clouds: which host issues tokens under which names, and that nobody else's are taken."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx
import pytest

from obo_asgi import (
    ANY_TENANT,
    AppRegistration,
    ClientSecret,
    ConfigurationError,
    DownstreamAPI,
    OnBehalfOf,
)
from obo_asgi.clouds import TENANT, is_external, issuers_of
from obo_asgi.errors import InvalidTokenError, KeysUnavailableError
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

TENANT_ID = "11111111-1111-4111-8111-111111111111"
CUSTOM = "https://login.contoso.com"
GRAPH = DownstreamAPI(scopes=["https://graph.microsoft.com/User.Read"])

# Entra's "National clouds", "Access token claims reference" (iss), "Custom URL domains".
PUBLIC = "https://login.microsoftonline.com"
US_GOVERNMENT = "https://login.microsoftonline.us"
CHINA = "https://login.partner.microsoftonline.cn"
CIAM = "https://contoso.ciamlogin.com"
CIAM_ISSUER = f"https://{TENANT}.ciamlogin.com/{TENANT}/v2.0"


@pytest.mark.parametrize(
    ("authority", "pinned", "v1", "v2"),
    [
        pytest.param(
            PUBLIC,
            None,
            "https://sts.windows.net/{tenantid}/",
            "https://login.microsoftonline.com/{tenantid}/v2.0",
            id="public",
        ),
        pytest.param(
            US_GOVERNMENT,
            None,
            "https://sts.windows.net/{tenantid}/",
            "https://login.microsoftonline.us/{tenantid}/v2.0",
            id="US government",
        ),
        pytest.param(
            CHINA,
            None,
            "https://sts.chinacloudapi.cn/{tenantid}/",
            "https://login.partner.microsoftonline.cn/{tenantid}/v2.0",
            id="China",
        ),
        pytest.param(
            CIAM, None, None, "https://{tenantid}.ciamlogin.com/{tenantid}/v2.0", id="external"
        ),
        pytest.param(
            f"https://{TENANT_ID}.ciamlogin.com",
            None,
            None,
            "https://{tenantid}.ciamlogin.com/{tenantid}/v2.0",
            id="external, by its id",
        ),
        pytest.param(
            CUSTOM,
            CIAM_ISSUER,
            "https://sts.windows.net/{tenantid}/",
            CIAM_ISSUER,
            id="a custom domain of an external tenant",
        ),
        pytest.param(
            "https://127.0.0.1:8443",
            "https://127.0.0.1:8443/{tenantid}/v2.0",
            "https://sts.windows.net/{tenantid}/",
            "https://127.0.0.1:8443/{tenantid}/v2.0",
            id="a test service",
        ),
    ],
)
def test_the_issuers_of_an_authority(
    authority: str, pinned: str | None, v1: str | None, v2: str
) -> None:
    """Each cloud issues tokens under the names that Microsoft documents, and a pinned one ours."""
    assert (v1, v2) == issuers_of(authority, pinned)


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        (CIAM, True),
        ("https://a.b.ciamlogin.com", True),
        ("https://ciamlogin.com", False),
        ("https://contoso.ciamlogin.com.evil.example", False),
        ("https://evilciamlogin.com", False),
        ("https://evil.example/.ciamlogin.com", False),
        (PUBLIC, False),
    ],
)
def test_which_authority_is_an_external_tenants(authority: str, expected: bool) -> None:
    """Only hosts under ciamlogin.com are external tenants, whatever else the URL holds."""
    assert expected is is_external(authority)


def registration(**changes: Any) -> AppRegistration:
    fields = {
        "tenant_id": TENANT_ID,
        "client_id": TENANT_ID,
        "client_credential": ClientSecret("secret"),
    }
    return AppRegistration(**{**fields, **changes})


@pytest.mark.parametrize(
    ("host", "right"),
    [
        ("login.windows.net", PUBLIC),
        ("login.microsoft.com", PUBLIC),
        ("sts.windows.net", PUBLIC),
        ("login-us.microsoftonline.com", US_GOVERNMENT),
        ("login.usgovcloudapi.net", US_GOVERNMENT),
        ("login.chinacloudapi.cn", CHINA),
        ("sts.chinacloudapi.cn", CHINA),
    ],
)
def test_an_old_name_of_a_host_is_sent_to_the_right_one(host: str, right: str) -> None:
    """A name under which no tokens are issued any more is refused with the one to write."""
    with pytest.raises(ConfigurationError) as caught:
        registration(authority=f"https://{host}")

    assert f"authority: write {right} for {host}" == str(caught.value)


@pytest.mark.parametrize(
    ("authority", "pinned"),
    [
        pytest.param(f"{CUSTOM}", None, id="a custom domain"),
        pytest.param("https://contoso.b2clogin.com", None, id="B2C"),
        pytest.param("https://login.microsoftonline.de", None, id="the closed German cloud"),
        pytest.param("https://login.microsoftonline.com.evil.example", None, id="a prefix"),
        pytest.param("https://evil-login.microsoftonline.com", None, id="a suffix"),
        pytest.param("https://contoso.ciamlogin.com.evil.example", None, id="external, prefix"),
    ],
)
def test_an_unknown_host_must_be_pinned(authority: str, pinned: str | None) -> None:
    """Nothing is guessed about a host that is none of Microsoft's."""
    with pytest.raises(ConfigurationError, match="is none of Microsoft's sign-in hosts"):
        registration(authority=authority, issuer=pinned)


@pytest.mark.parametrize("authority", [PUBLIC, US_GOVERNMENT, CHINA, CIAM])
def test_a_known_host_is_not_pinned(authority: str) -> None:
    """The issuers of Microsoft's hosts are known, so that another is a mistake."""
    with pytest.raises(ConfigurationError, match="issuer: leave it out"):
        registration(authority=authority, issuer=CIAM_ISSUER)


@pytest.mark.parametrize("authority", [PUBLIC, US_GOVERNMENT, CHINA, CIAM])
def test_a_port_changes_no_issuer(authority: str) -> None:
    """A cloud's own port is either refused or the same as none: the issuer never names it."""
    issuers = {registration(authority=authority).issuers}
    with suppress(ConfigurationError):
        issuers.add(registration(authority=f"{authority}:443").issuers)

    assert 1 == len(issuers)


@pytest.mark.parametrize(
    "issuer",
    [
        pytest.param("", id="empty"),
        pytest.param("contoso", id="no URL"),
        pytest.param("http://login.contoso.com/t/v2.0", id="http"),
        pytest.param("https://user@login.contoso.com/", id="user info"),
        pytest.param("https://login.contoso.com/?p=1", id="a query"),
        pytest.param(1, id="a number"),
    ],
)
def test_a_pinned_issuer_is_an_https_url(issuer: Any) -> None:
    """What is pinned must be a URL as it stands in tokens."""
    with pytest.raises(ConfigurationError, match="issuer"):
        registration(authority=CUSTOM, issuer=issuer)


CLOUDS = [
    pytest.param(PUBLIC, None, id="public"),
    pytest.param(US_GOVERNMENT, None, id="US government"),
    pytest.param(CHINA, None, id="China"),
    pytest.param(CIAM, None, id="external"),
    pytest.param(CUSTOM, CIAM_ISSUER, id="custom domain"),
    pytest.param(CUSTOM, None, id="custom domain with issuers of its own"),
]


def fake(authority: str, issuer: str | None) -> FakeEntra:
    return FakeEntra(authority=authority, issuer=issuer)


def obo_of(entra: FakeEntra, **changes: Any) -> OnBehalfOf:
    return OnBehalfOf(
        entra.registration(**changes), downstream={"graph": GRAPH}, http_client=entra.client()
    )


@pytest.mark.parametrize(("authority", "issuer"), CLOUDS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_a_clouds_tokens_are_accepted_and_exchanged(
    authority: str, issuer: str | None, version: str
) -> None:
    """In each cloud v1 and v2 tokens are verified, and exchanged at that cloud's own endpoint."""
    entra = fake(authority, issuer)
    async with obo_of(entra) as obo:
        downstream = await obo.downstream_for(entra.token(version=version))
        token = await downstream["graph"].acquire_token()

    assert token
    assert [entra.tenant_id] == [request.tenant for request in entra.requests]


@pytest.mark.parametrize(("authority", "issuer"), CLOUDS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_another_clouds_tokens_are_refused(
    authority: str, issuer: str | None, version: str
) -> None:
    """A token whose issuer is another cloud's is refused, though the same key has signed it."""
    entra = fake(authority, issuer)
    tid = entra.tenant_id
    own = {issuer.replace(TENANT, tid) for issuer in obo_of(entra).registration.issuers if issuer}
    foreign = {
        f"https://sts.windows.net/{tid}/",
        f"https://sts.chinacloudapi.cn/{tid}/",
        f"{PUBLIC}/{tid}/v2.0",
        f"{US_GOVERNMENT}/{tid}/v2.0",
        f"{CHINA}/{tid}/v2.0",
        f"https://{tid}.ciamlogin.com/{tid}/v2.0",
        f"{CIAM}/{tid}/v2.0",
        f"{CUSTOM}/{tid}/v2.0",
        f"{PUBLIC}/{{tenantid}}/v2.0",
    } - own
    async with obo_of(entra) as obo:
        for iss in foreign:
            with pytest.raises(InvalidTokenError) as caught:
                await obo.verify(entra.token(version=version, iss=iss))
            assert "issuer" == caught.value.code


async def test_an_external_tenant_has_no_v1_tokens() -> None:
    """A v1 token is refused at an external tenant, where none is issued."""
    entra = fake(CIAM, None)
    tid = entra.tenant_id
    async with obo_of(entra) as obo:
        with pytest.raises(InvalidTokenError) as caught:
            await obo.verify(entra.token(ver="1.0", iss=f"https://sts.windows.net/{tid}/"))

    assert "version" == caught.value.code
    assert 0 == entra.counts["metadata"]


@pytest.mark.parametrize(
    "allowed",
    [pytest.param(ANY_TENANT, id="any"), pytest.param([TENANT_ID], id="another")],
)
def test_an_external_tenant_is_alone(allowed: Any) -> None:
    """An external tenant's authority serves that tenant, and no list or opt-in changes it."""
    with pytest.raises(ConfigurationError, match="serves that tenant alone"):
        fake(CIAM, None).registration(allowed_tenants=allowed)


@pytest.mark.parametrize("field", ["issuer", "jwks_uri", "token_endpoint"])
@pytest.mark.parametrize("authority", [US_GOVERNMENT, CHINA, CIAM])
async def test_metadata_of_another_cloud_is_refused(authority: str, field: str) -> None:
    """Metadata that names the public cloud's issuer or hosts is nobody's in another cloud."""
    entra, public = FakeEntra(authority=authority), FakeEntra()
    path = f"/{entra.tenant_id}/v2.0/.well-known/openid-configuration"

    async def serve(request: httpx.Request) -> httpx.Response:
        async with entra.client() as own, public.client() as other:
            answer = await own.get(request.url)
            foreign = (await other.get(f"{PUBLIC}{path}")).json()
        if request.url.path != path:
            return httpx.Response(answer.status_code, content=answer.content)
        return httpx.Response(200, json={**answer.json(), field: foreign[field]})

    client = httpx.AsyncClient(transport=httpx.MockTransport(serve))
    async with OnBehalfOf(entra.registration(), http_client=client) as obo:
        with pytest.raises(KeysUnavailableError):
            await obo.verify(entra.token())
