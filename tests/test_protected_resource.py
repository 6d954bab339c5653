"""The API's own description (RFC 9728): its identifier, its URL, and its scopes' full names."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from obo_asgi import ConfigurationError, ProtectedResource
from obo_asgi.testing import FakeEntra

URL = "https://api.example.com"
WELL_KNOWN = "/.well-known/oauth-protected-resource"


@pytest.mark.parametrize(
    ("resource", "what"),
    [
        ("api.example.com", "must be an absolute https URL"),
        ("//api.example.com", "must be an absolute https URL"),
        ("api://api.example.com", "must be an absolute https URL"),
        ("urn:example:api", "must be an absolute https URL"),
        ("https://", "must be an absolute https URL"),
        ("https:///mcp", "must be an absolute https URL"),
        (f"{URL}#part", "must end with its path"),
        (f"{URL}#", "must end with its path"),
        (f"{URL}?q=1", "must end with its path"),
        (f"{URL}?", "must end with its path"),
        ("http://api.example.com", "must use https"),
        ("http://192.168.0.1:8000", "must use https"),
        ("https://user:word@api.example.com", "user name or password"),
        ("https://api.example.com:", "empty port"),
        ("https://api.example.com:x", "not a valid URL"),
        ("https://[::1", "not a valid URL"),
        (f"{URL}/../mcp", "'.' or '..'"),
        (f"{URL}/%2e%2e/mcp", "'.' or '..'"),
        (f"{URL}/mcp\r\nx", "must be a URL such as"),
        ("https://äpi.example.com", "must be a URL such as"),
        (f" {URL}", "must be a URL such as"),
        ("", "must be an absolute https URL"),
        (None, "must be a URL such as"),
        (b"https://api.example.com", "must be a URL such as"),
    ],
    ids=ascii,
)
def test_a_wrong_resource_says_what_to_change(resource: Any, what: str) -> None:
    """What is no https URL of a host and a path is refused with a sentence about ``resource``."""
    with pytest.raises(ConfigurationError) as caught:
        ProtectedResource(resource=resource)

    assert str(caught.value).startswith("resource ")
    assert what in str(caught.value)


@pytest.mark.parametrize("scopes", [[], "read", ["a b"], ["openid"], [7], ["a://a/x", "a://b/x"]])
def test_wrong_scopes_are_refused(scopes: Any) -> None:
    """Scopes are checked like those of a downstream API."""
    with pytest.raises(ConfigurationError):
        ProtectedResource(resource=URL, scopes=scopes)


def test_it_is_frozen() -> None:
    """A resource does not change after it was checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        ProtectedResource(resource=URL).resource = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (URL, f"{URL}{WELL_KNOWN}"),
        (f"{URL}/", f"{URL}{WELL_KNOWN}"),
        (f"{URL}/mcp", f"{URL}{WELL_KNOWN}/mcp"),
        (f"{URL}/mcp/", f"{URL}{WELL_KNOWN}/mcp/"),
        (f"{URL}/v1/mcp", f"{URL}{WELL_KNOWN}/v1/mcp"),
        (f"{URL}:8443/mcp", f"{URL}:8443{WELL_KNOWN}/mcp"),
        ("http://127.0.0.1:8000", f"http://127.0.0.1:8000{WELL_KNOWN}"),
        ("http://[::1]:8000/mcp", f"http://[::1]:8000{WELL_KNOWN}/mcp"),
        ("http://localhost/mcp", f"http://localhost{WELL_KNOWN}/mcp"),
    ],
)
def test_the_well_known_path_is_inserted(resource: str, expected: str) -> None:
    """It goes between host and path (RFC 9728 section 3.1); http will do on this machine."""
    described = ProtectedResource(resource=resource)

    assert expected == described.metadata_url
    assert expected.endswith(described.metadata_path)
    assert described.metadata_path.startswith(WELL_KNOWN)


def test_asgi_has_the_path_decoded() -> None:
    """The URL keeps its escapes, and the path is the one that ASGI servers hand over."""
    described = ProtectedResource(resource=f"{URL}/a%20b")

    assert f"{URL}{WELL_KNOWN}/a%20b" == described.metadata_url
    assert f"{WELL_KNOWN}/a b" == described.metadata_path


@pytest.mark.parametrize("resource", [URL, f"{URL}/", f"{URL}/mcp", f"{URL}/mcp/"])
def test_the_identifier_is_sent_byte_for_byte(resource: str) -> None:
    """With or without a final slash, the resource in the document is the one that was given."""
    document = ProtectedResource(resource=resource).document(FakeEntra().registration())

    assert resource == document["resource"]


def test_many_tenants_have_the_issuer_that_clients_can_look_up() -> None:
    """For users of many tenants the authorization server is the one of organizations."""
    entra = FakeEntra()
    registration = entra.registration(tenant_id="organizations", allowed_tenants=[entra.tenant_id])
    document = ProtectedResource(resource=URL).document(registration)

    assert [f"{entra.authority}/organizations/v2.0"] == document["authorization_servers"]


@pytest.mark.parametrize(
    ("scopes", "names", "expected"),
    [
        (None, ["read"], [f"{URL}/mcp/read"]),
        (None, [f"{URL}/mcp/read", "api://other/x"], [f"{URL}/mcp/read", "api://other/x"]),
        (["api://id/read"], ["read", "write"], ["api://id/read", f"{URL}/mcp/write"]),
        (["api://id/read"], [], []),
    ],
    ids=["bare", "qualified", "known", "none"],
)
def test_scopes_are_qualified_once(
    scopes: list[str] | None, names: list[str], expected: list[str]
) -> None:
    """A bare scope gets its resource, that of the given scopes first; a full one is left."""
    described = ProtectedResource(resource=f"{URL}/mcp", scopes=scopes)

    assert tuple(expected) == described.qualify(names)
