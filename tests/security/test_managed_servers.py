"""Nobody is superuser: an owner with CREATEROLE, and one without it when the roles exist."""

from __future__ import annotations

import math
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from tenantry.database.installed import Roles
from tenantry.database.migrate import migrate, status
from tenantry.exceptions import PrivilegeMissing
from tenantry.exporters.postgres import PostgresExporter
from tests.exporters.batches import TENANT, make_batch, make_line
from tests.fix_postgres import Database

SUPABASE = Roles("service_role", "authenticated", "app_analyst", "app_upkeep", "app_customer")
"""Roles that are there already, beside new ones."""

OWN = Roles("a_w", "a_r", "a_a", "a_m", "a_t")

OTHER = "018f6f0e-0000-7000-8000-00000000000f"


@pytest.fixture
def owners(empty_database: Database) -> Iterator[Database]:
    """Return an empty database; the roles of this file are gone afterwards."""
    yield empty_database
    empty_database.execute("DROP SCHEMA IF EXISTS tenantry CASCADE")
    empty_database.execute(f"ALTER DATABASE {empty_database.name} OWNER TO host_owner")
    logins = ("a_writer", "a_reader", "a_customer")
    for role in (*logins, *vars_of(SUPABASE), *vars_of(OWN), "db_master", "db_owner"):
        if empty_database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]):
            empty_database.execute(f"DROP OWNED BY {role} CASCADE")
            empty_database.execute(f"DROP ROLE {role}")


def vars_of(roles: Roles) -> tuple[str, ...]:
    return (roles.writer, roles.reader, roles.admin, roles.maintainer, roles.tenant)


def login(database: Database, name: str, options: str) -> str:
    database.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER {options}")
    database.execute(f"ALTER DATABASE {database.name} OWNER TO {name}")
    return make_conninfo(database.superuser, user=name)


def check_that_all_work(database: Database, owner: str, roles: Roles) -> None:
    """Give out logins, write, read and bind, all as the owner and never as superuser."""
    statements = [
        "CREATE ROLE a_writer LOGIN IN ROLE {writer}",
        "CREATE ROLE a_reader LOGIN IN ROLE {reader}",
        "CREATE ROLE a_customer LOGIN IN ROLE {tenant}",
    ]
    names = {
        "writer": sql.Identifier(roles.writer),
        "reader": sql.Identifier(roles.reader),
        "tenant": sql.Identifier(roles.tenant),
    }
    with psycopg.connect(owner, autocommit=True) as connection:
        for statement in statements:
            connection.execute(sql.SQL(statement).format(**names))
        connection.execute("INSERT INTO tenantry.tenant_roles VALUES ('a_customer', %s)", [TENANT])
    check_who_sees_what(database)


def check_who_sees_what(database: Database) -> None:
    exporter = PostgresExporter(make_conninfo(database.superuser, user="a_writer"))
    batch = make_batch([make_line(), make_line(tenant_id=OTHER)])
    assert exporter.export(batch, math.inf).stored == 2
    exporter.close()
    query = "SELECT tenant_id::text FROM tenantry.events"
    with psycopg.connect(make_conninfo(database.superuser, user="a_customer")) as connection:
        assert connection.execute(query).fetchall() == [(TENANT,)]
    with psycopg.connect(make_conninfo(database.superuser, user="a_reader")) as connection:
        assert connection.execute(query).fetchall() == []
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [OTHER])
        assert connection.execute(query).fetchall() == [(OTHER,)]


def test_owner_with_createrole_does_all(owners: Database):
    """Amazon RDS, Cloud SQL, Neon: the first user may create roles and is no superuser."""
    owner = login(owners, "db_master", "CREATEROLE")
    migrate(owner, roles=OWN)
    check_that_all_work(owners, owner, OWN)


def test_owner_without_createrole_migrates_where_the_roles_exist(owners: Database):
    owner = login(owners, "db_owner", "NOCREATEROLE")
    with pytest.raises(PrivilegeMissing, match='CREATE ROLE "service_role" NOLOGIN'):
        migrate(owner, roles=SUPABASE)
    for role in vars_of(SUPABASE):
        owners.execute(f"CREATE ROLE {role} NOLOGIN")
    owners.execute("GRANT service_role, authenticated, app_analyst, app_upkeep TO db_owner")
    migrate(owner, roles=SUPABASE)
    assert not status(owner).pending
    for name, role in (
        ("a_writer", "service_role"),
        ("a_reader", "authenticated"),
        ("a_customer", "app_customer"),
    ):
        owners.execute(f"CREATE ROLE {name} LOGIN IN ROLE {role}")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("INSERT INTO tenantry.tenant_roles VALUES ('a_customer', %s)", [TENANT])
    check_who_sees_what(owners)


def test_migrating_makes_no_superuser_of_anybody(owners: Database):
    owner = login(owners, "db_master", "CREATEROLE")
    for role in vars_of(SUPABASE):
        owners.execute(f"CREATE ROLE {role} NOLOGIN")
    owners.execute(
        f"GRANT {', '.join(vars_of(SUPABASE))} TO db_master"
        + (" WITH ADMIN OPTION" if owners.execute("SHOW server_version_num")[0][0] >= "16" else "")
    )
    migrate(owner, roles=SUPABASE)
    odd = owners.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)"
        " AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcanlogin)",
        [list(vars_of(SUPABASE))],
    )
    assert odd == []
    with psycopg.connect(owner) as connection:
        member = "SELECT pg_has_role(current_user, 'pg_read_all_data', 'MEMBER')"
        assert connection.execute(member).fetchone() == (False,)


def test_role_with_bypassrls_sees_all_tenants(owners: Database):
    """Supabase's ``service_role`` has it: a reader there is no reader of one tenant."""
    migrate(owners.owner)
    owners.execute("CREATE ROLE a_reader LOGIN BYPASSRLS IN ROLE tenantry_reader")
    owners.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
        " VALUES (gen_random_uuid(), %s, 'x', now())",
        [OTHER],
    )
    with psycopg.connect(make_conninfo(owners.superuser, user="a_reader")) as connection:
        assert connection.execute("SELECT * FROM tenantry.events").rowcount == 1


def test_owner_may_not_dump_rows_and_a_role_with_bypassrls_may(owners: Database):
    """What pg_dump does first; without it, a dump would silently lack rows."""
    migrate(owners.owner)
    with psycopg.connect(owners.owner) as connection:
        connection.execute("SET row_security = off")
        # A member of admin and maintainer, and even so: pg_dump takes no policy for an answer.
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            connection.execute("SELECT * FROM tenantry.events")
