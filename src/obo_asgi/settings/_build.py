"""From checked sections to the values of `config`, whose own checks have the last word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import SecretStr

from ..cache import SharedCache, TokenCache
from ..config import (
    ANY_TENANT,
    AppRegistration,
    DownstreamAPI,
    Requirement,
    check_header,
    check_scopes,
    requirement,
)
from ..credentials import ClientCredential, WorkloadIdentity
from ..errors import ConfigurationError
from ._credentials import build_credential
from ._models import API, AzureAd, TokenCacheSection
from ._names import DOWNSTREAM
from ._problems import Problems

__all__ = ["build_cache", "build_downstream", "build_registration", "build_requirement"]

_GUID: Final = "00000000-0000-4000-8000-000000000000"
_PROBE: Final[dict[str, Any]] = {
    "tenant_id": _GUID,
    "client_id": _GUID,
    "client_credential": WorkloadIdentity(),
}
_TOGETHER: Final[tuple[tuple[str, ...], ...]] = (
    ("tenant_id", "allowed_tenants"),
    ("client_id",),
    ("audiences",),
    ("authority", "issuer"),
    ("consent_redirect_uri",),
)
"""What is checked together, apart from the rest, so that no mistake hides another."""


def build_registration(section: AzureAd, problems: Problems) -> AppRegistration | None:
    """Return the app registration, or note what is wrong with it and return None."""
    credentials = _credentials(section, problems)
    fields = _fields(section, problems)
    wrong = False
    for names in _TOGETHER:
        given = {name: fields[name] for name in names if name in fields}
        wrong = _registration({**_PROBE, **given}, section, problems) is None or wrong
    if wrong or not credentials:
        return None
    return _registration({**fields, "client_credential": credentials}, section, problems)


def _registration(
    fields: dict[str, Any], section: AzureAd, problems: Problems
) -> AppRegistration | None:
    try:
        return AppRegistration(**fields)
    except ConfigurationError as error:
        problems.add_error(("AzureAd",), error, audience=section.audience is not None)
    return None


def _fields(section: AzureAd, problems: Problems) -> dict[str, Any]:
    if section.audience is not None and section.audiences is not None:
        problems.add(("AzureAd", "Audience"), "and Audiences say two things: keep one of them")
    audiences = section.audiences if section.audience is None else [section.audience]
    client_id = section.client_id.lower()
    if audiences and [uri.lower() for uri in audiences] == [f"api://{client_id}"]:
        audiences = [client_id, f"api://{client_id}", *audiences]  # v2 tokens name the client id
    allowed: Any = section.allowed_tenants
    fields = {
        "tenant_id": section.tenant_id,
        "client_id": section.client_id,
        "audiences": audiences,
        "allowed_tenants": ANY_TENANT if allowed == ["*"] else allowed,
        "authority": section.instance,
        "issuer": section.issuer,
        "consent_redirect_uri": section.consent_redirect_uri,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _credentials(section: AzureAd, problems: Problems) -> list[ClientCredential]:
    path = ("AzureAd", "ClientCredentials")
    ways = {
        "ClientCredentials": section.client_credentials,
        "ClientSecret": section.client_secret,
        "ClientSecretPath": section.client_secret_path,
    }
    said = [key for key, value in ways.items() if value is not None]
    if len(said) > 1:
        problems.add(
            ("AzureAd", said[1]),
            f"and {said[0]} both say how the API proves who it is: keep {said[0]}",
        )
        return []
    if not said:
        problems.add(
            path,
            "is missing: name at least one credential, as in "
            '[{"SourceType": "ClientSecret", "ClientSecretPath": "…"}]; or set AZURE_CLIENT_SECRET',
        )
        return []
    if section.client_credentials is None:
        return _short(section, said[0], problems)
    if not section.client_credentials:
        problems.add(path, "is empty: name at least one credential")
    found = [
        build_credential(tree, (*path, index), problems)
        for index, tree in enumerate(section.client_credentials)
    ]
    return [] if None in found else [item for item in found if item is not None]


def _short(section: AzureAd, key: str, problems: Problems) -> list[ClientCredential]:
    """Return the credential of a secret that stands in the section itself."""
    value = section.client_secret if key == "ClientSecret" else section.client_secret_path
    tree = {"SourceType": "ClientSecret", key: value}
    found = build_credential(tree, ("AzureAd",), problems)
    return [] if found is None else [found]


def build_requirement(
    names: Sequence[str] | None, argument: str, problems: Problems
) -> Requirement | None:
    """Return the scopes or roles that are required, or note what is wrong with them."""
    try:
        return None if names is None else requirement(names, argument)
    except ConfigurationError as error:
        problems.add_error(("AzureAd",), error)
    return None


def build_downstream(apis: Mapping[str, API], problems: Problems) -> dict[str, DownstreamAPI]:
    """Return the downstream APIs by name, without those that have something wrong."""
    built = {name: _api(name, section, problems) for name, section in apis.items()}
    return {name: api for name, api in built.items() if api is not None}


def _api(name: str, section: API, problems: Problems) -> DownstreamAPI | None:
    path = (DOWNSTREAM, name)
    headers = {key: value.get_secret_value() for key, value in (section.headers or {}).items()}
    fields: dict[str, Any] = {
        "base_url": section.base_url,
        "serve_app_callers": section.serve_app_callers,
        "timeout": section.timeout,
    }
    fields = {key: value for key, value in fields.items() if value is not None}
    wrong = False
    for header, value in headers.items():
        try:
            check_header(header, value)
        except ConfigurationError as error:
            wrong = True
            problems.add((*path, "Headers", header), f": {error}")
    try:
        check_scopes(section.scopes)
    except ConfigurationError as error:
        wrong = True
        problems.add_error((*path, "Scopes"), error)
    for key, value in fields.items():
        try:
            DownstreamAPI(scopes=["probe"], **{key: value})
        except ConfigurationError as error:
            wrong = True
            problems.add_error(path, error)
    return None if wrong else DownstreamAPI(scopes=section.scopes, headers=headers, **fields)


def build_cache(section: TokenCacheSection | None, problems: Problems) -> TokenCache | None:
    """Return the cache that a section describes, or note what is wrong with it."""
    if section is None:
        return None
    stores = {"Redis": section.redis, "Sql": section.sql, "Cosmos": section.cosmos}
    said = [key for key, value in stores.items() if value is not None]
    if len(said) > 1:
        problems.add(("TokenCache", said[1]), f"and {said[0]} are two caches: keep one of them")
        return None
    keys, fine = _keys(section, problems)
    if not said:
        unused = [
            key for key, value in (("Prefix", section.prefix), ("Keys", keys)) if value and fine
        ]
        if unused:
            problems.add(
                ("TokenCache", unused[0]), "is for a shared cache: say Redis, Sql or Cosmos too"
            )
            return None
    shared = _shared(section, said[0], problems) if said else None
    if not fine or (said and shared is None):
        return None
    return _token_cache(section, shared, keys, problems)


def _token_cache(
    section: TokenCacheSection,
    shared: SharedCache | None,
    keys: list[str] | None,
    problems: Problems,
) -> TokenCache | None:
    limit: dict[str, Any] = (
        {} if section.max_entries is None else {"max_entries": section.max_entries}
    )
    try:
        return TokenCache(shared=shared, keys=keys, **limit)
    except ConfigurationError as error:
        message = str(error)
    if message.startswith("max_entries"):
        problems.add(("TokenCache", "MaxEntries"), message.removeprefix("max_entries "))
    else:
        key = "KeysFile" if section.keys_file is not None else "Keys"
        problems.add(("TokenCache", key), f": {message}")
    return None


def _keys(section: TokenCacheSection, problems: Problems) -> tuple[list[str] | None, bool]:
    """Return the keys, and whether nothing is wrong with where they come from."""
    if section.keys is not None and section.keys_file is not None:
        problems.add(("TokenCache", "KeysFile"), "and Keys say two things: keep one of them")
        return None, False
    if section.keys is not None:
        return [key.get_secret_value() for key in section.keys], True
    if section.keys_file is None:
        return None, True
    try:
        return FilePath(section.keys_file).read_text(encoding="utf-8-sig").split(), True
    except (OSError, UnicodeDecodeError) as error:
        problem = type(error).__name__
    problems.add(("TokenCache", "KeysFile"), f": the file cannot be read ({problem})")
    return None, False


def _shared(section: TokenCacheSection, key: str, problems: Problems) -> SharedCache | None:
    try:
        if section.redis is not None:
            return _redis(section.redis, section.prefix)
        if section.sql is not None:
            return _sql(section)
        return _cosmos(section)
    except ConfigurationError as error:
        words = f": {error}"
    if "prefix must" in words:
        key = "Prefix"
    problems.add(("TokenCache", key), words)
    return None


def _redis(url: SecretStr, prefix: str) -> SharedCache:
    from ..cache.redis import redis_cache

    cache: SharedCache = redis_cache(url.get_secret_value(), prefix=prefix)
    return cache


def _sql(section: TokenCacheSection) -> SharedCache:
    from ..cache.sql import SQLCache

    sql = section.sql
    if sql is None:  # pragma: no cover
        raise AssertionError
    table: dict[str, Any] = {} if sql.table is None else {"table": sql.table}
    cache: SharedCache = SQLCache(
        sql.url.get_secret_value(),
        schema=sql.schema_,
        create_if_not_exists=sql.create_if_not_exists,
        prefix=section.prefix,
        **table,
    )
    return cache


def _cosmos(section: TokenCacheSection) -> SharedCache:
    from ..cache.cosmos import CosmosCache

    cosmos = section.cosmos
    if cosmos is None:  # pragma: no cover
        raise AssertionError
    cache: SharedCache = CosmosCache(
        cosmos.url,
        cosmos.key.get_secret_value(),
        database=cosmos.database,
        container=cosmos.container,
        create_if_not_exists=cosmos.create_if_not_exists,
        prefix=section.prefix,
    )
    return cache
