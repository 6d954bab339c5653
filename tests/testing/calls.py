"""What the tests of FakeEntra share: requests to it by plain httpx."""

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt

from obo_asgi import AppRegistration, ClientSecret
from obo_asgi.testing import FakeEntra

PARTNER = "api://partner-api-id"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
REDIRECT_URI = "http://localhost:5173/callback"
VERIFIER = "a-verifier-that-is-long-enough-for-the-rules-of-rfc-7636"
CHALLENGE = (
    base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
)


def secret_of(registration: AppRegistration) -> str:
    """Return the client secret of a registration."""
    credential = registration.client_credential
    assert isinstance(credential, ClientSecret)
    return credential.reveal()


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token, unverified."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def answer_in(response: httpx.Response) -> dict[str, str]:
    """Return what an authorization response carries in its redirect's query or fragment."""
    assert 302 == response.status_code, response.text
    location = urlsplit(response.headers["location"])
    return {
        name: values[0] for name, values in parse_qs(location.query + location.fragment).items()
    }


class Calls:
    """Requests to one FakeEntra; a field given as None is left out."""

    def __init__(self, entra: FakeEntra, client: httpx.AsyncClient) -> None:
        self.entra = entra
        self.client = client

    async def token(
        self,
        tenant: str | None = None,
        headers: Mapping[str, str] | None = None,
        **form: str | None,
    ) -> httpx.Response:
        """Ask the token endpoint, as the API with its secret."""
        registration = self.entra.registration()
        fields = {
            "client_id": registration.client_id,
            "client_secret": secret_of(registration),
            **form,
        }
        return await self.client.post(
            f"{self.entra.authority}/{tenant or self.entra.tenant_id}/oauth2/v2.0/token",
            data={name: value for name, value in fields.items() if value is not None},
            headers=headers,
        )

    async def exchange(
        self,
        assertion: str | None = None,
        scope: str | None = f"{PARTNER}/read",
        tenant: str | None = None,
        headers: Mapping[str, str] | None = None,
        **form: str | None,
    ) -> httpx.Response:
        """Exchange a token of alice, or another."""
        fields: dict[str, str | None] = {
            "grant_type": JWT_BEARER,
            "requested_token_use": "on_behalf_of",
            "assertion": self.entra.token() if assertion is None else assertion,
            "scope": scope,
            **form,
        }
        return await self.token(tenant, headers, **fields)

    def authorize_url(self, tenant: str | None = None, **parameters: str | None) -> str:
        """Return the URL at which the SPA lets a person sign in."""
        api = self.entra.registration().client_id
        fields: dict[str, str | None] = {
            "client_id": self.entra.client_id("spa"),
            "response_type": "code",
            "redirect_uri": REDIRECT_URI,
            "scope": f"openid offline_access api://{api}/access_as_user",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "state": "a state & more",
            **parameters,
        }
        url = httpx.URL(
            f"{self.entra.authority}/{tenant or self.entra.tenant_id}/oauth2/v2.0/authorize"
        )
        return str(url.copy_merge_params({k: v for k, v in fields.items() if v is not None}))

    async def press(self, page: httpx.Response, name: str, value: str) -> httpx.Response:
        """Press a button of a page's form, as a browser without JavaScript does."""
        assert f'name="{name}" value="{html.escape(value)}"' in page.text, page.text
        hidden = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page.text)
        fields = {html.unescape(key): html.unescape(text) for key, text in hidden}
        return await self.client.post(page.url, data={**fields, name: value})

    async def sign_in(self, user: str = "alice", **parameters: str | None) -> dict[str, str]:
        """Sign in where nothing but the user is asked for, and return the answer."""
        page = await self.client.get(self.authorize_url(**parameters))
        return answer_in(await self.press(page, "user", user))

    async def redeem(self, code: str, **form: str | None) -> httpx.Response:
        """Redeem a code as the SPA."""
        fields: dict[str, Any] = {
            "grant_type": "authorization_code",
            "client_id": self.entra.client_id("spa"),
            "client_secret": None,
            "code": code,
            "redirect_uri": REDIRECT_URI,
            "code_verifier": VERIFIER,
            **form,
        }
        return await self.token(**fields)
