"""What Tenantry is compared with: the same call, recorded as each of them would record it.

``python -m benchmarks.peers NAME BURSTS`` measures one. Each has the queue, the background thread
and the settings that it comes with, and a null end: an exporter that forgets, a file in a temporary
folder, or a server on loopback that answers 200 (``sink``). ``lost`` counts what a full queue threw
away. What each leaves undone is told in README.md.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sink import listening
from benchmarks.subject import (
    ACTOR,
    SUSTAINED,
    TENANT,
    URL,
    Report,
    Subject,
    busy_threads,
    ingest,
    main,
)

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
    from opentelemetry.sdk._logs.export import LogRecordExportResult
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

SPANS_A_TRACE = 100
"""Of those whose spans belong to a transaction: what a request of some work has."""

# OpenTelemetry, and Logfire, which is made of it.


@contextmanager
def logger_provider() -> Iterator[tuple[LoggerProvider, Callable[[], int]]]:
    """Make a logger provider whose records go nowhere; also gives how many came there."""
    from opentelemetry.sdk._logs import LoggerProvider  # noqa: PLC0415
    from opentelemetry.sdk._logs.export import (  # noqa: PLC0415
        BatchLogRecordProcessor,
        LogRecordExporter,
        LogRecordExportResult,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

    class NullLogExporter(LogRecordExporter):
        exported = 0

        def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
            self.exported += len(batch)
            return LogRecordExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 10_000) -> bool:  # noqa: ARG002
            return True

    # It says each time that its queue is full; here that is counted.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = NullLogExporter()
    provider = LoggerProvider(
        Resource.create({"service.name": "benchmark", "deployment.environment.name": "test"})
    )
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    yield provider, lambda: exporter.exported
    provider.shutdown()


@contextmanager
def otel_logs() -> Iterator[Subject]:
    """Two log records around the call, as one would write it by hand."""
    with logger_provider() as (provider, count_exported):
        logger = provider.get_logger("benchmark")
        emitted = 0

        def call() -> Report:
            nonlocal emitted
            emitted += 2
            started_at = time.perf_counter_ns()
            logger.emit(
                timestamp=time.time_ns(),
                event_name="ingest_started",
                attributes={
                    "tenant_id": TENANT,
                    "actor_id": ACTOR,
                    "operation_id": TENANT,
                    "phase": "started",
                    "sourceType": "web",
                    "url": URL,
                },
            )
            report = ingest("web", URL)
            logger.emit(
                timestamp=time.time_ns(),
                event_name="ingest_completed",
                attributes={
                    "tenant_id": TENANT,
                    "actor_id": ACTOR,
                    "operation_id": TENANT,
                    "phase": "completed",
                    "duration_ms": (time.perf_counter_ns() - started_at) / 1e6,
                    "sourceType": "web",
                    "url": URL,
                    "docs": report.docs,
                    "chunks": report.chunks,
                },
            )
            return report

        yield Subject(call, provider.force_flush, lambda: emitted - count_exported())


@contextmanager
def otel_logs_sustained() -> Iterator[Subject]:
    with otel_logs() as subject:
        subject.bursts_without_pause = SUSTAINED
        yield subject


@contextmanager
def otel_logs_busy() -> Iterator[Subject]:
    with otel_logs() as subject, busy_threads():
        yield subject


def null_span_exporter() -> tuple[SpanExporter, Callable[[], int]]:
    """Make an exporter that forgets; also gives how many spans came there."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult  # noqa: PLC0415

    class NullSpanExporter(SpanExporter):
        exported = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.exported += len(spans)
            return SpanExportResult.SUCCESS

    exporter = NullSpanExporter()
    return exporter, lambda: exporter.exported


@contextmanager
def tracer_provider() -> Iterator[tuple[TracerProvider, Callable[[], int]]]:
    """Make a tracer provider whose spans go nowhere; also gives how many came there."""
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    exporter, count_exported = null_span_exporter()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    yield provider, count_exported
    provider.shutdown()


@contextmanager
def otel_span() -> Iterator[Subject]:
    with tracer_provider() as (provider, count_exported):
        tracer = provider.get_tracer("benchmark")
        ended = 0

        def call() -> Report:
            nonlocal ended
            ended += 1
            attributes = {"tenant_id": TENANT, "actor_id": ACTOR, "sourceType": "web", "url": URL}
            with tracer.start_as_current_span("ingest", attributes=attributes) as span:
                report = ingest("web", URL)
                span.set_attribute("docs", report.docs)
                span.set_attribute("chunks", report.chunks)
            return report

        yield Subject(call, provider.force_flush, lambda: ended - count_exported())


@contextmanager
def logfire_instrument() -> Iterator[Subject]:
    """The decorator, with arguments and result; tenant and actor as baggage, which it records."""
    import logfire  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    exporter, count_exported = null_span_exporter()
    logfire.configure(
        service_name="benchmark",
        environment="test",
        send_to_logfire=False,
        console=False,
        metrics=False,
        additional_span_processors=[BatchSpanProcessor(exporter)],
    )
    recorded = logfire.instrument("ingest", record_return=True)(ingest)
    ended = 0

    def call() -> Report:
        nonlocal ended
        ended += 1
        return recorded("web", URL)

    with logfire.set_baggage(tenant_id=TENANT, actor_id=ACTOR):
        yield Subject(call, logfire.force_flush, lambda: ended - count_exported())
    logfire.shutdown()


# Logs.


@contextmanager
def file_to_write() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as directory:
        yield Path(directory, "log")


@contextmanager
def eliot_action(destination: Callable[[dict[str, Any]], object]) -> Iterator[Callable[[], Report]]:
    """An action: a message when it starts and one when it ends, each with its time."""
    import eliot  # type: ignore[import-untyped]  # noqa: PLC0415

    eliot.add_destinations(destination)

    def call() -> Report:
        with eliot.start_action(
            action_type="ingest", tenant_id=TENANT, actor_id=ACTOR, sourceType="web", url=URL
        ) as action:
            report = ingest("web", URL)
            action.add_success_fields(docs=report.docs, chunks=report.chunks)
        return report

    yield call
    eliot.remove_destination(destination)


@contextmanager
def eliot_to_file() -> Iterator[Subject]:
    from eliot import FileDestination  # noqa: PLC0415

    with (
        file_to_write() as path,
        path.open("ab") as file,
        eliot_action(FileDestination(file=file)) as call,
    ):
        yield Subject(call)


@contextmanager
def eliot_in_memory() -> Iterator[Subject]:
    messages: list[dict[str, Any]] = []
    with eliot_action(messages.append) as call:
        yield Subject(call, messages.clear)


@contextmanager
def structlog_to_file() -> Iterator[Subject]:
    """As its page on performance has it: orjson, bytes, loggers that are cached."""
    import orjson  # noqa: PLC0415
    import structlog  # noqa: PLC0415

    with file_to_write() as path, path.open("wb") as file:
        structlog.configure(
            cache_logger_on_first_use=True,
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=orjson.dumps),
            ],
            logger_factory=structlog.BytesLoggerFactory(file=file),
        )
        log = structlog.get_logger()

        def call() -> Report:
            started_at = time.perf_counter_ns()
            log.info("ingest_started", operation_id=TENANT, sourceType="web", url=URL)
            report = ingest("web", URL)
            log.info(
                "ingest_completed",
                operation_id=TENANT,
                duration_ms=(time.perf_counter_ns() - started_at) / 1e6,
                sourceType="web",
                url=URL,
                docs=report.docs,
                chunks=report.chunks,
            )
            return report

        with structlog.contextvars.bound_contextvars(tenant_id=TENANT, actor_id=ACTOR):
            yield Subject(call)


# Traces.


@contextmanager
def sentry_span() -> Iterator[Subject]:
    """A span of a transaction; each hundredth call also ends a transaction, and begins one."""
    import sentry_sdk  # noqa: PLC0415
    from sentry_sdk.transport import HttpTransport  # noqa: PLC0415

    lost = 0

    class CountingTransport(HttpTransport):
        def on_dropped_event(self, _reason: str) -> None:
            nonlocal lost
            lost += SPANS_A_TRACE

    with listening() as url, ExitStack() as transaction:
        sentry_sdk.init(
            dsn=url.replace("://", "://key@") + "/1",
            traces_sample_rate=1.0,
            environment="test",
            auto_enabling_integrations=False,
            transport=CountingTransport,
        )
        calls = 0

        def call() -> Report:
            nonlocal calls
            if calls % SPANS_A_TRACE == 0:
                transaction.close()
                transaction.enter_context(
                    sentry_sdk.start_transaction(op="request", name="request")
                )
            calls += 1
            with sentry_sdk.start_span(op="function", name="ingest") as span:
                span.set_data("tenant_id", TENANT)
                span.set_data("actor_id", ACTOR)
                span.set_data("sourceType", "web")
                span.set_data("url", URL)
                report = ingest("web", URL)
                span.set_data("docs", report.docs)
                span.set_data("chunks", report.chunks)
            return report

        yield Subject(call, sentry_sdk.flush, lambda: lost)
        transaction.close()
        sentry_sdk.get_client().close()


@contextmanager
def ddtrace_wrap() -> Iterator[Subject]:
    """The decorator, and tags within; each hundredth call also ends a root span."""
    with listening() as url, ExitStack() as root:
        os.environ |= {
            "DD_TRACE_AGENT_URL": url,
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_TRACE_LOGGING_RATE": "0",  # each drop is logged, and counted
        }
        from ddtrace.trace import tracer  # noqa: PLC0415  # reads the variables

        full = CountingHandler("dropping", SPANS_A_TRACE)
        logging.getLogger("ddtrace").addHandler(full)

        @tracer.wrap("ingest")
        def recorded(source_type: str, url: str) -> Report:
            span = tracer.current_span()
            assert span is not None
            span.set_tag("tenant_id", TENANT)
            span.set_tag("actor_id", ACTOR)
            span.set_tag("sourceType", source_type)
            span.set_tag("url", url)
            report = ingest(source_type, url)
            span.set_metric("docs", report.docs)
            span.set_metric("chunks", report.chunks)
            return report

        calls = 0

        def call() -> Report:
            nonlocal calls
            if calls % SPANS_A_TRACE == 0:
                root.close()
                root.enter_context(tracer.trace("request"))
            calls += 1
            return recorded("web", URL)

        yield Subject(call, tracer.flush, lambda: full.count)
        root.close()
        tracer.shutdown()


# Product analytics.


class CountingHandler(logging.Handler):
    """Counts what a client says that it threw away, where its log alone says it."""

    def __init__(self, pattern: str, weight: int) -> None:
        super().__init__()
        self._pattern = re.compile(pattern)
        self._weight = weight
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._pattern.search(record.getMessage()):
            self.count += self._weight


def two_facts(send: Callable[[str, dict[str, Any]], object]) -> Callable[[], Report]:
    """Make a call that sends two events, with what the client has no place for in properties."""

    def call() -> Report:
        started_at = time.perf_counter_ns()
        send("ingest_started", {"operation_id": TENANT, "sourceType": "web", "url": URL})
        report = ingest("web", URL)
        send(
            "ingest_completed",
            {
                "operation_id": TENANT,
                "duration_ms": (time.perf_counter_ns() - started_at) / 1e6,
                "sourceType": "web",
                "url": URL,
                "docs": report.docs,
                "chunks": report.chunks,
            },
        )
        return report

    return call


@contextmanager
def posthog_captures() -> Iterator[Subject]:
    from posthog import Posthog  # noqa: PLC0415

    with listening() as url:
        client = Posthog("key", host=url)
        lost = CountingHandler("queue is full", 1)
        logging.getLogger("posthog").addHandler(lost)
        yield Subject(
            two_facts(
                lambda name, properties: client.capture(
                    name, distinct_id=ACTOR, properties=properties, groups={"company": TENANT}
                )
            ),
            client.flush,
            lambda: lost.count,
        )
        client.shutdown()


@contextmanager
def segment_tracks() -> Iterator[Subject]:
    from segment.analytics.client import Client  # type: ignore[import-untyped]  # noqa: PLC0415

    lost = 0
    with listening() as url:
        client = Client("key", host=url)

        def send(name: str, properties: dict[str, Any]) -> None:
            nonlocal lost
            is_queued, _ = client.track(ACTOR, name, properties, context={"groupId": TENANT})
            lost += not is_queued

        yield Subject(two_facts(send), client.flush, lambda: lost)
        client.shutdown()


PEERS: dict[str, Callable[[], AbstractContextManager[Subject]]] = {
    each.__name__: each
    for each in (
        otel_logs,
        otel_logs_sustained,
        otel_logs_busy,
        otel_span,
        logfire_instrument,
        eliot_to_file,
        eliot_in_memory,
        structlog_to_file,
        sentry_span,
        ddtrace_wrap,
        posthog_captures,
        segment_tracks,
    )
}


if __name__ == "__main__":
    main(PEERS)
