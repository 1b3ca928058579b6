"""The optional foreign key to the host's tenants: added late, found again, and removed."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tenantry import PLATFORM, log_event
from tenantry.database.connect import connect
from tenantry.database.host_tables import parse_table
from tenantry.database.installed import read_installed
from tenantry.database.migrate import migrate
from tenantry.database.tenant_key import (
    OnDelete,
    add_tenant_key,
    check_on_delete,
    drop_tenant_key,
    read_tenant_key,
)
from tenantry.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMismatch,
)
from tenantry.exporters.postgres import PostgresExporter
from tests.cli.commands import Command
from tests.database.adoptions import OTHER, TENANT
from tests.delivery.pipelines import make_pipeline
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database

NIL = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def tenants(database: Database) -> Iterator[Database]:
    """Return a migrated database with a table of tenants that has one, and no key yet."""
    make_tenants(database)
    yield database
    database.execute("DROP TABLE IF EXISTS public.tenants CASCADE")


@pytest.fixture
def tenants18(database18: Database) -> Iterator[Database]:
    make_tenants(database18)
    yield database18
    database18.execute("DROP TABLE IF EXISTS public.tenants CASCADE")


def make_tenants(database: Database) -> None:
    database.execute("CREATE TABLE public.tenants (id uuid PRIMARY KEY, code text, parent uuid)")
    database.execute("ALTER TABLE public.tenants OWNER TO host_owner")
    database.execute("INSERT INTO public.tenants VALUES (%s)", [TENANT])


def store(database: Database, *tenant_ids: str) -> None:
    exporter = PostgresExporter(database.writer)
    outcome = exporter.export(make_batch([make_line(tenant_id=t) for t in tenant_ids]), math.inf)
    exporter.close()
    assert outcome.stored == len(tenant_ids)


def add(
    database: Database,
    table: str = "public.tenants",
    on_delete: OnDelete = "cascade",
    timeout: float = 30,
) -> bool:
    with connect(database.owner) as connection:
        installed = read_installed(connection, "tenantry")
        assert installed is not None
        tenants = parse_table(table, column=True)
        return add_tenant_key(
            connection, "tenantry", installed, tenants, on_delete, timeout=timeout
        )


def drop(database: Database) -> bool:
    with connect(database.owner) as connection:
        return drop_tenant_key(connection, "tenantry", timeout=30)


def keys(database: Database) -> list[tuple]:
    """List each foreign key of events and of its partitions: validated, inherited?"""
    return database.execute(
        """
        SELECT DISTINCT relkind::text, convalidated, coninhcount, conparentid <> 0
          FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
         WHERE relnamespace = 'tenantry'::regnamespace AND contype = 'f' ORDER BY 1
        """
    )


def events(database: Database) -> list[str]:
    return [
        t for (t,) in database.execute("SELECT tenant_id::text FROM tenantry.events ORDER BY 1")
    ]


def test_key_is_added_to_events_that_are_there_and_reaches_every_partition(tenants: Database):
    store(tenants, TENANT)
    assert add(tenants)
    assert keys(tenants) == [("p", True, 0, False), ("r", True, 1, True)]
    assert not add(tenants)
    assert drop(tenants)
    assert keys(tenants) == []
    assert not drop(tenants)
    store(tenants, OTHER)


def test_deleted_tenant_takes_its_events_along_by_cascade(tenants: Database):
    tenants.execute("INSERT INTO public.tenants VALUES (%s)", [OTHER])
    store(tenants, TENANT, OTHER)
    add(tenants, on_delete="cascade")
    with psycopg.connect(tenants.owner) as host:
        host.execute("DELETE FROM public.tenants WHERE id = %s", [TENANT])
    assert events(tenants) == [OTHER]


@pytest.mark.parametrize("on_delete", ["restrict", "no-action"])
def test_tenant_with_events_cannot_be_deleted_otherwise(tenants18: Database, on_delete: OnDelete):
    store(tenants18, TENANT)
    add(tenants18, on_delete=on_delete)
    code = psycopg.errors.RestrictViolation if on_delete == "restrict" else None
    with pytest.raises(code or psycopg.errors.ForeignKeyViolation):
        tenants18.execute("DELETE FROM public.tenants")
    assert events(tenants18) == [TENANT]


def test_events_whose_tenants_are_missing_are_named_and_nothing_stays(tenants: Database):
    store(tenants, TENANT, OTHER)
    with pytest.raises(SchemaMismatch, match=f"without a row there, {OTHER} among them"):
        add(tenants)
    assert keys(tenants) == []


def test_attempt_that_was_cut_short_is_made_good(tenants18: Database):
    tenants18.execute(
        "ALTER TABLE tenantry.events_default ADD CONSTRAINT events_tenant_fkey"
        " FOREIGN KEY (tenant_id) REFERENCES public.tenants ON DELETE RESTRICT NOT VALID"
    )
    assert add(tenants18)
    assert keys(tenants18) == [("p", True, 0, False), ("r", True, 1, True)]


def test_two_migrations_at_once_make_one_key(tenants18: Database):
    made: list[bool] = []
    threads = [threading.Thread(target=lambda: made.append(add(tenants18))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=50)
    assert len(made) == 2
    assert keys(tenants18) == [("p", True, 0, False), ("r", True, 1, True)]


@pytest.mark.parametrize(
    "table, problem",
    [
        ("public.nobody", "public.nobody is no table. Name it"),
        ("public.tenants(key)", "public.tenants has no column key"),
        ("public.tenants(code)", r"cannot refer to public.tenants\(code\): .* takes a primary key"),
        ("public.tenants(parent)", "takes a primary key or unique constraint of the type uuid"),
    ],
)
def test_table_that_cannot_be_referred_to_is_refused(tenants18: Database, table: str, problem: str):
    with pytest.raises(SchemaMismatch, match=problem):
        add(tenants18, table)
    assert keys(tenants18) == []


def test_other_key_is_refused_and_named(tenants18: Database):
    add(tenants18, on_delete="cascade")
    with pytest.raises(SchemaMismatch, match=r"on delete cascade already, .*--no-tenants-table"):
        add(tenants18, on_delete="restrict")
    drop(tenants18)
    tenants18.execute(
        "ALTER TABLE tenantry.events ADD CONSTRAINT mine FOREIGN KEY (tenant_id)"
        " REFERENCES public.tenants"
    )
    with pytest.raises(SchemaMismatch, match="not made by Tenantry: drop the constraint mine"):
        add(tenants18)
    assert not drop(tenants18)
    assert keys(tenants18) != []


def test_missing_privilege_is_named_with_the_grant(tenants18: Database):
    tenants18.execute("ALTER TABLE public.tenants OWNER TO postgres")
    grant = 'GRANT SELECT, REFERENCES ON "public"."tenants" TO "host_owner"'
    with pytest.raises(PrivilegeMissing, match=grant):
        add(tenants18)


def test_table_that_hides_tenants_is_refused(tenants18: Database):
    tenants18.execute(
        "ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    )
    with pytest.raises(SchemaMismatch, match="its row-level security hides rows from 'host_owner'"):
        add(tenants18)


def test_writer_in_the_way_is_waited_for_until_time_is_up(tenants18: Database):
    with psycopg.connect(tenants18.superuser) as other:
        other.execute("LOCK TABLE public.tenants IN EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnreachable, match="key to the tenants was not made before"):
            add(tenants18, timeout=0.3)
    assert add(tenants18)


def test_unknown_action_is_refused():
    with pytest.raises(ConfigurationError, match="'set-null' is not one of no-action, restrict"):
        check_on_delete("set-null")


# PLATFORM.


def test_events_of_platform_need_a_row_among_the_tenants(tenants18: Database, tmp_path):
    add(tenants18)
    tenants18.execute("INSERT INTO public.tenants VALUES (%s)", [NIL])
    pipeline = make_pipeline(PostgresExporter(tenants18.writer), tmp_path)
    with pipeline:
        log_event("tick", tenant=PLATFORM)
    assert pipeline.flush(20)
    pipeline.shutdown()
    assert events(tenants18) == [NIL]


def test_command_adds_says_what_platform_lacks_and_removes(tenants18: Database, command: Command):
    dsn = ("--dsn", tenants18.owner)
    options = ("--tenants-table", "public.tenants", "--on-delete", "cascade")
    assert command("migrate", *dsn, *options) == 0
    key = "foreign key to tenants\t"
    assert f"{key}added: public.tenants(id) on delete cascade\n" in command.out
    assert "public.tenants has no row for tenantry.PLATFORM" in command.err
    tenants18.execute("INSERT INTO public.tenants VALUES (%s)", [NIL])
    assert command("migrate", *dsn, *options, "--json") == 0
    assert command.json()["tenant_key_added"] is False
    assert "PLATFORM" not in command.err
    assert command("migrate", *dsn) == 0  # without the option it stays
    with connect(tenants18.owner) as connection:
        assert read_tenant_key(connection, "tenantry") is not None
    assert command("migrate", *dsn, "--no-tenants-table") == 0
    assert f"{key}removed\n" in command.out
    assert command("migrate", *dsn, "--no-tenants-table", "--json") == 0
    assert command.json()["tenant_key_dropped"] is False


def test_options_that_exclude_each_other_are_refused(command: Command):
    both = ("--tenants-table", "public.tenants", "--no-tenants-table")
    assert command("migrate", *both) == 2
    assert "--tenants-table and --no-tenants-table exclude each other" in command.err


@pytest.mark.parametrize("table", ["tenants", "public.tenants(id", "a.b.c"])
def test_table_that_is_no_name_is_refused(command: Command, table: str):
    assert command("migrate", "--sql", "--tenants-table", table) == 2
    assert "write schema.table or schema.table(column)" in command.err


def test_printed_script_makes_the_key_as_well(empty_database: Database, command: Command):
    empty_database.execute("CREATE TABLE public.tenants (id uuid PRIMARY KEY)")
    empty_database.execute("ALTER TABLE public.tenants OWNER TO host_owner")
    options = ("--tenants-table", "public.tenants", "--on-delete", "restrict")
    assert command("migrate", "--sql", *options) == 0
    empty_database.server.run("psql", "-q", empty_database.owner, stdin=command.out)
    assert migrate(empty_database.owner) == []
    assert not add(empty_database, on_delete="restrict")
