"""Whether an app can serve: what is known of the keys, the shared cache and the credential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CacheReadiness", "CredentialReadiness", "KeysReadiness", "Readiness"]


@dataclass(frozen=True, slots=True)
class KeysReadiness:
    """The sign-in service's keys, which callers are verified with."""

    ready: bool
    reason: str | None = None
    """Why they are not ready, in a sentence."""
    age: float | None = None
    """Seconds since they were fetched, the older ones where there are two sets."""
    expires_in: float | None = None
    """Seconds for which they are used on if they cannot be renewed."""


@dataclass(frozen=True, slots=True)
class CacheReadiness:
    """The cache that processes share; without it the app goes on, so it never says "not ready"."""

    state: Literal["none", "closed", "half-open", "open"]
    """No shared cache; asked; tried again; left alone."""
    reason: str | None = None
    """Why it is not asked, in a sentence."""


@dataclass(frozen=True, slots=True)
class CredentialReadiness:
    """What the app authenticates to Entra with."""

    ready: bool
    reason: str | None = None
    """Why it is not ready, in a sentence."""
    expires_at: float | None = None
    """When its certificate ends, seconds since the epoch; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `OnBehalfOf.readiness` returns; `dataclasses.asdict` makes it ready for JSON."""

    ready: bool
    """Whether callers can be verified and tokens acquired, as far as is known without asking."""
    keys: KeysReadiness
    shared_cache: CacheReadiness
    credential: CredentialReadiness
