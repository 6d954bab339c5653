"""The ``claims`` parameter (OpenID Connect Core section 5.5), as far as Entra uses it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from .aadsts import EntraError

_STEP_UP: Final = ("acrs", "capolids")


@dataclass(frozen=True)
class ClaimsRequest:
    """A claims parameter, understood."""

    capabilities: tuple[str, ...] = ()
    """What the client declares that it can handle, such as ``cp1`` (``xms_cc``)."""
    step_up: dict[str, Any] = field(default_factory=dict)
    """The claims that only a sign-in with multi-factor authentication brings."""

    @property
    def step_up_challenge(self) -> str | None:
        """The claims challenge that a client must take to its user, as JSON, if there is one."""
        if not self.step_up:
            return None
        return json.dumps({"access_token": self.step_up}, separators=(",", ":"))

    def token_claims(self) -> dict[str, Any]:
        """Return the claims that a token holds because they were asked for."""
        claims: dict[str, Any] = {}
        if self.capabilities:
            claims["xms_cc"] = list(self.capabilities)
        if "acrs" in self.step_up:
            claims["acrs"] = list(_values(self.step_up["acrs"]))
        return claims


def parse_claims(text: str | None) -> ClaimsRequest:
    """Understand a claims parameter.

    Raises:
        EntraError: it is no JSON object of the expected form.
    """
    if not text:
        return ClaimsRequest()
    try:
        wanted = json.loads(text).get("access_token") or {}
        capabilities = _values(wanted.get("xms_cc"))
        step_up = {name: wanted[name] for name in _STEP_UP if name in wanted}
    except (AttributeError, TypeError, ValueError):
        raise EntraError(9002313, text="The claims parameter is malformed.") from None
    return ClaimsRequest(capabilities, step_up)


def _values(wanted: Any) -> tuple[str, ...]:
    """Return the ``values`` (or the one ``value``) of a claim that is asked for."""
    if wanted is None:
        return ()
    values = wanted.get("values") or [value for value in [wanted.get("value")] if value]
    return tuple(map(str, values))
