"""What the demonstration shows in the end: plain SQL over the events, and the books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

from psycopg import sql
from rich.text import Text

from tenantry.cli import tables
from tenantry.cli.books import Books
from tenantry.cli.connection import Source
from tenantry.cli.feed import Row
from tenantry.cli.output import console, print_table

Rows = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class KillReport:
    """What the killed process left, and what became of it."""

    process: str
    accepted: int
    """Events in its journal when it died."""
    unshipped: int
    """Of those, not in the database when it died."""
    open_operations: int
    recovered: int
    """Rows that the drain stored, but for the ends that it made itself."""
    abandoned: int
    """Ends that the drain made."""
    event_ids: tuple[str, ...]
    """Ids of what its journal held when it died."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The answers."""

    books: Books
    kill: KillReport
    counts: Rows
    durations: Rows
    failures: Rows
    newest: Sequence[Row]
    rows: int
    """Rows of this run in ``events`` and in ``rejected_events``."""
    distinct_rows: int
    found: int
    """Of the killed process's ids, those in the database."""
    found_rows: int
    """Rows that carry them."""

    @property
    def lost(self) -> int:
        """Events that a journal accepted and the database lacks."""
        accepted = self.books.total().accepted
        return max(len(set(self.kill.event_ids)) - self.found, accepted - self.distinct_rows)

    @property
    def duplicates(self) -> int:
        """Rows whose event is in the database already."""
        return max(self.found_rows - self.found, self.rows - self.distinct_rows)

    @property
    def is_good(self) -> bool:
        """Whether the books balance, and nothing is lost, stored twice or pending."""
        return (
            self.books.balance
            and not self.lost
            and not self.duplicates
            and not self.books.total().pending
            and self.rows == self.books.total().stored + self.books.total().rejected
        )


def read_report(source: Source, environment: str, books: Books, kill: KillReport) -> DemoReport:
    """Ask the database; all events of this run carry ``environment``."""

    def ask(query: LiteralString, **values: Any) -> list[tuple[Any, ...]]:
        source.allow()
        composed = sql.SQL(query).format(
            events=sql.Identifier(source.schema, "events"),
            rejected=sql.Identifier(source.schema, "rejected_events"),
        )
        return source.connection.execute(composed, {"run": environment, **values}).fetchall()

    ((rows, distinct_rows),) = ask(_ROWS)
    ((found_rows, found),) = ask(_FOUND, ids=list(kill.event_ids))
    columns = ("created_at", "tenant_id", "name", "duration_ms", "error_code", "data")
    return DemoReport(
        books=books,
        kill=kill,
        counts=ask(_COUNTS),
        durations=ask(_DURATIONS),
        failures=ask(_FAILURES),
        newest=[dict(zip(columns, row, strict=True)) for row in ask(_NEWEST)],
        rows=rows,
        distinct_rows=distinct_rows,
        found=found,
        found_rows=found_rows,
    )


# Every statement is over all tenants, by intention: the demonstration's user is an administrator.
_COUNTS: Final = """
    SELECT tenant_id::text, name, count(*) FROM {events} WHERE environment = %(run)s
     GROUP BY tenant_id, name ORDER BY tenant_id, name
"""
_DURATIONS: Final = """
    SELECT tenant_id::text, count(*),
           percentile_cont(0.50) WITHIN GROUP (ORDER BY duration_ms),
           percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms)
      FROM {events}
     WHERE environment = %(run)s AND name = 'ingest_completed' AND phase = 'completed'
     GROUP BY tenant_id ORDER BY tenant_id
"""
_FAILURES: Final = """
    SELECT name, error_code, count(*) FROM {events}
     WHERE environment = %(run)s AND phase = 'failed'
     GROUP BY name, error_code ORDER BY name, count(*) DESC, error_code
"""
_NEWEST: Final = """
    SELECT DISTINCT ON (name) created_at, tenant_id::text, name, duration_ms, error_code, data
      FROM {events} WHERE environment = %(run)s ORDER BY name, created_at DESC, id DESC
"""
_ROWS: Final = """
    SELECT count(*), count(DISTINCT id)
      FROM (SELECT id FROM {events} WHERE environment = %(run)s
            UNION ALL SELECT id FROM {rejected} WHERE environment = %(run)s) AS run
"""
_FOUND: Final = """
    SELECT count(*), count(DISTINCT id)
      FROM (SELECT id FROM {events} UNION ALL SELECT id FROM {rejected}) AS run
     WHERE id = ANY(%(ids)s::uuid[])
"""


def print_report(report: DemoReport, tenants: Mapping[str, str]) -> None:
    """Print the tables; ``tenants`` names them by id."""

    def named(rows: Rows) -> list[list[Any]]:
        return [[tenants.get(row[0], row[0]), *row[1:]] for row in rows]

    print_table("Events, by tenant and name", ("tenant", "event", "events"), named(report.counts))
    print_table(
        "Completed ingestions",
        ("tenant", "ingestions", "p50 ms", "p95 ms"),
        named(report.durations),
    )
    print_table("Failures, by code", ("event", "error_code", "events"), report.failures)
    console.print(Text("\nThe newest row of each event", style="bold"))
    tables.print_events(report.newest, tenants=tenants)
    tables.print_books(report.books, killed={report.kill.process})
    verdict = "bold green" if report.is_good else "bold red"
    console.print(Text(f"\n{_verdict(report)}", style=verdict), soft_wrap=True)


def _verdict(report: DemoReport) -> str:
    kill = report.kill
    return (
        f"Killed with SIGKILL: {kill.process} had accepted {kill.accepted} events, "
        f"{kill.unshipped} of them not shipped yet; {kill.recovered} recovered, "
        f"{kill.abandoned} of {kill.open_operations} open operations closed as abandoned; "
        f"{report.lost} lost, {report.duplicates} duplicates.\n"
        f"All {len(report.books.journals)} journals: {report.books.total().accepted} accepted, "
        f"{report.rows} rows in the database."
    )
