"""What an OpenAPI document says of an API's callers."""

from __future__ import annotations

from typing import Any

import pytest

from obo_asgi import (
    ANY_TENANT,
    AppRegistration,
    ClientSecret,
    OpenAPISecurity,
    ProtectedResource,
    any_of,
)
from obo_asgi.config import requirement

TENANT = "11111111-1111-4111-8111-111111111111"
CLIENT = "22222222-2222-4222-8222-222222222222"
URI = f"api://{CLIENT}"


def registration(**fields: Any) -> AppRegistration:
    return AppRegistration(
        **{
            "tenant_id": TENANT,
            "client_id": CLIENT,
            "client_credential": ClientSecret("secret"),
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("fields", "resource", "full"),
    [
        ({}, None, f"{URI}/read"),
        ({"audiences": [CLIENT, "https://api.example.com"]}, None, "https://api.example.com/read"),
        ({}, "https://api.example.com/mcp", "https://api.example.com/mcp/read"),
    ],
    ids=["client id", "audience", "resource"],
)
def test_scopes_have_the_names_that_clients_ask_for(
    fields: dict[str, Any], resource: str | None, full: str
) -> None:
    """A bare scope gets the API's Application ID URI before it, as the registration knows it."""
    described = None if resource is None else ProtectedResource(resource=resource)
    required = requirement(["read"], "required_scopes")
    security = OpenAPISecurity(registration(**fields), required, described)

    assert [full] == security.required
    assert {full: "read"} == security.flow()["scopes"]


@pytest.mark.parametrize(
    ("fields", "tenant"),
    [
        ({}, TENANT),
        ({"tenant_id": "organizations", "allowed_tenants": ANY_TENANT}, "organizations"),
        ({"allowed_tenants": [TENANT, CLIENT]}, "organizations"),
    ],
    ids=["one", "any", "several"],
)
def test_users_sign_in_where_they_are_known(fields: dict[str, Any], tenant: str) -> None:
    """The pages are the tenant's, or those of all tenants where users of several may call."""
    flow = OpenAPISecurity(registration(**fields)).flow(["write"])
    base = f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0"

    assert (f"{base}/authorize", f"{base}/token") == (flow["authorizationUrl"], flow["tokenUrl"])
    assert {f"{URI}/write": "write"} == flow["scopes"]


def test_operations_say_what_they_demand() -> None:
    """An operation demands what all do and its own besides; public ones nothing."""
    security = OpenAPISecurity(registration(), any_of("read", "all"))
    own: dict[str, Any] = {"security": [{"entra": ["write"]}, {"key": []}]}
    document: dict[str, Any] = {"paths": {"/a": {"get": {}}, "/b": {"put": own}, "/p": {"get": {}}}}
    security.secure(document, public={"/p"}, optional=True)
    a, b = document["paths"]["/a"]["get"], document["paths"]["/b"]["put"]

    assert [{"entra": [f"{URI}/read"]}, {"entra": [f"{URI}/all"]}, {}] == a["security"]
    assert {"entra": [f"{URI}/read", f"{URI}/write"], "key": []} == b["security"][0]
    assert {"401", "403"} == a["responses"].keys()
    assert {} == document["paths"]["/p"]["get"]
    scheme = document["components"]["securitySchemes"]["entra"]
    assert {"read", "all", "write"} == set(scheme["flows"]["authorizationCode"]["scopes"].values())
