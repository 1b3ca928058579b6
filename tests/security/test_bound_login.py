"""A login that writes SQL of its own: bound to one tenant by a row, never by a setting."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.installed import Roles
from tenantry.database.migrate import migrate
from tests.cli.commands import Command
from tests.fix_postgres import Database
from tests.security.tenants import COUNTED, OURS, TABLES, THEIRS, add_rows, bind


def tenants_seen(connection: psycopg.Connection, table: str = "events") -> set[str]:
    rows = connection.execute(f"SELECT tenant_id::text FROM tenantry.{table}").fetchall()
    return {tenant for (tenant,) in rows}


@pytest.mark.parametrize("table", TABLES)
def test_bound_login_sees_its_tenant_only(bound: str, table: str):
    with psycopg.connect(bound) as connection:
        assert tenants_seen(connection, table) == {OURS}


@pytest.mark.parametrize("table", COUNTED)
@pytest.mark.parametrize("value", [THEIRS, "", "no-uuid"], ids=["theirs", "empty", "malformed"])
def test_setting_changes_nothing_for_a_bound_login(bound: str, table: str, value: str):
    with psycopg.connect(bound) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, false)", [value])
        assert tenants_seen(connection, table) == {OURS}


@pytest.mark.parametrize("table", COUNTED)
def test_bound_login_that_is_a_reader_as_well_stays_bound(
    two_tenants: Database, bound: str, table: str
):
    two_tenants.execute("GRANT tenantry_reader TO bound_to_us")
    with psycopg.connect(bound) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [THEIRS])
        assert tenants_seen(connection, table) == {OURS}
        connection.execute("SET ROLE tenantry_reader")
        assert tenants_seen(connection, table) == {OURS}


@pytest.mark.parametrize("role", ["bound_to_them", "app_reader"])
def test_role_that_a_bound_login_is_granted_leads_to_no_other_tenant(
    two_tenants: Database, bound: str, role: str
):
    two_tenants.execute(f"GRANT {role} TO bound_to_us")
    with psycopg.connect(bound) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [THEIRS])
        assert tenants_seen(connection) == {OURS}  # inherited
        connection.execute(f"SET ROLE {role}")
        assert tenants_seen(connection) == {OURS}


def test_pooled_login_is_nobody_by_setting_a_bound_role(two_tenants: Database, bound: str):
    two_tenants.execute("DROP ROLE IF EXISTS pooled")
    two_tenants.execute("CREATE ROLE pooled LOGIN")
    two_tenants.execute("GRANT bound_to_us, bound_to_them TO pooled")
    dsn = make_conninfo(two_tenants.superuser, user="pooled")
    with psycopg.connect(dsn) as connection:
        for role in ("bound_to_us", "bound_to_them"):
            connection.execute(f"SET ROLE {role}")
            assert tenants_seen(connection) == set()


@pytest.mark.parametrize("table", COUNTED)
def test_member_of_the_tenant_role_that_is_not_bound_sees_nothing(
    two_tenants: Database, bound: str, table: str
):
    two_tenants.execute("DELETE FROM tenantry.tenant_roles")
    with psycopg.connect(bound) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [THEIRS])
        assert tenants_seen(connection, table) == set()


def test_login_whose_row_is_gone_while_it_is_connected_sees_nothing(
    two_tenants: Database, bound: str
):
    with psycopg.connect(bound, autocommit=True) as connection:
        connection.execute("PREPARE feed AS SELECT tenant_id::text FROM tenantry.events")
        assert {row[0] for row in connection.execute("EXECUTE feed")} == {OURS}
        two_tenants.execute("DELETE FROM tenantry.tenant_roles WHERE role = 'bound_to_us'")
        assert connection.execute("EXECUTE feed").fetchall() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tenantry.tenant_roles SET tenant_id = %s",
        "INSERT INTO tenantry.tenant_roles VALUES ('postgres', %s)",
        "DELETE FROM tenantry.tenant_roles WHERE tenant_id <> %s",
    ],
    ids=["update", "insert", "delete"],
)
@pytest.mark.parametrize("login", ["bound", "reader", "writer", "admin"])
def test_only_the_maintainer_binds(two_tenants: Database, bound: str, login: str, statement: str):
    dsn = {
        "bound": bound,
        "reader": two_tenants.reader,
        "writer": two_tenants.writer,
        "admin": two_tenants.member_of("admin"),
    }[login]
    with (
        psycopg.connect(dsn) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement, [THEIRS])


def test_maintainer_binds_and_lists(two_tenants: Database, bound: str):
    with psycopg.connect(two_tenants.member_of("maintainer")) as connection:
        connection.execute("INSERT INTO tenantry.tenant_roles VALUES ('third', %s)", [OURS])
        assert connection.execute("SELECT count(*) FROM tenantry.tenant_roles").fetchone() == (3,)
        connection.rollback()


def test_login_is_bound_to_one_tenant_at_most(two_tenants: Database, bound: str):
    with pytest.raises(psycopg.errors.UniqueViolation):
        two_tenants.execute(
            "INSERT INTO tenantry.tenant_roles VALUES ('bound_to_us', %s)", [THEIRS]
        )


def test_name_that_needs_quotes_is_bound_as_it_is(two_tenants: Database, bound: str):
    two_tenants.execute("INSERT INTO tenantry.tenant_roles VALUES ('Bound_To_Us', %s)", [THEIRS])
    two_tenants.execute('DROP ROLE IF EXISTS "Bound_To_Us"')
    two_tenants.execute('CREATE ROLE "Bound_To_Us" LOGIN IN ROLE tenantry_tenant')
    with psycopg.connect(make_conninfo(bound, user="Bound_To_Us")) as connection:
        assert tenants_seen(connection) == {THEIRS}
    with psycopg.connect(bound) as connection:
        assert tenants_seen(connection) == {OURS}


@pytest.mark.parametrize(
    "tenant_type,ours,theirs", [("bigint", "7", "8"), ("text", "acme", "'; drop")]
)
def test_bound_login_with_tenants_of_type(
    empty_database: Database, tenant_type: str, ours: str, theirs: str
):
    migrate(empty_database.owner, tenant_type=tenant_type)
    dsn = bind(empty_database, "bound_to_us", ours)
    for tenant in (ours, theirs):
        empty_database.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
            " VALUES (gen_random_uuid(), %s, 'x', now())",
            [tenant],
        )
        empty_database.execute(
            "INSERT INTO tenantry.rejected_events (id, tenant_id, created_at, reason)"
            " VALUES (gen_random_uuid(), %s, now(), 'invalid')",
            [tenant],
        )
    with psycopg.connect(dsn) as connection:
        assert tenants_seen(connection) == {ours}
        assert tenants_seen(connection, "rejected_events") == {ours}


def test_tail_shows_a_bound_login_its_own(bound: str, command: Command):
    assert command("tail", "--dsn", bound, "--json") == 0
    assert {event["tenant_id"] for event in command.json()["events"]} == {OURS}
    assert command("tail", "--dsn", bound, "--tenant", THEIRS, "--json") == 0
    assert command.json()["events"] == []


def test_schema_of_five_migrations_is_migrated_under_a_tenant_role_of_any_name(
    empty_database: Database,
):
    migrate(empty_database.owner, to_version=5)
    add_rows(empty_database)
    roles = Roles(tenant="customers")
    assert migrate(empty_database.owner, roles=roles)[0].version == 6
    assert migrate(empty_database.owner, roles=roles) == []
    empty_database.execute("DROP ROLE IF EXISTS bound_customer")
    empty_database.execute("CREATE ROLE bound_customer LOGIN IN ROLE customers")
    empty_database.execute(
        "INSERT INTO tenantry.tenant_roles VALUES ('bound_customer', %s)", [OURS]
    )
    with psycopg.connect(
        make_conninfo(empty_database.superuser, user="bound_customer")
    ) as connection:
        assert tenants_seen(connection) == {OURS}
