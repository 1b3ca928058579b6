"""The database away, or unwilling: nothing is lost, nothing is stored twice, order is kept."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tenantry import Pipeline
from tenantry.database.migrate import migrate
from tests.delivery.deliveries import assert_books_balance, drain, stored_ids, wait_until
from tests.delivery.pipelines import tick
from tests.fix_postgres import Database, Proxy, Server, _empty_database, _migrated


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    made: list[Pipeline] = []

    def pipeline(dsn: str, **options) -> Pipeline:
        options = {"journal": tmp_path / "journal", "ship_interval": 0.01, **options}
        made.append(Pipeline(dsn=dsn, open_taxonomy=["tick"], **options))
        return made[-1]

    yield pipeline
    for each in made:
        each.shutdown(0)


@pytest.fixture
def own18(postgres18: Server) -> Database:
    return _migrated(_empty_database(postgres18))


def ticks(pipeline: Pipeline, count: int) -> list[str]:
    ids = [tick(pipeline, number=number) for number in range(count)]
    assert None not in ids
    return ids


def in_order_of_storage(database: Database) -> list[str]:
    return [
        str(row[0])
        for row in database.execute("SELECT id FROM tenantry.events ORDER BY recorded_at, id")
    ]


def test_first_event_is_stored_without_a_flush(database18: Database, make):
    event_id = tick(make(database18.writer))
    wait_until(lambda: stored_ids(database18) == [event_id])


def test_server_stopped_and_started_again(database18: Database, make):
    pipeline = make(database18.writer)
    ids = ticks(pipeline, 100)
    assert pipeline.flush(20)
    database18.server.stop()
    try:
        ids += ticks(pipeline, 100)
        report = pipeline.flush(0.2)
        assert (report.settled, report.pending) == (False, 100)
        assert report.error is not None
    finally:
        database18.server.start()
    ids += ticks(pipeline, 100)
    assert pipeline.flush(20)
    assert pipeline.stats().error is None
    assert in_order_of_storage(database18) == ids
    assert_books_balance(database18)


def test_connection_terminated_again_and_again(database18: Database, make):
    pipeline = make(database18.writer)
    ids: list[str] = []
    for _ in range(20):
        ids += ticks(pipeline, 50)
        database18.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tenantry' AND usename = 'app_writer'"
        )
    assert pipeline.flush(20)
    assert in_order_of_storage(database18) == ids
    assert_books_balance(database18)


def test_connection_terminated_while_idle_does_not_spoil_the_exit(
    database18: Database, make, tmp_path: Path
):
    pipeline = make(database18.writer, ship_interval=30)
    ids = ticks(pipeline, 10)
    assert pipeline.flush(20)
    database18.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'tenantry' AND usename = 'app_writer'"
    )
    ids += ticks(pipeline, 10)
    assert pipeline.shutdown(20)
    assert stored_ids(database18) == ids
    assert list((tmp_path / "journal").iterdir()) == []


def test_schema_missing_then_migrated(own18: Database, make, caplog):
    own18.execute("DROP SCHEMA tenantry CASCADE")
    pipeline = make(own18.owner)
    ids = ticks(pipeline, 10)
    assert "Run: tenantry migrate" in _error_of(pipeline, caplog)
    migrate(own18.owner)
    assert pipeline.flush(20)
    assert stored_ids(own18) == ids


def test_privilege_revoked_then_given(own18: Database, make, caplog):
    pipeline = make(own18.writer)
    ids = ticks(pipeline, 10)
    assert pipeline.flush(20)
    own18.execute("REVOKE INSERT ON tenantry.events FROM tenantry_writer")
    ids += ticks(pipeline, 10)
    assert "GRANT" in _error_of(pipeline, caplog)
    own18.execute("GRANT INSERT ON tenantry.events TO tenantry_writer")
    assert pipeline.flush(20)
    assert stored_ids(own18) == ids
    assert_books_balance(own18)


def _error_of(pipeline: Pipeline, caplog) -> str:
    report = pipeline.flush(1)
    assert not report
    assert report.error is not None
    (logged,) = [r.message for r in caplog.records if "events cannot be stored" in r.message]
    return logged


def test_deadlines_hold_before_a_black_hole(database18: Database, make, proxy: Proxy, tmp_path):
    pipeline = make(proxy.dsn)
    ids = ticks(pipeline, 10)
    assert pipeline.flush(20)
    proxy.black_hole()
    ids += ticks(pipeline, 10)
    for end in (pipeline.flush, pipeline.shutdown):
        begun = time.monotonic()
        report = end(0.3)
        assert time.monotonic() - begun < 2.3
        assert (report.settled, report.pending, report.mode) == (False, 10, "journal")
    wait_until(lambda: not pipeline._shipper._thread.is_alive())
    pipeline._journal.close(remove=False)  # what the end of the process does
    begun = time.monotonic()
    assert not drain(tmp_path / "journal", proxy.dsn, 0.3)
    assert time.monotonic() - begun < 2.3
    proxy.restore()
    assert drain(tmp_path / "journal", proxy.dsn)
    assert stored_ids(database18) == ids
    assert_books_balance(database18)


# The answer to a commit, and the database itself, that go missing.


class AnswerLosingProxy(Proxy):
    """Cuts the connection when the server answers COMMIT, as often as told."""

    to_lose = 0
    lost = 0

    def _forward(self, source, sink) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if b"C\0\0\0\x0bCOMMIT\0" in data and self.lost < self.to_lose:
                    self.lost += 1
                    break
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def test_lost_answer_to_a_commit_stores_nothing_twice(database18: Database, make):
    proxy = AnswerLosingProxy(database18.writer)
    proxy.to_lose = 3
    pipeline = make(proxy.dsn)
    ids: list[str] = []
    for _ in range(6):
        ids += ticks(pipeline, 100)
        assert pipeline.flush(20)
    assert proxy.lost == 3
    assert stored_ids(database18) == ids
    stats = pipeline.stats()
    assert (stats.stored, stats.rejected, stats.pending) == (600, 0, 0)
    assert_books_balance(database18)
    pipeline.shutdown(5)
    proxy.close()


@pytest.mark.parametrize("remembers", ["an older cursor", "no cursor"])
def test_failover_to_an_older_state_is_replayed(database18: Database, make, remembers: str):
    pipeline = make(database18.writer)
    ids = ticks(pipeline, 50)
    assert pipeline.flush(20)
    (cursor,) = database18.execute("SELECT * FROM tenantry.journal_cursors")
    ids += ticks(pipeline, 2000)
    assert pipeline.flush(20)
    if remembers == "no cursor":
        database18.execute("DELETE FROM tenantry.events; DELETE FROM tenantry.journal_cursors")
    else:
        _restore(database18, ids[:50], cursor)
    ids += ticks(pipeline, 10)
    wait_until(lambda: pipeline.flush(1) and len(stored_ids(database18)) == len(ids))
    assert stored_ids(database18) == ids
    stats = pipeline.stats()
    assert (stats.accepted, stats.stored, stats.rejected) == (2060, 2060, 0)
    assert_books_balance(database18)


def _restore(database: Database, ids: list[str], cursor: tuple) -> None:
    with psycopg.connect(database.superuser) as connection:
        connection.execute("DELETE FROM tenantry.events WHERE id <> ALL(%s)", [ids])
        connection.execute("DELETE FROM tenantry.journal_cursors")
        values = [psycopg.types.json.Jsonb(v) if isinstance(v, dict) else v for v in cursor]
        marks = ", ".join(["%s"] * len(values))
        connection.execute(f"INSERT INTO tenantry.journal_cursors VALUES ({marks})", values)
