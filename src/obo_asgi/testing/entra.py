"""FakeEntra, the whole sign-in service as one object."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from .._types import ASGIApp, Receive, Scope, Send
from ..config import AppRegistration
from ..credentials import ClientSecret
from .app import EntraApp
from .client import AppTransport
from .commands import Commands
from .credential_commands import CredentialCommands
from .directory import DEFAULT_TENANT, App, Directory
from .grants import SignIn
from .keys import PrivateKey, SigningKey, encode_jws
from .managed_identity import IMDS_ORIGIN, ManagedIdentityEndpoint
from .mint import access_claims, app_claims
from .server import Server, serve
from .trouble import Trouble
from .world import World


class FakeEntra(Commands, CredentialCommands, Trouble):
    """An offline Microsoft Entra ID: an ASGI app that a test commands and asks.

    It knows one tenant, the users "alice" and "bob", the API under test ("api"), a public client
    ("spa") and Microsoft Graph. Everything is consented until `withdraw_consent`. Ids are the same
    in every process, secrets differ, and the RSA keys are shared by all instances of a process.

    Args:
        authority: the origin that it answers at and that its issuers name.
        tenant_id: the default tenant.
        issuer: the issuer of its v2 tokens, with ``{tenantid}`` for the tenant, at an authority
            that is none of Microsoft's: a custom domain, or this machine while `serve` runs.
    """

    def __init__(
        self,
        *,
        authority: str = "https://login.microsoftonline.com",
        tenant_id: str = DEFAULT_TENANT,
        issuer: str | None = None,
    ) -> None:
        super().__init__(World(authority.rstrip("/").lower(), Directory(tenant_id), issuer))
        self._app = EntraApp(self._world)
        self._managed_identity = ManagedIdentityEndpoint(self._world)
        self._ca_file: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @property
    def authority(self) -> str:
        """The origin that it answers at; the server's while `serve` runs."""
        return self._world.authority

    @property
    def ca_file(self) -> str:
        """The certificate authority of the server (PEM file), while `serve` runs."""
        if self._ca_file is None:
            raise RuntimeError("there is no certificate: use it inside `with entra.serve():`")
        return self._ca_file

    @property
    def managed_identity(self) -> ASGIApp:
        """The endpoints of an Azure host for tokens of managed identities, as an ASGI app.

        It plays IMDS (``/metadata/identity/oauth2/token``) and App Service (``/msi/token``); over
        a socket by ``serve(entra.managed_identity, tls=False)``.
        """
        return self._managed_identity

    @property
    def managed_identity_header(self) -> str:
        """What App Service demands as ``X-IDENTITY-HEADER`` (``IDENTITY_HEADER``)."""
        return self._managed_identity.header

    @property
    def token_lifetime(self) -> int:
        """Seconds that new access tokens live."""
        return self._world.token_lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: int) -> None:
        self._world.token_lifetime = seconds

    @property
    def refresh_in(self) -> int | None:
        """The ``refresh_in`` of answers; None: half the lifetime of tokens of 2 hours and more."""
        return self._world.refresh_in

    @refresh_in.setter
    def refresh_in(self, seconds: int | None) -> None:
        self._world.refresh_in = seconds

    def registration(self, app: str = "api", /, **overrides: Any) -> AppRegistration:
        """Return the registration of the API under test, or of another app.

        Args:
            app: the name, client id or identifier URI of an app, such as "graph".
            overrides: fields of `AppRegistration` that shall differ, such as ``allowed_tenants``.
        """
        return self._registration(self._world.directory.app(app), **overrides)

    def add_api(
        self,
        identifier_uri: str,
        *,
        scopes: Collection[str] = (),
        roles: Collection[str] = (),
        version: str = "2.0",
        client_id: str | None = None,
    ) -> AppRegistration:
        """Add a downstream API, and return its own registration so that it can be protected too.

        Args:
            identifier_uri: its Application ID URI, kept exactly.
            scopes: the delegated permissions that it offers, by bare name.
            roles: the app roles that clients are granted for themselves.
            version: "2.0": the ``aud`` of its tokens is its client id; "1.0": its identifier URI.
            client_id: its client id, a GUID; made from the identifier URI if left out.
        """
        with self._world.lock:
            app = self._world.directory.add_api(
                identifier_uri, scopes=scopes, roles=roles, version=version, client_id=client_id
            )
            return self._registration(app)

    def token(
        self,
        user: str | None = "alice",
        scp: str | None = "access_as_user",
        *,
        audience: str | None = None,
        tenant: str | None = None,
        version: str = "2.0",
        client: str = "spa",
        lifetime: int | None = None,
        headers: Mapping[str, Any] | None = None,
        key: SigningKey | PrivateKey | None = None,
        **claims: Any,
    ) -> str:
        """Sign an access token, good or forged, for the API under test.

        Args:
            user: who signed in; None for a token of the client app itself.
            scp: the scopes, separated by spaces; None for none.
            audience: the ``aud``; that of the API if left out.
            tenant: the tenant of the user; a guest, if it is not the user's own.
            version: "1.0" or "2.0", which differ in issuer, audience and claims; those of an
                external tenant (``*.ciamlogin.com``) are always "2.0".
            client: the app that the user signed in to.
            lifetime: seconds until ``exp``; may be negative. `token_lifetime` if left out.
            headers: JOSE header parameters that shall differ; None deletes one. An ``alg`` of
                "none" leaves the signature empty.
            key: signs in place of the service's own key: one of `add_key` or `unpublished_key`
                (with its own ``kid``), a private key, or bytes for HMAC (with the ``kid`` of the
                service's key).
            claims: claims that shall differ; None deletes one.
        """
        with self._world.lock:
            payload = self._claims(user, scp, audience, tenant, version, client, lifetime)
            current = self._world.keys.current
        key = current if key is None else key
        kid, private_key = (
            (key.kid, key.private_key) if isinstance(key, SigningKey) else (current.kid, key)
        )
        header = {"typ": "JWT", "kid": kid, **(headers or {})}
        return encode_jws(_without_none(header), _without_none(payload | claims), private_key)

    def bearer(
        self, user: str | None = "alice", scp: str | None = "access_as_user", **token: Any
    ) -> dict[str, str]:
        """Return the ``Authorization`` header with a `token`, which takes the same arguments."""
        return {"Authorization": f"Bearer {self.token(user, scp, **token)}"}

    def client(
        self, apps: Mapping[str, ASGIApp] | None = None, **options: Any
    ) -> httpx.AsyncClient:
        """Return an HTTP client that reaches this service, and these apps, without a network.

        It reaches `managed_identity` at ``http://169.254.169.254``. Any other host is an
        `httpx.ConnectError`. The apps' lifespan is not run.

        Args:
            apps: ASGI apps by origin, such as ``{"https://partnerapi.example.com": app}``.
            options: arguments of `httpx.AsyncClient`.
        """
        by_origin = {
            _origin(httpx.URL(url)): app
            for url, app in {IMDS_ORIGIN: self.managed_identity, **(apps or {})}.items()
        }

        def find_app(url: httpx.URL) -> ASGIApp:
            is_entra = _origin(url) == _origin(httpx.URL(self.authority))
            app = self._app if is_entra else by_origin.get(_origin(url))
            if app is None:
                where = f"{url.scheme}://{url.netloc.decode()}"
                raise ConnectionRefusedError(f"no app lives at {where}")
            if isinstance(app, EntraApp | ManagedIdentityEndpoint) and app.refuses(url.path):
                raise ConnectionRefusedError("the sign-in service is down")
            return app

        return httpx.AsyncClient(transport=AppTransport(find_app), **options)

    @contextlib.contextmanager
    def serve(
        self, *, port: int = 0, host: str = "127.0.0.1", public_url: str | None = None
    ) -> Iterator[Server]:
        """Serve it over TLS while the block runs; `authority` is then the server's URL.

        Registrations made before still name the old authority: make them inside the block.

        Args:
            port: 0 for any free one.
            host: the IPv4 address to listen at.
            public_url: the origin by which others reach it, such as ``https://entra:8443``; its
                certificate is for that name too. ``https://localhost:<port>`` if left out.
        """
        name = urlsplit(public_url or "").hostname
        with serve(self, port=port, host=host, names=[name] if name else []) as server:
            url = (public_url or server.url).rstrip("/").lower()
            authority, self._world.authority = self._world.authority, url
            self._ca_file = server.ca_file
            try:
                yield server
            finally:
                self._world.authority, self._ca_file = authority, None

    def _registration(self, app: App, **overrides: Any) -> AppRegistration:
        fields: dict[str, Any] = {
            "tenant_id": self.tenant_id,
            "client_id": app.client_id,
            "client_credential": ClientSecret(app.credentials.latest_secret),
            "audiences": app.audiences,
            "authority": self.authority,
            "issuer": self._world.cloud.pinned_issuer,
        }
        return AppRegistration(**{**fields, **overrides})

    def _claims(
        self,
        user: str | None,
        scp: str | None,
        audience: str | None,
        tenant: str | None,
        version: str,
        client: str,
        lifetime: int | None,
    ) -> dict[str, Any]:
        world = self._world
        directory = world.directory
        client_app = directory.app(client)
        resource = directory.find_app(audience or "") or directory.api
        if user is None:
            tenant_id = tenant or directory.tenant_id
            claims = app_claims(
                world, tenant_id, client_app, resource, version=version, lifetime=lifetime
            )
        else:
            person = directory.user(user, tenant)
            methods = world.step_up.methods(user)
            sign_in = SignIn(person, world.sessions.current(person), methods)
            scopes = [] if scp is None else [scp]
            claims = access_claims(
                world, sign_in, client_app, resource, scopes, version=version, lifetime=lifetime
            )
            claims["scp"] = scp
        return claims if audience is None else claims | {"aud": audience}


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Return scheme, host and port; httpx leaves a scheme's own port out."""
    return url.scheme, url.host, url.port


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
