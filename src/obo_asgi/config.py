"""What the developer configures: frozen values that check themselves when they are made."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from ._types import HTTPClient, is_guid
from ._urls import check_base_url
from .clouds import Issuers, is_external, issuers_of
from .credentials import ClientCredential, check_credentials
from .errors import ConfigurationError

__all__ = [
    "ANY_TENANT",
    "AnyTenant",
    "AppRegistration",
    "DownstreamAPI",
    "Requirement",
    "any_of",
    "check_header",
    "check_http_client",
    "check_scopes",
    "default_scope",
    "requirement",
]

# RFC 6749 section 3.3 (scope-token) and RFC 9110 section 5.6.2 (token)
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_MAX_TIMEOUT: Final = 24 * 3600
_MULTI_TENANT: Final = ("common", "organizations")
_RESERVED_SCOPES: Final = frozenset({"openid", "profile", "email", "offline_access"})
_RESERVED_HEADERS: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_RESERVED_PREFIXES: Final = ("x-forwarded-", "x-ms-token-", "x-ms-client-principal", "proxy-")
_GRAPH: Final = "https://graph.microsoft.com"


class AnyTenant(enum.Enum):
    """The type of `ANY_TENANT`."""

    ANY_TENANT = "any tenant"


TenantPredicate = Callable[[str], Awaitable[bool]]

ANY_TENANT: Final = AnyTenant.ANY_TENANT
"""Lets the users of every Entra tenant in; what they may do is then yours to check."""


@dataclass(frozen=True, kw_only=True)
class AppRegistration:
    """The app registration of this API in Entra ID.

    Raises:
        ConfigurationError: a value is missing or wrong; the message says what to change.
    """

    tenant_id: str
    """The directory (tenant) id, a GUID; or ``common`` or ``organizations`` for many tenants."""
    client_id: str
    """The application (client) id, a GUID."""
    client_credential: ClientCredential | Sequence[ClientCredential]
    """How the API proves who it is, such as ``ClientSecret("…")``; of several, the first that is
    usable (its file is there, its endpoint answers)."""
    audiences: Sequence[str] | None = None
    """The ``aud`` values that are accepted; the client id and ``api://<client id>`` if left out."""
    allowed_tenants: Sequence[str] | AnyTenant | TenantPredicate | None = None
    """Tenant ids whose users may call; `tenant_id` alone if left out, `ANY_TENANT` for all. Or an
    asynchronous predicate over the tenant id, for customers who sign up while the API runs; its
    answer is used for minutes, and a failure of it is a 503."""
    authority: str = "https://login.microsoftonline.com"
    """The sign-in service's https origin, without a path: ``https://login.microsoftonline.us``,
    ``https://login.partner.microsoftonline.cn``, ``https://<name>.ciamlogin.com``, or a custom
    domain."""
    issuer: str | None = None
    """The issuer of v2 tokens, for an authority that is none of Microsoft's hosts; may hold
    ``{tenantid}``."""
    consent_redirect_uri: str | None = None
    """Where the browser goes after a user has consented for this API: a redirect URI that is
    registered for it, such as a page that closes itself. With it, challenges name a
    ``consent_uri`` that a client can open."""

    def __post_init__(self) -> None:
        self._set("tenant_id", self._check_tenant(self.tenant_id))
        self._set("client_id", _check_guid(self.client_id, "client_id", "application (client) id"))
        check_credentials(self.client_credential)
        self._set("audiences", self._check_audiences(self.audiences))
        self._set("allowed_tenants", self._check_allowed_tenants(self.allowed_tenants))
        self._set("authority", self._check_authority(self.authority))
        if self.consent_redirect_uri is not None:
            check_base_url(
                self.consent_redirect_uri, name="consent_redirect_uri", loopback_http=True
            )
        issuers_of(self.authority, self.issuer)
        if is_external(self.authority) and self.is_multi_tenant:
            raise ConfigurationError(
                "an external tenant's authority (ciamlogin.com) serves that tenant alone: "
                "set tenant_id to it and leave allowed_tenants out"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def credentials(self) -> tuple[ClientCredential, ...]:
        """The client credentials in the order in which they are tried."""
        return check_credentials(self.client_credential)

    @property
    def issuers(self) -> Issuers:
        """The issuers of tokens by version, with ``{tenantid}`` for the tenant id."""
        return issuers_of(self.authority, self.issuer)

    @property
    def tenant_predicate(self) -> TenantPredicate | None:
        """The predicate that decides which tenants' users may call, if there is one."""
        allowed = self.allowed_tenants
        return allowed if callable(allowed) else None

    @property
    def metadata_tenant(self) -> str:
        """The tenant in the URL of the metadata that holds the keys for every allowed tenant."""
        if self.tenant_id in _MULTI_TENANT or self.allowed_tenants == (self.tenant_id,):
            return self.tenant_id
        return "common"

    @property
    def is_multi_tenant(self) -> bool:
        """Whether the metadata is the one shared by all tenants."""
        return self.metadata_tenant in _MULTI_TENANT

    def allows_tenant(self, tenant_id: str) -> bool:
        """Tell whether users of this tenant may call, as far as the `tenant_predicate` agrees."""
        allowed = self.allowed_tenants
        return not isinstance(allowed, tuple) or tenant_id in allowed

    @staticmethod
    def _check_tenant(tenant_id: str) -> str:
        if isinstance(tenant_id, str) and tenant_id.lower() in _MULTI_TENANT:
            return tenant_id.lower()
        return _check_guid(tenant_id, "tenant_id", "directory (tenant) id")

    def _check_audiences(self, audiences: Sequence[str] | None) -> tuple[str, ...]:
        if audiences is None:
            return (self.client_id, f"api://{self.client_id}")
        values = _check_strings(audiences, "audiences")
        if not values:
            raise ConfigurationError(
                "audiences is empty, so every token would be refused: name the Application ID URI "
                "or the client id, or leave audiences out"
            )
        return values

    def _check_allowed_tenants(
        self, tenants: Sequence[str] | AnyTenant | TenantPredicate | None
    ) -> tuple[str, ...] | AnyTenant | TenantPredicate:
        if isinstance(tenants, AnyTenant):
            return tenants
        if callable(tenants):
            if not inspect.iscoroutinefunction(tenants) and not inspect.iscoroutinefunction(
                getattr(tenants, "__call__", None)  # noqa: B004
            ):
                raise ConfigurationError(
                    "allowed_tenants: the predicate must be asynchronous (async def)"
                )
            return tenants
        if tenants is None:
            if self.tenant_id in _MULTI_TENANT:
                raise ConfigurationError(
                    f"tenant_id={self.tenant_id!r} opens the API to every tenant: list the tenants "
                    "in allowed_tenants, or say allowed_tenants=ANY_TENANT on purpose"
                )
            return (self.tenant_id,)
        values = _check_strings(tenants, "allowed_tenants")
        if not values:
            raise ConfigurationError(
                "allowed_tenants is empty, so nobody could call: list at least one tenant id"
            )
        return tuple(
            _check_guid(tenant, "allowed_tenants", "directory (tenant) id") for tenant in values
        )

    @staticmethod
    def _check_authority(authority: str) -> str:
        url = check_base_url(authority, name="authority")
        if urlsplit(url).path:
            raise ConfigurationError(
                "authority must be an origin such as https://login.microsoftonline.com, "
                f"without a path; the tenant belongs into tenant_id (got {authority!r})"
            )
        return url.lower()


@dataclass(frozen=True, kw_only=True)
class DownstreamAPI:
    """An API that is called on behalf of the user.

    Raises:
        ConfigurationError: a value is missing or wrong; the message says what to change.
    """

    scopes: Sequence[str]
    """The scopes that its tokens are asked for, all of one resource: ``["api://…/read"]``."""
    base_url: str | None = None
    """Where it lives, https; the user's token goes nowhere else. None: tokens only."""
    timeout: float = 30.0
    """Seconds that connecting, and each wait for data, may take."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    """Headers sent with every request to it."""
    http_client: HTTPClient | None = field(default=None, repr=False, hash=False)
    """An ``httpx.AsyncClient`` of your own for this API; you close it."""
    serve_app_callers: bool = False
    """Call it with this app's own token (client credentials) where the caller is an application
    without a user; such a caller gets a 403 if not."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scopes", check_scopes(self.scopes))
        if self.base_url is not None:
            url = check_base_url(self.base_url, name="base_url", loopback_http=True)
            object.__setattr__(self, "base_url", url)
        if (
            isinstance(self.timeout, bool)
            or not isinstance(self.timeout, int | float)
            or not 0 < self.timeout < _MAX_TIMEOUT
        ):
            raise ConfigurationError(
                f"timeout must be a number of seconds above 0 and below a day, not {self.timeout!r}"
            )
        if not isinstance(self.headers, Mapping):
            raise ConfigurationError("headers must be a mapping of names to values")
        for name, value in self.headers.items():
            check_header(name, value)
        object.__setattr__(self, "headers", MappingProxyType(dict(self.headers)))
        if not isinstance(self.serve_app_callers, bool):
            raise ConfigurationError(
                f"serve_app_callers must be True or False, not {self.serve_app_callers!r}"
            )
        check_http_client(self.http_client)


@dataclass(frozen=True)
class Requirement:
    """Names that a token must hold: all of them, or any one of them."""

    names: tuple[str, ...]
    any: bool = False

    def met_by(self, granted: Collection[str]) -> bool:
        """Tell whether the granted names meet the requirement (exact, case-sensitive)."""
        test = any if self.any else all
        return test(name in granted for name in self.names)


def any_of(*names: str) -> Requirement:
    """Require one of these scopes or roles, whichever the token holds."""
    return requirement(names, "any_of", any_one=True)


def requirement(
    names: Sequence[str] | Requirement, argument: str, *, any_one: bool = False
) -> Requirement:
    """Turn the value of an argument such as ``required_scopes`` into a `Requirement`."""
    if isinstance(names, Requirement):  # anybody can make one
        return requirement(names.names, argument, any_one=names.any)
    values = _check_strings(names, argument)
    if not values:
        raise ConfigurationError(f"{argument} is empty: name at least one, or leave it out")
    for name in values:
        if "/" in name or not _SCOPE.fullmatch(name):
            raise ConfigurationError(
                f"{argument} takes the bare names that stand in the token, such as "
                f"'access_as_user', not {name!r}"
            )
    return Requirement(values, any_one)


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes of one resource, sorted and without repetition.

    Raises:
        ConfigurationError: they are empty, a bare string, reserved, or of several resources.
    """
    return _check_scopes(_check_strings(scopes, "scopes"))


@lru_cache(maxsize=1024)
def _check_scopes(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ConfigurationError(
            "scopes is empty: name what the token is for, such as ['api://<api id>/.default']"
        )
    for scope in values:
        if not _SCOPE.fullmatch(scope):
            raise ConfigurationError(f"not a scope: {scope!r}; scopes hold no spaces or quotes")
        if scope.lower() in _RESERVED_SCOPES:
            raise ConfigurationError(
                f"{scope!r} is a reserved scope that is asked for anyway: leave it out"
            )
        _, mark, rest = scope.rpartition("://")
        resource, slash, permission = rest.rpartition("/")
        if (mark or slash) and not (resource and permission):
            raise ConfigurationError(
                f"{scope!r} must name a resource and, after its last '/', a permission"
            )
    resources = {scope.rpartition("/")[0] or _GRAPH for scope in values}
    if len(resources) > 1:
        raise ConfigurationError(
            "one token is for one resource, but these scopes name several "
            f"({', '.join(sorted(resources))}): configure a DownstreamAPI for each"
        )
    if len(values) > 1 and any(scope.rpartition("/")[2] == ".default" for scope in values):
        raise ConfigurationError("'.default' stands for all granted scopes: use it alone")
    return tuple(sorted(values))


def resource_of(scopes: Sequence[str]) -> str:
    """Return the resource that checked scopes are of, in a form to compare by."""
    return (scopes[0].rpartition("/")[0].rstrip("/") or _GRAPH).lower()


def default_scope(scopes: Sequence[str]) -> tuple[str, ...]:
    """Return the scope that client credentials take: all app roles granted at the resource."""
    resource, slash, _ = scopes[0].rpartition("/")
    return (f"{resource}{slash}.default",)


def check_http_client(client: object) -> None:
    """Refuse what is no asynchronous client of httpx's kind; None is accepted.

    Raises:
        ConfigurationError: it is something else, such as a synchronous ``httpx.Client``.
    """
    if client is not None and not (hasattr(client, "build_request") and hasattr(client, "aclose")):
        raise ConfigurationError("http_client must be an httpx.AsyncClient or one of its kind")


def check_header(name: str, value: str) -> None:
    """Refuse a header that belongs to the protocol, to a proxy or to this library.

    Raises:
        ConfigurationError: the header must not be set for a downstream call, or its value is not
            one line of text.
    """
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise ConfigurationError(f"not a header name: {name!r}")
    lower = name.lower()
    if lower in _RESERVED_HEADERS or lower.startswith(_RESERVED_PREFIXES):
        raise ConfigurationError(
            f"header {name!r} is reserved: it is set by this library, the protocol or a proxy"
        )
    if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
        raise ConfigurationError(
            f"the value of header {name!r} must be a string: one line of ASCII"
        )


def _check_guid(value: object, name: str, what: str) -> str:
    if not isinstance(value, str) or not is_guid(value):
        raise ConfigurationError(
            f"{name} must be the {what}, a GUID from the app registration's overview page"
        )
    return value.lower()


def _check_strings(values: Iterable[str], name: str) -> tuple[str, ...]:
    if isinstance(values, str | bytes):
        raise ConfigurationError(f"{name} must be a list of strings: [{values!r}], not {values!r}")
    try:
        result = tuple(values)
    except TypeError:
        raise ConfigurationError(f"{name} must be a list of strings, not {values!r}") from None
    for value in result:
        if not isinstance(value, str) or not value or value != value.strip():
            raise ConfigurationError(
                f"{name} must hold non-empty strings without space around them, not {value!r}"
            )
    return tuple(dict.fromkeys(result))
