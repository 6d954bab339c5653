"""obo-asgi for FastAPI: `protect` an app, then ask for `CurrentDownstream` and `CurrentUser`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Security, params
from fastapi.requests import HTTPConnection
from fastapi.security import OAuth2, SecurityScopes
from starlette.routing import Match, Route
from starlette.types import Scope

from obo_asgi import (
    AccessRule,
    Downstream,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    OpenAPISecurity,
    ProtectedResource,
    Requirement,
    User,
    any_of,
)
from obo_asgi import downstream_from as _downstream_from

__all__ = [
    "AccessRule",
    "CurrentDownstream",
    "CurrentUser",
    "any_of",
    "current_downstream",
    "current_user",
    "downstream_from",
    "protect",
    "requires",
]


class _Scheme(OAuth2):
    """Stands in the OpenAPI document where `protect` then puts the tenant's scheme."""

    async def __call__(self) -> None:  # type: ignore[override] # takes no request
        """Do nothing, for WebSockets too: the middleware has verified the token."""


_scheme = _Scheme(scheme_name=OpenAPISecurity.SCHEME)


def protect(
    app: FastAPI,
    obo: OnBehalfOf,
    *,
    swagger_client_id: str | None = None,
    public_paths: Iterable[str] = (),
    is_public: Callable[[Scope], bool] | None = None,
    optional: bool = False,
    resource: ProtectedResource | None = None,
    **options: Any,
) -> None:
    """Let only callers with an access token in, and describe that in the OpenAPI document.

    The middleware goes inside the app, where the errors of endpoints become answers. FastAPI makes
    the middleware that is added last the outermost: add a CORSMiddleware after this call. An app
    that is mounted in another answers errors of its own endpoints: protect it too.

    Args:
        app: the app; the docs pages and the OpenAPI document that FastAPI makes become public.
        obo: who verifies and acquires.
        swagger_client_id: the client id of a single-page app with which Swagger UI signs users in
            (PKCE); its redirect URI is the app's ``/docs/oauth2-redirect``.
        public_paths: further paths that need no token, exact, below ``root_path``.
        is_public: tells by the ASGI scope of further requests that need no token; the OpenAPI
            document cannot know of these.
        optional: let requests without a token in, as anonymous.
        resource: how the API describes itself (RFC 9728); it says what full scope names start with.
        options: the other options of `OnBehalfOfMiddleware`.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    routes = (each for each in app.routes if isinstance(each, Route))
    pages = [each for each in routes if each.endpoint.__module__ == FastAPI.__module__]
    endings = tuple(page.path for page in pages)

    def needs_no_token(scope: Scope) -> bool:
        if scope["path"].endswith(endings):  # of a page, or of a route that is asked before it
            asked = (each for each in app.routes if each.matches(dict(scope))[0] is Match.FULL)
            if next(asked, None) in pages:
                return True
        return is_public is not None and is_public(scope)

    public = public_paths if isinstance(public_paths, str) else list(public_paths)
    options |= {"public_paths": public, "optional": optional, "resource": resource}
    OnBehalfOfMiddleware(app, obo, **options)  # a mistake is told now
    app.add_middleware(OnBehalfOfMiddleware, obo=obo, is_public=needs_no_token, **options)

    security = OpenAPISecurity(obo.registration, obo.required_scopes, resource)
    if swagger_client_id is not None:
        app.swagger_ui_init_oauth = {
            "clientId": swagger_client_id,
            "scopes": security.required,
            "usePkceWithAuthorizationCodeGrant": True,
            **(app.swagger_ui_init_oauth or {}),
        }
    describe, described = app.openapi, dict[str, Any]()

    def openapi() -> dict[str, Any]:
        nonlocal described
        schema = describe()
        if schema is not described:  # FastAPI makes a new one when routes are added
            described = schema
            security.secure(schema, public=public, optional=optional)
        return schema

    cast("Any", app).openapi = openapi


def requires(
    *scopes: str | Requirement, roles: Sequence[str] | Requirement | None = None
) -> params.Depends:
    """Return a dependency that lets only callers in who hold these scopes or roles.

    ``dependencies=[requires("read")]`` for an app, a router or an endpoint; as the `Annotated` of a
    parameter it gives the `User`. Who may not gets a 401 or 403 with a challenge; a WebSocket is
    refused before it is accepted. The OpenAPI document names the scopes; it knows no roles.

    Args:
        scopes: bare names as they stand in the token, all of them; or one `any_of`.
        roles: app roles, all of them; or one `any_of`.

    Raises:
        ConfigurationError: nothing is demanded, or a name is none.
    """
    rule = AccessRule(*scopes, roles=roles)
    demands = OpenAPISecurity.demands(rule.scopes)

    async def check(
        user: Annotated[User, Depends(current_user)],
        _: Annotated[None, Security(_scheme, scopes=demands)],
    ) -> User:
        rule.check({"user": user})
        return user

    return cast("params.Depends", Depends(check))


def downstream_from(connection: HTTPConnection) -> Downstream:
    """Return the `Downstream` of a request or WebSocket, where dependencies do not reach.

    Raises:
        AuthenticationRequiredError: the caller is anonymous (a public path, optional
            authentication).
        ConfigurationError: no `OnBehalfOfMiddleware` is around this app.
    """
    return _downstream_from(connection.scope)


async def current_downstream(
    connection: HTTPConnection, asked: SecurityScopes, _: Annotated[None, Depends(_scheme)]
) -> Downstream:
    """Return the `Downstream` of a request or WebSocket; what a test overrides.

    The scopes of a `Security` around it, or around what depends on it, are demanded of the caller.
    """
    downstream = downstream_from(connection)
    if asked.scopes:
        AccessRule(*asked.scopes).check(connection.scope)
    return downstream


async def current_user(downstream: Annotated[Downstream, Depends(current_downstream)]) -> User:
    """Return who calls; what a test overrides, where there is no `Downstream`.

    The scopes of a `Security` around it, or around what depends on it, are demanded of the caller.
    """
    return downstream.user


CurrentDownstream = Annotated[Downstream, Depends(current_downstream)]
"""The downstream APIs of the request or WebSocket; an anonymous caller gets a 401."""

CurrentUser = Annotated[User, Depends(current_user)]
"""The caller; an anonymous one gets a 401."""
