"""What can go wrong, on command: consent, sign-ins, tokens, and the partner's API."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Literal

from obo_asgi.testing import FakeEntra

from .asgi import ASGIApp, Receive, Response, Scope, Send, send_response

Fault = Literal["down", "slow", "missing"]

_ANSWERS: Final[Mapping[Fault, Response]] = {
    "down": Response(b"Service Unavailable\n", status=503, headers={"Retry-After": "3"}),
    "missing": Response(b"Not Found\n", status=404),
}
_SLOW_SECONDS: Final = 20.0
_TICK: Final = 0.01


class FaultSwitch:
    """Stands before an app, counts its calls, and lets them fail while `fault` says how."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.calls = 0
        """How many requests came."""
        self.fault: Fault | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.calls += 1
            if self.fault == "slow":
                await _wait_for_disconnect(receive, _SLOW_SECONDS)
            elif self.fault is not None:
                await send_response(_ANSWERS[self.fault], send)
                return
        await self._app(scope, receive, send)


class Trouble:
    """The trouble that can be ordered: one at a time, so that each one shows.

    Args:
        entra: the sign-in service.
        partner: the partner's API.
        partner_api: its Application ID URI.
        not_before: where the partner's API reads from when on a user's tokens must be.
    """

    def __init__(
        self,
        entra: FakeEntra,
        partner: FaultSwitch,
        *,
        partner_api: str,
        not_before: dict[str, int],
    ) -> None:
        self._entra = entra
        self._partner = partner
        self._partner_api = partner_api
        self._not_before = not_before
        self._commands: Mapping[str, Callable[[str], Awaitable[None]]] = {
            "withdraw-consent": self._withdraw_consent,
            "demand-mfa": self._demand_mfa,
            "revoke": self._revoke,
            "refuse-tokens": self._refuse_tokens,
            "partner-down": partial(self._break_partner, "down"),
            "partner-slow": partial(self._break_partner, "slow"),
            "partner-404": partial(self._break_partner, "missing"),
            "end": self._end,
        }
        self.names = tuple(self._commands)
        """What can be ordered."""

    async def order(self, name: str, user: str) -> None:
        """End the trouble that a user is in, and make another; ``"end"`` makes none."""
        await self._end(user)
        await self._commands[name](user)

    async def _withdraw_consent(self, user: str) -> None:
        """Take the user's consent to the web API away, as far as Graph is concerned."""
        self._entra.withdraw_consent(user, resource="graph")

    async def _demand_mfa(self, user: str) -> None:
        """Demand multi-factor authentication for new tokens of the partner's API."""
        self._entra.require_mfa(user, self._partner_api)

    async def _revoke(self, user: str) -> None:
        """End the user's sessions, and tell the partner's API."""
        self._entra.revoke(user)
        await self._refuse_tokens(user)

    async def _refuse_tokens(self, user: str) -> None:
        """Let the partner's API refuse the user's tokens up to now.

        Tokens tell the time in whole seconds, so it returns when the running second is over.
        """
        moment = int(time.time()) + 1
        self._not_before[self._entra.user(user).oid] = moment
        await asyncio.sleep(moment - time.time() + _TICK)

    async def _break_partner(self, fault: Fault, user: str) -> None:
        self._partner.fault = fault

    async def _end(self, user: str) -> None:
        self._entra.grant_consent(user, resource="graph")
        self._entra.waive_mfa(user, self._partner_api)
        self._not_before.pop(self._entra.user(user).oid, None)
        self._partner.fault = None


async def _wait_for_disconnect(receive: Receive, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
