"""Months made ahead and out of DEFAULT: nothing is lost, and nobody is held up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tenantry.cli.connection import opened
from tenantry.cli.feed import Feed
from tenantry.database import partitions
from tenantry.database.partitions import Made, add_months
from tenantry.database.short_locks import LOCK_KEY, ShortLocks
from tenantry.exceptions import DatabaseError
from tests.cli.commands import INSERT, make_row, start_command, wait_until
from tests.database.partitioned import (
    ON_18,
    attached,
    count,
    drop_months,
    insert,
    keep_up,
    name_of,
    this_month,
    unhindered,
)
from tests.database.rejections import FULL, ledger
from tests.fix_postgres import Database

LAST = add_months(this_month(), 24)
BACK = add_months(this_month(), -7)
"""A month that no migration made."""

INTO_DEFAULT = {"created_at": BACK}

ATTRIBUTES = """
    SELECT (SELECT jsonb_agg(jsonb_build_array(attname, format_type(atttypid, atttypmod),
                   attnotnull, pg_get_expr(adbin, adrelid), attstorage) ORDER BY attnum)
              FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
             WHERE attrelid = t.oid AND attnum > 0),
           (SELECT jsonb_agg(replace(pg_get_indexdef(indexrelid), relname, 'x')
                   ORDER BY pg_get_indexdef(indexrelid))
              FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid WHERE indrelid = t.oid),
           (SELECT jsonb_agg(pg_get_constraintdef(oid) ORDER BY conname)
              FROM pg_constraint WHERE conrelid = t.oid AND contype <> 'n'),
           relrowsecurity, relforcerowsecurity, relowner::regrole::text,
           (SELECT count(*) FROM pg_policy WHERE polrelid = t.oid),
           (SELECT coalesce(array_agg(DISTINCT grantee::regrole::text), '{}')
              FROM aclexplode(relacl) WHERE grantee <> relowner)
      FROM pg_class AS t WHERE oid = %s::regclass
"""


# Ahead.


@pytest.mark.parametrize("by", ["owner", "superuser"])
def test_month_is_made_as_the_migration_makes_it(own_database: Database, by: str):
    own_database.execute(
        "ALTER DEFAULT PRIVILEGES FOR ROLE host_owner GRANT ALL ON TABLES TO PUBLIC"
    )
    own_database.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO tenantry_reader")
    try:
        done = keep_up(own_database, dsn=getattr(own_database, by), ahead=25)
    finally:
        own_database.execute(
            "ALTER DEFAULT PRIVILEGES FOR ROLE host_owner REVOKE ALL ON TABLES FROM PUBLIC"
        )
        own_database.execute(
            "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM tenantry_reader"
        )
    new = name_of(add_months(LAST, 1))
    assert (done.made, done.problems) == ([Made(new, 0)], [])
    (made,) = own_database.execute(ATTRIBUTES, [f"tenantry.{new}"])
    assert made == own_database.execute(ATTRIBUTES, [f"tenantry.{name_of(LAST)}"])[0]
    insert(own_database, add_months(LAST, 1))
    assert count(own_database, new) == 1


@ON_18
def test_missing_months_are_made_once(own_database: Database):
    gone = [this_month(), add_months(this_month(), 5), LAST]
    drop_months(own_database, *gone)
    done = keep_up(own_database)
    assert [each.partition for each in done.made] == [name_of(month) for month in gone]
    assert done.until == add_months(LAST, 1)
    again = keep_up(own_database)
    assert (again.made, again.problems) == ([], [])
    assert keep_up(own_database, ahead=3).made == []
    assert ledger(own_database) == []


@ON_18
def test_month_that_another_partition_touches_is_left_to_its_owner(own_database: Database):
    drop_months(own_database, LAST)
    own_database.execute(
        f"CREATE TABLE tenantry.mine PARTITION OF tenantry.events FOR VALUES FROM ('{LAST}')"
        f" TO ('{LAST.replace(day=3)}')"
    )
    insert(own_database, LAST.replace(day=5))
    done = keep_up(own_database)
    assert (done.made, done.problems) == ([], [])
    assert [(each.month, each.rows) for each in done.strays] == [(LAST, 1)]


@ON_18
def test_schema_without_default_partition_gets_its_months(own_database: Database):
    own_database.execute("DROP TABLE tenantry.events_default")
    drop_months(own_database, LAST)
    assert keep_up(own_database).made == [Made(name_of(LAST), 0)]


@pytest.mark.parametrize(
    "month, count, expected",
    [("2026-11", 0, "2026-11"), ("2026-11", 2, "2027-01"), ("2026-01", -1, "2025-12")],
)
def test_months_are_counted_over_years(month: str, count: int, expected: str):
    begin = datetime.fromisoformat(f"{month}-20T10:00:00+00:00")
    assert f"{add_months(begin, count):%Y-%m-%d}" == f"{expected}-01"


# Out of DEFAULT.


def test_rows_in_default_go_to_their_month_as_they_are(own_database: Database):
    for number in range(3):
        own_database.execute(
            "INSERT INTO tenantry.events SELECT * FROM jsonb_populate_record(null::tenantry.events,"
            " %s)",
            [
                Jsonb(
                    make_row(
                        **{
                            **FULL,
                            "created_at": f"{BACK:%Y-%m}-0{number + 1}T00:00:00.000001Z",
                            "recorded_at": "2026-01-02T03:04:05.678901Z",
                            "transaction_id": str(700 + number),
                        }
                    )
                )
            ],
        )
    read = "SELECT to_jsonb(e) FROM tenantry.{} AS e ORDER BY created_at"
    before = own_database.execute(read.format("events_default"))
    assert len(before) == 3
    done = keep_up(own_database)
    assert (done.made, done.strays) == ([Made(name_of(BACK), 3)], [])
    assert own_database.execute(read.format(name_of(BACK))) == before
    assert count(own_database, "events_default") == 0
    assert ledger(own_database) == [("moved", None, None, name_of(BACK), 3)]
    assert keep_up(own_database).made == []


@ON_18
def test_boundaries_of_a_month_are_in_utc_whatever_the_session_says(own_database: Database):
    own_database.execute("ALTER DATABASE test_empty SET timezone = 'Pacific/Auckland'")
    own_database.execute("ALTER DATABASE test_empty SET datestyle = 'German'")
    insert(own_database, f"{BACK:%Y-%m-%d} 00:00:00+00", add_months(BACK, 1))
    assert keep_up(own_database).made == [
        Made(name_of(BACK), 1),
        Made(name_of(add_months(BACK, 1)), 1),
    ]


@ON_18
def test_rows_of_absurd_years_stay_and_are_told(own_database: Database):
    insert(
        own_database,
        *("0001-01-01", "9999-12-31", "infinity", "-infinity", add_months(LAST, 1)),
        add_months(this_month(), -121),
        add_months(this_month(), -120),
    )
    done = keep_up(own_database)
    assert done.made == [Made(name_of(add_months(this_month(), -120)), 1)]
    (stray,) = done.strays
    assert (stray.month, stray.rows, stray.first, stray.last) == (None, 6, "-infinity", "infinity")
    assert keep_up(own_database).strays == [stray]
    assert count(own_database, "events_default") == 6


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Act between the first move of rows and the lock."""
    run_inside = ShortLocks.run_inside

    def act_first(self: ShortLocks, *arguments: Any, **options: Any) -> Any:
        act()
        return run_inside(self, *arguments, **options)

    monkeypatch.setattr(ShortLocks, "run_inside", act_first)


@ON_18
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_row_that_is_stored_while_others_move_goes_along(
    own_database: Database, monkeypatch: pytest.MonkeyPatch, isolation: str
):
    own_database.execute(
        f"ALTER DATABASE test_empty SET default_transaction_isolation = '{isolation}'"
    )
    insert(own_database, BACK, BACK)
    meanwhile(monkeypatch, lambda: insert(own_database, BACK))
    done = keep_up(own_database)
    assert (done.made, done.problems) == ([Made(name_of(BACK), 3)], [])
    assert count(own_database) == 3


def test_reader_finds_each_row_once_before_during_and_after(
    own_database: Database, monkeypatch: pytest.MonkeyPatch
):
    insert(own_database, *[BACK] * 4)
    counts: list[int] = []
    meanwhile(monkeypatch, lambda: counts.append(count(own_database)))
    with psycopg.connect(own_database.superuser) as snapshot:
        snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot.execute("SELECT 1 FROM pg_class")
        assert keep_up(own_database).made == [Made(name_of(BACK), 4)]
        row = snapshot.execute("SELECT count(*) FROM tenantry.events").fetchone()
    assert (counts, row, count(own_database)) == ([4], (4,), 4)


@ON_18
def test_follower_neither_misses_nor_repeats_what_is_moved(own_database: Database):
    insert(own_database, BACK, BACK)
    with opened(own_database.owner, "tenantry") as source:
        feed = Feed(source)
        rows, place = feed.begin(10)
        assert len(rows) == 2
        pages = feed.follow(place, threading.Event().wait)
        insert(own_database, BACK)
        (third,) = next(pages)
        insert(own_database, BACK)
        assert keep_up(own_database).made == [Made(name_of(BACK), 4)]
        insert(own_database, BACK)
        later = [*next(pages)]
        while len(later) < 2:
            later += next(pages)
    ids = [row["id"] for row in (*rows, third, *later)]
    assert len(ids) == len(set(ids)) == 5


@ON_18
def test_rows_that_other_tables_refer_to_are_not_moved(own_database: Database):
    insert(own_database, BACK)
    with psycopg.connect(own_database.superuser) as owner:
        owner.execute(
            "CREATE TABLE public.notes (t uuid, c timestamptz, id uuid, FOREIGN KEY (t, c, id)"
            " REFERENCES tenantry.events (tenant_id, created_at, id) ON DELETE CASCADE)"
        )
        owner.execute(
            "INSERT INTO public.notes SELECT tenant_id, created_at, id FROM tenantry.events"
        )
    drop = f"ALTER TABLE tenantry.events DETACH PARTITION tenantry.{name_of(LAST)}"
    own_database.execute(drop)
    drop_months(own_database, LAST)
    done = keep_up(own_database)
    assert done.made == [Made(name_of(LAST), 0)]
    (problem,) = done.problems
    assert problem.startswith(f"{name_of(BACK)} was not attached: rows in DEFAULT stand against it")
    assert "drop the keys for the time being" in problem
    assert own_database.execute("SELECT count(*) FROM public.notes") == [(1,)]


@ON_18
def test_trigger_of_the_host_that_keeps_rows_keeps_them_in_default(own_database: Database):
    insert(own_database, BACK)
    with psycopg.connect(own_database.superuser) as owner:
        owner.execute(
            "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''events are for ever''; END'"
        )
        owner.execute(
            "CREATE TRIGGER keep BEFORE DELETE ON tenantry.events FOR EACH ROW"
            " EXECUTE FUNCTION public.keep()"
        )
    (problem,) = keep_up(own_database).problems
    assert problem == (
        f"{name_of(BACK)} was not attached: the database answered P0001: events are for ever."
    )
    assert count(own_database, "events_default") == 1


@ON_18
def test_table_in_the_way_is_told_and_the_others_are_made(own_database: Database):
    drop_months(own_database, this_month(), LAST)
    own_database.execute(f"CREATE TABLE tenantry.{name_of(this_month())} (x int)")
    done = keep_up(own_database)
    assert done.made == [Made(name_of(LAST), 0)]
    (problem,) = done.problems
    assert problem == (
        f"{name_of(this_month())} was not attached: a table of that name is there, and is no "
        "partition. Rename it, or attach it yourself."
    )


# Beside others.


def holds_a_snapshot(database: Database) -> psycopg.Connection:
    """Return a reader that asked for no time, and so looked into DEFAULT as well."""
    reader = psycopg.connect(database.reader)
    reader.execute("SELECT count(*) FROM tenantry.events")
    return reader


def has_inserted(database: Database, created_at: object) -> psycopg.Connection:
    """Return a transaction of an application that wrote an event, as with ``conn=``."""
    writer = psycopg.connect(database.writer)
    writer.execute(INSERT, make_row(created_at=created_at))
    return writer


HOLDERS: dict[str, Callable[[Database], psycopg.Connection]] = {
    "long reader": holds_a_snapshot,
    "open transaction with a row in DEFAULT": lambda database: has_inserted(database, BACK),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_nobody_waits_behind_a_month_that_waits(own_database: Database, holder: str):
    drop_months(own_database, LAST)
    insert(own_database, BACK)
    with (
        HOLDERS[holder](own_database) as other,
        unhindered(own_database.writer, INSERT, lambda: make_row(created_at=this_month())),
        unhindered(own_database.writer, INSERT, lambda: make_row(**INTO_DEFAULT)),
        unhindered(own_database.superuser, "SELECT count(*) FROM tenantry.events", lambda: None),
    ):
        done = keep_up(own_database, timeout=1.0)
        assert done.made == []
        assert done.problems[0].startswith(
            f"{name_of(BACK)} was not attached: its locks could not be had within 1 s (process "
        )
        assert str(other.info.backend_pid) in done.problems[0]
        assert "Look in pg_stat_activity for long transactions" in done.problems[0]
        assert done.problems[1].startswith(f"{name_of(LAST)} was not attached: ")
        assert name_of(LAST) not in attached(own_database)
        other.commit()
    before = count(own_database)
    done = keep_up(own_database)
    assert [each.partition for each in done.made] == [name_of(BACK), name_of(LAST)]
    assert (done.problems, count(own_database)) == ([], before)
    assert count(own_database, "events_default") == 0


def test_open_transaction_of_an_application_does_not_hold_up_a_month(own_database: Database):
    drop_months(own_database, LAST)
    with has_inserted(own_database, this_month()) as other:
        assert keep_up(own_database, timeout=0).made == [Made(name_of(LAST), 0)]
        other.execute(INSERT, make_row(created_at=LAST))
    assert count(own_database) == 2


def test_foreign_key_to_a_busy_table_is_waited_for_in_the_same_way(own_database: Database):
    row = make_row(created_at=LAST)
    with psycopg.connect(own_database.owner) as owner:
        owner.execute("CREATE SCHEMA shop")
        owner.execute("CREATE TABLE shop.tenants (id uuid PRIMARY KEY)")
        owner.execute("INSERT INTO shop.tenants VALUES (%s)", [row["tenant_id"]])
        owner.execute(
            "ALTER TABLE tenantry.events ADD FOREIGN KEY (tenant_id) REFERENCES shop.tenants"
        )
    drop_months(own_database, LAST)
    add = "INSERT INTO shop.tenants VALUES (gen_random_uuid())"
    with psycopg.connect(own_database.owner) as sign_up:
        sign_up.execute(add)
        with unhindered(own_database.owner, add, lambda: None):
            (problem,) = keep_up(own_database, timeout=0.5).problems
        assert "its locks could not be had within 0.5 s" in problem
    assert keep_up(own_database).made == [Made(name_of(LAST), 0)]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        own_database.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
            " VALUES (gen_random_uuid(), gen_random_uuid(), 'x', %s)",
            [LAST],
        )


@ON_18
def test_lock_that_is_held_too_long_is_given_up(own_database: Database):
    own_database.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 'x', '2100-01-01'"
        " FROM generate_series(1, 30000)"
    )
    drop_months(own_database, LAST)
    (problem,) = keep_up(own_database, lock_timeout=0.001).problems
    assert problem == (
        f"{name_of(LAST)} was not attached: it would have held others up for more than 0.001 s. "
        "Run it in a quiet hour with a longer --lock-timeout."
    )
    assert keep_up(own_database, lock_timeout=10.0).made == [Made(name_of(LAST), 0)]


@ON_18
def test_another_session_at_work_is_waited_for_and_told(own_database: Database):
    drop_months(own_database, LAST)
    with psycopg.connect(own_database.owner) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
        (problem,) = keep_up(own_database, timeout=0.2).problems
        assert "its locks could not be had within 0.2 s" in problem
    assert keep_up(own_database).made == [Made(name_of(LAST), 0)]


@ON_18
def test_table_of_events_that_is_locked_is_told(own_database: Database):
    with psycopg.connect(own_database.owner) as other:
        other.execute("LOCK TABLE tenantry.events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseError, match=r"could not be read within 0\.2 s"):
            keep_up(own_database, timeout=0.2)


def test_several_at_once_make_each_month_once(own_database: Database):
    drop_months(own_database, this_month(), LAST)
    insert(own_database, *[BACK] * 50)
    made: list[Made] = []
    threads = [
        threading.Thread(target=lambda: made.extend(keep_up(own_database).made)) for _ in range(3)
    ]
    with unhindered(own_database.writer, INSERT, lambda: make_row(**INTO_DEFAULT)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(each.partition for each in made) == sorted(
        name_of(month) for month in (BACK, this_month(), LAST)
    )
    moved = sum(each.rows for each in made)
    assert ledger(own_database) == [("moved", None, None, name_of(BACK), moved)]
    assert count(own_database, "events_default") == 0
    assert count(own_database, name_of(BACK)) == count(own_database) >= moved


def test_killed_in_the_middle_it_has_done_nothing_and_goes_on_later(own_database: Database):
    insert(own_database, *[BACK] * 20)
    with holds_a_snapshot(own_database):
        process = start_command("maintain", "--dsn", own_database.owner)
        wait_until(lambda: len(moving(own_database)) == 1, "it moves no rows")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
    wait_until(lambda: moving(own_database) == [], "its session goes on")
    assert count(own_database) == count(own_database, "events_default") == 20
    assert name_of(BACK) not in attached(own_database)
    assert keep_up(own_database).made == [Made(name_of(BACK), 20)]
    assert count(own_database) == 20
    assert ledger(own_database) == [("moved", None, None, name_of(BACK), 20)]


def moving(database: Database) -> list[tuple]:
    """List sessions that have moved rows and wait for DEFAULT."""
    return database.execute(
        "SELECT pid FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        " AND relation = 'tenantry.events_default'::regclass"
    )


@ON_18
def test_partition_that_appears_meanwhile_is_no_trouble(
    own_database: Database, monkeypatch: pytest.MonkeyPatch
):
    drop_months(own_database, LAST)
    read_strays = partitions.read_strays

    def make_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        own_database.execute(
            f"CREATE TABLE tenantry.{name_of(LAST)} PARTITION OF tenantry.events"
            f" FOR VALUES FROM ('{LAST}') TO ('{add_months(LAST, 1)}')"
        )
        return read_strays(*arguments)

    monkeypatch.setattr("tenantry.database.upkeep.read_strays", make_first)
    done = keep_up(own_database)
    assert (done.made, done.problems) == ([], [])
