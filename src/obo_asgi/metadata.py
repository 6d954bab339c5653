"""OpenID metadata and signing keys: fetched asynchronously, one fetch at a time, kept for long.

Known keys never wait. They are renewed in the background, on demand when an unknown ``kid``
appears (with a cooldown), and stay in use for a bounded time while the sign-in service is down.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec

from ._events import KEYS_FETCHED, KEYS_UNAVAILABLE, emit
from ._flights import Flights
from ._http import FetchFailed, fetch
from ._types import HTTPClient
from ._urls import origin
from .clouds import TENANT
from .config import AppRegistration
from .errors import InvalidTokenError, KeysUnavailableError

logger = logging.getLogger(__name__)

ALGORITHM: Final = "RS256"
"""The one algorithm that Entra signs access tokens with."""

MAX_AGE: Final = 24 * 3600.0
"""Seconds for which keys are used when they cannot be renewed."""
REFRESH_INTERVAL: Final = 3600.0
"""Seconds after which keys are renewed in the background, give or take a tenth."""
COOLDOWN: Final = 300.0
"""Seconds between two fetches for unknown keys, from the start of the first."""
RETRY_AFTER: Final = 10
"""Seconds between two tries when a fetch failed, and what a 503 advises."""

_TIMEOUT = 5.0
_MAX_BYTES = 1024 * 1024
_MIN_RSA_BITS = 2048


class SigningKey:
    """A key of the sign-in service.

    Attributes:
        issuer: the issuer that the key set names for it; None in the v1 key set.
        retired: whether the key set has dropped it since; tokens it signed are refused then.
    """

    __slots__ = ("_algorithm", "_key", "issuer", "retired")

    def __init__(self, jwk: jwt.PyJWK, issuer: str | None) -> None:
        self._algorithm = jwk.Algorithm
        self._key = jwk.key
        self.issuer = issuer
        self.retired = False

    def same_as(self, other: SigningKey) -> bool:
        """Tell whether the other one is this key, published again."""
        return self._key.public_numbers() == other._key.public_numbers() and (
            self.issuer == other.issuer
        )

    def verify(self, signing_input: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's, by the one algorithm that is pinned."""
        return bool(self._algorithm.verify(signing_input, self._key, signature))

    def may_sign_for(self, issuer: str, tenant_id: str) -> bool:
        """Tell whether the key set lets this key sign for an issuer (Entra's per-key issuer)."""
        return self.issuer is None or self.issuer.replace(TENANT, tenant_id) == issuer


@dataclass(frozen=True, slots=True)
class _Snapshot:
    document: Mapping[str, Any]
    keys: Mapping[str, SigningKey]


class Metadata:
    """The OpenID metadata document of one version and tenant, with the keys that it points to.

    Args:
        registration: whose authority and tenant it is.
        version: "1.0" or "2.0".
        client: returns the HTTP client of the running loop.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        registration: AppRegistration,
        version: str,
        client: Callable[[], HTTPClient],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registration = registration
        self._version = version
        self._client = client
        self._clock = clock
        self._flights: Flights[None] = Flights()
        self._held: _Snapshot | None = None
        self._fetched_at = self._refresh_at = self._retry_at = self._asked_at = float("-inf")
        self._asked_in_vain = False

    @property
    def url(self) -> str:
        """Where the document is."""
        middle = "/v2.0" if self._version == "2.0" else ""
        registration = self._registration
        return (
            f"{registration.authority}/{registration.metadata_tenant}{middle}"
            "/.well-known/openid-configuration"
        )

    async def document(self, tenant_id: str) -> Mapping[str, Any]:
        """Return the document, as it reads for one tenant.

        Raises:
            KeysUnavailableError: there is none, and it cannot be fetched now.
        """
        held = await self._current()
        shared = f"{self._registration.authority}/{self._registration.metadata_tenant}/"
        own = f"{self._registration.authority}/{tenant_id}/"
        return {
            name: value.replace(shared, own, 1).replace(TENANT, tenant_id)
            if isinstance(value, str)
            else value
            for name, value in held.document.items()
        }

    async def signing_key(self, kid: str) -> SigningKey:
        """Return the key with this id.

        Raises:
            InvalidTokenError: the sign-in service publishes no such key.
            KeysUnavailableError: it cannot be asked now.
        """
        held = await self._current()
        key = held.keys.get(kid)
        if key is None:
            await self._ask_for_unknown()
            held = await self._current()
            key = held.keys.get(kid)
        if key is not None:
            return key
        if self._asked_in_vain:
            raise KeysUnavailableError(
                "the signing keys could not be fetched for an unknown key id",
                retry_after=RETRY_AFTER,
            )
        raise InvalidTokenError("key", "no published key has the token's key id", claim="kid")

    async def warm_up(self) -> None:
        """Fetch what is not there, or is due.

        Raises:
            KeysUnavailableError: it cannot be fetched now.
        """
        await self._current()

    @property
    def age(self) -> float | None:
        """How many seconds ago the keys were fetched; None if they never were."""
        return None if self._held is None else self._clock() - self._fetched_at

    async def aclose(self) -> None:
        """End the fetches of the running loop."""
        await self._flights.aclose()

    async def _current(self) -> _Snapshot:
        """Return what is held while it is young enough, renewing it in the background when due."""
        now = self._clock()
        held = self._held
        if held is not None and now - self._fetched_at < MAX_AGE:
            if now >= self._refresh_at:
                self._refresh_at = now + RETRY_AFTER
                self._flights.start("all", self._refresh)
            return held
        if now >= self._retry_at or self._flights.get("all") is not None:
            await self._flights.join("all", self._refresh)
        held = self._held
        if held is None or self._clock() - self._fetched_at >= MAX_AGE:
            raise KeysUnavailableError(
                "the signing keys cannot be fetched from the sign-in service",
                retry_after=RETRY_AFTER,
            )
        return held

    async def _ask_for_unknown(self) -> None:
        """Fetch the key set once for all unknown ids, at most once in a cooldown."""
        if self._flights.get("keys") is None:
            now = self._clock()
            if now - self._asked_at < COOLDOWN:
                return
            self._asked_at = now
        await self._flights.join("keys", self._refresh_keys)

    async def _refresh(self) -> None:
        """Fetch the document and the keys; on failure keep what is held."""
        try:
            document = self._checked(await self._get(self.url))
            keys = self._parse_keys(await self._get(document["jwks_uri"]))
        except FetchFailed as error:
            self._retry_at = self._clock() + RETRY_AFTER
            self._log_failure("OpenID metadata of version %s: %s", error)
            return
        self._adopt(_Snapshot(document, keys))

    async def _refresh_keys(self) -> None:
        held = self._held
        if held is None:
            return
        try:
            keys = self._parse_keys(await self._get(held.document["jwks_uri"]))
        except FetchFailed as error:
            self._asked_in_vain = True
            self._log_failure("signing keys of version %s: %s", error)
            return
        self._adopt(_Snapshot(held.document, keys))

    def _adopt(self, new: _Snapshot) -> None:
        keys = dict(new.keys)
        for kid, key in (self._held.keys if self._held else {}).items():
            if kid in keys and key.same_as(keys[kid]):
                keys[kid] = key
            else:
                key.retired = True
        self._held = _Snapshot(new.document, keys)
        self._fetched_at = self._clock()
        self._refresh_at = self._fetched_at + REFRESH_INTERVAL * random.uniform(0.9, 1.1)  # noqa: S311
        self._asked_in_vain = False
        emit(
            logger,
            logging.DEBUG,
            KEYS_FETCHED,
            "%d signing keys of version %s",
            len(keys),
            self._version,
            version=self._version,
        )

    def _log_failure(self, message: str, error: FetchFailed) -> None:
        emit(
            logger,
            logging.WARNING,
            KEYS_UNAVAILABLE,
            message,
            self._version,
            error,
            version=self._version,
            error=str(error),
        )

    async def _get(self, url: str) -> dict[str, Any]:
        client = self._client()
        request = client.build_request("GET", url, headers={"Accept": "application/json"})
        answer = await fetch(client, request, seconds=_TIMEOUT, limit=_MAX_BYTES)
        if answer.status_code != 200:
            raise FetchFailed(f"answered with status {answer.status_code}")
        try:
            value = msgspec.json.decode(answer.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise FetchFailed("is not a JSON object")
        return value

    def _checked(self, document: dict[str, Any]) -> dict[str, Any]:
        """Refuse a document that names another issuer or sends us to another host."""
        registration = self._registration
        tenant = TENANT if registration.is_multi_tenant else registration.tenant_id
        issuers = registration.issuers
        issuer = issuers.v2 if self._version == "2.0" else issuers.v1
        if issuer is None or document.get("issuer") != issuer.replace(TENANT, tenant):
            raise FetchFailed("names an issuer that is not the configured tenant's")
        for name in ("jwks_uri", "token_endpoint", "authorization_endpoint"):
            url = document.get(name)
            try:
                pinned = isinstance(url, str) and origin(url) == origin(registration.authority)
            except ValueError:
                pinned = False
            if not pinned:
                raise FetchFailed(f"names a {name} outside the configured authority")
        return document

    def _parse_keys(self, document: dict[str, Any]) -> dict[str, SigningKey]:
        """Return the usable keys by id; other keys in the set are none of our business."""
        entries = document.get("keys")
        keys: dict[str, SigningKey] = {}
        for entry in entries if isinstance(entries, list) else []:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            if isinstance(kid, str) and kid not in keys and (key := _signing_key(entry)):
                keys[kid] = key
        if not keys:
            raise FetchFailed("holds no usable key")
        return keys


def _signing_key(entry: dict[str, Any]) -> SigningKey | None:
    issuer = entry.get("issuer")
    operations = entry.get("key_ops", ["verify"])
    if (
        entry.get("kty") != "RSA"
        or entry.get("use", "sig") != "sig"
        or entry.get("alg", ALGORITHM) != ALGORITHM
        or not isinstance(operations, list)
        or "verify" not in operations
        or not (issuer is None or isinstance(issuer, str))
    ):
        return None
    try:
        jwk = jwt.PyJWK({"kty": "RSA", "n": entry["n"], "e": entry["e"]}, ALGORITHM)
    except (jwt.PyJWTError, KeyError, TypeError, ValueError):
        return None
    if jwk.key.key_size < _MIN_RSA_BITS:
        return None
    return SigningKey(jwk, issuer)
