"""The sign-in service: reachable, of the right tenant, and at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

import msgspec

from .._http import send
from .._types import HTTPClient, is_guid
from ..client_assertion import ClientAuthenticator
from ..clouds import TENANT
from ..config import AppRegistration
from ..errors import KeysUnavailableError
from ..metadata import Metadata
from ..token_endpoint import TokenEndpoint
from ._check import Check, unreachable

_CLOCK_WARNING: Final = 30
_CLOCK_FAILURE: Final = 300


class Asker(NamedTuple):
    """The token endpoint, with what the API authenticates to it with."""

    authenticator: ClientAuthenticator
    endpoint: TokenEndpoint


@dataclass(slots=True)
class Service:
    """The sign-in service as this API sees it."""

    registration: AppRegistration
    client: Callable[[], HTTPClient]
    metadata: Mapping[str, Metadata]
    asker: Asker
    by_credential: list[Asker]
    """Askers with one of the credentials each, in their order."""
    clock: Callable[[], float]
    skew: float | None = field(default=None, init=False)
    """Seconds by which our clock is ahead, once an answer has said what time it is there."""
    callers_tenant: str | None = field(default=None, init=False)
    """The tenant of a token that the API accepts."""

    @property
    def tenant_id(self) -> str | None:
        """A tenant to ask for tokens of the app itself."""
        registration = self.registration
        allowed = registration.allowed_tenants
        candidates = (registration.tenant_id, *(allowed if isinstance(allowed, tuple) else ()))
        return next((tenant for tenant in candidates if is_guid(tenant)), self.callers_tenant)


@asynccontextmanager
async def service_of(
    registration: AppRegistration, client: Callable[[], HTTPClient], clock: Callable[[], float]
) -> AsyncIterator[Service]:
    """Make the service ready to be asked, and end at the close what is under way."""
    metadata = {version: Metadata(registration, version, client) for version in ("1.0", "2.0")}
    async with AsyncExitStack() as stack:
        for item in metadata.values():
            stack.push_async_callback(item.aclose)

        def asker(registration: AppRegistration) -> Asker:
            authenticator = ClientAuthenticator(registration, client)
            document = metadata["2.0"].document
            endpoint = TokenEndpoint(registration, client, document, authenticator)
            stack.push_async_callback(authenticator.aclose)
            stack.push_async_callback(endpoint.aclose)
            return Asker(authenticator, endpoint)

        own, credentials = asker(registration), registration.credentials
        by_credential = [own]
        if len(credentials) > 1:
            by_credential = [
                asker(replace(registration, client_credential=item)) for item in credentials
            ]
        yield Service(registration, client, metadata, own, by_credential, clock)


async def check_metadata(service: Service) -> Check:
    """Fetch the metadata, compare its issuer, and fetch the keys."""
    registration, metadata = service.registration, service.metadata["2.0"]
    client = service.client()
    try:
        answer = await send(client, client.build_request("GET", metadata.url))
    except Exception as error:
        why, remedy = unreachable(error)
        message = f"{registration.authority} cannot be reached: {why}"
        return Check("metadata", "failed", message, remedy)
    _read_clock(service, answer.headers.get("date"))
    document = _json_object(answer.content)
    if answer.status_code != 200:
        message = f"the metadata of tenant {registration.metadata_tenant} is refused"
        if 90002 in (document.get("error_codes") or ()):
            message = f"there is no tenant {registration.metadata_tenant} at this authority"
            remedy = "check tenant_id, and authority: each cloud has its own"
            return Check("metadata", "failed", f"{message} (AADSTS90002)", remedy)
        message += f" with status {answer.status_code}"
        return Check("metadata", "failed", message, "check tenant_id and authority")
    tenant = TENANT if registration.is_multi_tenant else registration.tenant_id
    issuer = registration.issuers.v2.replace(TENANT, tenant)
    if document.get("issuer") != issuer:
        message = "the metadata names another issuer than this registration expects"
        remedy = f"check authority, tenant_id and issuer; expected is {issuer}"
        return Check("metadata", "failed", message, remedy)
    try:
        await metadata.document(registration.tenant_id)
    except KeysUnavailableError:
        message = "the metadata is there, but its signing keys cannot be had or used"
        remedy = "check that jwks_uri can be reached, and that no proxy changes the answers"
        return Check("metadata", "failed", message, remedy)
    return Check("metadata", "ok", f"metadata and keys are there, of issuer {issuer}")


def check_clock(service: Service) -> Check:
    """Compare our clock with what the sign-in service said."""
    skew = service.skew
    if skew is None:
        return Check("clock", "skipped", "no answer of the sign-in service said what time it is")
    amount = f"{abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} the sign-in service"
    remedy = "set this machine's clock: start its NTP service"
    if abs(skew) >= _CLOCK_FAILURE:
        return Check("clock", "failed", f"this machine's clock is {amount}", remedy)
    if abs(skew) >= _CLOCK_WARNING:
        return Check("clock", "warning", f"this machine's clock is {amount}", remedy)
    return Check("clock", "ok", "this machine's clock agrees with the sign-in service")


def _read_clock(service: Service, date: str | None) -> None:
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return
    service.skew = service.clock() - theirs


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}
