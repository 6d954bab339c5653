"""The sign-in service: reachable, of the right tenant, at the same time, and content with us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from .._http import send
from .._trace import new_id
from .._types import HTTPClient, is_guid
from ..client_assertion import ClientAuthenticator
from ..clouds import TENANT
from ..config import AppRegistration
from ..credentials import ClientCertificate
from ..errors import KeysUnavailableError, TokenAcquisitionError
from ..metadata import Metadata
from ..token_endpoint import TokenEndpoint
from ._check import Check, refused, unreachable

_CLOCK_WARNING: Final = 30
_CLOCK_FAILURE: Final = 300
_CERTIFICATE_DAYS: Final = 30
_DAY: Final = 86400


@dataclass(slots=True)
class Service:
    """The sign-in service as this API sees it."""

    registration: AppRegistration
    client: Callable[[], HTTPClient]
    metadata: Mapping[str, Metadata]
    authenticator: ClientAuthenticator
    endpoint: TokenEndpoint
    clock: Callable[[], float] = time.time
    skew: float | None = field(default=None, init=False)
    """Seconds by which our clock is ahead, once an answer has said what time it is there."""

    @property
    def tenant_id(self) -> str | None:
        """A tenant to ask for tokens of the app itself."""
        registration = self.registration
        allowed = registration.allowed_tenants
        candidates = (registration.tenant_id, *(allowed if isinstance(allowed, tuple) else ()))
        return next((tenant for tenant in candidates if is_guid(tenant)), None)


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


async def check_credential(service: Service) -> Check:
    """Ask for a token of the app itself, as any credential that is accepted may."""
    tenant = service.tenant_id
    if tenant is None:
        message = "a registration for many tenants names no tenant to ask in"
        return Check("credential", "skipped", message, "name a tenant in tenant_id to check it")
    scopes = (f"{service.registration.client_id}/.default",)
    error = await ask_as_app(service, tenant, scopes)
    if error is None:
        return Check("credential", "ok", "the sign-in service accepts the client credential")
    message, remedy = refused(error)
    return Check("credential", "failed", message, remedy)


async def ask_as_app(
    service: Service, tenant: str, scopes: tuple[str, ...]
) -> TokenAcquisitionError | None:
    """Ask for a token of the app itself; return the refusal, if it is one."""
    try:
        await service.endpoint.client_credentials(
            tenant, scopes, claims=None, correlation_id=new_id()
        )
    except TokenAcquisitionError as error:
        return error
    return None


async def check_certificates(service: Service) -> list[Check]:
    """Return when each certificate among the credentials ends."""
    checks = []
    for credential in service.registration.credentials:
        if isinstance(credential, ClientCertificate):
            ends_at = await _end_of(credential)
            if ends_at is not None:
                checks.append(_certificate(ends_at, service.clock()))
    return checks


async def _end_of(credential: ClientCertificate) -> float | None:
    certificate = credential.certificate
    if certificate is None and credential.path is not None:
        try:
            data = await asyncio.to_thread(credential.path.read_bytes)
        except OSError:
            return None  # which the check of the credential reports
        read = credential.parse(data)
        certificate = None if isinstance(read, str) else read
    return None if certificate is None else certificate.ends_at


def _certificate(ends_at: float, now: float) -> Check:
    day = time.strftime("%Y-%m-%d", time.gmtime(ends_at))
    days = int((ends_at - now) // _DAY)
    remedy = "upload a new certificate to the app registration, and put it in place"
    if ends_at <= now:
        return Check("certificate", "failed", f"the certificate ended on {day}", remedy)
    if days < _CERTIFICATE_DAYS:
        message = f"the certificate ends on {day}, in {days} days"
        return Check("certificate", "warning", message, remedy)
    return Check("certificate", "ok", f"the certificate ends on {day}")


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
