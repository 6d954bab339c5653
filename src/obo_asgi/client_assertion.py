"""What the API authenticates to Entra with: read from files and endpoints, renewed, rotated.

Files are looked at before an exchange, at most once a second, off the event loop. What cannot be
read after it could be leaves the last good one in use. When Entra refuses the client, what it was
refused with is read once more.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from ._flights import Flights
from ._http import Fetched, FetchFailed, fetch
from ._lru import LRU
from ._msal_codec import NeedsIO, build_managed_identity, run
from ._types import HTTPClient, Secret
from ._urls import is_link_local, is_loopback
from .certificates import ASSERTION_LIFETIME, SigningCertificate
from .config import AppRegistration
from .credentials import (
    ClientAssertion,
    ClientCertificate,
    ClientCredential,
    ClientSecret,
    ManagedIdentity,
    WorkloadIdentity,
    check_secret,
)
from .errors import ConfigurationError, InvalidTokenError, TokenAcquisitionError
from .jws import parse_compact

logger = logging.getLogger(__name__)

TOKEN_FILE_VARIABLE: Final = "AZURE_FEDERATED_TOKEN_FILE"
"""Where AKS says that it has mounted the federated token."""

_LOOK_INTERVAL = 1.0
_RELOAD_INTERVAL = 5.0
_EARLY = 60.0
_MAX_FILE = 1024 * 1024
_MAX_AUDIENCES = 256
_ENDPOINT_TIMEOUT = 10.0
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Unusable(Exception):
    """A credential cannot be used now; the message says why and shows nothing of it."""

    def __init__(self, reason: str, *, temporary: bool = False) -> None:
        super().__init__(reason)
        self.temporary = temporary


class ClientAuthentication:
    """The form fields that authenticate one request to the token endpoint."""

    __slots__ = ("_fields", "loader", "version")

    def __init__(self, loader: Loader, version: int, fields: Mapping[str, str]) -> None:
        self.loader = loader
        self.version = version
        self._fields = fields

    def fields(self) -> dict[str, str]:
        """Return the fields; keep them out of the local variables of frames that may raise."""
        return dict(self._fields)

    def __repr__(self) -> str:
        return "ClientAuthentication(***)"


class Loader(Protocol):
    """Makes one credential usable."""

    async def authenticate(self, audience: str) -> ClientAuthentication:
        """Return the fields for a token endpoint; raise `Unusable`."""
        ...

    async def reload(self, version: int) -> None:
        """Read anew what was refused, unless a newer version is already in use."""
        ...

    async def aclose(self) -> None:
        """End what is under way in the running loop."""
        ...


class ClientAuthenticator:
    """Authenticates the API with the first of its credentials that is usable.

    Args:
        registration: our app registration.
        client: returns the HTTP client of the running loop.
    """

    def __init__(self, registration: AppRegistration, client: Callable[[], HTTPClient]) -> None:
        self._credentials = registration.credentials
        self._loaders = [_loader(item, registration, client) for item in self._credentials]

    async def check(self) -> None:
        """Read the files once, so that a wrong path or password fails at start.

        Raises:
            ConfigurationError: no credential is usable; the message names each with its reason.
        """
        reasons = []
        for credential, loader in zip(self._credentials, self._loaders, strict=True):
            if not isinstance(loader, _FileLoader):
                return
            try:
                await loader.load()
            except Unusable as problem:
                reasons.append(f"{credential!r}: {problem}")
            else:
                return
        raise ConfigurationError(f"no client credential is usable: {'; '.join(reasons)}")

    async def authenticate(self, audience: str, correlation_id: str) -> ClientAuthentication:
        """Return the form fields for a token endpoint.

        Raises:
            TokenAcquisitionError: no credential is usable; its hint names each with its reason.
        """
        reasons, temporary = [], False
        for credential, loader in zip(self._credentials, self._loaders, strict=True):
            try:
                return await loader.authenticate(audience)
            except Unusable as problem:
                reasons.append(f"{credential!r}: {problem}")
                temporary = temporary or problem.temporary
        raise TokenAcquisitionError(
            "no client credential is usable",
            error="invalid_client",
            correlation_id=correlation_id,
            retry_after=5 if temporary else None,
            hint="; ".join(reasons),
        )

    async def authenticate_again(
        self, refused: ClientAuthentication, audience: str, correlation_id: str
    ) -> ClientAuthentication | None:
        """Return other fields than those that Entra has refused; None if there are none."""
        await refused.loader.reload(refused.version)
        again = await self.authenticate(audience, correlation_id)
        same = again.loader is refused.loader and again.version == refused.version
        return None if same else again

    async def aclose(self) -> None:
        """End what is under way in the running loop."""
        for loader in self._loaders:
            await loader.aclose()


class _FileLoader(ABC):
    """Holds what a file says, in a form that a subclass parses; or a value that never changes."""

    def __init__(self, path: Path | None, content: Any = None) -> None:
        self._path = path
        self.content = content
        self.version = 0
        self._problem: str | None = None
        self._raw: bytes | None = None
        self._looked_at = self._reloaded_at = float("-inf")
        self._stamp: tuple[int, ...] | None = None
        self._flights: Flights[None] = Flights()

    @abstractmethod
    def parse(self, data: bytes) -> Any:
        """Return the content of the file; raise ConfigurationError if it makes no sense."""

    @abstractmethod
    async def authenticate(self, audience: str) -> ClientAuthentication:
        """As `Loader` says."""

    async def load(self) -> Any:
        """Return the content, after a look at the file if the last one is a second ago."""
        if self._path is not None and time.monotonic() - self._looked_at >= _LOOK_INTERVAL:
            await self._flights.join("look", partial(self._look, self._path))
        if self.content is None:
            raise Unusable(self._problem or "there is nothing in it")
        return self.content

    async def reload(self, version: int) -> None:
        """Forget when the file was looked at, unless it has been read anew since."""
        now = time.monotonic()
        if version == self.version and now - self._reloaded_at >= _RELOAD_INTERVAL:
            self._stamp, self._looked_at, self._reloaded_at = None, float("-inf"), now

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _look(self, path: Path) -> None:
        try:
            stamp, raw = await asyncio.to_thread(_read_changed, path, self._stamp)
        except OSError as error:
            self._problem = f"the file cannot be read ({type(error).__name__})"
        else:
            self._stamp = stamp
            if raw is not None and raw != self._raw:
                await self._adopt(raw)
        self._looked_at = time.monotonic()

    async def _adopt(self, raw: bytes) -> None:
        try:
            self.content = await asyncio.to_thread(self.parse, raw)
        except ConfigurationError as problem:
            self._problem = str(problem)
            logger.warning("%s: %s", self._path, problem)
        else:
            self._raw = raw
            self.version += 1


def _read_changed(
    path: Path, stamp: tuple[int, ...] | None
) -> tuple[tuple[int, ...], bytes | None]:
    status = path.stat()
    current = (status.st_mtime_ns, status.st_size, status.st_ino)
    if current == stamp:
        return current, None
    with path.open("rb") as file:
        return current, file.read(_MAX_FILE)


class _SecretLoader(_FileLoader):
    def parse(self, data: bytes) -> Secret:
        return Secret(check_secret(_text(data)))

    async def authenticate(self, audience: str) -> ClientAuthentication:
        secret = await self.load()
        return ClientAuthentication(self, self.version, {"client_secret": secret.reveal()})


class _TokenFileLoader(_FileLoader):
    def parse(self, data: bytes) -> Secret:
        text = _text(data).strip()
        if not text:
            raise ConfigurationError("the file is empty")
        return Secret(text)

    async def authenticate(self, audience: str) -> ClientAuthentication:
        token = await self.load()
        return _assertion(self, self.version, token.reveal())


class _CertificateLoader(_FileLoader):
    def __init__(self, credential: ClientCertificate, client_id: str) -> None:
        super().__init__(credential.path, credential.certificate)
        self._credential = credential
        self._client_id = client_id
        self._signed: LRU[tuple[str, int], tuple[Secret, float]] = LRU(_MAX_AUDIENCES)

    def parse(self, data: bytes) -> SigningCertificate:
        read = self._credential.parse(data)
        if isinstance(read, str):
            raise ConfigurationError(read)
        return read

    async def authenticate(self, audience: str) -> ClientAuthentication:
        certificate = await self.load()
        signed = self._signed.get((audience, self.version))
        if signed is None or signed[1] <= time.time():
            assertion = certificate.sign(
                self._client_id, audience, send_x5c=self._credential.send_x5c
            )
            signed = (Secret(assertion), time.time() + ASSERTION_LIFETIME - _EARLY)
            self._signed.put((audience, self.version), signed)
        return _assertion(self, self.version, signed[0].reveal())


class _Fetched(NamedTuple):
    assertion: Secret
    renew_at: float
    ends_at: float


class _RenewedLoader(ABC):
    """Holds an assertion that somebody hands out, until shortly before it ends."""

    def __init__(self) -> None:
        self._held: Secret | None = None
        self._until = self._end = 0.0
        self._reloaded_at = float("-inf")
        self._version = 0
        self._flights: Flights[Unusable | None] = Flights()

    @abstractmethod
    async def fetch(self) -> _Fetched:
        """Return a new assertion; raise `Unusable`."""

    async def authenticate(self, audience: str) -> ClientAuthentication:
        if self._held is None or self._until <= time.time():
            problem = await self._flights.join("fetch", self._renew)
            if problem is not None:
                raise Unusable(str(problem), temporary=problem.temporary)
        if self._held is None:
            raise Unusable("there is no assertion")
        return _assertion(self, self._version, self._held.reveal())

    async def reload(self, version: int) -> None:
        now = time.monotonic()
        if version == self._version and now - self._reloaded_at >= _RELOAD_INTERVAL:
            self._until, self._reloaded_at = 0.0, now

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _renew(self) -> Unusable | None:
        try:
            new = await self.fetch()
        except Unusable as problem:
            if self._held is not None and time.time() < self._end:
                logger.warning("a client assertion could not be renewed: %s", problem)
                self._until = time.time() + _RELOAD_INTERVAL
                return None
            return Unusable(str(problem), temporary=problem.temporary)
        if self._held is None or self._held.reveal() != new.assertion.reveal():
            self._held = new.assertion
            self._version += 1
        self._until, self._end = new.renew_at, new.ends_at
        return None


class _CallableLoader(_RenewedLoader):
    def __init__(self, get: Callable[[], Any]) -> None:
        super().__init__()
        self._get = get

    async def fetch(self) -> _Fetched:
        try:
            async with asyncio.timeout(_ENDPOINT_TIMEOUT):
                result = await self._call()
        except Exception as error:
            problem = f"the callable failed ({type(error).__name__})"
        else:
            if isinstance(result, str) and result:
                end = _end_of(result)
                return _Fetched(Secret(result), end - _EARLY, end)
            problem = "the callable returned no assertion (a str)"
        raise Unusable(problem, temporary=True)

    async def _call(self) -> Any:
        if inspect.iscoroutinefunction(self._get):
            return await self._get()
        result = await asyncio.to_thread(_outcome, self._get)
        if isinstance(result, Exception):
            raise Unusable(type(result).__name__)
        return await result if inspect.isawaitable(result) else result


def _outcome(get: Callable[[], Any]) -> Any:
    """Return what a callable returns or raises: a thread cannot hand on a StopIteration."""
    try:
        return get()
    except Exception as error:
        return error


class _ManagedIdentityLoader(_RenewedLoader):
    def __init__(self, credential: ManagedIdentity, client: Callable[[], HTTPClient]) -> None:
        super().__init__()
        self._credential = credential
        self._client = client

    async def fetch(self) -> _Fetched:
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
            outcome = await asyncio.to_thread(run, call, answers)
            if not isinstance(outcome, NeedsIO):
                return _managed_token(outcome)
            answer = await self._send(outcome)
            if answer.status_code == 200 and not answer.body.lstrip().startswith(b"{"):
                raise Unusable("the managed identity endpoint answers nonsense", temporary=True)
            answers.append(answer)
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
                seconds=_ENDPOINT_TIMEOUT,
                limit=_MAX_FILE,
            )
        except FetchFailed as failure:
            problem = f"the request to the managed identity endpoint {failure}"
        raise Unusable(problem, temporary=True)


def _check_metadata_url(url: str) -> None:
    """Let plain http reach this machine and the link-local metadata service alone."""
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme != "https" and not is_loopback(host) and not is_link_local(host):
        raise Unusable("the environment names an endpoint over http that is not on this machine")


def _managed_token(result: Mapping[str, Any]) -> _Fetched:
    token, lifetime = result.get("access_token"), result.get("expires_in")
    if not isinstance(token, str) or not isinstance(lifetime, int) or lifetime <= 0:
        raise Unusable("the managed identity endpoint gave no token: is the identity assigned?")
    now = time.time()
    return _Fetched(Secret(token), now + lifetime / 2, now + lifetime)


def _loader(
    credential: ClientCredential, registration: AppRegistration, client: Callable[[], HTTPClient]
) -> Loader:
    match credential:
        case ClientSecret():
            return _SecretLoader(credential.path, credential.value)
        case ClientCertificate():
            return _CertificateLoader(credential, registration.client_id)
        case ClientAssertion():
            get = credential.get
            return _TokenFileLoader(credential.path) if get is None else _CallableLoader(get)
        case WorkloadIdentity(path=path):
            return _WorkloadLoader(path)
        case ManagedIdentity():
            return _ManagedIdentityLoader(credential, client)


class _WorkloadLoader(_TokenFileLoader):
    async def load(self) -> Any:
        if self._path is None:
            named = os.environ.get(TOKEN_FILE_VARIABLE)
            if not named:
                raise Unusable(
                    f"{TOKEN_FILE_VARIABLE} is not set: label the pod "
                    "azure.workload.identity/use: 'true', or name the token file"
                )
            self._path = Path(named)
        return await super().load()


def _assertion(loader: Loader, version: int, assertion: str) -> ClientAuthentication:
    fields = {"client_assertion_type": _JWT_BEARER, "client_assertion": assertion}
    return ClientAuthentication(loader, version, fields)


def _end_of(assertion: str) -> float:
    """Return when an assertion ends; long ago, if it does not say so, which lets none be kept."""
    try:
        end = parse_compact(assertion).claims.get("exp")
        return float(end) if isinstance(end, int | float) else 0.0
    except (InvalidTokenError, OverflowError):
        return 0.0


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigurationError("the file is not text") from None
