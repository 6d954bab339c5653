"""What tells a request in the logs of all services: taken over where it is sound, else made."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from obo_asgi import DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware, downstream_from
from obo_asgi._trace import Trace
from obo_asgi._types import ASGIApp, Receive, Scope, Send
from obo_asgi.testing import FakeEntra

pytestmark = pytest.mark.anyio

GUID = "8ac5e5f1-7d2c-4a54-9b4f-3c0ce5b1f0aa"
ID_HEADERS = ["client-request-id", "x-ms-client-request-id", "x-correlation-id", "x-request-id"]
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACE_PARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


def trace(*headers: tuple[str, str]) -> Trace:
    return Trace([(name.encode(), value.encode("latin-1")) for name, value in headers])


def is_new(correlation_id: str) -> bool:
    return str(uuid.UUID(correlation_id)) == correlation_id


def test_without_an_id_one_is_made() -> None:
    """A request without an id has a GUID of its own, the same one whenever it is asked for."""
    one, other = Trace(), Trace()

    assert is_new(one.correlation_id)
    assert one.correlation_id == one.correlation_id != other.correlation_id
    assert {"client-request-id": one.correlation_id} == one.headers


@pytest.mark.parametrize("name", ID_HEADERS)
@pytest.mark.parametrize("value", [GUID, "order-17.4_b", "a" * 128])
def test_the_callers_id_is_taken_over(name: str, value: str) -> None:
    """A sound id goes on under its own name and under Entra's, and comes back under its own."""
    taken = trace((name, value), ("x-other", "x"))

    assert value == taken.correlation_id
    assert {name: value} == taken.echo
    assert {name: value, "client-request-id": value} == taken.headers


def test_of_several_ids_entras_counts() -> None:
    """Of ids under several names the first that is sound counts, in the order of the docs."""
    named = [(name, f"id-{number}") for number, name in enumerate(ID_HEADERS)]

    assert "id-0" == trace(*reversed(named)).correlation_id
    assert {"x-ms-client-request-id": "id-1"} == trace((ID_HEADERS[0], "{}"), *named[1:]).echo


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "a b",
        "a\r\nX-Evil: 1",
        "a\n",
        "a\x00",
        "é",
        "a,b",
        "a;b",
        'a"',
        "%0d%0a",
        "a" * 129,
    ],
    ids=ascii,
)
def test_an_id_that_is_not_sound_is_replaced(value: str) -> None:
    """What could break a header or a log line, or is too long, is not taken and not repeated."""
    refused = trace(("client-request-id", value))

    assert {} == refused.echo
    assert is_new(refused.correlation_id)


def test_an_id_that_is_sent_twice_is_replaced() -> None:
    """Two lines of one header are no id, even where both are the same."""
    assert is_new(trace(("x-request-id", "r1"), ("x-request-id", "r1")).correlation_id)


def test_the_echo_is_what_was_sent() -> None:
    """A made id is named in the answer once something went out under it, and not before."""
    made = Trace()

    assert {} == made.echo
    assert {"client-request-id": made.correlation_id} == made.echo


@pytest.mark.parametrize("version", ["00", "01", "fe"])
def test_a_valid_trace_goes_on(version: str) -> None:
    """A ``traceparent`` by the letter of W3C, and its ``tracestate`` lines, go on as they came."""
    parent = f"{version}-{TRACE_ID}-{PARENT_ID}-00"
    sent = trace(("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "b=2")).headers

    assert (parent, "a=1,b=2") == (sent["traceparent"], sent["tracestate"])


@pytest.mark.parametrize(
    "parent",
    [
        *("", "00", f"ff-{TRACE_ID}-{PARENT_ID}-01", f"00-{'0' * 32}-{PARENT_ID}-01"),
        *(f"00-{TRACE_ID}-{'0' * 16}-01", TRACE_PARENT.upper(), f" {TRACE_PARENT}"),
        *(f"{TRACE_PARENT}\n", f"{TRACE_PARENT}-00", TRACE_PARENT[:-1], f"0{TRACE_PARENT}"),
        *(f"00-{TRACE_ID[1:]}-{PARENT_ID}-01", f"00-{'g' * 32}-{PARENT_ID}-01"),
        TRACE_PARENT.replace("-", "_"),
    ],
    ids=ascii,
)
def test_an_invalid_trace_is_dropped(parent: str) -> None:
    """What is no ``traceparent`` does not go on, and no ``tracestate`` without it."""
    sent = trace(("traceparent", parent), ("tracestate", "a=1")).headers

    assert {"client-request-id"} == set(sent)


def test_a_trace_that_is_sent_twice_is_dropped() -> None:
    """Two ``traceparent`` lines are none (W3C Trace Context section 3.2)."""
    assert "traceparent" not in trace(*[("traceparent", TRACE_PARENT)] * 2).headers


@pytest.mark.parametrize("state", ["", "a=é", "a=1\r\nX-Evil: 1", "a=\x7f", "a" * 513], ids=ascii)
def test_a_hostile_state_is_dropped_alone(state: str) -> None:
    """A ``tracestate`` that is no line of ASCII, or too long, leaves the ``traceparent`` alone."""
    sent = trace(("traceparent", TRACE_PARENT), ("tracestate", state)).headers

    assert {"client-request-id", "traceparent"} == set(sent)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["no-cache"], "no-cache"),
        (["max-age=0, No-Cache"], "no-cache"),
        (["max-age=0", "no-cache"], "no-cache"),
        (["max-age=0"], None),
        ([], None),
    ],
    ids=str,
)
def test_the_wish_for_a_fresh_answer_goes_on(lines: list[str], expected: str | None) -> None:
    """Of ``Cache-Control`` the ``no-cache`` goes on, and nothing else; it is never the echo."""
    asked = trace(*[("cache-control", line) for line in lines])

    assert expected == asked.headers.get("cache-control")
    assert {"client-request-id"} == set(asked.echo)


NAMES = st.sampled_from([*ID_HEADERS, "traceparent", "tracestate", "cache-control"])
VALUES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([GUID.encode(), TRACE_PARENT.encode(), b"a=1"]).flatmap(
        lambda sound: st.binary(max_size=3).map(lambda more: sound + more)
    ),
)


@given(st.lists(st.tuples(NAMES.map(str.encode), VALUES), max_size=8))
@example([(b"traceparent", TRACE_PARENT.encode()), (b"tracestate", b"a=1\n")])
def test_no_header_gets_a_line_through(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever comes in, what goes out is one line of printable ASCII for each header."""
    hostile = Trace(headers)
    going = [*hostile.headers.items(), *hostile.echo.items()]

    assert [] == [pair for pair in going if not re.fullmatch(r"[\t -~]{1,512}", pair[1])]
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", hostile.correlation_id)


# --- From end to end ------------------------------------------------------------------------------

FIRST, SECOND, LAST = (f"https://{name}.example.com" for name in ("first", "second", "last"))


class Last:
    """The API at the end, which fails and remembers the headers."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def call_next(scope: Scope, receive: Receive, send: Send) -> None:
    await downstream_from(scope)["next"].get("data", into=str)


async def call_next_as_app(scope: Scope, receive: Receive, send: Send) -> None:
    await downstream_from(scope).as_app()["next"].get("data", into=str)


async def call_chain(
    headers: Mapping[str, str], last: Last, handler: ASGIApp = call_next
) -> tuple[httpx.Response, FakeEntra]:
    """Call an API that calls another one, which calls the last one."""
    entra = FakeEntra()
    entra.add_api("api://second", scopes=["use"])
    entra.add_api("api://last", scopes=["read"], roles=["Read.All"])

    def protect(name: str, app: ASGIApp, url: str, scope: str, **apps: Any) -> ASGIApp:
        obo = OnBehalfOf(
            entra.registration(name),
            downstream={"next": DownstreamAPI(base_url=url, scopes=[scope])},
            http_client=entra.client(apps=apps),
        )
        return OnBehalfOfMiddleware(app, obo)

    second = protect("api://second", handler, LAST, "api://last/read", **{LAST: last})
    first = protect("api", call_next, SECOND, "api://second/use", **{SECOND: second})
    transport = httpx.ASGITransport(first)
    async with httpx.AsyncClient(transport=transport, base_url=FIRST) as client:
        return await client.get("/", headers={**entra.bearer(), **headers}), entra


@pytest.mark.parametrize("handler", [call_next, call_next_as_app])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"client-request-id": GUID}, id="the caller's"),
        pytest.param({"client-request-id": f"{GUID}\r\nX-Evil: 1"}, id="hostile"),
    ],
)
async def test_one_id_tells_a_whole_chain(headers: dict[str, str], handler: ASGIApp) -> None:
    """Every exchange, every API and our answer bear one id: the caller's, or the first API's."""
    last = Last()
    response, entra = await call_chain(headers, last, handler)
    answered = response.headers["client-request-id"]

    assert 404 == response.status_code
    assert [answered] * 2 == [request.client_request_id for request in entra.requests]
    assert answered == last.headers["client-request-id"]
    assert (headers.get("client-request-id") == GUID) is (answered == GUID)
    assert "x-evil" not in {*response.headers, *last.headers}
