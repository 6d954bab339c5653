"""One downstream API: its verbs, its tokens, and what becomes of a call."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from .._events import DOWNSTREAM_CALLED, DOWNSTREAM_FAILED, emit, milliseconds
from .._http import failure_kind, send
from .._telemetry import (
    Span,
    called_api,
    is_metered,
    is_recording,
    is_traced,
    record,
    span,
    trace_headers,
)
from .._types import HTTPClient
from ..config import DownstreamAPI, check_scopes
from ..errors import ConfigurationError, InteractionRequiredError
from ..tokens import AccessToken
from ._answers import read, unreachable
from ._caller import Caller
from ._demands import drop_refused, find_demand, meet_claims
from ._httpx_auth import create_auth
from ._requests import RequestOptions, build_request, is_repeatable

if TYPE_CHECKING:
    import httpx

__all__ = ["APIClient"]

logger = logging.getLogger("obo_asgi.downstream")

T = TypeVar("T")


class APIClient:
    """One downstream API, called as the user of the request.

    Without ``into=`` a verb returns the client's own response and raises on no status, as httpx
    does; transport errors stay the client's own too. With ``into=`` it returns the body, read into
    that type, and raises `DownstreamError` for a status of 400 and above, a failed transport, or a
    body that does not fit.

    Every verb takes the options of `RequestOptions`.

    Raises (every verb):
        TokenAcquisitionError: no token; `InteractionRequiredError` if the user has to consent.
        ConfigurationError: the URL leaves the API's base URL, or a header is reserved.
    """

    __slots__ = ("_api", "_caller", "name")

    def __init__(self, caller: Caller, name: str, api: DownstreamAPI) -> None:
        self.name = name
        self._caller = caller
        self._api = api

    def __repr__(self) -> str:
        return f"APIClient({self.name!r})"

    async def acquire_token(
        self, scopes: Iterable[str] | None = None, *, claims: str | None = None
    ) -> AccessToken:
        """Return the user's token for this API.

        Args:
            scopes: instead of the API's own.
            claims: the claims challenge that the token has to meet, as JSON.
        """
        called_api.set(self.name)
        return await self._caller.acquire_token(self._api, self._scopes(scopes), claims=claims)

    async def authorization_header(self, scopes: Iterable[str] | None = None) -> str:
        """Return the value of an ``Authorization`` header for this API."""
        return f"Bearer {(await self.acquire_token(scopes)).token}"

    @property
    def auth(self) -> httpx.Auth:
        """The ``auth=`` of an ``AsyncClient`` of httpx or httpx2 that calls this API as the user.

        It signs requests inside the API's base URL, and exchanges once more where the API demands
        claims. Leave the client's redirects off; it ends with the request, as the rest does.

        Raises:
            ConfigurationError: the API has no base URL, so nobody can tell where a token may go.
        """
        if self._api.base_url is None:
            raise ConfigurationError(
                f"DownstreamAPI {self.name!r} has no base_url: configure it, so that its token "
                "goes nowhere else"
            )
        auth: httpx.Auth = create_auth(self._caller, self.name, self._api, self._api.base_url)
        return auth

    @overload
    async def request(
        self, method: str, url: str, *, into: type[T], **options: Unpack[RequestOptions]
    ) -> T: ...
    @overload
    async def request(
        self, method: str, url: str, *, into: None = None, **options: Unpack[RequestOptions]
    ) -> httpx.Response: ...
    async def request(
        self,
        method: str,
        url: str,
        *,
        into: type[T] | None = None,
        **options: Unpack[RequestOptions],
    ) -> T | httpx.Response:
        """Call the API: ``url`` is relative to its base URL, or an absolute URL under it."""
        if into is None:
            response: httpx.Response
            response, _ = await self._call(method, url, options)
            return response
        try:
            response, demand = await self._call(method, url, options)
        except Exception as error:
            kind = failure_kind(error)
            if kind is None:
                raise
        else:
            if demand is not None and not self._caller.is_app:
                raise demand
            return read(self.name, response, into)
        # Raised out here, so that the client's error and the request in it do not ride along.
        raise unreachable(self.name, kind)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[httpx.Response]:
        """Call the API and read the response as it comes."""
        response: httpx.Response
        response, _ = await self._call(method, url, options, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    @overload
    async def get(self, url: str, *, into: type[T], **options: Unpack[RequestOptions]) -> T: ...
    @overload
    async def get(self, url: str, **options: Unpack[RequestOptions]) -> httpx.Response: ...
    async def get(self, url: str, *, into: Any = None, **options: Unpack[RequestOptions]) -> Any:
        """Send a GET request."""
        return await self.request("GET", url, into=into, **options)

    @overload
    async def post(self, url: str, *, into: type[T], **options: Unpack[RequestOptions]) -> T: ...
    @overload
    async def post(self, url: str, **options: Unpack[RequestOptions]) -> httpx.Response: ...
    async def post(self, url: str, *, into: Any = None, **options: Unpack[RequestOptions]) -> Any:
        """Send a POST request."""
        return await self.request("POST", url, into=into, **options)

    @overload
    async def put(self, url: str, *, into: type[T], **options: Unpack[RequestOptions]) -> T: ...
    @overload
    async def put(self, url: str, **options: Unpack[RequestOptions]) -> httpx.Response: ...
    async def put(self, url: str, *, into: Any = None, **options: Unpack[RequestOptions]) -> Any:
        """Send a PUT request."""
        return await self.request("PUT", url, into=into, **options)

    @overload
    async def patch(self, url: str, *, into: type[T], **options: Unpack[RequestOptions]) -> T: ...
    @overload
    async def patch(self, url: str, **options: Unpack[RequestOptions]) -> httpx.Response: ...
    async def patch(self, url: str, *, into: Any = None, **options: Unpack[RequestOptions]) -> Any:
        """Send a PATCH request."""
        return await self.request("PATCH", url, into=into, **options)

    @overload
    async def delete(self, url: str, *, into: type[T], **options: Unpack[RequestOptions]) -> T: ...
    @overload
    async def delete(self, url: str, **options: Unpack[RequestOptions]) -> httpx.Response: ...
    async def delete(self, url: str, *, into: Any = None, **options: Unpack[RequestOptions]) -> Any:
        """Send a DELETE request."""
        return await self.request("DELETE", url, into=into, **options)

    async def head(self, url: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        """Send a HEAD request."""
        return await self.request("HEAD", url, **options)

    async def options(self, url: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        """Send an OPTIONS request."""
        return await self.request("OPTIONS", url, **options)

    def _scopes(self, scopes: Iterable[str] | None) -> tuple[str, ...]:
        return tuple(self._api.scopes if scopes is None else check_scopes(scopes))

    async def _call(
        self, method: str, url: str, options: RequestOptions, *, stream: bool = False
    ) -> tuple[Any, InteractionRequiredError | None]:
        """Return the response, and what it demands of the user; claims are tried once."""
        called_api.set(self.name)
        caller, api = self._caller, self._api
        client = await caller.client_for(api)
        request = build_request(client, self.name, api, method, url, options, caller.trace.headers)
        can_repeat = is_repeatable(request)  # some clients read the whole body when they send it
        scopes = self._scopes(options.get("scopes"))
        token = await caller.acquire_token(api, scopes)
        response = await self._send(client, request, token, stream=stream)
        demand = find_demand(response, caller)
        if demand is None or not drop_refused(caller, api, scopes, token, demand) or not can_repeat:
            return response, demand
        await response.aclose()
        token = await meet_claims(caller, api, scopes, demand)
        response = await self._send(client, request, token, stream=stream)
        again = find_demand(response, caller)
        drop_refused(caller, api, scopes, token, again, claims=demand.claims_challenge)
        return response, again

    async def _send(
        self, client: HTTPClient, request: Any, token: AccessToken, *, stream: bool
    ) -> Any:
        request.headers["Authorization"] = f"Bearer {token.token}"
        started = time.perf_counter()
        try:
            if is_traced():
                response = await self._send_traced(client, request, stream=stream)
            else:
                response = await send(client, request, stream=stream)
        except Exception as error:
            self._note(request.method, started, error=type(error).__name__)
            raise
        counts = self._caller.context.stats.counts
        counts["downstream.answered"] += 1
        counts["downstream.seconds"] += time.perf_counter() - started
        if is_metered() or logger.isEnabledFor(logging.DEBUG):
            self._note(request.method, started, status=response.status_code)
        return response

    async def _send_traced(self, client: HTTPClient, request: Any, *, stream: bool) -> Any:
        method = request.method
        with span(
            "downstream", is_client=True, api=self.name, http__request__method=method
        ) as current:
            if is_recording():
                self._hand_on(current, request)
            response = await send(client, request, stream=stream)
            status = response.status_code
            current.set_attribute("http.response.status_code", status)
            if status >= 400:
                current.set_attribute("error.type", str(status))
        return response

    def _hand_on(self, current: Span, request: Any) -> None:
        """Let the API's spans be children of ours, not of our caller's."""
        current.set_attribute("server.address", request.url.host)
        if request.url.port is not None:
            current.set_attribute("server.port", request.url.port)
        headers, copied = request.headers, self._caller.trace.headers
        if headers.get("traceparent") == copied.get("traceparent"):  # else the handler's own
            for name in ("traceparent", "tracestate"):
                headers.pop(name, None)
            headers.update(trace_headers())

    def _note(
        self, method: str, started: float, *, status: int | None = None, error: str | None = None
    ) -> None:
        """Tell how a call ended, and count it if it failed."""
        caller, failed = self._caller, error is not None
        seconds = time.perf_counter() - started
        if failed:
            caller.context.stats.counts["downstream.failed"] += 1
            caller.context.stats.counts["downstream.seconds"] += seconds
        record(
            "downstream",
            seconds,
            api=self.name,
            http__request__method=method,
            http__response__status_code=status,
            error__type=error,
        )
        emit(
            logger,
            logging.INFO if failed else logging.DEBUG,
            DOWNSTREAM_FAILED if failed else DOWNSTREAM_CALLED,
            "%s %s failed: %s" if failed else "%s %s answered %s",
            method,
            self.name,
            error if failed else status,
            api=self.name,
            tenant=caller.tenant_id,
            correlation_id=caller.trace.correlation_id,
            method=method,
            status=status,
            error=error,
            milliseconds=milliseconds(seconds),
        )
