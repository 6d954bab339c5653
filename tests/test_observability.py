"""What an operator sees: events in the log, spans and metrics, and no secret in any of them."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from examples import telemetry as telemetry_example
from obo_asgi import DownstreamAPI, OboError, OnBehalfOf, TokenAcquisitionError, TokenCache
from obo_asgi._events import EVENTS
from obo_asgi._telemetry import is_recording
from obo_asgi.cache._store import PERIOD, Budget, Store, Unavailable
from obo_asgi.testing import FakeEntra
from tests.observed_world import INCOMING, DashboardWorld, Telemetry, telemetry
from tests.secrets_scan import find_secrets, scanned_log, text_of
from tests.session_world import RING
from tests.session_world import World as SessionWorld
from tests.shared_cache import FaultyCache, fail

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
COLD = """\
GET /dashboard
  obo_asgi.acquire_token graph api://graph miss
    obo_asgi.exchange urn:ietf:params:oauth:grant-type:jwt-bearer success 200
  obo_asgi.acquire_token partner api://partner miss
    obo_asgi.exchange urn:ietf:params:oauth:grant-type:jwt-bearer success 200
  obo_asgi.acquire_token partner api://partner miss
  obo_asgi.downstream graph GET 200
  obo_asgi.downstream partner GET 200
  obo_asgi.downstream partner GET 200
  obo_asgi.verify miss"""
WARM = """\
GET /dashboard
  obo_asgi.acquire_token graph api://graph memory
  obo_asgi.acquire_token partner api://partner memory
  obo_asgi.acquire_token partner api://partner memory
  obo_asgi.downstream graph GET 200
  obo_asgi.downstream partner GET 200
  obo_asgi.downstream partner GET 200
  obo_asgi.verify memory"""


@pytest.fixture
def otel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    with telemetry(monkeypatch) as held:
        yield held


@pytest.fixture
async def world() -> AsyncIterator[DashboardWorld]:
    world = DashboardWorld()
    async with world.obo:
        yield world


class Records(logging.Handler):
    """Keeps the library's records."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def events(self) -> list[str]:
        return [vars(record)["event"] for record in self.records]

    def fields(self, event: str) -> list[dict[str, Any]]:
        standard = vars(logging.makeLogRecord({})).keys() | {"message"}
        return [
            {name: value for name, value in vars(record).items() if name not in standard}
            for record in self.records
            if vars(record)["event"] == event
        ]


@pytest.fixture
def log() -> Iterator[Records]:
    records, logger = Records(), logging.getLogger("obo_asgi")
    logger.addHandler(records)
    yield records
    logger.removeHandler(records)


async def test_a_cold_dashboard_is_one_tree(otel: Telemetry, world: DashboardWorld) -> None:
    """Verification, two exchanges for three calls, and the calls are children of the request."""
    assert 200 == (await world.show()).status_code
    assert COLD.splitlines() == otel.tree()


async def test_a_warm_dashboard_is_one_tree(otel: Telemetry, world: DashboardWorld) -> None:
    """What is in memory shows as such, and nothing is exchanged."""
    await world.show()
    otel.exporter.clear()
    await world.show()
    assert WARM.splitlines() == otel.tree()


async def test_memory_makes_no_span_of_its_own(otel: Telemetry, world: DashboardWorld) -> None:
    """Where no span is recorded, neither a known token nor one in memory makes a root span."""
    downstream = await world.obo.downstream_for(world.token)
    await downstream["partner"].acquire_token()
    otel.exporter.clear()
    await (await world.obo.downstream_for(world.token))["partner"].acquire_token()
    assert ([], False) == (otel.tree(), is_recording())


async def test_spans_carry_the_conventions_names(otel: Telemetry, world: DashboardWorld) -> None:
    """Requests that leave are of kind CLIENT and name the method, the host and the status."""
    await world.show(**{"client-request-id": "33333333-3333-4333-8333-333333333333"})
    spans = {span.name: span for span in otel.spans()}
    called, exchange = spans["obo_asgi.downstream"], spans["obo_asgi.exchange"]
    assert (SpanKind.CLIENT, SpanKind.CLIENT) == (called.kind, exchange.kind)
    assert {
        "obo_asgi.api",
        "http.request.method",
        "server.address",
        "http.response.status_code",
    } == (called.attributes or {}).keys()
    assert {
        "obo_asgi.grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "obo_asgi.tenant": world.entra.tenant_id,
        "obo_asgi.correlation_id": "33333333-3333-4333-8333-333333333333",
        "server.address": "login.microsoftonline.com",
        "http.response.status_code": 200,
        "obo_asgi.outcome": "success",
    } == exchange.attributes


async def test_the_api_goes_on_with_our_span(otel: Telemetry, world: DashboardWorld) -> None:
    """The traceparent of the call's own span goes out, not the caller's."""
    await world.show(traceparent=INCOMING)
    ids = {
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"
        for span in otel.spans()
        if span.name == "obo_asgi.downstream"
    }
    assert ids == {headers["traceparent"][:-3] for headers in world.seen}


async def test_the_callers_trace_goes_on_in_an_app_without_instrumentation(
    otel: Telemetry, world: DashboardWorld
) -> None:
    """Our spans are then children of the caller's, and what its tracestate says goes on."""
    await world.ask(traceparent=INCOMING, tracestate="vendor=1")
    _, trace_id, parent_id, _ = INCOMING.split("-")
    by_id = {span.context.span_id for span in otel.spans()}
    outermost = [span for span in otel.spans() if span.parent and span.parent.span_id not in by_id]

    assert "obo_asgi.verify" in {span.name for span in outermost}
    assert {int(parent_id, 16)} == {span.parent.span_id for span in outermost if span.parent}
    assert {int(trace_id, 16)} == {span.context.trace_id for span in otel.spans()}
    assert {(trace_id, "vendor=1")} == {
        (headers["traceparent"].split("-")[1], headers["tracestate"]) for headers in world.seen
    }


@pytest.mark.parametrize("incoming", [{}, {"traceparent": "nonsense"}])
async def test_a_request_leaves_no_trace_to_the_next(
    incoming: dict[str, str], otel: Telemetry, world: DashboardWorld
) -> None:
    """Where a caller names no span, or nonsense, our outermost spans have no parent."""
    await world.ask(traceparent=INCOMING)
    otel.exporter.clear()
    await world.ask(**incoming)
    assert None in {span.parent for span in otel.spans()}
    assert int(INCOMING.split("-")[1], 16) not in {span.context.trace_id for span in otel.spans()}


async def test_without_a_span_the_callers_goes_on(world: DashboardWorld) -> None:
    """Where nothing is recorded, the caller's traceparent is handed on as it came."""
    await world.show(traceparent=INCOMING)
    assert {INCOMING} == {headers["traceparent"] for headers in world.seen}


async def test_a_handlers_own_trace_stays(otel: Telemetry, world: DashboardWorld) -> None:
    """A traceparent that the handler sets itself is not replaced."""
    downstream = await world.obo.downstream_for(world.token)
    await downstream["partner"].get("orders", headers={"traceparent": INCOMING})
    assert [INCOMING] == [headers["traceparent"] for headers in world.seen]


async def test_failures_show_in_spans(otel: Telemetry, world: DashboardWorld) -> None:
    """A refused token and a refused exchange name the kind of their error and Entra's numbers."""
    await world.show("nonsense")
    world.entra.fail(65001)
    await world.show()
    exchanges = [span.attributes or {} for span in otel.spans() if "exchange" in span.name]
    exchange = next(each for each in exchanges if each["obo_asgi.outcome"] != "success")
    assert ("interaction", (65001,), "InteractionRequiredError") == (
        exchange["obo_asgi.outcome"],
        exchange["obo_asgi.error_codes"],
        exchange["error.type"],
    )
    refused = next(span for span in otel.spans() if span.name == "obo_asgi.verify")
    assert "malformed" == (refused.attributes or {})["error.type"]
    assert [()] * len(otel.spans()) == [tuple(span.events) for span in otel.spans()]


async def test_metrics_of_a_cold_and_a_warm_dashboard(
    otel: Telemetry, world: DashboardWorld
) -> None:
    """Counters, the gauge of what is in flight, and a histogram of each duration."""
    await world.obo.open()
    before = otel.metrics()
    await world.show()
    await world.show()
    after = otel.metrics()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert {
        "obo_asgi.exchanges success": 2,
        "obo_asgi.cache.lookups memory": 3,
        "obo_asgi.cache.lookups miss": 3,
        "obo_asgi.tokens known": 1,
        "obo_asgi.tokens verified": 1,
        "obo_asgi.verify.duration": 1,
        "obo_asgi.exchange.duration success": 2,
        "obo_asgi.downstream.duration GET 200 partner": 4,
        "obo_asgi.downstream.duration GET 200 graph": 2,
    } == {name: value for name, value in grown.items() if value}
    assert 0 == after["obo_asgi.exchanges.in_flight"]


async def test_the_shared_cache_shows(otel: Telemetry) -> None:
    """Each question to it is a span, a token of it is a hit of its level, a dead one is open."""
    shared = FaultyCache()
    first = DashboardWorld(cache=TokenCache(shared=shared, keys=RING))
    async with first.obo:
        downstream = await first.obo.downstream_for(first.token)
        await downstream["partner"].acquire_token()
    other = DashboardWorld(first.entra, cache=TokenCache(shared=shared, keys=RING))
    async with other.obo:
        otel.exporter.clear()
        downstream = await other.obo.downstream_for(first.token)
        await downstream["partner"].acquire_token()
        assert [
            "obo_asgi.acquire_token partner api://partner shared",
            "  obo_asgi.cache success get",
            "obo_asgi.verify miss",
        ] == otel.tree()
        shared.fault = fail(ConnectionError)
        for number in range(3):
            token = first.entra.token(scp=f"access_as_user {number}")
            await (await other.obo.downstream_for(token))["partner"].acquire_token()
        assert 2 == otel.metrics()["obo_asgi.cache.breaker"]
        levels = {level: other.obo.stats()[f"cache.{level}"] for level in ("shared", "miss")}
        assert {"shared": 1, "miss": 3} == levels


async def test_the_log_of_a_cold_and_a_warm_dashboard(log: Records, world: DashboardWorld) -> None:
    """Each step is an event, with the fields that an operator filters by."""
    log.records.clear()
    await world.show(**{"client-request-id": "33333333-3333-4333-8333-333333333333"})
    cold = log.events()
    log.records.clear()
    await world.show()
    assert [
        *["downstream.called"] * 3,
        "keys.fetched",
        *["token.exchanged"] * 2,
        "token.verified",
    ] == sorted(cold)
    assert ["downstream.called"] * 3 == log.events()
    called = log.fields("downstream.called")[-1]
    assert {"event", "api", "tenant", "correlation_id", "method", "status", "milliseconds"} == set(
        called
    )


async def test_an_exchange_says_whose_and_how_long(log: Records, world: DashboardWorld) -> None:
    """API, tenant, correlation id, where the token was found, and the time are fields."""
    await world.show(**{"client-request-id": "33333333-3333-4333-8333-333333333333"})
    fields = log.fields("token.exchanged")
    assert {"partner", "graph"} == {each["api"] for each in fields}
    correlation_id = "33333333-3333-4333-8333-333333333333"
    for each in fields:
        assert 0 < each.pop("milliseconds")
        each.pop("api")
        assert {
            "event": "token.exchanged",
            "tenant": world.entra.tenant_id,
            "correlation_id": correlation_id,
            "cache": "miss",
        } == each


async def test_one_failed_exchange_is_one_failure_and_says_why(log: Records) -> None:
    """Each request without an answer is an event of its own, with the kind of its failure."""

    async def refuse(request: httpx.Request) -> None:
        if request.url.path.endswith("/token"):
            raise httpx.ConnectError("refused")

    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read"])
    async with OnBehalfOf(
        entra.registration(),
        downstream={"partner": DownstreamAPI(scopes=["api://partner/read"])},
        http_client=entra.client(event_hooks={"request": [refuse]}),
    ) as obo:
        downstream = await obo.downstream_for(entra.token())
        with pytest.raises(TokenAcquisitionError):
            await downstream["partner"].acquire_token()
    [failed] = log.fields("exchange.failed")
    unanswered = log.fields("exchange.unanswered")

    assert ("partner", "temporarily_unavailable") == (failed["api"], failed["error"])
    assert ["failed (ConnectError)"] * 2 == [each["error"] for each in unanswered]
    assert {failed["correlation_id"]} == {each["correlation_id"] for each in unanswered}


async def test_refusals_are_told_at_info(log: Records, world: DashboardWorld) -> None:
    """A refused token, a refused exchange and the answers to both are events at INFO."""
    log.records.clear()
    await world.show("nonsense")
    world.entra.fail(65001)
    await world.show()
    told = {vars(record)["event"] for record in log.records if record.levelno == logging.INFO}
    assert {"token.refused", "request.refused", "exchange.failed"} == told
    assert (65001,) == tuple(log.fields("exchange.failed")[0]["error_codes"])


async def test_a_session_tells_its_life(log: Records) -> None:
    """Its start, its resumption and its end are events; its key and its owner are not told."""
    async with SessionWorld() as world:
        process = world.process()
        downstream = await process.downstream_for(world.entra.token())
        key = await downstream.start_session()
        async with process.resume_session(key) as resumed:
            await resumed["partner"].acquire_token()
        await process.end_session(key)
    assert ["session.started", "session.resumed", "session.ended"] == [
        event for event in log.events() if event.startswith("session.")
    ]
    assert [] == find_secrets("\n".join(map(text_of, log.records)), [key])


async def test_a_breaker_tells_when_it_opens_and_closes(log: Records) -> None:
    """The third failure in a row is a warning, the first answer after it an event at INFO."""
    shared, seconds = FaultyCache(), [0.0]
    store = Store(shared, clock=lambda: seconds[0])
    shared.fault = fail(ConnectionError)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await store.get("name", Budget(1))
    shared.fault = None
    seconds[0] += PERIOD
    await store.get("name", Budget(1))
    assert [("WARNING", "cache.breaker_opened"), ("INFO", "cache.breaker_closed")] == [
        (record.levelname, vars(record)["event"]) for record in log.records
    ]


async def test_nothing_secret_is_seen(otel: Telemetry, log: Records, world: DashboardWorld) -> None:
    """Neither logs nor spans nor metrics hold a token, a secret, an oid, a name or a query."""
    user = await world.obo.verify(world.token)
    await world.show()
    await world.show("eyJhbGciOiJIUzI1NiJ9.eyJvaWQiOiJ4In0.AAAAAAAAAA")
    world.entra.fail(65001)
    fresh = await world.obo.downstream_for(world.entra.token(scp="access_as_user x"))
    with pytest.raises(OboError):
        await fresh["partner"].get("orders")
    private = [user.oid, user.display_name, str(user.claims["preferred_username"]), "secret-query"]
    spans = "\n".join(span.to_json() for span in otel.spans())
    logged = "\n".join(map(text_of, log.records))
    assert (True, True) == (len(spans) > 1000, len(logged) > 1000)
    assert [] == find_secrets(spans + logged + str(otel.reader.get_metrics_data()), private)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Bearer eyJhbGciOiJSUzI1NiJ9.eyJvaWQiOiJ4In0.c2ln", "jwt"),
        ("secret: fake~abcdefghijkl", "client_secret"),
        (f"refresh_token=1.{'A' * 60}", "refresh_token"),
        ("key obo-session-abcdefghijkl", "session_key"),
    ],
)
def test_the_scan_finds_what_it_is_for(text: str, kind: str) -> None:
    """Each kind is found in a message, in a field, and in a traceback."""
    with scanned_log("scanned") as scan:
        logger = logging.getLogger("scanned.below")
        logger.debug("%s", text)
        logger.debug("a field", extra={"field": text})
        try:
            raise ValueError(text)
        except ValueError:
            logger.debug("a traceback", exc_info=True)
    assert [kind] * 3 == [finding.split(" ")[0] for finding in scan.findings]


def test_the_scan_hides_nothing_and_adds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Other handlers get what they would get without it."""
    with scanned_log("scanned"):
        logger = logging.getLogger("scanned.below")
        logger.info("one")
        logger.warning("two")
        caplog.set_level(logging.INFO, "scanned")
        logger.debug("three")
        logger.info("four")
    assert ["two", "four"] == [record.message for record in caplog.records]


def test_the_page_lists_every_event() -> None:
    """docs/observability.md has a row for each event, and no other."""
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    assert sorted(EVENTS) == sorted(re.findall(r"^\| `([a-z_.]+)` \| [A-Z]", page, re.M))


def test_the_library_is_quiet_by_default() -> None:
    """Without any configuration of logging, not even a warning is written anywhere."""
    code = "import obo_asgi, logging; logging.getLogger('obo_asgi.x').error('heard')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (b"", b"") == (done.stdout, done.stderr)


WITHOUT = """
import asyncio, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from obo_asgi import OnBehalfOf, DownstreamAPI
from obo_asgi.testing import FakeEntra

async def main():
    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read"])
    api = DownstreamAPI(scopes=["api://partner/read"])
    async with OnBehalfOf(
        entra.registration(), downstream={"partner": api}, http_client=entra.client()
    ) as obo:
        for _ in range(2):
            downstream = await obo.downstream_for(entra.token())
            await downstream["partner"].acquire_token()
        print(int(obo.stats()["exchanges.success"]))

asyncio.run(main())
"""


def test_it_works_without_opentelemetry() -> None:
    """Where it is not installed, everything works and is counted."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert ("2\n", "") == (done.stdout, done.stderr)


def test_the_import_does_not_bring_opentelemetry() -> None:
    """`import obo_asgi` leaves it alone, installed or not."""
    code = "import sys, obo_asgi; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "False\n" == done.stdout


async def test_the_example_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans and metrics of a request reach the exporters that the example is given."""
    with telemetry(monkeypatch):  # is undone at the end, and so is what the example sets
        given: list[Any] = []
        monkeypatch.setattr(trace, "set_tracer_provider", given.append)
        monkeypatch.setattr("opentelemetry.metrics.set_meter_provider", given.append)
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers, meters = telemetry_example.set_up("orders", exporter, reader)
        assert [tracers, meters] == given
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
        monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", meters)
        world = DashboardWorld()
        async with world.obo:
            await world.show()
        tracers.force_flush()
        names = {span.name for span in exporter.get_finished_spans()}
        assert {"obo_asgi.verify", "obo_asgi.exchange", "obo_asgi.downstream"} <= names
        assert "obo_asgi.exchanges" in str(reader.get_metrics_data())
        tracers.shutdown()
        meters.shutdown()
