"""Who and what exists: tenants, users and app registrations."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from .credentials import Credentials

GRAPH: Final = "https://graph.microsoft.com"
"""The resource that a scope without a resource belongs to."""

_GRAPH_CLIENT_ID: Final = "00000003-0000-0000-c000-000000000000"
_GRAPH_SCOPES: Final = (
    "Calendars.Read",
    "Files.Read",
    "Group.Read.All",
    "Mail.Read",
    "Mail.Send",
    "User.Read",
    "User.Read.All",
)
_NAMESPACE: Final = uuid.UUID("5c7de1f5-9a1b-4a3c-8f0e-2f1f6f9d3b11")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def stable_guid(*names: str) -> str:
    """Return the same GUID for the same names, in every process."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(names)))


DEFAULT_TENANT: Final = stable_guid("tenant", "contoso")


@dataclass(frozen=True)
class User:
    """A person, as one tenant knows them."""

    name: str
    oid: str
    tenant_id: str
    display_name: str

    @property
    def username(self) -> str:
        """What the person signs in with."""
        return f"{self.name}@contoso.example"


@dataclass
class App:
    """An app registration: a client, a resource, or both."""

    name: str
    client_id: str
    identifier_uri: str
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    version: str = "2.0"
    public: bool = False
    redirect_uris: set[str] = field(default_factory=set)
    known_clients: set[str] = field(default_factory=set)
    credentials: Credentials = field(default_factory=Credentials, repr=False)

    @property
    def audiences(self) -> tuple[str, ...]:
        """The ``aud`` values that the app accepts."""
        return (self.identifier_uri, self.client_id)

    def audience(self, version: str) -> str:
        """Return the ``aud`` of its tokens of a version."""
        if self.identifier_uri == GRAPH or version == "1.0":
            return self.identifier_uri
        return self.client_id

    def principal_id(self, tenant_id: str) -> str:
        """Return the object id of its service principal in a tenant."""
        return stable_guid("principal", tenant_id, self.client_id)

    def accepts_redirect(self, uri: str) -> bool:
        """Tell whether codes may be sent to a URI: a registered one, or this machine."""
        try:
            host = urlsplit(uri).hostname
        except ValueError:
            return False
        return uri in self.redirect_uris or host in _LOOPBACK


@dataclass(frozen=True)
class ManagedIdentity:
    """An identity that Azure hosts can have."""

    name: str
    client_id: str
    object_id: str
    resource_id: str


class Directory:
    """Tenants, users, apps and managed identities.

    At first there are alice, bob, the API ("api"), "graph", a "spa" and the system's identity.
    """

    def __init__(self, tenant_id: str = DEFAULT_TENANT) -> None:
        self.tenant_id = tenant_id.lower()
        self._tenants = {self.tenant_id}
        self._users: dict[tuple[str, str], User] = {}
        self._users_by_oid: dict[tuple[object, object], User] = {}
        self._apps: dict[str, App] = {}
        self.system_identity = _managed_identity("system", "Microsoft.Web/sites")
        self._identities: dict[str, ManagedIdentity] = {}
        self.api = self._add("api", scopes=("access_as_user",))
        self.spa = self._add("spa", public=True)
        self.graph = self._add(
            "graph", uri=GRAPH, client_id=_GRAPH_CLIENT_ID, scopes=_GRAPH_SCOPES, version="1.0"
        )
        self.add_user("alice")
        self.add_user("bob")

    def add_tenant(self, tenant_id: str) -> None:
        """Add a tenant; every app exists in every tenant."""
        self._tenants.add(tenant_id.lower())

    @property
    def tenant_ids(self) -> frozenset[str]:
        """The tenants that exist."""
        return frozenset(self._tenants)

    def has_tenant(self, tenant_id: str) -> bool:
        """Tell whether a tenant exists."""
        return tenant_id in self._tenants

    def add_user(
        self, name: str, *, tenant_id: str | None = None, display_name: str | None = None
    ) -> User:
        """Add a user to a tenant; a name that is there already is given its new display name."""
        tenant_id = (tenant_id or self.tenant_id).lower()
        user = User(name, stable_guid(tenant_id, name), tenant_id, display_name or name.title())
        self._tenants.add(tenant_id)
        self._users[tenant_id, name] = self._users_by_oid[tenant_id, user.oid] = user
        return user

    def users(self, tenant_id: str | None = None) -> list[User]:
        """Return the users of a tenant, or of all."""
        return [user for user in self._users.values() if tenant_id in (None, user.tenant_id)]

    def user(self, name: str, tenant_id: str | None = None) -> User:
        """Return a user as a tenant knows them; a user of another tenant becomes a guest there.

        Raises:
            LookupError: nobody has that name.
        """
        tenant_id = (tenant_id or self.tenant_id).lower()
        if (tenant_id, name) in self._users:
            return self._users[tenant_id, name]
        home = next((user for user in self._users.values() if user.name == name), None)
        if home is None:
            raise LookupError(f"there is no user {name!r}: call add_user({name!r}) first")
        if self.has_tenant(tenant_id):
            return self.add_user(name, tenant_id=tenant_id, display_name=home.display_name)
        return User(name, stable_guid(tenant_id, name), tenant_id, home.display_name)

    def user_by_oid(self, tenant_id: object, oid: object) -> User | None:
        """Return the user with that object id in that tenant."""
        is_hashable = isinstance(tenant_id, str) and isinstance(oid, str)
        return self._users_by_oid.get((tenant_id, oid)) if is_hashable else None

    def remove_user(self, user: User) -> None:
        """Remove a user from a tenant."""
        del self._users[user.tenant_id, user.name]
        del self._users_by_oid[user.tenant_id, user.oid]

    def add_api(
        self,
        uri: str,
        *,
        scopes: Collection[str],
        roles: Collection[str],
        version: str,
        client_id: str | None = None,
    ) -> App:
        """Add a resource, or declare anew what an existing one offers."""
        app = self.find_app(uri) or self._add(uri, uri=uri, client_id=client_id)
        app.scopes, app.roles, app.version = tuple(scopes), tuple(roles), version
        return app

    def add_client(
        self,
        name: str,
        *,
        redirect_uris: Iterable[str],
        public: bool,
        client_id: str | None = None,
    ) -> App:
        """Add an app that signs users in, in place of one of that name."""
        self._apps = {key: app for key, app in self._apps.items() if app.name != name}
        app = self._add(name, public=public, client_id=client_id)
        app.redirect_uris.update(redirect_uris)
        return app

    def add_identity(self, name: str) -> ManagedIdentity:
        """Add a user-assigned managed identity, or return the one of that name."""
        provider = "Microsoft.ManagedIdentity/userAssignedIdentities"
        return self._identities.setdefault(name, _managed_identity(name, provider))

    def identity(self, name: str | None = None) -> ManagedIdentity:
        """Return the user-assigned identity of that name; the system-assigned one without.

        Raises:
            LookupError: there is none.
        """
        if name is None:
            return self.system_identity
        if name not in self._identities:
            raise LookupError(f"there is no identity {name!r}: call add_managed_identity first")
        return self._identities[name]

    def find_identity(
        self, *, client_id: str | None, object_id: str | None, resource_id: str | None
    ) -> ManagedIdentity | None:
        """Return the user-assigned identity with one of these; without any, the system's own."""
        wanted = {value.lower() for value in (client_id, object_id, resource_id) if value}
        if not wanted:
            return self.system_identity
        for identity in self._identities.values():
            if wanted <= {identity.client_id, identity.object_id, identity.resource_id.lower()}:
                return identity
        return None

    def apps(self) -> list[App]:
        """Return all apps."""
        return list(self._apps.values())

    def app(self, reference: str) -> App:
        """Return an app by its name, client id or identifier URI.

        Raises:
            LookupError: there is none.
        """
        app = self.find_app(reference)
        if app is None:
            raise LookupError(f"there is no app {reference!r}: call add_api or add_client first")
        return app

    def find_app(self, reference: str) -> App | None:
        """Return an app by its name, client id or identifier URI, or None."""
        wanted = (reference, reference.removesuffix("/"))
        for app in self._apps.values():
            if app.name in wanted or app.client_id in wanted or app.identifier_uri in wanted:
                return app
        return None

    def _add(
        self,
        name: str,
        *,
        uri: str | None = None,
        client_id: str | None = None,
        scopes: tuple[str, ...] = (),
        version: str = "2.0",
        public: bool = False,
    ) -> App:
        client_id = client_id or stable_guid("app", name)
        app = App(
            name, client_id, uri or f"api://{client_id}", scopes, version=version, public=public
        )
        self._apps[client_id] = app
        return app


def _managed_identity(name: str, provider: str) -> ManagedIdentity:
    group = f"/subscriptions/{stable_guid('subscription')}/resourcegroups/fake"
    return ManagedIdentity(
        name,
        client_id=stable_guid("identity client", name),
        object_id=stable_guid("identity", name),
        resource_id=f"{group}/providers/{provider}/{name}",
    )
