"""The apps of `request`: bare ones, and the same behind ours, the peers and the limit."""

from __future__ import annotations

import hashlib
import ssl
import time
from typing import Any, cast

import jwt

from obo_asgi import AppRegistration, ClientSecret, DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware

from .calls import ASGIApp, Receive, Scope, Send, bare_app
from .world import API, Settings


def obo_from(settings: Settings) -> OnBehalfOf:
    """Wire our library, with one downstream API, in whatever process."""
    return OnBehalfOf(
        AppRegistration(
            tenant_id=settings["tenant_id"],
            client_id=settings["client_id"],
            client_credential=ClientSecret(settings["client_secret"]),
            authority=settings["authority"],
            issuer=settings["issuer"],
        ),
        downstream={"api": DownstreamAPI(base_url=settings["api_url"], scopes=[f"{API}/read"])},
    )


def bare(settings: Settings) -> ASGIApp:
    """Return the bare app, which protects nothing."""
    return bare_app


def ours(settings: Settings) -> ASGIApp:
    """Return it behind ours, with the downstream client attached to each request."""
    return OnBehalfOfMiddleware(bare_app, obo_from(settings))


def limit(settings: Settings) -> ASGIApp:
    """Return it behind the least that remembers verified tokens."""
    return RememberingMiddleware(bare_app)


class PyJWTMiddleware:
    """Verifies every request's token with PyJWT, as hand-written middleware does."""

    def __init__(self, app: ASGIApp, key: jwt.PyJWK, settings: Settings) -> None:
        self.app = app
        self._key = key
        self._audience = settings["client_id"]
        self._issuer = issuer_of(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = bearer_token(scope).decode()
        claims = jwt.decode(
            token, self._key, algorithms=["RS256"], audience=self._audience, issuer=self._issuer
        )
        await self.app({**scope, "user": claims}, receive, send)


class RememberingMiddleware:
    """Looks the token's digest up, and checks that the token has not ended.

    It has nothing to verify a token with: every token counts as verified once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._verified: dict[bytes, dict[str, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = bearer_token(scope)
        digest = hashlib.sha256(token).digest()
        user = self._verified.get(digest)
        if user is None:
            user = self._verified[digest] = jwt.decode(token, options={"verify_signature": False})
        if user["exp"] < time.time():
            raise PermissionError
        await self.app({**scope, "user": user}, receive, send)


def bearer_token(scope: Scope) -> bytes:
    """Return the token of the Authorization header."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bytes(value[7:])
    raise PermissionError


def issuer_of(settings: Settings) -> str:
    """Return the issuer of the tenant's tokens."""
    return f"{settings['authority']}/{settings['tenant_id']}/v2.0"


def litestar(settings: Settings, key: jwt.PyJWK | None) -> ASGIApp:
    """Return a Litestar app, behind its own JWTAuth if there is a key."""
    from litestar import Litestar, MediaType, get
    from litestar.security.jwt import JWTAuth

    async def handler() -> str:
        return "ok"

    async def user_of(token: Any, connection: Any) -> str:
        return str(token.sub)

    options: dict[str, Any] = {}
    if key is not None:
        auth = JWTAuth[str](
            token_secret=key.key,
            algorithm="RS256",
            retrieve_user_handler=user_of,
            accepted_audiences=[settings["client_id"]],
            accepted_issuers=[issuer_of(settings)],
        )
        options["on_app_init"] = [auth.on_app_init]
    handlers = [get("/", media_type=MediaType.TEXT)(handler)]
    app: Any = Litestar(handlers, openapi_config=None, logging_config=None, **options)
    return cast(ASGIApp, app)


def fastapi(scheme: Any = None) -> ASGIApp:
    """Return a FastAPI app, behind a security scheme if there is one."""
    from fastapi import FastAPI, Security
    from fastapi.responses import PlainTextResponse

    async def handler() -> Any:
        return PlainTextResponse("ok")

    dependencies = [] if scheme is None else [Security(scheme, scopes=["access_as_user"])]
    api = FastAPI(openapi_url=None)
    api.add_api_route("/", handler, dependencies=dependencies)
    app: ASGIApp = api
    return app


def azure_scheme(settings: Settings) -> Any:
    """Return fastapi-azure-auth's scheme, which fetches metadata and keys at its first request."""
    from fastapi_azure_auth.auth import AzureAuthorizationCodeBearerBase

    return AzureAuthorizationCodeBearerBase(
        app_client_id=settings["client_id"],
        tenant_id=settings["tenant_id"],
        openid_config_url=settings["metadata_url"],
        http_client_config={"verify": ssl.create_default_context(cafile=settings["ca_file"])},
    )
