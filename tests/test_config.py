"""Configuration: what is wrong is refused at once, in a sentence that says what to change."""

from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import pytest

from obo_asgi import ANY_TENANT, AppRegistration, ClientSecret, ConfigurationError, DownstreamAPI
from obo_asgi.config import Requirement, any_of, check_header, check_scopes, requirement

TENANT = "aaaaaaaa-1111-4111-8111-111111111111"
OTHER_TENANT = "bbbbbbbb-2222-4222-8222-222222222222"
CLIENT = "cccccccc-3333-4333-8333-333333333333"
READ = "api://partner/read"


def registration(**changes: Any) -> AppRegistration:
    values = {"tenant_id": TENANT, "client_id": CLIENT, "client_credential": ClientSecret("value")}
    return AppRegistration(**{**values, **changes})


def downstream(**changes: Any) -> DownstreamAPI:
    return DownstreamAPI(**{"scopes": [READ], **changes})


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        pytest.param({"tenant_id": ""}, "tenant_id must be the directory", id="no tenant"),
        pytest.param({"tenant_id": None}, "tenant_id must be the directory", id="tenant None"),
        pytest.param({"tenant_id": "contoso.com"}, "a GUID", id="a domain"),
        pytest.param({"tenant_id": TENANT[:-1]}, "a GUID", id="a short GUID"),
        pytest.param({"tenant_id": f" {TENANT}"}, "a GUID", id="a space"),
        pytest.param({"tenant_id": "consumers"}, "a GUID", id="consumers"),
        pytest.param({"tenant_id": "common"}, "ANY_TENANT on purpose", id="common alone"),
        pytest.param({"tenant_id": "Organizations"}, "allowed_tenants", id="organizations alone"),
        pytest.param({"client_id": ""}, "client_id must be the application", id="no client id"),
        pytest.param({"client_id": "api://me"}, "client_id must be", id="an App ID URI as id"),
        pytest.param({"client_id": f"{{{CLIENT}}}"}, "client_id must be", id="braces"),
        pytest.param({"client_credential": None}, "client_credential must be", id="no credential"),
        pytest.param({"client_credential": "bare"}, "not a bare string", id="a bare secret"),
        pytest.param({"audiences": []}, "audiences is empty", id="no audience"),
        pytest.param({"audiences": "api://me"}, "must be a list of strings", id="bare audience"),
        pytest.param({"audiences": b"api://me"}, "must be a list of strings", id="bytes"),
        pytest.param({"audiences": [""]}, "non-empty strings", id="an empty audience"),
        pytest.param({"audiences": ["api://me", None]}, "non-empty strings", id="audience None"),
        pytest.param({"audiences": 1}, "must be a list of strings", id="audience 1"),
        pytest.param({"allowed_tenants": []}, "nobody could call", id="no tenant allowed"),
        pytest.param({"allowed_tenants": TENANT}, "must be a list", id="a bare tenant"),
        pytest.param({"allowed_tenants": ["*"]}, "allowed_tenants must be", id="a wildcard"),
        pytest.param({"allowed_tenants": ["common"]}, "a GUID", id="common in the list"),
        pytest.param({"allowed_tenants": [TENANT, ""]}, "non-empty", id="an empty tenant"),
        pytest.param({"allowed_tenants": True}, "must be a list", id="True for any tenant"),
        pytest.param({"authority": ""}, "authority must be", id="no authority"),
        pytest.param({"authority": None}, "authority must be a URL", id="authority None"),
        pytest.param({"authority": "login.microsoftonline.com"}, "absolute", id="no scheme"),
        pytest.param({"authority": "http://login.example"}, "must use https", id="http authority"),
        pytest.param({"authority": "http://localhost"}, "must use https", id="http on loopback"),
        pytest.param(
            {"authority": f"https://login.microsoftonline.com/{TENANT}"},
            "the tenant belongs into tenant_id",
            id="authority with a path",
        ),
        pytest.param({"authority": "https://a@login.example"}, "user name", id="user info"),
        pytest.param({"authority": "https://login.example?x"}, "without a query", id="query"),
    ],
)
def test_a_wrong_registration_is_refused(changes: dict[str, Any], fragment: str) -> None:
    """A registration that cannot work, or lets in too much, does not come into being."""
    with pytest.raises(ConfigurationError) as caught:
        registration(**changes)

    assert fragment in str(caught.value)


def test_a_registration_needs_little() -> None:
    """Tenant, client and credential are enough; the rest has safe values."""
    app = registration()

    assert (CLIENT, f"api://{CLIENT}") == app.audiences
    assert (TENANT,) == app.allowed_tenants
    assert "https://login.microsoftonline.com" == app.authority
    assert (TENANT, False) == (app.metadata_tenant, app.is_multi_tenant)


def test_a_registration_is_normalised() -> None:
    """GUIDs and the authority compare in small letters and without a final slash."""
    app = registration(
        tenant_id=TENANT.upper(),
        client_id=CLIENT.upper(),
        allowed_tenants=[OTHER_TENANT.upper()],
        authority="https://Login.MicrosoftOnline.US/",
    )

    assert (TENANT, CLIENT) == (app.tenant_id, app.client_id)
    assert (OTHER_TENANT,) == app.allowed_tenants
    assert "https://login.microsoftonline.us" == app.authority


def test_a_registration_does_not_change() -> None:
    """A registration is frozen, and a list that it was made from is copied."""
    audiences = ["api://me"]
    app = registration(audiences=audiences)
    audiences.append("api://other")

    assert ("api://me",) == app.audiences
    with pytest.raises(dataclasses.FrozenInstanceError):
        app.tenant_id = OTHER_TENANT  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "metadata_tenant", "allowed", "refused"),
    [
        pytest.param({}, TENANT, [TENANT], [OTHER_TENANT, "", "common"], id="one tenant"),
        pytest.param(
            {"allowed_tenants": [OTHER_TENANT]}, "common", [OTHER_TENANT], [TENANT], id="another"
        ),
        pytest.param(
            {"tenant_id": "common", "allowed_tenants": [TENANT, OTHER_TENANT]},
            "common",
            [TENANT, OTHER_TENANT],
            [CLIENT, "common"],
            id="common with a list",
        ),
        pytest.param(
            {"tenant_id": "ORGANIZATIONS", "allowed_tenants": ANY_TENANT},
            "organizations",
            [TENANT, OTHER_TENANT],
            [],
            id="organizations, any tenant",
        ),
        pytest.param({"allowed_tenants": ANY_TENANT}, "common", [OTHER_TENANT], [], id="any"),
    ],
)
def test_who_is_allowed(
    changes: dict[str, Any], metadata_tenant: str, allowed: list[str], refused: list[str]
) -> None:
    """The allow-list decides alone, and the keys come from metadata that covers all of it."""
    app = registration(**changes)

    assert metadata_tenant == app.metadata_tenant
    assert (metadata_tenant != TENANT) is app.is_multi_tenant
    assert {True} == {app.allows_tenant(tenant) for tenant in allowed}
    assert not any(app.allows_tenant(tenant) for tenant in refused)


def test_the_issuers_of_the_public_cloud() -> None:
    """Both token versions have their exact issuer, slash included."""
    assert (
        "https://sts.windows.net/{tenantid}/",
        "https://login.microsoftonline.com/{tenantid}/v2.0",
    ) == registration().issuers


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        pytest.param({"scopes": []}, "scopes is empty", id="no scope"),
        pytest.param({"scopes": READ}, "must be a list of strings: ['api:", id="a bare scope"),
        pytest.param({"scopes": None}, "must be a list of strings", id="scopes None"),
        pytest.param({"scopes": [""]}, "non-empty strings", id="an empty scope"),
        pytest.param({"scopes": [READ, 1]}, "non-empty strings", id="a number"),
        pytest.param({"scopes": ["a/read a/write"]}, "hold no spaces", id="two in one"),
        pytest.param({"scopes": ['a/"read"']}, "not a scope", id="quotes"),
        pytest.param({"scopes": ["a/lés"]}, "not a scope", id="not ASCII"),
        pytest.param({"scopes": ["a/read\n"]}, "without space", id="a newline"),
        pytest.param({"scopes": ["openid"]}, "reserved scope", id="openid"),
        pytest.param({"scopes": [READ, "Offline_Access"]}, "reserved", id="offline_access"),
        pytest.param({"scopes": ["profile"]}, "reserved scope", id="profile"),
        pytest.param({"scopes": ["email"]}, "reserved scope", id="email"),
        pytest.param({"scopes": ["a/x", "b/x"]}, "(a, b)", id="two resources"),
        pytest.param({"scopes": ["User.Read", READ]}, "several", id="Graph and another"),
        pytest.param({"scopes": ["a/x", "a/.default"]}, "use it alone", id="/.default and more"),
        pytest.param({"scopes": [".default", "User.Read"]}, "use it alone", id=".default and more"),
        pytest.param({"base_url": ""}, "base_url must be", id="an empty URL"),
        pytest.param({"base_url": 1}, "base_url must be a URL", id="a number as URL"),
        pytest.param({"base_url": "api.example.com"}, "absolute https URL", id="no scheme"),
        pytest.param({"base_url": "/v1.0"}, "absolute https URL", id="a path"),
        pytest.param({"base_url": "//api.example.com"}, "absolute https", id="no scheme, slashes"),
        pytest.param({"base_url": "https:///v1.0"}, "absolute https URL", id="no host"),
        pytest.param({"base_url": "ftp://api.example.com"}, "absolute https", id="ftp"),
        pytest.param({"base_url": "http://api.example.com"}, "must use https", id="http"),
        pytest.param({"base_url": "http://10.0.0.1"}, "in clear", id="http in the network"),
        pytest.param({"base_url": "http://0.0.0.0:80"}, "must use https", id="http to 0.0.0.0"),
        pytest.param({"base_url": "http://localhost.evil.example"}, "https", id="like localhost"),
        pytest.param({"base_url": "https://u:p@api.example.com"}, "user name", id="user info"),
        pytest.param({"base_url": "https://@api.example.com"}, "user name", id="empty user info"),
        pytest.param({"base_url": "https://a.example/?v=1"}, "without a query", id="query"),
        pytest.param({"base_url": "https://a.example/v1?"}, "without a query", id="a bare '?'"),
        pytest.param({"base_url": "https://a.example/#x"}, "without a query", id="fragment"),
        pytest.param({"base_url": "https://a.example/v1#"}, "without a query", id="a bare '#'"),
        pytest.param({"base_url": "https://a.example/a/../b"}, "'..'", id="dot segment"),
        pytest.param({"base_url": "https://a.example/%2e%2e/b"}, "'..'", id="encoded dots"),
        pytest.param({"base_url": "https://a.example/%252e/b"}, "'..'", id="dots encoded twice"),
        pytest.param({"base_url": "https://a.example/..;/b"}, "'..'", id="dots and semicolon"),
        pytest.param({"base_url": "https://é.example"}, "base_url must be", id="not ASCII"),
        pytest.param({"base_url": "https://a.example\\b"}, "base_url must be", id="backslash"),
        pytest.param({"base_url": "https://a.example\n"}, "base_url must be", id="newline"),
        pytest.param({"base_url": " https://a.example"}, "base_url must be", id="a space first"),
        pytest.param({"base_url": "https://a.example:x"}, "not a valid URL", id="bad port"),
        pytest.param({"base_url": "https://a.example:99999"}, "not a valid", id="port too large"),
        pytest.param({"base_url": "https://[::1"}, "not a valid URL", id="bad address"),
        pytest.param({"base_url": "https://a b"}, "base_url", id="space in the host"),
        pytest.param({"base_url": 'https://a"b'}, "base_url", id="quote in the host"),
        pytest.param({"timeout": 0}, "timeout must be", id="no time"),
        pytest.param({"timeout": -1}, "above 0", id="negative time"),
        pytest.param({"timeout": None}, "timeout must be", id="timeout None"),
        pytest.param({"timeout": "30"}, "number of seconds", id="timeout as text"),
        pytest.param({"timeout": True}, "timeout must be", id="timeout True"),
        pytest.param({"timeout": float("nan")}, "timeout must be", id="NaN"),
        pytest.param({"timeout": float("inf")}, "timeout must be", id="infinite"),
        pytest.param({"timeout": 10**400}, "timeout must be", id="beyond floats"),
        pytest.param({"timeout": 24 * 3600}, "below a day", id="a day"),
        pytest.param({"headers": [("a", "b")]}, "must be a mapping", id="headers as pairs"),
        pytest.param({"headers": {"a": 1}}, "value of header 'a'", id="a number in a header"),
        pytest.param({"headers": {"a": b"1"}}, "value of header 'a'", id="bytes in a header"),
        pytest.param({"headers": {"a": "b\r\nc: d"}}, "one line", id="two header lines"),
        pytest.param({"headers": {"a": "b\x00"}}, "one line", id="a control character"),
        pytest.param({"headers": {"a": "\u20ac"}}, "one line", id="a header beyond Latin-1"),
        pytest.param({"headers": {"": "b"}}, "not a header name", id="no header name"),
        pytest.param({"headers": {"a b": "c"}}, "not a header name", id="a space in a name"),
        pytest.param({"headers": {"Authorization": "x"}}, "is reserved", id="authorization"),
        pytest.param({"http_client": "client"}, "http_client must be", id="a string as client"),
        pytest.param({"http_client": httpx}, "http_client must be", id="the module as client"),
    ],
)
def test_a_wrong_downstream_api_is_refused(changes: dict[str, Any], fragment: str) -> None:
    """An API that no token can be had for, or that a token must not go to, is refused."""
    with pytest.raises(ConfigurationError) as caught:
        downstream(**changes)

    assert fragment in str(caught.value)


def test_a_downstream_api_needs_scopes_alone() -> None:
    """An API without a base URL gives tokens, waits 30 seconds and adds no header."""
    api = downstream()

    assert ((READ,), None, 30.0, {}, None) == (
        api.scopes,
        api.base_url,
        api.timeout,
        api.headers,
        api.http_client,
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://graph.microsoft.com/v1.0", "https://graph.microsoft.com/v1.0"),
        ("https://graph.microsoft.com/v1.0/", "https://graph.microsoft.com/v1.0"),
        ("https://api.example.com/", "https://api.example.com"),
        ("https://api.example.com:8443/a%20b", "https://api.example.com:8443/a%20b"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
        ("https://10.0.0.1", "https://10.0.0.1"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1/x/", "http://127.0.0.1/x"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("https://a.example/..x/.well-known", "https://a.example/..x/.well-known"),
    ],
)
def test_a_good_base_url_is_kept(url: str, expected: str) -> None:
    """A base URL loses its final slash and nothing else."""
    assert expected == downstream(base_url=url).base_url


@pytest.mark.parametrize("timeout", [0.001, 1, 3600.0])
def test_a_good_timeout_is_kept(timeout: float) -> None:
    """Any finite number of seconds above zero will do."""
    assert timeout == downstream(timeout=timeout).timeout


def test_the_headers_of_an_api_do_not_change() -> None:
    """Headers are copied, and the copy is read-only."""
    headers = {"x-version": "1"}
    api = downstream(headers=headers)
    headers["Authorization"] = "x"

    assert {"x-version": "1"} == api.headers
    with pytest.raises(TypeError):
        api.headers["Authorization"] = "x"  # type: ignore[index]


def test_a_client_of_ones_own_is_kept_and_not_shown() -> None:
    """What is configured as HTTP client is used as it is and stays out of the repr."""
    client = httpx.AsyncClient()
    api = downstream(http_client=client)

    assert client is api.http_client
    assert "http_client" not in repr(api)


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        pytest.param(["a/y", "a/x", "a/y"], ("a/x", "a/y"), id="sorted, once"),
        pytest.param(("a/x",), ("a/x",), id="a tuple"),
        pytest.param({"a/x"}, ("a/x",), id="a set"),
        pytest.param((scope for scope in ["a/x"]), ("a/x",), id="a generator"),
        pytest.param(["api://id/.default"], ("api://id/.default",), id="/.default"),
        pytest.param(["https://h//.default"], ("https://h//.default",), id="v1 resource"),
        pytest.param(
            ["Mail.Read", "https://graph.microsoft.com/User.Read"],
            ("Mail.Read", "https://graph.microsoft.com/User.Read"),
            id="Graph, long and short",
        ),
        pytest.param(["a/openid"], ("a/openid",), id="reserved for others"),
    ],
)
def test_good_scopes_are_put_in_order(scopes: Any, expected: tuple[str, ...]) -> None:
    """Scopes are sorted and unique, so that equal requests are equal."""
    assert expected == check_scopes(scopes)


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "AUTHORIZATION", "Proxy-Authorization", "Proxy-Authenticate"),
        *("Connection", "Content-Length", "Cookie", "Forwarded", "Host", "Keep-Alive", "TE"),
        *("Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection"),
        *("X-Forwarded-For", "x-forwarded-host", "X-MS-TOKEN-AAD-ACCESS-TOKEN"),
        *("X-MS-CLIENT-PRINCIPAL", "X-MS-CLIENT-PRINCIPAL-ID"),
    ],
)
def test_a_reserved_header_is_refused(name: str) -> None:
    """Headers of the protocol, of proxies and of identities cannot be set, in any spelling."""
    with pytest.raises(ConfigurationError, match="is reserved"):
        check_header(name, "value")


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "a:", "a\n", "a\r\nb", "é", "a\x00", "a,b", "Authorization ", None, 1]
)
def test_what_is_no_header_name_is_refused(name: Any) -> None:
    """A header name is a token of HTTP, so that no spelling gets around the reserved ones."""
    with pytest.raises(ConfigurationError, match="not a header name"):
        check_header(name, "value")


@pytest.mark.parametrize("name", ["Accept", "x-custom", "If-Match", "ConsistencyLevel", "Prefer"])
def test_other_headers_can_be_set(name: str) -> None:
    """Any other header may be sent to a downstream API."""
    api = downstream(headers={name: "value"})

    assert {name: "value"} == api.headers


@pytest.mark.parametrize(
    ("names", "fragment"),
    [
        pytest.param([], "required_scopes is empty", id="empty"),
        pytest.param(Requirement(()), "required_scopes is empty", id="handmade"),
        pytest.param("read", "must be a list of strings: ['read']", id="a bare string"),
        pytest.param(None, "must be a list", id="None"),
        pytest.param([""], "non-empty", id="an empty name"),
        pytest.param(["read write"], "bare names", id="two in one"),
        pytest.param(["api://id/read"], "not 'api://id/read'", id="a full scope"),
        pytest.param(["a/read"], "such as 'access_as_user'", id="a slash"),
        pytest.param(['"'], "bare names", id="a quote"),
        pytest.param(["lés"], "bare names", id="not ASCII"),
        pytest.param([any_of("read")], "non-empty strings", id="any_of in a list"),
    ],
)
def test_a_wrong_requirement_is_refused(names: Any, fragment: str) -> None:
    """A requirement that no token could meet, or that asks for nothing, is refused."""
    with pytest.raises(ConfigurationError) as caught:
        requirement(names, "required_scopes")

    assert fragment in str(caught.value)


def test_any_of_nothing_is_refused() -> None:
    """`any_of` without a name would let nobody in, so it is refused."""
    with pytest.raises(ConfigurationError, match="any_of is empty"):
        any_of()


@pytest.mark.parametrize(
    ("needed", "granted", "expected"),
    [
        (requirement(["read"], "x"), ["read", "write"], True),
        (requirement(["read", "write"], "x"), ["read", "write"], True),
        (requirement(["read", "write"], "x"), ["read"], False),
        (requirement(["read"], "x"), ["Read"], False),
        (requirement(["read"], "x"), ["readwrite", "rea", "read.all"], False),
        (requirement(["read"], "x"), [], False),
        (any_of("read", "write"), ["write"], True),
        (any_of("read", "write"), ["other"], False),
        (any_of("read", "write"), [], False),
    ],
)
def test_when_a_requirement_is_met(needed: Requirement, granted: list[str], expected: bool) -> None:
    """All names, or any one with `any_of`, must be granted exactly as they are written."""
    assert expected is needed.met_by(granted)


def test_a_requirement_stays_as_it_is() -> None:
    """What `any_of` made is taken over where a list of names could stand."""
    needed = any_of("read", "write")

    assert needed == requirement(needed, "required_scopes")
