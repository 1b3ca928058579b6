"""The pipeline: configured once, flushed, shut down, forked, and full."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path

import pytest

import tenantry
from tenantry import Pipeline, configure, context, emits, log_event, pipeline, tenant
from tenantry.exceptions import AlreadyConfigured, ConfigurationError, JournalUnavailable
from tenantry.exporters import Retry
from tenantry.exporters.memory import MemoryExporter
from tenantry.shipper import Shipper
from tests.alarms import alarms
from tests.delivery.deliveries import wait_until
from tests.delivery.pipelines import TENANT, Destination, make_pipeline, tick


@pytest.fixture
def destination() -> Destination:
    return Destination()


@pytest.fixture
def make(destination: Destination) -> Iterator[Callable[..., Pipeline]]:
    made: list[Pipeline] = []

    def make_one(root: Path | None = None, exporter: object = None, **options) -> Pipeline:
        made.append(make_pipeline(exporter or destination, root, **options))
        return made[-1]

    yield make_one
    destination.is_open.set()
    for each in made:
        each.shutdown(5)  # or its thread would log into the next test


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pipeline, "configured", None)
    monkeypatch.setattr(pipeline, "_warned_unconfigured", False)
    for name in list(os.environ):
        if name.startswith("TENANTRY_"):
            monkeypatch.delenv(name)
    yield
    if pipeline.configured is not None:
        pipeline.configured.shutdown(0)


def ids_in(destination: Destination) -> list[str]:
    return [event.partition(b'"id":"')[2][:36].decode() for event in destination.events]


def drain(destination: Destination, root: Path) -> None:
    shipper = Shipper(destination, None, root=root, destination=destination.fingerprint)
    assert shipper.drain(shipper._monotonic() + 20)


def fill(pipeline: Pipeline) -> list[str]:
    """Emit until the journal is full."""
    ids: list[str] = []
    while (event_id := tick(pipeline, text="x" * 1500)) is not None:
        ids.append(event_id)
    return ids


# configure().


@pytest.mark.usefixtures("unconfigured")
class TestConfigure:
    def test_again_with_the_same_settings_gives_the_same_pipeline(self):
        exporter = MemoryExporter()
        first = configure(exporter=exporter, service="a")
        assert configure(exporter=exporter, service="a") is first

    def test_again_with_other_settings_raises_and_names_them(self):
        exporter = MemoryExporter()
        configure(exporter=exporter, service="a")
        with pytest.raises(AlreadyConfigured, match="with other settings of: service, strict"):
            configure(exporter=exporter, service="b", strict=True)

    def test_after_shutdown_makes_a_new_one(self):
        first = configure(exporter=MemoryExporter())
        first.shutdown()
        assert configure(exporter=MemoryExporter(), service="b") is not first

    def test_events_before_it_go_nowhere_with_one_warning(self, caplog):
        assert log_event("tick", tenant=TENANT) is None
        with emits("ingest"):
            assert log_event("tick", tenant=TENANT) is None
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "emitted before tenantry.configure()" in record.message

    def test_flush_before_it_raises(self):
        for function in (tenantry.flush, tenantry.shutdown, tenantry.stats):
            with pytest.raises(ConfigurationError, match="nothing is configured yet"):
                function()

    def test_nowhere_to_send_events(self, monkeypatch):
        with pytest.raises(ConfigurationError, match="there is nowhere to send events: pass dsn="):
            configure()

    def test_variables_of_the_environment(self, monkeypatch, tmp_path):
        variables = {
            "SERVICE": "helpdesk",
            "ENVIRONMENT": "staging",
            "OPEN_TAXONOMY": "tick,work_*",
            "JOURNAL": str(tmp_path),
            "TENANT_TYPE": "bigint",
            "DURABILITY": "power",
            "ON_FULL": "wait",
            "JOURNAL_MAX_BYTES": "8388608",
            "SHIP_INTERVAL": "0.01",
            "SHUTDOWN_TIMEOUT": "2",
            "MAX_PAYLOAD_BYTES": "100",
        }
        for name, value in variables.items():
            monkeypatch.setenv(f"TENANTRY_{name}", value)
        exporter = MemoryExporter()
        made = configure(exporter=exporter, environment="test")
        log_event("tick", tenant=7, text="x" * 200)
        (record,) = exporter.records
        assert (record.service, record.environment, record.tenant_id) == ("helpdesk", "test", 7)
        assert len(record.data["text"]) < 100
        stats = made.stats()
        assert (stats.mode, stats.durability, stats.directory) == ("journal", "power", tmp_path)
        assert (made.on_full, made.shutdown_timeout) == ("wait", 2.0)


def test_bad_tenant_type_of_a_pipeline():
    with pytest.raises(ConfigurationError, match="tenant_type='integer' is unknown"):
        Pipeline(exporter=MemoryExporter(), tenant_type="integer")


# Which pipeline is current.


def test_with_makes_it_current_in_this_context_alone(make):
    outer, inner = make(exporter=MemoryExporter()), make(exporter=MemoryExporter())
    elsewhere = copy_context()
    with outer:
        log_event("tick", tenant=TENANT)
        with inner:
            log_event("tick", tenant=TENANT)
            assert pipeline.current_pipeline() is inner
            assert elsewhere.run(pipeline.current_pipeline) is pipeline.configured
        assert pipeline.current_pipeline() is outer
    assert (len(outer.exporter.records), len(inner.exporter.records)) == (1, 1)


# Reports.


def test_report_of_a_flush(make, destination):
    made = make()
    tick(made)
    with made:
        log_event("nobody_declares_this", tenant=TENANT)
    report = made.flush(20)
    assert report
    assert (report.stored, report.rejected, report.pending) == (1, 1, 0)
    assert (report.mode, report.error) == ("memory", None)


def test_report_of_a_flush_that_could_not(make, destination, tmp_path):
    destination.is_open.clear()
    made = make(tmp_path)
    tick(made)
    wait_until(lambda: destination.attempts)
    report = made.flush(0.05)
    assert not report
    assert (report.stored, report.pending, report.mode) == (0, 1, "journal")
    assert report.error == "the destination is away"
    destination.is_open.set()
    assert made.flush(20)
    assert made.stats().error is None


def test_flush_and_shutdown_of_asyncio(make):
    made = make()

    async def main() -> None:
        tick(made)
        assert await made.aflush(20)
        tick(made)
        assert await made.ashutdown(20)

    asyncio.run(main())
    assert made.stats().stored == 2


def test_flush_in_a_signal_handler_that_interrupts_a_flush(make):
    made = make()
    flushed: list[bool] = []
    with alarms(lambda: flushed.append(bool(made.flush(5)))) as after:
        for _ in range(200):
            after(0.0005)
            tick(made)
            assert made.flush(20)
        wait_until(lambda: flushed)


def test_handler_of_logging_that_emits(make, destination, tmp_path):
    made = make(tmp_path, journal_max_bytes=4 << 20)
    destination.is_open.clear()

    class Emitting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tick(made, message=record.getMessage())

    handler = Emitting()
    logging.getLogger("tenantry").addHandler(handler)
    try:
        threads = [threading.Thread(target=fill, args=(made,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    finally:
        logging.getLogger("tenantry").removeHandler(handler)
    destination.is_open.set()
    assert made.flush(20)


# The end.


def test_shutdown_is_idempotent_and_removes_what_is_settled(make, destination, tmp_path):
    made = make(tmp_path)
    tick(made)
    assert made.shutdown(20)
    assert made.shutdown(20)
    assert destination.closed == 1
    assert made.is_shut_down
    assert list(tmp_path.iterdir()) == []


def test_events_after_shutdown_are_stored_by_the_next_process(make, destination, tmp_path):
    made = make(tmp_path)
    ids = [tick(made)]
    made.shutdown(20)
    ids += [tick(made) for _ in range(3)]
    assert None not in ids
    report = made.shutdown(1)
    assert (report.settled, report.stored, report.pending) == (False, 1, 3)
    assert not made.flush(0)
    stats = made.stats()
    assert (stats.emitted, stats.accepted, stats.dropped) == (4, 4, {})
    made._late.close(remove=False)  # what the end of the process does
    drain(destination, tmp_path)
    assert ids_in(destination) == ids


def test_events_after_shutdown_are_counted_in_memory_mode(make, caplog):
    made = make()
    tick(made)
    made.shutdown(20)
    assert [tick(made), tick(made)] == [None, None]
    stats = made.stats()
    assert (stats.emitted, stats.accepted, stats.dropped) == (3, 1, {"shut_down": 2})
    (record,) = [r for r in caplog.records if "after shutdown()" in r.message]
    assert record.levelno == logging.WARNING


def test_threads_that_emit_during_a_shutdown_lose_nothing(make, destination, tmp_path):
    made = make(tmp_path)
    accepted: list[str | None] = []
    begun, stop = threading.Barrier(4), threading.Event()

    def emit() -> None:
        begun.wait(20)
        while not stop.is_set():
            accepted.append(tick(made))

    threads = [threading.Thread(target=emit) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(20)
    wait_until(lambda: len(accepted) > 200)
    made.shutdown(20)
    count = len(accepted)
    wait_until(lambda: len(accepted) > count + 200)
    stop.set()
    for thread in threads:
        thread.join(20)
    stats = made.stats()
    assert stats.emitted == stats.accepted == len(accepted)
    made._late.close(remove=False)
    drain(destination, tmp_path)
    assert Counter(ids_in(destination)) == Counter(accepted)


def test_signal_handler_that_emits_around_a_shutdown(make, destination, tmp_path):
    made = make(tmp_path)
    accepted: list[str | None] = []

    def emit() -> None:
        accepted.append(tick(made, text="x" * 1000))

    def handler() -> None:
        emit()
        after(0.0002)

    with alarms(handler) as after:
        after(0.0002)
        for _ in range(3000):
            emit()
        made.shutdown(20)
        for _ in range(300):
            emit()
    stats = made.stats()
    assert stats.emitted == stats.accepted == len(accepted)
    made._late.close(remove=False)
    drain(destination, tmp_path)
    assert Counter(ids_in(destination)) == Counter(accepted)


def test_operation_open_at_shutdown_ends_once(make, destination, tmp_path):
    made = make(tmp_path)
    with made, tenant(TENANT):
        with emits("work"):
            made.shutdown(20)
        copy_context().run(emits("work").__enter__)
        open_at_exit = made._late
    open_at_exit.close(remove=False)
    drain(destination, tmp_path)
    phases = [event.partition(b'"phase":"')[2].partition(b'"')[0] for event in destination.events]
    assert phases == [b"started", b"completed", b"started", b"failed"]


def test_operation_never_ended_is_abandoned_although_all_was_shipped(make, destination, tmp_path):
    made = make(tmp_path)
    with made, tenant(TENANT):
        copy_context().run(emits("work").__enter__)
    assert made.shutdown(20)
    made._late.close(remove=False)
    drain(destination, tmp_path)
    assert len(destination.events) == 2
    assert b'"error_code":"abandoned"' in destination.events[1]


def test_script_that_never_flushes_leaves_nothing_pending(tmp_path, database18):
    script = (
        "import sys, tenantry\n"
        "tenantry.configure(dsn=sys.argv[1], journal=sys.argv[2], open_taxonomy=('tick',))\n"
        f"tenantry.log_event('tick', tenant='{TENANT}')\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, database18.writer, tmp_path / "j"], check=True, timeout=30
    )
    assert database18.execute("SELECT count(*) FROM tenantry.events") == [(1,)]
    assert list((tmp_path / "j").iterdir()) == []


# No journal, and a full one.


def test_journal_that_cannot_be_had_is_replaced_by_memory(make, destination, caplog, tmp_path):
    (tmp_path / "file").touch()
    made = make(tmp_path / "file" / "journal")
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "cannot keep a journal in" in record.message
    assert "Events are kept in MEMORY until they are sent" in record.message
    assert made.stats().mode == "memory"
    event_id = tick(made)
    assert made.flush(20)
    assert ids_in(destination) == [event_id]
    made.shutdown(20)
    assert tick(made) is None
    assert made.stats().dropped == {"shut_down": 1}


def test_journal_that_cannot_be_had_is_an_error_in_strict_mode(make, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JournalUnavailable):
        make(tmp_path / "file" / "journal", strict=True)


def test_full_journal_drops_counts_and_leaves_a_gap_record(make, destination, tmp_path, caplog):
    made = make(tmp_path, journal_max_bytes=4 << 20)
    destination.is_open.clear()
    ids = fill(made)
    assert tick(made, text="x" * 1500) is None
    stats = made.stats()
    assert stats.dropped == {"journal_full": 2}
    assert stats.emitted == stats.accepted + 2
    (warning,) = [r.message for r in caplog.records if "events are dropped" in r.message]
    assert "events are dropped (journal_full): the journal in" in warning
    assert "Its limit is 4194304 bytes (journal_max_bytes)" in warning
    destination.is_open.set()
    made.flush(20)
    wait_until(lambda: any(b'"reason":"gap"' in reject for reject in destination.rejects))
    (gap,) = destination.rejects
    assert b"2 events were dropped since" in gap
    wait_until(lambda: tick(made, text="x" * 1500))
    assert ids_in(destination)[: len(ids)] == ids


def test_waiting_for_room_is_bounded_and_never_in_an_event_loop(make, destination, tmp_path):
    made = make(tmp_path, journal_max_bytes=4 << 20, on_full="wait")
    destination.is_open.clear()
    fill(made)

    async def emit() -> str | None:
        waits: list[float] = []
        made._shipper.settled.wait = waits.append
        event_id = tick(made, text="x" * 1500)
        assert waits == []
        del made._shipper.settled.wait
        return event_id

    assert asyncio.run(emit()) is None
    assert made.stats().dropped["journal_full"] == 2
    destination.is_open.set()
    assert tick(made, text="x" * 1500) is not None


def test_operation_whose_end_waited_for_room_does_not_look_open(make, destination, tmp_path):
    made = make(tmp_path, journal_max_bytes=4 << 20, on_full="wait")
    destination.trouble = Retry("backoff", "away")
    destination.is_open.clear()
    with made, tenant(TENANT):
        with emits("work"):
            while made._journal.has_room():
                tick(made, text="x" * 1500)
            made._journal.shelf.active.map.seek(0, os.SEEK_END)  # not a byte is left
            opener = threading.Timer(0.05, destination.is_open.set)
            opener.start()
        assert made._journal._open == {}
        opener.join()
    assert made.flush(20)
    assert b'"phase":"completed"' in b"".join(destination.events)


def test_power_durability_syncs(make, tmp_path, monkeypatch):
    synced = threading.Event()
    original = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (original(fd), synced.set()))
    made = make(tmp_path, durability="process")
    tick(made)
    assert made.flush(20)
    assert not synced.is_set()
    make(tmp_path, durability="power")
    assert synced.wait(20)


def test_sync_goes_on_after_an_error(make, tmp_path, monkeypatch, caplog):
    outcomes = iter([OSError(5, "Input/output error")])
    synced = threading.Event()

    def sync(fd: int) -> None:
        for error in outcomes:
            raise error
        synced.set()

    monkeypatch.setattr(os, "fdatasync", sync)
    make(tmp_path, durability="power")
    assert synced.wait(20)
    (record,) = [r for r in caplog.records if "is not synced to disk" in r.message]
    assert "Input/output error" in record.message


# Forks.


def in_child(action: Callable[[], object]) -> int:
    """Run in a forked process; its exit status is 0 when nothing was raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


forking = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@forking
def test_fork_counts_its_generation():
    before = context.fork_generation

    def check() -> None:
        assert context.fork_generation == before + 1

    assert in_child(check) == 0
    assert context.fork_generation == before


@forking
def test_child_has_books_of_its_own(make, destination, tmp_path):
    made = make(tmp_path, journal_max_bytes=4 << 20)
    destination.is_open.clear()
    fill(made)
    destination.is_open.set()
    assert made.flush(20)

    def check() -> None:
        assert made.stats().emitted == 0
        assert tick(made) is not None
        assert made.flush(20)
        stats = made.stats()
        assert (stats.emitted, stats.stored, stats.rejected, stats.dropped) == (1, 1, 0, {})

    assert in_child(check) == 0


@forking
def test_child_does_not_report_the_parents_gap(make, destination):
    made = make(journal_max_bytes=4 << 20)
    destination.is_open.clear()
    fill(made)
    assert made.gap_since is not None

    def check() -> None:
        destination.is_open.set()
        tick(made)
        assert made.flush(20)
        tick(made)
        assert made.flush(20)
        assert destination.rejects == []

    assert in_child(check) == 0


@forking
def test_child_of_a_process_that_was_shut_down_delivers(make, destination, tmp_path):
    made = make(tmp_path)
    tick(made)
    made.shutdown(20)

    def check() -> None:
        assert not made.is_shut_down
        tick(made)
        assert made.flush(20)
        assert made.stats().emitted == 1
        assert made.shutdown(20)

    assert in_child(check) == 0
    assert list(tmp_path.iterdir()) == []


@forking
def test_child_of_a_child(make, tmp_path, destination):
    made = make(tmp_path)
    tick(made)
    assert in_child(lambda: (tick(made), in_child(lambda: tick(made)))) == 0
    made.shutdown(20)
    drain(destination, tmp_path)
    assert len(set(ids_in(destination))) == 3
