"""What a test says to the sign-in service while it runs, and what it can ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .directory import User
from .keys import SigningKey
from .ledger import TokenRequest
from .world import World


class Commands:
    """The commands of `FakeEntra`; each may be given from any thread at any time.

    Users are named by their name (one outside the directory, known from a token alone, by its
    object id), apps by name, client id or identifier URI; an unknown app is a `LookupError`. Where
    None is accepted for one of them, it means all.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    # users, tenants, apps

    @property
    def tenant_id(self) -> str:
        """The default tenant."""
        return self._world.directory.tenant_id

    def add_tenant(self, tenant_id: str) -> None:
        """Add a tenant; its users are added by `add_user`, guests come with their first token."""
        with self._world.lock:
            self._world.directory.add_tenant(tenant_id)

    def add_user(
        self, name: str, *, tenant: str | None = None, display_name: str | None = None
    ) -> User:
        """Add a user to a tenant (the default one, or any, which is added too)."""
        with self._world.lock:
            return self._world.directory.add_user(name, tenant_id=tenant, display_name=display_name)

    def user(self, name: str, *, tenant: str | None = None) -> User:
        """Return a user (``oid``, ``tenant_id``, ``display_name``), as a tenant knows them."""
        with self._world.lock:
            return self._world.directory.user(name, tenant)

    def remove_user(self, name: str, *, tenant: str | None = None) -> None:
        """Remove a user from a tenant: from its sign-in page, and from what it issues tokens to."""
        with self._world.lock:
            directory = self._world.directory
            directory.remove_user(directory.user(name, tenant))

    def add_client(
        self,
        name: str,
        *,
        redirect_uris: Iterable[str] = (),
        public: bool = True,
        client_id: str | None = None,
    ) -> str:
        """Add an app that signs users in, in place of one of that name, and return its client id.

        Redirect URIs on this machine (localhost and the loopback addresses) are always accepted.
        The client id is made from the name if left out.
        """
        with self._world.lock:
            app = self._world.directory.add_client(
                name, redirect_uris=redirect_uris, public=public, client_id=client_id
            )
            return app.client_id

    def client_id(self, app: str = "spa") -> str:
        """Return the client id of an app; "spa" is a public client that is there at first."""
        return self._world.directory.app(app).client_id

    def is_public(self, app: str = "spa") -> bool:
        """Tell whether an app is a public client, which has no secret."""
        return self._world.directory.app(app).public

    def add_redirect_uri(self, app: str, uri: str) -> None:
        """Register a redirect URI."""
        with self._world.lock:
            self._world.directory.app(app).redirect_uris.add(uri)

    def add_known_client(self, client: str = "spa", *, api: str = "api") -> None:
        """List a client under an API's ``knownClientApplications``.

        Whoever consents to the API's ``/.default`` in that client then consents, in the same step,
        to what the API itself wants of every other resource.
        """
        with self._world.lock:
            directory = self._world.directory
            directory.app(api).known_clients.add(directory.app(client).client_id)

    # consent, multi-factor authentication, revocation

    def grant_consent(
        self,
        user: str | None = None,
        client: str | None = "api",
        resource: str | None = None,
        scope: str | None = None,
    ) -> None:
        """Let a client app act for a user at a resource, with one of its scopes (by bare name)."""
        self._say_consent(True, user, client, resource, scope)

    def withdraw_consent(
        self,
        user: str | None = None,
        client: str | None = "api",
        resource: str | None = None,
        scope: str | None = None,
    ) -> None:
        """Take consent away (AADSTS65001); everything is consented until something else is said.

        An exchange needs the consent to the API itself, the default `client`. What the user has
        consented to in the app that called the API does not count.
        """
        self._say_consent(False, user, client, resource, scope)

    def require_mfa(self, user: str | None = None, resource: str | None = None) -> None:
        """Demand multi-factor authentication for tokens of a resource (AADSTS50076).

        An assertion or refresh token meets the demand if its own sign-in did: its ``amr`` holds
        ``mfa``. See `complete_mfa`.
        """
        with self._world.lock:
            app = None if resource is None else self._world.directory.app(resource)
            self._world.step_up.require(user, app)

    def waive_mfa(self, user: str | None = None, resource: str | None = None) -> None:
        """Take a demand of `require_mfa` back, made with the same arguments."""
        with self._world.lock:
            app = None if resource is None else self._world.directory.app(resource)
            self._world.step_up.waive(user, app)

    def complete_mfa(self, user: str) -> None:
        """Let every *new* token of a user come from a multi-factor sign-in."""
        with self._world.lock:
            self._world.step_up.complete(user)

    def revoke(self, user: str) -> None:
        """End a user's sessions: access and refresh tokens of before are refused (AADSTS50173)."""
        with self._world.lock:
            self._world.sessions.revoke(user)

    def _say_consent(
        self,
        granted: bool,
        user: str | None,
        client: str | None,
        resource: str | None,
        scope: str | None,
    ) -> None:
        with self._world.lock:
            client_app, resource_app = (
                None if name is None else self._world.directory.app(name)
                for name in (client, resource)
            )
            self._world.consents.say(
                granted, user=user, client=client_app, resource=resource_app, scope=scope
            )

    # keys

    def roll_keys(self) -> SigningKey:
        """Publish a new key and sign with it; the older ones stay published."""
        with self._world.lock:
            return self._world.keys.roll()

    def drop_old_keys(self) -> None:
        """Publish only the key that signs."""
        with self._world.lock:
            self._world.keys.drop_old()

    def add_key(self, *, tenant: str | None = None) -> SigningKey:
        """Publish one more key; with a tenant, its ``issuer`` is that tenant's alone."""
        with self._world.lock:
            key = self._world.keys.new(tenant)
            self._world.keys.publish(key)
            return key

    def unpublished_key(self) -> SigningKey:
        """Return a key that is not published, as a forger has one."""
        with self._world.lock:
            return self._world.keys.new()

    # what was asked

    @property
    def counts(self) -> Counter[str]:
        """Requests so far, by endpoint, or by grant at the token endpoint.

        The endpoints are ``metadata``, ``keys``, ``authorize`` and ``managed_identity``, the
        grants ``on_behalf_of``, ``refresh_token``, ``client_credentials`` and
        ``authorization_code``, counted whether they succeeded or not. ``refused`` are the requests
        that met an outage.
        """
        return self._world.ledger.counts

    @property
    def exchanges(self) -> int:
        """How many on-behalf-of requests came."""
        return self.counts["on_behalf_of"]

    @property
    def requests(self) -> list[TokenRequest]:
        """The last thousand requests to the token endpoint, oldest first."""
        with self._world.lock:
            return list(self._world.ledger.requests)

    def reset_counts(self) -> None:
        """Forget what was asked so far."""
        with self._world.lock:
            self._world.ledger.reset()
