"""Questions asked under row-level security, as a reader, and without policies, as the superuser.

The superuser names the tenant in the query; the reader's own policy does. Both ask in turn, over
connections that are open, and each query is planned anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks import servers
from benchmarks.filling import STEP, fill
from benchmarks.results import Goal, Measurement, Section, at_most
from benchmarks.workload import TENANT

READER = "benchmark_reader"
TENANTS, TYPES = 100, 10
LIMIT = 1.5

QUERIES: dict[str, LiteralString] = {
    "activity feed, newest 50": """
        SELECT id, name, created_at, actor_id, data FROM tenantry.events WHERE {tenant}
         ORDER BY created_at DESC, id DESC LIMIT 50
    """,
    "time series of one name, a week by hours": """
        SELECT date_trunc('hour', created_at), sum(1 / sample_rate) FROM tenantry.events
         WHERE {tenant} AND name = 'event_3' AND created_at >= now() - interval '7 days'
         GROUP BY 1 ORDER BY 1
    """,
    "tail by watermark, the last page": """
        SELECT id, name, created_at, data FROM tenantry.events
         WHERE {tenant} AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
           AND (transaction_id, id) > ('{since}'::xid8, '{zero}'::uuid)
         ORDER BY transaction_id, id LIMIT 1000
    """,
}
_ZERO = "00000000-0000-0000-0000-000000000000"


def measure(*, rounds: int, rows: int) -> Section:
    with servers.start("embedded") as server:
        server.migrate("tenantry")
        server.execute(f"CREATE ROLE {READER} LOGIN", f"GRANT tenantry_reader TO {READER}")
        fill(server, "tenantry", rows, tenants=TENANTS, types=TYPES)
        with (
            psycopg.connect(make_conninfo(server.superuser, user=READER)) as reader,
            psycopg.connect(server.superuser) as superuser,
        ):
            for connection in (reader, superuser):
                connection.prepare_threshold = None
            reader.execute("SELECT set_config('tenantry.tenant_id', %s, false)", [TENANT])
            reader.commit()
            since = _last_page(superuser, min(rows, STEP))
            measurements: list[Measurement] = []
            ratios: list[float] = []
            notes: list[str] = []
            scanned = 0
            for name, query in QUERIES.items():
                filled = {"since": since, "zero": _ZERO}
                secured = query.format(tenant="true", **filled)
                plain = query.format(tenant=f"tenant_id = '{TENANT}'", **filled)
                ours, theirs = ask_in_turn(reader, superuser, secured, plain, rounds)
                ratio = median(ours) / median(theirs)
                ratios.append(ratio)
                measurements += [
                    Measurement.of(f"{name}: reader", "ms", ours),
                    Measurement.of(f"{name}: without policies", "ms", theirs),
                    Measurement.of(f"{name}: ratio", "x", [ratio]),
                ]
                ways = ways_of(reader, secured)
                scanned += any(way.startswith("Seq Scan") for way in ways)
                notes.append(f"{name}: {', '.join(sorted(ways))}")
    return Section(
        f"Reading {rows:,} rows under row-level security, {server.name}",
        tuple(measurements),
        goals(max(ratios), scanned),
        tuple(notes),
    )


def goals(ratio: float | None = None, scanned: int | None = None) -> tuple[Goal, ...]:
    return (
        at_most("a query under row-level security / without, the worst", LIMIT, " x", ratio),
        at_most("queries that read a whole partition", 0, "", scanned),
    )


def ask_in_turn(
    reader: psycopg.Connection, superuser: psycopg.Connection, secured: str, plain: str, rounds: int
) -> tuple[list[float], list[float]]:
    """Give the milliseconds of each; raise unless both are told the same."""
    spent: tuple[list[float], list[float]] = [], []
    for number in range(rounds + 1):
        told: list[Any] = []
        for times, connection, query in (
            (spent[0], reader, secured),
            (spent[1], superuser, plain),
        ):
            begin = time.perf_counter()
            told.append(connection.execute(query.encode()).fetchall())
            if number:  # the first fills caches
                times.append((time.perf_counter() - begin) * 1e3)
            connection.commit()
        if not told[0] or told[0] != told[1]:
            raise RuntimeError(f"the reader is told something else: {secured}")
    return spent


def ways_of(connection: psycopg.Connection, query: str) -> set[str]:
    """Name how the plan reads those partitions in which it finds rows."""
    row = connection.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + query.encode()).fetchone()
    connection.commit()
    if row is None:
        raise RuntimeError(f"no plan for {query}")
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    ways: set[str] = set()
    for node in _nodes(plan[0]["Plan"]):
        touched = node.get("Actual Rows", 0) or node.get("Rows Removed by Filter", 0)
        if touched and node.get("Relation Name", "").startswith("events"):
            index = node.get("Index Name") or " ".join(
                each["Index Name"] for each in node.get("Plans", ()) if "Index Name" in each
            )
            kind = index.partition("_tenant_id")[2] and "by tenant and name"
            ways.add(f"{node['Node Type']} {kind or ('by primary key' if index else '')}".strip())
    return ways


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _last_page(connection: psycopg.Connection, rows: int) -> str:
    """Find the transaction before the one that stored the last rows: its page is what is new."""
    found = connection.execute(
        "SELECT max(transaction_id)::text, count(*) FROM tenantry.events WHERE tenant_id = %s"
        " AND transaction_id = (SELECT max(transaction_id) FROM tenantry.events)",
        [TENANT],
    ).fetchone()
    connection.commit()
    if found is None or found[1] < rows // TENANTS // 2:
        raise RuntimeError(f"the table was not filled as it should be: {found}")
    return str(int(found[0]) - 1)
