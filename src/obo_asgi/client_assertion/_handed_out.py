"""Credentials that somebody hands out: a callable of the developer's, or a managed identity."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from .._events import CREDENTIAL_UNREADABLE, emit
from .._flights import Flights
from .._http import Fetched, FetchFailed, fetch
from .._msal_codec import NeedsIO, build_managed_identity, run
from .._types import HTTPClient, Secret
from .._urls import is_link_local, is_loopback
from ..credentials import ManagedIdentity
from ..errors import InvalidTokenError
from ..jws import parse_compact
from ..readiness import CredentialReadiness
from ._base import PATIENCE, RELOAD_INTERVAL, ClientAuthentication, Unusable, by_assertion
from ._developer_call import DeveloperCall

logger = logging.getLogger(__name__)

_EARLY = 60.0
_MAX_ANSWER = 1024 * 1024
_TIMEOUT = 10.0
_NO_TOKEN = "the managed identity endpoint gave no token: is the identity assigned?"


class _HandedOut(NamedTuple):
    assertion: Secret
    renew_at: float
    ends_at: float


class RenewedLoader(ABC):
    """Holds an assertion that somebody hands out, until shortly before it ends."""

    patience = PATIENCE

    def __init__(self) -> None:
        self._held: Secret | None = None
        self._until = self._end = 0.0
        self._reloaded_at = float("-inf")
        self._version = 0
        self._problem: str | None = None
        self._flights: Flights[Unusable | None] = Flights()

    @abstractmethod
    async def fetch(self) -> _HandedOut:
        """Return a new assertion; raise `Unusable`."""

    async def authenticate(self, audience: str) -> ClientAuthentication:
        if self._held is None or self._until <= time.time():
            problem = await self._flights.join("fetch", self._renew)
            if problem is not None:
                raise Unusable(str(problem), temporary=problem.temporary)
        if self._held is None:
            raise Unusable("there is no assertion")
        return by_assertion(self, self._version, self._held.reveal())

    def readiness(self) -> CredentialReadiness:
        return CredentialReadiness(self._problem is None, self._problem)

    async def reload(self, version: int) -> None:
        now = time.monotonic()
        if version == self._version and now - self._reloaded_at >= RELOAD_INTERVAL:
            self._until, self._reloaded_at = 0.0, now

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _renew(self) -> Unusable | None:
        try:
            new = await self.fetch()
        except Unusable as problem:
            if self._held is not None and time.time() < self._end:
                message = "a client assertion could not be renewed: %s"
                emit(logger, logging.WARNING, CREDENTIAL_UNREADABLE, message, problem)
                self._until = time.time() + RELOAD_INTERVAL
                return None
            self._problem = str(problem)
            return Unusable(self._problem, temporary=problem.temporary)
        self._problem = None
        if self._held is None or self._held.reveal() != new.assertion.reveal():
            self._held = new.assertion
            self._version += 1
        self._until, self._end = new.renew_at, new.ends_at
        return None


class CallableLoader(RenewedLoader):
    def __init__(self, get: Callable[[], Any]) -> None:
        super().__init__()
        self._call = DeveloperCall(get)

    async def fetch(self) -> _HandedOut:
        result = await self._call()
        if isinstance(result, str) and result:
            end = _end_of(result)
            return _HandedOut(Secret(result), end - _EARLY, end)
        failed = isinstance(result, Exception)
        problem = f"failed ({type(result).__name__})" if failed else "returned no assertion (a str)"
        raise Unusable(f"the callable {problem}", temporary=True)


class ManagedIdentityLoader(RenewedLoader):
    def __init__(self, credential: ManagedIdentity, client: Callable[[], HTTPClient]) -> None:
        super().__init__()
        self._credential = credential
        self._client = client

    async def fetch(self) -> _HandedOut:
        if "IDENTITY_SERVER_THUMBPRINT" in os.environ:
            raise Unusable("managed identities of Service Fabric are not supported")
        msal = await asyncio.to_thread(
            build_managed_identity,
            client_id=self._credential.client_id,
            resource_id=self._credential.resource_id,
            object_id=self._credential.object_id,
        )
        answers: list[Fetched] = []
        call = partial(msal.acquire_token_for_client, resource=self._credential.audience)
        for _ in range(3):  # Azure Arc answers with a challenge first
            try:
                outcome = await asyncio.to_thread(run, call, answers)
            except OSError as error:  # often a PermissionError: the process is not in group himds
                raise Unusable(
                    "the managed identity endpoint gave no token: the key file of Azure Arc "
                    f"cannot be read ({type(error).__name__})"
                ) from None
            if not isinstance(outcome, NeedsIO):
                return _managed_token(outcome)
            answers.append(_readable(await self._send(outcome)))
        raise Unusable("the managed identity endpoint gave no token")

    async def _send(self, request: NeedsIO) -> Fetched:
        _check_metadata_url(request.url)
        client = self._client()
        try:
            return await fetch(
                client,
                client.build_request(
                    request.method, request.url, params=request.params, headers=request.headers
                ),
                seconds=_TIMEOUT,
                limit=_MAX_ANSWER,
            )
        except FetchFailed as failure:
            problem = f"the request to the managed identity endpoint {failure}"
        raise Unusable(problem, temporary=True)


def _readable(answer: Fetched) -> Fetched:
    """Let through what MSAL can read; it logs an answer whole that it cannot, with the token."""
    status = answer.status_code
    if status == 429 or status >= 500:
        raise Unusable(
            f"the managed identity endpoint answers with status {status}", temporary=True
        )
    try:
        is_object = isinstance(msgspec.json.decode(answer.body), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object and status == 200:
        raise Unusable("the managed identity endpoint answers nonsense", temporary=True)
    if not is_object and status != 401:  # Azure Arc's challenge is in a header
        raise Unusable(_NO_TOKEN)
    return answer


def _check_metadata_url(url: str) -> None:
    """Let plain http reach this machine and the link-local metadata service alone."""
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme != "https" and not is_loopback(host) and not is_link_local(host):
        raise Unusable("the environment names an endpoint over http that is not on this machine")


def _managed_token(result: Mapping[str, Any]) -> _HandedOut:
    token, lifetime = result.get("access_token"), result.get("expires_in")
    if not isinstance(token, str) or not isinstance(lifetime, int) or lifetime <= 0:
        raise Unusable(_NO_TOKEN)
    now = time.time()
    return _HandedOut(Secret(token), now + lifetime / 2, now + lifetime)


def _end_of(assertion: str) -> float:
    """Return when an assertion ends; long ago, if it does not say so, which lets none be kept."""
    try:
        end = parse_compact(assertion).claims.get("exp")
        return float(end) if isinstance(end, int | float) else 0.0
    except (InvalidTokenError, OverflowError):
        return 0.0
