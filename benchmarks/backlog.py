"""A backlog: what events that wait on disk cost in memory, and how fast they drain.

``python -m benchmarks.backlog DSN COUNT`` measures once, in a process of its own: the exporter is
shut like a gate while COUNT events are emitted, then opened, and new events go on coming.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from benchmarks import servers
from benchmarks.processes import run_module
from benchmarks.results import Goal, Measurement, Section, below
from benchmarks.workload import TAXONOMY, TENANTS, URL, ingest
from tenantry import Pipeline, tenant
from tenantry.exporters import Batch, Outcome, Retry
from tenantry.exporters.postgres import PostgresExporter

TIMEOUT = 110.0
NEW_EVENTS = 1000
"""A second, while the backlog drains."""


class Gate:
    """Keeps all batches back until it is opened."""

    def __init__(self, exporter: PostgresExporter) -> None:
        self.exporter = exporter
        self.fingerprint = exporter.fingerprint
        self.is_open = False

    def export(self, batch: Batch, deadline: float) -> Outcome:
        if not self.is_open:
            return Outcome(retry=Retry("soon", "the gate is shut"))
        return self.exporter.export(batch, deadline)

    def close(self) -> None:
        self.exporter.close()


def measure(*, rounds: int, rows: int) -> Section:
    found: list[dict[str, float]] = []
    with servers.start("embedded") as server:
        server.migrate("tenantry")
        for _ in range(rounds):
            server.execute("TRUNCATE tenantry.events, tenantry.journal_cursors", "CHECKPOINT")
            found.append(run_module("benchmarks.backlog", server.writer, str(rows)))
            check_order(server.superuser)
    waiting = [each["waiting"] for each in found]
    return Section(
        f"A backlog of {rows:,} events on disk, {server.name}",
        (
            Measurement.of("resident memory, growth while they wait", "MB", waiting),
            Measurement.of("the same, at most while they drain", "MB", [e["most"] for e in found]),
            Measurement.of("drained, new events coming", "rows/s", [e["rate"] for e in found]),
            Measurement.of("emitted meanwhile", "events", [e["new"] for e in found]),
            Measurement.of("files that are open in the end", "", [e["files"] for e in found]),
        ),
        goals(max(waiting)),
        ("The rows were stored in the order of the calls; the goal is of the worst round.",),
    )


def goals(growth: float | None = None) -> tuple[Goal, ...]:
    return (below("resident growth of a backlog that waits", 20, " MB", growth),)


def check_order(dsn: str) -> None:
    """Raise unless what was emitted first was stored first: ids are made in order of emission."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM (SELECT transaction_id < lag(transaction_id) OVER (ORDER BY id)"
            " AS overtook FROM tenantry.events) AS rows WHERE overtook"
        ).fetchone()
    if row != (0,):
        raise RuntimeError(f"{row} rows overtook others")


def run(dsn: str, rows: int) -> dict[str, float]:
    gate = Gate(PostgresExporter(dsn))
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as journal,
        Pipeline(
            exporter=gate,
            taxonomy=TAXONOMY,
            journal=journal,
            journal_max_bytes=2 * 1024**3,
            service="benchmark",
            fair_share=False,
        ) as pipeline,
    ):
        emit(2000)  # imports, caches, the segment that is written and the next
        time.sleep(1.0)
        before = resident()
        emit(rows - 2000)
        time.sleep(1.5)  # a round of the shipper, which knows by then that it cannot ship
        waiting, files = resident() - before, len(list(Path("/proc/self/fd").iterdir()))
        most = before
        done = threading.Event()
        new = 0

        def watch() -> None:
            nonlocal most
            while not done.wait(0.02):
                most = max(most, resident())

        def flush() -> None:
            pipeline.flush(TIMEOUT)
            done.set()

        threads = [threading.Thread(target=each) for each in (watch, flush)]
        gate.is_open, begin = True, time.perf_counter()
        for thread in threads:
            thread.start()
        while not done.is_set():
            emit(NEW_EVENTS // 50)
            new += NEW_EVENTS // 50
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
        for thread in threads:
            thread.join()
        report = pipeline.shutdown(timeout=30)
        if not report.settled or report.rejected:
            raise RuntimeError(f"not all was stored: {report}")
    return {
        "waiting": waiting / 1e6,
        "most": (most - before) / 1e6,
        "rate": rows / seconds,
        "new": new,
        "files": files,
    }


def emit(events: int) -> None:
    for number in range(events // 2):
        with tenant(TENANTS[number % len(TENANTS)], actor="user:42"):
            ingest("web", URL)


def resident() -> int:
    """Read the resident bytes of this process, files that are mapped included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
