"""The client credentials: whether the sign-in service accepts them, and when they end."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from .._trace import new_id
from ..errors import ConfigurationError, TokenAcquisitionError
from ..token_endpoint import TokenEndpoint
from ._check import Check, Outcome, bounded, refused
from ._service import Asker, Service

_CERTIFICATE_DAYS: Final = 30
_DAY: Final = 86400


async def check_credentials(service: Service) -> list[Check]:
    """Ask for a token of the app itself with each credential.

    The first that is usable is the one in use: where it is accepted, what is wrong with the others
    is a warning.
    """
    tenant = service.tenant_id
    if tenant is None:
        message = "a registration for many tenants names no tenant to ask in"
        remedy = "pass a caller's token with --token: its tenant is asked"
        return [Check("credential", "skipped", message, remedy)]
    found = []
    for number, asker in enumerate(service.by_credential, start=1):
        name = _name("credential", number, service)
        ask = partial(_check_credential, name, service, asker, tenant)
        found.append(await bounded(name, ask))
    in_use = next((check.outcome for check in found if check.outcome != "warning"), "failed")
    wrong: Outcome = "warning" if in_use == "ok" else "failed"
    return [item if item.outcome == "ok" else replace(item, outcome=wrong) for item in found]


async def _check_credential(name: str, service: Service, asker: Asker, tenant: str) -> Check:
    """Ask with one credential; a warning is one that cannot be used, and was not sent."""
    try:
        await asker.endpoint.warm_up(tenant, new_id())
    except TokenAcquisitionError as error:
        remedy = "put right what it comes from: the file, the variable or the service"
        return Check(name, "warning", f"it cannot be used: {error.hint}", remedy)
    scopes = (f"{service.registration.client_id}/.default",)
    refusal = await ask_as_app(asker.endpoint, tenant, scopes)
    if refusal is None:
        return Check(name, "ok", "the sign-in service accepts the client credential")
    message, remedy = refused(refusal)
    return Check(name, "failed", message, remedy)


async def ask_as_app(
    endpoint: TokenEndpoint, tenant: str, scopes: tuple[str, ...]
) -> TokenAcquisitionError | None:
    """Ask for a token of the app itself; return the refusal, if it is one."""
    try:
        await endpoint.client_credentials(tenant, scopes, claims=None, correlation_id=new_id())
    except TokenAcquisitionError as error:
        return error
    return None


async def check_certificates(service: Service) -> list[Check]:
    """Return when each certificate among the credentials ends; one of several may have ended."""
    checks: list[Check] = []
    ended: Outcome = "failed" if len(service.by_credential) == 1 else "warning"
    for number, asker in enumerate(service.by_credential, start=1):
        with suppress(ConfigurationError):  # which the check of the credential reports
            await asker.authenticator.check()
        ends_at = asker.authenticator.readiness().expires_at
        if ends_at is not None:
            name = _name("certificate", number, service)
            checks.append(_certificate(name, ends_at, service.clock(), ended))
    return checks


def _certificate(name: str, ends_at: float, now: float, ended: Outcome) -> Check:
    day = time.strftime("%Y-%m-%d", time.gmtime(ends_at))
    days = int((ends_at - now) // _DAY)
    remedy = "upload a new certificate to the app registration, and put it in place"
    if ends_at <= now:
        return Check(name, ended, f"the certificate ended on {day}", remedy)
    if days < _CERTIFICATE_DAYS:
        message = f"the certificate ends on {day}, in {days} days"
        return Check(name, "warning", message, remedy)
    return Check(name, "ok", f"the certificate ends on {day}")


def _name(what: str, number: int, service: Service) -> str:
    return f"{what} {number}" if len(service.by_credential) > 1 else what
