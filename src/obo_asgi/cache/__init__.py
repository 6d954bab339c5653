"""Where tokens for downstream APIs are kept: in this process, and in a cache of all processes."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from .._events import CACHE_IN_MEMORY, emit
from .._flights import Flights
from .._lru import LRU
from ..errors import ConfigurationError, OboError
from ..tokens import AccessToken, TokenKey
from ._memcached import uncancelled
from ._memory import MemoryCache
from ._seal import Sealer, check_keys, derive_key, new_cache_key
from ._sessions import SessionRecords
from ._shared import Make, SharedTokens
from ._store import Breaker, SharedCache, Store

__all__ = ["SharedCache", "TokenCache", "new_cache_key"]

logger = logging.getLogger(__name__)

_MAX_SESSIONS = 10_000

Material = Callable[[], Awaitable[bytes | None]]
"""Brings what a key may be derived from: a client secret, or the private key of a certificate."""


class TokenCache:
    """Tokens in the memory of this process, bounded, over a cache that processes share.

    A token in memory costs a dictionary look-up and no I/O. The shared cache holds nothing but
    sealed values (AES-256-GCM) under names that are hashes. It is never waited for longer than a
    quarter of a second, and whatever is wrong with it is a miss.

    Args:
        shared: any aiocache cache, such as `obo_asgi.cache.redis.redis_cache` makes; none if left
            out.
        keys: what seals the values, of 32 bytes each in base64url (`new_cache_key`): the first
            seals, all of them open. If left out, a key is derived from the client secret or the
            certificate of the app registration.
        max_entries: how many tokens are kept in memory; one takes about 2.5 kB.
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: an argument is wrong; no key is shown.
    """

    def __init__(
        self,
        *,
        shared: SharedCache | None = None,
        keys: Iterable[str | bytes] | None = None,
        max_entries: int = 50_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ConfigurationError(f"max_entries must be a whole number above 0: {max_entries!r}")
        if keys is not None and shared is None:
            raise ConfigurationError("keys seal a shared cache: name it with shared=…")
        self._tokens: LRU[TokenKey, AccessToken] = LRU(max_entries)
        self._clock = clock
        self._epoch = 0
        self._sealer = None if keys is None else Sealer(check_keys(keys))
        self._store = None if shared is None else Store(uncancelled(_check_shared(shared)))
        self._given = shared
        self._shared: SharedTokens | None = None
        self._sessions: SessionRecords | None = None
        self._memory: Store | None = None
        self._derived_from: str | None = None
        self._opening: Flights[ConfigurationError | None] = Flights()

    async def open(self, client_id: str, material: Material) -> None:
        """Make ready for the running event loop.

        Args:
            client_id: the app registration whose tokens are kept.
            material: what a key is derived from, if none is given.

        Raises:
            ConfigurationError: there is no key, or the shared cache mangles what it is given or
                lacks its table.
        """
        store = self._store
        if store is None:
            return
        problem = await self._opening.join("open", lambda: self._open(store, client_id, material))
        if problem is not None:
            raise problem

    def get(self, key: TokenKey) -> AccessToken | None:
        """Return the token that is in memory, unless it has ended."""
        token = self._tokens.get(key)
        if token is None:
            return None
        now = self._clock()
        if token.expires_at <= now:
            self._tokens.drop(key)
            return None
        if self._shared is not None and not self._shared.is_current(now):
            return None
        return token

    def put(self, key: TokenKey, token: AccessToken) -> None:
        """Keep a token in memory until it ends."""
        if token.expires_at > self._clock():
            self._tokens.put(key, token)

    def drop(self, key: TokenKey, token: AccessToken | None = None) -> None:
        """Forget a token.

        Args:
            key: which.
            token: an API has refused this one: no process is to have it again.
        """
        self._tokens.drop(key)
        if token is not None and self._shared is not None:
            self._shared.refuse(key, token)

    async def obtain(
        self, key: TokenKey, make: Make, *, held: AccessToken | None = None
    ) -> AccessToken | OboError:
        """Return a token of the shared cache, or what is made, and keep it in memory.

        Args:
            key: whose token.
            make: acquires one; it returns its failure.
            held: the token in memory that is to be renewed.
        """
        if self._shared is None:
            outcome = await make()
        else:
            epoch = self._epoch
            outcome = await self._shared.obtain(key, make, partial(self._recall, key), held=held)
            if epoch != self._epoch:  # somebody was purged meanwhile
                return outcome
        if isinstance(outcome, AccessToken):
            self.put(key, outcome)
        return outcome

    async def purge(self, client_id: str, tenant_id: str, oid: str) -> None:
        """Make the tokens that a user has had so far worthless, in every process.

        Raises:
            CacheUnavailableError: the shared cache does not answer.
        """
        self._forget_all()
        if self._shared is not None:
            await self._shared.purge(client_id, tenant_id, oid)
        if self._sealer is not None or self._sessions is not None:
            await self.sessions.end_all(client_id, tenant_id, oid)

    @property
    def sessions(self) -> SessionRecords:
        """The long-running sessions: in the shared cache, or in memory where there is none.

        Raises:
            ConfigurationError: the shared cache has no keys of its own.
        """
        if self._sessions is None:
            self._sessions = self._shared_sessions() or self._sessions_in_memory()
        return self._sessions

    def _shared_sessions(self) -> SessionRecords | None:
        if self._store is None:
            return None
        if self._sealer is None:
            raise ConfigurationError(
                "sessions outlive a client secret, so a shared cache that holds them needs keys "
                "of its own: TokenCache(shared=…, keys=[key]), with a key that "
                "python -c 'import obo_asgi; print(obo_asgi.new_cache_key())' makes"
            )
        return SessionRecords(self._store, self._sealer, clock=self._clock)

    def _sessions_in_memory(self) -> SessionRecords:
        emit(
            logger,
            logging.WARNING,
            CACHE_IN_MEMORY,
            "sessions are kept in the memory of this process: no other process will find them, "
            "and they end with it; for workers give TokenCache a shared cache",
        )
        self._memory = Store(MemoryCache(_MAX_SESSIONS, clock=self._clock))
        sealer = Sealer([secrets.token_bytes(32)])
        return SessionRecords(self._memory, sealer, clock=self._clock)

    @property
    def shared(self) -> SharedCache | None:
        """The cache that processes share, as it was given."""
        return self._given

    @property
    def has_keys(self) -> bool:
        """Whether the values are sealed with keys that were given, not with a derived one."""
        return self._sealer is not None

    @property
    def counts(self) -> Counter[str]:
        """What has happened with the shared cache: hits, misses, waits, timeouts, …"""
        return Counter() if self._store is None else Counter(self._store.counts)

    @property
    def breaker(self) -> Breaker | None:
        """Whether the shared cache is asked; None where there is none."""
        return None if self._store is None else self._store.breaker

    async def aclose(self) -> None:
        """End what is under way in the running loop, and close the shared cache there."""
        await self._opening.aclose()
        if self._shared is not None:
            await self._shared.aclose()
        if self._memory is not None:
            await self._memory.aclose()

    def __len__(self) -> int:
        return len(self._tokens)

    def _recall(self, key: TokenKey) -> AccessToken | None:
        token = self.get(key)
        return token if token is not None and token.usable(self._clock()) else None

    def _forget_all(self) -> None:
        """Forget what is in memory: what nobody was purged of comes back from the shared cache."""
        self._epoch += 1
        self._tokens.clear()

    async def _open(
        self, store: Store, client_id: str, material: Material
    ) -> ConfigurationError | None:
        try:
            if self._shared is None:
                sealer = self._sealer or Sealer([await self._derive(client_id, material)])
                self._shared = SharedTokens(store, sealer, self._forget_all, clock=self._clock)
            elif self._derived_from not in (None, client_id):
                raise ConfigurationError(
                    "a TokenCache of several app registrations needs keys of its own: "
                    "TokenCache(shared=…, keys=[…])"
                )
            await self._shared.open()
        except ConfigurationError as problem:
            return problem
        return None

    async def _derive(self, client_id: str, material: Material) -> bytes:
        secret = await material()
        if secret is None:
            raise ConfigurationError(
                "a shared cache needs a key, and neither a client secret nor a certificate is "
                "there to derive one from: TokenCache(shared=…, keys=[key]), with a key that "
                "python -c 'import obo_asgi; print(obo_asgi.new_cache_key())' makes"
            )
        self._derived_from = client_id
        return derive_key(secret, context=client_id)


def _check_shared(shared: SharedCache) -> SharedCache:
    missing = [
        name for name in ("get", "set", "add", "delete", "close") if not hasattr(shared, name)
    ]
    if missing:
        raise ConfigurationError(
            f"shared must be an aiocache cache; this has no {', '.join(missing)}: {type(shared)!r}"
        )
    serializer = type(getattr(shared, "serializer", None))
    if any("Pickle" in cls.__name__ for cls in serializer.__mro__):
        raise ConfigurationError(
            "a shared cache that pickles would run whatever code stands in it: "
            "give it aiocache's StringSerializer"
        )
    return shared
