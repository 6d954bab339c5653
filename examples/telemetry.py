"""Spans and metrics: hand OpenTelemetry an exporter, and obo-asgi's arrive with your own.

For OTLP: pip install opentelemetry-exporter-otlp-proto-http, and pass its OTLPSpanExporter() and
PeriodicExportingMetricReader(OTLPMetricExporter()). For Prometheus: pip install
opentelemetry-exporter-prometheus, and pass PrometheusMetricReader() as the reader.
"""

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter


def set_up(
    service: str, spans: SpanExporter | None = None, reader: MetricReader | None = None
) -> tuple[TracerProvider, MeterProvider]:
    """Call it once, before the app is made; call shutdown() of both at the end.

    Without arguments everything is written to the console.
    """
    resource = Resource.create({"service.name": service})
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(spans or ConsoleSpanExporter()))
    reader = reader or PeriodicExportingMetricReader(ConsoleMetricExporter())
    meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    return tracers, meters
