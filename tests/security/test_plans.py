"""One tenant among 200: under row-level security its queries read its own part of an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.migrate import migrate
from tests.fix_postgres import Database, Server, _find_database, _make_login
from tests.security.tenants import bind

ROWS = 200_000
TENANTS = 200
TENANT = "018f6f0e-0000-7000-8000-000000000001"
FILL = """
    INSERT INTO tenantry.events (id, tenant_id, name, created_at, data, duration_ms)
    SELECT ('018f6f0e-' || to_char(n %% 10000, 'FM0000') || '-7000-8000-'
            || to_char(n, 'FM000000000000'))::uuid,
           ('018f6f0e-0000-7000-8000-' || to_char(n %% %(tenants)s, 'FM000000000000'))::uuid,
           (ARRAY['ingest_started', 'ingest_completed', 'message_sent', 'quota_exceeded'])
               [n %% 7 %% 4 + 1],
           date_trunc('month', now()) - interval '25 days'
               + n * (interval '45 days' / %(rows)s), '{"docs": 3}', n %% 900
      FROM generate_series(0, %(rows)s - 1) AS n
"""

FEED = "SELECT * FROM tenantry.events ORDER BY created_at DESC, id DESC LIMIT 50"
PAGE = (
    "SELECT * FROM tenantry.events"
    " WHERE (created_at, id) < (now(), '018f6f0e-0000-7000-8000-000000000000')"
    " ORDER BY created_at DESC, id DESC LIMIT 50"
)
SERIES = (
    "SELECT date_trunc('hour', created_at), count(*), avg(duration_ms) FROM tenantry.events"
    " WHERE name = 'ingest_completed' AND created_at >= now() - interval '3 days'"
    " AND created_at < now() GROUP BY 1 ORDER BY 1"
)
QUERIES = {"feed": FEED, "next page": PAGE, "time series": SERIES}


def fill(dsn: str, rows: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        query = FILL.replace("%(tenants)s", str(TENANTS)).replace("%(rows)s", str(rows))
        connection.execute(query.replace("%%", "%").encode())
        connection.execute("VACUUM ANALYZE tenantry.events")


@pytest.fixture(scope="module", params=["postgres15", "postgres18"])
def crowded(request: pytest.FixtureRequest) -> Iterator[Database]:
    server: Server = request.getfixturevalue(request.param)
    database = _find_database(server, "test_plans")
    migrate(database.owner)
    with server.connect() as connection:
        _make_login(connection, "app_reader")
        connection.execute("GRANT tenantry_reader TO app_reader")
    fill(database.superuser, ROWS)
    yield database
    with server.connect() as connection:
        connection.execute("DROP DATABASE test_plans WITH (FORCE)")


@pytest.fixture(params=["reader", "bound"])
def login(request: pytest.FixtureRequest, crowded: Database) -> str:
    if request.param == "reader":
        return make_conninfo(crowded.reader, options=f"-c tenantry.tenant_id={TENANT}")
    return bind(crowded, "bound_in_a_crowd", TENANT)


def scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if node.get("Relation Name", "").startswith("events"):
        yield node
    for inner in node.get("Plans", ()):
        yield from scans(inner)


@pytest.mark.parametrize("query", QUERIES.values(), ids=list(QUERIES))
def test_query_reads_the_tenants_part_of_an_index(login: str, query: str):
    with psycopg.connect(login) as connection:
        row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    run = [node for node in scans(plan) if node["Actual Loops"] and node["Actual Rows"]]
    assert run, json.dumps(plan)
    for node in run:
        assert node["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}, node
        text = json.dumps(node)
        assert re.search(r'"(Index|Recheck) Cond": "[^"]*tenant_id = ', text), text
        assert not node.get("Rows Removed by Filter")
    assert sum(node["Actual Rows"] for node in run) <= ROWS / TENANTS


@pytest.mark.parametrize("query", QUERIES.values(), ids=list(QUERIES))
def test_tenant_of_the_policy_is_found_once_and_not_for_each_row(login: str, query: str):
    with psycopg.connect(login) as connection:
        row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").fetchone()
    assert row is not None

    def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for inner in node.get("Plans", ()):
            yield from walk(inner)

    looked_up = [n for n in walk(row[0][0]["Plan"]) if n.get("Relation Name") == "tenant_roles"]
    assert [node["Actual Loops"] for node in looked_up] == [1]


def test_feed_costs_the_same_number_of_rows_however_large_the_table(login: str):
    with psycopg.connect(login) as connection:
        row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {FEED}").fetchone()
    assert row is not None
    assert (
        sum(node["Actual Rows"] * node["Actual Loops"] for node in scans(row[0][0]["Plan"])) <= 51
    )
