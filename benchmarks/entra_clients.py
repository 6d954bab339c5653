"""The peers that get tokens from Entra, MSAL over requests and azure-identity, and the limit."""

from __future__ import annotations

import base64
import json
import ssl
import time
from typing import Any
from urllib.parse import urlencode

import aiohttp

from .world import Settings

CONNECTIONS = 256
"""As many as our own client opens to one host."""


def msal_client(settings: Settings) -> Any:
    """Return MSAL's client over a requests session that keeps enough connections."""
    import msal
    import requests

    session = requests.Session()
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
    return msal.ConfidentialClientApplication(
        settings["client_id"],
        client_credential=settings["client_secret"],
        authority=f"{settings['authority']}/{settings['tenant_id']}",
        instance_discovery=False,
        http_client=session,
    )


def add_account(client: Any, settings: Settings, name: str, token: str, scopes: list[str]) -> None:
    """Put what Entra answered to one user's exchange into MSAL's token cache."""
    ids = json.dumps({"uid": name, "utid": settings["tenant_id"]}).encode()
    client.token_cache.add(
        {
            "client_id": client.client_id,
            "scope": scopes,
            "token_endpoint": client.authority.token_endpoint,
            "environment": client.authority.instance,
            "response": {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": 3600,
                "client_info": base64.urlsafe_b64encode(ids).decode(),
                "id_token_claims": {"preferred_username": f"{name}@contoso.example"},
            },
        }
    )


def azure_credential(settings: Settings, token: str, transport: Any) -> Any:
    """Return azure-identity's credential for one user; they share a transport."""
    from azure.identity.aio import OnBehalfOfCredential

    return OnBehalfOfCredential(
        settings["tenant_id"],
        settings["client_id"],
        client_secret=settings["client_secret"],
        user_assertion=token,
        authority=settings["authority"],
        disable_instance_discovery=True,
        transport=transport,
    )


def azure_transport(session: aiohttp.ClientSession) -> Any:
    """Return the transport over a session that keeps its connections."""
    from azure.core.pipeline.transport import AioHttpTransport

    return AioHttpTransport(session=session, session_owner=False)


def open_session(settings: Settings) -> aiohttp.ClientSession:
    """Return aiohttp's session with as many connections as ours."""
    context = ssl.create_default_context(cafile=settings["ca_file"])
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS, ssl=context)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class RawExchange:
    """The limit: one POST with a form that is put together by hand."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._url = f"{settings['authority']}/{settings['tenant_id']}/oauth2/v2.0/token"
        self._session = session
        self._form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "client_id": settings["client_id"],
            "client_secret": settings["client_secret"],
            "requested_token_use": "on_behalf_of",
        }

    async def __call__(self, assertion: str, scope: str) -> tuple[str, float]:
        """Return a token and when it ends."""
        form = urlencode({**self._form, "assertion": assertion, "scope": scope})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with self._session.post(self._url, data=form, headers=headers) as response:
            answer = json.loads(await response.read())
        return answer["access_token"], time.time() + answer["expires_in"]
