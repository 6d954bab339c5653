"""What a handler holds: the downstream APIs, each called as the user of the request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack, overload
from urllib.parse import urlsplit

from ._bodies import decode_json, encode_json
from ._http import MARK, failure_kind, send
from ._types import HTTPClient
from ._urls import join_url, origin
from .acquirer import Acquirer
from .config import DownstreamAPI, check_header, check_scopes
from .errors import (
    AccessDeniedError,
    ConfigurationError,
    DownstreamError,
    DownstreamTimeoutError,
)
from .tokens import AccessToken, Grant, User

if TYPE_CHECKING:
    import httpx

__all__ = ["APIClient", "Downstream", "DownstreamContext", "RequestOptions"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ERROR_BODY: Final = 64 * 1024
"""Bytes of a failed response's body that a DownstreamError keeps."""


class RequestOptions(TypedDict, total=False):
    """What a verb takes besides the URL and ``into``."""

    params: Any
    """The query, as httpx takes it."""
    headers: Mapping[str, str]
    """More headers; those of the protocol, of proxies and ``Authorization`` are refused."""
    json: Any
    """A body with a JSON form; also dataclasses, TypedDicts, Structs and pydantic models."""
    content: Any
    """A body as bytes, text or an (asynchronous) iterable of bytes."""
    data: Any
    """Form fields, as httpx takes them."""
    files: Any
    """Files to upload, as httpx takes them."""
    timeout: float
    """Seconds, instead of the API's own."""
    scopes: Iterable[str]
    """Scopes for this call alone, instead of the API's own."""


@dataclass(frozen=True, slots=True)
class DownstreamContext:
    """What all requests share: the configured APIs and how to reach them."""

    apis: Mapping[str, DownstreamAPI]
    acquirer: Acquirer
    client: Callable[[], HTTPClient]


class Downstream:
    """The downstream APIs by name, for one user; it ends with the request that it came with.

    Args:
        context: what all requests share.
        user: on whose behalf the APIs are called.
        grant: the user's right to tokens; None for callers without a user.
        bypass_failures: whether the caller asked for a fresh answer (``Cache-Control: no-cache``).
    """

    __slots__ = ("_bypass_failures", "_closed", "_context", "_grant", "user")

    def __init__(
        self,
        context: DownstreamContext,
        user: User,
        grant: Grant | None,
        *,
        bypass_failures: bool = False,
    ) -> None:
        self.user = user
        self._context = context
        self._grant = grant
        self._bypass_failures = bypass_failures
        self._closed = False

    def __getitem__(self, name: str) -> APIClient:
        """Return the API of this name.

        Raises:
            ConfigurationError: no API of this name is configured.
        """
        try:
            api = self._context.apis[name]
        except KeyError:
            known = ", ".join(sorted(self._context.apis)) or "none"
            raise ConfigurationError(
                f"no downstream API is called {name!r} (configured: {known}); "
                "add it to OnBehalfOf(downstream={…})"
            ) from None
        return APIClient(self, name, api)

    def __repr__(self) -> str:
        return f"Downstream({', '.join(self._context.apis)})"

    def close(self) -> None:
        """End it: from now on every call raises RuntimeError."""
        self._closed = True

    def belongs_to(self, context: DownstreamContext) -> bool:
        """Tell whether it was made from this context."""
        return self._context is context

    async def acquire_token(self, scopes: tuple[str, ...]) -> AccessToken:
        """Return the user's token for checked scopes; `APIClient.acquire_token` is for handlers."""
        if self._closed:
            raise RuntimeError(
                "this Downstream ended with its request; for work that goes on after the response, "
                "call start_session() during the request and resume the session"
            )
        if self._grant is None:
            raise AccessDeniedError(
                "an application calls for itself: there is no user to act for",
                error="access_denied",
            )
        return await self._context.acquirer.acquire_token(
            self._grant, scopes, bypass_failures=self._bypass_failures
        )

    def client_for(self, api: DownstreamAPI) -> HTTPClient:
        """Return the HTTP client that an API is called with."""
        return api.http_client or self._context.client()


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

    __slots__ = ("_api", "_downstream", "name")

    def __init__(self, downstream: Downstream, name: str, api: DownstreamAPI) -> None:
        self._downstream = downstream
        self.name = name
        self._api = api

    def __repr__(self) -> str:
        return f"APIClient({self.name!r})"

    async def acquire_token(self, scopes: Iterable[str] | None = None) -> AccessToken:
        """Return the user's token for this API.

        Args:
            scopes: instead of the API's own.
        """
        checked = self._api.scopes if scopes is None else check_scopes(scopes)
        return await self._downstream.acquire_token(tuple(checked))

    async def authorization_header(self, scopes: Iterable[str] | None = None) -> str:
        """Return the value of an ``Authorization`` header for this API."""
        return f"Bearer {(await self.acquire_token(scopes)).token}"

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
            response: httpx.Response = await self._send(method, url, options)
            return response
        try:
            response = await self._send(method, url, options)
        except Exception as error:
            kind = failure_kind(error)
            if kind is None:
                raise
        else:
            return self._read(response, into)
        # Raised out here, so that the client's error and the request in it do not ride along.
        raise self._unreachable(kind)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[httpx.Response]:
        """Call the API and read the response as it comes."""
        response: httpx.Response = await self._send(method, url, options, stream=True)
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

    async def _send(
        self, method: str, url: str, options: RequestOptions, *, stream: bool = False
    ) -> Any:
        client = self._downstream.client_for(self._api)
        request = self._build_request(client, method, url, options)
        header = await self.authorization_header(options.get("scopes"))
        request.headers["Authorization"] = header
        response = await send(client, request, stream=stream)
        logger.debug("%s %s answered %s", method, self.name, response.status_code)
        return response

    def _build_request(
        self, client: HTTPClient, method: str, url: str, options: RequestOptions
    ) -> Any:
        api = self._api
        if api.base_url is None:
            raise ConfigurationError(
                f"DownstreamAPI {self.name!r} has no base_url, so it gives tokens only: "
                "configure base_url to call it"
            )
        if unknown := options.keys() - RequestOptions.__annotations__.keys():
            raise TypeError(f"unknown option of a downstream call: {', '.join(sorted(unknown))}")
        headers: dict[str, str] = {}
        for name, value in (*api.headers.items(), *(options.get("headers") or {}).items()):
            check_header(name, value)
            headers[name.lower()] = value
        content = options.get("content")
        if options.get("json") is not None:
            if not {"content", "data", "files"}.isdisjoint(options):
                raise TypeError("a body is given twice: json= goes without content=, data=, files=")
            content = encode_json(options["json"])
            headers.setdefault("content-type", "application/json")
        request = client.build_request(
            method,
            join_url(api.base_url, url),
            params=options.get("params"),
            headers=headers,
            content=content,
            data=options.get("data"),
            files=options.get("files"),
            timeout=options.get("timeout", api.timeout),
            extensions={MARK: self.name},
        )
        _check_destination(api.base_url, str(request.url))
        return request

    def _read(self, response: httpx.Response, into: type[T]) -> T:
        if response.status_code >= 400:
            raise self._failure(response, f"answered with status {response.status_code}")
        try:
            return decode_json(response.content, into)
        except ValueError as error:
            failure = self._failure(response, f"sent a body that does not fit: {error}")
        raise failure

    def _failure(self, response: httpx.Response, what: str) -> DownstreamError:
        body = response.content[:MAX_ERROR_BODY]
        try:
            problem = decode_json(body, dict[str, Any])
        except ValueError:
            problem = None
        return DownstreamError(
            f"downstream API {self.name!r} {what}",
            api=self.name,
            status_code=response.status_code,
            headers=response.headers,
            body=body,
            problem=problem,
        )

    def _unreachable(self, kind: str) -> DownstreamError:
        if kind == "timeout":
            return DownstreamTimeoutError(
                f"downstream API {self.name!r} did not answer in time", api=self.name
            )
        return DownstreamError(f"downstream API {self.name!r} could not be reached", api=self.name)


def _check_destination(base_url: str, url: str) -> None:
    """Check once more, on the request as the client built it, where the token would go."""
    path = urlsplit(base_url).path
    target = urlsplit(url).path
    if origin(url) != origin(base_url) or not (target == path or target.startswith(path + "/")):
        raise ConfigurationError("the request would leave the base URL of the downstream API")
