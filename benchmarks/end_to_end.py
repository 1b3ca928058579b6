"""From the call to the table: how fast a process's events are stored, and how soon the first is.

``python -m benchmarks.end_to_end all DSN COUNT`` and ``… first DSN`` measure once, in a process of
their own, as a writer.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import psycopg

from benchmarks import servers
from benchmarks.processes import run_module
from benchmarks.results import Goal, Measurement, Section, below, unmeasured
from benchmarks.subjects import ACTOR, TENANT, URL
from tenantry import Pipeline, emits, log_event, tenant
from tenantry.taxonomies.saas import QuotaExceeded

TIMEOUT = 60.0
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
    return Section(
        f"End to end on {server.name}: {rows:,} events of one process, journal on disk",
        (
            Measurement.of("emitted", "events/s", [rows / run["emitted"] for run in runs]),
            Measurement.of(
                "stored, from the first call", "rows/s", [rows / r["stored"] for r in runs]
            ),
            Measurement.of("first event, from the call until a reader sees it", "s", seconds),
        ),
        goals(max(seconds)),
        ("The goal is compared with the slowest of the rounds; each connects anew.",),
    )


def goals(slowest: float | None = None) -> tuple[Goal, ...]:
    name = "first event stored, default interval"
    return (unmeasured(name, "< 1 s") if slowest is None else below(name, 1, " s", slowest),)


@emits("ingest")
def ingest(source_type: str, url: str) -> dict[str, int]:  # noqa: ARG001  # what is recorded
    return {"docs": 3, "chunks": 41}


def make_pipeline(dsn: str, journal: str) -> Pipeline:
    return Pipeline(
        dsn=dsn, taxonomy="tenantry.taxonomies.saas", journal=journal, service="benchmark"
    )


def emit_all(writer: str, superuser: str, rows: int) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as journal,
        make_pipeline(writer, journal) as pipeline,
        tenant(TENANT, actor=ACTOR),
    ):
        begin = time.perf_counter()
        for _ in range(rows // 2):
            ingest("web", URL)
        emitted = time.perf_counter() - begin
        report = pipeline.flush(TIMEOUT)
        stored = time.perf_counter() - begin
        pipeline.shutdown()
    with psycopg.connect(superuser) as connection:
        found = connection.execute("SELECT count(*) FROM tenantry.events").fetchone()
    if not report or found != (rows,):
        raise RuntimeError(f"not all was stored: {report}, {found} of {rows} rows")
    return {"emitted": emitted, "stored": stored}


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
