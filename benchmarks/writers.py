"""Several writers against one server, and what a stored event takes on disk and in the WAL.

``python -m benchmarks.writers DSN JOURNAL`` is one writer: it reads a journal, says so, waits for a
line on its input, stores all batches, and prints when it began and ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psycopg

from benchmarks import servers
from benchmarks.processes import ROOT, run_module
from benchmarks.results import Chart, Goal, Measurement, Section, Series, at_least
from benchmarks.servers import Server
from benchmarks.shipping import DEADLINE, read_batches
from tenantry.exporters.postgres import PostgresExporter

WRITERS = (1, 2, 4, 8)
TABLES = "tenantry.events, tenantry.event_tallies, tenantry.journal_cursors"


def measure(*, rounds: int, rows: int) -> list[Section]:
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as root,
        servers.start("embedded") as server,
    ):
        server.migrate("tenantry")
        journals = [Path(root) / str(number) for number in range(max(WRITERS))]
        for journal in journals:
            run_module("benchmarks.shipping", str(journal), str(rows))
        rates: dict[int, list[float]] = {count: [] for count in WRITERS}
        for number in range(rounds):
            for count in WRITERS if number % 2 == 0 else reversed(WRITERS):
                server.execute(f"TRUNCATE {TABLES}", "CHECKPOINT")
                rates[count].append(count * rows / store(server, journals[:count]))
        storage = measure_storage(server, journals[0], rows)
    medians = {count: median(values) for count, values in rates.items()}
    most = max(WRITERS)
    series = Series("rows/s", tuple(map(float, medians)), tuple(medians.values()))
    return [
        Section(
            f"Several writers at {server.name}, {rows:,} rows each",
            tuple(
                Measurement.of(f"{count} writers" if count > 1 else "1 writer", "rows/s", values)
                for count, values in rates.items()
            ),
            goals(medians[most] / medians[1]),
            charts=(Chart("Several writers", "writers", "rows/s", (series,)),),
        ),
        storage,
    ]


def goals(ratio: float | None = None) -> tuple[Goal, ...]:
    return (at_least(f"{max(WRITERS)} writers / 1 writer", 1, " x", ratio),)


def store(server: Server, journals: list[Path]) -> float:
    """Let one process a journal store its rows at once; gives the seconds that it took."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.writers", server.writer, str(journal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for journal in journals
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        spans = [
            json.loads(output)
            for output, _ in [_go_on(writers[0], all_of=writers), *map(_end, writers[1:])]
        ]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    return max(span["end"] for span in spans) - min(span["begin"] for span in spans)


def _go_on(first: subprocess.Popen[str], *, all_of: list[subprocess.Popen[str]]) -> tuple[str, str]:
    for writer in all_of:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    return _end(first)


def _end(writer: subprocess.Popen[str]) -> tuple[str, str]:
    return writer.communicate(timeout=DEADLINE)


def write(dsn: str, journal: str) -> None:
    batches, _ = read_batches(Path(journal))
    exporter = PostgresExporter(dsn)
    exporter.check(time.monotonic() + DEADLINE)
    print(flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    for batch in batches:
        outcome = exporter.export(batch, begin + DEADLINE)
        if outcome.stored != len(batch.events):
            raise RuntimeError(f"a batch was not stored: {outcome}")
    print(json.dumps({"begin": begin, "end": time.monotonic()}))
    exporter.close()


def measure_storage(server: Server, journal: Path, rows: int) -> Section:
    """Weigh the table's parts and the WAL, beside a table of the same rows without an index."""
    server.execute(f"TRUNCATE {TABLES}", "CHECKPOINT")
    with psycopg.connect(server.superuser, autocommit=True) as connection:

        def ask(query: str) -> float:
            row = connection.execute(query).fetchone()
            return float(row[0] or 0) / rows if row else 0.0

        def position() -> float:
            return ask("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")

        start = position()
        store(server, [journal])
        wal = position() - start
        parts = {
            "the table's rows": ask(_SIZE.format("r", "")),
            "primary key (tenant_id, created_at, id)": ask(
                _SIZE.format("i", "WHERE name LIKE '%pkey'")
            ),
            "index (tenant_id, name, created_at)": ask(
                _SIZE.format("i", "WHERE name NOT LIKE '%pkey'")
            ),
        }
        connection.execute("CREATE TABLE bare AS SELECT * FROM tenantry.events LIMIT 0")
        # What is read for the first time is marked, and that is written to the WAL as well.
        connection.execute("VACUUM tenantry.events")
        connection.execute("CHECKPOINT")
        start = position()
        connection.execute("INSERT INTO bare SELECT * FROM tenantry.events")
        least_wal = position() - start
        least = ask("SELECT pg_relation_size('bare')")
    whole = sum(parts.values())
    return Section(
        f"What a stored event takes, {server.name}",
        (
            *(Measurement.of(name, "bytes", [size]) for name, size in parts.items()),
            Measurement.of("all on disk", "bytes", [whole]),
            Measurement.of("the same / rows without any index", "x", [whole / least]),
            Measurement.of("WAL", "bytes", [wal]),
            Measurement.of("the same / WAL of rows without any index", "x", [wal / least_wal]),
        ),
        notes=tuple(
            f"{name}: {size / whole:.0%} of what is on disk" for name, size in parts.items()
        ),
        bars=True,
    )


_SIZE = """
    SELECT sum(pg_relation_size(relid)) FROM (
        SELECT class.oid AS relid, class.relname AS name FROM pg_class AS class
        JOIN pg_namespace AS space ON space.oid = class.relnamespace AND space.nspname = 'tenantry'
        WHERE class.relname LIKE 'events_%' AND class.relkind = '{0}'
    ) AS parts {1}
"""


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])
