"""`ended_at`: noted when a journal has ended for good, and never worth a failure or a wait."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tenantry import Pipeline, emits, tenant
from tenantry.exporters import Outcome
from tenantry.exporters.postgres import PostgresExporter
from tenantry.shipper import FINISH_TIMEOUT, Shipper
from tests.delivery.deliveries import drain, wait_until
from tests.delivery.pipelines import TENANT, Destination, make_pipeline, tick
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database


def make(dsn: str, root: Path | None, **options: object) -> Pipeline:
    return Pipeline(
        dsn=dsn,
        journal=root,
        open_taxonomy=["tick", "work_*"],
        **{"ship_interval": 0.01, **options},  # type: ignore[arg-type]
    )


def ends(database: Database) -> list[bool]:
    """Say of each cursor whether its end is noted."""
    rows = database.execute(
        "SELECT ended_at IS NOT NULL FROM tenantry.journal_cursors ORDER BY started_at"
    )
    return [ended for (ended,) in rows]


@pytest.mark.parametrize("in_memory", [False, True])
def test_clean_shutdown_notes_the_end(database: Database, tmp_path: Path, in_memory: bool):
    pipeline = make(database.writer, None if in_memory else tmp_path)
    tick(pipeline)
    assert pipeline.flush(20)
    assert ends(database) == [False]
    assert pipeline.shutdown(20)
    assert ends(database) == [True]


def test_shutdown_that_ships_the_last_events_notes_the_end(database18: Database, tmp_path: Path):
    pipeline = make(database18.writer, tmp_path, ship_interval=60.0)
    tick(pipeline)
    assert pipeline.shutdown(20)
    assert ends(database18) == [True]


def test_process_that_sent_nothing_opens_no_connection_for_it(
    database18: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tenantry.exporters import postgres

    monkeypatch.setattr(postgres, "connect", lambda *_, **__: pytest.fail("it connected"))
    assert make(database18.writer, tmp_path).shutdown(20)
    exporter = PostgresExporter(database18.writer)
    assert exporter.finish(str(uuid4()), time.monotonic() + 5) is False


def test_journal_whose_open_operations_moved_to_a_late_one_has_ended(
    database18: Database, tmp_path: Path
):
    pipeline = make(database18.writer, tmp_path)
    with pipeline, tenant(TENANT):
        block = emits("work")
        block.__enter__()
        tick(pipeline)
        pipeline.shutdown(20)
        block.__exit__(None, None, None)
    assert ends(database18) == [True]


def test_journal_with_an_open_operation_has_not_ended(
    database18: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Pipeline, "_open_late", lambda _: None)  # no room for one
    pipeline = make(database18.writer, tmp_path)
    with pipeline, tenant(TENANT), emits("work"):
        tick(pipeline)
        pipeline.shutdown(20)
    assert ends(database18) == [False]


def test_adopted_journal_ends_when_it_is_shipped(database: Database, tmp_path: Path):
    pid = os.fork()
    if pid == 0:
        pipeline = make(database.writer, tmp_path, ship_interval=60.0)
        tick(pipeline)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert drain(tmp_path, database.writer)
    assert ends(database) == [True]


def test_forked_child_that_emits_nothing_notes_nothing(database18: Database, tmp_path: Path):
    pipeline = make(database18.writer, tmp_path)
    tick(pipeline)
    assert pipeline.flush(20)
    pid = os.fork()
    if pid == 0:
        pipeline.shutdown(5)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert ends(database18) == [False]
    assert pipeline.shutdown(20)
    assert ends(database18) == [True]


def test_older_schema_is_not_asked_for_the_column(
    own_database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    own_database.execute("ALTER TABLE tenantry.journal_cursors DROP COLUMN ended_at")
    own_database.execute("DELETE FROM tenantry.migrations WHERE version >= 5")
    pipeline = make(own_database.writer, tmp_path)
    tick(pipeline)
    assert pipeline.shutdown(20)
    assert list(tmp_path.iterdir()) == []
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    exporter = PostgresExporter(own_database.writer)
    batch = make_batch([make_line()])
    assert exporter.export(batch, time.monotonic() + 20) == Outcome(stored=1)
    assert exporter.finish(batch.journal_id, time.monotonic() + 5) is True
    exporter.close()


def test_database_that_hangs_holds_nobody_past_the_deadline(database: Database):
    exporter = PostgresExporter(database.writer)
    batch = make_batch([make_line()])
    exporter.export(batch, time.monotonic() + 20)
    with psycopg.connect(database.owner) as blocker:
        blocker.execute("LOCK tenantry.journal_cursors")
        assert exporter.finish(batch.journal_id, time.monotonic() + 0.2) is False
    after = make_batch([make_line()], start=batch.end, journal_id=batch.journal_id)
    assert exporter.export(after, time.monotonic() + 20) == Outcome(stored=1)
    exporter.close()


class Noting(Destination):
    """A destination that notes the ends of journals, or fails to."""

    def __init__(self) -> None:
        super().__init__()
        self.can_note = True
        self.ended: list[str] = []
        self.error: Exception | None = None
        self.seconds: list[float] = []

    def finish(self, journal_id: str, deadline: float) -> bool:
        self.seconds.append(deadline - time.monotonic())
        if self.error is not None:
            raise self.error
        if self.can_note:
            self.ended.append(journal_id)
        return self.can_note


def leave_journal(root: Path) -> str:
    """Leave the settled journal of a killed process."""
    root.mkdir(exist_ok=True)
    before = set(root.iterdir())
    pid = os.fork()
    if pid == 0:
        pipeline = make_pipeline(Destination(), root)
        tick(pipeline)
        pipeline.flush(20)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = set(root.iterdir()) - before
    return left.name


def test_end_that_cannot_be_noted_at_once_is_noted_after_the_next_batch(tmp_path: Path):
    destination = Noting()
    destination.can_note = False
    dead = leave_journal(tmp_path)
    pipeline = make_pipeline(destination, tmp_path)
    wait_until(lambda: not (tmp_path / dead).exists())
    assert destination.ended == []
    destination.can_note = True
    tick(pipeline)
    assert pipeline.flush(20)
    wait_until(lambda: destination.ended == [dead])
    assert pipeline.shutdown(20)
    assert len(destination.ended) == 2


def test_unsettled_journal_has_not_ended(tmp_path: Path):
    destination = Noting()
    destination.is_open.clear()
    pipeline = make_pipeline(destination, tmp_path)
    tick(pipeline)
    assert not pipeline.shutdown(0.5)
    assert destination.ended == []


def test_error_while_noting_is_logged_and_forgotten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    destination = Noting()
    destination.error = RuntimeError("no")
    pipeline = make_pipeline(destination, tmp_path)
    tick(pipeline)
    assert pipeline.shutdown(20)
    assert "the end of a journal could not be noted" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_drain_notes_the_ends_of_all_journals(tmp_path: Path):
    dead = {leave_journal(tmp_path / str(n)) for n in range(3)}
    for directory in list(tmp_path.glob("*/*")):  # in one root, one would have adopted the others
        directory.rename(tmp_path / directory.name)
    destination = Noting()
    shipper = Shipper(destination, None, root=tmp_path, destination="destination")
    assert shipper.drain(time.monotonic() + 20)
    assert set(destination.ended) == dead


@pytest.mark.parametrize("timeout, limit", [(20, FINISH_TIMEOUT), (0.5, 0.5)], ids=str)
def test_noting_has_no_more_time_than_the_shutdown(timeout: float, limit: float, tmp_path: Path):
    destination = Noting()
    pipeline = make_pipeline(destination, tmp_path)
    tick(pipeline)
    assert pipeline.flush(20)
    pipeline.shutdown(timeout)
    assert destination.seconds[-1] <= limit
