"""Errors as answers: every error of the tree has one, and it repeats nothing."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from typing import Any

import httpx
import httpx2
import pytest

from obo_asgi import (
    AccessDeniedError,
    AssertionRejectedError,
    AuthenticationRequiredError,
    CacheUnavailableError,
    ConfigurationError,
    DownstreamError,
    DownstreamTimeoutError,
    ErrorResponse,
    ExpiredTokenError,
    InsufficientScopeError,
    InteractionRequiredError,
    InvalidTokenError,
    KeysUnavailableError,
    OboError,
    ProtectedResource,
    SessionConflictError,
    SessionExpiredError,
    SessionNotFoundError,
    SessionUnreadableError,
    TokenAcquisitionError,
    error_response,
)
from obo_asgi._http import MARK
from obo_asgi.challenges import parse_challenge
from obo_asgi.responses import metadata_response

SECRET = "secret-text-of-alice"


def answer(error: BaseException) -> ErrorResponse:
    response = error_response(error)
    assert response is not None
    return response


def interaction(
    claims: str | None = None, suberror: str | None = None, scopes: tuple[str, ...] = ("a/read",)
) -> InteractionRequiredError:
    error = InteractionRequiredError(SECRET, suberror=suberror, hint=SECRET)
    error.scopes = scopes
    error.claims_challenge = claims
    return error


def downstream(status: int | None, **headers: str) -> DownstreamError:
    return DownstreamError(
        SECRET,
        api="graph",
        status_code=status,
        headers=httpx.Headers(headers),
        body=SECRET.encode(),
        problem={"detail": SECRET},
    )


ANSWERS = [
    pytest.param(AuthenticationRequiredError(SECRET), 401, None, id="no token"),
    pytest.param(InvalidTokenError(SECRET, SECRET, claim=SECRET), 401, None, id="bad token"),
    pytest.param(ExpiredTokenError(SECRET), 401, None, id="expired"),
    pytest.param(InsufficientScopeError(["read"], SECRET), 403, None, id="scope"),
    pytest.param(KeysUnavailableError(SECRET, retry_after=7), 503, "7", id="keys"),
    pytest.param(CacheUnavailableError(SECRET, retry_after=5), 503, "5", id="cache"),
    pytest.param(SessionUnreadableError(SECRET, retry_after=5), 503, "5", id="session, unreadable"),
    pytest.param(SessionNotFoundError(SECRET), 404, None, id="session, not found"),
    pytest.param(SessionExpiredError(SECRET), 410, None, id="session, its time is up"),
    pytest.param(SessionExpiredError(SECRET, error_codes=[1]), 401, None, id="session, by Entra"),
    pytest.param(
        SessionExpiredError(SECRET, correlation_id=SECRET), 401, None, id="session, no number"
    ),
    pytest.param(SessionConflictError(SECRET), 409, None, id="session, conflict"),
    pytest.param(TokenAcquisitionError(SECRET, error=SECRET, hint=SECRET), 500, None, id="config"),
    pytest.param(TokenAcquisitionError(SECRET, retry_after=60), 503, "60", id="throttled"),
    pytest.param(interaction(), 401, None, id="interaction"),
    pytest.param(AccessDeniedError(SECRET, suberror=SECRET), 403, None, id="denied"),
    pytest.param(AssertionRejectedError(SECRET), 401, None, id="assertion"),
    pytest.param(DownstreamTimeoutError(SECRET, api=SECRET), 504, None, id="timeout"),
    pytest.param(downstream(None), 502, None, id="downstream, no answer"),
    *(
        pytest.param(downstream(status), status, None, id=f"downstream {status}")
        for status in (400, 404, 409, 412, 422)
    ),
    *(
        pytest.param(downstream(status), 502, None, id=f"downstream {status}")
        for status in (100, 200, 302, 401, 403, 405, 410, 418, 451, 500, 502, 504, 599, 999)
    ),
    *(
        pytest.param(downstream(status, **headers), 503, wait, id=f"downstream {status} {wait}")
        for status in (429, 503)
        for headers, wait in [({}, "5"), ({"retry-after": "9"}, "9"), ({"retry-after": "x"}, "5")]
    ),
    pytest.param(downstream(429, **{"Retry-After": "86400"}), 503, "300", id="downstream 429 long"),
]


@pytest.mark.parametrize(("error", "status", "retry_after"), ANSWERS)
def test_every_error_has_its_answer(error: OboError, status: int, retry_after: str | None) -> None:
    """The status, the wait and the challenge follow from the class of the error."""
    response = answer(error)

    assert status == response.status_code
    assert retry_after == response.headers.get("Retry-After")
    assert (status == 401 or isinstance(error, InsufficientScopeError)) is (
        "WWW-Authenticate" in response.headers
    )


@pytest.mark.parametrize(("error", "status", "retry_after"), ANSWERS)
def test_an_answer_is_whole_and_never_stored(
    error: OboError, status: int, retry_after: str | None
) -> None:
    """An answer has a JSON body with its length and type, and no cache keeps it."""
    response = answer(error)
    body = json.loads(response.body)

    assert str(len(response.body)) == response.headers["Content-Length"]
    assert "no-store" == response.headers["Cache-Control"]
    if "error" in body:
        assert "application/json" == response.headers["Content-Type"]
    else:
        assert "application/problem+json" == response.headers["Content-Type"]
        assert ("about:blank", status) == (body["type"], body["status"])


@pytest.mark.parametrize(("error", "status", "retry_after"), ANSWERS)
def test_an_answer_repeats_nothing(error: OboError, status: int, retry_after: str | None) -> None:
    """No text of an error, of Entra or of a downstream API is in a header or a body."""
    assert SECRET not in f"{answer(error)}"


@pytest.mark.parametrize(
    ("error", "challenge"),
    [
        pytest.param(AuthenticationRequiredError(), 'Bearer realm=""', id="no token, no code"),
        pytest.param(
            InvalidTokenError("audience", "x"),
            'Bearer realm="", error="invalid_token", '
            'error_description="the access token is not accepted"',
            id="bad token",
        ),
        pytest.param(
            ExpiredTokenError(),
            'Bearer realm="", error="invalid_token", '
            'error_description="the access token has expired"',
            id="expired",
        ),
        pytest.param(
            SessionExpiredError("x", error_codes=[50173]),
            'Bearer realm="", error="invalid_token", '
            'error_description="the session has ended: sign in again"',
            id="session, expired",
        ),
        pytest.param(
            InsufficientScopeError(["read", "write"]),
            'Bearer realm="", error="insufficient_scope", '
            'error_description="the access token lacks a permission", scope="read write"',
            id="scope",
        ),
        pytest.param(
            interaction(suberror="consent_required", scopes=("a/read", "a/write")),
            'Bearer realm="", error="consent_required", '
            'error_description="additional consent of the user is required", '
            'scope="a/read a/write"',
            id="consent",
        ),
        pytest.param(
            interaction(),
            'Bearer realm="", error="interaction_required", '
            'error_description="the user has to sign in again", scope="a/read"',
            id="interaction",
        ),
        pytest.param(
            interaction("{}", "consent_required"),
            'Bearer realm="", error="insufficient_claims", '
            'error_description="the user has to sign in again", scope="a/read", claims="e30="',
            id="claims",
        ),
    ],
)  # fmt: skip
def test_a_challenge_says_what_is_missing(error: OboError, challenge: str) -> None:
    """The challenge names the code, and the scopes and claims where there are some."""
    assert challenge == answer(error).headers["WWW-Authenticate"]


def test_a_missing_scope_is_named_in_the_body_too() -> None:
    """A client without access to headers reads the required scopes in the body."""
    body = json.loads(answer(InsufficientScopeError(["read"])).body)

    assert ("insufficient_scope", "read") == (body["error"], body["scope"])
    assert "scope" not in json.loads(answer(InsufficientScopeError()).body)
    assert "scope=" not in answer(InsufficientScopeError()).headers["WWW-Authenticate"]


def test_claims_and_scopes_are_in_the_body_too() -> None:
    """A browser app reads scopes and claims in the body, as they came."""
    claims = '{"id_token":{"name":"é"}}'
    response = answer(interaction(claims))
    body = json.loads(response.body)

    assert (["a/read"], claims) == (body["scopes"], body["claims"])
    header = response.headers["WWW-Authenticate"].partition('claims="')[2]
    assert claims == b64decode(header.rstrip('"')).decode()


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [((), None), (('a"\r\nx: y',), 'scope="a???x: y"')],
    ids=["none", "hostile"],
)
def test_scopes_cannot_break_the_header(scopes: tuple[str, ...], expected: str | None) -> None:
    """Scopes are left out where there are none, and defused where they are hostile."""
    challenge = answer(interaction(scopes=scopes)).headers["WWW-Authenticate"]

    assert ("scope=" in challenge) is (expected is not None)
    assert expected is None or expected in challenge


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("scopes is empty"),
        OboError("unknown"),
        ValueError("a handler's"),
        KeyError("graph"),
        RuntimeError("closed"),
        TimeoutError(),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_ours_has_no_answer(error: BaseException) -> None:
    """Mistakes and errors of others are left to whoever answers 500, alone or in a group."""
    assert error_response(error) is None
    assert error_response(BaseExceptionGroup("", [AccessDeniedError("x"), error])) is None
    assert error_response(BaseExceptionGroup("", [error, interaction()])) is None


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        pytest.param([AccessDeniedError("x")], 403, id="one"),
        pytest.param([AccessDeniedError("x"), downstream(404)], 403, id="the first"),
        pytest.param([downstream(404), AccessDeniedError("x")], 404, id="the first, swapped"),
        pytest.param([downstream(404), interaction()], 401, id="interaction before all"),
        pytest.param(
            [ExceptionGroup("", [downstream(404), ExceptionGroup("", [interaction()])])],
            401,
            id="nested",
        ),
        pytest.param(
            [downstream(404), ExceptionGroup("", [AccessDeniedError("x")])], 404, id="mixed depth"
        ),
    ],
)
def test_a_group_is_answered_by_what_helps_most(errors: list[Exception], status: int) -> None:
    """Of several errors the one that the user can mend decides, else the first."""
    assert status == answer(ExceptionGroup("several", errors)).status_code


def test_an_unknown_error_deep_in_a_group_is_not_hidden() -> None:
    """A group with a mistake of the handler inside has no answer, however deep that lies."""
    inner = ExceptionGroup("", [interaction(), ExceptionGroup("", [KeyError("typo")])])

    assert error_response(ExceptionGroup("", [AccessDeniedError("x"), inner])) is None


async def raised_in_a_task_group() -> None:
    async def fail() -> None:
        raise interaction()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        tasks.create_task(asyncio.sleep(10))


def test_a_task_group_of_asyncio_is_looked_into() -> None:
    """What ``asyncio.TaskGroup`` raises has the answer of the error inside."""
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(raised_in_a_task_group())

    assert 401 == answer(caught.value).status_code


def client_errors(library: Any, extensions: dict[str, Any]) -> dict[str, Exception]:
    """Give the errors that a client raises for a request with these extensions."""
    request = library.Request("GET", "https://api.example.com/me", extensions=extensions)

    def status(code: int, **headers: str) -> Exception:
        response = library.Response(code, headers=headers, request=request, text=SECRET)
        error: Exception = library.HTTPStatusError(SECRET, request=request, response=response)
        return error

    return {
        "404": status(404),
        "401": status(401),
        "500": status(500),
        "302": status(302),
        "429": status(429, **{"Retry-After": "17"}),
        "503": status(503),
        "read timeout": library.ReadTimeout(SECRET, request=request),
        "pool timeout": library.PoolTimeout(SECRET, request=request),
        "connect": library.ConnectError(SECRET, request=request),
        "protocol": library.RemoteProtocolError(SECRET, request=request),
        "decoding": library.DecodingError(SECRET, request=request),
    }


STATUSES = {
    "404": (404, None),
    "401": (502, None),
    "500": (502, None),
    "302": (502, None),
    "429": (503, "17"),
    "503": (503, "5"),
    "read timeout": (504, None),
    "pool timeout": (504, None),
    "connect": (502, None),
    "protocol": (502, None),
    "decoding": (502, None),
}


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
@pytest.mark.parametrize("name", STATUSES)
def test_a_marked_error_of_the_client_is_answered(library: Any, name: str) -> None:
    """What a client raised for a call of ours is answered as a DownstreamError would be."""
    response = answer(client_errors(library, {MARK: "graph"})[name])

    assert STATUSES[name] == (response.status_code, response.headers.get("Retry-After"))
    assert "WWW-Authenticate" not in response.headers
    assert SECRET not in f"{response}"


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
@pytest.mark.parametrize("name", STATUSES)
def test_an_unmarked_error_of_the_client_is_not_ours(library: Any, name: str) -> None:
    """What a client raised for somebody else's call has no answer."""
    assert error_response(client_errors(library, {})[name]) is None


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
def test_an_error_of_the_client_without_a_request_is_not_ours(library: Any) -> None:
    """A client's error that knows no request has no answer and does no harm."""
    assert error_response(library.ConnectError(SECRET)) is None


@pytest.mark.parametrize("request_", [None, "GET /", object()])
def test_another_errors_request_is_not_ours(request_: object) -> None:
    """An error of another library that has a ``request`` too is not mistaken for ours."""
    error = OSError(SECRET)
    error.request = request_  # type: ignore[attr-defined]

    assert error_response(error) is None


def test_several_interactions_are_one_challenge() -> None:
    """What several calls lack is asked of the user at once, with all scopes and claims."""
    errors = [interaction(scopes=("a/read",)), downstream(404), interaction("{}", scopes=("b/x",))]
    header = answer(ExceptionGroup("", errors)).headers["WWW-Authenticate"]

    assert 'error="insufficient_claims"' in header
    assert 'scope="a/read b/x", claims="e30="' in header


TENANT = "aaaaaaaa-1111-4111-8111-111111111111"
LOGIN = "https://login.microsoftonline.com"


@pytest.mark.parametrize(
    ("page", "realm"),
    [
        (f"{LOGIN}/{TENANT}/oauth2/v2.0/authorize", TENANT),
        (f"{LOGIN}/organizations/oauth2/v2.0/authorize", ""),
        (None, ""),
    ],
    ids=["tenant", "any tenant", "none"],
)
def test_the_pages_are_named(page: str | None, realm: str) -> None:
    """The challenge names the tenant as realm, and the pages; the body that of consent too."""
    error = interaction(suberror="consent_required")
    error.authorization_uri, error.consent_uri = page, "https://login/consent"
    response = answer(error)
    header = response.headers["WWW-Authenticate"]

    assert header.startswith(f'Bearer realm="{realm}", error="consent_required"')
    assert (page is None) is ("authorization_uri=" not in header)
    assert 'consent_uri="https://login/consent"' in header
    assert "https://login/consent" == json.loads(response.body)["consent_uri"]


RESOURCE = ProtectedResource(resource="https://api.example.com/mcp", scopes=["api://id/read"])
METADATA = "https://api.example.com/.well-known/oauth-protected-resource/mcp"


@pytest.mark.parametrize(
    ("error", "scope"),
    [
        (AuthenticationRequiredError(), "api://id/read"),
        (ExpiredTokenError(), "api://id/read"),
        (
            InsufficientScopeError(["read", "write"]),
            "api://id/read https://api.example.com/mcp/write",
        ),
        (InsufficientScopeError(["api://id/read"]), "api://id/read"),
        (interaction(), "api://id/read"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, OboError) else None,
)
def test_a_resource_is_named_with_full_scopes(error: OboError, scope: str) -> None:
    """For an API that describes itself, challenges say where, and scopes are those to ask for."""
    response = error_response(error, resource=RESOURCE)

    assert response is not None
    assert f', scope="{scope}"' in response.headers["WWW-Authenticate"]
    assert f'resource_metadata="{METADATA}"' in response.headers["WWW-Authenticate"]


def test_a_client_that_discovers_does_not_sign_in_for_a_downstream_api() -> None:
    """What is missing downstream stands beside what a client asks for in its own name."""
    response = error_response(interaction(), resource=RESOURCE)

    assert response is not None
    challenge = parse_challenge(httpx.Response(401, headers=dict(response.headers)))
    assert challenge is not None
    assert ("a/read",) == challenge.scopes
    assert ["a/read"] == json.loads(response.body)["scopes"]


@pytest.mark.parametrize("method", ["POST", "DELETE", "get", "PROPFIND"])
def test_what_may_be_asked_of_a_description_is_said(method: str) -> None:
    """A 405 names what is allowed (RFC 9110 section 15.5.6)."""
    response = metadata_response({"resource": "x"}, method)

    assert (405, "GET, HEAD, OPTIONS") == (response.status_code, response.headers["Allow"])
    assert "no-store" == response.headers["Cache-Control"]


def test_head_is_get_without_the_body() -> None:
    """HEAD has the headers of GET, its length too (RFC 9110 section 9.3.2)."""
    got, head = (metadata_response({"resource": "x"}, method) for method in ("GET", "HEAD"))

    assert (dict(got.headers), b"") == (dict(head.headers), head.body)
    assert (str(len(got.body)), "max-age=3600") == (
        head.headers["Content-Length"],
        head.headers["Cache-Control"],
    )
