"""One rule language: what a caller must hold, whoever it is and whatever framework asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from obo_asgi import (
    AccessRule,
    AuthenticationRequiredError,
    ConfigurationError,
    InsufficientScopeError,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    Requirement,
    User,
    any_of,
)
from obo_asgi.testing import FakeEntra


def caller(scopes: str = "", roles: str = "", *, is_app: bool = False) -> User:
    return User(
        oid="oid",
        tid="tid",
        claims={},
        scopes=tuple(scopes.split()),
        roles=tuple(roles.split()),
        expires_at=time.time() + 3600,
        is_app=is_app,
    )


def admits(rule: AccessRule, user: object) -> bool:
    try:
        rule.check({"type": "http", "user": user})
    except InsufficientScopeError:
        return False
    return True


BOTH = AccessRule("read", "write")
ONE = AccessRule(any_of("read", "write"))
ROLE = AccessRule(roles=["Admin"])
ROLES = AccessRule(roles=["Admin", "Auditor"])
ONE_ROLE = AccessRule(roles=any_of("Admin", "Auditor"))
EITHER = AccessRule("read", roles=["Read.All"])
EITHER_OF_MANY = AccessRule(any_of("read", "write"), roles=any_of("Read.All", "Write.All"))

RULES: list[Any] = [
    pytest.param(BOTH, caller("read write"), True, id="all scopes, both there"),
    pytest.param(BOTH, caller("write other read"), True, id="all scopes, in any order"),
    pytest.param(BOTH, caller("read"), False, id="all scopes, one there"),
    pytest.param(BOTH, caller(), False, id="all scopes, none there"),
    pytest.param(BOTH, caller("READ write"), False, id="all scopes, another case"),
    pytest.param(BOTH, caller("read writer"), False, id="all scopes, a longer name"),
    pytest.param(ONE, caller("read"), True, id="any scope, the first"),
    pytest.param(ONE, caller("write"), True, id="any scope, the second"),
    pytest.param(ONE, caller("other"), False, id="any scope, another"),
    pytest.param(ROLE, caller(roles="Admin"), True, id="a role, of a user"),
    pytest.param(ROLE, caller(roles="Admin", is_app=True), True, id="a role, of an app"),
    pytest.param(ROLE, caller(roles="admin"), False, id="a role, another case"),
    pytest.param(ROLE, caller("Admin"), False, id="a role, a scope of that name"),
    pytest.param(ROLES, caller(roles="Admin Auditor"), True, id="all roles, both there"),
    pytest.param(ROLES, caller(roles="Admin"), False, id="all roles, one there"),
    pytest.param(ONE_ROLE, caller(roles="Auditor"), True, id="any role, the second"),
    pytest.param(ONE_ROLE, caller(roles="Other"), False, id="any role, another"),
    pytest.param(BOTH, caller(roles="read write"), False, id="scopes, roles of that name"),
    pytest.param(
        BOTH, caller(roles="read write", is_app=True), False, id="scopes, an app's roles of it"
    ),
    pytest.param(BOTH, caller("read write", is_app=True), False, id="scopes, of an app"),
    pytest.param(EITHER, caller("read"), True, id="either, a user's scope"),
    pytest.param(EITHER, caller(roles="Read.All"), True, id="either, a user's role"),
    pytest.param(EITHER, caller(roles="Read.All", is_app=True), True, id="either, an app's role"),
    pytest.param(EITHER, caller("read", "Read.All"), True, id="either, a user's both"),
    pytest.param(EITHER, caller("read", is_app=True), False, id="either, an app's scope"),
    pytest.param(EITHER, caller("Read.All", "read"), False, id="either, the names swapped"),
    pytest.param(EITHER, caller("other", "Other"), False, id="either, neither"),
    pytest.param(EITHER_OF_MANY, caller("write"), True, id="either of many, a scope"),
    pytest.param(
        EITHER_OF_MANY, caller(roles="Write.All", is_app=True), True, id="either of many, a role"
    ),
    pytest.param(EITHER_OF_MANY, caller("other", "Other"), False, id="either of many, neither"),
]


@pytest.mark.parametrize(("rule", "user", "expected"), RULES)
def test_a_rule_admits_who_holds_what_it_names(
    rule: AccessRule, user: User, expected: bool
) -> None:
    """Scopes are a user's, roles anybody's, and neither ever stands in for the other."""
    assert expected == admits(rule, user)


@pytest.mark.parametrize(
    ("rule", "required"),
    [(BOTH, ("read", "write")), (ONE, ("read", "write")), (ROLE, ()), (EITHER, ("read",))],
    ids=["all", "any", "role", "either"],
)
def test_a_refusal_names_the_scopes_that_a_client_can_ask_for(
    rule: AccessRule, required: tuple[str, ...]
) -> None:
    """The challenge lists scopes; a role is nothing that a client could ask for, and not told."""
    with pytest.raises(InsufficientScopeError) as caught:
        rule.check({"user": caller("other")})
    assert required == caught.value.required
    assert "Admin" not in str(caught.value)


@pytest.mark.parametrize("rule", [BOTH, ONE, ROLE, EITHER], ids=["all", "any", "role", "either"])
@pytest.mark.parametrize("user", [None, object(), {"scopes": ["read"]}], ids=["none", "?", "dict"])
def test_who_is_no_verified_user_has_to_sign_in(rule: AccessRule, user: object) -> None:
    """An anonymous caller, or a user that another middleware made up, is asked for a token."""
    with pytest.raises(AuthenticationRequiredError):
        rule.check({"user": user})


def test_without_the_middleware_the_mistake_is_named() -> None:
    """A rule on an app without the middleware refuses, and says what to add."""
    with pytest.raises(ConfigurationError, match="no OnBehalfOfMiddleware is around this app"):
        BOTH.check({"type": "http"})


WRONG: list[Any] = [
    pytest.param(lambda: AccessRule(), "name what is required: a scope, or roles", id="nothing"),
    pytest.param(lambda: AccessRule(roles=[]), "roles is empty: name at least one", id="no roles"),
    pytest.param(lambda: AccessRule("read", roles=[]), "roles is empty", id="scope, no roles"),
    pytest.param(lambda: AccessRule(roles="Admin"), r"\['Admin'\]", id="roles a string"),
    pytest.param(lambda: AccessRule("read write"), "bare names", id="two scopes in one"),
    pytest.param(lambda: AccessRule("api://api/read"), "bare names", id="qualified scope"),
    pytest.param(lambda: AccessRule(""), "non-empty", id="empty scope"),
    pytest.param(lambda: AccessRule(any_of("read"), "write"), "stands alone", id="any_of first"),
    pytest.param(lambda: AccessRule("read", any_of("write")), "stands alone", id="any_of second"),
    pytest.param(lambda: AccessRule(any_of("a"), any_of("b")), "stands alone", id="two any_of"),
    pytest.param(lambda: AccessRule(Requirement(())), "scopes is empty", id="empty Requirement"),
    pytest.param(
        lambda: AccessRule(roles=Requirement((), any=True)), "roles is empty", id="of roles"
    ),
    pytest.param(lambda: AccessRule(Requirement(("a b",))), "bare names", id="Requirement, spaces"),
    pytest.param(
        lambda: AccessRule(Requirement("read")),  # type: ignore[arg-type]  # a string is no tuple
        r"\['read'\]",
        id="Requirement of a string",
    ),
    pytest.param(lambda: any_of(), "any_of is empty: name at least one", id="empty any_of"),
    pytest.param(lambda: AccessRule(*[7]), "scopes", id="a number"),  # type: ignore[arg-type]
    pytest.param(lambda: AccessRule(*[["read"]]), "scopes", id="a list"),  # type: ignore[arg-type]
    pytest.param(lambda: AccessRule(roles=[7]), "roles", id="a number for a role"),  # type: ignore[list-item]
    pytest.param(lambda: AccessRule(roles=7), "roles", id="a number for roles"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("build", "sentence"), WRONG)
def test_a_wrong_rule_fails_where_it_is_written(build: Callable[[], object], sentence: str) -> None:
    """A rule that demands nothing, or what no token can hold, is refused with a sentence."""
    with pytest.raises(ConfigurationError, match=sentence):
        build()


def test_a_rule_shows_what_it_demands() -> None:
    """The repr of a rule names its scopes and roles."""
    assert "'read'" in repr(EITHER)
    assert "'Read.All'" in repr(EITHER)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("token", "status"),
    [
        ({"scp": "access_as_user read"}, 200),
        ({"scp": "access_as_user"}, 403),
        ({"scp": "access_as_user", "roles": ["Read.All"]}, 200),
        ({"user": None, "scp": None, "roles": ["Read.All"]}, 200),
        ({"user": None, "scp": None, "roles": ["Other"]}, 403),
        (None, 401),
    ],
    ids=["scope", "neither", "role", "daemon", "other daemon", "anonymous"],
)
async def test_the_middleware_answers_for_a_rule(token: dict[str, Any] | None, status: int) -> None:
    """What a rule says in an app becomes a challenge: sign in, or ask for more."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        EITHER.check(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    entra = FakeEntra()
    obo = OnBehalfOf(
        entra.registration(),
        app_roles=any_of("Read.All", "Other"),
        http_client=entra.client(),
    )
    transport = httpx.ASGITransport(OnBehalfOfMiddleware(app, obo, optional=True))
    headers = {} if token is None else entra.bearer(**token)
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        answer = await client.get("/", headers=headers)

    challenges = {
        200: None,
        401: 'Bearer realm=""',
        403: 'Bearer realm="", error="insufficient_scope", '
        'error_description="the access token lacks a permission", scope="read"',
    }
    assert (status, challenges[status]) == (
        answer.status_code,
        answer.headers.get("WWW-Authenticate"),
    )
