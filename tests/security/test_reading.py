"""Every road to a row of another tenant, for application code and for a login with SQL of its own.

Not promised, and said so in the page on security: estimates and sizes.
"""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import errors

from tests.fix_postgres import Database
from tests.security.tenants import COUNTED, OURS, SECRET, THEIRS, Attacker, add_rows, bind

DENIED = errors.InsufficientPrivilege
RELATIONS = """
    SELECT quote_ident(nspname) || '.' || quote_ident(relname), relkind::text
      FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
     WHERE nspname = 'tenantry' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
"""


def test_no_relation_shows_another_tenant(attacker: Attacker):
    """All that is in the schema, by name: partitions, views and whatever is added later."""
    relations = attacker.database.execute(RELATIONS)
    assert len(relations) > 25
    for relation, _ in relations:
        with attacker.connect() as connection:
            try:
                rows = connection.execute(f"SELECT t::text FROM {relation} AS t").fetchall()
            except DENIED:
                continue
        assert not [row for (row,) in rows if THEIRS in row or SECRET in row], relation


def test_no_partition_can_be_read_by_name(attacker: Attacker):
    for relation, _ in attacker.database.execute(
        RELATIONS + " AND pg_class.oid IN (SELECT inhrelid FROM pg_inherits)"
    ):
        with attacker.connect() as connection, pytest.raises(DENIED):
            connection.execute(f"SELECT count(*) FROM {relation}")


def test_schema_holds_no_view_function_trigger_or_large_object(two_tenants: Database):
    """What is not there leaks nothing; who adds one adds its tests here."""
    assert not [name for name, kind in two_tenants.execute(RELATIONS) if kind not in {"r", "p"}]
    for query in (
        "SELECT proname FROM pg_proc WHERE pronamespace = 'tenantry'::regnamespace",
        (
            "SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
            " WHERE relnamespace = 'tenantry'::regnamespace"
        ),
        (
            "SELECT rulename FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class"
            " WHERE relnamespace = 'tenantry'::regnamespace"
        ),
        "SELECT loid FROM pg_largeobject",
    ):
        assert two_tenants.execute(query) == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM tenantry.{} WHERE tenant_id::text = '{theirs}'",
        "SELECT count(*) FROM tenantry.{} WHERE name = '{secret}'",
        "SELECT count(*) FROM (SELECT * FROM tenantry.{} OFFSET 4) AS beyond WHERE true",
        (
            "SELECT count(*) FROM (SELECT * FROM tenantry.{} ORDER BY tenant_id DESC"
            " OFFSET 4 LIMIT 100000) AS beyond"
        ),
        (
            "SELECT count(*) FROM tenantry.{} WHERE EXISTS (SELECT FROM tenantry.{} AS other"
            " WHERE other.tenant_id::text = '{theirs}')"
        ),
        (
            "SELECT count(*) FROM tenantry.{} TABLESAMPLE SYSTEM (100)"
            " WHERE tenant_id::text <> '{ours}'"
        ),
        "SELECT count(*) FROM tenantry.{} AS t WHERE t::text LIKE '%{secret}%'",
        (
            "SELECT count(*) FROM tenantry.{} WHERE tableoid IS NOT NULL"
            " AND tenant_id::text <> '{ours}'"
        ),
    ],
    ids=["by id", "by name", "offset", "order", "exists", "sample", "whole row", "tableoid"],
)
def test_query_counts_no_row_of_another_tenant(attacker: Attacker, query: str):
    for table in COUNTED:
        text = query.replace("{}", table).format(ours=OURS, theirs=THEIRS, secret=SECRET)
        with attacker.connect() as connection:
            assert connection.execute(text).fetchone() == (0,), table


@pytest.mark.parametrize("table", COUNTED)
def test_copy_to_gives_the_rows_of_the_tenant_alone(attacker: Attacker, table: str):
    with attacker.connect() as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY (SELECT * FROM tenantry.{table}) TO STDOUT") as copy:
            through_query = b"".join(bytes(part) for part in copy)
        with cursor.copy(f"COPY tenantry.{table} (tenant_id) TO STDOUT") as copy:
            through_table = b"".join(bytes(part) for part in copy)
    assert OURS.encode() in through_query
    assert THEIRS.encode() not in through_query + through_table
    assert SECRET.encode() not in through_query


def test_declared_and_prepared_statements_see_the_tenant_of_their_execution(
    two_tenants: Database,
):
    with psycopg.connect(two_tenants.reader, autocommit=True) as connection:
        connection.execute("PREPARE feed AS SELECT DISTINCT tenant_id::text FROM tenantry.events")
        for _ in range(7):  # from the sixth on with a generic plan
            for tenant in (OURS, THEIRS):
                with connection.transaction():
                    connection.execute(
                        "SELECT set_config('tenantry.tenant_id', %s, true)", [tenant]
                    )
                    assert connection.execute("EXECUTE feed").fetchall() == [(tenant,)]
        assert connection.execute("EXECUTE feed").fetchall() == []


def test_cursor_with_hold_shows_what_its_transaction_could_see(attacker: Attacker):
    with attacker.connect() as connection:
        connection.execute(
            "DECLARE held CURSOR WITH HOLD FOR SELECT tenant_id::text FROM tenantry.events"
        )
        connection.commit()
        assert {row[0] for row in connection.execute("FETCH ALL FROM held")} == {OURS}


# Functions that tell what they are given, and errors that quote it.


@pytest.mark.parametrize("table", COUNTED)
def test_function_that_tells_each_row_is_given_none_of_theirs(attacker: Attacker, table: str):
    told: list[str] = []
    with attacker.connect() as connection:
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        connection.execute(
            "CREATE FUNCTION pg_temp.tell(value text) RETURNS boolean LANGUAGE plpgsql COST 0.0001"
            " AS $$ BEGIN RAISE NOTICE '%', value; RETURN true; END $$"
        )
        connection.execute(f"SELECT * FROM tenantry.{table} AS t WHERE pg_temp.tell(t::text)")
        connection.execute(
            f"SELECT * FROM tenantry.{table} AS t JOIN tenantry.{table} AS u"
            " ON pg_temp.tell(t.name || u.name)"
        )
    assert told
    assert not [line for line in told if THEIRS in line or SECRET in line]


def test_attacker_cannot_declare_a_function_leakproof(attacker: Attacker):
    with attacker.connect() as connection, pytest.raises(DENIED, match="leakproof"):
        connection.execute(
            "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE sql LEAKPROOF"
            " AS 'SELECT true'"
        )


@pytest.mark.parametrize(
    "condition",
    ["name::integer = 1", "1 / (length(name) - {length}) > 0", "(data->>'word')::integer = 1"],
)
def test_error_of_a_condition_quotes_no_row_of_theirs(attacker: Attacker, condition: str):
    condition = condition.format(length=len(SECRET))
    with attacker.connect() as connection:
        text = ""
        try:
            connection.execute(f"SELECT * FROM tenantry.events WHERE {condition}")
        except psycopg.Error as error:
            text = str(error)
    assert SECRET not in text
    assert "division by zero" not in text


@pytest.mark.parametrize("table", COUNTED)
def test_malformed_tenant_is_an_error_that_says_so(two_tenants: Database, table: str):
    with psycopg.connect(two_tenants.reader) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', 'no-uuid', true)")
        with pytest.raises(errors.InvalidTextRepresentation, match='type uuid: "no-uuid"'):
            connection.execute(f"SELECT * FROM tenantry.{table}")


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_reader_without_tenant_sees_nothing(two_tenants: Database, value: str | None):
    with psycopg.connect(two_tenants.reader) as connection:
        if value is not None:
            connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [value])
        for table in COUNTED:
            assert connection.execute(f"SELECT * FROM tenantry.{table}").fetchall() == []


def test_setting_left_on_a_connection_by_a_plain_set_is_what_the_next_one_sees(
    two_tenants: Database,
):
    """Why the pages say: for the transaction, never for the session."""
    with psycopg.connect(two_tenants.reader, autocommit=True) as connection:
        connection.execute("SELECT set_config('tenantry.tenant_id', %s, false)", [THEIRS])
        seen = connection.execute("SELECT DISTINCT tenant_id::text FROM tenantry.events")
        assert seen.fetchall() == [(THEIRS,)]
        connection.execute("DISCARD ALL")  # what a pool that resets its connections runs
        assert connection.execute("SELECT * FROM tenantry.events").fetchall() == []


# Roles and privileges.


@pytest.mark.parametrize(
    "role",
    [
        "tenantry_admin",
        "tenantry_maintainer",
        "tenantry_writer",
        "host_owner",
        "postgres",
        "bound_to_them",
    ],
)
def test_no_other_role_can_be_taken(attacker: Attacker, role: str):
    for statement in ("SET ROLE {}", "SET SESSION AUTHORIZATION {}", "GRANT {} TO CURRENT_USER"):
        with attacker.connect() as connection, pytest.raises(DENIED):
            connection.execute(statement.format(role))


@pytest.mark.parametrize(
    "statement",
    [
        "SET session_replication_role = replica",
        "ALTER TABLE tenantry.events DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE tenantry.events NO FORCE ROW LEVEL SECURITY",
        "ALTER POLICY reader ON tenantry.events USING (true)",
        "DROP POLICY reader ON tenantry.events",
        "CREATE POLICY mine ON tenantry.events USING (true)",
        "ALTER TABLE tenantry.events OWNER TO CURRENT_USER",
        "CREATE TABLE tenantry.mine ()",
        "CREATE FUNCTION tenantry.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE RULE mine AS ON SELECT TO tenantry.events DO INSTEAD SELECT 1",
        (
            "CREATE TRIGGER mine AFTER INSERT ON tenantry.events"
            " EXECUTE FUNCTION tsvector_update_trigger()"
        ),
        (
            "CREATE TABLE pg_temp.mine (id uuid, t uuid, c timestamptz,"
            " FOREIGN KEY (t, c, id) REFERENCES tenantry.events (tenant_id, created_at, id))"
        ),
        "CREATE INDEX ON tenantry.events (name)",
        "CREATE STATISTICS mine ON name, phase FROM tenantry.events",
        "GRANT SELECT ON tenantry.events TO PUBLIC",
        "ALTER DATABASE test_shared SET tenantry.tenant_id = ''",
        "COPY tenantry.events TO '/tmp/events'",
        "COPY tenantry.events TO PROGRAM 'cat'",
        "SELECT pg_read_file('PG_VERSION')",
        "ALTER ROLE CURRENT_USER BYPASSRLS",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "VACUUM FULL tenantry.events",
        "CLUSTER tenantry.events USING events_pkey",
        "REINDEX TABLE tenantry.events",
        "TRUNCATE tenantry.events",
        "REFRESH MATERIALIZED VIEW tenantry.events",
    ],
)
def test_attacker_may_not(attacker: Attacker, statement: str):
    with psycopg.connect(attacker.dsn, autocommit=True) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        try:
            connection.execute(statement)
        except (DENIED, errors.WrongObjectType, errors.InvalidTableDefinition):
            return
    # VACUUM and the like warn, and pass over what they may not touch.
    assert re.search("permission denied|skipping|no privileges were granted", "".join(notices))


def test_row_security_that_is_switched_off_is_an_error_and_no_way_in(attacker: Attacker):
    with attacker.connect() as connection:
        connection.execute("SET LOCAL row_security = off")
        with pytest.raises(DENIED, match="would be affected by row-level security"):
            connection.execute("SELECT * FROM tenantry.events")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM tenantry.{} FOR UPDATE",
        "SELECT * FROM tenantry.{} FOR KEY SHARE",
        "LOCK TABLE tenantry.{} IN ROW EXCLUSIVE MODE",
        "LOCK TABLE tenantry.{} IN SHARE MODE",
        "LOCK TABLE tenantry.{} IN ACCESS EXCLUSIVE MODE",
        "INSERT INTO tenantry.{} (tenant_id) VALUES ('" + OURS + "')",
        "UPDATE tenantry.{} SET name = 'x'",
        "DELETE FROM tenantry.{}",
        "TRUNCATE tenantry.{}",
    ],
)
def test_attacker_neither_locks_nor_writes(attacker: Attacker, statement: str):
    for table in COUNTED:
        with attacker.connect() as connection, pytest.raises(DENIED):
            connection.execute(statement.format(table))


def test_no_login_makes_the_setting_a_default_of_its_own(attacker: Attacker):
    """Else the next session of the application's login would begin with a tenant."""
    with attacker.connect() as connection, pytest.raises(DENIED, match=r"tenantry\.tenant_id"):
        connection.execute(f"ALTER ROLE CURRENT_USER SET tenantry.tenant_id = '{THEIRS}'")


# What the server tells beside rows.


def test_statistics_views_show_no_value_of_any_tenant(attacker: Attacker):
    attacker.database.execute("ANALYZE tenantry.events, tenantry.rejected_events, tenantry.ledger")
    try:
        with attacker.connect() as connection:
            for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"):
                query = f"SELECT * FROM {view} WHERE schemaname = 'tenantry'"
                assert connection.execute(query).fetchall() == []
            with pytest.raises(DENIED):
                connection.execute("SELECT * FROM pg_statistic")
    finally:
        attacker.database.execute("VACUUM tenantry.events")


def test_statements_of_other_logins_are_hidden(attacker: Attacker):
    with psycopg.connect(attacker.database.owner) as other:
        other.execute(f"SELECT '{SECRET}'")
        with attacker.connect() as connection:
            texts = connection.execute("SELECT query FROM pg_stat_activity").fetchall()
    assert not [text for (text,) in texts if text and SECRET in text]


def explain(connection: psycopg.Connection, query: str) -> str:
    lines = connection.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {query}").fetchall()
    return "\n".join(line for (line,) in lines)


@pytest.fixture
def crowded(attacker: Attacker) -> Attacker:
    """Return the attacker among 2,003 rows of theirs in one month."""
    attacker.database.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
        " SELECT gen_random_uuid(), %s, 'x', now() FROM generate_series(1, 2003)",
        [THEIRS],
    )
    attacker.database.execute("ANALYZE tenantry.events")
    return attacker


@pytest.mark.parametrize(
    "more", ["", " AND name = 'x'", " AND created_at > now() - interval '1 day'"]
)
def test_explain_analyze_of_another_tenant_reads_nothing(crowded: Attacker, more: str):
    """Two tenants contradict each other: the server sees it before it looks at a row."""
    with crowded.connect() as connection:
        query = f"SELECT * FROM tenantry.events WHERE tenant_id = '{THEIRS}'{more}"
        plan = explain(connection, query)
    assert "One-Time Filter" in plan
    assert not re.search(r"on events.*actual rows=[1-9]|Scan.*on events.*loops=1", plan), plan


def test_explain_analyze_without_indexes_tells_how_many_rows_all_others_have(crowded: Attacker):
    """A non-guarantee: a sequential scan counts what it passed over, as the catalogue does."""
    with crowded.connect() as connection:
        connection.execute("SET LOCAL enable_indexscan = off")
        connection.execute("SET LOCAL enable_bitmapscan = off")
        plan = explain(connection, f"SELECT * FROM tenantry.events WHERE tenant_id >= '{THEIRS}'")
        total = connection.execute(
            "SELECT sum(reltuples) FROM pg_class WHERE relnamespace = 'tenantry'::regnamespace"
            " AND relname ~ '^events_\\d' AND relkind = 'r'"
        ).fetchone()
    assert re.search(r"Rows Removed by Filter: 20\d\d", plan)
    assert total is not None
    assert total[0] > 2000


def test_owner_who_disables_a_policy_is_not_stopped(own_database: Database):
    """What no policy can prevent; the page on security says so."""
    add_rows(own_database)
    with psycopg.connect(own_database.owner) as owner:
        owner.execute("ALTER TABLE tenantry.events DISABLE ROW LEVEL SECURITY")
    dsn = bind(own_database, "bound_to_us", OURS)
    with psycopg.connect(dsn) as connection:
        seen = connection.execute("SELECT DISTINCT tenant_id::text FROM tenantry.events")
        assert {tenant for (tenant,) in seen} == {OURS, THEIRS}
