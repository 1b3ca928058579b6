"""The console exporter: one line an event, whatever the event holds and the terminal shows."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from tenantry import Pipeline, alog_event, emits, log_event, tenant
from tenantry.exporters.console import ConsoleExporter
from tenantry.testing import FrozenClock

ACME = "018f6f0e-0000-7000-8000-00000000000a"


def shown(emit, *, encoding="utf-8", as_json=False):
    """Give the lines that a pipeline writes to a stream of that encoding."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    exporter = ConsoleExporter(stream, as_json=as_json)
    pipeline = Pipeline(exporter=exporter, open_taxonomy=["x_*"], clock=FrozenClock())
    with pipeline, tenant(ACME):
        emit()
    assert pipeline.shutdown()
    return raw.getvalue().decode(encoding).splitlines()


def test_event_is_a_line_of_text():
    assert shown(lambda: log_event("x_happened", n=1, s="é", duration_ms=5, error_code="e")) == [
        (
            f'00:00:00.000000 {ACME} x_happened 5.0 ms e {{"n": 1, "s": "é", "duration_ms": 5, '
            '"error_code": "e"}'
        )
    ]


def test_rejected_event_is_a_line_with_its_reason():
    (line,) = shown(lambda: log_event("unknown"))
    assert line.startswith(f"00:00:00.000000 {ACME} unknown REJECTED unknown_event: no event")


def test_json_lines_are_the_rows():
    rows = [json.loads(line) for line in shown(lambda: emits("x_work")(len)(""), as_json=True)]
    assert [(row["name"], row["tenant_id"]) for row in rows] == [
        ("x_work_started", ACME),
        ("x_work_completed", ACME),
    ]


def test_line_breaks_and_escapes_stay_in_the_line():
    def emit():
        log_event("forged\n00:00 x\x1b[31m")
        log_event("x_happened", error_code="a\nb\x1b", s="\x1b[2J\u2028\x9b")

    lines = shown(emit)
    assert len(lines) == 2
    assert not any(character in "".join(lines) for character in "\x1b\x9b\u2028")
    assert any("forged\\n00:00 x\\x1b[31m REJECTED" in line for line in lines)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_the_encoding_lacks_is_escaped(encoding, as_json):
    (line,) = shown(lambda: log_event("x_happened", s="é😀"), encoding=encoding, as_json=as_json)
    assert "\\U0001f600" in line


def test_events_for_a_transaction_are_written_at_once():
    def emit():
        log_event("x_happened", conn=object())
        asyncio.run(alog_event("x_happened", conn=object()))

    assert len(shown(emit)) == 2
    assert [json.loads(line)["name"] for line in shown(emit, as_json=True)] == ["x_happened"] * 2


def test_standard_output_is_the_default(capsys):
    pipeline = Pipeline(exporter=ConsoleExporter(), open_taxonomy=["x_*"])
    with pipeline, tenant(ACME):
        log_event("x_happened")
    pipeline.shutdown()
    assert "x_happened {}" in capsys.readouterr().out
