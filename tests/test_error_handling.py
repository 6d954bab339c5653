"""What the middleware does with what the app raises, and the ids that tell requests apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from obo_asgi import (
    DownstreamAPI,
    DownstreamError,
    ErrorResponse,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    downstream_from,
    error_response,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

PARTNER = "https://partner.example.com"
GUID = "8ac5e5f1-7d2c-4a54-9b4f-3c0ce5b1f0aa"
TRACE_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Partner:
    """A downstream API that fails with a status, and remembers the headers."""

    def __init__(self, status: int = 404) -> None:
        self.status = status
        self.headers: list[Mapping[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b'{"detail": "secret"}'})


async def handler(scope: Scope, receive: Receive, send: Send) -> None:
    await downstream_from(scope)["partner"].get("data", into=dict)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def entra() -> FakeEntra:
    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read"])
    return entra


@pytest.fixture
def partner() -> Partner:
    return Partner()


async def call(
    entra: FakeEntra, partner: Partner, headers: Mapping[str, str] | None = None, **options: Any
) -> httpx.Response:
    obo = OnBehalfOf(
        entra.registration(),
        downstream={"partner": DownstreamAPI(base_url=PARTNER, scopes=["api://partner/read"])},
        http_client=entra.client(apps={PARTNER: partner}),
    )
    transport = httpx.ASGITransport(OnBehalfOfMiddleware(handler, obo, **options))
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        return await client.get("/", headers={**entra.bearer(), **(headers or {})})


async def test_an_unhandled_failure_is_problem_details(entra: FakeEntra, partner: Partner) -> None:
    """A downstream 404 is ours too, as RFC 9457 says it, with nothing that the API wrote."""
    response = await call(entra, partner)

    assert (404, "application/problem+json") == (
        response.status_code,
        response.headers["Content-Type"],
    )
    assert {"type": "about:blank", "title": "Not Found", "status": 404} == response.json()


async def test_the_mapping_can_be_switched_off(entra: FakeEntra, partner: Partner) -> None:
    """With ``on_error=None`` the app's error passes, for a handler further out."""
    with pytest.raises(DownstreamError) as caught:
        await call(entra, partner, on_error=None)
    error = caught.value

    assert ("partner", 404, {"detail": "secret"}) == (error.api, error.status_code, error.problem)


async def test_switched_off_it_still_refuses_bad_tokens(entra: FakeEntra, partner: Partner) -> None:
    """The middleware's own refusals are no matter of the mapping."""
    response = await call(entra, partner, {"Authorization": "Bearer x"}, on_error=None)

    assert 401 == response.status_code


async def test_the_mapping_can_be_replaced(entra: FakeEntra, partner: Partner) -> None:
    """A function of one's own answers what it knows and leaves the rest to another, or to 500."""

    def teapot(error: Exception) -> ErrorResponse | None:
        if isinstance(error, DownstreamError) and error.status_code == 404:
            return ErrorResponse(418, {"X-Api": error.api}, b"teapot")
        return error_response(error)

    def nothing(error: Exception) -> None:
        return None

    replaced = await call(entra, partner, on_error=teapot)
    left_over = await call(entra, Partner(409), on_error=teapot)
    assert (418, "partner", b"teapot") == (
        replaced.status_code,
        replaced.headers["X-Api"],
        replaced.content,
    )
    assert 409 == left_over.status_code
    with pytest.raises(DownstreamError):
        await call(entra, partner, on_error=nothing)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client-request-id", GUID),
        ("x-ms-client-request-id", GUID),
        ("x-correlation-id", "order-17.4_b"),
        ("x-request-id", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    ],
)
async def test_the_callers_id_goes_everywhere(
    entra: FakeEntra, partner: Partner, name: str, value: str
) -> None:
    """The id goes to the API under both names, to Entra if it is a GUID, and back in our answer."""
    response = await call(entra, partner, {name: value})
    [sent] = partner.headers
    [exchange] = entra.requests

    assert [value, value, value] == [sent[name], sent["client-request-id"], response.headers[name]]
    assert (value == GUID) is (value == exchange.client_request_id)


async def test_without_an_id_there_is_a_new_one(entra: FakeEntra, partner: Partner) -> None:
    """Entra, the API and the caller are given the same id, a new one for each request."""
    responses = [await call(entra, partner) for _ in range(2)]
    ids = [response.headers["client-request-id"] for response in responses]

    assert ids == [sent["client-request-id"] for sent in partner.headers]
    assert ids == [request.client_request_id for request in entra.requests]
    assert 2 == len(set(ids))


async def test_a_refusal_names_the_callers_id(entra: FakeEntra, partner: Partner) -> None:
    """A bad token's answer has the id of the caller, and none where the caller sent none."""
    bad = {"Authorization": "Bearer x"}
    with_id = await call(entra, partner, {**bad, "x-request-id": "r1"})
    without = await call(entra, partner, bad)

    assert "r1" == with_id.headers["x-request-id"]
    assert "client-request-id" not in without.headers


async def test_the_trace_goes_on(entra: FakeEntra, partner: Partner) -> None:
    """``traceparent`` and ``tracestate`` reach the API as they came, other headers do not."""
    incoming = {"traceparent": TRACE_PARENT, "tracestate": "a=1", "baggage": "x=y", "x-own": "z"}
    await call(entra, partner, incoming)
    [sent] = partner.headers

    assert (TRACE_PARENT, "a=1") == (sent["traceparent"], sent["tracestate"])
    assert {"baggage", "x-own"}.isdisjoint(sent)
