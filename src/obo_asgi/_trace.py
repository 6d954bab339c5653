"""What a request hands on: its correlation id, its W3C trace context, its wish for freshness."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Final

CORRELATION_HEADER: Final = "client-request-id"
"""The name that Entra, Graph and Azure know; ours where the caller sends none."""

_CORRELATION_HEADERS: Final = (
    CORRELATION_HEADER,
    "x-ms-client-request-id",
    "x-correlation-id",
    "x-request-id",
)
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACE_PARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACE_STATE: Final = re.compile(r"[\t\x20-\x7e]{1,512}")
_CACHE_CONTROL: Final = "cache-control"
_NAMES: Final = {
    name.encode(): name
    for name in (*_CORRELATION_HEADERS, "traceparent", "tracestate", _CACHE_CONTROL)
}


def new_id() -> str:
    """Return a new id; it guards nothing, so it costs no system call, as `uuid.uuid4` does."""
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


class Trace:
    """What one request hands on, read from its headers when it is first asked for.

    Args:
        incoming: the headers of the request, as ASGI has them.
    """

    __slots__ = ("_headers", "_incoming")

    def __init__(self, incoming: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._incoming = incoming
        self._headers: Mapping[str, str] | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that go to downstream APIs, by lower-case name.

        An API behind this library forgets its own refusals for the sake of ``no-cache``, along a
        whole chain.
        """
        if self._headers is None:
            self._headers = _outgoing(self._incoming)
        return self._headers

    @property
    def correlation_id(self) -> str:
        """The caller's id for this request, or a new one."""
        return self.headers[CORRELATION_HEADER]

    @property
    def context(self) -> dict[str, str]:
        """The caller's trace context (W3C), by lower-case name of the header."""
        return _context(_texts(self._incoming))

    @property
    def wants_fresh(self) -> bool:
        """Whether the caller asks for a fresh answer (RFC 9111 section 5.2.1.4)."""
        return _CACHE_CONTROL in self.headers

    @property
    def echo(self) -> dict[str, str]:
        """The header for our own answer: the id under the caller's name for it, if there is one.

        Without the caller's id, and before anything was sent anywhere, there is none.
        """
        if self._headers is None and not _find_id(_texts(self._incoming)):
            return {}
        return dict([next(iter(self.headers.items()))])


def _texts(incoming: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return what is handed on, by name; the lines of one are joined (RFC 9110 section 5.3)."""
    texts: dict[str, str] = {}
    for line, value in incoming:
        name = _NAMES.get(line)
        if name is not None:
            text = value.decode("latin-1")
            texts[name] = f"{texts[name]},{text}" if name in texts else text
    return texts


def _find_id(received: Mapping[str, str]) -> str | None:
    """Return the name of the header that holds the caller's id."""
    for name in _CORRELATION_HEADERS:
        if name in received and _ID.fullmatch(received[name]):
            return name
    return None


def _outgoing(incoming: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    received = _texts(incoming)
    name = _find_id(received)
    correlation_id = new_id() if name is None else received[name]
    headers = dict.fromkeys((name or CORRELATION_HEADER, CORRELATION_HEADER), correlation_id)
    headers.update(_context(received))
    if "no-cache" in received.get(_CACHE_CONTROL, "").lower():
        headers[_CACHE_CONTROL] = "no-cache"
    return headers


def _context(received: Mapping[str, str]) -> dict[str, str]:
    if not _TRACE_PARENT.fullmatch(received.get("traceparent", "")):
        return {}
    context = {"traceparent": received["traceparent"]}
    if _TRACE_STATE.fullmatch(received.get("tracestate", "")):
        context["tracestate"] = received["tracestate"]
    return context
