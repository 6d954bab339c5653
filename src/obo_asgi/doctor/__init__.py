"""What is wrong with a set-up: each check says what it found and what to do about it.

The checks are values, made by asynchronous functions that print nothing; ``obo_asgi.cli`` shows
them. None of them holds a secret, a token or a claim about a person.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .._http import HTTPClients
from ..cache import TokenCache
from ..config import AppRegistration, DownstreamAPI
from ..errors import ConfigurationError
from ..protected_resource import ProtectedResource
from ._apis import check_host, check_scopes_known
from ._cache import check_eviction, check_round_trip
from ._check import Check, Outcome, bounded
from ._credential import check_certificates, check_credentials
from ._service import Service, check_clock, check_metadata, service_of
from ._token import check_exchange, explain_token

__all__ = ["Check", "Outcome", "examine", "failed"]


async def examine(
    arguments: Mapping[str, Any],
    *,
    resource: ProtectedResource | None = None,
    token: str | None = None,
    exchange: bool = False,
    clock: Callable[[], float] = time.time,
) -> list[Check]:
    """Check a set-up from the sign-in service to the caches, and a token against it.

    Args:
        arguments: the arguments of `OnBehalfOf` by name, with ``registration`` among them.
        resource: how the API describes itself to clients, if it does.
        token: an access token, to explain whether this API accepts it.
        exchange: also exchange the token for each API.
        clock: seconds since the epoch.
    """
    registration: AppRegistration = arguments["registration"]
    apis: Mapping[str, DownstreamAPI] = arguments.get("downstream") or {}
    settings = _settings(registration, apis)
    clients = HTTPClients(arguments.get("http_client"))
    network = await bounded("network", partial(_check_network, clients))
    if network.outcome != "ok":
        return [settings, network]
    try:
        async with service_of(registration, clients.get, clock) as service:
            metadata = await bounded("metadata", partial(check_metadata, service))
            explained = []
            if token is not None:
                required = {key: arguments.get(key) for key in ("required_scopes", "app_roles")}
                explained = await explain_token(service, token, **required)
            credentials = [_needs("credential", "the metadata of the sign-in service")]
            if metadata.outcome == "ok":
                credentials = await check_credentials(service)
            accepted = not failed(credentials) and "ok" in {item.outcome for item in credentials}
            checks = [settings, metadata, check_clock(service)]
            checks += await check_certificates(service)
            checks += credentials
            checks += await _apis(service, apis, accepted)
            checks += await _caches(service, arguments.get("cache"))
            checks.append(_resource(registration, resource))
            checks += explained
            if token is not None and exchange:
                checks += await _exchanges(service, apis, token, explained, accepted)
    finally:
        await clients.aclose()
    return checks


def failed(checks: list[Check]) -> bool:
    """Tell whether any check has failed."""
    return any(check.outcome == "failed" for check in checks)


async def _check_network(clients: HTTPClients) -> Check:
    """Open the HTTP client, which the environment may have a proxy and authorities for."""
    try:
        await clients.open()
    except Exception as error:  # httpx's own may quote a proxy's URL, with its password
        message = f"no HTTP client can be made ({type(error).__name__})"
        if isinstance(error, ConfigurationError):
            message = str(error)
        remedy = "check SSL_CERT_FILE, SSL_CERT_DIR and HTTPS_PROXY of this process"
        return Check("network", "failed", message, remedy)
    return Check("network", "ok", "the HTTP client is ready")


def _settings(registration: AppRegistration, apis: Mapping[str, DownstreamAPI]) -> Check:
    names = ", ".join(apis) or "none"
    message = (
        f"tenant {registration.tenant_id}, client {registration.client_id}, APIs to call: {names}"
    )
    return Check("settings", "ok", message)


def _needs(name: str, what: str) -> Check:
    return Check(name, "skipped", f"this needs {what}", "put that right first")


def _resource(registration: AppRegistration, resource: ProtectedResource | None) -> Check:
    if resource is None:
        return Check("resource", "skipped", "the API does not describe itself (RFC 9728)")
    wanted = resource.resource.rstrip("/")
    if wanted in {audience.rstrip("/") for audience in registration.audiences or ()}:
        return Check("resource", "ok", f"the advertised resource {wanted} is an audience")
    return Check(
        "resource",
        "warning",
        f"the advertised resource {wanted} is none of the audiences",
        "make it an Application ID URI of the app registration, and list it in audiences",
    )


async def _apis(service: Service, apis: Mapping[str, DownstreamAPI], accepted: bool) -> list[Check]:
    checks = []
    for name, api in apis.items():
        title = f"api {name}: scopes"
        if accepted or service.tenant_id is None:
            checks.append(await bounded(title, partial(check_scopes_known, service, name, api)))
        else:
            checks.append(_needs(title, "an accepted credential"))
        host = partial(check_host, service, name, api)
        checks.append(await bounded(f"api {name}: host", host))
    return checks


async def _caches(service: Service, cache: TokenCache | None) -> list[Check]:
    if cache is None or cache.shared is None:
        return [Check("cache", "skipped", "there is no shared cache: tokens stay in memory")]
    try:
        round_trip = await bounded("cache", partial(check_round_trip, service, cache))
        checks = [round_trip]
        if round_trip.outcome in ("ok", "warning"):
            checks.append(await bounded("cache: eviction", partial(check_eviction, cache)))
    finally:
        await cache.aclose()
    return checks


async def _exchanges(
    service: Service,
    apis: Mapping[str, DownstreamAPI],
    token: str,
    explained: list[Check],
    accepted: bool,
) -> list[Check]:
    checks = []
    for name, api in apis.items():
        title = f"exchange {name}"
        if failed(explained):
            checks.append(_needs(title, "a token that this API accepts"))
        elif not accepted:
            checks.append(_needs(title, "an accepted credential"))
        else:
            check = partial(check_exchange, service, title, api, token)
            checks.append(await bounded(title, check))
    return checks
