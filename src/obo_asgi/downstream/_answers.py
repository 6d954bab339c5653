"""What a call returns: a body read into a type, or an error that says what went wrong."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from .._bodies import decode_body, decode_json
from ..errors import DownstreamError, DownstreamTimeoutError

__all__ = ["read", "unreachable"]

T = TypeVar("T")

MAX_ERROR_BODY: Final = 64 * 1024
"""Bytes of a failed response's body that a DownstreamError keeps."""


def read(api: str, response: Any, into: type[T]) -> T:
    """Read a response's body into a type.

    Raises:
        DownstreamError: the status is 400 or above, or the body does not fit.
        TypeError: JSON cannot be read into the type.
    """
    if response.status_code >= 400:
        raise _failure(api, response, f"answered with status {response.status_code}")
    content_type = response.headers.get("content-type", "")
    try:
        return decode_body(response.content, content_type, into)
    except ValueError as error:
        failure = _failure(api, response, f"sent a body that does not fit: {error}")
    raise failure


def unreachable(api: str, kind: str) -> DownstreamError:
    """Return the error for a call without an answer; ``kind`` is that of `failure_kind`."""
    if kind == "timeout":
        return DownstreamTimeoutError(f"downstream API {api!r} did not answer in time", api=api)
    return DownstreamError(f"downstream API {api!r} could not be reached", api=api)


def _failure(api: str, response: Any, what: str) -> DownstreamError:
    body = response.content[:MAX_ERROR_BODY]
    try:
        problem = decode_json(body, dict[str, Any])
    except ValueError:
        problem = None
    return DownstreamError(
        f"downstream API {api!r} {what}",
        api=api,
        status_code=response.status_code,
        headers=response.headers,
        body=body,
        problem=problem,
    )
