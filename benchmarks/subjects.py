"""What the caller is measured on. ``python -m benchmarks.subjects NAME BURSTS`` measures one.

Each subject is a function without arguments, called in bursts in a process of its own, beside how
to let its background thread catch up. The attributes are the same for Tenantry and OpenTelemetry:
tenant, actor, operation, phase, duration, two keys of the arguments, two of the result.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import wrapt

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk._logs.export import LogRecordExportResult
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult

    from tenantry.exporters import Batch, Outcome

CALLS = 1000
"""Calls in a burst."""

WARM_UP = 3
"""Bursts before it counts: caches, specialised bytecode, and the second journal segment."""

SUSTAINED = 20
"""Bursts without a pause between them, of the sustained subjects."""

PAUSE = 0.02
"""Seconds of rest after the background thread has caught up."""

BUSY_THREADS = 4

TENANT = "018f6f0e-0000-7000-8000-000000000001"
ACTOR = "user:42"
URL = "https://example.com/handbook"


@dataclass(slots=True)
class Report:
    docs: int
    chunks: int


REPORT = Report(3, 41)


def ingest(source_type: str, url: str) -> Report:  # noqa: ARG001  # the arguments are what is recorded
    return REPORT


@dataclass
class Subject:
    """One thing to call, and to wait for in the pauses; ``lost`` counts what was thrown away.

    ``call_in_loop`` makes what is awaited, within the event loop of each burst.
    """

    call: Callable[[], object]
    catch_up: Callable[[], object] = lambda: None
    lost: Callable[[], int] = lambda: 0
    bursts_without_pause: int = 1
    runs_in_loop: bool = False
    call_in_loop: Callable[[], Callable[[], object]] | None = None


# Floors.


@contextmanager
def plain() -> Iterator[Subject]:
    yield Subject(lambda: ingest("web", URL))


@contextmanager
def wrapt_only() -> Iterator[Subject]:
    def forward(
        wrapped: Callable[..., Report],
        _instance: object,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Report:
        return wrapped(*args, **kwargs)

    wrapped = wrapt.FunctionWrapper(ingest, forward)
    yield Subject(lambda: wrapped("web", URL))


# Tenantry.


class NullExporter:
    """Takes what the shipper read, and forgets it."""

    def export(self, batch: Batch, deadline: float) -> Outcome:  # noqa: ARG002
        from tenantry.exporters import Outcome  # noqa: PLC0415  # not in OpenTelemetry's processes

        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def close(self) -> None:
        pass


@contextmanager
def pipeline_in_scope(
    taxonomy: Any = "tenantry.taxonomies.saas", **options: Any
) -> Iterator[Callable[[Callable[[], object]], Subject]]:
    """Run a pipeline with a journal on disk, in a tenant's scope; yields how to make a subject."""
    import tenantry  # noqa: PLC0415  # not in OpenTelemetry's processes

    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as directory,
        tenantry.Pipeline(
            exporter=NullExporter(),
            taxonomy=taxonomy,
            journal=directory,
            service="benchmark",
            environment="test",
            **options,
        ) as pipeline,
        tenantry.tenant(TENANT, actor=ACTOR),
    ):
        yield lambda call: Subject(
            call, pipeline.flush, lambda: sum(pipeline.stats().dropped.values())
        )
        report = pipeline.shutdown(timeout=10.0)
        if not report.settled or report.rejected:
            raise RuntimeError(f"what was measured did not work: {report}")


@contextmanager
def decorated() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        recorded = emits("ingest")(ingest)
        yield subject(lambda: recorded("web", URL))


@contextmanager
def decorated_sustained() -> Iterator[Subject]:
    with decorated() as subject:
        subject.bursts_without_pause = SUSTAINED
        yield subject


@contextmanager
def decorated_busy() -> Iterator[Subject]:
    with decorated() as subject, busy_threads():
        yield subject


@contextmanager
def decorated_in_span() -> Iterator[Subject]:
    with (
        tracer_provider() as (provider, _),
        provider.get_tracer("benchmark").start_as_current_span("request"),
        decorated() as subject,
    ):
        yield subject


@contextmanager
def decorated_async() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    @emits("ingest")
    async def recorded(source_type: str, url: str) -> Report:  # noqa: ARG001
        return REPORT

    with pipeline_in_scope() as subject:
        made = subject(lambda: recorded("web", URL))
        made.runs_in_loop = True
        yield made


@contextmanager
def decorated_method() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    class Desk:
        @emits("ingest")
        def ingest(self, source_type: str, url: str) -> Report:  # noqa: ARG002
            return REPORT

    desk = Desk()
    with pipeline_in_scope() as subject:
        yield subject(lambda: desk.ingest("web", URL))


@contextmanager
def returned_coroutine() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    async def body() -> Report:
        return REPORT

    @emits("ingest")
    def recorded(source_type: str, url: str) -> Coroutine[Any, Any, Report]:  # noqa: ARG001
        return body()

    with pipeline_in_scope() as subject:
        made = subject(lambda: recorded("web", URL))
        made.runs_in_loop = True
        yield made


def one_item(source_type: str, url: str) -> Generator[str, None, Report]:  # noqa: ARG001
    yield "item"
    return REPORT


def all_items(source_type: str, url: str) -> Generator[str]:  # noqa: ARG001
    while True:
        yield "item"


async def one_item_later(source_type: str, url: str) -> AsyncGenerator[str]:  # noqa: ARG001
    yield "item"


async def all_items_later(source_type: str, url: str) -> AsyncGenerator[str]:  # noqa: ARG001
    while True:
        yield "item"


@contextmanager
def generator() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    recorded = emits("ingest")(one_item)
    with pipeline_in_scope() as subject:
        yield subject(lambda: list(recorded("web", URL)))


@contextmanager
def generator_item() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        items = emits("ingest", docs=0, chunks=0)(all_items)("web", URL)
        yield subject(items.__next__)
        items.close()


@contextmanager
def plain_item() -> Iterator[Subject]:
    yield Subject(all_items("web", URL).__next__)


@contextmanager
def async_generator() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    recorded = emits("ingest", docs=0, chunks=0)(one_item_later)

    async def call() -> None:
        async for _ in recorded("web", URL):
            pass

    with pipeline_in_scope() as subject:
        made = subject(call)
        made.runs_in_loop = True
        yield made


@contextmanager
def async_generator_item() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        recorded = emits("ingest", docs=0, chunks=0)(all_items_later)
        made = subject(lambda: None)
        # A loop closes its generators when it ends, and each burst has a loop of its own.
        made.call_in_loop = lambda: recorded("web", URL).__anext__
        yield made


@contextmanager
def plain_async_item() -> Iterator[Subject]:
    yield Subject(lambda: None, call_in_loop=lambda: all_items_later("web", URL).__anext__)


@contextmanager
def block() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    def call() -> None:
        with emits("ingest", source_type="web", url=URL) as operation:
            operation.set(docs=3, chunks=41)

    with pipeline_in_scope() as subject:
        yield subject(call)


@contextmanager
def fact() -> Iterator[Subject]:
    from tenantry import log_event  # noqa: PLC0415
    from tenantry.taxonomies.saas import QuotaExceeded  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        yield subject(
            lambda: log_event(QuotaExceeded(quota_type="messages", limit=100, attempted=101))
        )


@contextmanager
def fact_by_name() -> Iterator[Subject]:
    from tenantry import log_event  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        yield subject(
            lambda: log_event("quota_exceeded", quota_type="messages", limit=100, attempted=101)
        )


@contextmanager
def fact_marked() -> Iterator[Subject]:
    """A fact with a masked and a hashed field."""
    from tenantry import Event, Sensitive, log_event  # noqa: PLC0415

    class Paid(Event):
        card: Annotated[str, Sensitive("mask")]
        email: Annotated[str, Sensitive("hash")]

    with pipeline_in_scope([Paid], redaction_keys={"k": "k" * 32}) as subject:
        yield subject(lambda: log_event("paid", card="4111111111111111", email="a@example.com"))


@contextmanager
def fact_cleaned() -> Iterator[Subject]:
    """A fact with an e-mail address in its text."""
    from tenantry import Event, log_event  # noqa: PLC0415

    class Said(Event):
        reason: str

    with pipeline_in_scope([Said]) as subject:
        yield subject(lambda: log_event("said", reason="the customer alice@example.com asked"))


@contextmanager
def fact_undetected() -> Iterator[Subject]:
    """The fact by name, where nothing is searched for secrets."""
    from tenantry import log_event  # noqa: PLC0415

    with pipeline_in_scope(detect=False) as subject:
        yield subject(
            lambda: log_event("quota_exceeded", quota_type="messages", limit=100, attempted=101)
        )


# OpenTelemetry.


@contextmanager
def otel_logs() -> Iterator[Subject]:
    """Two log records around the call, as one would write it by hand."""
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

    exporter = NullLogExporter()
    provider = LoggerProvider(
        Resource.create({"service.name": "benchmark", "deployment.environment.name": "test"})
    )
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
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

    yield Subject(call, provider.force_flush, lambda: emitted - exporter.exported)
    provider.shutdown()


@contextmanager
def otel_logs_sustained() -> Iterator[Subject]:
    with otel_logs() as subject:
        subject.bursts_without_pause = SUSTAINED
        yield subject


@contextmanager
def otel_logs_busy() -> Iterator[Subject]:
    with otel_logs() as subject, busy_threads():
        yield subject


@contextmanager
def tracer_provider() -> Iterator[tuple[TracerProvider, Callable[[], int]]]:
    """Make a tracer provider whose spans go nowhere; also gives how many came there."""
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )

    class NullSpanExporter(SpanExporter):
        exported = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.exported += len(spans)
            return SpanExportResult.SUCCESS

    exporter = NullSpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    yield provider, lambda: exporter.exported
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


SUBJECTS: dict[str, Callable[[], AbstractContextManager[Subject]]] = {
    each.__name__: each
    for each in (
        plain,
        wrapt_only,
        decorated,
        decorated_sustained,
        decorated_busy,
        decorated_in_span,
        decorated_async,
        decorated_method,
        returned_coroutine,
        generator,
        plain_item,
        generator_item,
        async_generator,
        plain_async_item,
        async_generator_item,
        block,
        fact,
        fact_by_name,
        fact_undetected,
        fact_marked,
        fact_cleaned,
        otel_logs,
        otel_logs_sustained,
        otel_logs_busy,
        otel_span,
    )
}


# Measuring.


@contextmanager
def busy_threads() -> Iterator[None]:
    """Keep the GIL wanted: threads that compute, in Python, all the time."""
    stopping = threading.Event()

    def compute() -> None:
        while not stopping.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=compute, daemon=True) for _ in range(BUSY_THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(timeout=10)


def run_burst(subject: Subject) -> tuple[float, float]:
    """Call it some thousand times; gives this thread's CPU, and the wall time, in seconds."""
    call = subject.call
    calls = range(CALLS * subject.bursts_without_pause)
    if subject.runs_in_loop:
        return asyncio.run(_await_all(lambda: call, calls))
    if subject.call_in_loop is not None:
        return asyncio.run(_await_all(subject.call_in_loop, calls))
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in calls:
        call()
    return time.thread_time() - cpu, time.perf_counter() - wall


async def _await_all(
    make_call: Callable[[], Callable[[], object]], calls: range
) -> tuple[float, float]:
    call = make_call()
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in calls:
        await call()  # type: ignore[misc]
    return time.thread_time() - cpu, time.perf_counter() - wall


def measure(name: str, bursts: int) -> dict[str, float]:
    """Give microseconds a call, as the mean of all bursts: rotations and collections count."""
    cpu = wall = 0.0
    with ExitStack() as stack:
        subject = stack.enter_context(SUBJECTS[name]())
        for _ in range(WARM_UP):
            run_burst(subject)
            subject.catch_up()
        lost_before = subject.lost()
        for _ in range(bursts):
            burst_cpu, burst_wall = run_burst(subject)
            cpu += burst_cpu
            wall += burst_wall
            subject.catch_up()
            time.sleep(PAUSE)
        lost = subject.lost() - lost_before
    calls = bursts * CALLS * subject.bursts_without_pause
    return {"cpu": cpu / calls * 1e6, "wall": wall / calls * 1e6, "lost": lost, "calls": calls}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
