"""Challenges (RFC 6750 section 3, Entra's claims challenge): built here, and understood again.

An API behind this library, Microsoft.Identity.Web and Entra's own APIs tell what the user has to
do as parameters of ``WWW-Authenticate: Bearer``, as JSON, or as both. `parse_challenge` reads all
of them, on the side of a client and on that of an API that called another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from ._http import CHALLENGE
from ._www_authenticate import parse_header
from .errors import InteractionRequiredError, clone_error
from .interaction import decode_claims, encode_claims, merge_claims, read_claims

__all__ = [
    "Challenge",
    "bearer_challenge",
    "decode_claims",
    "encode_claims",
    "merge_claims",
    "parse_challenge",
    "raise_for_challenge",
]

# What RFC 6750 lets stand inside a quoted parameter: printable ASCII without '"' and '\'.
_UNSAFE = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
_INTERACTIVE: Final = frozenset(
    {"consent_required", "insufficient_claims", "interaction_required", "login_required"}
)
_MAX_BODY: Final = 64 * 1024
_MAX_TEXT: Final = 4 * 1024
_MAX_SCOPE: Final = 256
_MAX_SCOPES: Final = 32


class _Response(Protocol):
    """What is used of an answer: that of httpx, httpx2 or requests, say."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What an API wants before it serves the request."""

    error: str | None = None
    """The error code, such as "insufficient_claims", "consent_required" or "invalid_token"."""
    error_description: str | None = None
    """A sentence for people."""
    scopes: tuple[str, ...] = ()
    """The scopes that are missing."""
    claims: str | None = None
    """The claims challenge, as JSON: what a new sign-in has to bring."""
    authorization_uri: str | None = None
    """The page of the sign-in service."""
    consent_uri: str | None = None
    """The page on which the user consents for the API that lacks it; a client opens it as it is
    and may add ``state`` and ``login_hint``."""
    resource_metadata: str | None = None
    """Where the API describes itself (RFC 9728)."""

    @property
    def interaction_required(self) -> bool:
        """Whether the user has to do something: consent, sign in again, or step up."""
        return self.error in _INTERACTIVE

    def to_error(self) -> InteractionRequiredError:
        """Return it as the error that this library raises for its like."""
        is_consent = self.error == "consent_required"
        error = InteractionRequiredError(
            "an API demands that the user consents or signs in again",
            error=self.error,
            suberror="consent_required" if is_consent else None,
        )
        error.scopes = self.scopes
        error.claims_challenge = self.claims
        error.authorization_uri = self.authorization_uri
        error.consent_uri = self.consent_uri
        return error


def bearer_challenge(**parameters: str | None) -> str:
    """Build one challenge with every given parameter once; what cannot be quoted becomes ``?``.

    The realm is empty, as Entra's is: a challenge needs at least one parameter.
    """
    given = {"realm": "", **parameters}
    quoted = (
        f'{name}="{_UNSAFE.sub("?", value)}"' for name, value in given.items() if value is not None
    )
    return "Bearer " + ", ".join(quoted)


def parse_challenge(response: _Response) -> Challenge | None:
    """Return the challenge of an answer with status 401 or 403; None if it holds none.

    Of several, the first that the user can meet counts, or else the first.

    Args:
        response: of httpx, httpx2 or requests; a body that has not been read is left alone.
    """
    if response.status_code not in (401, 403):
        return None
    body = _json_body(response)
    found = [
        _from_parameters(challenge.parameters, body)
        for challenge in parse_header(_lines(response.headers))
        if challenge.scheme == "bearer"
    ]
    if not found and _text(body.get("error")) in _INTERACTIVE:
        found = [_from_parameters({}, body)]
    interactive = (challenge for challenge in found if challenge.interaction_required)
    return next(interactive, found[0] if found else None)


def raise_for_challenge(response: _Response) -> None:
    """Raise if an answer says that the user has to consent, sign in again or step up.

    Args:
        response: of a call through a `Downstream`, or of any client.

    Raises:
        InteractionRequiredError: with the scopes, claims and pages that the answer names; the
            middleware answers its own caller with the same challenge.
    """
    extensions = getattr(response, "extensions", None) or {}
    if CHALLENGE in extensions:
        raise clone_error(extensions[CHALLENGE])
    challenge = parse_challenge(response)
    if challenge is not None and challenge.interaction_required:
        raise challenge.to_error()


def _from_parameters(parameters: Mapping[str, str], body: Mapping[str, Any]) -> Challenge:
    """Read the header, and in the body what the header leaves out."""
    scope = parameters.get("consent_scope") or parameters.get("scope")
    scope = scope or parameters.get("scopes", "").replace(",", " ")
    scopes = scope.split() or _texts(body.get("scopes")) or (_text(body.get("scope")) or "").split()
    claims = decode_claims(parameters.get("claims", "")) or read_claims(body.get("claims"))
    consent_uri = (
        _text(parameters.get("consent_uri"))
        or _text(parameters.get("consenturi"))  # Microsoft.Identity.Web's
        or _text(body.get("consent_uri"))
    )
    error = _text(parameters.get("error")) or _text(body.get("error"))
    if error is None and consent_uri:
        error = "insufficient_claims" if claims else "consent_required"
    return Challenge(
        error=error,
        error_description=_text(parameters.get("error_description"))
        or _text(body.get("error_description")),
        scopes=tuple(scope for scope in scopes if len(scope) <= _MAX_SCOPE)[:_MAX_SCOPES],
        claims=claims,
        authorization_uri=_text(parameters.get("authorization_uri")),
        consent_uri=consent_uri,
        resource_metadata=_text(parameters.get("resource_metadata")),
    )


def _lines(headers: Any) -> Iterable[str]:
    name = "WWW-Authenticate"
    if hasattr(headers, "get_list"):
        return [str(line) for line in headers.get_list(name)]
    line = headers.get(name)
    return [line] if isinstance(line, str) else []


def _json_body(response: _Response) -> Mapping[str, Any]:
    if getattr(response, "_content", None) is False:  # requests: `content` would read the stream
        return {}
    try:
        content = response.content  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # httpx: a body that has not been read
        return {}
    if not isinstance(content, bytes) or len(content) > _MAX_BODY:
        return {}
    try:
        value = msgspec.json.decode(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT else None


def _texts(values: object) -> list[str]:
    return [text for text in values if _text(text)] if isinstance(values, list) else []
