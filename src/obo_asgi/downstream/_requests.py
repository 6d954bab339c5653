"""What a call sends: options, headers and body, to a URL inside the API's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict
from urllib.parse import urlsplit

from .._bodies import encode_json
from .._http import MARK
from .._types import HTTPClient
from .._urls import join_url, origin
from ..config import DownstreamAPI, check_header
from ..errors import ConfigurationError

__all__ = ["RequestOptions", "build_request", "check_destination", "is_repeatable"]


class RequestOptions(TypedDict, total=False):
    """What a verb takes besides the URL and ``into``."""

    params: Any
    """The query, as httpx takes it."""
    headers: Mapping[str, str]
    """More headers; those of the protocol, of proxies and ``Authorization`` are refused."""
    json: Any
    """A body with a JSON form; also dataclasses, TypedDicts, Structs and pydantic models, and
    bytes that are JSON already."""
    content: Any
    """A body as bytes, text or an (asynchronous) iterable of bytes, which is sent as it comes."""
    data: Any
    """Form fields, as httpx takes them."""
    files: Any
    """Files to upload, as httpx takes them."""
    timeout: float
    """Seconds, instead of the API's own."""
    scopes: Iterable[str]
    """Scopes for this call alone, instead of the API's own."""


def build_request(
    client: HTTPClient,
    name: str,
    api: DownstreamAPI,
    method: str,
    url: str,
    options: RequestOptions,
    defaults: Mapping[str, str],
) -> Any:
    """Build a request of the client's own class, without a token yet.

    Args:
        client: who sends it.
        name: the API's name in the configuration.
        api: the API.
        method: the HTTP method.
        url: relative to the base URL, or an absolute URL under it.
        options: what the caller of the verb gave.
        defaults: headers that go along unless the API or the caller sets them.

    Raises:
        ConfigurationError: the URL leaves the API's base URL, or a header is reserved.
        TypeError: an option is unknown, or a body has no JSON form or is given twice.
    """
    if api.base_url is None:
        raise ConfigurationError(
            f"DownstreamAPI {name!r} has no base_url, so it gives tokens only: "
            "configure base_url to call it"
        )
    if unknown := options.keys() - RequestOptions.__annotations__.keys():
        raise TypeError(f"unknown option of a downstream call: {', '.join(sorted(unknown))}")
    headers = dict(defaults)
    for header, value in (*api.headers.items(), *(options.get("headers") or {}).items()):
        check_header(header, value)
        headers[header.lower()] = value
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
        extensions={MARK: name},
    )
    check_destination(api.base_url, str(request.url))
    return request


def check_destination(base_url: str, url: str) -> None:
    """Check on a request as a client built it where the token would go.

    Raises:
        ConfigurationError: it would leave the API's base URL.
    """
    if url.startswith(base_url) and url[len(base_url) :][:1] in ("", "/", "?"):
        return
    path = urlsplit(base_url).path
    target = urlsplit(url).path
    if origin(url) != origin(base_url) or not (target == path or target.startswith(path + "/")):
        raise ConfigurationError("the request would leave the base URL of the downstream API")


def is_repeatable(request: Any) -> bool:
    """Tell whether a request can be sent again: its body is at hand, not a stream."""
    try:
        return request.content is not None
    except RuntimeError:  # httpx: the body has not been read
        return False
