"""A search for what must be in no log, span or metric; the whole suite's log goes through it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

PATTERNS = {
    "jwt": r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    "client_secret": r"fake~[A-Za-z0-9_-]{8,}",
    "refresh_token": r"\b1\.[A-Za-z0-9_-]{60,}",
    "session_key": r"obo-session-[A-Za-z0-9_-]{8,}",
}
_ANY = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in PATTERNS.items()))
_STANDARD = vars(logging.makeLogRecord({})).keys()
_FORMATTER = logging.Formatter()


def find_secrets(text: str, more: Iterable[str] = ()) -> list[str]:
    """Return the kinds of secrets in a text, and which of some further words are in it."""
    kinds = [match.lastgroup or "" for match in _ANY.finditer(text)]
    return kinds + [word for word in more if word in text]


def text_of(record: logging.LogRecord) -> str:
    """Return everything that a record says: message, fields and traceback."""
    fields = [f"{name}={value!r}" for name, value in vars(record).items() if name not in _STANDARD]
    error = _FORMATTER.formatException(record.exc_info) if record.exc_info else ""
    return "\n".join([record.getMessage(), *fields, error])


class SecretsScan(logging.Handler):
    """Reads every record of the library, and hands it on as if it were not there.

    The level is DEBUG for it alone: pytest's handlers get what they would get without it, that is
    what the root logger lets through, or what `caplog.set_level` asks for.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logging.DEBUG)
        self._logger = logger
        self.findings: list[str] = []
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        if kinds := find_secrets(text_of(record)):
            test = os.environ.get("PYTEST_CURRENT_TEST", "?")
            self.findings.append(f"{', '.join(kinds)} in the log of {record.name}, in {test}")
        root = logging.getLogger()
        for handler in root.handlers:
            # pytest puts its own on a logger that does not propagate too: they would see all.
            self._logger.removeHandler(handler)
            if record.levelno >= (handler.level or root.level):
                handler.handle(record)


@contextmanager
def scanned_log(name: str = "obo_asgi") -> Iterator[SecretsScan]:
    """Scan what a logger and those below it write, at any level, until the block ends."""
    logger = logging.getLogger(name)
    scan = SecretsScan(logger)
    before = (logger.level, logger.propagate)
    logger.addHandler(scan)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield scan
    finally:
        logger.removeHandler(scan)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextmanager
def scanned_telemetry() -> Iterator[list[str]]:
    """Let OpenTelemetry's SDK record every span and metric until the block ends; search them."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

    findings: list[str] = []

    class Search(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            findings.extend(find_secrets(span.to_json()))

    tracers, reader = TracerProvider(shutdown_on_exit=False), InMemoryMetricReader()
    tracers.add_span_processor(Search())
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    yield findings
    data = reader.get_metrics_data()
    findings.extend(find_secrets(data.to_json() if data else ""))
