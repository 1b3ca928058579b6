"""What a host adds to the table of events: the rows that offend it are rejected, and only those."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.migrate import migrate
from tenantry.exporters import Outcome
from tenantry.exporters.postgres import PostgresExporter
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database, Server


@pytest.fixture
def exporter(own_database: Database) -> Iterator[PostgresExporter]:
    exporter = PostgresExporter(own_database.writer)
    exporter.check(soon())  # the host's rule comes while it is connected
    yield exporter
    exporter.close()


def soon() -> float:
    return time.monotonic() + 20


def details(database: Database) -> list[str]:
    rows = database.execute("SELECT detail FROM tenantry.rejected_events ORDER BY recorded_at")
    return [detail for (detail,) in rows]


def names(database: Database) -> list[str]:
    rows = database.execute("SELECT name FROM tenantry.events ORDER BY recorded_at")
    return [name for (name,) in rows]


TRIGGER = """
    CREATE FUNCTION tenantry.f() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.name = 'bad' THEN {raises}; END IF; RETURN {returns}; END $$;
    CREATE {kind} INSERT ON tenantry.events {timing} FOR EACH ROW EXECUTE FUNCTION tenantry.f()
"""
BEFORE = {"returns": "NEW", "kind": "TRIGGER t BEFORE", "timing": ""}
DEFERRED = {
    "returns": "NULL",
    "kind": "CONSTRAINT TRIGGER t AFTER",
    "timing": "DEFERRABLE INITIALLY DEFERRED",
}
RULES = {
    "CHECK": ("ALTER TABLE tenantry.events ADD CHECK (name <> 'bad')", "23514"),
    "domain": (
        (
            "CREATE DOMAIN tenantry.good AS text CHECK (VALUE <> 'bad');"
            " ALTER TABLE tenantry.events ADD COLUMN good tenantry.good"
            " GENERATED ALWAYS AS (name::tenantry.good) STORED"
        ),
        "23514",
    ),
    "NOT NULL column": ("ALTER TABLE tenantry.events ALTER COLUMN actor_id SET NOT NULL", "23502"),
    "generated column": (
        (
            "ALTER TABLE tenantry.events ADD COLUMN docs integer"
            " GENERATED ALWAYS AS ((data->>'docs')::integer) STORED"
        ),
        "22P02",
    ),
    "unique index": (
        "CREATE UNIQUE INDEX ON tenantry.events (tenant_id, created_at, correlation_id)",
        "23505",
    ),
    "unique index of one partition": (
        "CREATE UNIQUE INDEX ON tenantry.events_2026_11 (correlation_id)",
        "23505",
    ),
    "trigger": (TRIGGER.format(raises="RAISE EXCEPTION 'never'", **BEFORE), "P0001"),
    "trigger with a code": (
        TRIGGER.format(raises="RAISE check_violation", **BEFORE),
        "23514",
    ),
    "trigger that asserts": (TRIGGER.format(raises="ASSERT false", **BEFORE), "P0004"),
    "trigger that divides": (TRIGGER.format(raises="PERFORM 1 / 0", **BEFORE), "22012"),
    "trigger that expects one row": (
        TRIGGER.format(raises="PERFORM (SELECT g FROM generate_series(1, 2) AS g)", **BEFORE),
        "21000",
    ),
    "trigger at the commit": (TRIGGER.format(raises="RAISE EXCEPTION 'no'", **DEFERRED), "P0001"),
    "foreign key of another column": (
        (
            "CREATE TABLE public.actors (id text PRIMARY KEY);"
            " INSERT INTO public.actors VALUES ('a');"
            " ALTER TABLE tenantry.events ADD FOREIGN KEY (actor_id) REFERENCES public.actors"
        ),
        "23503",
    ),
    "foreign key, deferred": (
        (
            "CREATE TABLE public.actors (id text PRIMARY KEY);"
            " INSERT INTO public.actors VALUES ('a');"
            " ALTER TABLE tenantry.events ADD FOREIGN KEY (actor_id) REFERENCES public.actors"
            " DEFERRABLE INITIALLY DEFERRED"
        ),
        "23503",
    ),
    "restrictive policy": (
        (
            "CREATE POLICY good ON tenantry.events AS RESTRICTIVE FOR INSERT"
            " WITH CHECK (name <> 'bad')"
        ),
        "42501",
    ),
}

GOOD = {"actor_id": "a", "correlation_id": None}
BAD = {
    "NOT NULL column": {"actor_id": None},
    "generated column": {"data": {"docs": "three"}},
    "unique index": {"correlation_id": "twice"},
    "unique index of one partition": {"correlation_id": "twice"},
    "foreign key of another column": {"actor_id": "gone"},
    "foreign key, deferred": {"actor_id": "gone"},
}


@pytest.fixture(autouse=True)
def no_actors(own_database: Database) -> None:
    own_database.execute("DROP TABLE IF EXISTS public.actors CASCADE")


@pytest.mark.parametrize("may_repeat", [False, True], ids=["new", "repeatable"])
@pytest.mark.parametrize("rule", RULES)
def test_rows_that_offend_are_rejected_and_no_others(
    own_database: Database, exporter: PostgresExporter, rule: str, may_repeat: bool
):
    statement, code = RULES[rule]
    own_database.execute(statement)
    bad = {**GOOD, "name": "bad", **BAD.get(rule, {})}
    first = {**bad, "name": "first"} if code == "23505" else {**GOOD, "name": "first"}
    lines = [make_line(**values) for values in (first, bad, {**GOOD, "name": "last"})]
    batch = make_batch(lines, may_repeat=may_repeat)
    assert exporter.export(batch, soon()) == Outcome(stored=2, rejected=1)
    assert names(own_database) == ["first", "last"]
    assert [detail[:7] for detail in details(own_database)] == [f"{code}: "]
    # What was stored before is no offence.
    again = make_batch(lines, may_repeat=True)
    assert exporter.export(again, soon()) == Outcome(stored=2, rejected=1)
    assert (names(own_database), len(details(own_database))) == (["first", "last"], 1)


def test_cursor_that_was_removed_makes_no_rejects_beside_a_unique_index(
    own_database: Database, exporter: PostgresExporter
):
    own_database.execute("CREATE UNIQUE INDEX ON tenantry.events (tenant_id, created_at, name)")
    batch = make_batch([make_line(name=f"n{n}") for n in range(20)])
    exporter.export(batch, soon())
    own_database.execute("DELETE FROM tenantry.journal_cursors")
    more = replace(batch, events=[*batch.events, make_line(name="n7"), make_line(name="new")])
    assert exporter.export(more, soon()) == Outcome(stored=21, rejected=1)
    assert len(names(own_database)) == 21
    assert details(own_database)[0].startswith("23505: ")


def test_row_that_a_policy_of_ours_refuses_is_held(
    own_database: Database, exporter: PostgresExporter
):
    own_database.execute("DROP POLICY writer ON tenantry.events")
    outcome = exporter.export(make_batch([make_line()]), soon())
    assert outcome.retry is not None
    assert outcome.retry.kind == "hold"
    assert details(own_database) == []


def test_database_in_another_encoding_rejects_what_it_cannot_hold(server: Server):
    with server.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS test_latin")
        connection.execute(
            "CREATE DATABASE test_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
        )
    dsn = make_conninfo(server.dsn, dbname="test_latin")
    migrate(dsn)
    exporter = PostgresExporter(dsn)
    lines = [
        make_line(),
        make_line(name="name").replace(b'"name": "name"', '"name": "東京 😀"'.encode()),
        make_line(data={"city": "東京"}),
        make_line(data={"city": "Zürich"}),
    ]
    outcome = exporter.export(make_batch(lines), soon())
    exporter.close()
    with server.connect(dbname="test_latin") as connection:
        rejects = connection.execute(
            "SELECT left(detail, 5), name FROM tenantry.rejected_events ORDER BY recorded_at"
        ).fetchall()
        (stored,) = connection.execute("SELECT count(*) FROM tenantry.events").fetchone()
    with server.connect() as connection:
        connection.execute("DROP DATABASE test_latin")
    assert outcome == Outcome(stored=2, rejected=2)
    assert stored == 2
    assert sorted(rejects) == [("22P05", "?? ?"), ("22P05", "ingest_completed")]
