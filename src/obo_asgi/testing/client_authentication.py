"""How a client app proves who it is: by a secret, or by an assertion that it or another signed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeGuard

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from .aadsts import EntraError
from .certificates import (
    THUMBPRINTS,
    encode_thumbprint,
    has_subject,
    is_current,
    is_issued_under,
    load_chain,
)
from .directory import App
from .world import World

CLIENT_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_SKEW: Final = 300
_NOT_REGISTERED: Final = "The certificate used to sign the client assertion is not registered."


class _Assertion(NamedTuple):
    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def authenticate_client(world: World, client: App, form: Mapping[str, str], tenant: str) -> None:
    """Check the credential of a client app in a request to a tenant's token endpoint.

    Raises:
        EntraError: it is missing or refused.
    """
    secret = form.get("client_secret")
    if client.public:
        if secret is not None or "client_assertion" in form:
            raise EntraError(700025)
        return
    if "client_assertion" in form:
        if form.get("client_assertion_type") != CLIENT_ASSERTION_TYPE:
            text = f"The 'client_assertion_type' must be '{CLIENT_ASSERTION_TYPE}'."
            raise EntraError(7000218, text=text)
        _check_assertion(world, client, form["client_assertion"], tenant)
    elif not secret:
        raise EntraError(7000218)
    elif secret in client.credentials.expired_secrets:
        raise EntraError(7000222)
    elif not client.credentials.accepts_secret(secret):
        raise EntraError(7000215)


def peek_assertion_id(form: Mapping[str, str]) -> str | None:
    """Return the ``jti`` of a request's client assertion, whether it is valid or not."""
    try:
        claims = _parse(form.get("client_assertion", "")).claims
    except EntraError:
        return None
    jti = claims.get("jti")
    return jti if isinstance(jti, str) else None


def _check_assertion(world: World, client: App, text: str, tenant: str) -> None:
    """Check an assertion: of another issuer if its ``iss`` is a URL, else of the client itself."""
    assertion = _parse(text)
    issuer = assertion.claims.get("iss")
    if isinstance(issuer, str) and issuer.startswith("https://"):
        _check_federated(world, client, assertion, issuer)
    else:
        _check_own(world, client, assertion, tenant)


def _parse(text: str) -> _Assertion:
    try:
        header = jwt.get_unverified_header(text)
        return _Assertion(text, header, jwt.decode(text, options={"verify_signature": False}))
    except jwt.InvalidTokenError:
        raise EntraError(50012, text="The client assertion is no JWT.") from None


def _check_own(world: World, client: App, assertion: _Assertion, tenant: str) -> None:
    """Check an assertion that the client signed with its certificate."""
    claims = assertion.claims
    if not client.client_id == claims.get("iss") == claims.get("sub"):
        raise EntraError(700021)
    _verify(assertion, _find_certificate(client, assertion.header).public_key())
    endpoint = f"{world.authority}/{tenant}/oauth2/v2.0/token"
    if claims.get("aud") not in (endpoint, world.issuer(tenant, "2.0")):
        raise EntraError(700023)
    _check_times(claims)
    if not isinstance(claims.get("jti"), str):
        raise EntraError(50012, text="The client assertion has no 'jti'.")


def _check_federated(world: World, client: App, assertion: _Assertion, issuer: str) -> None:
    """Check the token of another issuer that stands in for a signature of the client's."""
    claims = assertion.claims
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    records = client.credentials.federated
    if not records:
        raise EntraError(70021)
    records = [record for record in records if record.issuer == issuer]
    if not records:
        raise _no_record(700211, "issuer", issuer)
    records = [record for record in records if record.subject == claims.get("sub")]
    if not records:
        raise _no_record(700213, "subject", claims.get("sub"))
    if not any(record.audience in audiences for record in records):
        raise _no_record(700212, "audience", audience)
    key = world.issuer_key(issuer, assertion.header.get("kid"))
    if key is None:
        raise EntraError(700027, text="The key of the client assertion was not found.")
    _verify(assertion, key.private_key.public_key())
    _check_times(claims)


def _no_record(number: int, name: str, value: object) -> EntraError:
    text = f"No matching federated identity record found for presented assertion {name} '{value}'."
    return EntraError(number, text=text)


def _find_certificate(client: App, header: Mapping[str, Any]) -> x509.Certificate:
    """Return the certificate that a header names: a registered one, or one of a trusted subject."""
    try:
        chain = load_chain(header.get("x5c"))
    except ValueError:
        raise EntraError(50012, text="The 'x5c' of the client assertion is malformed.") from None
    credentials = client.credentials
    candidates = [*credentials.certificates, *chain[:1]]
    named = [item for item in candidates if _names(header, chain, item)]
    if not named:
        raise EntraError(700027, text=_NOT_REGISTERED)
    certificate = named[0]
    if certificate not in credentials.certificates:
        trusted = [s for s in credentials.subjects if is_issued_under(chain, s.authority)]
        if not trusted:
            raise EntraError(700027, text=_NOT_REGISTERED)
        if not any(has_subject(certificate, subject.name) for subject in trusted):
            raise EntraError(700030)
    if not is_current(certificate):
        raise EntraError(700027, text="The certificate of the client assertion has expired.")
    return certificate


def _names(
    header: Mapping[str, Any], chain: list[x509.Certificate], certificate: x509.Certificate
) -> bool:
    """Tell whether all thumbprints of a header, or else its ``x5c``, are of a certificate."""
    given = {name: str(header[name]).rstrip("=") for name in THUMBPRINTS if name in header}
    if not given:
        return certificate in chain[:1]
    return all(text == encode_thumbprint(certificate, name) for name, text in given.items())


def _verify(assertion: _Assertion, key: object) -> None:
    try:
        if not isinstance(key, RSAPublicKey):
            raise jwt.InvalidKeyError
        jwt.PyJWS().decode(assertion.text, key, algorithms=["PS256", "RS256"])
    except jwt.PyJWTError:
        text = "Client assertion failed signature validation."
        raise EntraError(700027, text=text) from None


def _check_times(claims: Mapping[str, Any]) -> None:
    end = claims.get("exp")
    start = claims.get("nbf", claims.get("iat"))
    if not _is_number(end) or not _is_number(start):
        raise EntraError(50012, text="The client assertion does not say when it is valid.")
    if not (start < end and start - _SKEW <= time.time() < end):
        raise EntraError(700024)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
