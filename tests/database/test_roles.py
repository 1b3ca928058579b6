"""Roles: what each may see and do, on the tables and past them."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.fix_postgres import Database

OURS, THEIRS = uuid4(), uuid4()
TABLES = ["events", "rejected_events", "event_tallies"]


@pytest.fixture
def two_tenants(database: Database) -> Database:
    """Return the database with a row of two tenants in each table."""
    for tenant in (OURS, THEIRS):
        database.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
            " VALUES (%s, %s, 'x', now())",
            [uuid4(), tenant],
        )
        database.execute(
            "INSERT INTO tenantry.rejected_events (id, tenant_id, created_at, reason)"
            " VALUES (%s, %s::uuid::text, now(), 'invalid')",
            [uuid4(), tenant],
        )
        database.execute(
            "INSERT INTO tenantry.event_tallies VALUES (%s, %s, 0, 'x', 1)", [tenant, uuid4()]
        )
    return database


def tenants_seen(dsn: str, table: str, tenant: str | None) -> set[str]:
    with psycopg.connect(dsn) as connection:
        if tenant is not None:
            connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [tenant])
        rows = connection.execute(f"SELECT tenant_id::text FROM tenantry.{table}").fetchall()
    return {row[0] for row in rows}


@pytest.mark.parametrize("table", TABLES)
def test_reader_sees_its_tenant_only(two_tenants: Database, table: str):
    assert tenants_seen(two_tenants.reader, table, str(OURS)) == {str(OURS)}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("setting", [None, ""], ids=["unset", "empty"])
def test_reader_without_tenant_sees_nothing(two_tenants: Database, table: str, setting: str | None):
    assert tenants_seen(two_tenants.reader, table, setting) == set()


def test_setting_that_ended_with_its_transaction_shows_nothing(two_tenants: Database):
    with psycopg.connect(two_tenants.reader, autocommit=True) as connection:
        with connection.transaction():
            connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [str(OURS)])
        assert connection.execute("SELECT * FROM tenantry.events").fetchall() == []


@pytest.mark.parametrize("table", TABLES)
def test_owner_of_a_one_user_setup_sees_all(two_tenants: Database, table: str):
    assert tenants_seen(two_tenants.owner, table, None) == {str(OURS), str(THEIRS)}


def test_owner_without_the_roles_sees_nothing(two_tenants: Database):
    with psycopg.connect(two_tenants.owner) as connection:
        for role in ("reader", "admin", "maintainer"):
            connection.execute(f"REVOKE tenantry_{role} FROM host_owner")
        assert connection.execute("SELECT * FROM tenantry.events").fetchall() == []
        connection.rollback()


WRITES = [
    "UPDATE tenantry.{} SET tenant_id = NULL",
    "DELETE FROM tenantry.{}",
    "TRUNCATE tenantry.{}",
]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", ["SELECT * FROM tenantry.{}", *WRITES])
def test_writer_may_do_nothing_but_insert(database: Database, table: str, statement: str):
    with (
        psycopg.connect(database.writer) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.format(table))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "statement", [*WRITES, "INSERT INTO tenantry.{} (tenant_id) VALUES (NULL)"]
)
def test_reader_may_do_nothing_but_select(database: Database, table: str, statement: str):
    with (
        psycopg.connect(database.reader) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.format(table))


@pytest.mark.parametrize("statement", ["DELETE FROM tenantry.{}", "TRUNCATE tenantry.{}"])
def test_writer_may_not_remove_cursors(database: Database, statement: str):
    with (
        psycopg.connect(database.writer) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.format("journal_cursors"))


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_partition_cannot_be_reached_by_its_own_name(two_tenants: Database, role: str):
    with (
        psycopg.connect(getattr(two_tenants, role)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT * FROM tenantry.events_default")


def test_partitions_show_nothing_even_to_whoever_is_granted_them(own_database: Database):
    own_database.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
        " VALUES (%s, %s, 'x', '1999-01-01')",
        [uuid4(), OURS],
    )
    own_database.execute("GRANT SELECT ON tenantry.events_default TO app_reader")
    with psycopg.connect(own_database.reader) as connection:
        assert connection.execute("SELECT * FROM tenantry.events_default").fetchall() == []


def test_every_table_with_a_tenant_forces_row_level_security(database: Database):
    unprotected = database.execute(
        """
        SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
         WHERE relnamespace = 'tenantry'::regnamespace AND relkind IN ('r', 'p')
           AND attname = 'tenant_id' AND NOT (relrowsecurity AND relforcerowsecurity)
        """
    )
    assert unprotected == []


def test_public_may_do_nothing(database: Database):
    granted = database.execute(
        """
        SELECT relname FROM pg_class, aclexplode(relacl) AS acl
         WHERE relnamespace = 'tenantry'::regnamespace AND acl.grantee = 0
        UNION ALL
        SELECT nspname FROM pg_namespace, aclexplode(nspacl) AS acl
         WHERE nspname = 'tenantry' AND acl.grantee = 0
        """
    )
    assert granted == []


def test_feed_of_a_tenant_is_an_index_scan_for_the_reader(two_tenants: Database):
    with psycopg.connect(two_tenants.reader) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [str(OURS)])
        connection.execute("SET LOCAL enable_seqscan = off")
        plan = connection.execute(
            "EXPLAIN SELECT * FROM tenantry.events ORDER BY created_at DESC, id DESC LIMIT 50"
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Cond: (tenant_id = " in text
    assert "_pkey" in text
