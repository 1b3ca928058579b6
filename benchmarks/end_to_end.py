"""From the call to the table: how fast a process's events are stored, and how soon the first is.

``python -m benchmarks.end_to_end all DSN COUNT`` and ``… first DSN`` measure once, in a process of
their own, as a writer.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from statistics import median

import psycopg

from benchmarks import servers
from benchmarks.processes import run_module
from benchmarks.results import Goal, Measurement, Section, at_most, below
from benchmarks.workload import ACTOR, TAXONOMY, TENANT, URL, ingest
from tenantry import Pipeline, log_event, tenant
from tenantry.taxonomies.saas import QuotaExceeded

TIMEOUT = 60.0
WARM_UP = 1000
"""Calls before it counts: imports, caches, the connection, the statements' plans."""

POLL = 0.002
"""Seconds between two looks for the first event."""


def measure(*, rounds: int, first_rounds: int, rows: int) -> Section:
    with servers.start("embedded") as server:
        server.migrate("tenantry")
        writer, superuser = server.writer, server.superuser
        runs = []
        for _ in range(rounds):
            server.execute("TRUNCATE tenantry.events", "CHECKPOINT")
            runs.append(run_module("benchmarks.end_to_end", "all", writer, superuser, str(rows)))
        firsts = [
            run_module("benchmarks.end_to_end", "first", writer, superuser)
            for _ in range(first_rounds)
        ]
    seconds = [run["seconds"] for run in firsts]
    ratios = [run["all"] / run["caller"] for run in runs]
    return Section(
        f"End to end on {server.name}: {rows:,} events of one process, journal on disk",
        (
            Measurement.of("emitted", "events/s", [1 / run["emitted"] for run in runs]),
            Measurement.of(
                "stored, from the first call", "rows/s", [1 / r["stored"] for r in runs]
            ),
            Measurement.of("CPU of the caller", "us/event", [run["caller"] for run in runs]),
            Measurement.of("CPU of the whole process", "us/event", [run["all"] for run in runs]),
            Measurement.of("ratio whole process / caller", "x", ratios),
            Measurement.of("first event, from the call until a reader sees it", "s", seconds),
        ),
        goals(max(seconds), median(ratios)),
        ("The first event: the goal is of the slowest of the rounds; each connects anew.",),
    )


def goals(slowest: float | None = None, ratio: float | None = None) -> tuple[Goal, ...]:
    return (
        below("first event stored, default interval", 1, " s", slowest),
        at_most("CPU of emitting and shipping / of the caller alone", 1.5, " x", ratio),
    )


def make_pipeline(dsn: str, journal: str) -> Pipeline:
    return Pipeline(dsn=dsn, taxonomy=TAXONOMY, journal=journal, service="benchmark")


def emit_all(writer: str, superuser: str, rows: int) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as journal,
        make_pipeline(writer, journal) as pipeline,
        tenant(TENANT, actor=ACTOR),
    ):
        for _ in range(WARM_UP):
            ingest("web", URL)
        pipeline.flush(TIMEOUT)
        begin, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
        for _ in range(rows // 2 - WARM_UP):
            ingest("web", URL)
        emitted, own = time.perf_counter() - begin, time.thread_time() - own
        report = pipeline.flush(TIMEOUT)
        stored, cpu = time.perf_counter() - begin, time.process_time() - cpu
        pipeline.shutdown()
    with psycopg.connect(superuser) as connection:
        found = connection.execute("SELECT count(*) FROM tenantry.events").fetchone()
    if not report or found != (rows,):
        raise RuntimeError(f"not all was stored: {report}, {found} of {rows} rows")
    events = rows - 2 * WARM_UP
    per_event = {"caller": own / events * 1e6, "all": cpu / events * 1e6}
    return {"emitted": emitted / events, "stored": stored / events, **per_event}


def emit_first(writer: str, superuser: str) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as journal,
        make_pipeline(writer, journal) as pipeline,
        tenant(TENANT),
        psycopg.connect(superuser, autocommit=True) as connection,
    ):
        query = "SELECT FROM tenantry.events WHERE id = %s"
        connection.execute(query, [TENANT])  # planned and connected beforehand
        begin = time.perf_counter()
        event_id = log_event(QuotaExceeded(quota_type="messages", limit=100, attempted=101))
        while connection.execute(query, [event_id]).fetchone() is None:
            if time.perf_counter() - begin > TIMEOUT:
                raise RuntimeError(f"the first event is not stored after {TIMEOUT} s")
            time.sleep(POLL)
        seconds = time.perf_counter() - begin
        pipeline.shutdown()
    return {"seconds": seconds}


if __name__ == "__main__":
    if sys.argv[1] == "all":
        print(json.dumps(emit_all(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        print(json.dumps(emit_first(sys.argv[2], sys.argv[3])))
