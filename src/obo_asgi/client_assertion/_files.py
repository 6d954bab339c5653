"""Credentials that stand in files: read again when they change, the last good one kept."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, Final

from .._events import CREDENTIAL_UNREADABLE, emit
from .._flights import Flights
from .._lru import LRU
from .._types import Secret
from ..certificates import ASSERTION_LIFETIME, SigningCertificate
from ..credentials import ClientCertificate, check_secret
from ..errors import ConfigurationError
from ..readiness import CredentialReadiness
from ._base import RELOAD_INTERVAL, ClientAuthentication, Unusable, by_assertion

logger = logging.getLogger(__name__)

TOKEN_FILE_VARIABLE: Final = "AZURE_FEDERATED_TOKEN_FILE"
"""Where AKS says that it has mounted the federated token."""

_LOOK_INTERVAL = 1.0
_EARLY = 60.0
_MAX_FILE = 1024 * 1024
_MAX_AUDIENCES = 256


class FileLoader(ABC):
    """Holds what a file says, in a form that a subclass parses; or a value that never changes."""

    patience = 0.0

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

    def readiness(self) -> CredentialReadiness:
        if self.content is None:
            return CredentialReadiness(False, self._problem or "it has not been read yet")
        return CredentialReadiness(True)

    async def reload(self, version: int) -> None:
        """Forget when the file was looked at, unless it has been read anew since."""
        now = time.monotonic()
        if version == self.version and now - self._reloaded_at >= RELOAD_INTERVAL:
            self._stamp, self._looked_at, self._reloaded_at = None, float("-inf"), now

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _look(self, path: Path) -> None:
        problem = self._problem
        try:
            stamp, raw = await asyncio.to_thread(_read_changed, path, self._stamp)
        except OSError as error:
            self._stamp, problem = None, f"the file cannot be read ({type(error).__name__})"
        else:
            if raw is not None:
                problem = await self._adopt(raw)
            self._stamp = stamp
        if problem is not None and problem != self._problem:
            emit(logger, logging.WARNING, CREDENTIAL_UNREADABLE, "%s: %s", path, problem)
        self._problem, self._looked_at = problem, time.monotonic()

    async def _adopt(self, raw: bytes) -> str | None:
        """Take what a file says, if it is new and good; return what is wrong with it."""
        if raw != self._raw:
            try:
                self.content = await asyncio.to_thread(self.parse, raw)
            except ConfigurationError as problem:
                return str(problem)
            self._raw = raw
            self.version += 1
        return None


def _read_changed(
    path: Path, stamp: tuple[int, ...] | None
) -> tuple[tuple[int, ...], bytes | None]:
    status = path.stat()
    current = (status.st_mtime_ns, status.st_size, status.st_ino)
    if current == stamp:
        return current, None
    with path.open("rb") as file:
        return current, file.read(_MAX_FILE)


class SecretLoader(FileLoader):
    def parse(self, data: bytes) -> Secret:
        return Secret(check_secret(_text(data)))

    async def key_material(self) -> bytes:
        """Return the secret, to derive keys from."""
        text: str = (await self.load()).reveal()
        return text.encode()

    async def authenticate(self, audience: str) -> ClientAuthentication:
        secret = await self.load()
        return ClientAuthentication(self, self.version, {"client_secret": secret.reveal()})


class TokenFileLoader(FileLoader):
    def parse(self, data: bytes) -> Secret:
        text = _text(data).strip()
        if not text:
            raise ConfigurationError("the file is empty")
        return Secret(text)

    async def authenticate(self, audience: str) -> ClientAuthentication:
        token = await self.load()
        return by_assertion(self, self.version, token.reveal())


class WorkloadLoader(TokenFileLoader):
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


class CertificateLoader(FileLoader):
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

    def readiness(self) -> CredentialReadiness:
        if self.content is None:
            return super().readiness()
        end: float = self.content.ends_at
        if end <= time.time():
            return CredentialReadiness(False, "its certificate has ended", end)
        return CredentialReadiness(True, None, end)

    async def key_material(self) -> bytes:
        """Return the private key, to derive keys from."""
        certificate: SigningCertificate = await self.load()
        return certificate.key_material()

    async def authenticate(self, audience: str) -> ClientAuthentication:
        certificate = await self.load()
        signed = self._signed.get((audience, self.version))
        if signed is None or signed[1] <= time.time():
            assertion = certificate.sign(
                self._client_id, audience, send_x5c=self._credential.send_x5c
            )
            signed = (Secret(assertion), time.time() + ASSERTION_LIFETIME - _EARLY)
            self._signed.put((audience, self.version), signed)
        return by_assertion(self, self.version, signed[0].reveal())


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError("the file is not text") from None
