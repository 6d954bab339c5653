"""Small types that every floor needs: ASGI, the HTTP client, secrets, GUIDs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn, Protocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_guid(value: object) -> bool:
    """Tell whether a value is a GUID in its usual text form."""
    return isinstance(value, str) and _GUID.fullmatch(value) is not None


class HTTPClient(Protocol):
    """What this library uses of an ``httpx.AsyncClient``; httpx2's fits as well."""

    @property
    def build_request(self) -> Callable[..., Any]: ...

    @property
    def send(self) -> Callable[..., Awaitable[Any]]: ...

    @property
    def aclose(self) -> Callable[[], Awaitable[None]]: ...


class Secret:
    """A string that shows itself to nobody: not in a repr, not in ``vars()``, not in a pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself; keep it out of the local variables of frames that may raise."""
        return self._value

    def __repr__(self) -> str:
        return f"{type(self).__name__}('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not pickled; build it where it is needed")
