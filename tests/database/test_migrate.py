"""Migrations: what they leave behind, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database import migrate as migrations
from tenantry.database.installed import Roles
from tenantry.database.migrate import find_migrations, migrate, sql, status
from tenantry.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMismatch,
)
from tests.fix_postgres import Database, Server

LATEST = find_migrations()[-1].version


def dump(server: Server, database: str) -> str:
    lines = server.run(
        "pg_dump", "-s", "-U", "postgres", "-h", str(server.data), "-d", database
    ).splitlines()
    return "\n".join(line for line in lines if "restrict" not in line)  # a nonce in each dump


def test_migrations_are_numbered_without_gaps():
    assert [each.version for each in find_migrations()] == list(range(1, LATEST + 1))


def test_migrating_applies_each_migration_once(empty_database: Database):
    seen: list[object] = []
    applied = migrate(empty_database.owner, on_progress=seen.append)
    assert [each.version for each in applied] == list(range(1, LATEST + 1))
    assert seen == applied
    assert migrate(empty_database.owner) == []


def test_status_before_and_after(empty_database: Database):
    before = status(empty_database.owner)
    assert (before.version, before.tenant_type, len(before.pending)) == (0, None, LATEST)
    migrate(empty_database.owner, tenant_type="bigint")
    after = status(empty_database.owner)
    assert (after.version, after.tenant_type, after.pending) == (LATEST, "bigint", ())
    assert not after.is_ahead


def test_four_processes_at_once_apply_each_migration_once(empty_database: Database):
    program = (
        "import sys; from tenantry.database.migrate import migrate;print(len(migrate(sys.argv[1])))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_database.owner], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    counts = [int(process.communicate(timeout=50)[0]) for process in processes]
    assert sum(counts) == LATEST
    assert [process.returncode for process in processes] == [0] * 4


@pytest.mark.parametrize("tenant_type", ["uuid", "bigint", "text"])
def test_printed_sql_gives_the_same_schema(
    server: Server, empty_database: Database, tenant_type: str
):
    migrate(empty_database.owner, tenant_type=tenant_type)
    migrated = dump(server, empty_database.name)
    empty_database.execute("DROP SCHEMA tenantry CASCADE")
    script = sql(tenant_type=tenant_type)
    server.run("psql", "-q", empty_database.owner, stdin=script)
    assert dump(server, empty_database.name) == migrated
    assert migrate(empty_database.owner, tenant_type=tenant_type) == []


def test_printed_sql_is_deterministic():
    assert sql(schema="audit") == sql(schema="audit")
    assert "{" not in sql().replace("'{}'", "")


def test_schema_and_roles_may_have_names_that_need_quoting(empty_database: Database):
    roles = Roles("App Writer", "App-Reader", "select", "maintainer of events")
    migrate(empty_database.owner, schema="Audit log", roles=roles)
    assert status(empty_database.owner, schema="Audit log").version == LATEST
    assert migrate(empty_database.owner, schema="Audit log", roles=roles) == []


@pytest.mark.parametrize("name", ["", "x" * 64, 'a"b', "a'b", "a$b", "a\nb", "a%b", "a{b", "a;b"])
def test_name_that_no_script_should_carry_is_refused(name: str):
    with pytest.raises(ConfigurationError, match="cannot name a schema: use 1 to 63 bytes"):
        sql(schema=name)


@pytest.mark.parametrize("other", ["writer", "reader", "admin", "maintainer"])
def test_tenant_role_that_is_another_one_as_well_is_refused(other: str):
    with pytest.raises(ConfigurationError, match="'r' cannot name the tenant role and another"):
        Roles(tenant="r", **{other: "r"})


def test_unknown_tenant_type_is_refused():
    with pytest.raises(ConfigurationError, match="'int' is not one of 'uuid', 'bigint' and 'text'"):
        sql(tenant_type="int")


def test_other_tenant_type_is_refused_and_both_are_named(database: Database):
    with pytest.raises(SchemaMismatch, match="tenant ids of type uuid, and text was asked for"):
        migrate(database.owner, tenant_type="text")


def test_other_roles_are_refused_and_both_are_named(database: Database):
    roles = replace(Roles(), writer="service_role")
    with pytest.raises(SchemaMismatch, match=r"tenantry_writer.*, and service_role, .* asked for"):
        migrate(database.owner, roles=roles)


def test_migration_changed_after_it_ran_is_refused(own_database: Database):
    own_database.execute("UPDATE tenantry.migrations SET sha256 = 'f00' WHERE version = 2")
    with pytest.raises(SchemaMismatch, match=r"0002_events was applied to .* with another content"):
        migrate(own_database.owner)


def test_database_ahead_of_the_package_is_left_as_it_is(own_database: Database):
    own_database.execute(
        "INSERT INTO tenantry.migrations VALUES (%s, 'later', 'f00', now(), 1)", [LATEST + 1]
    )
    assert migrate(own_database.owner) == []
    assert status(own_database.owner).is_ahead


@pytest.mark.parametrize("table", ["events", "migrations"])
def test_table_of_somebody_else_is_refused_and_untouched(empty_database: Database, table: str):
    empty_database.execute("CREATE SCHEMA tenantry AUTHORIZATION host_owner")
    empty_database.execute(f"CREATE TABLE tenantry.{table} (id bigserial, tenant_id uuid)")
    with pytest.raises(SchemaMismatch, match=f"has a table '{table}' that Tenantry did not make"):
        migrate(empty_database.owner)
    columns = empty_database.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
        [f"tenantry.{table}"],
    )
    assert columns == [(2,)]
    assert empty_database.execute(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'tenantry'::regnamespace"
        " AND relkind = 'r'"
    ) == [(1,)]


@pytest.fixture
def plain_user(empty_database: Database):
    """Return the DSN of a user without CREATEROLE who owns the database."""
    empty_database.execute("CREATE ROLE plain_user LOGIN")
    empty_database.execute(f"ALTER DATABASE {empty_database.name} OWNER TO plain_user")
    yield make_conninfo(empty_database.owner, user="plain_user")
    empty_database.execute("DROP OWNED BY plain_user CASCADE")
    empty_database.execute(f"ALTER DATABASE {empty_database.name} OWNER TO host_owner")
    empty_database.execute("DROP ROLE plain_user")


def test_missing_createrole_is_explained_with_the_sql_to_run(
    plain_user: str, empty_database: Database
):
    roles = Roles("w_role", "r_role", "a_role", "m_role", "t_role")
    with pytest.raises(PrivilegeMissing, match='CREATE ROLE "w_role" NOLOGIN') as caught:
        migrate(plain_user, roles=roles)
    for statement in str(caught.value).partition("not there yet of: ")[2].split("; "):
        empty_database.execute(statement)
    try:
        assert len(migrate(plain_user, roles=roles)) == LATEST
    finally:
        empty_database.execute("DROP SCHEMA tenantry CASCADE")
        empty_database.execute("DROP ROLE w_role, r_role, a_role, m_role, t_role")


def test_unreachable_server_is_named_without_the_password():
    dsn = "postgresql://app:s3cret@127.0.0.1:1/shop"
    with pytest.raises(DatabaseUnreachable, match=r"connect to 127\.0\.0\.1:1/shop: ") as caught:
        migrate(dsn)
    assert "s3cret" not in str(caught.value)


def test_waiting_for_another_migration_ends_at_the_timeout(empty_database: Database):
    with psycopg.connect(empty_database.owner) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [migrations._LOCK_KEY])
        with pytest.raises(DatabaseUnreachable, match="had to wait for a lock"):
            migrate(empty_database.owner, timeout=0.3)
    assert len(migrate(empty_database.owner)) == LATEST


def test_failing_migration_leaves_nothing_of_itself(empty_database: Database):
    # A type of the name of a later table: what is created before it must be rolled back with it.
    empty_database.execute("CREATE SCHEMA tenantry AUTHORIZATION host_owner")
    empty_database.execute("CREATE TYPE tenantry.tenant_roles AS ENUM ('x')")
    with pytest.raises(migrations.DatabaseError, match="failed with 42"):
        migrate(empty_database.owner)
    assert status(empty_database.owner).version == 5
    assert empty_database.execute(
        "SELECT has_schema_privilege('tenantry_tenant', 'tenantry', 'USAGE')"
    ) == [(False,)]


def test_months_ahead_and_default_partition_exist(database: Database):
    names = [
        row[0]
        for row in database.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = 'tenantry.events'::regclass ORDER BY 1"
        )
    ]
    months = database.execute(
        "SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month',"
        " '\"tenantry.events_\"YYYY_MM') FROM generate_series(-1, 24) AS n"
    )
    assert names == [*(month for (month,) in months), "tenantry.events_default"]


def test_every_table_and_column_is_described(database: Database):
    undescribed = database.execute(
        """
        SELECT relname, attname
          FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
         WHERE relnamespace = 'tenantry'::regnamespace AND relkind IN ('r', 'p')
           AND NOT relispartition
           AND (col_description(pg_class.oid, attnum) IS NULL
                OR obj_description(pg_class.oid, 'pg_class') IS NULL)
        """
    )
    assert undescribed == []
