"""Rejected events: what is kept of them, and how they are stored after all or discarded."""

from __future__ import annotations

import json
import threading
from uuid import UUID, uuid4

import psycopg
import pytest

from tenantry.database.connect import DeadlineConnection, connect
from tenantry.database.installed import read_installed
from tenantry.database.rejected import BATCH_ROWS, Count, Rejects, Retried, Selection
from tenantry.exporters import Outcome
from tenantry.exporters.salvage import salvage
from tenantry.record import EVENT_COLUMNS
from tests.database.rejections import (
    FULL,
    LONG,
    SHORT,
    export,
    ledger,
    make_refused,
    read,
    refuse,
)
from tests.exporters.batches import TENANT, make_event
from tests.fix_postgres import Database

ALL = Selection()


def open_rejects(dsn: str) -> tuple[DeadlineConnection, Rejects]:
    connection = connect(dsn)
    installed = read_installed(connection, "tenantry")
    assert installed is not None
    return connection, Rejects(connection, "tenantry", installed)


@pytest.fixture
def rejects(database: Database):
    connection, rejects = open_rejects(database.member_of("maintainer"))
    yield rejects
    connection.close()


# What is kept.


def test_row_that_the_database_refused_is_kept_whole(database: Database):
    (event,) = events = make_refused(1)
    assert event.keys() == {column.name for column in EVENT_COLUMNS}
    refuse(database, events)
    (row,) = read(database, "rejected_events")
    assert (row["reason"], row["event"]) == ("database", event)


def test_keys_that_are_no_columns_are_not_kept(database: Database):
    event = make_event(sample_rate=7)
    export(database, [json.dumps({**event, "unknown": 1}).encode()])
    (row,) = read(database, "rejected_events")
    assert row["event"] == event


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(make_event(actor_id="a\0b")).encode(),
        json.dumps(make_event(actor_id="a\ud800")).encode(),
        json.dumps(make_event(duration_ms=float("nan"))).encode(),
        json.dumps(make_event(actor_id="Grüße"), ensure_ascii=False).encode("latin-1"),
    ],
    ids=["NUL", "surrogate", "NaN", "no UTF-8"],
)
def test_json_that_jsonb_refuses_is_not_kept_and_the_data_are(database: Database, line: bytes):
    assert export(database, [line]) == Outcome(rejected=1)
    (row,) = read(database, "rejected_events")
    assert (row["event"], row["data"]) == (None, {"docs": 3})


def test_escaped_backslash_before_u0000_is_no_nul(database: Database):
    event = make_event(actor_id=r"C:\u0000", sample_rate=7)
    export(database, [json.dumps(event).encode()])
    (row,) = read(database, "rejected_events")
    assert row["event"] == event


def test_data_that_jsonb_refuses_leave_the_row_without_event(database: Database):
    assert export(database, [json.dumps(make_event(data={"a": "\0"})).encode()]) == Outcome(
        rejected=1
    )
    (row,) = read(database, "rejected_events")
    assert (row["event"], row["data"]) == (None, None)


def test_data_of_any_depth_are_salvaged():
    for depth in range(1, 2000):
        line = b'{"id":7,"data":%b1%b}' % (b'{"a":' * depth, b"}" * depth)
        assert json.loads(salvage(line, "22P02", "no"))["reason"] == "database"


def test_rejects_of_the_application_carry_no_event(database: Database):
    reject = {"id": str(uuid4()), "created_at": "2026-11-22T10:00:00+00:00", "reason": "invalid"}
    export(database, [], rejects=[json.dumps(reject).encode()])
    assert [row["event"] for row in read(database, "rejected_events")] == [None]


def test_reader_sees_whole_rows_of_its_own_tenant_only(database: Database):
    other = "018f6f0e-0000-7000-8000-000000000002"
    refuse(database, [*make_refused(1), *make_refused(1, tenant_id=other)])
    with psycopg.connect(database.reader) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [TENANT])
        rows = connection.execute("SELECT event ->> 'tenant_id' FROM tenantry.rejected_events")
        assert rows.fetchall() == [(TENANT,)]


# Retry.


def test_retried_row_comes_back_in_full(database: Database, rejects: Rejects):
    (event,) = events = make_refused(1)
    refuse(database, events)
    assert rejects.retry(ALL) == Retried(stored=1)
    (row,) = read(database, "events")
    assert {key: row[key] for key in event} == event
    assert read(database, "rejected_events") == []
    assert ledger(database) == [("retried", TENANT, "ingest_completed", "database", 1)]


def test_retry_again_does_nothing(database: Database, rejects: Rejects):
    refuse(database, make_refused(3))
    assert rejects.retry(ALL).stored == 3
    assert rejects.retry(ALL) == Retried()
    assert len(read(database, "events")) == 3
    assert ledger(database)[0][-1] == 3


def test_row_that_is_refused_again_stays_with_the_new_detail(database: Database, rejects: Rejects):
    good, bad = make_refused(5), make_refused(2, actor_id="user:1234")
    refuse(database, [*good, *bad])
    database.execute(
        "ALTER TABLE tenantry.events ADD CONSTRAINT new_rule CHECK (length(actor_id) < 9) NOT VALID"
    )
    try:
        result = rejects.retry(ALL)
    finally:
        database.execute("ALTER TABLE tenantry.events DROP CONSTRAINT new_rule")
    assert (result.stored, result.refused.total()) == (5, 2)
    (detail,) = result.refused
    assert detail.startswith("23514: ")
    assert "new_rule" in detail
    rows = read(database, "rejected_events")
    assert {row["id"] for row in rows} == {event["id"] for event in bad}
    assert {row["detail"] for row in rows} == {detail}
    assert rejects.retry(ALL) == Retried(stored=2)


def test_more_rows_than_a_batch_are_settled_batch_by_batch(database: Database, rejects: Rejects):
    refuse(database, [*make_refused(BATCH_ROWS + 2)])
    seen: list[int] = []
    assert rejects.retry(ALL, lambda so_far: seen.append(so_far.done)).stored == BATCH_ROWS + 2
    assert seen == [BATCH_ROWS, BATCH_ROWS + 2]
    assert database.execute("SELECT count(*) FROM tenantry.ledger") == [(2,)]


def test_interrupted_retry_keeps_what_was_settled_and_goes_on(database: Database, rejects: Rejects):
    refuse(database, make_refused(BATCH_ROWS + 2))

    def interrupt(_: Retried) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rejects.retry(ALL, interrupt)
    assert len(read(database, "events")) == BATCH_ROWS == ledger(database)[0][-1]
    assert rejects.retry(ALL) == Retried(stored=2)


def test_event_that_is_stored_already_is_discarded_with_its_line(
    database: Database, rejects: Rejects
):
    events = make_refused(2)
    refuse(database, events)
    export(database, [json.dumps(events[0]).encode()])
    assert rejects.retry(ALL) == Retried(stored=1, stored_already=1)
    assert len(read(database, "events")) == 2
    assert read(database, "rejected_events") == []
    assert ledger(database) == [
        ("discarded", TENANT, "ingest_completed", "stored_already", 1),
        ("retried", TENANT, "ingest_completed", "database", 1),
    ]


def test_row_that_a_unique_index_of_the_host_passes_over_stays(
    database: Database, rejects: Rejects
):
    refuse(database, make_refused(2))
    database.execute(
        "CREATE UNIQUE INDEX only_one ON tenantry.events (tenant_id, created_at, actor_id)"
    )
    try:
        result = rejects.retry(ALL)
    finally:
        database.execute("DROP INDEX tenantry.only_one")
    assert (result.stored, result.stored_already, result.refused.total()) == (1, 0, 1)
    (row,) = read(database, "rejected_events")
    assert row["detail"].startswith("23505: another event has its values under a unique index")


def test_deferred_constraint_of_the_host_refuses_one_row_and_not_the_batch(
    own_database: Database,
):
    own_database.execute("CREATE TABLE tenants (id uuid PRIMARY KEY)")
    own_database.execute("INSERT INTO tenants VALUES (%s)", [TENANT])
    unknown = str(uuid4())
    refuse(own_database, [*make_refused(2), *make_refused(1, tenant_id=unknown)])
    own_database.execute(
        "ALTER TABLE tenantry.events ADD FOREIGN KEY (tenant_id) REFERENCES tenants"
        " DEFERRABLE INITIALLY DEFERRED"
    )
    connection, rejects = open_rejects(own_database.member_of("maintainer"))
    with connection:
        own_database.execute("GRANT SELECT ON tenants TO tenantry_maintainer")
        result = rejects.retry(ALL)
    assert (result.stored, result.refused.total()) == (2, 1)
    assert ledger(own_database)[0][-1] == 2


def test_selection_takes_its_rows_only(database: Database, rejects: Rejects):
    other = "018f6f0e-0000-7000-8000-000000000002"
    one, two, three = [*make_refused(1), *make_refused(1, name="b"), *make_refused(1)]
    three["tenant_id"] = other
    refuse(database, [one, two, three])
    for selection, expected in (
        (Selection(reason="invalid"), 0),
        (Selection(ids=(UUID(one["id"]),)), 1),
        (Selection(name="b", reason="database"), 1),
        (Selection(tenant=other), 1),
    ):
        assert rejects.retry(selection).stored == expected, selection


def test_rows_that_come_later_are_left_out(database: Database, rejects: Rejects):
    refuse(database, make_refused(1))
    until = rejects.now()
    refuse(database, make_refused(1))
    assert rejects.retry(Selection(until=until)).stored == 1
    assert len(read(database, "rejected_events")) == 1


def test_rows_that_another_retry_has_are_passed_over(database: Database, rejects: Rejects):
    events = make_refused(3)
    refuse(database, events)
    with psycopg.connect(database.owner) as other:
        other.execute(
            "SELECT FROM tenantry.rejected_events WHERE id = %s FOR UPDATE", [events[0]["id"]]
        )
        assert rejects.retry(ALL).stored == 2
    assert rejects.retry(ALL).stored == 1


def test_two_retries_at_once_store_each_row_once(database: Database):
    refuse(database, make_refused(4 * BATCH_ROWS))
    results: list[Retried] = []

    def run() -> None:
        connection, rejects = open_rejects(database.owner)
        with connection:
            results.append(rejects.retry(ALL))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(result.stored for result in results) == 4 * BATCH_ROWS
    assert sum(result.stored_already for result in results) == 0
    assert len(read(database, "events")) == 4 * BATCH_ROWS == ledger(database)[0][-1]


def test_trouble_of_the_server_rolls_the_batch_back(database: Database, rejects: Rejects):
    refuse(database, make_refused(3))
    with psycopg.connect(database.owner) as blocker:
        blocker.execute("LOCK tenantry.events")
        rejects._connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            rejects.retry(ALL)
    assert (len(read(database, "rejected_events")), ledger(database)) == (3, [])
    assert rejects.retry(ALL).stored == 3


@pytest.mark.parametrize("tenant_type, tenant", [("bigint", 2**53), ("text", "acme/eu")])
def test_other_tenant_types_are_retried_and_discarded(
    empty_database: Database, tenant_type: str, tenant: object
):
    from tenantry.database.migrate import migrate

    migrate(empty_database.owner, tenant_type=tenant_type)
    for _ in range(2):
        event = make_event(tenant_id=tenant)
        empty_database.execute(
            "INSERT INTO tenantry.rejected_events (id, tenant_id, name, created_at, reason, event)"
            " VALUES (%s, %s, 'x', now(), 'database', %s)",
            [event["id"], str(tenant), json.dumps(event)],
        )
    connection, rejects = open_rejects(empty_database.owner)
    with connection:
        assert rejects.retry(Selection(ids=(UUID(event["id"]),))).stored == 1
        assert rejects.discard(Selection(tenant=str(tenant))) == 1
    assert empty_database.execute("SELECT kind, tenant_id FROM tenantry.ledger ORDER BY 1") == [
        ("discarded", tenant),
        ("retried", tenant),
    ]


# Discard.


def reject_by_hand(database: Database, **values: object) -> None:
    row = {"id": str(uuid4()), "reason": "invalid", "tenant_id": TENANT, "name": "x", **values}
    database.execute(
        "INSERT INTO tenantry.rejected_events (id, reason, tenant_id, name, created_at)"
        " VALUES (%s, %s, %s, %s, now())",
        [row["id"], row["reason"], row["tenant_id"], row["name"]],
    )


def test_discarded_rows_are_lines_of_the_ledger(database: Database, rejects: Rejects):
    for values in (
        {},
        {},
        {"name": None},
        {"tenant_id": None},
        {"tenant_id": "no uuid at all"},
        {"tenant_id": "00000000-0000-0000-0000-000000000000", "reason": "gap"},
    ):
        reject_by_hand(database, **values)
    assert rejects.discard(ALL) == 6
    assert read(database, "rejected_events") == []
    assert ledger(database) == [
        ("discarded", "00000000-0000-0000-0000-000000000000", "x", "gap", 1),
        ("discarded", TENANT, "x", "invalid", 2),
        ("discarded", TENANT, None, "invalid", 1),
        ("discarded", None, "x", "invalid", 2),
    ]
    assert rejects.discard(ALL) == 0


def test_discarding_more_than_a_batch(database: Database, rejects: Rejects):
    refuse(database, make_refused(BATCH_ROWS + 1))
    seen: list[int] = []
    assert rejects.discard(ALL, seen.append) == BATCH_ROWS + 1
    assert seen == [BATCH_ROWS, BATCH_ROWS + 1]
    assert ledger(database)[0][-1] == BATCH_ROWS + 1


# Reading.


def test_overview_counts_what_can_be_retried(database: Database, rejects: Rejects):
    refuse(database, make_refused(2))
    reject_by_hand(database, name="ingest_completed", reason="database")
    reject_by_hand(database)
    groups = [(g["reason"], g["name"], g["count"], g["retryable"]) for g in rejects.overview(ALL)]
    assert groups == [("database", "ingest_completed", 3, 2), ("invalid", "x", 1, 0)]
    assert rejects.count(ALL) == [Count("database", 2, 1), Count("invalid", 0, 1)]
    assert [row["name"] for row in rejects.newest(ALL, 1)] == ["x"]


def test_old_schema_gets_rejects_without_the_whole_row(own_database: Database):
    own_database.execute("ALTER TABLE tenantry.rejected_events DROP COLUMN event")
    own_database.execute("DELETE FROM tenantry.migrations WHERE version >= 5")
    own_database.execute(SHORT)
    line = json.dumps(make_event(**FULL)).encode()
    assert export(own_database, [line]) == Outcome(rejected=1)
    own_database.execute(LONG)
    assert [row["reason"] for row in read(own_database, "rejected_events")] == ["database"]
