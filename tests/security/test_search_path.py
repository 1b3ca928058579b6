"""Objects of our names in schemas that somebody else may create in: none of them is ever called."""

from __future__ import annotations

import math
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.host_tables import parse_table
from tenantry.database.installed import read_installed
from tenantry.database.migrate import migrate, sql, status
from tenantry.database.tenant_key import add_tenant_key, drop_tenant_key, has_platform_row
from tenantry.exporters.handover import insert_sync
from tenantry.exporters.postgres import PostgresExporter
from tests.cli.commands import Command
from tests.database.adoptions import adopter, insert_old, make_old_table
from tests.exporters.batches import TENANT, make_batch, make_event, make_line
from tests.fix_postgres import Database

# A function that is found under the same name and fits the arguments better than PostgreSQL's own,
# whose arguments are polymorphic, is the one that is called (CVE-2018-1058).
TRAPS = """
CREATE TABLE {schema}.sprung (login name, trap text);
GRANT ALL ON {schema}.sprung TO PUBLIC;
GRANT ALL ON SCHEMA {schema} TO PUBLIC;
CREATE FUNCTION {schema}.spring(trap text) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO {schema}.sprung VALUES (session_user, trap) $$;
CREATE FUNCTION {schema}.count_up(bigint, jsonb) RETURNS bigint LANGUAGE sql AS
    $$ SELECT {schema}.spring('count'); SELECT $1 + 1 $$;
CREATE AGGREGATE {schema}.count(jsonb) (sfunc = {schema}.count_up, stype = bigint, initcond = 0);
CREATE FUNCTION {schema}.collect_names(json, name, name) RETURNS json LANGUAGE sql AS
    $$ SELECT {schema}.spring('json_object_agg'); SELECT '{{}}'::json $$;
CREATE AGGREGATE {schema}.json_object_agg(name, name)
    (sfunc = {schema}.collect_names, stype = json, initcond = '{{}}');
CREATE FUNCTION {schema}.collect_counts(jsonb, text, numeric) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT {schema}.spring('jsonb_object_agg'); SELECT '{{}}'::jsonb $$;
CREATE AGGREGATE {schema}.jsonb_object_agg(text, numeric)
    (sfunc = {schema}.collect_counts, stype = jsonb, initcond = '{{}}');
CREATE FUNCTION {schema}.collect_texts(text[], text) RETURNS text[] LANGUAGE sql AS
    $$ SELECT {schema}.spring('array_agg'); SELECT $1 || $2 $$;
CREATE AGGREGATE {schema}.array_agg(text)
    (sfunc = {schema}.collect_texts, stype = text[], initcond = '{{}}');
CREATE FUNCTION {schema}.unnest(name[]) RETURNS SETOF name LANGUAGE sql AS
    $$ SELECT {schema}.spring('unnest'); SELECT pg_catalog.unnest($1) $$;
CREATE FUNCTION {schema}.jsonb_build_array(jsonb) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT {schema}.spring('jsonb_build_array'); SELECT pg_catalog.jsonb_build_array($1) $$;
CREATE FUNCTION {schema}.format(text, text) RETURNS text LANGUAGE sql AS
    $$ SELECT {schema}.spring('format'); SELECT pg_catalog.format($1, $2) $$;
CREATE FUNCTION {schema}.multiply(numeric, integer) RETURNS numeric LANGUAGE sql AS
    $$ SELECT {schema}.spring('*'); SELECT $1 OPERATOR(pg_catalog.*) $2::numeric $$;
CREATE OPERATOR {schema}.* (leftarg = numeric, rightarg = integer, function = {schema}.multiply);
CREATE FUNCTION {schema}.join_texts(bigint, text) RETURNS text LANGUAGE sql AS
    $$ SELECT {schema}.spring('||'); SELECT pg_catalog.concat($1, $2) $$;
CREATE OPERATOR {schema}.|| (leftarg = bigint, rightarg = text, function = {schema}.join_texts);
CREATE FUNCTION {schema}.add(bigint, numeric) RETURNS numeric LANGUAGE sql AS
    $$ SELECT {schema}.spring('+'); SELECT $1::numeric OPERATOR(pg_catalog.+) $2 $$;
CREATE OPERATOR {schema}.+ (leftarg = bigint, rightarg = numeric, function = {schema}.add);
CREATE FUNCTION {schema}.equal(bigint, numeric) RETURNS boolean LANGUAGE sql AS
    $$ SELECT {schema}.spring('='); SELECT $1::numeric OPERATOR(pg_catalog.=) $2 $$;
CREATE OPERATOR {schema}.= (leftarg = bigint, rightarg = numeric, function = {schema}.equal);
CREATE FUNCTION {schema}.upper(int8range) RETURNS bigint LANGUAGE sql AS
    $$ SELECT {schema}.spring('upper'); SELECT 1::bigint $$;
CREATE FUNCTION {schema}.holds(int8multirange, bigint) RETURNS boolean LANGUAGE sql AS
    $$ SELECT {schema}.spring('@>'); SELECT true $$;
CREATE OPERATOR {schema}.@> (
    leftarg = int8multirange, rightarg = bigint, function = {schema}.holds);
CREATE FUNCTION {schema}.to_jsonb(tenantry.journal_cursors) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT {schema}.spring('to_jsonb'); SELECT pg_catalog.to_jsonb($1) $$;
"""

# What is found only where the schema stands in front of pg_catalog: the very same signature.
TWINS = """
CREATE FUNCTION {schema}.is_seen(text) RETURNS boolean LANGUAGE sql AS
    $$ SELECT {schema}.spring('text'); SELECT true $$;
CREATE DOMAIN {schema}.text AS pg_catalog.text CHECK ({schema}.is_seen(VALUE));
CREATE FUNCTION {schema}.is_seen(uuid) RETURNS boolean LANGUAGE sql AS
    $$ SELECT {schema}.spring('uuid'); SELECT true $$;
CREATE DOMAIN {schema}.uuid AS pg_catalog.uuid CHECK ({schema}.is_seen(VALUE));
CREATE FUNCTION {schema}.jsonb_to_recordset(jsonb) RETURNS SETOF record LANGUAGE sql AS
    $$ SELECT {schema}.spring('jsonb_to_recordset'); SELECT 1, 2 $$;
CREATE FUNCTION {schema}.jsonb_to_record(jsonb) RETURNS record LANGUAGE sql AS
    $$ SELECT {schema}.spring('jsonb_to_record'); SELECT 1, 2 $$;
CREATE FUNCTION {schema}.now() RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT {schema}.spring('now'); SELECT pg_catalog.now() $$;
CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT {schema}.spring('clock_timestamp'); SELECT pg_catalog.clock_timestamp() $$;
CREATE FUNCTION {schema}.current_setting(pg_catalog.text, boolean) RETURNS pg_catalog.text
    LANGUAGE sql AS $$ SELECT '018f6f0e-0000-7000-8000-000000000001'::pg_catalog.text $$;
CREATE FUNCTION {schema}.equal(pg_catalog.uuid, pg_catalog.uuid) RETURNS boolean LANGUAGE sql AS
    $$ SELECT true $$;
CREATE OPERATOR {schema}.= (
    leftarg = pg_catalog.uuid, rightarg = pg_catalog.uuid, function = {schema}.equal);
"""

IN_FRONT = "evil, pg_catalog"


@pytest.fixture
def public_with_traps(own_database: Database) -> Iterator[Database]:
    """A migrated database whose public schema is open to all, as before PostgreSQL 15."""
    own_database.execute(TRAPS.format(schema="public"))
    yield own_database
    own_database.execute("DROP SCHEMA public CASCADE")
    own_database.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
    own_database.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


def sprung(database: Database, schema: str) -> set[str]:
    return {trap for (trap,) in database.execute(f"SELECT trap FROM {schema}.sprung")}


def store_one(dsn: str, line: bytes) -> None:
    exporter = PostgresExporter(dsn)
    try:
        outcome = exporter.export(make_batch([line]), math.inf)
    finally:
        exporter.close()
    assert outcome.stored == 1


def insert_one(dsn: str) -> None:
    import json

    with psycopg.connect(dsn) as connection:
        document = json.dumps(make_event()).encode()
        insert_sync(connection, document, schema="tenantry", tenant_type="uuid")


def test_traps_work(public_with_traps: Database):
    public_with_traps.execute("SELECT json_object_agg('a'::name, 'b'::name)")
    assert sprung(public_with_traps, "public") == {"json_object_agg"}


def test_writing_calls_nothing_of_public(public_with_traps: Database):
    store_one(public_with_traps.writer, make_line())
    insert_one(public_with_traps.writer)
    assert sprung(public_with_traps, "public") == set()


def test_migrating_calls_nothing_of_public(public_with_traps: Database):
    public_with_traps.execute("DROP SCHEMA tenantry CASCADE")
    migrate(public_with_traps.owner)
    assert not status(public_with_traps.owner).pending
    assert sprung(public_with_traps, "public") == set()


def test_printed_migrations_call_nothing_of_public(public_with_traps: Database):
    public_with_traps.execute("DROP SCHEMA tenantry CASCADE")
    public_with_traps.server.run("psql", "-q", public_with_traps.owner, stdin=sql())
    assert not status(public_with_traps.owner).pending
    assert sprung(public_with_traps, "public") == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["tail"],
        ["tail", "--tenant", TENANT],
        ["stats"],
        ["rejected", "list"],
        ["rejected", "list", "--tenant", TENANT],
        ["rejected", "retry", "--all"],
        ["rejected", "discard", "--all", "--yes"],
        ["maintain", "--after", "0s"],
        ["erase", "--tenant", TENANT],
        ["erase", "--tenant", TENANT, "--yes"],
        ["erase", "--tenant", TENANT, "--actor", "user:1", "--yes"],
    ],
    ids=" ".join,
)
def test_command_calls_nothing_of_public(
    public_with_traps: Database, command: Command, arguments: list[str], tmp_path
):
    public_with_traps.execute(
        "INSERT INTO tenantry.rejected_events (id, tenant_id, created_at, reason, event)"
        " VALUES (gen_random_uuid(), %s, now(), 'database', %s::jsonb)",
        [TENANT, make_line().decode()],
    )
    public_with_traps.execute(
        "INSERT INTO tenantry.journal_cursors SELECT gen_random_uuid(), 0, 0, 1, 0, 0, 0,"
        " '{\"full\": 1}', 0, 0, 0, 's', 'h:1', now(), now(), now() FROM generate_series(1, 2)"
    )
    journal = ["--journal", str(tmp_path)] if arguments[0] in {"stats", "erase"} else []
    command(*arguments, "--dsn", public_with_traps.owner, *journal)
    assert command.err == "" or "Traceback" not in command.err
    assert sprung(public_with_traps, "public") == set()


@pytest.fixture
def evil_in_front(own_database: Database) -> Database:
    """A migrated database with a schema of somebody else's, to be searched before all others."""
    own_database.execute("CREATE SCHEMA evil")
    own_database.execute(TRAPS.format(schema="evil"))
    own_database.execute(TWINS.format(schema="evil"))
    return own_database


def with_path(dsn: str) -> str:
    return make_conninfo(dsn, options=f"-c search_path={IN_FRONT.replace(' ', '')}")


def test_rows_are_written_with_types_and_functions_of_postgresql_alone(evil_in_front: Database):
    line = make_line()
    store_one(with_path(evil_in_front.writer), line)
    insert_one(with_path(evil_in_front.writer))
    assert sprung(evil_in_front, "evil") == set()
    assert evil_in_front.execute("SELECT count(*) FROM tenantry.events") == [(2,)]


def test_migrating_ignores_the_search_path(evil_in_front: Database):
    evil_in_front.execute("DROP SCHEMA tenantry CASCADE")
    migrate(with_path(evil_in_front.owner))
    assert sprung(evil_in_front, "evil") == set()


def adopt_and_refer(database: Database, dsn: str) -> None:
    make_old_table(database)
    insert_old(database)
    database.execute("CREATE TABLE public.tenants (id uuid PRIMARY KEY)")
    database.execute("INSERT INTO public.tenants VALUES (%s)", [TENANT])
    database.execute("ALTER TABLE public.tenants OWNER TO host_owner")
    tenants = parse_table("public.tenants")
    with adopter(dsn) as running:
        connection, installed = running._connection, read_installed(running._connection, "tenantry")
        assert installed is not None
        assert running.run() == running.run()
        assert add_tenant_key(connection, "tenantry", installed, tenants, "cascade", timeout=20)
        assert not has_platform_row(connection, installed, tenants)
        assert drop_tenant_key(connection, "tenantry", timeout=20)


def test_adopting_and_referring_to_tenants_call_nothing_of_public(public_with_traps: Database):
    adopt_and_refer(public_with_traps, public_with_traps.owner)
    assert sprung(public_with_traps, "public") == set()


def test_adopting_and_referring_to_tenants_ignore_the_search_path(evil_in_front: Database):
    adopt_and_refer(evil_in_front, with_path(evil_in_front.owner))
    assert sprung(evil_in_front, "evil") == set()


def test_policies_ignore_the_search_path(evil_in_front: Database):
    evil_in_front.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
        " VALUES (gen_random_uuid(), %s, 'x', now())",
        [TENANT],
    )
    with psycopg.connect(with_path(evil_in_front.reader)) as connection:
        assert connection.execute("SELECT * FROM tenantry.events").fetchall() == []


def test_temporary_tables_stand_for_no_table_of_the_catalogue(own_database: Database):
    with psycopg.connect(own_database.writer) as connection:
        for table in ("pg_namespace", "pg_class", "pg_policy"):
            connection.execute(f"CREATE TEMPORARY TABLE {table} (LIKE pg_catalog.{table})")
        installed = read_installed(connection, "tenantry")
    assert installed is not None
    assert installed.is_writer


def test_temporary_table_of_the_same_name_stands_for_nothing(own_database: Database):
    with psycopg.connect(own_database.writer) as connection:
        connection.execute("CREATE TEMPORARY TABLE events (id uuid, tenant_id uuid, name text)")
        document = make_line()
        insert_sync(connection, document, schema="tenantry", tenant_type="uuid")
        assert connection.execute("SELECT * FROM events").fetchall() == []
    assert own_database.execute("SELECT count(*) FROM tenantry.events") == [(1,)]
