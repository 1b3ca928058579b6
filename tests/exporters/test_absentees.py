"""Rows of a tenant that is not there: waited for, then rejected; other tenants go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tenantry import log_event
from tenantry.exporters import Batch, Outcome, absentees
from tenantry.exporters.absentees import PATIENCE, REMEMBERED, Absentees
from tenantry.exporters.postgres import PostgresExporter
from tests.delivery.deliveries import assert_books_balance, wait_until
from tests.delivery.pipelines import make_pipeline
from tests.exporters.batches import TENANT, make_batch, make_line
from tests.fix_postgres import Database

OTHER = str(uuid4())
GONE = str(uuid4())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tenants(own_database: Database) -> Database:
    """Return a database whose events refer to the host's tenants, of which OTHER is one."""
    own_database.execute("DROP TABLE IF EXISTS public.tenants CASCADE")
    own_database.execute("CREATE TABLE public.tenants (id uuid PRIMARY KEY)")
    own_database.execute("INSERT INTO public.tenants VALUES (%s)", [OTHER])
    own_database.execute(
        "ALTER TABLE tenantry.events ADD CONSTRAINT of_tenant"
        " FOREIGN KEY (tenant_id) REFERENCES public.tenants"
    )
    return own_database


@pytest.fixture
def exporter(tenants: Database, clock: Clock) -> Iterator[PostgresExporter]:
    exporter = PostgresExporter(tenants.writer, monotonic=clock)
    yield exporter
    exporter.close()


def soon() -> float:
    return time.monotonic() + 20


def names(database: Database) -> list[str]:
    rows = database.execute("SELECT name FROM tenantry.events ORDER BY recorded_at")
    return [name for (name,) in rows]


def rejects(database: Database) -> list[tuple[str, str, str]]:
    return database.execute(
        "SELECT name, reason, left(detail, 7) FROM tenantry.rejected_events ORDER BY recorded_at"
    )


def following(batch: Batch, *lines: bytes) -> Batch:
    return make_batch(lines, start=batch.end, journal_id=batch.journal_id)


def assert_waits(outcome: Outcome) -> None:
    assert outcome.retry is not None, outcome
    assert outcome.retry.kind == "soon"
    assert outcome.retry.reason.endswith("refer to what is not there yet: 23503")


def sign_up() -> Batch:
    """Make a batch in which one row of three is of a tenant that is not there yet."""
    return make_batch(
        [
            make_line(name="before", tenant_id=OTHER),
            make_line(name="signed_up"),
            make_line(name="after", tenant_id=OTHER),
        ]
    )


@pytest.mark.parametrize("deferred", ["", " DEFERRABLE INITIALLY DEFERRED"])
def test_open_sign_up_that_commits_is_waited_for(
    tenants: Database, exporter: PostgresExporter, deferred: str
):
    tenants.execute("ALTER TABLE tenantry.events DROP CONSTRAINT of_tenant")
    tenants.execute(
        "ALTER TABLE tenantry.events ADD FOREIGN KEY (tenant_id) REFERENCES public.tenants"
        + deferred
    )
    batch = sign_up()
    with psycopg.connect(tenants.superuser) as connection:
        connection.execute("INSERT INTO public.tenants VALUES (%s)", [TENANT])
        assert_waits(exporter.export(batch, soon()))
        assert names(tenants) == []
        connection.commit()
    assert exporter.export(batch, soon()) == Outcome(stored=3)
    assert (names(tenants), rejects(tenants)) == (["before", "signed_up", "after"], [])


def test_sign_up_that_is_rolled_back_is_rejected_when_patience_ends(
    tenants: Database, exporter: PostgresExporter, clock: Clock
):
    batch = sign_up()
    with psycopg.connect(tenants.superuser) as connection:
        connection.execute("INSERT INTO public.tenants VALUES (%s)", [TENANT])
        assert_waits(exporter.export(batch, soon()))
        connection.rollback()
    clock.now += PATIENCE - 0.1
    assert_waits(exporter.export(batch, soon()))
    clock.now += 0.1
    assert exporter.export(batch, soon()) == Outcome(stored=2, rejected=1)
    assert names(tenants) == ["before", "after"]
    assert rejects(tenants) == [("signed_up", "database", "23503: ")]
    assert exporter.export(batch, soon()) == Outcome(stored=2, rejected=1)  # lost answer
    assert len(names(tenants)) == 2


def test_deleted_tenant_holds_nobody_up_a_second_time(
    tenants: Database, exporter: PostgresExporter, clock: Clock
):
    batch = make_batch([make_line(tenant_id=GONE)])
    exporter.export(batch, soon())
    clock.now += PATIENCE
    assert exporter.export(batch, soon()) == Outcome(rejected=1)
    for _ in range(5):  # each within the time, all of them far beyond it
        clock.now += REMEMBERED - 1
        batch = following(
            batch, make_line(tenant_id=GONE), make_line(tenant_id=OTHER), make_line(tenant_id=GONE)
        )
        assert exporter.export(batch, soon()) == Outcome(stored=1, rejected=2)
    clock.now += REMEMBERED
    assert_waits(exporter.export(following(batch, make_line(tenant_id=GONE)), soon()))


def test_memory_outlasts_the_connection(
    tenants: Database, exporter: PostgresExporter, clock: Clock
):
    batch = make_batch([make_line(tenant_id=GONE)])
    assert_waits(exporter.export(batch, soon()))
    exporter.close()
    clock.now += PATIENCE
    assert exporter.export(batch, soon()) == Outcome(rejected=1)


@pytest.mark.parametrize("another_is_gone", [False, True])
def test_tenant_that_came_after_all_is_waited_for_again(
    tenants: Database, exporter: PostgresExporter, clock: Clock, another_is_gone: bool
):
    more = [make_line(tenant_id=GONE)] if another_is_gone else []
    batch = make_batch([make_line(), *more])
    exporter.export(batch, soon())
    clock.now += PATIENCE
    exporter.export(batch, soon())
    tenants.execute("INSERT INTO public.tenants VALUES (%s)", [TENANT])
    batch = following(batch, make_line(), *more)
    assert exporter.export(batch, soon()) == Outcome(stored=1, rejected=len(more))
    tenants.execute("DELETE FROM tenantry.events")
    tenants.execute("DELETE FROM public.tenants WHERE id = %s", [TENANT])
    assert_waits(exporter.export(following(batch, make_line()), soon()))


def test_many_absent_tenants_are_waited_for_at_once(
    tenants: Database, exporter: PostgresExporter, clock: Clock
):
    lines = [make_line(tenant_id=str(uuid4()) if n % 3 else OTHER) for n in range(60)]
    batch = make_batch(lines)
    assert_waits(exporter.export(batch, soon()))
    clock.now += PATIENCE
    assert exporter.export(batch, soon()) == Outcome(stored=20, rejected=40)


def test_other_faults_of_rows_do_not_wait(tenants: Database, exporter: PostgresExporter):
    batch = make_batch([make_line(tenant_id=OTHER), make_line(tenant_id="acme")])
    assert exporter.export(batch, soon()) == Outcome(stored=1, rejected=1)


def test_deleted_tenant_among_running_events(tenants: Database, tmp_path: Path):
    """The whole way: nothing is lost, nothing is stored twice, the order stays, others flow."""
    clock = Clock()
    exporter = PostgresExporter(tenants.writer, monotonic=clock)
    pipeline = make_pipeline(exporter, tmp_path)
    total = 300
    with pipeline:
        for n in range(total):
            log_event("tick", tenant=GONE if n % 2 else OTHER, n=n)
    wait_until(lambda: pipeline._shipper.last_error)
    assert not pipeline.flush(0.2)
    clock.now += PATIENCE
    assert pipeline.flush(20)
    with pipeline:
        for n in range(total, 2 * total):
            log_event("tick", tenant=GONE if n % 2 else OTHER, n=n)
    assert pipeline.flush(20)  # no clock goes on: nobody waited
    pipeline.shutdown()
    rows = tenants.execute("SELECT (data->>'n')::int FROM tenantry.events ORDER BY recorded_at")
    assert [n for (n,) in rows] == list(range(0, 2 * total, 2))
    rows = tenants.execute("SELECT (data->>'n')::int FROM tenantry.rejected_events ORDER BY 1")
    assert [n for (n,) in rows] == list(range(1, 2 * total, 2))
    assert_books_balance(tenants)


def test_sign_up_in_progress_is_no_error_in_the_log(tenants: Database, tmp_path: Path, caplog):
    pipeline = make_pipeline(PostgresExporter(tenants.writer), tmp_path)
    with psycopg.connect(tenants.superuser) as connection:
        connection.execute("INSERT INTO public.tenants VALUES (%s)", [TENANT])
        with pipeline:
            log_event("tick", tenant=TENANT)
        wait_until(lambda: pipeline._shipper.last_error)
        connection.commit()
    assert pipeline.flush(20)
    pipeline.shutdown()
    assert names(tenants) == ["tick"]
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}]


# The memory.


def test_memory_that_is_full_waits_for_nobody_else(clock: Clock, monkeypatch):
    monkeypatch.setattr(absentees, "MOST", 2)
    absent = Absentees(clock)
    assert absent.must_wait_for(["a", "b"])
    assert not absent.must_wait_for(["c"])
    clock.now += REMEMBERED
    assert absent.must_wait_for(["c"])
    assert not absent._seen.keys() & {"a", "b"}


def test_tenant_that_none_heard_of_is_not_minded(clock: Clock):
    absent = Absentees(clock)
    absent.welcome(["a", None])
    assert not absent
