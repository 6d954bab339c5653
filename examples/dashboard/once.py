"""Plays the whole demo without a browser, over TLS, and checks what it claims."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from .backstage import exchanges_of
from .world import PARTNER_API, World

CROWD: Final = 200
"""How many requests come at once to a web API that has no token for their user yet."""

_INTERLEAVED: Final = 20
_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Load:
    """One load of a dashboard, as the client saw it."""

    title: str
    milliseconds: float
    exchanges: int
    names: tuple[str, ...]
    """Whose data the three parts are, each name once."""
    is_good: bool


@dataclass(frozen=True)
class Crowd:
    """Simultaneous requests with one fresh token."""

    answered: int
    exchanges: int

    @property
    def is_good(self) -> bool:
        """Whether everybody was answered, by one exchange."""
        return (self.answered, self.exchanges) == (CROWD, 1)


@dataclass(frozen=True)
class Refusal:
    """What a bad token is answered with."""

    title: str
    status: int
    challenge: str

    @property
    def is_good(self) -> bool:
        """Whether it was refused as RFC 6750 demands."""
        return self.status == 401 and 'error="invalid_token"' in self.challenge


@dataclass(frozen=True)
class Report:
    """What was seen."""

    loads: list[Load]
    crowd: Crowd
    refusals: list[Refusal]

    @property
    def is_good(self) -> bool:
        """Whether everything was as it must be."""
        return (
            all(load.is_good for load in self.loads)
            and self.crowd.is_good
            and all(refusal.is_good for refusal in self.refusals)
        )


def play(world: World) -> Report:
    """Play all scenes in a running world."""
    return asyncio.run(_play(world))


async def _play(world: World) -> Report:
    context = ssl.create_default_context(cafile=world.ca_file)
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    transport = AiohttpTransport(client=aiohttp.ClientSession(connector=connector))
    async with httpx.AsyncClient(
        base_url=world.url, transport=transport, timeout=_SECONDS
    ) as client:
        player = _Player(world, client)
        alice, bob = await player.sign_in("alice"), await player.sign_in("bob")
        return Report(
            loads=[
                await player.load("alice, cold, first of all", alice, "Alice", exchanges=2),
                await player.load("alice, warm", alice, "Alice", exchanges=0),
                await player.load("bob, cold", bob, "Bob", exchanges=2),
                await player.load("bob, warm", bob, "Bob", exchanges=0),
                await player.load_interleaved({"Alice": alice, "Bob": bob}),
            ],
            crowd=await player.send_crowd(await player.sign_in("alice")),
            refusals=[await player.present(title, token) for title, token in _bad_tokens(world)],
        )


class _Player:
    """Does with an HTTP client what the page does in a browser."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self._world = world
        self._client = client

    async def sign_in(self, user: str) -> str:
        """Sign a user in (authorization code with PKCE) and return a fresh access token."""
        sign_in = self._world.sign_in
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        redirect_uri = f"{self._world.url}/"
        query = {
            "response_type": "code",
            "client_id": sign_in.client_id,
            "redirect_uri": redirect_uri,
            "scope": sign_in.scope,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        picked = await self._client.post(sign_in.authorize_url, params=query, data={"user": user})
        [code] = parse_qs(urlsplit(picked.headers["Location"]).query)["code"]
        form = {
            "grant_type": "authorization_code",
            "client_id": sign_in.client_id,
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
            "scope": sign_in.scope,
        }
        answer = await self._client.post(sign_in.token_url, data=form)
        token: str = answer.raise_for_status().json()["access_token"]
        return token

    async def load(self, title: str, token: str, name: str, *, exchanges: int) -> Load:
        """Load a dashboard, which must be this person's and cost so many exchanges."""
        before = exchanges_of(self._world.entra, token)
        started = time.perf_counter()
        names = await self._names(token)
        milliseconds = _since(started)
        made = exchanges_of(self._world.entra, token) - before
        is_good = names == {name} and made == exchanges
        return Load(title, milliseconds, made, tuple(sorted(names)), is_good)

    async def load_interleaved(self, tokens: dict[str, str]) -> Load:
        """Load the dashboards of several people at the same time, many times over."""
        before = self._world.entra.exchanges
        people = list(tokens) * (_INTERLEAVED // len(tokens))
        started = time.perf_counter()
        seen = await asyncio.gather(*(self._names(tokens[name]) for name in people))
        milliseconds = _since(started)
        made = self._world.entra.exchanges - before
        is_good = made == 0 and all(
            names == {name} for name, names in zip(people, seen, strict=True)
        )
        title = f"both, {len(people)} at once, warm"
        names = tuple(sorted({name for names in seen for name in names}))
        return Load(title, milliseconds, made, names, is_good)

    async def send_crowd(self, token: str) -> Crowd:
        """Let a crowd, all of them let in at the same moment, ask for the partner's part."""
        with self._world.starting_line.hold(CROWD):
            answers = await asyncio.gather(*(self._get("/data", token) for _ in range(CROWD)))
        answered = sum(answer.status_code == 200 for answer in answers)
        return Crowd(answered, exchanges_of(self._world.entra, token))

    async def present(self, title: str, token: str) -> Refusal:
        """Ask for a dashboard with a bad token."""
        answer = await self._get("/dashboard", token)
        return Refusal(title, answer.status_code, answer.headers.get("WWW-Authenticate", ""))

    async def _names(self, token: str) -> set[str]:
        """Return the names of those whose data a dashboard shows."""
        parts: dict[str, Any] = (await self._get("/dashboard", token)).raise_for_status().json()
        return {
            parts["me"]["displayName"],
            parts["data"]["owner"],
            parts["settings"]["owner"],
        }

    async def _get(self, path: str, token: str) -> httpx.Response:
        return await self._client.get(path, headers={"Authorization": f"Bearer {token}"})


def _bad_tokens(world: World) -> Iterator[tuple[str, str]]:
    entra = world.entra
    yield "forged signature", entra.token(key=entra.unpublished_key().private_key)
    yield "expired", entra.token(lifetime=-3600)
    yield "for another audience", entra.token(audience=PARTNER_API)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def format_report(report: Report, *, colour: bool = False) -> str:
    """Return the report as a table."""
    lines = [f"{'dashboard':<28}{'ms':>8}{'exchanges':>11}   shows the data of"]
    for load in report.loads:
        text = f"{load.title:<28}{load.milliseconds:>8.1f}{load.exchanges:>11}"
        lines.append(f"{text}   {', '.join(load.names):<13}{_mark(load.is_good, colour)}")
    crowd = report.crowd
    plural = "" if crowd.exchanges == 1 else "s"
    text = f"{CROWD} simultaneous cold requests → {crowd.exchanges} exchange{plural}"
    details = f"({crowd.answered} answered)"
    lines += ["", f"{text}  {details}  {_mark(crowd.is_good, colour)}"]
    lines += ["", f"{'refused token':<28}status"]
    for refusal in report.refusals:
        lines.append(f"{refusal.title:<28}{refusal.status:<9}{_mark(refusal.is_good, colour)}")
        lines.append(f"    WWW-Authenticate: {refusal.challenge}")
    verdict = "All is as it must be." if report.is_good else "Something is NOT as it must be."
    return "\n".join([*lines, "", verdict])


def _mark(is_good: bool, colour: bool) -> str:
    text = "ok" if is_good else "WRONG"
    return f"\x1b[{32 if is_good else 31}m{text}\x1b[0m" if colour else text
