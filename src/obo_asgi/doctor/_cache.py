"""The cache that processes share: it answers, keeps what it is given, and forgets nothing early."""

from __future__ import annotations

import secrets
import time
from typing import Final

from ..cache import TokenCache
from ..cache._seal import Sealer, Unreadable
from ..errors import ConfigurationError
from ._check import Check
from ._service import Service

_SLOW: Final = 0.05
_TTL: Final = 30
_UNREACHABLE: Final = ("Connection", "Timeout", "ServiceRequest", "ServiceResponse")
"""What the names of errors hold; the last two are those of Azure's SDK."""


async def check_round_trip(service: Service, cache: TokenCache) -> Check:
    """Put a sealed value into the cache, take it out, and open it."""
    shared, name = cache.shared, f"obo:1:doctor:{secrets.token_hex(8)}"
    assert shared is not None  # noqa: S101
    value, sealer = secrets.token_bytes(256), Sealer([secrets.token_bytes(32)])
    sealed = sealer.seal(name, "doctor", value)
    try:
        await cache.open(service.registration.client_id, service.asker.authenticator.key_material)
        started = time.monotonic()
        await shared.set(name, sealed, ttl=_TTL)
        back = await shared.get(name)
        seconds = time.monotonic() - started
        await shared.delete(name)
    except ConfigurationError as error:
        return _misconfigured(str(error))
    except Exception as error:
        return _unusable(error)
    if not _opens(sealer, name, back, value):
        message = "the cache does not give back what was put into it"
        return Check("cache", "failed", message, "use a serializer that keeps text")
    found = f"a sealed value came back in {seconds * 1000:.1f} ms"
    if seconds > _SLOW:
        remedy = "put the cache into the same region and network as the API"
        return Check("cache", "warning", f"{found}, which is slow", remedy)
    if not cache.has_keys:
        message = f"{found}; it is sealed with a key that is derived from the client credential"
        remedy = (
            "for sessions, and rotation without a cold cache, set keys (obo-asgi new-cache-key)"
        )
        return Check("cache", "warning", message, remedy)
    return Check("cache", "ok", found)


def _opens(sealer: Sealer, name: str, text: object, value: bytes) -> bool:
    try:
        return sealer.open(name, "doctor", text) == value
    except Unreadable:
        return False


async def check_eviction(cache: TokenCache) -> Check:
    """Ask a Redis whether it drops keys before their time when it is full."""
    title = "cache: eviction"
    ask = getattr(cache.shared, "maxmemory_policy", None)
    if ask is None:
        return Check(title, "skipped", "only a Redis is asked what it evicts")
    try:
        policy = await ask()
    except Exception as error:
        message = f"the server does not say what it evicts ({type(error).__name__})"
        return Check(title, "skipped", message, "look at maxmemory-policy: it should be noeviction")
    if policy == "noeviction":
        return Check(title, "ok", "Redis drops nothing before its time (noeviction)")
    message = f"Redis drops keys when it is full ({policy}), and with them sessions"
    return Check(title, "warning", message, "set maxmemory-policy to noeviction")


def _misconfigured(message: str) -> Check:
    remedy = "correct the arguments of TokenCache"
    if "create_if_not_exists" in message:  # SQL and Cosmos DB, which name what does not exist
        remedy = "create it beforehand, or set CreateIfNotExists"
    return Check("cache", "failed", message, remedy)


def _unusable(error: Exception) -> Check:
    kind = type(error).__name__
    if isinstance(error, OSError) or any(word in kind for word in _UNREACHABLE):
        remedy = "check the cache's address, that it runs, and the firewall"
        message = f"the cache cannot be reached ({kind})"
    elif any(word in kind for word in ("Auth", "Permission", "Password")):
        message, remedy = f"the cache refuses us ({kind})", "check the user and the password"
    else:
        message = f"the cache answers with an error ({kind})"
        remedy = "check its URL (the database, the path), and what the server logs"
    return Check("cache", "failed", message, remedy)
