"""What the user has to do before a token can be had, in a form that travels: claims and pages."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec

from ._http import CHALLENGE
from .errors import InteractionRequiredError, clone_error

__all__ = [
    "authorize_url",
    "consent_url",
    "decode_claims",
    "encode_claims",
    "find_interactions",
    "merge_claims",
    "merge_interactions",
    "read_claims",
]

MAX_CLAIMS: Final = 8 * 1024
"""The longest claims challenge, in characters, that is passed on; it has to fit into a header."""

_MAX_DEPTH: Final = 16


def encode_claims(claims: str) -> str:
    """Return a claims challenge as the base64 that the header carries."""
    return b64encode(claims.encode()).decode("ascii")


def decode_claims(text: str) -> str | None:
    """Return the claims challenge that a header carries; None if it is none.

    Both alphabets of base64 are read, with and without padding, and JSON as it is, which
    Microsoft.Identity.Web sends.
    """
    if text.startswith("{"):
        return read_claims(text)
    if len(text) > 2 * MAX_CLAIMS:
        return None
    digits = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return read_claims(b64decode(digits + "=" * (-len(digits) % 4), validate=True).decode())
    except ValueError:
        return None


def read_claims(claims: object) -> str | None:
    """Return a claims challenge as it came, if it is a JSON object of a sane size; else None."""
    if not isinstance(claims, str) or len(claims) > MAX_CLAIMS:
        return None
    try:
        value = msgspec.json.decode(claims)
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(value, dict) and _is_shallow(value, _MAX_DEPTH) else None


def _is_shallow(value: object, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth >= 0 and all(_is_shallow(item, depth - 1) for item in inner)


def merge_claims(challenges: Iterable[str]) -> str | None:
    """Return one claims challenge that demands what all of them demand; None if there is none.

    Demands for one claim become the list of its values; of two ``nbf`` the later one holds. What
    would not fit into a header is left out, and the next call demands it.
    """
    distinct = [claims for claims in dict.fromkeys(challenges) if read_claims(claims)]
    if not distinct:
        return None
    merged = distinct[0]
    for challenge in distinct[1:]:
        both = _merge(msgspec.json.decode(merged), msgspec.json.decode(challenge))
        merged = read_claims(msgspec.json.encode(both).decode()) or merged
    return merged


def _merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    result = dict(one)
    for name, value in other.items():
        known = result.get(name)
        if not (isinstance(known, dict) and isinstance(value, dict)):
            result[name] = value if known is None or isinstance(value, dict) else known
        elif _is_demand(known) or _is_demand(value):
            result[name] = _merge_demands(name, known, value)
        else:
            result[name] = _merge(known, value)
    return result


def _is_demand(value: dict[str, Any]) -> bool:
    return not value.keys().isdisjoint({"essential", "value", "values"})


def _merge_demands(name: str, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Merge two demands for one claim (OpenID Connect Core section 5.5.1)."""
    values = list(dict.fromkeys([*_values(one), *_values(other)]))
    result = {**other, **one}
    for known in ("value", "values"):
        result.pop(known, None)
    if one.get("essential") or other.get("essential"):
        result["essential"] = True
    if name == "nbf" and values:
        values = [max(values, key=_seconds)]
    if values:
        result.update({"value": values[0]} if len(values) == 1 else {"values": values})
    return result


def _seconds(value: object) -> int:
    text = str(value)
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _values(demand: dict[str, Any]) -> list[str | float]:
    values = demand.get("values")
    values = values if isinstance(values, list) else []
    return [v for v in [demand.get("value"), *values] if isinstance(v, str | int | float)]


def authorize_url(authority: str, tenant_id: str) -> str:
    """Return the page of the sign-in service on which a tenant's users sign in and consent."""
    return f"{authority}/{tenant_id}/oauth2/v2.0/authorize"


def consent_url(authorize: str, *, client_id: str, redirect_uri: str, scopes: Sequence[str]) -> str:
    """Return the page on which the user lets an app have scopes (RFC 6749 section 4.1.1).

    Args:
        authorize: as `authorize_url` returns it.
        client_id: the app that lacks the consent.
        redirect_uri: where the browser goes then, as registered for that app.
        scopes: what it lacks; of several resources, if need be.
    """
    query = {
        "client_id": client_id,
        "response_type": "code",
        "response_mode": "query",
        "redirect_uri": redirect_uri,
        "scope": " ".join(scopes),
        "prompt": "consent",
    }
    return f"{authorize}?{urlencode(query)}"


def find_interactions(error: BaseException) -> list[InteractionRequiredError]:
    """Return what the user has to do, as far as an error says so, or what it groups or wraps.

    The HTTP client's own error of a call that went through a `Downstream` wraps it too.
    """
    if isinstance(error, BaseExceptionGroup):
        return [found for inner in error.exceptions for found in find_interactions(inner)]
    if isinstance(error, InteractionRequiredError):
        return [error]
    extensions = getattr(getattr(error, "response", None), "extensions", None)
    found = extensions.get(CHALLENGE) if isinstance(extensions, dict) else None
    return [found] if isinstance(found, InteractionRequiredError) else []


def merge_interactions(errors: Sequence[InteractionRequiredError]) -> InteractionRequiredError:
    """Return one error with the scopes and claims of all, so that the user is asked once.

    Consent pages of one app become one page with all scopes; of several apps the first remains,
    and the next call asks for the next.
    """
    merged = clone_error(errors[0])
    merged.scopes = tuple(dict.fromkeys(scope for error in errors for scope in error.scopes))
    merged.claims_challenge = merge_claims(
        error.claims_challenge for error in errors if error.claims_challenge
    )
    merged.error_codes = tuple(
        dict.fromkeys(code for error in errors for code in error.error_codes)
    )
    merged.consent_uri = _merge_consent([e.consent_uri for e in errors if e.consent_uri])
    for error in errors:
        merged.authorization_uri = merged.authorization_uri or error.authorization_uri
        if error.needs_consent:
            merged.error, merged.suberror = error.error, error.suberror
    return merged


def _merge_consent(urls: Sequence[str]) -> str | None:
    if not urls:
        return None
    page, query, first = _take_apart(urls[0])
    scopes = dict.fromkeys(first)
    for url in urls[1:]:
        other_page, other_query, more = _take_apart(url)
        if (other_page, other_query) == (page, query):
            scopes.update(dict.fromkeys(more))
    if list(scopes) == first:
        return urls[0]
    return f"{page}?{urlencode({**query, 'scope': ' '.join(scopes)})}"


def _take_apart(url: str) -> tuple[str, dict[str, str], list[str]]:
    """Return a consent page, its query with the scopes blanked, and the scopes."""
    page, _, text = url.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True))
    scopes = query.get("scope", "").split()
    return page, {**query, "scope": ""}, scopes
