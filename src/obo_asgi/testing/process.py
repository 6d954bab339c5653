"""FakeEntra as a process of its own, told by a TOML file who and what exists."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from .._types import is_guid
from .._urls import check_base_url
from ..credentials import ClientSecret
from ..errors import ConfigurationError
from .directory import DEFAULT_TENANT
from .entra import FakeEntra

_TOP: Final = {
    "tenant": str,
    "authority": str,
    "token_lifetime": int,
    "users": list,
    "apis": list,
    "clients": list,
}
_USER: Final = {"name": str, "display_name": str}
_API: Final = {
    "identifier_uri": str,
    "client_id": str,
    "secret": str,
    "scopes": list,
    "roles": list,
    "version": str,
}
_CLIENT: Final = {
    "name": str,
    "client_id": str,
    "secret": str,
    "public": bool,
    "redirect_uris": list,
}


class Configured(NamedTuple):
    """A service that is ready to be served."""

    entra: FakeEntra
    public_url: str | None
    """The origin by which others reach it, if the file names one."""
    apis: list[str]
    clients: list[str]


def configured(path: Path) -> Configured:
    """Return the service that a TOML file describes.

    Raises:
        ConfigurationError: the file cannot be read or makes no sense; the message names the place.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({type(error).__name__})") from None
    except ValueError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    _check(content, _TOP, "the file")
    tenant = content.get("tenant", DEFAULT_TENANT)
    _check_guid(tenant, "tenant")
    url = content.get("authority")
    if url is not None:
        url = check_base_url(url, name="authority")
    users = _tables(content, "users", _USER, "name")
    apis = _tables(content, "apis", _API, "identifier_uri")
    clients = _tables(content, "clients", _CLIENT, "name")
    _check_ids([*apis, *clients])
    entra = (
        FakeEntra(tenant_id=tenant) if url is None else FakeEntra(authority=url, tenant_id=tenant)
    )
    if "token_lifetime" in content:
        if content["token_lifetime"] <= 0:
            raise ConfigurationError("token_lifetime must be a number of seconds above 0")
        entra.token_lifetime = content["token_lifetime"]
    _add_users(entra, users)
    names = [_add_api(entra, api) for api in apis]
    client_names = [_add_client(entra, client) for client in clients]
    return Configured(entra, url, names or ["api"], client_names or ["spa"])


def description(service: Configured, ca_file: str) -> str:
    """Return, as TOML, what the apps around a running service need, secrets included."""
    entra = service.entra
    lines = [
        _line("authority", entra.authority),
        _line("issuer", f"{entra.authority}/{entra.tenant_id}/v2.0"),
        _line("tenant", entra.tenant_id),
        _line("ca_file", ca_file),
    ]
    for kind, names in (("apis", service.apis), ("clients", service.clients)):
        for name in names:
            app = entra.registration(name)
            lines += ["", f"[[{kind}]]", _line("name", name), _line("client_id", app.client_id)]
            secret = app.client_credential
            if isinstance(secret, ClientSecret) and not entra.is_public(name):
                lines.append(_line("secret", secret.reveal()))
    return "\n".join(lines) + "\n"


def _line(name: str, value: str) -> str:
    return f"{name} = {json.dumps(value)}"


def _add_users(entra: FakeEntra, users: list[dict[str, Any]]) -> None:
    if users:
        for name in ("alice", "bob"):
            entra.remove_user(name)
    for user in users:
        entra.add_user(user["name"], display_name=user.get("display_name"))


def _add_api(entra: FakeEntra, api: dict[str, Any]) -> str:
    uri: str = api["identifier_uri"]
    version = api.get("version", "2.0")
    if version not in ("1.0", "2.0"):
        raise ConfigurationError(f"apis: version of {uri} must be '1.0' or '2.0'")
    _check_guid(api.get("client_id"), f"apis: client_id of {uri}")
    entra.add_api(
        uri,
        scopes=_strings(api, "scopes"),
        roles=_strings(api, "roles"),
        version=version,
        client_id=api.get("client_id"),
    )
    if "secret" in api:
        _set_secret(entra, uri, api["secret"])
    return uri


def _add_client(entra: FakeEntra, client: dict[str, Any]) -> str:
    name: str = client["name"]
    _check_guid(client.get("client_id"), f"clients: client_id of {name}")
    entra.add_client(
        name,
        redirect_uris=_strings(client, "redirect_uris"),
        public=client.get("public", True),
        client_id=client.get("client_id"),
    )
    if "secret" in client:
        _set_secret(entra, name, client["secret"])
    return name


def _set_secret(entra: FakeEntra, app: str, secret: str) -> None:
    if not secret.strip() or is_guid(secret):
        raise ConfigurationError(f"the secret of {app} must be a text that is no GUID")
    entra.remove_secrets(app)
    entra.new_secret(app, value=secret.strip())


def _check_ids(tables: list[Any]) -> None:
    ids = [table["client_id"].lower() for table in tables if "client_id" in table]
    if len(set(ids)) != len(ids):
        raise ConfigurationError("two apps have the same client_id")


def _tables(
    content: Mapping[str, Any], name: str, known: Mapping[str, type], required: str
) -> list[dict[str, Any]]:
    tables = content.get(name, [])
    for table in tables:
        if not isinstance(table, dict):
            raise ConfigurationError(f"{name} must be tables: [[{name}]]")
        _check(table, known, f"[[{name}]]")
        if not table.get(required):
            raise ConfigurationError(f"[[{name}]] needs {required}")
    if len({table[required] for table in tables}) != len(tables):
        raise ConfigurationError(f"[[{name}]] says the same {required} twice")
    return list(tables)


def _check(table: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    for key, value in table.items():
        if key not in known:
            raise ConfigurationError(f"{where} knows no {key!r}: {', '.join(known)}")
        if type(value) is not known[key]:
            raise ConfigurationError(f"{where}: {key} must be of type {known[key].__name__}")


def _check_guid(value: str | None, name: str) -> None:
    if value is not None and not is_guid(value):
        raise ConfigurationError(f"{name} must be a GUID")


def _strings(table: Mapping[str, Any], name: str) -> list[str]:
    values = table.get(name, [])
    if not all(isinstance(value, str) for value in values):
        raise ConfigurationError(f"{name} must hold strings")
    return list(values)
