"""A dashboard of three calls to two APIs, and OpenTelemetry's SDK as its app has set it up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from obo_asgi import (
    DownstreamAPI,
    OnBehalfOf,
    OnBehalfOfMiddleware,
    TokenCache,
    downstream_from,
)
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.testing import FakeEntra

PARTNER, GRAPH = "https://partner.example.com", "https://graph.example.com"
INCOMING = "00-11111111111111111111111111111111-2222222222222222-01"


class Telemetry:
    """What the app's providers have got."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    def spans(self) -> list[ReadableSpan]:
        """Return the spans that have ended, in the order of their start."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def tree(self) -> list[str]:
        """Return a line for each span, indented below its parent; brothers are in plain order."""
        spans = self.spans()
        by_id = {span.context.span_id for span in spans}

        def lines(parent: int | None, depth: int) -> Iterator[str]:
            children = [s for s in spans if (s.parent.span_id if s.parent else None) == parent]
            for text, span in sorted(
                ((line_of(span), span) for span in children), key=lambda pair: pair[0]
            ):
                yield "  " * depth + text
                yield from lines(span.context.span_id, depth + 1)

        assert all(span.parent is None or span.parent.span_id in by_id for span in spans)
        return list(lines(None, 0))

    def metrics(self) -> dict[str, float]:
        """Return values by name and attributes; of a histogram the number of its entries."""
        values: dict[str, float] = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else []:
            for metric in (m for scope in resource.scope_metrics for m in scope.metrics):
                for point in metric.data.data_points:
                    given = dict(sorted((point.attributes or {}).items()))
                    key = " ".join([metric.name, *(str(value) for value in given.values())])
                    values[key] = count_of(point)
        return values


def count_of(point: Any) -> float:
    return float(point.count if hasattr(point, "count") else point.value)


def line_of(span: ReadableSpan) -> str:
    shown = ("api", "resource", "cache", "grant_type", "outcome", "operation")
    given = span.attributes or {}
    values = [given.get(f"obo_asgi.{name}") for name in shown]
    values += [given.get("http.request.method"), given.get("http.response.status_code")]
    return " ".join([span.name, *(str(value) for value in values if value is not None)])


@contextmanager
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    """Set providers up as an app does, for this block alone."""
    held = Telemetry()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", held.tracers)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", held.meters)
    try:
        yield held
    finally:
        monkeypatch.undo()
        held.tracers.shutdown()
        held.meters.shutdown()


class DashboardWorld:
    """An API with a dashboard, the APIs behind it, and one user's token."""

    def __init__(self, entra: FakeEntra | None = None, *, cache: TokenCache | None = None) -> None:
        self.entra = entra or FakeEntra()
        if entra is None:
            self.entra.add_api("api://partner", scopes=["read"])
            self.entra.add_api("api://graph", scopes=["read"])
        self.token = self.entra.token()
        self.seen: list[dict[str, str]] = []
        apis = {
            "partner": DownstreamAPI(base_url=PARTNER, scopes=["api://partner/read"]),
            "graph": DownstreamAPI(base_url=GRAPH, scopes=["api://graph/read"]),
        }
        self.obo = OnBehalfOf(
            self.entra.registration(),
            downstream=apis,
            cache=cache,
            http_client=self.entra.client(apps={PARTNER: self.api, GRAPH: self.api}),
        )
        self.app = OnBehalfOfMiddleware(dashboard, self.obo)

    async def api(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append({k.decode(): v.decode() for k, v in scope["headers"]})
        await answer(send)

    async def show(self, token: str | None = None, **headers: str) -> httpx.Response:
        """Ask for the dashboard, inside the span that the app's instrumentation makes."""
        tracer = trace.get_tracer_provider().get_tracer("server")
        with tracer.start_as_current_span("GET /dashboard", kind=SpanKind.SERVER):
            return await self.ask(token, **headers)

    async def ask(self, token: str | None = None, **headers: str) -> httpx.Response:
        """Ask for the dashboard of an app that is not instrumented."""
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
            given = {"Authorization": f"Bearer {token or self.token}", **headers}
            return await client.get("/dashboard?user=secret-query", headers=given)


async def answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def dashboard(scope: Scope, receive: Receive, send: Send) -> None:
    downstream: Any = downstream_from(scope)
    await downstream.gather(
        downstream["partner"].get("orders?customer=secret-query"),
        downstream["partner"].get("profile"),
        downstream["graph"].get("me"),
    )
    await answer(send)
