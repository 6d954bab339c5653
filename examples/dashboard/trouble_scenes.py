"""Scenes in which something goes wrong, and what a client does about it."""

from __future__ import annotations

import json

import httpx

from obo_asgi.challenges import Challenge, parse_challenge

from .player import Player
from .report import Step, count

GRAPH_SCOPE = "https://graph.microsoft.com/User.Read"


async def play_trouble(player: Player, user: str) -> list[Step]:
    """Play all of them, one after the other; each ends its own trouble."""
    scenes = _Scenes(player, user)
    await scenes.consent()
    await scenes.step_up()
    await scenes.revocation()
    await scenes.silent_renewal()
    await scenes.failing_partner()
    return scenes.steps


class _Scenes:
    """The scenes, and the steps that they have taken so far."""

    def __init__(self, player: Player, user: str) -> None:
        self._player = player
        self._user = user
        self.steps: list[Step] = []

    async def consent(self) -> None:
        """Consent counts for the app that exchanges, which is the web API, not the client."""
        token = await self._sign_in()
        await self._player.command("withdraw-consent", token)
        token = await self._sign_in()
        wanted = f"consent_required for {GRAPH_SCOPE}"
        challenge = await self._load("consent withdrawn, new sign-in", token, 401, wanted)
        await self._sign_in(scope=" ".join(challenge.scopes), prompt="consent")
        another = await self._sign_in()
        await self._load("  consent given to the client app (spa) alone", another, 401, wanted)
        if challenge.consent_uri:
            await self._player.consent(challenge.consent_uri, self._user)
        await self._load("  consent given on consent_uri, same token", token, 200, fresh=True)
        await self._player.command("end", token)

    async def step_up(self) -> None:
        """A demand for another factor travels to the client, and its claims to the sign-in."""
        token = await self._sign_in()
        await self._player.command("demand-mfa", token)
        token = await self._sign_in()
        wanted = "insufficient_claims: capolids"
        challenge = await self._load("MFA demanded, new sign-in", token, 401, wanted)
        token = await self._sign_in(claims=challenge.claims or "")
        await self._load("  signed in again with these claims", token, 200)
        await self._player.command("end", token)

    async def revocation(self) -> None:
        """A revoked user's token is refused before its end, and no new one is to be had for it."""
        token = await self._sign_in()
        await self._load("before the revocation", token, 200)
        await self._player.command("revoke", token)
        challenge = await self._load("revoked (CAE)", token, 401, "insufficient_claims: nbf")
        token = await self._sign_in(claims=challenge.claims or "")
        await self._load("  signed in again with these claims", token, 200)
        await self._player.command("end", token)

    async def silent_renewal(self) -> None:
        """A token that alone is refused is replaced, and the caller notices nothing."""
        token, partner = await self._sign_in(), self._player.world.partner
        await self._player.get("/data", token)
        await self._player.command("refuse-tokens", token)
        calls, exchanges = partner.calls, self._player.exchanges(token)
        answer = await self._player.get("/data", token)
        calls, exchanges = partner.calls - calls, self._player.exchanges(token) - exchanges
        outcome = f"unnoticed: {count(calls, 'call')}, {count(exchanges, 'more exchange')}"
        is_good = (answer.status_code, calls, exchanges) == (200, 2, 1)
        self._note("token refused (CAE), user still signed in", answer, outcome, is_good)
        await self._player.command("end", token)

    async def failing_partner(self) -> None:
        """Whatever the partner's API does, Graph's part is there."""
        token = await self._sign_in()
        for command, title, reason in [
            ("partner-down", "partner API down (503)", "not available now"),
            ("partner-slow", "partner API slow", "did not answer in time"),
            ("partner-404", "partner API: 404", "not found"),
        ]:
            await self._player.command(command, token)
            wanted = f"me; data: {reason}, settings: {reason}"
            await self._load(title, token, 200, wanted)
        await self._player.command("end", token)
        await self._load("  after the trouble, same token", token, 200)

    async def _sign_in(self, **parameters: str) -> str:
        return await self._player.sign_in(self._user, **parameters)

    async def _load(
        self, title: str, token: str, status: int, wanted: str = "complete", *, fresh: bool = False
    ) -> Challenge:
        """Load a dashboard, note whether its outcome is as wanted, return the challenge."""
        answer = await self._player.get("/dashboard", token, fresh=fresh)
        challenge = parse_challenge(answer) or Challenge()
        outcome = _parts(answer.json()) if answer.is_success else _demand(challenge)
        is_good = (answer.status_code, outcome) == (status, wanted)
        self._note(title, answer, outcome, is_good)
        return challenge

    def _note(self, title: str, answer: httpx.Response, outcome: str, is_good: bool) -> None:
        header = answer.headers.get("WWW-Authenticate", "")
        self.steps.append(Step(title, answer.status_code, outcome, header, is_good))


def _parts(dashboard: dict[str, object]) -> str:
    """Say which parts a dashboard has, and why the others are missing."""
    failures = dashboard["failures"]
    assert isinstance(failures, dict)
    if not failures:
        return "complete"
    there = [name for name in ("me", "data", "settings") if dashboard[name]]
    reasons = [f"{name}: {reason}" for name, reason in failures.items()]
    return f"{', '.join(there) or 'nothing'}; {', '.join(reasons)}"


def _demand(challenge: Challenge) -> str:
    """Say what a client understands of a challenge."""
    if challenge.claims:
        names = json.loads(challenge.claims).get("access_token", {})
        return f"{challenge.error}: {', '.join(names)}"
    return f"{challenge.error} for {' '.join(challenge.scopes)}"
