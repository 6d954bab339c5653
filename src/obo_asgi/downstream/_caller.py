"""On whose behalf APIs are called: which token each of them gets, as long as the request lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from .._telemetry import Stats
from .._trace import Trace
from .._types import HTTPClient, is_guid
from ..acquirer import Acquirer
from ..config import AppRegistration, DownstreamAPI, resource_of
from ..errors import AccessDeniedError, ConfigurationError, InteractionRequiredError
from ..interaction import authorize_url, consent_url
from ..sessions import Sessions, StartingSession
from ..tokens import AccessToken, AppGrant, Grant, OnBehalfOfGrant, User

_ENDED: Final = (
    "this Downstream ended with its request, or its `async with`; for work that goes on after the "
    "response, call start_session() during the request and resume the session"
)


@dataclass(frozen=True, slots=True)
class DownstreamContext:
    """What all requests share: the configured APIs and how to reach them."""

    registration: AppRegistration
    apis: Mapping[str, DownstreamAPI]
    acquirer: Acquirer
    sessions: Sessions
    client: Callable[[], HTTPClient]
    open: Callable[[], Awaitable[None]]
    stats: Stats = field(default_factory=Stats)

    def api(self, name: str) -> DownstreamAPI:
        """Return the API of a name.

        Raises:
            ConfigurationError: none is configured.
        """
        try:
            return self.apis[name]
        except KeyError:
            known = ", ".join(sorted(self.apis)) or "none"
            raise ConfigurationError(
                f"no downstream API is called {name!r} (configured: {known}); "
                "add it to OnBehalfOf(downstream={…})"
            ) from None

    def name_for(self, scopes: tuple[str, ...]) -> str:
        """Return the name of the first API that is the resource of these scopes.

        Raises:
            ConfigurationError: none is.
        """
        resource = resource_of(scopes)
        for name, api in self.apis.items():
            if resource_of(api.scopes) == resource:
                return name
        raise ConfigurationError(
            f"no downstream API has scopes of {resource!r}, and tokens are acquired for those "
            "alone that are configured; add one to OnBehalfOf(downstream={…})"
        )

    def check_names(self, names: Iterable[str], argument: str) -> tuple[str, ...]:
        """Return the names of APIs that an argument lists.

        Raises:
            ConfigurationError: it is no list of names, or no API is called so.
        """
        if isinstance(names, str):
            raise ConfigurationError(f"{argument} must be a list: [{names!r}], not {names!r}")
        if not isinstance(names, Iterable):
            raise ConfigurationError(f"{argument} must be a list of names, not {names!r}")
        listed = tuple(names)
        for name in listed:
            self.api(name)
        return listed


class Caller:
    """Who calls the downstream APIs: a user, or the app itself.

    Args:
        context: what all requests share.
        tenant_id: where the caller's tokens are from.
        grant: the user's right to tokens; None without a user.
        trace: what the request hands on.
        parent: whose end is the end of this one too.
    """

    __slots__ = ("_ended", "_grant", "_parent", "_tenant_id", "context", "trace")

    def __init__(
        self,
        context: DownstreamContext,
        tenant_id: str,
        grant: Grant | None,
        trace: Trace,
        *,
        parent: Caller | None = None,
    ) -> None:
        self.context = context
        self.trace = trace
        self._tenant_id = tenant_id
        self._grant = grant
        self._parent = parent
        self._ended = False

    def as_app(self) -> Caller:
        """Return the app itself, in the same tenant and for as long as this caller."""
        return Caller(self.context, self._tenant_id, self._app_grant(), self.trace, parent=self)

    @asynccontextmanager
    async def start_session(
        self,
        user: User,
        *,
        key: str,
        scopes: tuple[str, ...] | None,
        lifetime: float,
        idle_timeout: float | None,
    ) -> AsyncIterator[tuple[Caller, StartingSession]]:
        """Give a session that starts, as a caller whose first tokens are its own.

        Raises:
            RuntimeError: there is no user's request at hand.
        """
        if self._has_ended:
            raise RuntimeError(_ENDED)
        grant = self._grant
        if grant is None:
            raise _no_user("obo.as_app() calls APIs as this app itself, and needs no session")
        if not isinstance(grant, OnBehalfOfGrant):
            raise RuntimeError(
                "a session is started in the request of a user; a session that was resumed goes on "
                "under its key, and without a user obo.as_app() needs none"
            )
        await self.context.open()
        async with self.context.sessions.start(
            grant, user, key=key, scopes=scopes, lifetime=lifetime, idle_timeout=idle_timeout
        ) as starting:
            yield (
                Caller(self.context, self._tenant_id, starting, self.trace, parent=self),
                starting,
            )

    def end(self) -> None:
        """From now on every call raises RuntimeError."""
        self._ended = True

    @property
    def tenant_id(self) -> str:
        """Where the tokens are from."""
        return self._tenant_id

    @property
    def is_app(self) -> bool:
        """Whether the APIs are called as the app itself, so that no user can meet a demand."""
        return self._grant is None or isinstance(self._grant, AppGrant)

    async def client_for(self, api: DownstreamAPI) -> HTTPClient:
        """Return the HTTP client that an API is called with."""
        await self.context.open()
        return api.http_client or self.context.client()

    def holds_token(self, api: DownstreamAPI) -> bool:
        """Tell whether the token for an API can be had without waiting."""
        return self.context.acquirer.holds(self._grant_for(api), tuple(api.scopes))

    async def acquire_token(
        self, api: DownstreamAPI, scopes: tuple[str, ...], *, claims: str | None = None
    ) -> AccessToken:
        """Return the caller's token for checked scopes of an API."""
        grant = self._grant_for(api)
        token = self.context.acquirer.recall(grant, scopes, claims)
        return token or await self._acquire_token(grant, scopes, claims)

    def forget_token(
        self, api: DownstreamAPI, scopes: tuple[str, ...], claims: str | None, token: AccessToken
    ) -> None:
        """Let nobody get a token again that the API has refused."""
        self.context.acquirer.drop(self._grant_for(api), scopes, claims, token)

    def trusts(self, url: str | None) -> bool:
        """Tell whether a page is the sign-in service's own, to which users may be sent.

        The start of the URL is compared: browsers do not take every URL apart as Python does.
        """
        return url is not None and url.startswith(f"{self.context.registration.authority}/")

    async def _acquire_token(
        self, grant: Grant, scopes: tuple[str, ...], claims: str | None
    ) -> AccessToken:
        await self.context.open()
        correlation_id = self.trace.correlation_id
        try:
            return await self.context.acquirer.acquire_token(
                grant,
                scopes,
                claims=claims,
                bypass_failures=self.trace.wants_fresh,
                correlation_id=correlation_id if is_guid(correlation_id) else None,
            )
        except InteractionRequiredError as error:
            raise self._with_pages(error) from None

    @property
    def _has_ended(self) -> bool:
        return self._ended or (self._parent is not None and self._parent._has_ended)

    def _grant_for(self, api: DownstreamAPI) -> Grant:
        if self._has_ended:
            raise RuntimeError(_ENDED)
        if self._grant is not None:
            return self._grant
        if api.serve_app_callers:
            return self._app_grant()
        raise _no_user("DownstreamAPI(serve_app_callers=True) calls the API as this app instead")

    def _app_grant(self) -> AppGrant:
        registration = self.context.registration
        return AppGrant(
            self._tenant_id, authority=registration.authority, client_id=registration.client_id
        )

    def _with_pages(self, error: InteractionRequiredError) -> InteractionRequiredError:
        """Name the pages on which the user can do what is missing."""
        registration = self.context.registration
        page = authorize_url(registration.authority, self._tenant_id)
        error.authorization_uri = page
        if registration.consent_redirect_uri and not error.claims_challenge:
            error.consent_uri = consent_url(
                page,
                client_id=registration.client_id,
                redirect_uri=registration.consent_redirect_uri,
                scopes=error.scopes,
            )
        return error


def _no_user(hint: str) -> AccessDeniedError:
    return AccessDeniedError(
        "an application calls for itself: there is no user to act for",
        error="access_denied",
        hint=hint,
    )
