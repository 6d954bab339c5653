"""The HTTP client that is used when the user brings none: httpx's API over aiohttp's engine.

Imported at the first open, in a thread, because httpx and aiohttp take their time.
"""

from __future__ import annotations

import ssl
import urllib.request
from contextvars import ContextVar

import aiohttp
import httpx
import yarl
from httpx_aiohttp import AiohttpTransport

from ._urls import is_link_local
from .errors import ConfigurationError

_CONNECTIONS_PER_HOST = 256


def create_ssl_context() -> ssl.SSLContext:
    """Load the trusted CAs (``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured); reads files.

    Raises:
        ConfigurationError: a file that the environment names cannot be loaded.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise ConfigurationError(
            f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR name cannot be loaded: {error}"
        ) from None


def create_client(ssl_context: ssl.SSLContext) -> httpx.AsyncClient:
    """Build a client that stores no cookies and bounds its connections per host.

    ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` are read now.

    Raises:
        ConfigurationError: a proxy that the environment names is not an http or https URL.
    """
    proxies = _proxies_by_scheme(urllib.request.getproxies())
    session = aiohttp.ClientSession(
        middlewares=[_send_url_as_given],
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(
            limit=0, limit_per_host=_CONNECTIONS_PER_HOST, ssl=ssl_context
        ),
    )
    client = httpx.AsyncClient(transport=_EnvironmentProxies(session, ssl_context, proxies))
    client._cookies = _NoCookies()
    return client


def _proxies_by_scheme(environment: dict[str, str]) -> dict[str, httpx.Proxy]:
    proxies = {}
    for scheme in ("http", "https"):
        url = environment.get(scheme) or environment.get("all")
        if url and not url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"the proxy that the environment names for {scheme} must be an http:// or "
                f"https:// URL: set {scheme.upper()}_PROXY to one, or pass an http_client"
            )
        if url:
            proxies[scheme] = httpx.Proxy(url)
    return proxies


_url: ContextVar[str] = ContextVar("obo_asgi_url")


async def _send_url_as_given(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from quoting the URL anew, which breaks opaque ones such as a ``nextLink``."""
    request.url = yarl.URL(_url.get(), encoded=True)
    return await handler(request)


class _NoCookies(httpx.Cookies):
    """Takes no cookies from responses; httpx spends a tenth of a call on those that it may not."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Leave them."""


class _EnvironmentProxies(httpx.AsyncBaseTransport):
    """Chooses a proxy for each request as the environment says.

    aiohttp's own ``trust_env`` is left off: it reads ``.netrc`` in a thread at every request, and
    fails where that file names a host for which we send a bearer token.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        ssl_context: ssl.SSLContext,
        proxies: dict[str, httpx.Proxy],
    ) -> None:
        self._direct = AiohttpTransport(verify=ssl_context, client=session)
        self._by_scheme = {
            scheme: AiohttpTransport(verify=ssl_context, client=session, proxy=proxy)
            for scheme, proxy in proxies.items()
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        token = _url.set(str(request.url))
        try:
            return await self._route(request.url).handle_async_request(request)
        finally:
            _url.reset(token)

    def _route(self, url: httpx.URL) -> AiohttpTransport:
        proxied = self._by_scheme.get(url.scheme)
        if proxied is None or is_link_local(url.host):  # no proxy knows this machine's metadata
            return self._direct
        by_passed = urllib.request.proxy_bypass(url.netloc.decode("ascii"))
        return self._direct if by_passed else proxied

    async def aclose(self) -> None:
        await self._direct.aclose()
