"""What is read of an incoming request: its path, its one token, and a few headers."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Final

from ._types import Scope
from .errors import ConfigurationError, InvalidTokenError

_TOKEN_CHARACTERS: Final = (string.ascii_letters + string.digits + "-._~+/").encode()


def bearer_token(scope: Scope) -> str | None:
    """Return the token of the one Authorization header; None if there is no such header.

    Raises:
        InvalidTokenError: more than one header, another scheme, or a malformed value.
    """
    values: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    # RFC 6750 section 2.1: one space, then the token; the scheme is case-insensitive (RFC 9110).
    scheme, _, token = values[0].partition(b" ")
    text = token.rstrip(b"=")
    is_token = bool(text) and not text.translate(None, _TOKEN_CHARACTERS)
    if len(values) > 1 or scheme.lower() != b"bearer" or not is_token:
        raise InvalidTokenError(
            "header", "the Authorization header is not exactly one 'Bearer <token>'"
        )
    return token.decode("ascii")


def is_preflight(scope: Scope) -> bool:
    """Tell a CORS preflight request."""
    return scope.get("method") == "OPTIONS" and {
        b"origin",
        b"access-control-request-method",
    } <= {name for name, _ in scope["headers"]}


def dispatched_path(scope: Scope) -> str:
    """Return the path that the app's router sees: without ``root_path``, on a segment boundary.

    As for Starlette's router, a root that ends in a slash stays, unless another slash follows it.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path == root and not root.endswith("/"):
        return "/"
    rest = path.removeprefix(root)
    return rest if rest.startswith("/") else path


def check_paths(paths: Iterable[str], argument: str) -> frozenset[str]:
    """Return the paths that an argument lists.

    Raises:
        ConfigurationError: they are no list of exact paths.
    """
    if isinstance(paths, str):
        raise ConfigurationError(f"{argument} must be a list: [{paths!r}], not {paths!r}")
    if not isinstance(paths, Iterable):
        raise ConfigurationError(f"{argument} must be a list of paths, not {paths!r}")
    listed = list(paths)
    for path in listed:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigurationError(f"{argument} are exact paths that start with '/': {path!r}")
        if any(mark in path for mark in "*{?#"):
            raise ConfigurationError(
                f"{argument} are exact paths, without patterns or queries: {path!r}"
            )
    return frozenset(listed)
