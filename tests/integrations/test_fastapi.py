"""The FastAPI adapter: dependencies give what an endpoint needs, and OpenAPI tells the rest."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Annotated, Any

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Request,
    Response,
    Security,
    WebSocket,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from starlette.routing import Route
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

import obo_asgi_fastapi
from obo_asgi import (
    ANY_TENANT,
    ConfigurationError,
    Downstream,
    DownstreamError,
    InsufficientScopeError,
    InteractionRequiredError,
    ProtectedResource,
    User,
)
from obo_asgi.testing import fake_downstream
from obo_asgi_fastapi import (
    CurrentDownstream,
    CurrentUser,
    any_of,
    current_downstream,
    current_user,
    downstream_from,
    protect,
    requires,
)
from tests.integrations.web_world import NO_TOKEN, WebWorld, client_of, lacks, refusal

pytestmark = pytest.mark.anyio

SWAGGER = "11111111-2222-4333-8444-555555555555"


class Profile(BaseModel):
    name: str


router = APIRouter()


@router.get("/me")
async def me(downstream: CurrentDownstream) -> Profile:
    return await downstream["partner"].get("me", into=Profile)


@router.get("/who")
def who(user: CurrentUser) -> list[str]:
    assert threading.current_thread() is not threading.main_thread()
    return [user.display_name, *user.scopes]


@router.get("/write", dependencies=[requires("write")])
async def write() -> str:
    return "in"


@router.get("/either", dependencies=[requires(any_of("read", "write"), roles=["Admin"])])
def either() -> str:
    return "in"


@router.get("/twice", dependencies=[requires("read")])
async def twice(user: Annotated[User, requires("write")]) -> str:
    return user.display_name


@router.get("/admin", dependencies=[requires(roles=["Admin"])])
async def admin() -> str:
    return "in"


@router.get("/keyed")
async def keyed(key: Annotated[str, Security(APIKeyHeader(name="X-Key"))]) -> str:
    return key


@router.get("/group")
async def group(downstream: CurrentDownstream) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(downstream["partner"].get("a"))
        tasks.create_task(downstream["partner"].get("b"))


@router.get("/public")
async def public() -> str:
    return "hello"


@router.get("/public-me")
async def public_me(downstream: CurrentDownstream) -> None:
    raise AssertionError


@router.get("/public-write", dependencies=[requires("write")])
async def public_write() -> None:
    raise AssertionError


@router.websocket("/ws")
async def ws(websocket: WebSocket, downstream: CurrentDownstream, user: CurrentUser) -> None:
    await websocket.accept()
    answer = await downstream["partner"].get("me", into=Profile)
    await websocket.send_json([answer.name, user.display_name])
    await websocket.close()


@router.websocket("/public-ws")
async def public_ws(websocket: WebSocket, user: CurrentUser) -> None:
    raise AssertionError


@router.websocket("/ws-write", dependencies=[requires("write")])
async def ws_write(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("in")
    await websocket.close()


@router.websocket("/ws-asked")
async def ws_asked(user: Annotated[User, Security(current_user, scopes=["write"])]) -> None:
    raise AssertionError


PUBLIC = ["/public", "/public-me", "/public-write", "/public-ws"]


@pytest.fixture
def world() -> WebWorld:
    return WebWorld()


def app_of(world: WebWorld, **options: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    obo = options.pop("obo", None) or world.obo()
    protect(app, obo, **{"public_paths": PUBLIC, **options})
    return app


def security_in(schema: dict[str, Any], path: str) -> Any:
    return schema["paths"][path]["get"].get("security")


def test_all_is_sorted() -> None:
    """``__all__`` is in plain sorted order, and every name is there."""
    names = obo_asgi_fastapi.__all__
    assert sorted(names) == names
    assert [] == [name for name in names if not hasattr(obo_asgi_fastapi, name)]


async def test_dependencies_give_the_caller_and_the_apis(world: WebWorld) -> None:
    """An endpoint, sync or async, asks for its Downstream or its user by annotation."""
    async with client_of(app_of(world)) as client:
        assert {"name": "Bob"} == (await client.get("/me", headers=world.bearer(user="bob"))).json()
        response = await client.get("/who", headers=world.bearer("read", "write"))
        assert ["Alice", "read", "write"] == response.json()
        assert "Alice" == (await client.get("/twice", headers=world.bearer("read", "write"))).json()


@pytest.mark.parametrize(
    ("path", "granted", "missing"),
    [
        ("/write", ["write"], "write"),
        ("/either", ["write"], "read write"),
        ("/twice", ["read", "write"], "read"),
    ],
)
async def test_requires_lets_in_who_holds_the_scope(
    world: WebWorld, path: str, granted: list[str], missing: str
) -> None:
    """Who lacks a scope is told in a challenge which."""
    async with client_of(app_of(world)) as client:
        assert NO_TOKEN == refusal(await client.get(path))
        assert lacks(missing) == refusal(await client.get(path, headers=world.bearer("other")))
        assert 200 == (await client.get(path, headers=world.bearer(*granted))).status_code


async def test_roles_count_for_people_and_applications(world: WebWorld) -> None:
    """A role lets both in, alone or in place of a scope."""
    app = app_of(world, obo=world.obo(app_roles=any_of("Admin", "Other")))
    async with client_of(app) as client:
        for path in ("/admin", "/either"):
            for caller, status in [("Admin", 200), ("Other", 403)]:
                as_user = world.bearer("other", roles=[caller])
                as_app = world.entra.bearer(None, None, roles=[caller])
                assert status == (await client.get(path, headers=as_user)).status_code
                assert status == (await client.get(path, headers=as_app)).status_code
        assert lacks(None) == refusal(await client.get("/admin", headers=world.bearer()))


async def active(user: CurrentUser) -> User:
    return user


async def reader(user: Annotated[User, requires("read", roles=["Admin"])]) -> User:
    return user


ASKING: dict[str, Any] = {
    "user": Security(current_user, scopes=["write"]),
    "downstream": Security(current_downstream, scopes=["write"]),
    "own": Security(active, scopes=["write"]),
    "requires": Security(reader, scopes=["write"]),
}


@pytest.mark.parametrize("what", list(ASKING))
@pytest.mark.parametrize("is_last", [True, False])
async def test_scopes_of_security_are_demanded(world: WebWorld, what: str, is_last: bool) -> None:
    """FastAPI's own word for scopes is a demand, beside other dependencies too, and documented."""
    order = [Depends(current_user), ASKING[what]]
    app = app_of(world)
    app.get("/asked", dependencies=order if is_last else order[::-1])(lambda: "in")
    async with client_of(app) as client:
        assert NO_TOKEN == refusal(await client.get("/asked"))
        for granted in ("read", "access_as_user"):
            response = await client.get("/asked", headers=world.bearer(granted))
            assert lacks("write") == refusal(response)
        response = await client.get("/asked", headers=world.bearer("read", "write"))
        assert 200 == response.status_code
    api = f"api://{world.registration.client_id}"
    names = [f"{api}/write", *([f"{api}/read"] if what == "requires" else [])]
    assert [{"entra": names}] == security_in(app.openapi(), "/asked")


async def test_scopes_of_security_and_of_requires_are_apart(world: WebWorld) -> None:
    """A role that `requires` takes in place of its own scope is none for the scope around it."""
    app = app_of(world)
    app.get("/asked", dependencies=[ASKING["requires"]])(lambda: "in")
    async with client_of(app) as client:
        for granted, roles, missing in [
            (["write"], [], lacks("read")),
            (["read"], ["Admin"], lacks("write")),
            (["write"], ["Admin"], (200, "")),
        ]:
            headers = world.bearer(*granted, roles=roles)
            assert missing == refusal(await client.get("/asked", headers=headers))


async def test_scopes_of_security_add_up(world: WebWorld) -> None:
    """Scopes of the app, of a router and of nested dependencies add up."""

    async def nested(user: Annotated[User, Security(active, scopes=["write"])]) -> User:
        return user

    app = FastAPI(dependencies=[Security(current_user, scopes=["read"])])
    protect(app, world.obo())
    app.get("/asked", dependencies=[Security(nested, scopes=["all"])])(lambda: "in")
    async with client_of(app) as client:
        for granted, missing in [
            (["all", "write"], "read"),
            (["read", "write"], "all write"),
            (["read", "all"], "all write"),
        ]:
            response = await client.get("/asked", headers=world.bearer(*granted))
            assert lacks(missing) == refusal(response)
        response = await client.get("/asked", headers=world.bearer("all", "read", "write"))
        assert 200 == response.status_code
    api = f"api://{world.registration.client_id}"
    names = [f"{api}/read", f"{api}/all", f"{api}/write"]
    assert [{"entra": names}] == security_in(app.openapi(), "/asked")


async def test_docs_and_public_paths_need_no_token(world: WebWorld) -> None:
    """The docs pages and the listed paths are open to all, and nothing else is."""
    async with client_of(app_of(world)) as client:
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/public"):
            assert (path, 200) == (path, (await client.get(path)).status_code)
        for path in ("/me", "/nowhere", "/docs/", "/public-me", "/public-write"):
            assert (path, *NO_TOKEN) == (path, *refusal(await client.get(path)))


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"openapi_url": None}, "/docs"),
        ({"openapi_url": None, "docs_url": None, "redoc_url": None}, "/openapi.json"),
        ({"docs_url": None}, "/docs"),
        ({"docs_url": None}, "/docs/oauth2-redirect"),
        ({"redoc_url": None}, "/redoc"),
        ({"routes": [Route("/docs", lambda request: Response("mine"))]}, "/docs"),
    ],
)
async def test_an_own_route_is_no_docs_page(
    world: WebWorld, options: dict[str, Any], path: str
) -> None:
    """What the app itself serves where FastAPI would have its docs pages needs a token."""
    app = FastAPI(**options)
    app.get("/{path:path}")(lambda path: "mine")
    protect(app, world.obo(), swagger_client_id=SWAGGER)
    async with client_of(app) as client:
        assert NO_TOKEN == refusal(await client.get(path))
        assert "mine" in (await client.get(path, headers=world.bearer())).text


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"])
async def test_only_reading_a_docs_page_needs_no_token(world: WebWorld, path: str) -> None:
    """Routes of the app's own for other methods of the same paths need a token."""
    app = FastAPI()
    protect(app, world.obo())
    app.add_route("/{path:path}", lambda request: Response("mine"), methods=["POST", "DELETE"])
    async with client_of(app) as client:
        assert [200, 200] == [
            (await client.request(method, path)).status_code for method in ("GET", "HEAD")
        ]
        for method in ("POST", "DELETE", "OPTIONS"):
            assert NO_TOKEN == refusal(await client.request(method, path))


async def test_is_public_adds_to_the_docs_pages(world: WebWorld) -> None:
    """A function of the scope opens further requests, and the docs pages stay open."""
    app = app_of(world, public_paths=[], is_public=lambda scope: scope["path"] == "/public")
    async with client_of(app) as client:
        assert [200, 200, 401] == [
            (await client.get(path)).status_code for path in ("/public", "/docs", "/me")
        ]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT"])
async def test_every_method_is_protected(world: WebWorld, method: str) -> None:
    """No method gets past without a token, also one that the path does not have."""
    async with client_of(app_of(world)) as client:
        assert NO_TOKEN == refusal(await client.request(method, "/me"))
        assert 405 == (await client.request(method, "/me", headers=world.bearer())).status_code


async def test_errors_in_groups_are_answered(world: WebWorld) -> None:
    """A missing consent that comes out of a task group is a challenge, not a 500."""
    world.entra.withdraw_consent()
    async with client_of(app_of(world)) as client:
        for path in ("/me", "/group"):
            status, challenge = refusal(await client.get(path, headers=world.bearer()))
            assert 401 == status
            assert 'error="consent_required", ' in challenge


async def test_the_apps_own_handlers_come_first(world: WebWorld) -> None:
    """An exception handler of the app answers before the middleware does."""
    app = app_of(world)

    @app.exception_handler(InteractionRequiredError)
    async def answer(request: Any, error: InteractionRequiredError) -> Any:
        from fastapi.responses import JSONResponse

        return JSONResponse(list(error.scopes), 418)

    world.entra.withdraw_consent()
    async with client_of(app) as client:
        response = await client.get("/me", headers=world.bearer())
    assert (418, ["api://partner/read"]) == (response.status_code, response.json())


async def test_optional_callers(world: WebWorld) -> None:
    """With `optional` an endpoint is reached without a token, but has no Downstream then."""
    app = app_of(world, optional=True, public_paths=[])
    async with client_of(app) as client:
        assert "hello" == (await client.get("/public")).json()
        assert NO_TOKEN == refusal(await client.get("/me"))
        assert NO_TOKEN == refusal(await client.get("/write"))
    scope = f"api://{world.registration.client_id}/write"
    assert [{"entra": []}, {}] == security_in(app.openapi(), "/public")
    assert [{"entra": []}] == security_in(app.openapi(), "/me")
    assert [{"entra": []}] == security_in(app.openapi(), "/who")
    assert [{"entra": [scope]}] == security_in(app.openapi(), "/write")


async def test_an_optional_caller_is_looked_for(world: WebWorld) -> None:
    """An endpoint for both asks the request whether there is a caller, and for the Downstream."""
    app = app_of(world, optional=True)

    @app.get("/greeting")
    async def greeting(request: Request) -> str:
        user = request.user
        return downstream_from(request).user.display_name if user.is_authenticated else "nobody"

    async with client_of(app) as client:
        assert "nobody" == (await client.get("/greeting")).json()
        assert "Alice" == (await client.get("/greeting", headers=world.bearer())).json()


async def test_a_cors_middleware_that_is_added_last_is_outside(world: WebWorld) -> None:
    """A script of another origin can read the refusal."""
    app = app_of(world)
    expose = ["WWW-Authenticate", "Retry-After"]
    app.add_middleware(CORSMiddleware, allow_origins=["https://spa.example"], expose_headers=expose)
    async with client_of(app) as client:
        response = await client.get("/me", headers={"Origin": "https://spa.example"})
    assert NO_TOKEN == refusal(response)
    assert "https://spa.example" == response.headers["access-control-allow-origin"]


async def test_below_a_root_path_and_in_a_mounted_app(world: WebWorld) -> None:
    """A protected app behaves the same below a proxy's prefix and mounted in another."""
    obo = world.obo()
    outer = app_of(world, obo=obo, public_paths=["/sub/public", "/sub/openapi.json"])
    outer.mount("/sub", app_of(world, obo=obo))
    async with client_of(outer, root_path="/v1") as client:
        assert lacks("write") == refusal(await client.get("/v1/sub/write", headers=world.bearer()))
        response = await client.get("/v1/sub/me", headers=world.bearer())
        assert {"name": "Alice"} == response.json()
        assert "hello" == (await client.get("/v1/sub/public")).json()
        schema = (await client.get("/v1/sub/openapi.json")).json()
        assert NO_TOKEN == refusal(await client.get("/v1/sub/public-me"))
    assert [{"url": "/v1/sub"}] == schema["servers"]


async def test_background_tasks_still_call(world: WebWorld) -> None:
    """After the last byte a background task may call on; it is part of the request."""
    names: list[str] = []
    app = app_of(world)

    async def task(downstream: Downstream) -> None:
        names.append((await downstream["partner"].get("me", into=Profile)).name)

    @app.post("/later")
    async def later(downstream: CurrentDownstream, tasks: BackgroundTasks) -> None:
        tasks.add_task(task, downstream)

    async with client_of(app) as client:
        await client.post("/later", headers=world.bearer())
    assert ["Alice"] == names


async def test_overrides_and_direct_calls_need_no_entra() -> None:
    """An endpoint's unit test calls it with a stand-in, or puts that in the dependency's place."""
    stand_in = fake_downstream(partner={"me": {"name": "Carol"}}, user="carol")
    assert Profile(name="Carol") == await me(stand_in)
    with pytest.raises(DownstreamError):
        await me(fake_downstream(partner={"me": 404}))
    app = FastAPI()
    app.include_router(router)
    app.dependency_overrides = {
        current_downstream: lambda: stand_in,
        current_user: lambda: stand_in.user,
    }
    async with client_of(app) as client:
        assert {"name": "Carol"} == (await client.get("/me")).json()
        assert "carol" == (await client.get("/who")).json()[0].lower()


async def test_one_override_stands_in_for_all_dependencies() -> None:
    """In the place of `current_downstream` a stand-in is enough, and `requires` asks its user."""
    app = FastAPI()
    app.include_router(router)
    caller = replace(fake_downstream().user, scopes=("read", "write"))
    stand_in = fake_downstream(partner={"me": {"name": "Carol"}}, user=caller)
    app.dependency_overrides[current_downstream] = lambda: stand_in
    async with client_of(app) as client:
        for path in ("/me", "/who", "/write", "/either", "/twice"):
            assert (path, 200) == (path, (await client.get(path)).status_code)
        with pytest.raises(InsufficientScopeError):
            await client.get("/admin")


def test_a_mistake_is_told_at_once(world: WebWorld) -> None:
    """`protect` and `requires` refuse what is wrong when they are called."""
    for options in ({"public_paths": "/health"}, {"acquire_first": ["nobody"]}):
        with pytest.raises(ConfigurationError):
            protect(FastAPI(), world.obo(), **options)
    with pytest.raises(ConfigurationError, match="name what is required"):
        requires()


# WebSockets


def test_a_websocket_has_its_caller(world: WebWorld) -> None:
    """A WebSocket endpoint gets the same dependencies."""
    with (
        TestClient(app_of(world)) as client,
        client.websocket_connect("/ws", headers=world.bearer()) as websocket,
    ):
        assert ["Alice", "Alice"] == websocket.receive_json()


@pytest.mark.parametrize(
    ("path", "status"), [("/ws", 401), ("/public-ws", 401), ("/ws-write", 403), ("/ws-asked", 403)]
)
def test_a_websocket_is_refused_before_it_is_accepted(
    world: WebWorld, path: str, status: int
) -> None:
    """Where the server can deny, the client gets the challenge, which names the description."""
    resource = ProtectedResource(resource="https://api.example.com")
    headers = world.bearer("read") if status == 403 else {}
    with (
        TestClient(app_of(world, resource=resource)) as client,
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect(path, headers=headers),
    ):
        pytest.fail("it was accepted")
    assert status == denied.value.status_code
    assert resource.metadata_url in denied.value.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/public-ws", "/ws-write"])
@pytest.mark.parametrize("mounted", [False, True])
def test_a_websocket_is_closed_where_it_cannot_be_denied(
    world: WebWorld, path: str, mounted: bool
) -> None:
    """Without the extension a refusal is a close with code 1008, in mounted apps too."""
    app = app_of(world, public_paths=[*PUBLIC, "/sub/public-ws"])
    if mounted:
        inner = FastAPI()
        inner.include_router(router)
        app.mount("/sub", inner)
        path = f"/sub{path}"

    async def plain_server(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": None}, receive, send)

    with (
        TestClient(plain_server) as client,
        pytest.raises(WebSocketDisconnect) as closed,
        client.websocket_connect(path, headers={} if "public" in path else world.bearer("read")),
    ):
        pytest.fail("it was accepted")
    assert 1008 == closed.value.code


# OpenAPI


def test_the_security_scheme_is_the_tenants(world: WebWorld) -> None:
    """The document names the tenant's endpoints and every scope by its full name."""
    app = app_of(world, obo=world.obo(required_scopes=["access"]), swagger_client_id=SWAGGER)
    tenant = f"https://login.microsoftonline.com/{world.entra.tenant_id}/oauth2/v2.0"
    api = f"api://{world.registration.client_id}"
    flow = {
        "authorizationUrl": f"{tenant}/authorize",
        "tokenUrl": f"{tenant}/token",
        "scopes": {f"{api}/{name}": name for name in ("access", "read", "write")},
    }
    schemes = app.openapi()["components"]["securitySchemes"]
    assert {"type": "oauth2", "flows": {"authorizationCode": flow}} == schemes["entra"]
    assert {
        "clientId": SWAGGER,
        "scopes": [f"{api}/access"],
        "usePkceWithAuthorizationCodeGrant": True,
    } == app.swagger_ui_init_oauth


def test_each_operation_says_what_it_demands(world: WebWorld) -> None:
    """The app's scopes and the operation's own are listed, alternatives one by one."""
    app = app_of(world, obo=world.obo(required_scopes=["access"]))
    schema = app.openapi()
    api = f"api://{world.registration.client_id}"
    access, read, write = f"{api}/access", f"{api}/read", f"{api}/write"
    for path, expected in {
        "/me": [{"entra": [access]}],
        "/write": [{"entra": [access, write]}],
        "/either": [{"entra": [access, read]}, {"entra": [access, write]}],
        "/twice": [{"entra": [access, read, write]}],
        "/admin": [{"entra": [access]}],
        "/keyed": [{"entra": [access], "APIKeyHeader": []}],
        "/public": None,
        "/public-me": [{"entra": [access]}],
        "/public-write": [{"entra": [access, write]}],
    }.items():
        assert (path, expected) == (path, security_in(schema, path))


def test_refusals_are_documented(world: WebWorld) -> None:
    """Each protected operation documents 401 and 403, unless it does so itself."""
    app = app_of(world)

    @app.get("/own", responses={403: {"description": "Not yours"}})
    async def own() -> None: ...

    paths = app.openapi()["paths"]
    assert {"200", "401", "403"} == set(paths["/me"]["get"]["responses"])
    assert {"200", "401", "403"} == set(paths["/public-me"]["get"]["responses"])
    assert {"200"} == set(paths["/public"]["get"]["responses"])
    assert "Not yours" == paths["/own"]["get"]["responses"]["403"]["description"]
    assert "WWW-Authenticate" in paths["/own"]["get"]["responses"]["401"]["headers"]


def test_the_document_is_made_once_and_follows_new_routes(world: WebWorld) -> None:
    """It is cached as FastAPI's own; routes that come later are in it, and are protected."""
    app = app_of(world)
    assert app.openapi() is app.openapi()

    @app.get("/new", dependencies=[requires("read")])
    async def new() -> None: ...

    app.openapi_schema = None
    api = f"api://{world.registration.client_id}"
    assert [{"entra": [f"{api}/read"]}] == security_in(app.openapi(), "/new")


def test_an_own_document_is_added_to(world: WebWorld) -> None:
    """What an `app.openapi` of one's own returns, set before `protect`, gets the scheme too."""
    app = FastAPI()
    app.include_router(router)

    def own() -> dict[str, Any]:
        return get_openapi(title="Own", version="1", routes=app.routes)

    app.openapi = own  # type: ignore[method-assign]  # as FastAPI's documentation does
    protect(app, world.obo())
    for _ in range(2):
        schema = app.openapi()
        write = f"api://{world.registration.client_id}/write"
        assert [{"entra": [write]}] == security_in(schema, "/write")
        assert schema["components"]["securitySchemes"]["entra"]["flows"]["authorizationCode"]


@pytest.mark.parametrize(
    ("overrides", "tenant"),
    [
        ({"tenant_id": "organizations", "allowed_tenants": ANY_TENANT}, "organizations"),
        ({"allowed_tenants": ANY_TENANT}, "organizations"),
        ({}, None),
    ],
)
def test_many_tenants_sign_in_at_organizations(
    world: WebWorld, overrides: dict[str, Any], tenant: str | None
) -> None:
    """An API of many tenants lets people of all of them sign in."""
    obo = world.obo(registration=world.entra.registration(**overrides))
    flows = app_of(world, obo=obo).openapi()["components"]["securitySchemes"]["entra"]["flows"]
    url = f"https://login.microsoftonline.com/{tenant or world.entra.tenant_id}/oauth2/v2.0/token"
    assert url == flows["authorizationCode"]["tokenUrl"]


@pytest.mark.parametrize(
    ("audiences", "resource", "expected"),
    [
        (None, None, "api://{}/write"),
        (["api://orders", "{}"], None, "api://orders/write"),
        (None, "https://api.example.com/orders", "https://api.example.com/orders/write"),
    ],
)
def test_full_names_of_scopes(
    world: WebWorld, audiences: list[str] | None, resource: str | None, expected: str
) -> None:
    """A scope starts with the Application ID URI, or with the resource that is described."""
    registration = world.entra.registration(audiences=audiences)
    described = None if resource is None else ProtectedResource(resource=resource)
    app = app_of(world, obo=world.obo(registration=registration), resource=described)
    name = expected.format(registration.client_id)
    assert [{"entra": [name]}] == security_in(app.openapi(), "/write")


def test_where_no_scope_is_named(world: WebWorld) -> None:
    """An API that demands no scope is offered with its ``/.default``."""
    app = FastAPI()
    protect(app, world.obo(), swagger_client_id=SWAGGER)
    flows = app.openapi()["components"]["securitySchemes"]["entra"]["flows"]
    scopes = flows["authorizationCode"]["scopes"]
    assert [f"api://{world.registration.client_id}/.default"] == list(scopes)


def test_the_parameters_of_an_endpoint_are_its_own(world: WebWorld) -> None:
    """Neither a Downstream nor a user shows up as a parameter."""
    schema = app_of(world).openapi()
    for path in ("/me", "/who", "/twice"):
        assert [] == schema["paths"][path]["get"].get("parameters", [])


def test_a_dependency_of_the_user_builds_on_ours(world: WebWorld) -> None:
    """An own dependency may take `CurrentUser` and `CurrentDownstream`."""

    async def owner(user: CurrentUser, downstream: CurrentDownstream) -> str:
        return f"{user.display_name} {downstream.user is user}"

    app = app_of(world)

    @app.get("/own")
    async def own(name: str = Depends(owner)) -> str:
        return name

    with TestClient(app) as client:
        assert "Alice True" == client.get("/own", headers=world.bearer()).json()
