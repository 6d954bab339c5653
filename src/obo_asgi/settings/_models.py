"""The sections and their keys; the types are pydantic's, the rules are those of `config`."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_pascal

__all__ = ["API", "AzureAd", "Cosmos", "Credential", "Section", "Sql", "TokenCacheSection"]


def _strings(value: Any) -> Any:
    """Split text at spaces, as Microsoft.Identity.Web has it; JSON is what a variable can hold."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return value
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return json.loads(text)
    except ValueError:
        pass  # so that the error does not hold the text
    raise ValueError("must be a list of strings; this is not JSON")


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number of seconds")
    return value


Strings = Annotated[list[str], BeforeValidator(_strings)]
Secrets = Annotated[list[SecretStr], BeforeValidator(_strings)]


class Section(BaseModel):
    """A section of a settings file: PascalCase keys, and no others."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_pascal, hide_input_in_errors=True, frozen=True
    )
    spellings: ClassVar[dict[str, str]] = {}
    """Further spellings of keys, in lower case without underscores."""
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Keys of Microsoft.Identity.Web that mean nothing here, in lower case."""
    nested: ClassVar[dict[str, type[Section]]] = {}
    """The sections, or lists of sections, in it."""


class Credential(Section):
    """An item of ``ClientCredentials``; which keys it may have is up to its SourceType."""

    model_config = ConfigDict(extra="allow")
    spellings: ClassVar[dict[str, str]] = {"clientsecretfile": "ClientSecretPath"}
    ignored: ClassVar[frozenset[str]] = frozenset({"id"})

    source_type: str
    client_secret: SecretStr | None = None
    client_secret_path: str | None = None
    certificate_disk_path: str | None = None
    certificate_password: SecretStr | None = None
    base64_encoded_value: SecretStr | None = Field(default=None, alias="Base64EncodedValue")
    send_x5c: bool = Field(default=False, alias="SendX5C")
    signed_assertion_file_disk_path: str | None = None
    managed_identity_client_id: str | None = None
    managed_identity_object_id: str | None = None
    managed_identity_resource_id: str | None = None
    token_exchange_url: str | None = None
    key_vault_url: str | None = None
    key_vault_certificate_name: str | None = None


class AzureAd(Section):
    """The app registration, and what a caller's token must hold."""

    spellings: ClassVar[dict[str, str]] = {"clientsecretfile": "ClientSecretPath"}
    ignored: ClassVar[frozenset[str]] = frozenset(
        {"callbackpath", "domain", "signedoutcallbackpath"}
    )
    nested: ClassVar[dict[str, type[Section]]] = {"ClientCredentials": Credential}

    instance: str = "https://login.microsoftonline.com"
    tenant_id: str
    client_id: str
    audience: str | None = None
    audiences: Strings | None = None
    client_secret: SecretStr | None = None
    client_secret_path: str | None = None
    client_credentials: list[dict[str, Any]] | None = None
    allowed_tenants: Strings | None = None
    required_scopes: Strings | None = None
    app_roles: Strings | None = None
    issuer: str | None = None
    consent_redirect_uri: str | None = None


AZURE_AD_HINTS: Final = {
    "TenantId?": ": the directory (tenant) id from the app registration's overview page, "
    "here or in AZURE_TENANT_ID",
    "ClientId?": ": the application (client) id from the app registration's overview page, "
    "here or in AZURE_CLIENT_ID",
    "Authority": "say Instance (https://login.microsoftonline.com/) and TenantId",
    "Scopes": "say RequiredScopes, all of which a token must hold",
    "ClientCertificates": "say ClientCredentials",
    "TokenDecryptionCertificates": "leave it out, Entra's access tokens are not encrypted",
    "TokenDecryptionCredentials": "leave it out, Entra's access tokens are not encrypted",
    "AllowWebApiToBeAuthorizedByACL": "say AppRoles, one of the roles that let applications in",
    "ClientCapabilities": "leave it out, claims challenges are met anyway",
    "SendX5C": "say it in the item of ClientCredentials that has the certificate",
    "AzureRegion": "leave it out, tokens come from Instance itself",
    "SignUpSignInPolicyId": "Azure AD B2C has no On-Behalf-Of flow",
}


class API(Section):
    """A downstream API."""

    ignored: ClassVar[frozenset[str]] = frozenset()

    base_url: str | None = None
    scopes: Strings
    timeout: Annotated[float, BeforeValidator(_number)] | None = None
    headers: dict[str, SecretStr] | None = None
    serve_app_callers: bool = False


API_HINTS: Final = {
    "Scopes?": ": what the tokens are for, such as ['api://<api id>/.default']",
    "RelativePath": "say it in the call, downstream['…'].get('path')",
    "HttpMethod": "say it in the call, downstream['…'].post('path')",
    "RequestAppToken": "say it in the code, downstream.as_app(), or ServeAppCallers",
}


class Sql(Section):
    """A table of a SQL database."""

    url: SecretStr
    schema_: str | None = Field(default=None, alias="Schema")
    table: str | None = None
    create_if_not_exists: bool = False


class Cosmos(Section):
    """A container of Cosmos DB."""

    url: str
    key: SecretStr
    database: str
    container: str
    create_if_not_exists: bool = False


class TokenCacheSection(Section):
    """Where tokens are kept."""

    nested: ClassVar[dict[str, type[Section]]] = {"Sql": Sql, "Cosmos": Cosmos}

    redis: SecretStr | None = None
    sql: Sql | None = None
    cosmos: Cosmos | None = None
    prefix: str = ""
    keys: Secrets | None = None
    keys_file: str | None = None
    max_entries: int | None = None


CACHE_HINTS: Final = {
    "Key?": ": the account's key; with a credential of azure-identity make the cache in code, "
    "OnBehalfOf.from_settings(…, cache=TokenCache(shared=CosmosCache(…)))",
}
