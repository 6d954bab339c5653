"""What a test orders to go wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ._asgi import Response
from .aadsts import EntraError
from .world import World


class Trouble:
    """The part of `FakeEntra` that makes it fail; from any thread, at any time.

    Ordered failures come before all checks, in the order of their commands; where a user is named,
    only requests about that user meet them.
    """

    _world: World

    @property
    def down(self) -> frozenset[str] | bool:
        """What cannot be reached: True, False, or some of the endpoints.

        They are ``keys``, ``metadata``, ``token`` and ``managed_identity``. In process a
        connection to one that is down fails, over a socket the answer is 503.
        """
        return self._world.faults.down

    @down.setter
    def down(self, value: bool | str | Collection[str]) -> None:
        self._world.faults.down = value

    @property
    def latency(self) -> float:
        """Seconds that every answer takes."""
        return self._world.faults.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._world.faults.latency = seconds

    def throttle(self, user: str | None = None, *, retry_after: int = 60) -> None:
        """Answer 429 to a user's token requests for that many seconds, or until `recover`."""
        with self._world.lock:
            error = EntraError(90055, retry_after=retry_after)
            self._world.faults.add(error, user=user, times=float("inf"), seconds=retry_after)

    def fail(
        self,
        aadsts: int,
        *,
        user: str | None = None,
        times: float = 1,
        claims: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Refuse the next token request(s) with an AADSTS number, in Entra's wire form.

        Args:
            aadsts: one of the known numbers, such as 53003; else `KeyError`.
            user: only requests about this user.
            times: how many requests; ``math.inf`` until `recover`.
            claims: the claims challenge (JSON) in place of the usual one; "" for none.
            retry_after: seconds for the ``Retry-After`` header.
        """
        with self._world.lock:
            error = EntraError(aadsts, claims=claims, retry_after=retry_after)
            self._world.faults.add(error, user=user, times=times)

    def fail_next(
        self,
        status: int = 503,
        body: bytes | str = b"",
        *,
        headers: Mapping[str, str] | None = None,
        content_type: str = "text/html",
        user: str | None = None,
        times: float = 1,
    ) -> None:
        """Answer the next token request(s) with this, whatever they ask."""
        raw = body.encode() if isinstance(body, str) else body
        answer = Response(status, raw, {"content-type": content_type, **(headers or {})})
        with self._world.lock:
            self._world.faults.add(answer, user=user, times=times)

    def recover(self) -> None:
        """End all trouble: outage, latency, throttling and ordered failures."""
        with self._world.lock:
            self._world.faults.clear()
