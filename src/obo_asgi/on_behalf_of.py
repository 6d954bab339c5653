"""The wiring: one object owns clients, keys and caches, and hands each floor what it needs."""

from __future__ import annotations

import os
from asyncio import gather
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeGuard
from urllib.parse import urlencode

from ._http import HTTPClients, make_shareable
from ._telemetry import Stats, open_metrics
from ._trace import Trace, new_id
from ._types import HTTPClient, Secret, is_guid
from ._urls import check_base_url
from .acquirer import Acquirer
from .cache import TokenCache
from .cache._store import COUNTS
from .client_assertion import ClientAuthenticator
from .config import (
    AppRegistration,
    DownstreamAPI,
    Requirement,
    check_http_client,
    requirement,
)
from .downstream import Caller, Downstream, DownstreamContext
from .errors import ConfigurationError
from .metadata import MAX_AGE, Metadata
from .readiness import Readiness, cache_readiness, keys_readiness
from .sessions import Sessions
from .tenants import TenantPolicy
from .token_endpoint import TokenEndpoint
from .tokens import OnBehalfOfGrant, User, token_digest
from .verifier import Verifier

__all__ = ["OnBehalfOf"]


class OnBehalfOf:
    """Verifies callers and calls downstream APIs on their behalf.

    It opens itself at its first use in an event loop, and may be used in several loops, one after
    the other or in several threads. The middleware closes it at the end of the lifespan; elsewhere
    use ``async with obo:`` or `aclose`.

    Args:
        registration: the app registration of this API.
        downstream: the downstream APIs by name.
        required_scopes: the scopes that a user's token must hold, all of them; `any_of` for one of
            several; any scope if left out.
        app_roles: app roles that let an application in that calls for itself, without a user; if
            left out such callers get a 403. Roles never stand in for scopes.
        cache: where tokens are kept; in memory if left out.
        http_client: an ``httpx.AsyncClient`` for Entra and every API, which you close; our own if
            left out. It stores no cookies from then on.

    Raises:
        ConfigurationError: an argument is wrong; the message says what to change.
    """

    def __init__(
        self,
        registration: AppRegistration,
        *,
        downstream: Mapping[str, DownstreamAPI] | None = None,
        required_scopes: Sequence[str] | Requirement | None = None,
        app_roles: Sequence[str] | Requirement | None = None,
        cache: TokenCache | None = None,
        http_client: HTTPClient | None = None,
    ) -> None:
        if not isinstance(registration, AppRegistration):
            raise ConfigurationError("the first argument must be an AppRegistration")
        check_http_client(http_client)
        if cache is not None and not isinstance(cache, TokenCache):
            raise ConfigurationError("cache must be a TokenCache")
        self.registration = registration
        self.required_scopes = _optional(required_scopes, "required_scopes")
        self._apis = _check_apis(downstream or {})
        self._clients = HTTPClients(http_client)
        self._stats = Stats()
        self._metadata = {
            version: Metadata(registration, version, self._clients.get)
            for version in ("1.0", "2.0")
        }
        predicate = registration.tenant_predicate
        self._tenants = None if predicate is None else TenantPolicy(predicate)
        self._verifier = Verifier(
            registration,
            self._metadata,
            tenants=self._tenants,
            required_scopes=self.required_scopes,
            app_roles=_optional(app_roles, "app_roles"),
            stats=self._stats,
        )
        self._authenticator = ClientAuthenticator(registration, self._clients.get)
        self._endpoint = TokenEndpoint(
            registration,
            self._clients.get,
            self._metadata["2.0"].document,
            self._authenticator,
            stats=self._stats,
        )
        self._cache = TokenCache() if cache is None else cache
        self._stats.breaker = self._cache.breaker
        self._acquirer = Acquirer(self._endpoint, self._cache, stats=self._stats)
        self._sessions = Sessions(self._cache, registration, tenants=self._tenants)
        self._context = DownstreamContext(
            registration,
            self._apis,
            self._acquirer,
            self._sessions,
            self._clients.get,
            self._open_once,
            self._stats,
        )

    @classmethod
    def from_settings(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> Self:
        """Make one of an ``appsettings.json``, a TOML file, a mapping, or the environment alone.

        What the environment says (``AZURE_CLIENT_SECRET``, ``OBO__AZUREAD__TENANTID``, …) wins over
        the file. Needs the extra ``settings``.

        Args:
            source: the path of a ``.json`` or ``.toml`` file, or a mapping of the same shape; what
                ``OBO_SETTINGS`` names, or nothing but the environment, if left out.
            overrides: arguments of `OnBehalfOf`, which win, such as ``http_client`` or ``cache``.

        Raises:
            ConfigurationError: something is wrong; the message names each key, with what to change.
        """
        try:
            from .settings import read_settings
        except ImportError as error:
            raise ConfigurationError(
                f"from_settings needs pydantic-settings: pip install 'obo-asgi[settings]' ({error})"
            ) from None
        return cls(**{**read_settings(source).arguments(), **overrides})

    async def open(self) -> None:
        """Make ready for the running event loop; done by itself at the first use.

        Raises:
            ConfigurationError: no file of the client credentials can be read, an HTTP client
                cannot be shared between users, or the shared cache has no key or mangles values.
        """
        open_metrics()
        for api in self._apis.values():
            if api.http_client is not None:
                make_shareable(api.http_client)
        await self._authenticator.check()
        await self._cache.open(self.registration.client_id, self._authenticator.key_material)
        await self._clients.open()

    async def warm_up(self) -> None:
        """Fetch and check now what the first request would wait for, so that a start fails early.

        It opens, fetches the metadata and the signing keys, makes the client credential usable
        (a managed identity is asked) and tries the shared cache, without which the app goes on.

        Raises:
            ConfigurationError: as `open` does.
            KeysUnavailableError: the sign-in service cannot be reached, or knows no such tenant.
            TokenAcquisitionError: no client credential is usable; its hint says why.
        """
        await self.open()
        await gather(*(self._metadata[version].warm_up() for version in self._versions))
        await self._endpoint.warm_up(self.registration.metadata_tenant, new_id())

    def readiness(self) -> Readiness:
        """Tell whether the app can serve, without asking anybody; cheap enough for every probe.

        Before `warm_up`, or the first request, it cannot.
        """
        ages = [self._metadata[version].age for version in self._versions]
        keys = keys_readiness(*ages, max_age=MAX_AGE)
        breaker = self._cache.breaker
        shared_cache = cache_readiness("none" if breaker is None else breaker.state)
        credential = self._authenticator.readiness()
        return Readiness(keys.ready and credential.ready, keys, shared_cache, credential)

    def stats(self) -> dict[str, float]:
        """Return what has happened so far as numbers by name, always the same names.

        The metrics of OpenTelemetry are made of the same.
        """
        return {
            **self._stats.counts,
            **{f"shared_cache.{name}": self._cache.counts[name] for name in COUNTS},
        }

    @property
    def _versions(self) -> list[str]:
        """The versions of tokens that there are at this authority, the newest first."""
        return ["2.0"] if self.registration.issuers.v1 is None else ["2.0", "1.0"]

    async def verify(self, token: str) -> User:
        """Verify an access token and return who calls.

        Raises:
            InvalidTokenError: the token is refused; `ExpiredTokenError` if it is past its end.
            InsufficientScopeError: the token lacks a required scope.
            KeysUnavailableError: the signing keys cannot be had now.
        """
        user = self._verifier.recall(token_digest(token))
        if user is None:
            await self._open_once()
            user = await self._verifier.verify(token)
        return user

    async def downstream_for(self, token: str, *, trace: Trace | None = None) -> Downstream:
        """Verify an access token and return the downstream APIs for its user.

        Args:
            token: the access token of the request.
            trace: what the request hands on to Entra and to the APIs; new ids if left out.

        Raises:
            InvalidTokenError: the token is refused; `ExpiredTokenError` if it is past its end.
            InsufficientScopeError: the token lacks a required scope.
            KeysUnavailableError: the signing keys cannot be had now.
        """
        user = await self.verify(token)
        return self._downstream(token, token_digest(token), user, trace or Trace())

    def recall(self, token: str, trace: Trace) -> Downstream | None:
        """Return what `downstream_for` would return without waiting, if the token is known."""
        digest = token_digest(token)
        user = self._verifier.recall(digest)
        return None if user is None else self._downstream(token, digest, user, trace)

    def _downstream(self, token: str, digest: bytes, user: User, trace: Trace) -> Downstream:
        registration = self.registration
        grant = None
        if not user.is_app:
            grant = OnBehalfOfGrant(
                user,
                Secret(token),
                digest,
                authority=registration.authority,
                client_id=registration.client_id,
            )
        return Downstream(Caller(self._context, user.tid, grant, trace), user)

    def as_app(self, *, tenant_id: str | None = None) -> Downstream:
        """Return the downstream APIs, called by this app itself with client credentials.

        It comes with no request and needs no end; ``async with obo, obo.as_app() as downstream:``
        is the life of a worker.

        Args:
            tenant_id: in which tenant; the registration's own if left out.

        Raises:
            ConfigurationError: the tenant is missing, or not one that the registration allows.
        """
        tenant_id = (tenant_id or self.registration.tenant_id).lower()
        if not is_guid(tenant_id) or not self.registration.allows_tenant(tenant_id):
            raise ConfigurationError(
                "as_app needs the id of an allowed tenant: say as_app(tenant_id=…)"
            )
        return Downstream(Caller(self._context, tenant_id, None, Trace()).as_app(), None)

    @asynccontextmanager
    async def resume_session(self, key: str) -> AsyncIterator[Downstream]:
        """Give the downstream APIs, called as the user of a session, until the block ends.

        In the request of another user, or of an anonymous caller, the session is not found. A
        session that is ended elsewhere ends here within a minute.

        Args:
            key: what `Downstream.start_session` returned, or your own that it was given.

        Raises:
            SessionNotFoundError: there is no such session: never started, ended, or not the
                caller's; or its tenant is not allowed any more, and it waits until it is again.
            SessionExpiredError: its time is up. (When an API is called: or Entra takes its refresh
                token no more, and it is deleted.)
            CacheUnavailableError: the shared cache does not answer; `SessionUnreadableError` if
                this process lacks the key that the session was sealed with.
            KeysUnavailableError: the predicate over tenants has failed.
        """
        await self._open_once()
        grant = await self._sessions.resume(key)
        user = grant.user
        async with Downstream(Caller(self._context, user.tid, grant, Trace()), user) as downstream:
            yield downstream

    async def end_session(self, key: str) -> None:
        """End a session, if there is one; in a request, if it is the caller's.

        Args:
            key: the session's.

        Raises:
            CacheUnavailableError: the shared cache does not answer, or for 34 seconds another
                worker has not come to an end with the session, which may go on.
        """
        await self._open_once()
        await self._sessions.end(key)

    async def end_sessions(self, tenant_id: str, oid: str) -> None:
        """End all sessions that a user has started so far, in every process within a minute.

        Args:
            tenant_id: the user's tenant (``user.tid``).
            oid: the user's object id (``user.oid``).

        Raises:
            ConfigurationError: these are no ids.
            CacheUnavailableError: the shared cache does not answer; sessions may go on.
        """
        _check_user(tenant_id, oid)
        await self._open_once()
        await self._sessions.end_all(tenant_id, oid)

    def admin_consent_url(
        self, tenant_id: str, *, redirect_uri: str, state: str | None = None
    ) -> str:
        """Return the page on which a tenant's administrator grants what this API is registered for.

        Args:
            tenant_id: the tenant, or "organizations" for whichever the administrator is of.
            redirect_uri: where the administrator returns to, as registered; ``tenant`` and
                ``admin_consent`` come as query parameters.
            state: comes back unchanged; bind it to the administrator's session.

        Raises:
            ConfigurationError: the tenant or the redirect URI is not valid.
        """
        if tenant_id != "organizations" and not is_guid(tenant_id):
            raise ConfigurationError("tenant_id must be a tenant's id (a GUID) or 'organizations'")
        check_base_url(redirect_uri, name="redirect_uri", loopback_http=True)
        query = {"client_id": self.registration.client_id, "redirect_uri": redirect_uri}
        if state is not None:
            query["state"] = state
        return f"{self.registration.authority}/{tenant_id}/adminconsent?{urlencode(query)}"

    async def purge(self, tenant_id: str, oid: str) -> None:
        """Make the tokens that a user has had so far worthless, in every process within a minute.

        The user's sessions are ended too. The next request is exchanged anew, as far as Entra
        agrees.

        Args:
            tenant_id: the user's tenant (``user.tid``).
            oid: the user's object id (``user.oid``).

        Raises:
            ConfigurationError: these are no ids.
            CacheUnavailableError: the shared cache does not answer; only this process knows.
        """
        _check_user(tenant_id, oid)
        await self._open_once()
        await self._cache.purge(self.registration.client_id, tenant_id, oid)

    def made(self, value: object) -> TypeGuard[Downstream]:
        """Tell whether a value is a `Downstream` that this object made."""
        return isinstance(value, Downstream) and value.belongs_to(self._context)

    def check_names(self, names: Sequence[str], argument: str) -> tuple[str, ...]:
        """Return the names of downstream APIs that an argument lists.

        Raises:
            ConfigurationError: it is no list of names, or no API is called so.
        """
        return self._context.check_names(names, argument)

    async def aclose(self) -> None:
        """End what is under way in the running event loop and close our own HTTP client."""
        await self._acquirer.aclose()
        await self._sessions.aclose()
        await self._endpoint.aclose()
        await self._authenticator.aclose()
        for metadata in self._metadata.values():
            await metadata.aclose()
        if self._tenants is not None:
            await self._tenants.aclose()
        await self._cache.aclose()
        await self._clients.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _open_once(self) -> None:
        if not self._clients.ready:
            await self.open()


def _check_user(tenant_id: str, oid: str) -> None:
    if not is_guid(tenant_id) or not is_guid(oid):
        raise ConfigurationError(
            "a user is named by two ids (GUIDs), in this order: user.tid and user.oid; "
            "a user name or an e-mail address names nobody"
        )


def _check_apis(apis: Mapping[str, DownstreamAPI]) -> dict[str, DownstreamAPI]:
    if not isinstance(apis, Mapping):
        raise ConfigurationError("downstream maps names to DownstreamAPI: {'graph': …}")
    for name, api in apis.items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError("downstream maps names to DownstreamAPI; a name is missing")
        if not isinstance(api, DownstreamAPI):
            raise ConfigurationError(f"downstream[{name!r}] must be a DownstreamAPI, not {api!r}")
    return dict(apis)


def _optional(names: Sequence[str] | Requirement | None, argument: str) -> Requirement | None:
    return None if names is None else requirement(names, argument)
