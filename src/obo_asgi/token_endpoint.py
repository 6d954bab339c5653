"""Entra's token endpoint: MSAL writes each request and reads its answer, we send it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import msgspec

from ._events import CREDENTIAL_REFUSED, EXCHANGE_UNANSWERED, emit
from ._flights import Flights
from ._http import Fetched, FetchFailed, fetch
from ._lru import LRU
from ._msal_codec import CAPABILITIES_CLAIMS, Call, NeedsIO, build_msal, run
from ._telemetry import Span, Stats, span
from ._types import HTTPClient, Secret
from .config import AppRegistration
from .entra_errors import acquisition_error, unreachable
from .errors import (
    AccessDeniedError,
    AssertionRejectedError,
    InteractionRequiredError,
    KeysUnavailableError,
    TokenAcquisitionError,
)
from .interaction import merge_claims
from .tokens import AccessToken, Issued

if TYPE_CHECKING:
    from msal import ConfidentialClientApplication

logger = logging.getLogger(__name__)

_TIMEOUT = 10.0
_MAX_BYTES = 1024 * 1024
_MAX_CLIENTS = 256
_PAUSE = 1.0
_MAX_LIFETIME = 7 * 24 * 3600.0
_EARLY = 300.0
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


_Call = Callable[["ConfidentialClientApplication", "ClientAuthentication"], dict[str, Any]]


class ClientAuthentication(Protocol):
    """The form fields that authenticate the API, hidden until they are asked for."""

    def fields(self) -> dict[str, str]: ...


class Authenticator(Protocol):
    """Authenticates the API, with something else once Entra has refused it."""

    async def authenticate(self, audience: str, correlation_id: str) -> Any: ...

    async def authenticate_again(
        self, refused: Any, audience: str, correlation_id: str
    ) -> Any | None: ...


class TokenEndpoint:
    """Gets tokens at the tenant that each grant names.

    Args:
        registration: our app registration.
        client: returns the HTTP client of the running loop.
        document: returns the OpenID metadata document of a tenant.
        authenticator: authenticates the API.
        stats: what is counted.
    """

    def __init__(
        self,
        registration: AppRegistration,
        client: Callable[[], HTTPClient],
        document: Callable[[str], Awaitable[Mapping[str, Any]]],
        authenticator: Authenticator,
        *,
        stats: Stats | None = None,
    ) -> None:
        self._stats = stats or Stats()
        self._registration = registration
        self._host = urlsplit(registration.authority).hostname
        self._client = client
        self._document = document
        self._authenticator = authenticator
        self._msal: LRU[str, ConfidentialClientApplication] = LRU(_MAX_CLIENTS)
        self._builds: Flights[ConfidentialClientApplication] = Flights()

    async def on_behalf_of(
        self,
        tenant_id: str,
        assertion: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        """Exchange the user's access token for one for a downstream API (RFC 7523, OBO).

        Raises:
            TokenAcquisitionError: Entra refuses, or cannot be reached; as the tree says.
            KeysUnavailableError: the metadata cannot be fetched.
        """

        def call(
            msal: ConfidentialClientApplication, authentication: ClientAuthentication
        ) -> dict[str, Any]:
            result: dict[str, Any] = msal.acquire_token_on_behalf_of(
                assertion.reveal(),
                list(scopes),
                claims_challenge=claims,
                data=authentication.fields(),
            )
            return result

        return await self._acquire(tenant_id, _JWT_BEARER, call, scopes, correlation_id)

    async def refresh(
        self,
        tenant_id: str,
        refresh_token: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        """Redeem a refresh token, which a newer one may take the place of (RFC 6749 section 6).

        Raises:
            As `on_behalf_of`; an AssertionRejectedError if the refresh token is of no use any more.
        """
        # MSAL leaves the client's capabilities out here: the token would know of no revocation.
        wanted = merge_claims([CAPABILITIES_CLAIMS, *([claims] if claims else [])])

        def call(
            msal: ConfidentialClientApplication, authentication: ClientAuthentication
        ) -> dict[str, Any]:
            result: dict[str, Any] = msal.acquire_token_by_refresh_token(
                refresh_token.reveal(),
                list(scopes),
                data={**authentication.fields(), "claims": wanted},
            )
            return result

        return await self._acquire(tenant_id, "refresh_token", call, scopes, correlation_id)

    async def client_credentials(
        self,
        tenant_id: str,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        """Get a token for the app itself (RFC 6749 section 4.4).

        Raises:
            As `on_behalf_of`.
        """

        def call(
            msal: ConfidentialClientApplication, authentication: ClientAuthentication
        ) -> dict[str, Any]:
            result: dict[str, Any] = msal.acquire_token_for_client(
                list(scopes), claims_challenge=claims, data=authentication.fields()
            )
            return result

        return await self._acquire(tenant_id, "client_credentials", call, scopes, correlation_id)

    async def warm_up(self, tenant_id: str, correlation_id: str) -> None:
        """Do what an exchange needs beforehand, but for the exchange itself.

        Raises:
            TokenAcquisitionError: no client credential is usable.
            KeysUnavailableError: the metadata cannot be fetched.
        """
        msal = await self._msal_client(tenant_id)
        await self._authenticator.authenticate(msal.authority.token_endpoint, correlation_id)

    async def _acquire(
        self,
        tenant_id: str,
        grant_type: str,
        call: _Call,
        scopes: tuple[str, ...],
        correlation_id: str,
    ) -> Issued:
        counts, outcome, started = self._stats.counts, "error", time.perf_counter()
        counts["exchanges.in_flight"] += 1
        with span(
            "exchange",
            is_client=True,
            grant_type=grant_type,
            tenant=tenant_id,
            correlation_id=correlation_id,
            server__address=self._host,
        ) as current:
            try:
                issued = await self._issue(tenant_id, call, scopes, correlation_id, current)
                outcome = "success"
            except (TokenAcquisitionError, KeysUnavailableError) as error:
                outcome = _outcome_of(error)
                if codes := getattr(error, "error_codes", ()):
                    current.set_attribute("obo_asgi.error_codes", list(codes))
                raise
            finally:
                counts["exchanges.in_flight"] -= 1
                counts[f"exchanges.{outcome}"] += 1
                current.set_attribute("obo_asgi.outcome", outcome)
                self._stats.lasted("exchange", started, outcome=outcome)
        return issued

    async def _issue(
        self,
        tenant_id: str,
        call: _Call,
        scopes: tuple[str, ...],
        correlation_id: str,
        current: Span,
    ) -> Issued:
        msal = await self._msal_client(tenant_id)
        audience: str = msal.authority.token_endpoint
        fields = await self._authenticator.authenticate(audience, correlation_id)
        exchange = partial(self._exchange, current=current)
        outcome = await exchange(partial(call, msal, fields), scopes, correlation_id)
        if isinstance(outcome, TokenAcquisitionError) and outcome.error == "invalid_client":
            again = await self._authenticator.authenticate_again(fields, audience, correlation_id)
            if again is not None:
                emit(
                    logger,
                    logging.WARNING,
                    CREDENTIAL_REFUSED,
                    "the client credential was refused and has been read anew",
                    correlation_id=correlation_id,
                )
                outcome = await exchange(partial(call, msal, again), scopes, correlation_id)
        if isinstance(outcome, Issued):
            return outcome
        # Raised here, so that no frame of its traceback holds what Entra wrote.
        raise outcome

    async def _exchange(
        self, call: Call, scopes: tuple[str, ...], correlation_id: str, *, current: Span
    ) -> Issued | TokenAcquisitionError:
        request = run(call, [])
        if not isinstance(request, NeedsIO):
            raise RuntimeError("MSAL answered without asking the token endpoint")
        answer = await self._post(request, correlation_id)
        if answer is None:
            return unreachable(correlation_id)
        current.set_attribute("http.response.status_code", answer.status_code)
        return _read(call, answer, scopes, correlation_id)

    async def _post(self, request: NeedsIO, correlation_id: str) -> Fetched | None:
        """Send a request, once more where Entra says nothing or fails; None if nothing came."""
        answer = await self._try_post(request, correlation_id)
        if answer is None or (answer.status_code >= 500 and "retry-after" not in answer.headers):
            await asyncio.sleep(_PAUSE * random.uniform(0.8, 1.2))  # noqa: S311
            answer = await self._try_post(request, correlation_id)
        return answer

    async def _try_post(self, request: NeedsIO, correlation_id: str) -> Fetched | None:
        client = self._client()
        try:
            return await fetch(
                client,
                client.build_request(
                    "POST",
                    request.url,
                    data=request.data,
                    headers={**request.headers, "client-request-id": correlation_id},
                ),
                seconds=_TIMEOUT,
                limit=_MAX_BYTES,
            )
        except FetchFailed as failure:
            emit(
                logger,
                logging.WARNING,
                EXCHANGE_UNANSWERED,
                "the request to the token endpoint %s",
                failure,
                correlation_id=correlation_id,
                error=str(failure),
            )
            return None

    async def _msal_client(self, tenant_id: str) -> ConfidentialClientApplication:
        msal = self._msal.get(tenant_id)
        if msal is None:
            document = dict(await self._document(tenant_id))
            build = partial(asyncio.to_thread, build_msal, self._registration, tenant_id, document)
            msal = await self._builds.join(tenant_id, build)
            self._msal.put(tenant_id, msal)
        return msal

    async def aclose(self) -> None:
        """End what is under way in the running loop."""
        await self._builds.aclose()


def _outcome_of(error: TokenAcquisitionError | KeysUnavailableError) -> str:
    match error:
        case InteractionRequiredError():
            return "interaction"
        case AccessDeniedError():
            return "denied"
        case AssertionRejectedError():
            return "rejected"
    return "error" if error.retry_after is None else "unavailable"


def _read(
    call: Call,
    answer: Fetched,
    scopes: tuple[str, ...],
    correlation_id: str,
) -> Issued | TokenAcquisitionError:
    body = _json_object(answer.body)
    if answer.status_code == 200 and body:
        result = run(call, [answer])
        token = None if isinstance(result, NeedsIO) else _access_token(result)
        if isinstance(result, NeedsIO) or token is None:
            return unreachable(correlation_id)
        return Issued(token, _refresh_token(result))
    return acquisition_error(
        body,
        status_code=answer.status_code,
        retry_after=answer.headers.get("retry-after"),
        scopes=scopes,
        correlation_id=correlation_id,
    )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}


def _access_token(result: Mapping[str, Any]) -> AccessToken | None:
    """Read a token answer; a lifetime that makes no sense means that the token is not kept."""
    token = result.get("access_token")
    if not isinstance(token, str) or not token:
        return None
    now = time.time()
    lifetime = min(max(_number(result.get("expires_in")), 0.0), _MAX_LIFETIME)
    refresh_on = _number(result.get("refresh_on"))  # MSAL's form of Entra's refresh_in
    refresh_in = refresh_on - now if refresh_on > now else max(lifetime - _EARLY, lifetime / 2)
    refresh_in = min(refresh_in, lifetime) * random.uniform(0.9, 1.0)  # noqa: S311
    return AccessToken(token, now + lifetime, now + refresh_in)


def _refresh_token(result: Mapping[str, Any]) -> Secret | None:
    text = result.get("refresh_token")
    return Secret(text) if isinstance(text, str) and text else None


def _number(value: object) -> float:
    """Return a finite number, also from a string; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0
