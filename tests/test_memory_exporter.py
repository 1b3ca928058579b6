"""The memory exporter: what was emitted can be read at once."""

from __future__ import annotations

import asyncio

import pytest

from tenantry import Pipeline, log_event, tenant
from tenantry.exporters.memory import MemoryExporter

ACME = "018f6f0e-0000-7000-8000-00000000000a"


@pytest.fixture
def exporter():
    return MemoryExporter()


@pytest.fixture
def pipeline(exporter):
    with Pipeline(exporter=exporter, open_taxonomy=["x_*"], ship_interval=60) as pipeline:
        yield pipeline
    pipeline.shutdown()


def test_reading_waits_for_what_was_emitted_before(exporter, pipeline):
    with tenant(ACME):
        for n in range(100):
            log_event("x_happened", n=n)
            assert len(exporter.records) == n + 1
    assert [record.data["n"] for record in exporter.records] == list(range(100))


def test_refused_events_are_kept_apart(exporter, pipeline):
    log_event("x_happened", n=1)
    assert exporter.records == []
    assert [reject.name for reject in exporter.rejected] == ["x_happened"]


def test_clear_forgets_what_is_pending_too(exporter, pipeline):
    with tenant(ACME):
        log_event("x_happened")
    log_event("x_happened")
    exporter.clear()
    assert exporter.records == exporter.rejected == []


def test_lists_that_were_read_do_not_change(exporter, pipeline):
    before = exporter.records
    with tenant(ACME):
        log_event("x_happened")
    assert before == []
    exporter.records.clear()
    assert len(exporter.records) == 1


def test_events_for_a_transaction_are_kept_at_once(exporter, pipeline):
    with tenant(ACME):
        log_event("x_happened", conn=object())
    asyncio.run(
        exporter.ainsert(
            None,
            b'{"id":"1","tenant_id":"t","name":"n","created_at":"2026"}'.replace(
                b'"2026"', b'"2026-01-01T00:00:00+00:00"'
            ),
        )
    )
    assert [record.name for record in exporter.records] == ["x_happened", "n"]


def test_records_stay_readable_after_the_shutdown(exporter, pipeline):
    with tenant(ACME):
        log_event("x_happened")
    assert pipeline.shutdown().stored == 1
    assert len(exporter.records) == 1


def test_exporter_without_a_pipeline_is_empty(exporter):
    assert exporter.records == exporter.rejected == []
