"""What a handler holds: the downstream APIs, each called as the user of the request."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from ..config import check_scopes
from ..errors import AccessDeniedError, ConfigurationError, InteractionRequiredError
from ..sessions import DEFAULT_LIFETIME, new_session_key
from ..tokens import AccessToken, User
from ._api_client import APIClient
from ._caller import Caller, DownstreamContext
from ._parts import Part, gather
from ._requests import RequestOptions

__all__ = ["APIClient", "Caller", "Downstream", "DownstreamContext", "Part", "RequestOptions"]

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")


class Downstream:
    """The downstream APIs by name, for one caller; it ends with the request that it came with.

    ``async with`` ends it too, for one that came with no request.

    Args:
        caller: who calls.
        user: on whose behalf; None where the app calls for itself.
    """

    __slots__ = ("_caller", "_user")

    def __init__(self, caller: Caller, user: User | None) -> None:
        self._caller = caller
        self._user = user

    def __getitem__(self, name: str) -> APIClient:
        """Return the API of this name.

        Raises:
            ConfigurationError: no API of this name is configured.
        """
        return APIClient(self._caller, name, self._caller.context.api(name))

    def __repr__(self) -> str:
        return f"Downstream({', '.join(self._caller.context.apis)})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def user(self) -> User:
        """The user on whose behalf the APIs are called.

        Raises:
            RuntimeError: the app calls for itself.
        """
        if self._user is None:
            raise RuntimeError("the app calls for itself here: there is no user")
        return self._user

    @property
    def tenant_id(self) -> str:
        """The tenant that the tokens are from: the user's, or the one the app calls in."""
        return self._caller.tenant_id

    @property
    def correlation_id(self) -> str:
        """The id of the request, which goes to Entra and to the APIs (``client-request-id``)."""
        return self._caller.trace.correlation_id

    def as_app(self) -> Downstream:
        """Return the same APIs, called by the app itself with client credentials.

        Their tokens hold the app roles that an administrator granted, and no user.
        """
        return Downstream(self._caller.as_app(), None)

    async def start_session(
        self,
        key: str | None = None,
        apis: Iterable[str] | None = None,
        *,
        lifetime: float = DEFAULT_LIFETIME,
        idle_timeout: float | None = None,
    ) -> str:
        """Start a session, by whose key a worker calls the APIs as this user, and return the key.

        The worker says ``obo.resume_session(key)``, in this process or in another that shares the
        cache, also when the user's token has long ended. A session that this user has under the
        same key already is renewed.

        Args:
            key: the session's; a new random one if left out, which is to be kept as a secret is. A
                key of your own, such as a job's id, must never come from a caller.
            apis: the only APIs, by name, that the session may call, with their configured scopes;
                their tokens are acquired now, so that a missing consent is known now. All if left
                out, and only one of them is tried.
            lifetime: seconds after which the session ends, at most 90 days.
            idle_timeout: seconds without use after which it ends; None for no such limit.

        Raises:
            InteractionRequiredError: the user has something to do first.
            TokenAcquisitionError: no token, or no refresh token, for another reason.
            SessionConflictError: another user has a session under this key; it stays as it is.
            ConfigurationError: an argument is wrong, or the shared cache has no keys of its own.
            CacheUnavailableError: the shared cache does not answer.
            RuntimeError: there is no user's request at hand.
        """
        context = self._caller.context
        scopes: tuple[str, ...] | None = None
        if apis is not None:
            apis = context.check_names(apis, "apis")
            if not apis:
                raise ConfigurationError("apis names at least one API; leave it out for all")
            scopes = tuple(sorted({scope for name in apis for scope in context.api(name).scopes}))
        key = new_session_key() if key is None else key
        async with self._caller.start_session(
            self.user, key=key, scopes=scopes, lifetime=lifetime, idle_timeout=idle_timeout
        ) as (caller, session):
            first = Downstream(caller, self._user)
            await (first._acquire_any() if apis is None else first.acquire_tokens(apis))
            await session.save()
        return key

    async def _acquire_any(self) -> None:
        """Acquire the token for one API, the first for which that is possible."""
        refusal: InteractionRequiredError | AccessDeniedError | None = None
        for name in self._caller.context.apis:
            try:
                await self[name].acquire_token()
            except (InteractionRequiredError, AccessDeniedError) as error:
                refusal = refusal or error
            else:
                return
        raise refusal or ConfigurationError("a session needs an API: OnBehalfOf(downstream={…})")

    def close(self) -> None:
        """End it: from now on every call raises RuntimeError."""
        self._caller.end()

    def belongs_to(self, context: DownstreamContext) -> bool:
        """Tell whether it was made from this context."""
        return self._caller.context is context

    async def acquire_token(
        self, scopes: Iterable[str], *, claims: str | None = None
    ) -> AccessToken:
        """Return the user's token for scopes that somebody else names, such as an SDK.

        Args:
            scopes: of a resource that one of the configured APIs has scopes of.
            claims: the claims challenge that the token has to meet, as JSON.

        Raises:
            InteractionRequiredError: the user has something to do first.
            TokenAcquisitionError: no token, for another reason.
            ConfigurationError: no API of that resource is configured.
        """
        checked = check_scopes(scopes)
        name = self._caller.context.name_for(checked)
        return await self[name].acquire_token(checked, claims=claims)

    async def acquire_tokens(self, names: Iterable[str]) -> None:
        """Make sure of the tokens for some APIs, those that are missing in parallel.

        Raises:
            InteractionRequiredError: the user has something to do first, for one API or several.
            TokenAcquisitionError: no token, for another reason.
        """
        caller = self._caller
        missing = [name for name in names if not caller.holds_token(caller.context.api(name))]
        await self.gather(*(self[name].acquire_token() for name in missing), strict=True)

    @overload
    async def gather(
        self,
        a: Awaitable[T1],
        /,
        *,
        timeout: float | None = None,
        strict: bool = False,
    ) -> tuple[Part[T1]]: ...
    @overload
    async def gather(
        self,
        a: Awaitable[T1],
        b: Awaitable[T2],
        /,
        *,
        timeout: float | None = None,
        strict: bool = False,
    ) -> tuple[Part[T1], Part[T2]]: ...
    @overload
    async def gather(
        self,
        a: Awaitable[T1],
        b: Awaitable[T2],
        c: Awaitable[T3],
        /,
        *,
        timeout: float | None = None,
        strict: bool = False,
    ) -> tuple[Part[T1], Part[T2], Part[T3]]: ...
    @overload
    async def gather(
        self,
        a: Awaitable[T1],
        b: Awaitable[T2],
        c: Awaitable[T3],
        d: Awaitable[T4],
        /,
        *,
        timeout: float | None = None,
        strict: bool = False,
    ) -> tuple[Part[T1], Part[T2], Part[T3], Part[T4]]: ...
    @overload
    async def gather(
        self,
        a: Awaitable[T1],
        b: Awaitable[T2],
        c: Awaitable[T3],
        d: Awaitable[T4],
        e: Awaitable[T5],
        /,
        *,
        timeout: float | None = None,
        strict: bool = False,
    ) -> tuple[Part[T1], Part[T2], Part[T3], Part[T4], Part[T5]]: ...
    @overload
    async def gather(
        self,
        a: Awaitable[T1],
        b: Awaitable[T2],
        c: Awaitable[T3],
        d: Awaitable[T4],
        e: Awaitable[T5],
        f: Awaitable[T6],
        /,
        *,
        timeout: float | None = None,
        strict: bool = False,
    ) -> tuple[Part[T1], Part[T2], Part[T3], Part[T4], Part[T5], Part[T6]]: ...
    @overload
    async def gather(
        self, *calls: Awaitable[T], timeout: float | None = None, strict: bool = False
    ) -> tuple[Part[T], ...]: ...
    async def gather(
        self, *calls: Awaitable[Any], timeout: float | None = None, strict: bool = False
    ) -> tuple[Part[Any], ...]:
        """Run calls in parallel and return a `Part` for each: its value, or its own error.

        Args:
            calls: what the verbs return, or other awaitables; none of them awaited yet.
            timeout: seconds that all of them have; what is not done then is cancelled, and its
                error is a `DownstreamTimeoutError`.
            strict: raise the first error instead of returning it.

        Raises:
            InteractionRequiredError: the user has something to do for one of them or several:
                one challenge with all scopes and claims, once every call has ended.
        """
        return await gather(calls, timeout=timeout, strict=strict)
