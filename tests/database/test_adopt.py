"""Adoption of an older table: every row is kept or rejected, once, whatever happens meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from tenantry import log_event
from tenantry.database.adopt import BATCH_ROWS, Adopter
from tenantry.database.installed import Installed, read_installed
from tenantry.database.migrate import migrate
from tenantry.database.rejected import Rejects, Selection
from tenantry.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMismatch,
)
from tenantry.exporters.postgres import PostgresExporter
from tests.database.adoptions import (
    OTHER,
    TENANT,
    adopt,
    adopter,
    insert_old,
    old_table,
)
from tests.delivery.pipelines import make_pipeline
from tests.fix_postgres import Database

THIS_MONTH = datetime.now(UTC).strftime("%Y-%m")


@pytest.fixture
def old(database18: Database) -> Iterator[Database]:
    """Return a migrated database with an older table that has no rows yet."""
    with old_table(database18) as database:
        yield database


@pytest.fixture
def old_everywhere(database: Database) -> Iterator[Database]:
    """Return ``old`` on each server: for what may be the server's doing."""
    with old_table(database) as old:
        yield old


def fill(database: Database, rows: int, *, months: int = 1) -> None:
    """Insert rows in the order of time, over the last ``months``, by two tenants in turn."""
    database.execute(
        """
        INSERT INTO public.events (tenant_id, name, data, created_at)
        SELECT CASE WHEN n %% 2 = 0 THEN %s::uuid ELSE %s::uuid END, 'order_placed',
               jsonb_build_object('n', n),
               now() - make_interval(secs => (%s - n) * 2629800.0 * %s / %s)
          FROM generate_series(1, %s) AS n
        """,
        [TENANT, OTHER, rows, months, rows, rows],
    )


def numbers(database: Database) -> list[int]:
    rows = database.execute("SELECT (data->>'n')::int FROM tenantry.events WHERE data ? 'n'")
    return sorted(n for (n,) in rows)


def installed(running: Adopter) -> Installed:
    found = read_installed(running._connection, "tenantry")
    assert found is not None
    return found


def rejects(database: Database) -> list[tuple]:
    return database.execute(
        "SELECT reason, detail, tenant_id, name, data, event IS NOT NULL"
        " FROM tenantry.rejected_events"
    )


# What becomes of rows.


def test_every_row_becomes_an_event_once(old_everywhere: Database):
    old = old_everywhere
    fill(old, 30_000, months=40)
    before = old.execute("SELECT md5(string_agg(e::text, '' ORDER BY id)) FROM public.events e")
    seen: list[int] = []
    adoption = adopt(old, seen.append)
    assert (adoption.present, adoption.adopted, adoption.rejected) == (30_000, 30_000, 0)
    assert adoption.is_complete
    assert seen[:2] == [BATCH_ROWS, 2 * BATCH_ROWS]
    same = """
        SELECT count(*) FROM public.events AS old JOIN tenantry.events AS new
          ON new.tenant_id = old.tenant_id AND new.created_at = old.created_at
         AND new.name = old.name AND new.data = old.data
    """
    assert old.execute(same) == [(30_000,)]
    assert adopt(old) == adoption
    assert old.execute("SELECT count(*) FROM tenantry.events") == [(30_000,)]
    assert before == old.execute(
        "SELECT md5(string_agg(e::text, '' ORDER BY id)) FROM public.events e"
    )


def test_id_derives_from_time_table_and_old_id_so_that_no_state_is_needed(old: Database):
    fill(old, 50)
    adopt(old)
    ids = old.execute("SELECT id, created_at FROM tenantry.events ORDER BY id")
    for event_id, created_at in ids:
        assert event_id.version == 7
        assert event_id.int >> 80 == int(created_at.timestamp() * 1000)
    old.execute("DELETE FROM tenantry.adoptions")
    adoption = adopt(old)
    assert (adoption.adopted, adoption.rejected) == (50, 0)
    assert old.execute("SELECT id, created_at FROM tenantry.events ORDER BY id") == ids


def test_ledger_says_where_the_events_came_from(old: Database):
    fill(old, BATCH_ROWS + 1)
    adopt(old)
    lines = old.execute("SELECT kind, tenant_id, name, reason, count FROM tenantry.ledger")
    assert sorted(lines, key=lambda line: line[4]) == [
        ("adopted", None, None, "public.events", 1),
        ("adopted", None, None, "public.events", BATCH_ROWS),
    ]


def test_data_are_kept_exactly_and_become_an_object(old: Database):
    given = {
        '{"a": [1.50, 1e400, "ü\\t"], "b": {"c": null}}': None,
        "[1, 2]": '{"value": [1, 2]}',
        '"text"': '{"value": "text"}',
        "null": "{}",
        None: "{}",
    }
    for number, data in enumerate(given):
        insert_old(old, data=data, name=f"row.n{number}")
    assert adopt(old).adopted == len(given)
    for number, (data, stored) in enumerate(given.items()):
        query = "SELECT data::text = (%s::jsonb)::text FROM tenantry.events WHERE name = %s"
        assert old.execute(query, [stored or data, f"row.n{number}"]) == [(True,)], data


BAD: list[tuple[dict[str, object], str, str]] = [
    ({"tenant_id": None}, "tenant_not_set", "tenant_id is null"),
    ({"tenant_id": "0" * 32}, "invalid_tenant", "is reserved, or no tenant id of type uuid"),
    ({"created_at": None}, "occurred_at_missing", "created_at is null"),
    ({"created_at": "infinity"}, "occurred_at_invalid", "created_at is infinite"),
    ({"created_at": "0044-03-15 BC"}, "occurred_at_invalid", "of no year from 1 to 9998"),
    ({"name": None}, "invalid", "name is null"),
    ({"name": "Order Placed"}, "invalid", "'Order Placed' names no event"),
    ({"name": "x" * 101}, "invalid", "names no event"),
]


def test_row_that_cannot_be_taken_is_rejected_with_its_reason(old: Database):
    expected = [(insert_old(old, **values), reason, part) for values, reason, part in BAD]
    insert_old(old)
    adoption = adopt(old)
    assert (adoption.adopted, adoption.rejected, adoption.waiting) == (1, len(BAD), 0)
    found = {
        detail.split(":")[0]: (reason, detail, data)
        for reason, detail, _, _, data, _ in rejects(old)
    }
    for row_id, reason, part in expected:
        assert found[f"public.events {row_id}"][0] == reason
        assert part in found[f"public.events {row_id}"][1]
        assert found[f"public.events {row_id}"][2] == {"total": 3}
    old.execute("DELETE FROM tenantry.adoptions")
    adopt(old)
    assert len(rejects(old)) == len(BAD)


def test_bad_text_is_rejected_for_the_chosen_tenant_type(old: Database):
    old.execute("ALTER TABLE public.events ALTER tenant_id TYPE text")
    for tenant in (TENANT.upper(), "acme", ""):
        insert_old(old, tenant_id=tenant)
    adoption = adopt(old)
    assert (adoption.adopted, adoption.rejected) == (1, 2)
    assert old.execute("SELECT tenant_id::text FROM tenantry.events") == [(TENANT,)]


def test_row_with_another_name_can_be_stored_after_all(old: Database):
    insert_old(old, name="Order Placed")
    adopt(old)
    with adopter(old.owner) as running:
        retrying = Rejects(running._connection, "tenantry", installed(running))
        assert retrying.retry(Selection(reason="invalid")).stored == 1
    assert old.execute("SELECT name FROM tenantry.events") == [("Order Placed",)]


def test_row_that_a_rule_of_the_hosts_refuses_is_rejected_alone(old: Database):
    old.execute("CREATE TABLE public.tenants (id uuid PRIMARY KEY)")
    old.execute("INSERT INTO public.tenants VALUES (%s)", [TENANT])
    old.execute("ALTER TABLE tenantry.events ADD FOREIGN KEY (tenant_id) REFERENCES public.tenants")
    for n in range(9):
        insert_old(old, tenant_id=OTHER if n == 5 else TENANT)
    adoption = adopt(old)
    assert (adoption.adopted, adoption.rejected) == (8, 1)
    reason, detail, tenant, _, data, is_whole = rejects(old)[0]
    assert (reason, tenant, data, is_whole) == ("database", OTHER, {"total": 3}, True)
    assert "23503: " in detail


def test_rows_deleted_from_the_old_table_are_counted_as_gone(old: Database):
    fill(old, 10)
    adopt(old)
    old.execute("DELETE FROM public.events WHERE id <= 4")
    insert_old(old)
    adoption = adopt(old)
    assert (adoption.present, adoption.gone, adoption.adopted) == (7, 4, 11)


# While others write.


def test_lower_id_that_commits_later_is_not_missed(old_everywhere: Database):
    old = old_everywhere
    with psycopg.connect(old.superuser) as slow:
        insert = "INSERT INTO public.events (tenant_id, name) VALUES (%s, 'late') RETURNING id"
        row = slow.execute(insert, [TENANT]).fetchone()
        assert row is not None
        for _ in range(3):
            assert insert_old(old) > row[0]
        first = adopt(old)
        assert (first.adopted, first.waiting, first.writers) == (3, 0, 1)
        assert not first.is_complete
        assert adopt(old).adopted == 3
        slow.commit()
    last = adopt(old)
    assert (last.adopted, last.writers) == (4, 0)
    assert last.is_complete


def write_in_any_order(database: Database, seed: int, kept: list[int]) -> None:
    """Insert over several transactions at a time, and end them as it comes; notes what stays."""
    choose = random.Random(seed)
    transactions = {psycopg.connect(database.superuser): list[int]() for _ in range(6)}
    for _ in range(150):
        connection = choose.choice(list(transactions))
        row = connection.execute(
            "INSERT INTO public.events (tenant_id, name, data) VALUES (%s, 'order_placed',"
            " jsonb_build_object('n', currval('public.events_id_seq'))) RETURNING id",
            [TENANT],
        ).fetchone()
        assert row is not None
        transactions[connection].append(row[0])
        match choose.randrange(10):
            case 0 | 1 | 2:
                connection.commit()
                kept += transactions[connection]
                transactions[connection] = []
            case 3:
                connection.rollback()
                transactions[connection] = []
    for connection, rows in transactions.items():
        connection.commit()
        kept += rows
        connection.close()


def test_nothing_is_missed_beside_transactions_that_end_in_any_order(
    old_everywhere: Database, tmp_path: Path
):
    """The old application and the new code write; ids become visible in an order of their own."""
    old = old_everywhere
    kept: list[int] = []
    pipeline = make_pipeline(PostgresExporter(old.writer), tmp_path)
    with ThreadPoolExecutor(2) as writers:
        done = [writers.submit(write_in_any_order, old, seed, kept) for seed in range(2)]
        while not all(each.done() for each in done):
            with pipeline:
                log_event("tick", tenant=TENANT)
            adopt(old)
        for each in done:
            each.result()
    assert pipeline.flush(20)
    emitted = pipeline.stats().stored
    pipeline.shutdown()
    last = adopt(old)
    assert last.is_complete
    assert numbers(old) == sorted(kept)
    assert last.adopted == len(kept) == last.present
    assert emitted > 0
    assert old.execute("SELECT count(*) FROM tenantry.events") == [(emitted + len(kept),)]


def test_interrupted_adoption_goes_on_where_it_was(old: Database):
    fill(old, 2 * BATCH_ROWS + 10)

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adopt(old, interrupt)
    with adopter(old.owner) as running:
        half = running.report()
    assert (half.adopted, half.waiting) == (BATCH_ROWS, BATCH_ROWS + 10)
    assert half.balances
    assert adopt(old).adopted == 2 * BATCH_ROWS + 10
    assert numbers(old) == list(range(1, 2 * BATCH_ROWS + 11))


def test_two_adoptions_at_once_take_each_row_once(old: Database):
    fill(old, 3 * BATCH_ROWS)
    threads = [threading.Thread(target=adopt, args=(old,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=50)
    assert adopt(old).adopted == 3 * BATCH_ROWS
    assert numbers(old) == list(range(1, 3 * BATCH_ROWS + 1))


def test_waiting_for_a_lock_ends_and_keeps_what_was_taken(old: Database):
    insert_old(old)
    with adopter(old.owner, timeout=0.2) as running, psycopg.connect(old.superuser) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [running._lock_key])
        with pytest.raises(DatabaseUnreachable, match=r"public\.events had to wait for a lock"):
            running.run()
    assert adopt(old).adopted == 1


# Months.


def describe_partition(database: Database, name: str) -> list[tuple]:
    return database.execute(
        """
        SELECT relrowsecurity, relforcerowsecurity, coalesce(array_length(relacl, 1), 0) > 1,
               pg_get_userbyid(relowner)::text,
               (SELECT array_agg(format('%%s %%s', contype, coninhcount) ORDER BY contype, conname)
                  FROM pg_constraint WHERE conrelid = pg_class.oid AND contype <> 'n'),
               (SELECT count(*) FROM pg_index WHERE indrelid = pg_class.oid),
               (SELECT array_agg(format('%%s %%s %%s', attname, attnotnull, attinhcount)
                                 ORDER BY attnum)
                  FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0),
               (SELECT count(*) FROM pg_attrdef WHERE adrelid = pg_class.oid)
          FROM pg_class WHERE oid = %s::regclass
        """,
        [f"tenantry.{name}"],
    )


def test_months_of_history_get_partitions_like_the_others(old_everywhere: Database):
    old = old_everywhere
    insert_old(old, created_at="2023-12-31T23:59:59Z")
    insert_old(old, created_at="2023-12-01T00:00:00Z")
    adopt(old)
    made = old.execute("SELECT DISTINCT tableoid::regclass::text FROM tenantry.events")
    assert made == [("tenantry.events_2023_12",)]
    migrated = f"events_{THIS_MONTH.replace('-', '_')}"
    assert describe_partition(old, "events_2023_12") == describe_partition(old, migrated)


def test_month_of_history_has_the_key_to_the_tenants(old: Database):
    old.execute("CREATE TABLE public.tenants (id uuid PRIMARY KEY)")
    old.execute("INSERT INTO public.tenants VALUES (%s)", [TENANT])
    old.execute("ALTER TABLE tenantry.events ADD FOREIGN KEY (tenant_id) REFERENCES public.tenants")
    insert_old(old, created_at="2023-12-31T23:59:59Z")
    insert_old(old, created_at="2023-12-31T23:59:59Z", tenant_id=OTHER)
    adoption = adopt(old)
    assert (adoption.adopted, adoption.rejected) == (1, 1)
    assert old.execute("SELECT tableoid::regclass::text FROM tenantry.events") == [
        ("tenantry.events_2023_12",)
    ]


@pytest.mark.parametrize("created_at", ["1970-01-01T00:00:00Z", "2199-01-01T00:00:00Z"])
def test_odd_clock_makes_no_partition(old: Database, created_at: str):
    insert_old(old, created_at=created_at)
    adopt(old)
    assert old.execute("SELECT tableoid::regclass::text FROM tenantry.events") == [
        ("tenantry.events_default",)
    ]


def count_by_partition(old: Database) -> list[tuple[str, int]]:
    return old.execute("SELECT tableoid::regclass::text, count(*) FROM tenantry.events GROUP BY 1")


def test_rows_in_the_default_partition_go_to_their_month(old: Database):
    old.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
        " VALUES (gen_random_uuid(), %s, 'x', '2023-12-05T00:00Z')",
        [TENANT],
    )
    insert_old(old, created_at="2023-12-31T23:59:59Z")
    assert adopt(old).adopted == 1
    assert count_by_partition(old) == [("tenantry.events_2023_12", 2)]


@pytest.fixture
def notes(old: Database) -> Iterator[None]:
    """A table of the host's that refers to events."""
    old.execute(
        "CREATE TABLE public.notes (tenant_id uuid, created_at timestamptz, id uuid,"
        " FOREIGN KEY (tenant_id, created_at, id) REFERENCES tenantry.events)"
    )
    yield
    old.execute("DROP TABLE public.notes")


@pytest.mark.usefixtures("notes")
def test_rows_in_the_default_partition_that_are_referred_to_stay_there(old: Database):
    old.execute(
        "WITH event AS (INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
        " VALUES (gen_random_uuid(), %s, 'x', '2023-12-05T00:00Z') RETURNING *)"
        " INSERT INTO public.notes SELECT tenant_id, created_at, id FROM event",
        [TENANT],
    )
    insert_old(old, created_at="2023-12-31T23:59:59Z")
    assert adopt(old).adopted == 1
    assert count_by_partition(old) == [("tenantry.events_default", 2)]


# What is refused, untouched.


@pytest.mark.parametrize(
    "change, problem",
    [
        ("ALTER TABLE public.events DROP COLUMN data", "its column data is missing, and has to be"),
        ("ALTER TABLE public.events ALTER data TYPE json", "its column data is json, and has to"),
        (
            "ALTER TABLE public.events ALTER created_at TYPE timestamp",
            "created_at is timestamp without time zone",
        ),
        ("ALTER TABLE public.events DROP CONSTRAINT events_pkey", "it has no unique index on id"),
        (
            (
                "ALTER TABLE public.events DROP CONSTRAINT events_pkey, ADD UNIQUE (id),"
                " ALTER id DROP NOT NULL"
            ),
            "or its id may be null",
        ),
        ("DROP TABLE public.events", "public.events cannot be adopted: there is no such table"),
        (
            "ALTER TABLE public.events DROP tenant_id, ADD tenant_id bigint",
            "its tenant ids are bigint, and those of the schema 'tenantry' are uuid",
        ),
        (
            "ALTER TABLE public.events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "its row-level security hides rows from 'host_owner'",
        ),
    ],
)
def test_table_that_is_no_plain_table_of_events_is_refused(
    old: Database, change: str, problem: str
):
    old.execute(change)
    with pytest.raises(SchemaMismatch, match=problem) as caught, adopter(old.owner):
        pass
    assert "It was left untouched." in str(caught.value)


def test_table_of_tenantrys_own_is_refused(old: Database):
    with (
        pytest.raises(SchemaMismatch, match="its column id is uuid, and has to be bigint"),
        adopter(old.owner, "tenantry.events"),
    ):
        pass


@pytest.mark.parametrize("name", ["events", "a.b.c", 'public."events"', "public.events(id)", ""])
def test_name_without_schema_is_refused(old: Database, name: str):
    with pytest.raises(ConfigurationError), adopter(old.owner, name):
        pass


def test_name_that_is_none_says_how_it_is_written(old: Database):
    with (
        pytest.raises(ConfigurationError, match=r"'events' names no table: write schema\.table,"),
        adopter(old.owner, "events"),
    ):
        pass


def test_missing_privileges_are_named_with_the_grant(old: Database):
    old.execute("ALTER TABLE public.events OWNER TO postgres")
    old.execute("REVOKE SELECT ON public.events FROM host_owner")
    grant = 'GRANT SELECT ON "public"."events" TO "host_owner"'
    with pytest.raises(PrivilegeMissing, match=grant), adopter(old.owner):
        pass
    old.execute("GRANT SELECT ON public.events TO PUBLIC")
    only = "only the owner of tenantry.events may"
    with pytest.raises(PrivilegeMissing, match=only), adopter(old.member_of("maintainer")):
        pass


def test_older_schema_is_refused(old: Database):
    migrate(old.owner, schema="older", to_version=6)
    with (
        pytest.raises(SchemaMismatch, match="schema 'older' of version 6: it takes 7"),
        adopter(old.owner, schema="older"),
    ):
        pass
    old.execute("DROP SCHEMA older CASCADE")
