"""obo-asgi for FastAPI: `protect` an app, then ask for `CurrentDownstream` and `CurrentUser`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Response, Security, WebSocket, WebSocketException, params
from fastapi.requests import HTTPConnection
from fastapi.security import OAuth2

from obo_asgi import (
    AccessRule,
    AuthenticationRequiredError,
    Downstream,
    InsufficientScopeError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    OpenAPISecurity,
    ProtectedResource,
    Requirement,
    User,
    any_of,
    downstream_from,
    error_response,
)

__all__ = [
    "AccessRule",
    "CurrentDownstream",
    "CurrentUser",
    "any_of",
    "current_downstream",
    "current_user",
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
    optional: bool = False,
    resource: ProtectedResource | None = None,
    **options: Any,
) -> None:
    """Let only callers with an access token in, and describe that in the OpenAPI document.

    The middleware goes inside the app, where the errors of endpoints become answers. FastAPI makes
    the middleware that is added last the outermost: add a CORSMiddleware after this call. An app
    that is mounted in another answers errors of its own endpoints: protect it too.

    Args:
        app: the app; its docs pages and its OpenAPI document become public.
        obo: who verifies and acquires.
        swagger_client_id: the client id of a single-page app with which Swagger UI signs users in
            (PKCE); its redirect URI is the app's ``/docs/oauth2-redirect``.
        public_paths: further paths that need no token, exact, below ``root_path``.
        optional: let requests without a token in, as anonymous.
        resource: how the API describes itself (RFC 9728); it says what full scope names start with.
        options: the other options of `OnBehalfOfMiddleware`.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    docs = (app.docs_url, app.redoc_url, app.openapi_url, app.swagger_ui_oauth2_redirect_url)
    options |= {"optional": optional, "resource": resource}
    public_paths = public_paths if isinstance(public_paths, str) else list(public_paths)
    OnBehalfOfMiddleware(app, obo, public_paths=public_paths, **options)  # a mistake is told now
    public = {*public_paths, *(path for path in docs if path is not None)}
    app.add_middleware(OnBehalfOfMiddleware, obo=obo, public_paths=public, **options)

    async def refuse(websocket: WebSocket, refused: _RefusedError) -> None:
        answer = error_response(refused.error, resource=resource)
        if answer and "websocket.http.response" in (websocket.scope.get("extensions") or {}):
            denial = Response(answer.body, answer.status_code, dict(answer.headers))
            await websocket.send_denial_response(denial)
        else:
            await websocket.close(refused.code)

    app.add_exception_handler(_RefusedError, cast("Any", refuse))

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
) -> params.Security:
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

    async def check(connection: HTTPConnection, _: Annotated[None, Depends(_scheme)]) -> User:
        _in(connection, rule.check)
        return cast("User", connection.scope["user"])

    security: params.Security = Security(check, scopes=OpenAPISecurity.demands(rule.scopes))
    return security


class _RefusedError(WebSocketException):
    """Refuses a WebSocket: `protect` answers it, and without that FastAPI closes it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(1008)
        self.error = error


def _in(connection: HTTPConnection, check: Callable[[Any], object] = downstream_from) -> Any:
    try:
        return check(connection.scope)
    except (AuthenticationRequiredError, InsufficientScopeError) as error:
        if connection.scope["type"] == "websocket":
            raise _RefusedError(error) from error
        raise


async def current_downstream(connection: HTTPConnection) -> Downstream:
    """Return the `Downstream` of a request or WebSocket; what a test overrides."""
    return cast("Downstream", _in(connection))


async def current_user(connection: HTTPConnection) -> User:
    """Return who calls; what a test overrides."""
    _in(connection)
    return cast("User", connection.scope["user"])


CurrentDownstream = Annotated[Downstream, Depends(current_downstream)]
"""The downstream APIs of the request or WebSocket; an anonymous caller gets a 401."""

CurrentUser = Annotated[User, Depends(current_user)]
"""The caller; an anonymous one gets a 401."""
