"""A certificate that a callable of the developer's brings, looked at again in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from .._events import CREDENTIAL_UNREADABLE, emit
from ..certificates import SigningCertificate
from ..credentials import CertificateSource, ClientCertificate
from ..errors import ConfigurationError
from ._base import PATIENCE, RELOAD_INTERVAL, Unusable
from ._developer_call import DeveloperCall
from ._files import CertificateLoader

logger = logging.getLogger(__name__)

_DAY: Final = 86400.0
_LAST_DAY_REFRESH: Final = 300.0
_RETRY: Final = 60.0


class CertificateSourceLoader(CertificateLoader):
    """Holds what a source brought last; only without a certificate that is valid it is waited for.

    Args:
        credential: says how to read it, and how often.
        client_id: the app registration.
        source: brings it.
    """

    patience = PATIENCE

    def __init__(
        self, credential: ClientCertificate, client_id: str, source: CertificateSource
    ) -> None:
        super().__init__(credential, client_id)
        self._call = DeveloperCall(source)
        self._refresh = credential.refresh
        self._look_at = float("-inf")

    async def load(self) -> SigningCertificate:
        if time.monotonic() >= self._look_at:
            if _seconds_left(self.content) > 0:
                self._flights.start("look", self._look_again)
            else:
                await self._flights.join("look", self._look_again)
        certificate: SigningCertificate | None = self.content
        if certificate is None or _seconds_left(certificate) <= 0:
            raise Unusable(self._problem or "the certificate has ended", temporary=True)
        return certificate

    async def reload(self, version: int) -> None:
        now = time.monotonic()
        is_early = now - self._reloaded_at < RELOAD_INTERVAL
        if version != self.version or (is_early and self._flights.get("look") is None):
            return
        if not is_early:
            self._reloaded_at = now
        await self._flights.join("look", self._look_again)

    async def _look_again(self) -> None:
        self._problem = await self._adopt_next()
        left = _seconds_left(self.content)
        if self._problem is not None:
            emit(
                logger,
                logging.WARNING,
                CREDENTIAL_UNREADABLE,
                "the source of the client certificate: %s",
                self._problem,
            )
            wait = _RETRY if left > 0 else RELOAD_INTERVAL
        else:
            wait = _LAST_DAY_REFRESH if left < _DAY else self._refresh
        self._look_at = time.monotonic() + min(wait, self._refresh)

    async def _adopt_next(self) -> str | None:
        """Take what the source brings, if it is new and good; return what is wrong with it."""
        brought = await self._call()
        if isinstance(brought, Exception):
            return f"the callable failed ({type(brought).__name__})"
        if not isinstance(brought, str | bytes) or not brought:
            return "the callable returned no certificate (PEM text or bytes, or PFX bytes)"
        raw = brought.encode() if isinstance(brought, str) else brought
        if raw != self._raw:
            try:
                certificate = await asyncio.to_thread(self.parse, raw)
            except ConfigurationError as problem:
                return str(problem)
            if _seconds_left(certificate) <= 0:
                return "the certificate has ended"
            self.content, self._raw = certificate, raw
            self.version += 1
        return None if _seconds_left(self.content) > 0 else "the certificate has ended"


def _seconds_left(certificate: SigningCertificate | None) -> float:
    return 0.0 if certificate is None else certificate.ends_at - time.time()
