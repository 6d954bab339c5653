"""A `Downstream` for the unit test of a handler: no Entra, no network, answers as told."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_plus

import httpx
import msgspec

from .._bodies import encode_json
from .._http import MARK
from .._trace import Trace
from .._types import Secret
from ..acquirer import Acquirer
from ..cache import TokenCache
from ..config import AppRegistration, DownstreamAPI
from ..credentials import ClientSecret
from ..downstream import Caller, Downstream, DownstreamContext
from ..sessions import Sessions
from ..tokens import AccessToken, Issued, OnBehalfOfGrant, User, token_digest
from .directory import DEFAULT_TENANT, stable_guid

__all__ = ["FakeCall", "FakeDownstream", "fake_downstream"]

_LIFETIME: Final = 3600.0

_CODED: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class FakeCall(NamedTuple):
    """A call that a handler made."""

    api: str
    """The API's name."""
    method: str
    path: str
    """The path and the query, as they were sent, without a leading slash."""
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return msgspec.json.decode(self.body)


class FakeDownstream(Downstream):
    """A `Downstream` whose APIs answer as told; it remembers the calls."""

    __slots__ = ("calls",)

    def __init__(self, caller: Caller, user: User | None, calls: list[FakeCall]) -> None:
        super().__init__(caller, user)
        self.calls = calls
        """What was called so far, in order."""


def fake_downstream(
    apis: Mapping[str, Mapping[str, Any]] | None = None,
    /,
    *,
    user: str | User | None = "alice",
    **more: Mapping[str, Any],
) -> FakeDownstream:
    """Return a stand-in for a request's `Downstream`, of the same types.

    An answer is a value with a JSON form; ``str`` and ``bytes`` for a body as it is; a whole number
    for a status; an ``httpx.Response``; an exception, which is raised; or a function of the
    ``httpx.Request`` that returns one of these, asynchronous or not.

    Args:
        apis: answers by API name and path, for names that are no keywords. A path holds its query,
            and may name its method: ``{"me": …, "POST api/process": …}``.
        user: a name (with scope "access_as_user" and an oid and tid like FakeEntra's), a `User` of
            your own, or None where the app calls for itself.
        more: answers by API name and path.

    Raises:
        LookupError: (when a handler calls) there is no answer for the path.
    """
    answers = {**(apis or {}), **more}
    calls: list[FakeCall] = []
    client = httpx.AsyncClient(transport=httpx.MockTransport(_Answers(answers, calls).respond))
    registration = AppRegistration(
        tenant_id=DEFAULT_TENANT,
        client_id=stable_guid("app", "api"),
        client_credential=ClientSecret("fake"),
    )
    cache = TokenCache()
    context = DownstreamContext(
        registration,
        {name: _api(number) for number, name in enumerate(answers)},
        Acquirer(_Endpoint(), cache),
        Sessions(cache, registration),
        client=lambda: client,
        open=_nothing,
    )
    if user is None:
        caller = Caller(context, DEFAULT_TENANT, None, Trace()).as_app()
        return FakeDownstream(caller, None, calls)
    person = _user(user) if isinstance(user, str) else user
    grant = OnBehalfOfGrant(
        person,
        Secret("fake"),
        token_digest("fake"),
        authority=registration.authority,
        client_id=registration.client_id,
    )
    return FakeDownstream(Caller(context, person.tid, grant, Trace()), person, calls)


class _Answers:
    """Answers requests, and keeps them."""

    def __init__(self, by_api: Mapping[str, Mapping[str, Any]], calls: list[FakeCall]) -> None:
        self._by_api = by_api
        self._calls = calls

    async def respond(self, request: httpx.Request) -> httpx.Response:
        api: str = request.extensions[MARK]
        path = request.url.raw_path.decode().partition("/")[2]
        body = await request.aread()
        self._calls.append(FakeCall(api, request.method, path, request.headers, body))
        answer = self._find(api, request.method, path)
        if callable(answer) and not isinstance(answer, type):
            answer = answer(request)
            answer = await answer if inspect.isawaitable(answer) else answer
        return await _response(answer)

    def _find(self, api: str, method: str, path: str) -> Any:
        answers = {key.lstrip("/"): answer for key, answer in self._by_api[api].items()}
        place, mark, query = path.partition("?")
        plain = unquote(place) + mark + unquote_plus(query)
        for known in (path, plain, path.partition("?")[0], plain.partition("?")[0]):
            for key in (f"{method} {known}", f"{method} /{known}", known):
                if key in answers:
                    return answers[key]
        raise LookupError(
            f"no answer for {method} {path!r} of {api!r}; there are {sorted(answers) or 'none'}"
        )


async def _response(answer: Any) -> httpx.Response:
    match answer:
        case BaseException() | type():
            raise answer
        case httpx.Response():
            content = await answer.aread()  # decoded, which those headers are not about
            lines = answer.headers.multi_items()
            headers = [line for line in lines if line[0] not in _CODED]
            return httpx.Response(answer.status_code, headers=headers, content=content)
        case bool():
            pass
        case int():
            return httpx.Response(answer)
        case str():
            return httpx.Response(200, text=answer)
        case bytes():
            return httpx.Response(200, content=answer)
    json_headers = {"content-type": "application/json"}
    return httpx.Response(200, headers=json_headers, content=encode_json(answer))


def _api(number: int) -> DownstreamAPI:
    return DownstreamAPI(
        base_url=f"https://api{number}.example.com", scopes=[f"api://api{number}/.default"]
    )


def _user(name: str) -> User:
    claims = {"name": name.title(), "preferred_username": f"{name}@contoso.example"}
    return User(
        oid=stable_guid(DEFAULT_TENANT, name),
        tid=DEFAULT_TENANT,
        claims=MappingProxyType(claims),
        scopes=("access_as_user",),
        roles=(),
        expires_at=time.time() + _LIFETIME,
    )


async def _nothing() -> None:
    """A client in memory needs no opening."""


class _Endpoint:
    """A token endpoint that gives tokens without asking anybody."""

    async def on_behalf_of(
        self,
        tenant_id: str,
        assertion: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        return _issue(scopes)

    async def refresh(
        self,
        tenant_id: str,
        refresh_token: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        return _issue(scopes)

    async def client_credentials(
        self,
        tenant_id: str,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        return _issue(scopes)


def _issue(scopes: tuple[str, ...]) -> Issued:
    end = time.time() + _LIFETIME
    token = AccessToken(f"fake token for {scopes[0]}", end, end)
    return Issued(token, Secret("fake refresh token"))
