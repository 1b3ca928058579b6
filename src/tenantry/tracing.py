"""OpenTelemetry: the only file that knows it. Reads the current span; hides our own work."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY  # pyright: ignore[reportPrivateUsage]  # the key every instrumentation reads; it has no public name

_get_current = otel_context.get_current
_get_current_span = trace.get_current_span
_INVALID = trace.INVALID_SPAN


def span_fragment() -> str:
    """Give the current span as JSON members, ``"trace_id":…,"span_id":…,``; empty without one.

    Ids are lower-case hexadecimal, 32 and 16 digits, as in W3C Trace Context.
    """
    if not _get_current():
        return ""
    span = _get_current_span()
    if span is _INVALID:
        return ""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f'"trace_id":"{context.trace_id:032x}","span_id":"{context.span_id:016x}",'


@contextmanager
def hidden_from_instrumentation() -> Generator[None]:
    """Keep the work of this block out of the application's traces."""
    token = otel_context.attach(
        otel_context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True)  # noqa: FBT003  # its value
    )
    try:
        yield
    finally:
        otel_context.detach(token)
