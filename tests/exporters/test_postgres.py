"""The PostgreSQL exporter: what it stores, once, and what it does with rows that are refused."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from tenantry.exporters import BEGINNING, Outcome, Position, Totals
from tenantry.exporters.postgres import PostgresExporter
from tenantry.record import EVENT_COLUMNS, REJECT_COLUMNS
from tests.exporters.batches import TENANT, make_batch, make_event, make_line
from tests.fix_postgres import Database

EVERY_COLUMN = {
    "id": "018f6f0e-0000-7000-8000-00000000000a",
    "tenant_id": TENANT,
    "name": "ingest_completed",
    "phase": "completed",
    "created_at": "2026-11-22T10:00:00.123456+00:00",
    "data": {"docs": 3, "nested": {"key": [1, None, True, "ä\t\\ 😀"]}, "big": 10**30},
    "event_version": 2,
    "operation_id": "018f6f0e-0000-7000-8000-00000000000b",
    "parent_operation_id": "018f6f0e-0000-7000-8000-00000000000c",
    "actor_id": "user:42",
    "correlation_id": "order-7",
    "duration_ms": 1234.5678901234567,
    "error_code": "quota_exceeded",
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "span_id": "b7ad6b7169203331",
    "service": "helpdesk",
    "environment": "production",
    "sample_rate": 0.1,
}


@pytest.fixture
def exporter(database: Database) -> Iterator[PostgresExporter]:
    """Return an exporter that is no more than a writer."""
    exporter = PostgresExporter(database.writer)
    yield exporter
    exporter.close()


def soon() -> float:
    return time.monotonic() + 20


def read_events(database: Database) -> list[dict]:
    rows = database.execute("SELECT to_jsonb(e) FROM tenantry.events AS e ORDER BY recorded_at, id")
    return [row for (row,) in rows]


def read_rejects(database: Database) -> list[dict]:
    rows = database.execute("SELECT to_jsonb(r) FROM tenantry.rejected_events AS r")
    return [row for (row,) in rows]


def read_cursor(database: Database) -> dict:
    ((row,),) = database.execute("SELECT to_jsonb(c) FROM tenantry.journal_cursors AS c")
    return row


def test_every_column_comes_back_as_it_was_sent(database: Database, exporter: PostgresExporter):
    assert EVERY_COLUMN.keys() == {column.name for column in EVENT_COLUMNS}
    batch = make_batch([json.dumps(EVERY_COLUMN).encode()])
    assert exporter.export(batch, soon()) == Outcome(stored=1)
    (row,) = read_events(database)
    assert {name: row[name] for name in EVERY_COLUMN} == EVERY_COLUMN


def test_keys_that_a_line_lacks_get_the_defaults(database: Database, exporter: PostgresExporter):
    line = json.dumps({k: v for k, v in make_event().items() if k != "data"}).encode()
    exporter.export(make_batch([line]), soon())
    (row,) = read_events(database)
    assert (row["data"], row["event_version"], row["sample_rate"]) == ({}, 1, 1)
    assert row["phase"] is None


def test_recorded_at_and_watermark_are_the_database_s(
    database: Database, exporter: PostgresExporter
):
    exporter.export(make_batch([make_line(recorded_at="1999-01-01", transaction_id="7")]), soon())
    assert database.execute(
        "SELECT recorded_at > now() - interval '1 minute', transaction_id < pg_current_xact_id(),"
        " transaction_id::text::bigint > 7 FROM tenantry.events"
    ) == [(True, True, True)]


@pytest.mark.parametrize("tenant_type, tenant", [("bigint", 2**53), ("text", "acme/eu")])
def test_other_tenant_types(empty_database: Database, tenant_type: str, tenant: object):
    from tenantry.database.migrate import migrate

    migrate(empty_database.owner, tenant_type=tenant_type)
    exporter = PostgresExporter(empty_database.owner, tenant_type=tenant_type)
    tallies = {(str(tenant), "x"): 1}
    outcome = exporter.export(make_batch([make_line(tenant_id=tenant)], tallies=tallies), soon())
    exporter.close()
    assert outcome == Outcome(stored=1)
    assert empty_database.execute("SELECT tenant_id FROM tenantry.events") == [(tenant,)]
    assert empty_database.execute("SELECT tenant_id FROM tenantry.event_tallies") == [(tenant,)]


@pytest.mark.parametrize("is_first", [True, False])
def test_batch_without_rows_moves_the_cursor_and_the_totals(
    database: Database, exporter: PostgresExporter, is_first: bool
):
    values = {}
    if not is_first:
        before = make_batch([make_line()])
        exporter.export(before, soon())
        values = {"start": before.end, "journal_id": before.journal_id}
    totals = Totals(emitted=5, accepted=1, handed=1, sampled_out=2, dropped={"interrupted": 1})
    batch = make_batch(totals=totals, **values)
    assert exporter.export(batch, soon()) == Outcome()
    cursor = read_cursor(database)
    assert (cursor["segment"], cursor["position"]) == tuple(batch.end)
    assert (cursor["emitted"], cursor["handed"], cursor["sampled_out"]) == (5, 1, 2)
    assert cursor["dropped"] == {"interrupted": 1}
    assert cursor["stored"] == (0 if is_first else 1)
    assert exporter.export(batch, soon()) == Outcome()  # the answer was lost


def test_rejects_are_stored_with_every_column(database: Database, exporter: PostgresExporter):
    reject = {
        **{column.name: EVERY_COLUMN.get(column.name) for column in REJECT_COLUMNS},
        "tenant_id": "no uuid at all",
        "reason": "invalid_tenant",
        "detail": "not a UUID",
        "other_keys": {"undeclared": "str"},
    }
    batch = make_batch([make_line()], rejects=[json.dumps(reject).encode()])
    assert exporter.export(batch, soon()) == Outcome(stored=1, rejected=1)
    (row,) = read_rejects(database)
    assert {name: row[name] for name in reject} == reject


def test_batch_moves_the_cursor_with_its_totals(database: Database, exporter: PostgresExporter):
    totals = Totals(emitted=9, accepted=5, handed=2, sampled_out=1, dropped={"journal_full": 1})
    first = make_batch([make_line()], totals=totals, service="helpdesk", process="web-1:77")
    exporter.export(first, soon())
    second = make_batch(
        [make_line(), make_line()],
        start=first.end,
        journal_id=first.journal_id,
        totals=replace(totals, emitted=11),
        service="helpdesk",
        process="web-1:77",
    )
    exporter.export(second, soon())
    cursor = read_cursor(database)
    assert cursor.pop("started_at") < cursor.pop("updated_at")
    assert cursor == {
        "journal_id": first.journal_id,
        "segment": 0,
        "position": 200,
        "emitted": 11,
        "accepted": 5,
        "handed": 2,
        "sampled_out": 1,
        "dropped": {"journal_full": 1},
        "stored": 3,
        "rejected": 0,
        "last_rejected": 0,
        "service": "helpdesk",
        "process": "web-1:77",
        "ended_at": None,
    }


def test_tallies_are_stored_once_per_segment(database: Database, exporter: PostgresExporter):
    batch = make_batch([make_line()], tallies={(TENANT, "a"): 3, (TENANT, "b"): 4})
    exporter.export(batch, soon())
    exporter.export(batch, soon())
    assert database.execute(
        "SELECT tenant_id::text, journal_id::text, segment, name, accepted"
        " FROM tenantry.event_tallies ORDER BY name"
    ) == [(TENANT, batch.journal_id, 0, "a", 3), (TENANT, batch.journal_id, 0, "b", 4)]


def test_empty_batch_moves_the_cursor(database: Database, exporter: PostgresExporter):
    assert exporter.export(make_batch(), soon()) == Outcome()
    assert read_cursor(database)["position"] == 100


# Exactly once.


def test_batch_sent_again_is_settled_and_stored_once(
    database: Database, exporter: PostgresExporter
):
    batch = make_batch([make_line(), make_line(tenant_id="bad"), make_line()])
    first = exporter.export(batch, soon())
    assert first == Outcome(stored=2, rejected=1)
    assert exporter.export(batch, soon()) == first
    assert (len(read_events(database)), len(read_rejects(database))) == (2, 1)
    assert read_cursor(database)["stored"] == 2


def test_event_stored_before_is_not_stored_again(database: Database, exporter: PostgresExporter):
    line = make_line()
    exporter.export(make_batch([line]), soon())
    assert exporter.export(make_batch([line]), soon()) == Outcome(stored=1)
    assert len(read_events(database)) == 1


@pytest.mark.parametrize("start", [BEGINNING, Position(0, 50), Position(1, 100)])
def test_cursor_elsewhere_is_reported_and_nothing_written(
    database: Database, exporter: PostgresExporter, start: Position
):
    first = make_batch([make_line(), make_line(tenant_id="bad")])
    exporter.export(first, soon())
    before = read_cursor(database)
    other = make_batch(
        [make_line()],
        start=start,
        length=77,
        journal_id=first.journal_id,
        rejects=[make_line(reason="invalid")],
        tallies={(TENANT, "a"): 1},
    )
    assert exporter.export(other, soon()) == Outcome(stored=1, rejected=1, resume=first.end)
    assert (len(read_events(database)), len(read_rejects(database))) == (1, 1)
    assert database.execute("SELECT count(*) FROM tenantry.event_tallies") == [(0,)]
    assert read_cursor(database) == before


def test_journal_unknown_to_the_database_begins_again(
    database: Database, exporter: PostgresExporter
):
    batch = make_batch([make_line()], start=Position(3, 100))
    assert exporter.export(batch, soon()) == Outcome(resume=BEGINNING)
    assert read_events(database) == []


def test_two_senders_of_one_journal_store_a_batch_once(database: Database):
    batch = make_batch([make_line() for _ in range(50)])
    one, two = PostgresExporter(database.writer), PostgresExporter(database.writer)
    assert [each.export(batch, soon()) for each in (one, two)] == [Outcome(stored=50)] * 2
    one.close()
    two.close()
    assert len(read_events(database)) == 50
    assert read_cursor(database)["stored"] == 50


# Rows that the database refuses.

POISON = {
    "escaped NUL": make_line(data={"key": "a\0b"}),
    "raw NUL": make_line(name="x").replace(b'"x"', b'"a\0b"'),
    "lone surrogate": make_line(data={"key": "\ud800"}),
    "invalid UTF-8": make_line(name="x").replace(b'"x"', b'"\xff\xfe"'),
    "NaN": make_line(data={"key": float("nan")}),
    "number beyond float8": make_line(duration_ms=1).replace(
        b'"duration_ms": 1', b'"duration_ms": 1e400'
    ),
    "number beyond jsonb": make_line(data={"key": 0}).replace(b'"key": 0', b'"key": 1e200000'),
    "nesting beyond the stack": make_line().replace(b"3", b"[" * 20_000 + b"]" * 20_000),
    "name too long for the index": make_line(name=os.urandom(4000).hex()),
    "not a UUID": make_line(tenant_id="acme"),
    "not a time": make_line(created_at="the day before"),
    "smallint out of range": make_line(event_version=70_000),
    "unknown phase": make_line(phase="paused"),
    "impossible sample rate": make_line(sample_rate=0),
    "missing name": make_line(name=None),
    "missing id": make_line(id=None),
    "wrong type": make_line(duration_ms={"a": 1}),
    "not an object": b"[]",
    "torn": make_line()[:-5],
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_row_that_the_database_refuses_is_kept_apart(
    database: Database, exporter: PostgresExporter, poison: bytes
):
    batch = make_batch([make_line(), poison, make_line()])
    assert exporter.export(batch, soon()) == Outcome(stored=2, rejected=1)
    assert len(read_events(database)) == 2
    (reject,) = read_rejects(database)
    assert reject["reason"] == "database"
    assert reject["detail"][:2] in {"22", "23", "54"}
    assert reject["detail"][5:7] == ": "


def test_line_with_a_key_twice_is_stored(database: Database, exporter: PostgresExporter):
    line = make_line(name="x").replace(b'"name": "x"', b'"name": "x", "name": "y"')
    assert exporter.export(make_batch([line]), soon()) == Outcome(stored=1)
    assert read_events(database)[0]["name"] == "y"


def test_many_poison_rows_are_all_found(database: Database, exporter: PostgresExporter):
    poison = [*POISON.values()]
    lines = [make_line(name=f"good_{n}") for n in range(500)]
    for n, line in enumerate(poison):
        lines.insert(n * 24, line)
    outcome = exporter.export(make_batch(lines), soon())
    assert outcome == Outcome(stored=500, rejected=len(poison))
    assert {row["name"] for row in read_events(database)} == {f"good_{n}" for n in range(500)}
    cursor = read_cursor(database)
    assert (cursor["stored"], cursor["rejected"]) == (500, len(poison))
    assert len(read_rejects(database)) == len(poison)


def test_reject_keeps_what_its_columns_can_hold(database: Database, exporter: PostgresExporter):
    event = make_event(tenant_id="acme", phase="failed", operation_id=str(uuid4()), service="web")
    exporter.export(make_batch([json.dumps(event).encode()]), soon())
    (reject,) = read_rejects(database)
    assert {name: reject[name] for name in event} == event
    assert reject["detail"] == '22P02: invalid input syntax for type uuid: "acme"'


def test_reject_leaves_out_data_that_is_no_jsonb(database: Database, exporter: PostgresExporter):
    exporter.export(make_batch([make_line(data={"secret": "a\0b"}, name="n\0")]), soon())
    (reject,) = read_rejects(database)
    assert (reject["data"], reject["name"]) == (None, "n\ufffd")
    assert reject["detail"].startswith("22P05: ")


def test_detail_never_quotes_the_row(database: Database, exporter: PostgresExporter):
    exporter.export(make_batch([make_line(name=None, actor_id="Jane Doe")]), soon())
    (reject,) = read_rejects(database)
    assert reject["detail"].startswith("23502: null value in column")
    assert "Jane" not in reject["detail"]


def test_poison_among_the_rejects_is_stored_without_its_values(
    database: Database, exporter: PostgresExporter
):
    good, bad = make_line(reason="invalid"), make_line(reason="invalid", data={"key": "\0"})
    outcome = exporter.export(make_batch([make_line()], rejects=[good, bad]), soon())
    assert outcome == Outcome(stored=1, rejected=2)
    assert sorted(str(row["data"]) for row in read_rejects(database)) == ["None", "{'docs': 3}"]
    assert {row["reason"] for row in read_rejects(database)} == {"invalid"}


def test_tally_of_a_tenant_that_is_no_tenant_is_left_out(
    database: Database, exporter: PostgresExporter
):
    batch = make_batch([make_line()], tallies={(TENANT, "a"): 1, ("acme", "a"): 1})
    assert exporter.export(batch, soon()) == Outcome(stored=1)
    assert database.execute("SELECT tenant_id::text FROM tenantry.event_tallies") == [(TENANT,)]


def test_event_outside_all_months_goes_to_the_default_partition(
    database: Database, exporter: PostgresExporter
):
    batch = make_batch([make_line(created_at=f"{year}-01-01T00:00:00Z") for year in (1970, 9999)])
    assert exporter.export(batch, soon()) == Outcome(stored=2)
    assert database.execute("SELECT count(*) FROM tenantry.events_default") == [(2,)]


def test_older_schema_is_sent_only_what_it_knows(
    database: Database, exporter: PostgresExporter, monkeypatch: pytest.MonkeyPatch
):
    from tenantry.exporters import statements
    from tenantry.record import Column

    columns = (*EVENT_COLUMNS, Column("invented_later", "text", since=1000))
    monkeypatch.setattr(statements, "EVENT_COLUMNS", columns)
    statements.insert_events.cache_clear()
    try:
        assert exporter.export(make_batch([make_line()]), soon()) == Outcome(stored=1)
    finally:
        statements.insert_events.cache_clear()


def count_faults(pid: int) -> int:
    """Count the pages that a process has asked the kernel for (proc_pid_stat(5), minflt)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's malloc")
def test_server_keeps_its_memory_from_one_statement_to_the_next(
    database: Database, exporter: PostgresExporter
):
    def export(count: int) -> int:
        line = make_line(data={"text": "x" * 200})
        lines = [line.replace(line[8:44], str(uuid4()).encode()) for _ in range(count)]
        assert exporter.export(make_batch(lines), soon()) == Outcome(stored=count)
        assert exporter._connection is not None
        return count_faults(exporter._connection.info.backend_pid)

    export(10)
    before = export(4000)
    # 800 with it; 4,000 and more where each of the ten statements gives back what it took.
    assert export(4000) - before < 2000
