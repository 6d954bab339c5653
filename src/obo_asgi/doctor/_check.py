"""What a check finds, and the sentences that several checks share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from ..errors import OboError, TokenAcquisitionError

SECONDS: Final = 10.0
"""What one check may take."""

Outcome = Literal["ok", "warning", "failed", "skipped"]

_CODES: Final = "https://learn.microsoft.com/entra/identity-platform/reference-error-codes"
_MAX_SHOWN: Final = 120
# What `TokenAcquisitionError.hint` leaves to the API's own answer, because the caller acts on it.
_REMEDIES: Final = {
    240002: "this is an ID token: the client must send an access token",
    50012: "the certificate or assertion is refused: check that it is the registered one",
    50076: "the user must pass multi-factor authentication: sign in again with the claims that "
    "the challenge names",
    50079: "the user must enrol for multi-factor authentication, and sign in again",
    50173: "the user's sessions were ended: sign in again",
    500133: "the token has ended: get a new one",
    53003: "a Conditional Access policy blocks the user: ask who administers the tenant",
    700024: "the client assertion is outside its time: set this machine's clock",
    700025: "the app is a public client: use the registration of the web API",
    700030: "the certificate's subject is not one that the registration trusts",
    7000114: "let the app make on-behalf-of calls: register it as a web API, not as a daemon only",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at, such as ``"credential"`` or ``"api graph: host"``.
        outcome: how it went.
        message: what was found, in a sentence without a secret.
        remedy: what to do about it; empty where nothing is to be done.
    """

    name: str
    outcome: Outcome
    message: str
    remedy: str = ""


async def bounded(name: str, check: Callable[[], Awaitable[Check]]) -> Check:
    """Run a check; one that takes too long, or breaks, has failed."""
    try:
        async with asyncio.timeout(SECONDS):
            return await check()
    except TimeoutError:
        message = f"there was no answer within {SECONDS:.0f} seconds"
        return Check(name, "failed", message, "check the network, the proxy and the firewall")
    except OboError as error:
        return Check(name, "failed", str(error), "put that right, and run this again")
    except Exception as error:
        # The text of an unforeseen error may hold anything; its type does not.
        message = f"the check itself broke ({type(error).__name__})"
        return Check(name, "failed", message, "report this as a bug of obo-asgi")


def shown(value: object) -> str:
    """Return a value of a token for people: ASCII, one line, not too long."""
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def unreachable(error: BaseException) -> tuple[str, str]:
    """Return why a server could not be reached, and what to do about it."""
    chain = _chain(error)
    texts = " ".join(str(item) for item in chain)
    if "CERTIFICATE_VERIFY_FAILED" in texts or any(
        isinstance(item, ssl.SSLCertVerificationError) for item in chain
    ):
        return "its certificate is not trusted", "name the CA's file in SSL_CERT_FILE"
    if any(type(item).__name__ in ("gaierror", "ClientConnectorDNSError") for item in chain):
        return "its name is not known", "check the host's name, and the DNS of this machine"
    if any(isinstance(item, TimeoutError) for item in chain):
        return "it does not answer in time", "check the network, the proxy and the firewall"
    return "no connection", "check the address, that the server runs, and HTTPS_PROXY"


def _chain(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def refused(error: TokenAcquisitionError) -> tuple[str, str]:
    """Return what Entra's refusal means, by its AADSTS numbers, and what to do about it."""
    codes = ", ".join(f"AADSTS{number}" for number in error.error_codes)
    what = ", ".join(part for part in (codes, error.error, error.suberror) if part)
    trace = f"; correlation id {error.correlation_id}" if error.correlation_id else ""
    message = f"{error.args[0]} ({what}{trace})"
    found = (_REMEDIES[number] for number in error.error_codes if number in _REMEDIES)
    remedy = error.hint or next(found, None)
    if remedy is None and error.retry_after is not None:
        remedy = f"try again in {error.retry_after} seconds"
    return message, remedy or f"look the code up at {_CODES}"
