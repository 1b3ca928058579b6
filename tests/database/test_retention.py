"""Months that are too old: detached out of sight, counted, and dropped when told to."""

from __future__ import annotations

import threading
from uuid import uuid4

import psycopg
import pytest

from tenantry.database.connect import connect
from tenantry.database.partitions import add_months
from tenantry.database.retention import detach
from tenantry.database.short_locks import ShortLocks
from tenantry.database.upkeep import Gone
from tests.cli.commands import INSERT, make_row
from tests.database.partitioned import (
    ON_18,
    add_month,
    attached,
    count,
    insert,
    keep_up,
    name_of,
    this_month,
    unhindered,
)
from tests.database.rejections import ledger
from tests.fix_postgres import Database

OLD = add_months(this_month(), -3)
"""A month that ended more than ``KEEP`` ago, on any day."""

KEEP = "1 months"

DETACHED = f"{name_of(OLD)}_detached"


@pytest.fixture
def own_database(own_database: Database) -> Database:
    """Return the database with that month in it."""
    add_month(own_database, OLD)
    return own_database


def comment(database: Database, table: str = DETACHED) -> str:
    query = "SELECT obj_description(%s::regclass, 'pg_class')"
    return database.execute(query, [f"tenantry.{table}"])[0][0]


def detach_only(database: Database) -> None:
    """Do what a session does that is cut off before it has counted."""
    with connect(database.owner) as connection:
        locks = ShortLocks(connection, 0.5, 0)
        assert detach(locks, "tenantry", name_of(OLD)) == DETACHED


def test_old_month_is_taken_out_of_sight_and_counted(own_database: Database):
    insert(own_database, OLD, OLD, this_month())
    done = keep_up(own_database, keep=KEEP)
    assert (done.detached, done.problems) == ([Gone(DETACHED, 2)], [])
    assert done.kept_detached == [Gone(DETACHED, 2)]
    assert comment(own_database).endswith("; rows: 2.")
    assert ledger(own_database) == [("detached", None, None, DETACHED, 2)]
    assert count(own_database) == 1
    assert count(own_database, DETACHED) == 2
    assert name_of(OLD) not in attached(own_database)
    with psycopg.connect(own_database.owner) as owner:
        assert owner.execute(f"SELECT * FROM tenantry.{DETACHED}").fetchall() == []
    for dsn in (own_database.writer, own_database.reader, own_database.member_of("maintainer")):
        with (
            psycopg.connect(dsn) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(f"SELECT * FROM tenantry.{DETACHED}")
    again = keep_up(own_database, keep=KEEP)
    assert (again.detached, again.problems) == ([], [])
    assert len(ledger(own_database)) == 1


@ON_18
@pytest.mark.parametrize(
    "keep, oldest",
    [(None, -3), ("4 months", -3), ("1200 months", -3), (KEEP, -1), ("0 days", 0), ("-90 days", 0)],
)
def test_nothing_is_detached_unless_it_is_old_and_asked_for(
    own_database: Database, keep: str | None, oldest: int
):
    keep_up(own_database, keep=keep)
    months = [month for month in attached(own_database) if month != "events_default"]
    assert months[0] == name_of(add_months(this_month(), oldest))


@ON_18
def test_month_of_rows_that_came_late_is_detached_beside_the_first(own_database: Database):
    insert(own_database, OLD)
    keep_up(own_database, keep=KEEP)
    insert(own_database, OLD, OLD)
    done = keep_up(own_database, keep=KEEP)
    assert [each.rows for each in done.made] == [2]
    assert done.detached == [Gone(f"{DETACHED}_2", 2)]
    assert done.kept_detached == [Gone(DETACHED, 1), Gone(f"{DETACHED}_2", 2)]


def test_nobody_waits_behind_a_month_that_cannot_be_detached(own_database: Database):
    with psycopg.connect(own_database.writer) as other:
        other.execute(INSERT, make_row(created_at=this_month()))
        with (
            unhindered(own_database.writer, INSERT, lambda: make_row(created_at=this_month())),
            unhindered(own_database.reader, "SELECT FROM tenantry.events", lambda: None),
        ):
            (problem,) = keep_up(own_database, keep=KEEP, timeout=1.0).problems
        assert problem.startswith(
            f"{name_of(OLD)} was not detached: its locks could not be had within 1 s (process "
        )
        assert name_of(OLD) in attached(own_database)
    before = count(own_database)
    with unhindered(own_database.writer, INSERT, lambda: make_row(created_at=this_month())):
        assert keep_up(own_database, keep=KEEP).detached == [Gone(DETACHED, 0)]
    assert count(own_database) > before


def test_foreign_key_to_a_busy_table_holds_up_maintenance_and_nobody_else(own_database: Database):
    with psycopg.connect(own_database.owner) as owner:
        owner.execute("CREATE SCHEMA shop")
        owner.execute("CREATE TABLE shop.tenants (id uuid PRIMARY KEY)")
        owner.execute(
            "ALTER TABLE tenantry.events ADD FOREIGN KEY (tenant_id) REFERENCES shop.tenants"
        )
    add = "INSERT INTO shop.tenants VALUES (gen_random_uuid())"
    with psycopg.connect(own_database.owner) as sign_up:
        sign_up.execute(add)
        with (
            unhindered(own_database.owner, add, lambda: None),
            unhindered(own_database.reader, "SELECT FROM tenantry.events", lambda: None),
        ):
            (problem,) = keep_up(own_database, keep=KEEP, timeout=0.5).problems
        assert problem.startswith(f"{name_of(OLD)} was not detached: its locks could not be had")
    assert keep_up(own_database, keep=KEEP).detached == [Gone(DETACHED, 0)]
    with psycopg.connect(own_database.owner) as sign_up:
        sign_up.execute(add)
        with unhindered(own_database.owner, add, lambda: None):
            (problem,) = keep_up(own_database, drop_after=0.0, timeout=0.5).problems
        assert problem.startswith(f"{DETACHED} was not dropped: its locks could not be had")
    assert keep_up(own_database, drop_after=0.0).dropped == [Gone(DETACHED, 0)]


@ON_18
def test_session_that_was_cut_off_is_completed_by_the_next(own_database: Database):
    insert(own_database, OLD)
    detach_only(own_database)
    assert comment(own_database).endswith("; rows: not counted yet.")
    assert ledger(own_database) == []
    assert keep_up(own_database).detached == [Gone(DETACHED, 1)]
    assert comment(own_database).endswith("; rows: 1.")
    assert ledger(own_database) == [("detached", None, None, DETACHED, 1)]


def test_several_at_once_detach_and_drop_once(own_database: Database):
    insert(own_database, OLD, OLD, OLD)
    threads = [
        threading.Thread(target=keep_up, args=[own_database], kwargs=wishes)
        for wishes in [{"keep": KEEP}] * 2 + [{"keep": KEEP, "drop_after": 0.0}] * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert keep_up(own_database, drop_after=0.0).problems == []
    assert ledger(own_database) == [
        ("detached", None, None, DETACHED, 3),
        ("dropped", None, None, DETACHED, 3),
    ]


def test_detached_month_is_dropped_when_told_to(own_database: Database):
    insert(own_database, OLD, OLD)
    first = keep_up(own_database, keep=KEEP, drop_after=0.0)
    assert (first.dropped, first.kept_detached) == ([], [Gone(DETACHED, 2)])
    waits = keep_up(own_database, drop_after=3600.0)
    assert (waits.dropped, waits.kept_detached) == ([], [Gone(DETACHED, 2)])
    done = keep_up(own_database, drop_after=0.0)
    assert (done.dropped, done.kept_detached) == ([Gone(DETACHED, 2)], [])
    assert own_database.execute(f"SELECT to_regclass('tenantry.{DETACHED}')") == [(None,)]
    assert ledger(own_database)[1:] == [("dropped", None, None, DETACHED, 2)]


@ON_18
def test_tables_that_were_not_detached_here_are_never_dropped(own_database: Database):
    own_database.execute("CREATE TABLE tenantry.events_2020_01_detached (x int)")
    own_database.execute("COMMENT ON TABLE tenantry.events_2020_01_detached IS 'Detached by me'")
    done = keep_up(own_database, drop_after=0.0)
    assert (done.dropped, done.problems) == ([], [])
    assert count(own_database, "events_2020_01_detached") == 0


@ON_18
def test_detached_rows_can_be_read_again_and_brought_back(own_database: Database):
    insert(own_database, OLD)
    keep_up(own_database, keep=KEEP)
    with psycopg.connect(own_database.owner, autocommit=True) as owner:
        owner.execute(
            f"ALTER TABLE tenantry.events ATTACH PARTITION tenantry.{DETACHED}"
            f" FOR VALUES FROM ('{OLD}') TO ('{add_months(OLD, 1)}')"
        )
    assert count(own_database) == 1
    assert keep_up(own_database, drop_after=0.0).dropped == []
    assert count(own_database) == 1


@ON_18
def test_rejects_that_are_too_old_are_discarded(own_database: Database):
    for age in ("3 months", "1 hour"):
        own_database.execute(
            "INSERT INTO tenantry.rejected_events (id, created_at, reason, recorded_at)"
            " VALUES (%s, now(), 'invalid', now() - %s::interval)",
            [uuid4(), age],
        )
    assert keep_up(own_database).discarded == 0
    assert keep_up(own_database, keep="2 months").discarded == 1
    assert count(own_database, "rejected_events") == 1
    assert ("discarded", None, None, "invalid", 1) in ledger(own_database)


# Who may.


@ON_18
def test_who_does_not_own_the_tables_is_told_whom_to_ask(own_database: Database):
    maintainer = own_database.member_of("maintainer")
    assert keep_up(own_database, dsn=maintainer).problems == []
    (problem,) = keep_up(own_database, dsn=maintainer, ahead=25, keep=KEEP).problems
    new = name_of(add_months(this_month(), 25))
    assert problem == (
        f"Changes of partitions are due ({new} to be made; 2 in all), and 'app_maintainer' may not "
        "make them: host_owner owns the tables. Run it as host_owner, or as somebody who may "
        'grant it: GRANT "host_owner" TO "app_maintainer";'
    )
    assert new not in attached(own_database)
    detach_only(own_database)
    (problem,) = keep_up(own_database, dsn=maintainer, drop_after=0.0).problems
    assert f"({DETACHED} to be counted; 1 in all)" in problem


@ON_18
def test_schema_whose_ledger_is_older_is_told_to_migrate(own_database: Database):
    own_database.execute("DELETE FROM tenantry.migrations WHERE version > 6")
    assert keep_up(own_database).problems == []
    (problem,) = keep_up(own_database, keep=KEEP).problems
    assert problem == (
        f"Changes of partitions are due ({name_of(OLD)} to be detached; 1 in all), and the ledger "
        "of this schema takes no lines of them. Run: tenantry migrate --schema tenantry"
    )
