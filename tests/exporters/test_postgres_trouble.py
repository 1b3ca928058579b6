"""The PostgreSQL exporter in trouble: what it waits for, what it holds, and when it gives up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tenantry.database.connect import DeadlineConnection
from tenantry.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMismatch,
    SchemaMissing,
)
from tenantry.exporters import Outcome, Retry
from tenantry.exporters.postgres import PostgresExporter
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database, Proxy

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tenantry' AND datname = %s"


@pytest.fixture
def make_exporter() -> Iterator[Callable[..., PostgresExporter]]:
    made: list[PostgresExporter] = []

    def make(dsn: str, **options: object) -> PostgresExporter:
        made.append(PostgresExporter(dsn, **options))
        return made[-1]

    yield make
    for exporter in made:
        exporter.close()


@pytest.fixture
def own_exporter(own_database: Database, make_exporter) -> PostgresExporter:
    return make_exporter(own_database.writer)


@pytest.fixture
def exporter(database: Database, make_exporter) -> PostgresExporter:
    return make_exporter(database.writer)


def soon(seconds: float = 20) -> float:
    return time.monotonic() + seconds


def retry_of(outcome: Outcome) -> Retry:
    assert outcome.retry is not None, outcome
    assert (outcome.stored, outcome.rejected, outcome.resume) == (0, 0, None)
    return outcome.retry


def count_events(database: Database) -> int:
    return database.execute("SELECT count(*) FROM tenantry.events")[0][0]


# Trouble that passes.


def test_stopped_server_is_waited_for(database: Database, exporter: PostgresExporter):
    batch = make_batch([make_line()])
    database.server.stop()
    try:
        away = retry_of(exporter.export(batch, soon()))
    finally:
        database.server.start()
    assert away.kind == "backoff"
    assert exporter.export(batch, soon()) == Outcome(stored=1)


def test_terminated_backend_is_replaced(database: Database, exporter: PostgresExporter):
    first = make_batch([make_line()])
    exporter.export(first, soon())
    database.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM ({BACKENDS}) AS b", [database.name]
    )
    second = make_batch([make_line()], start=first.end, journal_id=first.journal_id)
    lost = retry_of(exporter.export(second, soon()))
    assert (lost.kind, lost.remedy) == ("backoff", "")
    assert exporter.export(second, soon()) == Outcome(stored=1)
    assert count_events(database) == 2


def test_missing_database_and_unknown_role_are_waited_for(database: Database, make_exporter):
    for change in ({"dbname": "nowhere"}, {"user": "nobody_at_all"}):
        dsn = psycopg.conninfo.make_conninfo(database.writer, **change)
        assert retry_of(make_exporter(dsn).export(make_batch(), soon())).kind == "backoff"


@pytest.mark.parametrize(
    "change, remedy",
    [
        ({"dbname": "nowhere"}, "Create the database, or correct its name in the DSN."),
        ({"user": "nobody_at_all"}, "Check the user and the password of the DSN"),
        ({"port": "1", "host": "127.0.0.1"}, "Check that the server runs and that the DSN names"),
    ],
    ids=["no database", "no role", "no server"],
)
def test_remedy_fits_what_the_server_answered(database: Database, make_exporter, change, remedy):
    exporter = make_exporter(psycopg.conninfo.make_conninfo(database.writer, **change))
    with pytest.raises(DatabaseUnreachable) as caught:
        exporter.check(soon())
    text = str(caught.value)
    assert remedy in text
    assert ("that the server runs" in text) == ("port" in change)
    assert ".." not in text
    assert text.endswith(".")


@pytest.mark.parametrize(
    "said, remedy",
    [
        ('FATAL:  password authentication failed for user "x"', "Check the user and the password"),
        ('FATAL:  no pg_hba.conf entry for host "h", user "x"', "Check the user and the password"),
        ("FATAL:  sorry, too many clients already", "The server runs; do what it asks for"),
        ("Connection refused", "Check that the server runs"),
    ],
    ids=["password", "pg_hba.conf", "too many clients", "refused"],
)
def test_remedy_of_what_libpq_says(said: str, remedy: str, monkeypatch, make_exporter):
    def refuse(*_: object, **__: object) -> None:
        raise psycopg.OperationalError(f"connection failed: {said}")

    monkeypatch.setattr(DeadlineConnection, "connect", refuse)
    retry = retry_of(make_exporter("host=db.invalid").export(make_batch(), soon()))
    assert remedy in retry.reason


def test_deadline_that_has_passed_is_a_retry(exporter: PostgresExporter):
    retry = retry_of(exporter.export(make_batch([make_line()]), time.monotonic()))
    assert (retry.kind, retry.reason.endswith("did not answer in time")) == ("backoff", True)


# Trouble that somebody has to end.


def test_missing_schema_is_held_with_the_command_to_run(empty_database: Database, make_exporter):
    exporter = make_exporter(empty_database.owner, schema="audit")
    retry = retry_of(exporter.export(make_batch([make_line()]), soon()))
    assert retry.kind == "hold"
    assert "has no Tenantry tables in the schema 'audit'" in retry.reason
    assert retry.remedy == "Run: tenantry migrate --schema audit --tenant-type uuid"
    with pytest.raises(SchemaMissing, match="Run: tenantry migrate --schema audit"):
        exporter.check(soon())


def test_other_tenant_type_is_held_and_rejects_nothing(database: Database, make_exporter):
    exporter = make_exporter(database.writer, tenant_type="bigint")
    retry = retry_of(exporter.export(make_batch([make_line(tenant_id=7)]), soon()))
    assert retry.kind == "hold"
    assert "tenant ids of type uuid, and bigint is configured" in retry.reason
    assert database.execute("SELECT count(*) FROM tenantry.rejected_events") == [(0,)]
    with pytest.raises(SchemaMismatch, match="Configure tenant_type='uuid'"):
        exporter.check(soon())


def test_role_that_is_no_writer_is_held_with_the_grant(database: Database, make_exporter):
    exporter = make_exporter(database.reader)
    retry = retry_of(exporter.export(make_batch([make_line()]), soon()))
    assert retry.kind == "hold"
    grant = 'GRANT "tenantry_writer" TO "app_reader";'
    assert retry.remedy == f"Run as the owner of the schema: {grant}"
    with pytest.raises(PrivilegeMissing, match=grant):
        exporter.check(soon())


@pytest.mark.parametrize(
    "revoked",
    [
        "INSERT ON tenantry.events",
        "INSERT ON tenantry.rejected_events",
        "UPDATE ON tenantry.journal_cursors",
        "SELECT ON tenantry.migrations",
        "USAGE ON SCHEMA tenantry",
    ],
)
def test_revoked_privilege_is_held_until_the_remedy_has_run(
    own_database: Database, own_exporter: PostgresExporter, revoked: str
):
    first = make_batch([make_line()])
    own_exporter.export(first, soon())
    own_database.execute(f"REVOKE {revoked} FROM tenantry_writer")
    own_exporter.close()
    batch = make_batch(
        [make_line()],
        start=first.end,
        journal_id=first.journal_id,
        rejects=[make_line(reason="invalid")],
    )
    retry = retry_of(own_exporter.export(batch, soon()))
    assert retry.kind == "hold"
    with pytest.raises(PrivilegeMissing, match="does not let 'app_writer' write events"):
        own_exporter.check(soon())
    own_database.execute(retry.remedy.removeprefix("Run as the owner of the schema: "))
    assert own_exporter.export(batch, soon()) == Outcome(stored=1, rejected=1)


@pytest.mark.parametrize("table", ["events", "journal_cursors", "rejected_events"])
def test_table_that_went_away_is_held(
    own_database: Database, own_exporter: PostgresExporter, table: str
):
    own_exporter.export(make_batch([make_line()]), soon())
    own_database.execute(f"DROP TABLE tenantry.{table}")
    batch = make_batch([make_line()], rejects=[make_line(reason="invalid")])
    retry = retry_of(own_exporter.export(batch, soon()))
    assert retry.kind == "hold"
    assert "Run: tenantry migrate" in retry.remedy


def test_missing_partition_is_held_and_rejects_nothing(
    own_database: Database, own_exporter: PostgresExporter
):
    own_database.execute("DROP TABLE tenantry.events_default")
    batch = make_batch([make_line(), make_line(created_at="1999-01-01T00:00:00Z")])
    retry = retry_of(own_exporter.export(batch, soon()))
    assert retry.kind == "hold"
    assert "no partition of relation" in retry.reason
    own_database.execute(retry.remedy.removeprefix("Run as the owner of the schema: "))
    assert own_exporter.export(batch, soon()) == Outcome(stored=2)


# The deadline.


def test_black_hole_is_left_at_the_deadline(database18: Database, proxy: Proxy, make_exporter):
    exporter = make_exporter(proxy.dsn)
    exporter.check(soon())
    proxy.black_hole()
    batch = make_batch([make_line() for _ in range(5000)])  # more than the sockets buffer
    begun = time.monotonic()
    retry = retry_of(exporter.export(batch, begun + 0.5))
    assert 0.5 <= time.monotonic() - begun < 2
    assert (retry.kind, retry.reason.endswith("did not answer in time")) == ("backoff", True)
    assert retry.smaller
    proxy.restore()
    assert exporter.export(batch, soon()) == Outcome(stored=5000)
    assert count_events(database18) == 5000


def test_black_hole_in_connecting_is_left_at_the_deadline(proxy: Proxy, make_exporter):
    proxy.black_hole()
    begun = time.monotonic()
    retry = retry_of(make_exporter(proxy.dsn).export(make_batch(), begun + 0.3))
    assert 0.3 <= time.monotonic() - begun < 1.5
    assert retry.kind == "backoff"


def test_connect_timeout_is_kept_before_the_deadline(proxy: Proxy, make_exporter):
    proxy.black_hole()
    begun = time.monotonic()
    exporter = make_exporter(proxy.dsn, connect_timeout=0.3)
    with pytest.raises(DatabaseUnreachable, match="Cannot connect to 127"):
        exporter.check(soon())
    assert time.monotonic() - begun < 1.5


def test_stopped_backend_is_left_at_the_deadline(
    database: Database, exporter: PostgresExporter, stopped_processes: list[int]
):
    exporter.check(soon())
    ((pid,),) = database.execute(BACKENDS, [database.name])
    stopped_processes.append(pid)
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    batch = make_batch([make_line()])
    assert retry_of(exporter.export(batch, begun + 0.3)).kind == "backoff"
    assert time.monotonic() - begun < 1.5
    os.kill(pid, signal.SIGCONT)
    assert exporter.export(batch, soon()) == Outcome(stored=1)


def test_answer_that_was_lost_is_found_by_the_next_attempt(
    database18: Database, proxy: Proxy, make_exporter
):
    exporter = make_exporter(proxy.dsn)
    batch = make_batch([make_line()])
    exporter.check(soon())
    with psycopg.connect(database18.owner) as blocker:
        blocker.execute("LOCK tenantry.events")
        outcomes: list[Outcome] = []
        deadline = soon(1.0)
        thread = threading.Thread(target=lambda: outcomes.append(exporter.export(batch, deadline)))
        thread.start()
        wait_until(
            lambda: database18.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0]
        )
        proxy.black_hole()
    thread.join()
    assert retry_of(outcomes[0]).kind == "backoff"
    proxy.restore()
    wait_until(lambda: count_events(database18))
    assert exporter.export(batch, soon()) == Outcome(stored=1)
    assert count_events(database18) == 1


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = soon(seconds)
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        threading.Event().wait(0.01)


# Processes and configuration.


def test_forked_child_leaves_the_connection_of_its_parent_alone(
    database: Database, exporter: PostgresExporter
):
    first = make_batch([make_line()])
    exporter.export(first, soon())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            exporter.abandon()
            batch = make_batch([make_line()])
            status = 0 if exporter.export(batch, soon()) == Outcome(stored=1) else 2
            exporter.close()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    second = make_batch([make_line()], start=first.end, journal_id=first.journal_id)
    assert exporter.export(second, soon()) == Outcome(stored=1)
    assert count_events(database) == 3


def test_check_stores_nothing(database: Database, exporter: PostgresExporter):
    exporter.check(soon())
    assert database.execute("SELECT count(*) FROM tenantry.journal_cursors") == [(0,)]


def test_unreachable_server_is_named_without_the_password(make_exporter):
    exporter = make_exporter("postgresql://app:s3cret@127.0.0.1:1/shop")
    with pytest.raises(DatabaseUnreachable, match=r"127\.0\.0\.1:1/shop") as caught:
        exporter.check(soon())
    retry = retry_of(exporter.export(make_batch(), soon()))
    assert "s3cret" not in str(caught.value) + retry.reason


@pytest.mark.parametrize("dsn", ["postgresql://u:s3cret@[h/db", "host='s3cret", "s3cret"])
def test_dsn_that_cannot_be_read_is_not_quoted(dsn: str):
    with pytest.raises(ConfigurationError, match="The DSN cannot be read") as caught:
        PostgresExporter(dsn)
    assert "s3cret" not in str(caught.value)
