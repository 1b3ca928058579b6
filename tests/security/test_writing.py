"""Who may add, forge, alter or delete rows, and what an error tells a writer."""

from __future__ import annotations

import math

import psycopg
import pytest
from psycopg import errors

from tenantry.exceptions import PrivilegeMissing
from tenantry.exporters.handover import insert_sync
from tenantry.exporters.postgres import PostgresExporter
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database
from tests.security.tenants import COUNTED, OURS, SECRET, TABLES, THEIRS, bind

DENIED = errors.InsufficientPrivilege
ALL_TABLES = (*TABLES, "journal_cursors", "adoptions", "migrations")

MAY = {
    "writer": {
        **{key: {"INSERT"} for key in ("events", "rejected_events", "event_tallies")},
        "journal_cursors": {"SELECT", "INSERT", "UPDATE"},
        "migrations": {"SELECT"},
    },
    "reader": {key: {"SELECT"} for key in (*TABLES, "migrations")},
    "tenant": {key: {"SELECT"} for key in (*TABLES, "migrations")},
    "admin": {key: {"SELECT"} for key in ALL_TABLES},
    "maintainer": {
        **{
            key: {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"}
            for key in ("events", "rejected_events", "event_tallies", "ledger")
        },
        **{
            key: {"SELECT", "INSERT", "UPDATE", "DELETE"}
            for key in ("tenant_roles", "journal_cursors")
        },
        "adoptions": {"SELECT"},
        "migrations": {"SELECT"},
    },
}
"""DESIGN.md, section 7."""

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


@pytest.mark.parametrize("role", MAY)
def test_role_has_these_privileges_and_no_other(database: Database, role: str):
    found = database.execute(
        "SELECT relname::text, privilege FROM pg_class, unnest(%s::text[]) AS privilege"
        " WHERE relnamespace = 'tenantry'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition AND has_table_privilege(%s, pg_class.oid, privilege)",
        [list(PRIVILEGES), f"tenantry_{role}"],
    )
    granted = {(table, each) for table, privileges in MAY[role].items() for each in privileges}
    assert set(found) == granted


@pytest.mark.parametrize("role", MAY)
def test_no_role_has_any_privilege_on_a_partition_or_by_column(database: Database, role: str):
    for (partition,) in database.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'tenantry.events'::regclass"
    ):
        assert database.execute(
            "SELECT has_table_privilege(%s, %s, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')",
            [f"tenantry_{role}", partition],
        ) == [(False,)]
    assert database.execute(
        "SELECT count(*) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE relnamespace = 'tenantry'::regnamespace AND attacl IS NOT NULL"
    ) == [(0,)]


CHANGES = ("UPDATE {} SET name = 'forged'", "DELETE FROM {}", "TRUNCATE {}")


@pytest.mark.parametrize("statement", CHANGES)
@pytest.mark.parametrize("who", ["writer", "reader", "admin", "tenant"])
def test_rows_are_append_only_for_all_but_the_maintainer(
    two_tenants: Database, who: str, statement: str
):
    for table in COUNTED:
        with psycopg.connect(two_tenants.member_of(who)) as connection, pytest.raises(DENIED):
            connection.execute(statement.format(f"tenantry.{table}"))


@pytest.mark.parametrize("role", ["writer", "reader", "admin", "tenant"])
def test_update_in_disguise_is_refused(two_tenants: Database, role: str):
    with psycopg.connect(two_tenants.member_of(role)) as connection, pytest.raises(DENIED):
        connection.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
            " VALUES (gen_random_uuid(), %s, 'x', now())"
            " ON CONFLICT (tenant_id, created_at, id) DO UPDATE SET name = 'forged'",
            [OURS],
        )


def test_owner_without_the_maintainers_role_changes_no_row(two_tenants: Database):
    """Forced row-level security binds the owner; what it can still do is in the threat model."""
    with psycopg.connect(two_tenants.owner) as owner:
        for role in ("reader", "admin", "maintainer"):
            owner.execute(f"REVOKE tenantry_{role} FROM host_owner")
        for table in TABLES:
            assert owner.execute(f"DELETE FROM tenantry.{table}").rowcount == 0
        owner.rollback()


# Only members of the writer role write.


@pytest.mark.parametrize("role", ["reader", "admin", "tenant"])
def test_exporter_of_no_writer_is_held_and_stores_nothing(two_tenants: Database, role: str):
    before = two_tenants.execute("SELECT count(*) FROM tenantry.events")
    exporter = PostgresExporter(two_tenants.member_of(role))
    outcome = exporter.export(make_batch([make_line()]), math.inf)
    exporter.close()
    assert outcome.retry is not None
    assert outcome.retry.kind == "hold"
    assert "does not let" in outcome.retry.reason
    assert two_tenants.execute("SELECT count(*) FROM tenantry.events") == before


@pytest.mark.parametrize("role", ["reader", "admin", "tenant"])
def test_conn_of_no_writer_is_refused_by_the_database(two_tenants: Database, role: str):
    with psycopg.connect(two_tenants.member_of(role)) as connection, pytest.raises(DENIED):
        insert_sync(connection, make_line(), schema="tenantry", tenant_type="uuid")


def test_bound_login_forges_no_event(two_tenants: Database):
    dsn = bind(two_tenants, "bound_to_us", OURS)
    for tenant in (OURS, THEIRS):
        with psycopg.connect(dsn) as connection, pytest.raises(DENIED):
            connection.execute(
                "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
                " VALUES (gen_random_uuid(), %s, 'x', now())",
                [tenant],
            )


# What a writer learns of rows that it may not read.


@pytest.mark.parametrize(
    "table,query",
    [
        (
            "events",
            (
                "INSERT INTO tenantry.events (id, tenant_id, created_at, name)"
                " VALUES (%(id)s, %(tenant_id)s, %(created_at)s, 'mine')"
            ),
        ),
        (
            "rejected_events",
            (
                "INSERT INTO tenantry.rejected_events (id, created_at, reason)"
                " VALUES (%(id)s, now(), 'mine')"
            ),
        ),
    ],
)
def test_duplicate_key_shows_nothing_of_the_row_that_is_there(
    two_tenants: Database, table: str, query: str
):
    row = two_tenants.execute(
        f"SELECT id, tenant_id, created_at FROM tenantry.{table}"
        " WHERE tenant_id::text = %s LIMIT 1",
        [THEIRS],
    )[0]
    values = dict(zip(("id", "tenant_id", "created_at"), row, strict=True))
    with (
        psycopg.connect(two_tenants.writer) as connection,
        pytest.raises(errors.UniqueViolation) as caught,
    ):
        connection.execute(query, values)
    assert caught.value.diag.message_detail is None
    for secret in (SECRET, str(row[0]), THEIRS):
        assert secret not in str(caught.value)


def test_refused_row_is_not_shown_in_the_error(two_tenants: Database):
    """PostgreSQL shows the failing row to whoever may read it; a writer may not."""
    with (
        psycopg.connect(two_tenants.writer) as connection,
        pytest.raises(errors.CheckViolation) as caught,
    ):
        connection.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, phase, created_at, data)"
            " VALUES (gen_random_uuid(), %s, 'x', 'begun', now(), %s)",
            [THEIRS, f'{{"word": "{SECRET}"}}'],
        )
    assert SECRET not in str(caught.value)
    assert SECRET not in (caught.value.diag.message_detail or "")


@pytest.mark.parametrize(
    "statement",
    [
        (
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
            " VALUES (gen_random_uuid(), '{}', 'x', now()) RETURNING data"
        ),
        (
            "INSERT INTO tenantry.rejected_events (id, created_at, reason)"
            " VALUES (gen_random_uuid(), now(), 'x') RETURNING *"
        ),
        "SELECT * FROM tenantry.events FOR UPDATE",
        "LOCK TABLE tenantry.events IN SHARE MODE",
        "COPY tenantry.events TO STDOUT",
        "INSERT INTO tenantry.ledger (kind, count) VALUES ('erased', 1)",
        "INSERT INTO tenantry.migrations VALUES (99, 'x', 'x', now(), 1)",
        "DELETE FROM tenantry.journal_cursors",
    ],
)
def test_writer_may_not(two_tenants: Database, statement: str):
    with psycopg.connect(two_tenants.writer) as connection, pytest.raises(DENIED):
        connection.execute(statement.replace("{}", OURS))


def test_cursors_hold_nothing_of_any_tenant(database: Database):
    columns = database.execute(
        "SELECT attname::text FROM pg_attribute WHERE attnum > 0"
        " AND attrelid = 'tenantry.journal_cursors'::regclass AND NOT attisdropped"
    )
    assert {name for (name,) in columns} == {
        *("journal_id", "segment", "position", "emitted", "accepted", "handed", "sampled_out"),
        *("dropped", "stored", "rejected", "last_rejected", "service", "process", "started_at"),
        *("updated_at", "ended_at"),
    }


@pytest.mark.parametrize("role", ["reader", "tenant"])
def test_cursors_are_not_for_readers(two_tenants: Database, role: str):
    with psycopg.connect(two_tenants.member_of(role)) as connection, pytest.raises(DENIED):
        connection.execute("SELECT * FROM tenantry.journal_cursors")


def test_checking_an_exporter_says_who_may_write(two_tenants: Database):
    exporter = PostgresExporter(two_tenants.reader)
    with pytest.raises(PrivilegeMissing, match='GRANT "tenantry_writer" TO "app_reader"'):
        exporter.check(math.inf)
