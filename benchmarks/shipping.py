"""How fast the PostgreSQL exporter stores journal lines, beside ``psql \\copy`` of the same rows.

The exporter logs in as a role that may only insert, under row-level security, and commits each
batch with its journal's cursor; ``\\copy`` is the superuser's, from prepared text, in one
transaction. Both write tables of one definition, emptied and checkpointed before each run.

``python -m benchmarks.shipping ROOT ROWS`` only leaves a journal behind, as a killed process does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks import servers
from benchmarks.processes import run_module
from benchmarks.results import Goal, Measurement, Section, at_least, at_most
from benchmarks.servers import Server
from benchmarks.workload import TAXONOMY, TENANTS, URL, ingest
from tenantry import Pipeline, tenant
from tenantry.batches import Lane, make_batch
from tenantry.exporters import Batch, Outcome, Retry
from tenantry.exporters.postgres import PostgresExporter
from tenantry.journal import adopt, journal_directories
from tenantry.record import EVENT_COLUMNS

COLUMNS = ", ".join(column.name for column in EVENT_COLUMNS)
COPIED = "benchmark_copied"
DEADLINE = 60.0


class StuckExporter:
    """Never answers, so that what is emitted stays in the journal."""

    def export(self, batch: Batch, deadline: float) -> Outcome:  # noqa: ARG002
        time.sleep(DEADLINE)
        return Outcome(retry=Retry("hold", "nothing is exported here"))

    def close(self) -> None:
        pass


def fill_journal(root: str, rows: int) -> None:
    """Emit the events of a hundred tenants, in turn, through a real pipeline; does not return."""
    pipeline = Pipeline(
        exporter=StuckExporter(),
        taxonomy=TAXONOMY,
        journal=root,
        service="benchmark",
        environment="test",
    )
    with pipeline:
        for number in range(rows // 2):
            with tenant(TENANTS[number % len(TENANTS)], actor="user:42"):
                ingest("web", URL)
    print("{}", flush=True)
    os._exit(0)


def read_batches(root: Path) -> tuple[list[Batch], float]:
    """Read the journal as the shipper does; gives its batches, and CPU seconds spent."""
    (directory,) = journal_directories(root)
    journal = adopt(directory, destination=None)
    if journal is None:
        raise RuntimeError(f"the journal {directory} cannot be adopted")
    begin = time.process_time()
    batches: list[Batch] = []
    lane = Lane(journal)
    while (chunk := journal.read(lane.position, lane.batch_bytes)) is not None:
        batch = make_batch(lane, chunk)
        if batch.events or batch.tallies:
            batches.append(batch)
            lane.go_to(chunk.end)
        lane.position = chunk.end
    spent = time.process_time() - begin
    journal.close(remove=False)
    return batches, spent


def measure(*, rounds: int, rows: int) -> list[Section]:
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as root:
        run_module("benchmarks.shipping", root, str(rows))
        readings = [read_batches(Path(root)) for _ in range(rounds)]
    batches, reading = readings[0][0], median(spent for _, spent in readings)
    return [measure_server(which, batches, reading, rounds) for which in servers.available()]


def measure_server(which: str, batches: list[Batch], reading: float, rounds: int) -> Section:
    rows = sum(len(batch.events) for batch in batches)
    exported: list[tuple[float, float]] = []
    copied: list[float] = []
    with (
        servers.start(which) as server,
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as scratch,
    ):
        server.migrate("tenantry", COPIED)
        text = Path(scratch) / "rows.txt"
        run_export(server, batches)  # warms up, and is where the text comes from
        write_rows(server, text)
        run_copy(server, text)
        for number in range(rounds):
            if number % 2:
                copied.append(run_copy(server, text))
                exported.append(run_export(server, batches))
            else:
                exported.append(run_export(server, batches))
                copied.append(run_copy(server, text))
        compare_tables(server, rows)
    ratios = [copy / wall for (wall, _), copy in zip(exported, copied, strict=True)]
    shipper = [(cpu + reading) / rows * 1e6 for _, cpu in exported]
    return Section(
        f"Shipping to {server.name}: {rows:,} rows in {len(batches)} batches",
        (
            Measurement.of("exporter, as the writer", "rows/s", [rows / w for w, _ in exported]),
            Measurement.of("psql \\copy, as superuser", "rows/s", [rows / w for w in copied]),
            Measurement.of("ratio exporter / \\copy", "x", ratios),
            Measurement.of(
                "the same, of the best round of each",
                "x",
                [min(copied) / min(wall for wall, _ in exported)],
            ),
            Measurement.of("exporter's CPU", "us/row", [cpu / rows * 1e6 for _, cpu in exported]),
            Measurement.of("reading the journal, CPU", "us/row", [reading / rows * 1e6]),
            Measurement.of("both, CPU of the shipper", "us/row", shipper),
        ),
        goals(server.name, median(ratios), median(shipper)),
    )


def goals(
    server: str = "PostgreSQL 18", ratio: float | None = None, shipper: float | None = None
) -> tuple[Goal, ...]:
    return (
        at_least(f"exporter / psql \\copy, {server}", 0.5, " x", ratio),
        at_most(f"CPU of the shipper a row, {server}", 1, " us", shipper),
    )


def run_export(server: Server, batches: list[Batch]) -> tuple[float, float]:
    """Store all batches over a connection that is open already; gives wall and CPU seconds."""
    empty(server, "tenantry")
    exporter = PostgresExporter(server.writer)
    exporter.check(time.monotonic() + DEADLINE)
    deadline = time.monotonic() + DEADLINE
    wall, cpu = time.perf_counter(), time.process_time()
    outcomes = [exporter.export(batch, deadline) for batch in batches]
    spent = time.perf_counter() - wall, time.process_time() - cpu
    exporter.close()
    for batch, outcome in zip(batches, outcomes, strict=True):
        if outcome.stored != len(batch.events):
            raise RuntimeError(f"a batch was not stored: {outcome}")
    return spent


def run_copy(server: Server, text: Path) -> float:
    """Copy all rows; gives the seconds that psql itself measures, its own start left out."""
    empty(server, COPIED)
    output = run_psql(server, "\\timing on", f"\\copy {COPIED}.events ({COLUMNS}) FROM '{text}'")
    found = re.search(r"Time: ([\d.]+) ms", output)
    if found is None:
        raise RuntimeError(f"psql gave no time: {output}")
    return float(found[1]) / 1e3


def write_rows(server: Server, text: Path) -> None:
    """Write the stored rows as COPY's text, in the order in which they were emitted."""
    run_psql(server, f"\\copy (SELECT {COLUMNS} FROM tenantry.events ORDER BY id) TO '{text}'")


def run_psql(server: Server, *commands: str) -> str:
    options = [part for command in commands for part in ("-c", command)]
    return subprocess.run(
        [server.psql, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-d", server.superuser, *options],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=DEADLINE,
    ).stdout


def empty(server: Server, schema: str) -> None:
    server.execute(
        f"TRUNCATE {schema}.events, {schema}.event_tallies, {schema}.journal_cursors", "CHECKPOINT"
    )


def compare_tables(server: Server, rows: int) -> None:
    """Raise unless both ways stored the very same rows."""
    with psycopg.connect(make_conninfo(server.superuser)) as connection:
        counts = connection.execute(
            f"SELECT (SELECT count(*) FROM tenantry.events),"
            f" (SELECT count(*) FROM (SELECT {COLUMNS} FROM tenantry.events"
            f" EXCEPT SELECT {COLUMNS} FROM {COPIED}.events) AS different)"
        ).fetchone()
    if counts != (rows, 0):
        raise RuntimeError(f"the tables differ: {counts}, of {rows} rows")


if __name__ == "__main__":
    fill_journal(sys.argv[1], int(sys.argv[2]))
