"""Counts, and spans and metrics for OpenTelemetry, if the app has it at work.

OpenTelemetry is never imported here for the first time: where nobody else has imported it, nobody
has configured it. Without a configured provider, nothing is made for it.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, Protocol

from .errors import InvalidTokenError

SCOPE: Final = "obo_asgi"
"""The name of the tracer and of the meter."""

OUTCOMES: Final = ("success", "interaction", "denied", "rejected", "unavailable", "error")
"""How an exchange ends."""
LEVELS: Final = ("memory", "shared", "miss")
"""Where a token was found."""
BREAKER_STATES: Final = {"closed": 0, "half-open": 1, "open": 2}

called_api: ContextVar[str] = ContextVar("obo_asgi_called_api", default="")
"""The API that the running task has called last."""

_DURATIONS: Final = ("verify", "exchange", "downstream")
_NAMES: Final = (
    *("tokens.known", "tokens.verified", "tokens.refused"),
    *(f"cache.{level}" for level in LEVELS),
    *(f"exchanges.{outcome}" for outcome in OUTCOMES),
    "exchanges.in_flight",
    *("downstream.answered", "downstream.failed"),
    *(f"{name}.seconds" for name in _DURATIONS),
)
_BUCKETS: Final = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

Attributes = Mapping[str, "str | int | float | bool"]


class HasState(Protocol):
    """A breaker."""

    @property
    def state(self) -> str: ...


class Stats:
    """What has happened since the start, as numbers by name; the names are always the same."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = dict.fromkeys(_NAMES, 0)
        self.breaker: HasState | None = None
        with _lock:
            _alive.add(self)
        weakref.finalize(self, _retire, self.counts)

    def lasted(self, name: str, started: float, **attributes: str | int | None) -> float:
        """Note how long something took, from `time.perf_counter`, and return it."""
        seconds = time.perf_counter() - started
        self.counts[f"{name}.seconds"] += seconds
        record(name, seconds, **attributes)
        return seconds


_lock = threading.RLock()
_alive: weakref.WeakSet[Stats] = weakref.WeakSet()
_retired: Counter[str] = Counter()


def _retire(counts: dict[str, float]) -> None:
    """Keep what was counted by who is gone: a counter never falls."""
    _retired.update({**counts, "exchanges.in_flight": 0})


def _all_alive() -> list[Stats]:
    with _lock:
        return list(_alive)


def _total(name: str) -> float:
    return _retired[name] + sum(stats.counts[name] for stats in _all_alive())


# --- Spans --------------------------------------------------------------------------------------


class Span(Protocol):
    """What is used of a span."""

    def set_attribute(self, key: str, value: Any) -> None: ...


class _NoSpan:
    def set_attribute(self, key: str, value: Any) -> None:
        """Do nothing."""


_NO_SPAN: Final = nullcontext(_NoSpan())
_tracer: tuple[Any, Any] = (None, None)


def is_traced() -> bool:
    """Tell whether the app has set tracing up; on the hot path, so it costs little."""
    trace = sys.modules.get("opentelemetry.trace")
    return trace is not None and getattr(trace, "_TRACER_PROVIDER", trace) is not None


def is_recording() -> bool:
    """Tell whether a span is current that is recorded."""
    return is_traced() and sys.modules["opentelemetry.trace"].get_current_span().is_recording()


def span(
    name: str, *, is_client: bool = False, **attributes: str | int | None
) -> AbstractContextManager[Span]:
    """Give a span ``obo_asgi.<name>`` that is current until the block ends.

    Args:
        name: what happens.
        is_client: whether a request leaves.
        attributes: what is known already: our own names, or, with a pair of underscores for each
            dot, those of OpenTelemetry's conventions.
    """
    tracer = _find_tracer()
    if tracer is None:
        return _NO_SPAN
    return _span(tracer, name, is_client, _attributes(attributes))


def mark(name: str, **attributes: str | None) -> None:
    """Leave a span of no length for what was at hand."""
    with span(name, is_client=False, **attributes):
        pass


@contextmanager
def continued(caller: Mapping[str, str]) -> Iterator[None]:
    """Make the caller's span the parent of ours until the block ends, where no span is current.

    Args:
        caller: the W3C headers of the caller's span.
    """
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not caller or trace.get_current_span().get_span_context().is_valid:
        yield
        return
    joined = TraceContextTextMapPropagator().extract(caller, context.get_current())
    before = context.attach(joined)
    try:
        yield
    finally:
        context.detach(before)


def trace_headers() -> dict[str, str]:
    """Return the W3C headers of the current span, if it is recorded."""
    if not is_recording():
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


@contextmanager
def _span(tracer: Any, name: str, is_client: bool, attributes: Attributes) -> Iterator[Span]:
    from opentelemetry.trace import SpanKind, Status, StatusCode

    kind = SpanKind.CLIENT if is_client else SpanKind.INTERNAL
    with tracer.start_as_current_span(
        f"{SCOPE}.{name}",
        kind=kind,
        attributes=attributes,
        record_exception=False,  # messages and tracebacks of others may hold anything
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as error:
            code = error.code if isinstance(error, InvalidTokenError) else type(error).__name__
            current.set_attribute("error.type", code)
            current.set_status(Status(StatusCode.ERROR))
            raise


def _attributes(named: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {
        name.replace("__", ".") if "__" in name else f"{SCOPE}.{name}": value
        for name, value in named.items()
        if value is not None
    }


def _find_tracer() -> Any:
    global _tracer
    if not is_traced():
        return None
    provider = sys.modules["opentelemetry.trace"].get_tracer_provider()
    held, tracer = _tracer
    if held is not provider:
        tracer = provider.get_tracer(SCOPE)
        _tracer = (provider, tracer)
    return tracer


# --- Metrics ------------------------------------------------------------------------------------


class _Instruments:
    """The instruments of one provider; what is counted anyway is read when somebody asks."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.metrics import Observation

        meter = provider.get_meter(SCOPE)

        def read(prefix: str, attribute: str, values: tuple[str, ...]) -> Any:
            def observe(_: Any) -> list[Any]:
                return [
                    Observation(_total(f"{prefix}.{value}"), {attribute: value}) for value in values
                ]

            return [observe]

        def in_flight(_: Any) -> list[Any]:
            return [Observation(_total("exchanges.in_flight"))]

        def breaker(_: Any) -> list[Any]:
            states = [
                BREAKER_STATES[stats.breaker.state]
                for stats in _all_alive()
                if stats.breaker is not None
            ]
            return [Observation(max(states))] if states else []

        counter = meter.create_observable_counter
        outcome = f"{SCOPE}.outcome"
        counter(
            f"{SCOPE}.exchanges",
            read("exchanges", outcome, OUTCOMES),
            unit="{exchange}",
            description="Grants redeemed at Entra's token endpoint.",
        )
        counter(
            f"{SCOPE}.cache.lookups",
            read("cache", f"{SCOPE}.cache.level", LEVELS),
            unit="{lookup}",
            description="Tokens for downstream APIs, by where they were found.",
        )
        counter(
            f"{SCOPE}.tokens",
            read("tokens", outcome, ("known", "verified", "refused")),
            unit="{token}",
            description="Access tokens of callers.",
        )
        meter.create_observable_up_down_counter(
            f"{SCOPE}.exchanges.in_flight",
            [in_flight],
            unit="{exchange}",
            description="Exchanges under way.",
        )
        meter.create_observable_gauge(
            f"{SCOPE}.cache.breaker",
            [breaker],
            description="The shared cache: 0 is asked, 1 is tried again, 2 is left alone.",
        )
        self.durations = {
            name: meter.create_histogram(
                f"{SCOPE}.{name}.duration",
                unit="s",
                description=f"How long it takes: {name}.",
                explicit_bucket_boundaries_advisory=_BUCKETS,
            )
            for name in _DURATIONS
        }


_instruments: tuple[Any, _Instruments | None] = (None, None)


def is_metered() -> bool:
    """Tell whether the app has set metrics up; on the hot path, so it costs little."""
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return False
    return getattr(getattr(metrics, "_internal", None), "_METER_PROVIDER", metrics) is not None


def record(name: str, seconds: float, **attributes: str | int | None) -> None:
    """Put a duration into its histogram, if there is one."""
    instruments = _find_instruments()
    if instruments is not None:
        instruments.durations[name].record(seconds, _attributes(attributes))


def _find_instruments() -> _Instruments | None:
    global _instruments
    if not is_metered():
        return None
    provider = sys.modules["opentelemetry.metrics"].get_meter_provider()
    if _instruments[0] is not provider:
        with _lock:
            if _instruments[0] is not provider:
                _instruments = (provider, _Instruments(provider))
    return _instruments[1]


def open_metrics() -> None:
    """Make the instruments, if metrics are at work: what is only read must be known to them."""
    _find_instruments()
