"""Whether this API accepts a token, check by check, in sentences that tell nothing of its user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from .._trace import new_id
from .._types import Secret, is_guid
from ..clouds import TENANT
from ..config import DownstreamAPI, Requirement, requirement
from ..errors import (
    InsufficientScopeError,
    InvalidTokenError,
    KeysUnavailableError,
    TokenAcquisitionError,
)
from ..jws import Compact, parse_compact
from ..metadata import ALGORITHM
from ..tenants import TenantPolicy
from ..verifier import CLOCK_SKEW, Verifier
from ._check import Check, bounded, refused, shown
from ._service import Service

_GRAPH: Final = ("https://graph.microsoft.com", "00000003-0000-0000-c000-000000000000")
_MAX_TIME: Final = 1e12

Names = Sequence[str] | Requirement | None


async def explain_token(
    service: Service, token: str, *, required_scopes: Names, app_roles: Names
) -> list[Check]:
    """Take a token apart, check it as the API would, and end with the API's own verdict."""
    try:
        compact = parse_compact(token)
    except InvalidTokenError as error:
        message = f"this is no access token that an API can verify: {error.reason}"
        remedy = "pass the access token alone, without 'Bearer', and no token of another kind"
        return [Check("token: form", "failed", message, remedy)]
    claims = compact.claims

    async def signature() -> Check:
        return await _signature(service, compact)

    async def verdict() -> Check:
        return await _verdict(service, token, required_scopes, app_roles)

    return [
        _form(compact.header),
        _version(claims),
        await bounded("token: signature", signature),
        _issuer(service, claims),
        _audience(service, claims),
        _times(service, claims),
        _permissions(claims, _requirement(required_scopes), _requirement(app_roles)),
        await bounded("token: verdict", verdict),
    ]


def _form(header: Mapping[str, Any]) -> Check:
    name = "token: form"
    if "nonce" in header:
        message = "the token is for Microsoft Graph, which alone can verify it"
        return Check(name, "failed", message, "let the client ask for a scope of this API")
    if header.get("alg") != ALGORITHM:
        message = f"the algorithm is {shown(header.get('alg'))}, not {ALGORITHM}"
        return Check(name, "failed", message, "take a token that Entra has issued")
    return Check(name, "ok", f"a signed token ({ALGORITHM})")


def _version(claims: Mapping[str, Any]) -> Check:
    version = claims.get("ver")
    if version in ("1.0", "2.0"):
        return Check("token: version", "ok", f"version {version}")
    message = f"ver is {shown(version)}, not 1.0 or 2.0"
    return Check("token: version", "failed", message, "take an access token of Entra ID")


async def _signature(service: Service, compact: Compact) -> Check:
    name, kid = "token: signature", compact.header.get("kid")
    metadata = service.metadata.get(str(compact.claims.get("ver")))
    if metadata is None or not isinstance(kid, str):
        return Check(name, "failed", "the token names no key or version", "take another token")
    try:
        key = await metadata.signing_key(kid)
    except InvalidTokenError:
        message = "the sign-in service publishes no key of the id that the token names"
        remedy = "check that authority and tenant_id are those that issued the token"
        return Check(name, "failed", message, remedy)
    except KeysUnavailableError as error:
        return Check(name, "failed", str(error), "see the check of the metadata")
    if not key.verify(compact.signing_input, compact.signature):
        message = "the signature is not that of the key"
        return Check(name, "failed", message, "the token was changed or cut: copy it whole")
    return Check(name, "ok", "the key is published, and the signature is its own")


def _issuer(service: Service, claims: Mapping[str, Any]) -> Check:
    name, registration = "token: issuer", service.registration
    tid, issuer = claims.get("tid"), claims.get("iss")
    if not isinstance(tid, str) or not is_guid(tid):
        return Check(name, "failed", "tid is missing", "take an access token of Entra ID")
    if not registration.allows_tenant(tid):
        message = f"the token is of tenant {shown(tid)}, which may not call"
        return Check(name, "failed", message, "sign in to an allowed tenant, or allow this one")
    issuers = registration.issuers
    expected = issuers.v1 if claims.get("ver") == "1.0" else issuers.v2
    if expected is None or issuer != expected.replace(TENANT, tid):
        message = f"iss is {shown(issuer)}, which is not the tenant's issuer"
        remedy = "check authority and issuer, and where the client signs its users in"
        return Check(name, "failed", message, remedy)
    return Check(name, "ok", f"issued by {shown(issuer)}")


def _audience(service: Service, claims: Mapping[str, Any]) -> Check:
    name, audience = "token: audience", claims.get("aud")
    audiences = service.registration.audiences or ()
    if audience in audiences:
        return Check(name, "ok", f"for this API ({shown(audience)})")
    ours = ", ".join(audiences)
    if isinstance(audience, str) and audience.rstrip("/") in _GRAPH:
        message = "the token is for Microsoft Graph, not for this API"
        remedy = f"let the client ask for a scope of this API ({ours}), not of Graph"
        return Check(name, "failed", message, remedy)
    message = f"aud is {shown(audience)}, and this API accepts {ours}"
    remedy = (
        "let the client ask for a scope of this API; or, if aud is a name of this app "
        "registration, add it to audiences"
    )
    return Check(name, "failed", message, remedy)


def _times(service: Service, claims: Mapping[str, Any]) -> Check:
    name, now = "token: times", service.clock()
    end = _seconds(claims, "exp")
    if end is None:
        return Check(name, "failed", "exp is missing", "take an access token of Entra ID")
    if end + CLOCK_SKEW <= now:
        message = f"the token ended {_duration(now - end)} ago"
        return Check(name, "failed", message, "get a new one; if it is new, see the clock")
    for start in (_seconds(claims, "nbf"), _seconds(claims, "iat")):
        if start is not None and start - CLOCK_SKEW > now:
            message = f"the token begins in {_duration(start - now)}"
            return Check(name, "failed", message, "set the clock of this machine")
    return Check(name, "ok", f"valid for {_duration(max(end - now, 0))} more")


def _permissions(
    claims: Mapping[str, Any], scopes: Requirement | None, roles: Requirement | None
) -> Check:
    name = "token: permissions"
    scp, granted = claims.get("scp"), claims.get("roles")
    held = tuple(scp.split()) if isinstance(scp, str) else ()
    if not held and (claims.get("idtyp") == "app" or isinstance(granted, list)):
        return _app_permissions(granted if isinstance(granted, list) else [], roles)
    if not held:
        message = "scp is missing: this is not a user's access token"
        remedy = "send the access token, not the ID token, and ask for a scope of this API"
        return Check(name, "failed", message, remedy)
    if scopes is not None and not scopes.met_by(held):
        message = f"the token holds {shown(' '.join(held))}, and {_wanted(scopes)} is required"
        remedy = "let the client ask for that scope, and the user or an administrator consent"
        return Check(name, "failed", message, remedy)
    return Check(name, "ok", f"a user's token with {shown(' '.join(held))}")


def _app_permissions(granted: list[Any], roles: Requirement | None) -> Check:
    name = "token: permissions"
    if roles is None:
        message = "an application calls for itself, and this API serves users alone"
        return Check(name, "failed", message, "name the roles of such callers in app_roles")
    if not roles.met_by([str(role) for role in granted]):
        message = f"the application holds {shown(granted)}, and {_wanted(roles)} is required"
        return Check(name, "failed", message, "assign the app role, and grant admin consent")
    return Check(name, "ok", f"an application with {shown(granted)}")


async def _verdict(service: Service, token: str, scopes: Names, roles: Names) -> Check:
    name, predicate = "token: verdict", service.registration.tenant_predicate
    tenants = None if predicate is None else TenantPolicy(predicate)
    verifier = Verifier(
        service.registration,
        service.metadata,
        tenants=tenants,
        required_scopes=_requirement(scopes),
        app_roles=_requirement(roles),
        clock=service.clock,
    )
    see = "see what failed above"
    try:
        user = await verifier.verify(token)
    except InvalidTokenError as error:
        message = f"this API refuses the token (401): {error.reason}"
        return Check(name, "failed", message, see)
    except InsufficientScopeError as error:
        return Check(name, "failed", f"this API refuses the token (403): {error}", see)
    except KeysUnavailableError as error:
        return Check(name, "failed", f"this API cannot tell now (503): {error}", see)
    finally:
        if tenants is not None:
            await tenants.aclose()
    service.callers_tenant = user.tid
    who = "an application" if user.is_app else "a user"
    return Check(name, "ok", f"this API accepts the token, as that of {who}")


async def check_exchange(service: Service, title: str, api: DownstreamAPI, token: str) -> Check:
    """Exchange the token on behalf of its user, and forget what comes back."""
    claims = parse_compact(token).claims
    if not isinstance(claims.get("scp"), str):
        return Check(title, "skipped", "only a user's token can be exchanged")
    try:
        await service.asker.endpoint.on_behalf_of(
            claims["tid"], Secret(token), tuple(api.scopes), claims=None, correlation_id=new_id()
        )
    except TokenAcquisitionError as error:
        message, remedy = refused(error)
        return Check(title, "failed", message, remedy)
    return Check(title, "ok", f"exchanged for a token with {' '.join(api.scopes)}")


def _requirement(names: Names) -> Requirement | None:
    return None if names is None else requirement(names, "required")


def _wanted(wanted: Requirement) -> str:
    kind: Literal[" or ", " and "] = " or " if wanted.any else " and "
    return kind.join(wanted.names)


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < _MAX_TIME else None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"
