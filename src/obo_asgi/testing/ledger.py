"""What was asked of the service: counters, and the requests to the token endpoint."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_MAX_REQUESTS: Final = 1000


@dataclass(frozen=True)
class TokenRequest:
    """A request that the token endpoint received."""

    tenant: str
    grant: str
    """The grant's name, such as ``on_behalf_of``; an unknown grant's type as it came."""
    client_id: str | None
    scope: str | None
    claims: str | None
    client_assertion_id: str | None
    """The ``jti`` of the client assertion, which may come again as long as it is valid."""
    client_request_id: str | None
    form: Mapping[str, str] = field(repr=False)
    """All form fields, secrets too."""
    headers: Mapping[str, str] = field(repr=False)
    """All header fields, by lower-case name."""


class Ledger:
    """Counters by endpoint and grant, and the last thousand token requests."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.requests: deque[TokenRequest] = deque(maxlen=_MAX_REQUESTS)

    def record(self, request: TokenRequest) -> None:
        """Count and keep a token request."""
        self.counts[request.grant] += 1
        self.requests.append(request)

    def reset(self) -> None:
        """Start from nothing."""
        self.counts.clear()
        self.requests.clear()
