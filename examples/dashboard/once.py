"""Plays the whole demo without a browser, over TLS, and checks what it claims."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

from .player import Player, open_player
from .report import CROWD, Crowd, Load, Refusal, Report
from .trouble_scenes import play_trouble
from .world import PARTNER_API, World

_INTERLEAVED: Final = 20


def play(world: World) -> Report:
    """Play all scenes in a running world."""
    return asyncio.run(_play(world))


async def _play(world: World) -> Report:
    async with open_player(world) as player:
        alice, bob = await player.sign_in("alice"), await player.sign_in("bob")
        return Report(
            loads=[
                await _load(player, "alice, cold, first of all", alice, "Alice", exchanges=2),
                await _load(player, "alice, warm", alice, "Alice", exchanges=0),
                await _load(player, "bob, cold", bob, "Bob", exchanges=2),
                await _load(player, "bob, warm", bob, "Bob", exchanges=0),
                await _load_interleaved(player, {"Alice": alice, "Bob": bob}),
            ],
            crowd=await _send_crowd(player, await player.sign_in("alice")),
            refusals=[await _present(player, *bad) for bad in _bad_tokens(world)],
            steps=await play_trouble(player, "alice"),
        )


async def _load(player: Player, title: str, token: str, name: str, *, exchanges: int) -> Load:
    """Load a dashboard, which must be this person's and cost so many exchanges."""
    before = player.exchanges(token)
    started = time.perf_counter()
    names = await _names(player, token)
    milliseconds = _since(started)
    made = player.exchanges(token) - before
    is_good = names == {name} and made == exchanges
    return Load(title, milliseconds, made, tuple(sorted(names)), is_good)


async def _load_interleaved(player: Player, tokens: dict[str, str]) -> Load:
    """Load the dashboards of several people at the same time, many times over."""
    before = player.world.entra.exchanges
    people = list(tokens) * (_INTERLEAVED // len(tokens))
    started = time.perf_counter()
    seen = await asyncio.gather(*(_names(player, tokens[name]) for name in people))
    milliseconds = _since(started)
    made = player.world.entra.exchanges - before
    is_good = made == 0 and all(names == {name} for name, names in zip(people, seen, strict=True))
    title = f"both, {len(people)} at once, warm"
    names = tuple(sorted({name for names in seen for name in names}))
    return Load(title, milliseconds, made, names, is_good)


async def _send_crowd(player: Player, token: str) -> Crowd:
    """Let a crowd, all of them let in at the same moment, ask for the partner's part."""
    with player.world.starting_line.hold(CROWD):
        answers = await asyncio.gather(*(player.get("/data", token) for _ in range(CROWD)))
    answered = sum(answer.status_code == 200 for answer in answers)
    return Crowd(answered, player.exchanges(token))


async def _present(player: Player, title: str, token: str) -> Refusal:
    """Ask for a dashboard with a bad token."""
    answer = await player.get("/dashboard", token)
    return Refusal(title, answer.status_code, answer.headers.get("WWW-Authenticate", ""))


async def _names(player: Player, token: str) -> set[str]:
    """Return the names of those whose data a dashboard shows; a missing part is ``"?"``."""
    answer = await player.get("/dashboard", token)
    parts: dict[str, Any] = answer.raise_for_status().json()
    keys = {"me": "displayName", "data": "owner", "settings": "owner"}
    return {(parts[part] or {}).get(key, "?") for part, key in keys.items()}


def _bad_tokens(world: World) -> Iterator[tuple[str, str]]:
    entra = world.entra
    yield "forged signature", entra.token(key=entra.unpublished_key().private_key)
    yield "expired", entra.token(lifetime=-3600)
    yield "for another audience", entra.token(audience=PARTNER_API)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
