"""The shipper: what it tells the destination, what it says, and what it survives."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tenantry import Pipeline, Sampling, emits, log_event
from tenantry.exporters import Batch, Outcome, Retry
from tenantry.shipper import ADOPTION_INTERVAL, Shipper
from tests.delivery.deliveries import wait_until
from tests.delivery.pipelines import TENANT, Destination, make_pipeline, tick
from tests.fix_postgres import Database
from tests.journal.journals import append_event, make_journal


class Telling(Destination):
    """Keeps the batches as well."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []

    def export(self, batch: Batch, deadline: float) -> Outcome:
        self.batches.append(batch)
        return super().export(batch, deadline)


@pytest.fixture
def destination() -> Telling:
    return Telling()


def drain(destination: Destination, root: Path) -> None:
    shipper = Shipper(destination, None, root=root, destination=destination.fingerprint)
    assert shipper.drain(shipper._monotonic() + 20)


# Logging that raises.


@pytest.fixture
def raising_filter() -> Iterator[None]:
    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("the filter of the application")

    logger = logging.getLogger("tenantry")
    logger.addFilter(refuse)
    yield
    logger.removeFilter(refuse)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("not even its text")


@pytest.mark.usefixtures("raising_filter")
@pytest.mark.parametrize("goes_wrong", ["retry", "raises", "unprintable"])
def test_thread_survives_a_filter_of_logging_that_raises(goes_wrong: str, monkeypatch):
    destination = Destination()
    pipeline = make_pipeline(destination)
    if goes_wrong == "retry":
        destination.is_open.clear()
    else:
        error = OSError("gone") if goes_wrong == "raises" else Unprintable()

        def fail(batch: Batch, deadline: float) -> Outcome:
            destination.attempts += 1
            raise error

        monkeypatch.setattr(destination, "export", fail)
    tick(pipeline)
    wait_until(lambda: destination.attempts > 1)
    assert pipeline._shipper._thread.is_alive()
    monkeypatch.undo()
    destination.is_open.set()
    assert pipeline.flush(20)
    assert pipeline.shutdown(20)


@pytest.mark.usefixtures("raising_filter")
def test_adoption_survives_a_filter_of_logging_that_raises(destination, tmp_path: Path):
    dead = make_pipeline(destination, tmp_path)
    destination.is_open.clear()
    tick(dead)
    dead.shutdown(0)
    wait_until(lambda: not dead._shipper._thread.is_alive())
    dead._journal.close(remove=False)
    destination.is_open.set()
    drain(destination, tmp_path)
    assert len(destination.events) == 1


# Counters without a row.


def emit_no_rows(pipeline: Pipeline) -> None:
    with pipeline:
        log_event("tick", tenant=TENANT, conn=object())
        log_event("rare", tenant=TENANT)


def make_quiet(destination: object, root: Path | None) -> Pipeline:
    sampling = {"rare": Sampling(rate=1e-18)}
    return make_pipeline(destination, root, open_taxonomy=["tick", "rare"], sampling=sampling)


@pytest.mark.parametrize("ends_by", ["shutdown", "death"])
def test_totals_of_a_journal_without_rows_are_sent_at_its_end(destination, tmp_path, ends_by: str):
    pipeline = make_quiet(destination, tmp_path)
    emit_no_rows(pipeline)
    if ends_by == "shutdown":
        assert pipeline.shutdown(20)
    else:
        pipeline._shut_down = True
        assert pipeline._shipper.stop(time.monotonic() + 20)
        pipeline._journal.close(remove=False)
        drain(destination, tmp_path)
    (batch,) = destination.batches
    assert (batch.events, batch.rejects) == ([], [])
    assert (batch.totals.emitted, batch.totals.handed, batch.totals.sampled_out) == (2, 1, 1)
    assert list(tmp_path.iterdir()) == []


def test_totals_that_were_sent_are_not_sent_again(destination, tmp_path: Path):
    pipeline = make_quiet(destination, tmp_path)
    assert pipeline.shutdown(20)
    assert destination.batches == []


def test_totals_without_rows_are_in_journal_cursors(database18: Database, tmp_path: Path):
    pipeline = Pipeline(
        dsn=database18.writer,
        journal=tmp_path,
        open_taxonomy=["rare"],
        sampling={"rare": Sampling(rate=1e-18)},
    )
    with pipeline:
        log_event("rare", tenant=TENANT)
    assert pipeline.shutdown(20)
    assert database18.execute(
        "SELECT emitted, sampled_out, stored, rejected FROM tenantry.journal_cursors"
    ) == [(1, 1, 0, 0)]


def balances(batch: Batch) -> bool:
    totals = batch.totals
    rest = totals.handed + totals.sampled_out + sum(totals.dropped.values())
    return totals.emitted == totals.accepted + rest


def test_event_that_moved_while_the_last_batch_was_sent_is_told(destination, tmp_path: Path):
    pipeline = make_pipeline(destination, tmp_path)
    export = destination.export

    def export_beside_a_call(batch: Batch, deadline: float) -> Outcome:
        if pipeline._journal.is_sealed and not balances(batch):
            pipeline._journal.move_number()  # the call under way found its place elsewhere
        return export(batch, deadline)

    destination.export = export_beside_a_call
    tick(pipeline)
    next(pipeline._journal.sequence)
    assert pipeline.shutdown(5)
    assert balances(destination.batches[-1])
    assert list(tmp_path.iterdir()) == []


def test_call_that_the_exit_cut_off_is_left_to_the_next_process(destination, tmp_path: Path):
    pipeline = make_pipeline(destination, tmp_path)
    tick(pipeline)
    next(pipeline._journal.sequence)
    assert pipeline.shutdown(5)
    drain(destination, tmp_path)
    assert balances(destination.batches[-1])
    assert list(tmp_path.iterdir()) == []


def test_abandoned_end_of_an_open_taxonomy_has_the_keys_of_its_start(destination, tmp_path: Path):
    pipeline = make_pipeline(destination, tmp_path)
    with pipeline, emits("work", tenant=TENANT, source="web"):
        assert pipeline.flush(5)
        pipeline._shipper.stop(time.monotonic() + 5)
        pipeline._journal.close(remove=False)
        drain(destination, tmp_path)
    end = destination.batches[-1].records()[-1]
    assert (end.name, end.error_code, end.data) == ("work_failed", "abandoned", {"source": "web"})


def test_event_after_shutdown_is_counted_in_one_journal(destination, tmp_path: Path):
    pipeline = make_pipeline(destination, tmp_path)
    tick(pipeline)
    destination.is_open.clear()
    pipeline.shutdown(0)
    tick(pipeline)
    wait_until(lambda: not pipeline._shipper._thread.is_alive())
    for journal in (pipeline._journal, pipeline._late):
        journal.close(remove=False)
    destination.is_open.set()
    drain(destination, tmp_path)
    last = {batch.journal_id: batch.totals for batch in destination.batches}
    assert sum(totals.emitted for totals in last.values()) == len(destination.events) == 2
    assert all(totals.dropped == {} for totals in last.values())


# Exporters that answer wrongly, and what is said.


def test_outcome_that_does_not_add_up_holds_the_batch(caplog):
    destination = Destination()
    original = destination.export
    destination.export = lambda batch, deadline: Outcome()  # type: ignore[method-assign]
    pipeline = make_pipeline(destination)
    tick(pipeline)
    report = pipeline.flush(0.2)
    assert not report
    assert "answered for 0 of 1 rows" in report.error
    assert pipeline._shipper.has_settled_all() is False
    destination.export = original
    assert pipeline.flush(20)
    assert len(destination.events) == 1
    pipeline.shutdown(20)


@pytest.mark.parametrize("mode, place", [("memory", "memory"), ("journal", "the journal")])
def test_trouble_says_where_events_are_kept_with_one_full_stop(tmp_path, caplog, mode, place):
    destination = Destination()
    destination.trouble = Retry("backoff", "Cannot connect. Check the DSN.")
    destination.is_open.clear()
    pipeline = make_pipeline(destination, tmp_path if mode == "journal" else None)
    tick(pipeline)
    wait_until(lambda: caplog.records)
    assert caplog.records[0].message == (
        f"events cannot be stored and are kept in {place}: Cannot connect. Check the DSN. "
        "They are sent when it is over"
    )
    destination.is_open.set()
    pipeline.shutdown(20)


def test_deadline_of_a_shutdown_does_not_hide_the_earlier_trouble():
    destination = Destination()
    reasons = iter(["no table is there"])
    stopped = Event()

    def export(batch: Batch, deadline: float) -> Outcome:
        for reason in reasons:
            return Outcome(retry=Retry("backoff", reason))
        stopped.wait(max(0.0, deadline - time.monotonic()))
        return Outcome(retry=Retry("backoff", "db did not answer in time"))

    destination.export = export  # type: ignore[method-assign]
    pipeline = make_pipeline(destination, ship_interval=30)
    tick(pipeline)
    pipeline.flush(0)
    wait_until(lambda: pipeline._shipper.last_error)
    pipeline.shutdown(0.2)
    wait_until(lambda: not pipeline._shipper._thread.is_alive())
    assert pipeline.stats().error == "no table is there"


# The destination forgets.


def test_flush_recovers_when_the_destination_forgot_what_is_kept_no_more(destination):
    pipeline = make_pipeline(destination)  # in memory nothing settled is retained
    journal = pipeline._journal
    for _ in range(2):
        tick(pipeline)
        assert pipeline.flush(20)
        with journal._rotation:
            journal._rotate(journal.shelf.active)
    wait_until(lambda: len(journal.segments) == 1)
    destination.cursors.clear()
    tick(pipeline)
    assert pipeline.flush(20)
    stats = pipeline.stats()
    assert (stats.accepted, stats.stored, stats.pending) == (3, 3, 0)
    pipeline.shutdown(20)


# Rounds that find nothing.


def test_idle_shipper_looks_mostly_at_its_own_journal_alone(tmp_path: Path, monkeypatch):
    now = 0.0
    looks: list[str] = []
    rounds: list[None] = []
    journal = make_journal(tmp_path)
    monkeypatch.setattr(journal, "turn_over", lambda: rounds.append(None))
    monkeypatch.setattr(journal, "prepare", lambda: looks.append("at its room"))
    shipper = Shipper(
        Destination(),
        journal,
        root=tmp_path,
        destination="destination",
        interval=0.001,
        after_round=lambda: looks.append("after a round"),
        monotonic=lambda: now,
    )
    monkeypatch.setattr(shipper, "adopt_dead", lambda: looks.append("at other journals"))

    def pass_rounds() -> None:
        enough = len(rounds) + 20
        wait_until(lambda: len(rounds) > enough)

    shipper.start()
    pass_rounds()
    assert looks == ["at its room", "at other journals", "after a round"]
    now = ADOPTION_INTERVAL
    pass_rounds()
    assert looks == ["at its room", "at other journals", "after a round"] * 2
    append_event(journal, 1)
    shipper.wake()
    wait_until(lambda: len(looks) > 7)  # what was stored is looked after at once
    assert looks[6:] == ["at its room", "after a round"]
    journal.seal()
    assert shipper.stop(now + 20)
    journal.close(remove=True)
