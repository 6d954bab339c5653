"""URLs that a token may travel to: which may be configured, and the fence around them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, unquote, urlsplit

from .errors import ConfigurationError

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_DECODES = 8
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|[0-9a-f.]*:[0-9a-f:.]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_loopback(host: str | None) -> bool:
    """Tell whether a host name or address means this machine."""
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_link_local(host: str | None) -> bool:
    """Tell whether an address is link-local, as that of Azure's metadata service is."""
    try:
        return ipaddress.ip_address(host or "").is_link_local
    except ValueError:
        return False


def origin(url: str | SplitResult) -> tuple[str, str, int]:
    """Return scheme, host and port of an absolute URL, in the form that can be compared."""
    parts = urlsplit(url) if isinstance(url, str) else url
    scheme = parts.scheme.lower()
    port = _DEFAULT_PORTS.get(scheme, 0) if parts.port is None else parts.port
    return scheme, parts.hostname or "", port


def check_base_url(url: str, *, name: str, loopback_http: bool = False) -> str:
    """Return a configured URL without its final slash.

    Raises:
        ConfigurationError: it is not an absolute https URL of a host and a path; http is accepted
            for this machine alone, and only where ``loopback_http`` says so.
    """
    if (
        not isinstance(url, str)
        or not url.isascii()
        or _FORBIDDEN.search(url)
        or url != url.strip()
    ):
        raise ConfigurationError(f"{name} must be a URL such as https://api.example.com")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"{name} is not a valid URL") from None
    if port == 0 or parts.netloc.endswith(":"):
        raise ConfigurationError(f"{name} must not name an empty port or port 0")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{name} must not hold a user name or password")
    if parts.scheme not in ("https", "http") or not host or not _HOST.fullmatch(host):
        raise ConfigurationError(f"{name} must be an absolute https URL, not {url!r}")
    if parts.scheme == "http" and not (loopback_http and is_loopback(host)):
        raise ConfigurationError(
            f"{name} must use https, not {url!r}: a token must not travel in clear"
            + (" (http is accepted for 127.0.0.1, ::1 and localhost)" if loopback_http else "")
        )
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ConfigurationError(f"{name} must end with its path, without a query")
    if _has_dot_segment(parts.path):
        raise ConfigurationError(f"{name} must not hold '.' or '..' segments: {url!r}")
    return url.rstrip("/")


def join_url(base_url: str, url: str) -> str:
    """Join a base URL (as `check_base_url` returns it) and a relative or absolute URL inside it.

    A leading slash is relative to the base path too: ``/me`` under ``https://host/v1.0`` is
    ``https://host/v1.0/me``. An absolute URL, such as an ``@odata.nextLink`` or a ``Location``,
    is accepted where it lies under the base URL.

    Raises:
        ConfigurationError: the result would leave the origin or the base path of the API.
    """
    if _FORBIDDEN.search(url):
        raise ConfigurationError("a downstream URL must not hold control characters or backslashes")
    if "#" in url:
        raise ConfigurationError("a downstream URL must not hold a fragment; write '#' as %23")
    if _is_absolute(url):
        return _inside(base_url, url)
    if url.startswith("//"):
        raise ConfigurationError("a downstream URL must not start with '//'")
    path, mark, query = url.partition("?")
    if _SCHEME.match(path):
        raise ConfigurationError("a downstream URL must be a path, or lie under the API's base URL")
    if _has_dot_segment(path):
        raise ConfigurationError("a downstream URL must not hold '.' or '..' segments")
    path = path.removeprefix("/")
    return base_url + ("/" + path if path else "") + mark + query


def _is_absolute(url: str) -> bool:
    return url[:8].lower().startswith(("https://", "http://"))


def _inside(base_url: str, url: str) -> str:
    try:
        parts, base = urlsplit(url), urlsplit(base_url)
        same_origin = origin(parts) == origin(base)
    except ValueError:
        raise ConfigurationError("a downstream URL is not valid") from None
    inside = parts.path == base.path or parts.path.startswith(base.path + "/")
    if not same_origin or not inside or "@" in parts.netloc or _has_dot_segment(parts.path):
        raise ConfigurationError(
            "an absolute downstream URL must lie under the API's own base URL; "
            "configure another DownstreamAPI for another host or path"
        )
    return url


def _has_dot_segment(path: str) -> bool:
    """Find ``.`` and ``..`` segments, backslashes and control characters at any decode depth.

    ``..;x`` counts as well: servlet containers drop what follows the semicolon. What is encoded
    more often than any server decodes counts too.
    """
    for _ in range(_MAX_DECODES):
        segments = {segment.partition(";")[0] for segment in path.split("/")}
        if _FORBIDDEN.search(path) or not segments.isdisjoint({".", ".."}):
            return True
        decoded = unquote(path)
        if decoded == path:
            return False
        path = decoded
    return True
