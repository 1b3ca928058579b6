"""How long from a call until a reader sees its row, and what an idle process costs.

``python -m benchmarks.freshness emit DSN SECONDS RATE`` emits at a steady rate and prints when;
``… idle DSN SECONDS`` stores one event, then only waits. Meanwhile the parent reads the journal's
cursor, which is moved in the transaction of the rows: event n is visible once it says n.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import threading
import time
from statistics import median, quantiles

import psycopg

from benchmarks import servers
from benchmarks.end_to_end import make_pipeline
from benchmarks.processes import run_module
from benchmarks.results import Goal, Measurement, Section, below
from benchmarks.servers import Server
from benchmarks.workload import ACTOR, TENANT
from tenantry import log_event, tenant
from tenantry.taxonomies.saas import QuotaExceeded

RATE = 1000
"""Events a second."""

POLL = 0.002
"""Seconds between two looks at the cursor."""

FLUSH = 20.0


def measure(*, rounds: int, seconds: float, idle_seconds: float) -> Section:
    with servers.start("embedded") as server:
        server.migrate("tenantry")
        delays = [watch(server, seconds) for _ in range(rounds)]
        idle = [
            run_module("benchmarks.freshness", "idle", server.writer, str(idle_seconds))
            for _ in range(rounds)
        ]
    medians = [median(each) * 1e3 for each in delays]
    share = [each["cpu"] * 100 for each in idle]
    return Section(
        f"Freshness on {server.name}, and idling",
        (
            Measurement.of(f"median at {RATE} events/s", "ms", medians),
            Measurement.of("p99", "ms", [quantiles(d, n=100)[98] * 1e3 for d in delays]),
            Measurement.of("idle process", "% of a core", share),
            Measurement.of("its wake-ups", "1/s", [each["switches"] for each in idle]),
        ),
        goals(median(medians), median(share)),
        ("From the call until another session sees the row. Default interval.",),
    )


def goals(delay: float | None = None, share: float | None = None) -> tuple[Goal, ...]:
    return (
        below(f"from call to visible row, median at {RATE} events/s", 250, " ms", delay),
        below("CPU of an idle process", 0.1, " % of a core", share),
    )


def watch(server: Server, seconds: float) -> list[float]:
    """Let a process emit; gives the seconds until each of its events was visible."""
    server.execute("TRUNCATE tenantry.events, tenantry.journal_cursors", "CHECKPOINT")
    seen: list[tuple[float, int]] = []
    done = threading.Event()

    def look() -> None:
        with psycopg.connect(server.superuser, autocommit=True) as connection:
            while not done.wait(POLL):
                row = connection.execute("SELECT stored FROM tenantry.journal_cursors").fetchone()
                if row is not None and (not seen or row[0] > seen[-1][1]):
                    seen.append((time.monotonic(), row[0]))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        arguments = ("emit", server.writer, str(seconds), str(RATE))
        called: list[float] = run_module("benchmarks.freshness", *arguments)["called"]
    finally:
        time.sleep(10 * POLL)
        done.set()
        watcher.join()
    visible = iter(seen)
    at, count = next(visible)
    delays: list[float] = []
    for number, moment in enumerate(called, 1):
        while count < number:
            at, count = next(visible)
        delays.append(at - moment)
    return delays


def emit(dsn: str, seconds: float, rate: int) -> dict[str, list[float]]:
    called: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as journal,
        make_pipeline(dsn, journal) as pipeline,
        tenant(TENANT, actor=ACTOR),
    ):
        begin = time.monotonic()
        while len(called) < seconds * rate:
            # All that are due: a sleep takes longer than it was asked for.
            while len(called) < min(seconds, time.monotonic() - begin) * rate:
                called.append(time.monotonic())
                log_event(QuotaExceeded(quota_type="messages", limit=100, attempted=101))
            time.sleep(1 / rate)
        report = pipeline.flush(FLUSH)
        pipeline.shutdown()
    if not report:
        raise RuntimeError(f"not all was stored: {report}")
    return {"called": called}


def idle(dsn: str, seconds: float) -> dict[str, float]:
    """Give the share of a core, and context switches a second: each wake-up ends in one."""
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as journal,
        make_pipeline(dsn, journal) as pipeline,
        tenant(TENANT, actor=ACTOR),
    ):
        log_event(QuotaExceeded(quota_type="messages", limit=100, attempted=101))
        pipeline.flush(FLUSH)
        before = resource.getrusage(resource.RUSAGE_SELF)
        time.sleep(seconds)
        after = resource.getrusage(resource.RUSAGE_SELF)
        pipeline.shutdown()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu / seconds, "switches": (after.ru_nvcsw - before.ru_nvcsw) / seconds}


if __name__ == "__main__":
    if sys.argv[1] == "emit":
        print(json.dumps(emit(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))))
    else:
        print(json.dumps(idle(sys.argv[2], float(sys.argv[3]))))
