"""Trace and span ids, from a real OpenTelemetry SDK."""

from __future__ import annotations

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tenantry import emits, log_event, tenant
from tenantry.tracing import hidden_from_instrumentation
from tests.capturing import capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"


@pytest.fixture
def events():
    with capture_events(open_taxonomy=["x_*"]) as pipeline, tenant(ACME):
        yield pipeline


@pytest.fixture
def tracer():
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider.get_tracer("tests")
    provider.shutdown()


def ids_of(span):
    found = span.get_span_context()
    return (f"{found.trace_id:032x}", f"{found.span_id:016x}")


def test_events_carry_the_ids_of_the_current_span(events, tracer):
    with tracer.start_as_current_span("outer") as span:
        log_event("x_happened")
        with emits("x_work"), tracer.start_as_current_span("inner") as inner:
            log_event("x_happened")
    found = [(record.trace_id, record.span_id) for record in events.records]
    assert found == [ids_of(span), ids_of(span), ids_of(inner), ids_of(span)]


def test_events_outside_a_span_carry_no_ids(events):
    log_event("x_happened")
    with emits("x_work"):
        pass
    assert {(record.trace_id, record.span_id) for record in events.records} == {(None, None)}


def test_invalid_span_gives_no_ids(events):
    invalid = NonRecordingSpan(SpanContext(0, 0, is_remote=True, trace_flags=TraceFlags(0)))
    with trace.use_span(invalid):
        log_event("x_happened")
    assert events.records[0].trace_id is None


def test_span_of_another_process_gives_its_ids(events):
    remote = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)))
    with trace.use_span(remote):
        log_event("x_happened")
    assert (events.records[0].trace_id, events.records[0].span_id) == (f"{1:032x}", f"{2:016x}")


def test_own_work_is_hidden_from_instrumentation():
    key = "suppress_instrumentation"

    def is_hidden():
        return any(key in name and value for name, value in context.get_current().items())

    with hidden_from_instrumentation():
        assert is_hidden()
    assert not is_hidden()
