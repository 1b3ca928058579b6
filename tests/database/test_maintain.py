"""Compaction of `journal_cursors`: what is folded, what is left, and that no sum changes."""

from __future__ import annotations

import json
import threading
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.database.connect import connect
from tenantry.database.maintain import Compacted, Compaction, LeftAlone, compact, compacted_id
from tests.database.rejections import ledger, read
from tests.fix_postgres import Database

DAY = 86400.0


def make_cursor(**values: Any) -> dict[str, Any]:
    return {
        "journal_id": str(uuid4()),
        "emitted": 10,
        "accepted": 6,
        "handed": 1,
        "sampled_out": 2,
        "dropped": {"journal_full": 1},
        "stored": 5,
        "rejected": 1,
        "service": "helpdesk",
        "process": "web-1:77",
        "ended": "2 days",
        **values,
    }


def insert(database: Database, *cursors: dict[str, Any]) -> None:
    with psycopg.connect(database.superuser) as connection:
        connection.cursor().executemany(
            """
            INSERT INTO tenantry.journal_cursors
                (journal_id, segment, position, emitted, accepted, handed, sampled_out, dropped,
                 stored, rejected, last_rejected, service, process, ended_at)
            VALUES (%(journal_id)s, 3, 99, %(emitted)s, %(accepted)s, %(handed)s, %(sampled_out)s,
                    %(dropped)s, %(stored)s, %(rejected)s, 1, %(service)s, %(process)s,
                    now() - %(ended)s::interval)
            """,
            [{**cursor, "dropped": json.dumps(cursor["dropped"])} for cursor in cursors],
        )


def run(database: Database, **options: Any) -> Compaction:
    with connect(database.member_of("maintainer")) as connection:
        return compact(connection, "tenantry", **{"after": DAY, **options})


def sums(database: Database) -> tuple[object, ...]:
    (numbers,) = database.execute(
        "SELECT coalesce(sum(emitted), 0)::bigint, coalesce(sum(accepted), 0)::bigint,"
        " coalesce(sum(handed), 0)::bigint, coalesce(sum(sampled_out), 0)::bigint,"
        " coalesce(sum(stored), 0)::bigint, coalesce(sum(rejected), 0)::bigint"
        " FROM tenantry.journal_cursors"
    )
    dropped = database.execute(
        "SELECT key, sum(value::bigint)::bigint"
        " FROM tenantry.journal_cursors, jsonb_each_text(dropped) GROUP BY key ORDER BY key"
    )
    return (*numbers, dict(dropped))


def test_ended_journals_become_one_row_for_each_service(database: Database):
    insert(
        database,
        *(make_cursor() for _ in range(3)),
        make_cursor(dropped={"disk_full": 1}),
        make_cursor(service=None),
    )
    before = sums(database)
    (first,) = database.execute("SELECT min(started_at) FROM tenantry.journal_cursors")
    done = run(database)
    assert done == Compaction((Compacted("helpdesk", 4), Compacted(None, 1)), (), 0)
    rows = {row["journal_id"]: row for row in read_cursors(database)}
    folded = rows[str(compacted_id("helpdesk"))]
    assert folded["process"] == "4 journals"
    assert folded["dropped"] == {"journal_full": 3, "disk_full": 1}
    assert (folded["segment"], folded["position"], folded["last_rejected"]) == (0, 0, 0)
    assert rows[str(compacted_id(None))]["process"] == "1 journals"
    assert sums(database) == before
    assert database.execute("SELECT min(started_at) FROM tenantry.journal_cursors") == [first]
    assert ledger(database) == [
        ("compacted", None, None, "helpdesk", 4),
        ("compacted", None, None, None, 1),
    ]


def read_cursors(database: Database) -> list[dict[str, Any]]:
    rows = database.execute("SELECT to_jsonb(c) FROM tenantry.journal_cursors AS c")
    return [row for (row,) in rows]


def test_compaction_goes_on_in_the_same_row(database: Database):
    insert(database, *(make_cursor() for _ in range(3)))
    run(database)
    insert(database, make_cursor(dropped={"disk_full": 1}), make_cursor(dropped={}, emitted=9))
    before = sums(database)
    assert run(database).compacted == (Compacted("helpdesk", 2),)
    (row,) = read_cursors(database)
    assert row["process"] == "5 journals"
    assert row["dropped"] == {"journal_full": 3, "disk_full": 1}
    assert sums(database) == before


def test_compaction_again_does_nothing(database: Database):
    insert(database, make_cursor())
    run(database)
    rows = read_cursors(database)
    assert run(database) == Compaction((), (), 0)
    assert read_cursors(database) == rows
    assert database.execute("SELECT count(*) FROM tenantry.ledger") == [(1,)]


def test_row_that_does_not_balance_or_has_no_end_is_left_and_listed(database: Database):
    lost, uneven, running = (
        make_cursor(stored=4),
        make_cursor(emitted=11),
        make_cursor(ended=None),
    )
    insert(database, lost, uneven, running, make_cursor())
    done = run(database)
    assert done.compacted == (Compacted("helpdesk", 1),)
    reasons = {each.journal_id: each.reason for each in done.left}
    assert reasons == {
        lost["journal_id"]: "it does not balance: 6 accepted, 5 stored or rejected",
        uneven["journal_id"]: "it does not balance: 11 emitted, 10 accounted for",
        running["journal_id"]: "no end is noted: its process runs, or died and nobody could note "
        "it",
    }
    assert done.left[0].__class__ is LeftAlone
    assert len(read_cursors(database)) == 4


def test_journal_that_ended_lately_only_has_to_get_older(database: Database):
    insert(database, make_cursor(ended="1 hour"))
    assert run(database) == Compaction((), (), 1)
    assert run(database, after=1800.0).compacted == (Compacted("helpdesk", 1),)


def test_dry_run_says_so_and_changes_nothing(database: Database):
    insert(database, make_cursor(), make_cursor())
    rows = read_cursors(database)
    assert run(database, dry_run=True).compacted == (Compacted("helpdesk", 2),)
    assert read_cursors(database) == rows
    assert ledger(database) == []


def test_row_that_somebody_holds_is_passed_over(database: Database):
    held, other = make_cursor(), make_cursor()
    insert(database, held, other)
    with psycopg.connect(database.superuser) as connection:
        connection.execute(
            "SELECT FROM tenantry.journal_cursors WHERE journal_id = %s FOR UPDATE",
            [held["journal_id"]],
        )
        assert run(database).compacted == (Compacted("helpdesk", 1),)
    assert run(database).compacted == (Compacted("helpdesk", 1),)


def test_two_at_once_fold_each_row_once(database: Database):
    insert(database, *(make_cursor(service=f"s{n % 3}") for n in range(300)))
    before = sums(database)
    done: list[Compaction] = []
    threads = [threading.Thread(target=lambda: done.append(run(database))) for _ in range(2)]
    database.member_of("maintainer")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(each.journals for one in done for each in one.compacted) == 300
    assert sums(database) == before
    assert sorted(row["process"] for row in read_cursors(database)) == ["100 journals"] * 3


counts = st.integers(0, 2**40)
cursors = st.builds(
    lambda stored, rejected, handed, sampled_out, dropped, service, ended, error: make_cursor(
        stored=stored,
        rejected=rejected,
        accepted=stored + rejected + error,
        handed=handed,
        sampled_out=sampled_out,
        dropped=dropped,
        emitted=stored + rejected + error + handed + sampled_out + sum(dropped.values()),
        service=service,
        ended=ended,
    ),
    *[counts] * 4,
    st.dictionaries(st.sampled_from(["journal_full", "disk_full", 'odd "one"']), counts),
    st.sampled_from([None, "helpdesk", "null"]),
    st.sampled_from([None, "1 hour", "2 days"]),
    st.sampled_from([0, 0, 0, 1]),
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(runs=st.lists(st.lists(cursors, max_size=8), min_size=1, max_size=3))
def test_sums_never_change(database18: Database, runs: list[list[dict[str, Any]]]):
    for table in ("journal_cursors", "ledger"):
        database18.execute(f"DELETE FROM tenantry.{table}")
    left = 0
    for new in runs:
        insert(database18, *new)
        before = sums(database18)
        run(database18)
        assert sums(database18) == before
        left += sum(
            cursor["ended"] != "2 days"
            or cursor["accepted"] != cursor["stored"] + cursor["rejected"]
            for cursor in new
        )
    services = {c["service"] for new in runs for c in new}
    assert left <= len(read_cursors(database18)) <= left + len(services)


@pytest.mark.parametrize("role", ["writer", "reader", "admin"])
def test_other_roles_may_not_fold(database: Database, role: str):
    insert(database, make_cursor())
    with (
        connect(database.member_of(role)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        compact(connection, "tenantry", after=DAY)


def test_empty_table_has_nothing_to_fold(database: Database):
    assert run(database) == Compaction((), (), 0)


def test_ledger_is_read_by_table(database: Database):
    insert(database, make_cursor())
    run(database)
    (line,) = read(database, "ledger")
    assert (line["kind"], line["by"]) == ("compacted", "app_maintainer")
