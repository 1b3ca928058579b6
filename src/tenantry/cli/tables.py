"""What the commands' results look like, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from tenantry.cli.books import Books, DiskJournal, JournalBooks
from tenantry.cli.draining import DrainReport
from tenantry.cli.feed import Row
from tenantry.cli.output import console, print_columns, print_hint, print_json, print_table


def print_events(rows: Iterable[Row], *, tenants: Mapping[str, str] | None = None) -> None:
    """Print events, one a line and at once; ``tenants`` names them by id.

    In a terminal the data are keys and values; in a pipe there are tabs between the columns, and
    the data are JSON.
    """
    for row in rows:
        tenant_id = str(row["tenant_id"])
        tenant = (tenants or {}).get(tenant_id, tenant_id)
        duration = "" if row["duration_ms"] is None else f"{row['duration_ms']:.2f}"
        cells = [row["created_at"], tenant, row["name"], duration, row["error_code"]]
        if console.is_terminal:
            _print_event(row, tenant)
        else:
            print_columns([*cells, json.dumps(row["data"], ensure_ascii=False)])


def _print_event(row: Row, tenant: str) -> None:
    text = Text(f"{row['created_at'].astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3], style="dim")
    text.append(f"  {tenant}  ", style="not dim")
    text.append(row["name"], style="not dim bold red" if row["error_code"] else "not dim bold")
    if row["duration_ms"] is not None:
        text.append(f"  {row['duration_ms']:.2f} ms", style="not dim")
    if row["error_code"]:
        text.append(f"  {row['error_code']}", style="not dim red")
    for key, value in row["data"].items():
        text.append(f"  {key}={value}")
    console.print(text, soft_wrap=True)


# drain.


def print_drain(report: DrainReport, root: Path) -> None:
    """Print what a drain reached."""
    if report.drained:
        print_table(
            "Drained",
            ("journal", "process", "stored", "rejected", "abandoned"),
            [(d.id, d.process, d.stored, d.rejected, d.abandoned) for d in report.drained],
        )
    if report.remaining:
        print_table(
            "Remaining",
            ("journal", "process", "pending", "bytes", "reason"),
            [
                (r.journal.id, r.journal.process, r.journal.pending, r.journal.bytes, r.reason)
                for r in report.remaining
            ],
            marked=range(len(report.remaining)),
        )
    if report.others:
        print_table(
            "Left alone: journals for other destinations",
            ("journal", "process", "destination", "pending", "state"),
            [_other_cells(disk) for disk in report.others],
        )
    if report.live:
        print_hint(f"{len(report.live)} journals belong to processes that run, and ship them.")
    if report.is_complete and not report.drained:
        print_columns([f"nothing to drain in {root}"])


def _other_cells(disk: DiskJournal) -> tuple[object, ...]:
    state = "live" if disk.is_live else "dead"
    return (disk.id, disk.process, disk.destination, disk.pending, state)


def print_drain_json(report: DrainReport) -> None:
    """Print what a drain reached as JSON."""
    print_json(
        complete=report.is_complete,
        drained=[
            {
                "journal_id": each.id,
                "process": each.process,
                "stored": each.stored,
                "rejected": each.rejected,
                "abandoned": each.abandoned,
            }
            for each in report.drained
        ],
        remaining=[
            {**disk_members(each.journal), "reason": each.reason} for each in report.remaining
        ],
        live=[disk_members(disk) for disk in report.live],
        others=[disk_members(disk) for disk in report.others],
    )


def disk_members(disk: DiskJournal) -> dict[str, Any]:
    """Make the members of a journal on disk."""
    return {
        "journal_id": disk.id,
        "process": disk.process,
        "service": disk.service,
        "destination": disk.destination,
        "state": "live" if disk.is_live else "dead",
        "pending": disk.pending,
        "bytes": disk.bytes,
    }


# stats.

EMITTED_COLUMNS: Final = ("emitted", "accepted", "handed", "sampled", "dropped")
ACCEPTED_COLUMNS: Final = ("accepted", "stored", "rejected", "pending")


_CORRECTIONS: Final = {
    "retried": "rejected before, and stored after all",
    "discarded": "rejected, and deleted from rejected_events",
    "compacted": "journals folded into one row for each service",
    "erased": "stored before, and deleted from events",
    "moved": "stored before, and moved from DEFAULT to their month",
    "detached": "stored before, and detached with their month",
    "dropped": "detached before, and dropped with their month",
    "adopted": "events from an older table",
}


def print_books(books: Books, *, killed: Collection[str] = ()) -> None:
    """Print both equations of each journal and in total; ``killed`` processes are marked."""
    _print_equation(
        books,
        EMITTED_COLUMNS,
        [_emitted_cells(journal) for journal in (*books.journals, books.total())],
        [journal.emitted_balances for journal in books.journals],
        killed,
    )
    _print_equation(
        books,
        ACCEPTED_COLUMNS,
        [_accepted_cells(journal) for journal in (*books.journals, books.total())],
        [journal.accepted_balances for journal in books.journals],
        killed,
    )
    for journal in books.journals:
        if not journal.balances:
            console.print(Text(_explain(journal), style="bold red"), soft_wrap=True)


def print_stats(books: Books) -> None:
    """Print the books, the journals on disk, and the tallies."""
    print_books(books)
    on_disk = [journal for journal in books.journals if journal.bytes]
    if on_disk:
        print_table(
            "Journals on disk",
            ("journal", "process", "state", "pending", "lag (s)", "bytes"),
            [
                (each.id, each.process, each.state, each.pending, each.lag, each.bytes)
                for each in on_disk
            ],
        )
    if books.others:
        print_table(
            "Journals for other destinations",
            ("journal", "process", "destination", "pending", "state"),
            [_other_cells(disk) for disk in books.others],
        )
    if books.tallies:
        print_table(
            "Accepted events of closed segments, by name",
            ("event", "accepted"),
            list(books.tallies.items()),
        )
    if books.corrections:
        print_table(
            "Corrections",
            ("what", "count", "meaning"),
            [(kind, count, _CORRECTIONS[kind]) for kind, count in books.corrections.items()],
        )


def _print_equation(
    books: Books,
    terms: Sequence[str],
    cells: Sequence[Sequence[object]],
    balanced: Sequence[bool],
    killed: Collection[str],
) -> None:
    rows: list[list[object]] = []
    for journal, numbers, holds in zip(books.journals, cells[:-1], balanced, strict=True):
        name = journal.id[-6:] if console.is_terminal else journal.id
        state = "killed" if journal.process in killed else journal.state
        rows.append([name, journal.process, state, *numbers, _mark(holds=holds)])
    rows.append(["total", "", "", *cells[-1], _mark(holds=all(balanced))])
    marked = [
        index
        for index, journal in enumerate(books.journals)
        if journal.process in killed or not balanced[index]
    ]
    title = f"Books: {terms[0]} = {' + '.join(terms[1:])}"
    print_table(title, ("journal", "process", "state", *terms, "="), rows, marked=marked)


def _mark(*, holds: bool) -> str:
    return "ok" if holds else "NO"


def _emitted_cells(journal: JournalBooks) -> list[object]:
    dropped = sum(journal.dropped.values())
    return [
        journal.emitted,
        journal.accepted,
        journal.handed,
        journal.sampled_out,
        f"{dropped} ({', '.join(sorted(journal.dropped))})" if dropped else 0,
    ]


def _accepted_cells(journal: JournalBooks) -> list[object]:
    return [journal.accepted, journal.stored, journal.rejected, journal.pending]


def _explain(journal: JournalBooks) -> str:
    if not journal.emitted_balances:
        return (
            f"{journal.id}: {journal.emitted} emitted, and "
            f"{journal.emitted - journal.under_way} accounted for"
        )
    missing = journal.accepted - journal.stored - journal.rejected - journal.pending
    where = " Its process is gone, and its journal is not in --journal." * (
        journal.state == "missing"
    )
    return f"{journal.id}: {missing} accepted events are not accounted for.{where}"


def print_books_json(books: Books) -> None:
    """Print the books as JSON."""
    print_json(
        balance=books.balance,
        total=book_members(books.total()),
        journals=[
            {
                "journal_id": journal.id,
                "process": journal.process,
                "service": journal.service,
                "state": journal.state,
                "lag": journal.lag,
                **book_members(journal),
            }
            for journal in books.journals
        ],
        others=[disk_members(disk) for disk in books.others],
        tallies=dict(books.tallies),
        corrections=dict(books.corrections),
    )


def book_members(journal: JournalBooks) -> dict[str, Any]:
    """Make the members that the two equations are made of."""
    return {
        "emitted": journal.emitted,
        "accepted": journal.accepted,
        "handed": journal.handed,
        "sampled_out": journal.sampled_out,
        "dropped": dict(journal.dropped),
        "under_way": journal.under_way,
        "stored": journal.stored,
        "rejected": journal.rejected,
        "pending": journal.pending,
        "bytes": journal.bytes,
        "balance": journal.balances,
    }
