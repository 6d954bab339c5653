"""Whether an app can serve: what is known of the keys, the shared cache and the credential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["CacheReadiness", "CredentialReadiness", "KeysReadiness", "Readiness"]

CacheState: TypeAlias = Literal["none", "closed", "half-open", "open"]
_CACHE_REASONS: dict[CacheState, str] = {
    "half-open": "The shared cache has failed, and is tried again.",
    "open": "The shared cache has failed, and is left alone for some seconds.",
}


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

    state: CacheState
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


def keys_readiness(
    newest: float | None, older: float | None = None, *, max_age: float
) -> KeysReadiness:
    """Return what the ages of the keys mean, in seconds; None for what was not fetched.

    Args:
        newest: of those for the newest version of tokens.
        older: of those for the older one, which are fetched when somebody needs them.
        max_age: until when keys are used that cannot be renewed.
    """
    if newest is None:
        return KeysReadiness(False, "The signing keys have not been fetched yet.")
    age = newest if older is None else max(newest, older)
    if age >= max_age:
        hours = f"{max_age / 3600:.0f} hours"
        reason = f"The signing keys could not be renewed for {hours}, and are used no more."
        return KeysReadiness(False, reason, age, 0.0)
    return KeysReadiness(True, None, age, max_age - age)


def cache_readiness(state: CacheState) -> CacheReadiness:
    """Return what the state of the shared cache means."""
    return CacheReadiness(state, _CACHE_REASONS.get(state))
