"""Others in the same database: no member of any role, or a member with something to spare."""

from __future__ import annotations

import math

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

from tenantry.exporters.postgres import PostgresExporter
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database, _make_login
from tests.security.tenants import COUNTED, OURS, TABLES, THEIRS

DENIED = errors.InsufficientPrivilege


@pytest.fixture
def stranger(two_tenants: Database) -> str:
    """Return the DSN of another service's login: a member of none of our roles."""
    with two_tenants.server.connect() as connection:
        _make_login(connection, "another_service")
    return make_conninfo(two_tenants.superuser, user="another_service")


@pytest.mark.parametrize("table", [*TABLES, "journal_cursors", "migrations"])
def test_stranger_reads_and_writes_nothing(stranger: str, table: str):
    for statement in ("SELECT * FROM {}", "DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES"):
        with psycopg.connect(stranger) as connection, pytest.raises(DENIED, match="for schema"):
            connection.execute(statement.format(f"tenantry.{table}"))


def test_stranger_sees_names_and_sizes_in_the_catalogue(stranger: str):
    """A non-guarantee: PostgreSQL shows its catalogue to everybody."""
    with psycopg.connect(stranger) as connection:
        row = connection.execute(
            "SELECT count(*), sum(pg_relation_size(pg_class.oid)) FROM pg_class"
            " JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = 'tenantry'"
        ).fetchone()
    assert row is not None
    assert row[0] > 25
    assert row[1] > 0


def test_stranger_who_is_granted_a_table_still_sees_no_row(two_tenants: Database, stranger: str):
    """A careless GRANT is not enough: without a policy for the role, no row is visible."""
    two_tenants.execute("GRANT USAGE ON SCHEMA tenantry TO another_service")
    two_tenants.execute("GRANT SELECT ON ALL TABLES IN SCHEMA tenantry TO another_service")
    try:
        with psycopg.connect(stranger) as connection:
            for table in TABLES:
                assert connection.execute(f"SELECT * FROM tenantry.{table}").fetchall() == []
            query = "SELECT * FROM tenantry.events_default"
            assert connection.execute(query).fetchall() == []
    finally:
        two_tenants.execute("REVOKE ALL ON ALL TABLES IN SCHEMA tenantry FROM another_service")
        two_tenants.execute("REVOKE ALL ON SCHEMA tenantry FROM another_service")


def test_view_of_its_owner_shows_what_its_owner_sees(two_tenants: Database):
    """Why a view over our tables must be made ``WITH (security_invoker)``."""
    with psycopg.connect(two_tenants.owner) as owner:
        owner.execute("CREATE SCHEMA shop")
        owner.execute("CREATE VIEW shop.careless AS SELECT * FROM tenantry.events")
        owner.execute(
            "CREATE VIEW shop.careful WITH (security_invoker) AS SELECT * FROM tenantry.events"
        )
        owner.execute("GRANT USAGE ON SCHEMA shop TO tenantry_reader")
        owner.execute("GRANT SELECT ON shop.careless, shop.careful TO tenantry_reader")
        owner.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [OURS])
        owner.execute("SET LOCAL ROLE tenantry_reader")
        seen = "SELECT DISTINCT tenant_id::text FROM shop.{}"
        assert {row[0] for row in owner.execute(seen.format("careful"))} == {OURS}
        assert {row[0] for row in owner.execute(seen.format("careless"))} == {OURS, THEIRS}
        owner.rollback()


def test_foreign_key_of_the_owner_asks_past_the_policies(two_tenants: Database):
    """PostgreSQL checks keys for all rows; only the owner may declare one."""
    with psycopg.connect(two_tenants.owner) as owner:
        owner.execute("CREATE SCHEMA shop")
        owner.execute(
            "CREATE TABLE shop.notes (t uuid, c timestamptz, id uuid,"
            " FOREIGN KEY (t, c, id) REFERENCES tenantry.events (tenant_id, created_at, id))"
        )
        owner.execute(
            "INSERT INTO shop.notes SELECT tenant_id, created_at, id FROM tenantry.events"
        )
        with pytest.raises(errors.ForeignKeyViolation):
            owner.execute("INSERT INTO shop.notes VALUES (%s, now(), gen_random_uuid())", [THEIRS])
        owner.rollback()


# A compromised application server: the writer's login.


def test_writers_login_forges_events_of_any_tenant(two_tenants: Database):
    """A non-guarantee: the database cannot tell the application from who took its place."""
    with psycopg.connect(two_tenants.writer) as connection:
        connection.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at, recorded_at)"
            " VALUES (gen_random_uuid(), %s, 'forged', '2020-01-01', '2020-01-01')",
            [THEIRS],
        )
        connection.rollback()


def test_writers_login_moves_the_cursor_of_another_journal(two_tenants: Database):
    """A non-guarantee: the writers of one database trust each other."""
    exporter = PostgresExporter(two_tenants.writer)
    assert exporter.export(make_batch([make_line()]), math.inf).stored == 1
    exporter.close()
    with psycopg.connect(two_tenants.writer) as connection:
        moved = connection.execute("UPDATE tenantry.journal_cursors SET emitted = 7")
        assert moved.rowcount == 1
        connection.rollback()


def test_writers_login_reads_no_event_through_any_road(two_tenants: Database):
    with psycopg.connect(two_tenants.writer, autocommit=True) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, false)", [THEIRS])
        for table in TABLES:
            for statement in (
                f"SELECT * FROM tenantry.{table}",
                f"SELECT count(*) FROM tenantry.{table}",
                f"COPY tenantry.{table} TO STDOUT",
                f"CREATE TEMPORARY TABLE stolen AS TABLE tenantry.{table}",
            ):
                with pytest.raises(DENIED):
                    connection.execute(statement)


# Flooding and stalling.


def test_open_transaction_of_a_reader_holds_up_no_writer(two_tenants: Database):
    with psycopg.connect(two_tenants.reader) as reader:
        reader.execute("LOCK TABLE tenantry.events IN ACCESS SHARE MODE")
        for table in COUNTED:
            reader.execute(f"SELECT * FROM tenantry.{table}")
        exporter = PostgresExporter(two_tenants.writer)
        assert exporter.export(make_batch([make_line()]), math.inf).stored == 1
        exporter.close()


def test_createrole_is_as_good_as_any_role_before_postgresql_16(two_tenants: Database):
    """A non-guarantee there: such a login makes itself a member of what it likes."""
    with two_tenants.server.connect() as connection:
        _make_login(connection, "makes_roles", "CREATEROLE")
        is_16 = connection.info.server_version >= 160000
    with psycopg.connect(make_conninfo(two_tenants.superuser, user="makes_roles")) as connection:
        grant = "GRANT tenantry_admin TO makes_roles"
        if is_16:
            with pytest.raises(DENIED):
                connection.execute(grant)
        else:
            connection.execute(grant)
            seen = connection.execute("SELECT DISTINCT tenant_id::text FROM tenantry.events")
            assert {row[0] for row in seen} == {OURS, THEIRS}
        connection.rollback()


def test_superuser_and_owner_pass_by_what_is_above(two_tenants: Database):
    """A non-guarantee. A superuser passes by policies, and the owner may change them."""
    seen = two_tenants.execute("SELECT DISTINCT tenant_id::text FROM tenantry.events")
    assert {row[0] for row in seen} == {OURS, THEIRS}
    with psycopg.connect(two_tenants.owner) as owner:
        owner.execute("ALTER TABLE tenantry.events NO FORCE ROW LEVEL SECURITY")
        owner.execute("CREATE POLICY mine ON tenantry.events TO tenantry_reader USING (true)")
        owner.execute("SET LOCAL ROLE tenantry_reader")
        seen = owner.execute("SELECT DISTINCT tenant_id::text FROM tenantry.events").fetchall()
        assert {row[0] for row in seen} == {OURS, THEIRS}
        owner.rollback()
