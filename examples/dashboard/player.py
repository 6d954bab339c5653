"""Does with an HTTP client what a person and the page do in a browser."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import ssl
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from .backstage import PREFIX, exchanges_of
from .world import World

_SECONDS: Final = 30.0


@contextlib.asynccontextmanager
async def open_player(world: World) -> AsyncIterator[Player]:
    """Give a player in a running world."""
    context = ssl.create_default_context(cafile=world.ca_file)
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    transport = AiohttpTransport(client=aiohttp.ClientSession(connector=connector))
    async with httpx.AsyncClient(
        base_url=world.url, transport=transport, timeout=_SECONDS
    ) as client:
        yield Player(world, client)


class Player:
    """A person with a browser; agrees to whatever the sign-in pages ask."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self.world = world
        self._client = client

    async def sign_in(self, user: str, **parameters: str) -> str:
        """Sign a user in (authorization code with PKCE) and return a fresh access token.

        Args:
            user: who.
            parameters: of the authorization request, besides or instead of the usual ones.
        """
        sign_in = self.world.sign_in
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": sign_in.client_id,
            "redirect_uri": f"{self.world.url}/",
            "scope": sign_in.scope,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            **parameters,
        }
        answer = await self._agree(f"{sign_in.authorize_url}?{urlencode(query)}", user)
        form = {
            "grant_type": "authorization_code",
            "client_id": sign_in.client_id,
            "code": answer["code"],
            "code_verifier": verifier,
            "redirect_uri": query["redirect_uri"],
            "scope": query["scope"],
        }
        tokens = await self._client.post(sign_in.token_url, data=form)
        token: str = tokens.raise_for_status().json()["access_token"]
        return token

    async def consent(self, consent_uri: str, user: str) -> bool:
        """Consent on the page of a challenge; return whether it has sent the browser back."""
        state = secrets.token_urlsafe(16)
        answer = await self._agree(f"{consent_uri}&{urlencode({'state': state})}", user)
        return answer.get("state") == state and "error" not in answer

    async def get(self, path: str, token: str, *, fresh: bool = False) -> httpx.Response:
        """Call the web API; fresh: past what it remembers of its last refusal."""
        headers = {"Authorization": f"Bearer {token}"}
        return await self._client.get(
            path, headers=headers | ({"Cache-Control": "no-cache"} if fresh else {})
        )

    async def command(self, name: str, token: str) -> None:
        """Make trouble for the user of a token."""
        headers = {"Authorization": f"Bearer {token}"}
        answer = await self._client.post(f"{PREFIX}{name}", headers=headers)
        answer.raise_for_status()

    def exchanges(self, token: str) -> int:
        """Return how many exchanges a token was used for so far."""
        return exchanges_of(self.world.entra, token)

    async def _agree(self, url: str, user: str) -> dict[str, str]:
        """Fill the sign-in pages' forms, and return what the browser brings back."""
        form = {"user": user, "mfa": "done", "consent": "accept"}
        answer = await self._client.post(url, data=form)
        query = urlsplit(answer.headers["Location"]).query
        return {name: values[0] for name, values in parse_qs(query).items()}
