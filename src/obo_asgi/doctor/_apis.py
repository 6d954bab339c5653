"""The APIs that are called: known to the tenant, and there."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from .._http import send
from ..config import DownstreamAPI, default_scope
from ._check import Check, refused, unreachable
from ._credential import ask_as_app
from ._service import Service

_SCOPE_ERRORS: Final = frozenset({50001, 500011, 65005, 650057, 70011})
"""What is wrong with the scopes themselves; another refusal of the app is not about users."""


async def check_scopes_known(service: Service, name: str, api: DownstreamAPI) -> Check:
    """Ask whether the resource that the scopes name exists in the tenant."""
    title = f"api {name}: scopes"
    scopes = " ".join(api.scopes)
    tenant = service.tenant_id
    if tenant is None:
        return Check(title, "skipped", f"well formed: {scopes}")
    error = await ask_as_app(service.asker.endpoint, tenant, default_scope(api.scopes))
    if error is None or not _SCOPE_ERRORS.intersection(error.error_codes):
        return Check(title, "ok", f"well formed, of a resource that is known: {scopes}")
    message, remedy = refused(error)
    return Check(title, "failed", f"{scopes}: {message}", remedy)


async def check_host(service: Service, name: str, api: DownstreamAPI) -> Check:
    """Connect to the API's host; any HTTP status is good."""
    title = f"api {name}: host"
    if api.base_url is None:
        return Check(title, "skipped", "there is no base_url: only tokens are acquired")
    client = api.http_client or service.client()
    where = urlsplit(api.base_url).netloc
    try:
        answer = await send(client, client.build_request("HEAD", api.base_url))
    except Exception as error:
        why, remedy = unreachable(error)
        return Check(title, "failed", f"{where} cannot be reached: {why}", remedy)
    return Check(title, "ok", f"{where} answers (status {answer.status_code})")
