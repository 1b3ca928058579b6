"""What a call and a stored row cost as tables, tenants, partitions and event types grow in number.

``python -m benchmarks.growth ROOT EVENTS TENANTS TYPES`` measures the calls in a process of its
own, and leaves a journal behind, as a killed process does; the parent stores it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psycopg
import uuid_utils
from psycopg import sql

from benchmarks import servers
from benchmarks.filling import fill, renew
from benchmarks.processes import run_module
from benchmarks.results import Chart, Goal, Measurement, Section, Series, at_most
from benchmarks.servers import Server
from benchmarks.shipping import DEADLINE, StuckExporter, read_batches
from benchmarks.workload import ACTOR, URL, tenant_id
from tenantry import Event, Pipeline, Taxonomy, log_event, tenant
from tenantry.exporters import Batch
from tenantry.exporters.postgres import PostgresExporter

EVENTS = 10_000
TENANTS = (1, 100, 10_000)
PARTITIONS = (1, 60)
TYPES = (10, 1000)
USUAL_TENANTS, USUAL_TYPES = 100, 10
LIMIT = 1.5
"""How much dearer the dearest may be: flat, but for the noise of a small machine."""


def measure(*, rounds: int, table_rows: Sequence[int]) -> Section:
    calls: dict[tuple[int, int], list[float]] = {}
    journals: dict[tuple[int, int], list[Batch]] = {}
    kinds = [(n, USUAL_TYPES) for n in TENANTS] + [(USUAL_TENANTS, n) for n in TYPES]
    for number in range(rounds):
        for kind in dict.fromkeys(kinds):
            with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as root:
                found = run_module("benchmarks.growth", root, str(EVENTS), *map(str, kind))
                calls.setdefault(kind, []).append(found["cpu"])
                if number == 0:
                    journals[kind], _ = read_batches(Path(root))
    usual = USUAL_TENANTS, USUAL_TYPES
    with servers.start("embedded") as server:
        tables = {f"rows_{rows}": usual for rows in table_rows}
        tables |= {f"partitions_{n}": usual for n in PARTITIONS}
        tables |= {f"kinds_{a}_{b}": (a, b) for a, b in journals}
        server.migrate(*tables)
        for rows in table_rows:
            fill(server, f"rows_{rows}", rows, tenants=USUAL_TENANTS, types=USUAL_TYPES)
        for count in PARTITIONS:
            partition(server, f"partitions_{count}", count)
        stored: dict[str, list[float]] = {name: [] for name in tables}
        for number in range(rounds + 1):
            for name, kind in tables.items() if number % 2 == 0 else reversed(tables.items()):
                spent = store(server, name, journals[kind])
                if number:  # the first warms up
                    stored[name].append(spent)
    return report(server.name, table_rows, calls, stored)


def report(
    server: str,
    table_rows: Sequence[int],
    calls: dict[tuple[int, int], list[float]],
    stored: dict[str, list[float]],
) -> Section:
    by_call = {
        "tenants": {n: calls[n, USUAL_TYPES] for n in TENANTS},
        "event types": {n: calls[USUAL_TENANTS, n] for n in TYPES},
    }
    by_row = {
        "rows in the table": {n: stored[f"rows_{n}"] for n in table_rows},
        "tenants": {n: stored[f"kinds_{n}_{USUAL_TYPES}"] for n in TENANTS},
        "partitions": {n: stored[f"partitions_{n}"] for n in PARTITIONS},
        "event types": {n: stored[f"kinds_{USUAL_TENANTS}_{n}"] for n in TYPES},
    }
    measurements = [
        Measurement.of(f"{what}, {n:,} {of}", unit, values)
        for what, unit, grown in (
            ("a call", "us CPU", by_call),
            ("a stored row", "us", by_row),
        )
        for of, found in grown.items()
        for n, values in found.items()
    ]
    ratios = {
        f"{what}, from least to most {of}": median(found[max(found)]) / median(found[min(found)])
        for what, grown in (("a call", by_call), ("a stored row", by_row))
        for of, found in grown.items()
    }
    return Section(
        f"As it grows, {server}",
        (*measurements, *(Measurement.of(name, "x", [ratio]) for name, ratio in ratios.items())),
        goals(max(ratios.values())),
        ("A call knows of no table: it ends in the journal. Rows are stored in batches.",),
        (
            _chart("A call", "us of CPU", by_call),
            _chart("A stored row", "us", by_row),
        ),
    )


def goals(ratio: float | None = None) -> tuple[Goal, ...]:
    return (at_most("a call or a stored row, from least to most, the worst", LIMIT, " x", ratio),)


def _chart(title: str, unit: str, grown: dict[str, dict[int, list[float]]]) -> Chart:
    series = tuple(
        Series(of, tuple(map(float, found)), tuple(median(values) for values in found.values()))
        for of, found in grown.items()
    )
    return Chart(f"{title}, as it grows", "how many (logarithmic)", unit, series)


def partition(server: Server, schema: str, count: int) -> None:
    """Give a table that many months, the current one among them."""
    with psycopg.connect(server.superuser, autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP TABLE {}").format(sql.Identifier(schema, "events_default"))
        )
        names = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass"
            " ORDER BY inhrelid::regclass::text",
            [f"{schema}.events"],
        ).fetchall()
        keep = {names[1][0]} if count == 1 else {name for (name,) in names}
        for (name,) in names:
            if name not in keep:
                connection.execute(
                    sql.SQL("DROP TABLE {}").format(sql.Identifier(*name.split(".")))
                )
        for number in range(count - len(keep)):
            begin = f"{2100 + number // 12}-{number % 12 + 1:02}-01T00:00:00Z"
            after = number + 1
            end = f"{2100 + after // 12}-{after % 12 + 1:02}-01T00:00:00Z"
            connection.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                    sql.Identifier(schema, f"events_{2100 + number // 12}_{number % 12 + 1:02}"),
                    sql.Identifier(schema, "events"),
                    begin,
                    end,
                )
            )


def store(server: Server, schema: str, batches: list[Batch]) -> float:
    """Store all batches anew; gives the elapsed microseconds a row."""
    rows = sum(len(batch.events) for batch in batches)
    fresh = renew(batches, str(uuid_utils.uuid7()), [str(uuid_utils.uuid7()) for _ in range(rows)])
    exporter = PostgresExporter(server.writer, schema=schema)
    exporter.check(time.monotonic() + DEADLINE)
    begin = time.perf_counter()
    outcomes = [exporter.export(batch, time.monotonic() + DEADLINE) for batch in fresh]
    spent = time.perf_counter() - begin
    exporter.close()
    if sum(outcome.stored for outcome in outcomes) != rows:
        raise RuntimeError(f"not all was stored: {outcomes}")
    return spent / rows * 1e6


def emit(root: str, events: int, tenants: int, types: int) -> None:
    """Log facts of all tenants and types, in turn, and print what a call costs; never returns."""
    body = {"__annotations__": {"source_type": str, "url": str}, "__module__": __name__}
    names = [f"event_{number}" for number in range(types)]
    pipeline = Pipeline(
        exporter=StuckExporter(),
        taxonomy=Taxonomy([type(Event)(n, (Event,), dict(body), name=n) for n in names]),
        journal=root,
        service="benchmark",
    )
    ids = [tenant_id(number) for number in range(tenants)]
    with pipeline:
        for number in range(max(2000, types)):
            with tenant(ids[number % tenants], actor=ACTOR):
                log_event(names[number % types], source_type="web", url=URL)
        begin = time.thread_time()
        for number in range(events):
            with tenant(ids[number % tenants], actor=ACTOR):
                log_event(names[number % types], source_type="web", url=URL)
        spent = time.thread_time() - begin
    print(json.dumps({"cpu": spent / events * 1e6}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    emit(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
