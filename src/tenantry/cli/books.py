"""The books of every journal: what the database says, and what lies on this machine's disk.

Reads journals of living processes as well, and changes none.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import sql

from tenantry.database.connect import DeadlineConnection
from tenantry.database.ledger import read_corrections
from tenantry.database.maintain import compacted_id
from tenantry.exporters import BEGINNING, Position
from tenantry.journal import (
    DROP_REASONS,
    ForeignFile,
    Slot,
    journal_directories,
    read_header,
    refuse_foreign,
)
from tenantry.journal.books import map_books
from tenantry.journal.files import try_lock
from tenantry.journal.segments import Segment, map_segments, segment_paths, split_lines
from tenantry.record import LINE_FORMAT, ROWS, Kind, Line

State = Literal["live", "dead", "closed", "compacted", "elsewhere", "missing"]
"""live: its process runs; dead: it waits on disk to be drained; closed: settled and removed;
compacted: one row for many journals, all of them closed; elsewhere: another machine or directory
has it; missing: nobody has it, and it was not settled."""

_TRIES: Final = 5
"""The database and the disk are read in turn, which is no snapshot: a misfit is read again."""

_PAUSE: Final = 0.1


@dataclass(frozen=True, slots=True)
class DiskJournal:
    """A journal on disk, as it was read."""

    id: str
    directory: Path
    process: str
    service: str | None
    destination: str
    tenant_type: str
    is_live: bool
    is_known_format: bool
    bytes: int
    emitted: int = 0
    accepted: int = 0
    handed: int = 0
    sampled_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    pending: int = 0
    """Rows behind the cursor that was given, or else behind its own."""
    pending_since: float | None = None
    """When the first of them was emitted, in seconds of the epoch; None where its id cannot say."""
    open_operations: tuple[str, ...] = ()
    """Names of the events that opened them."""
    event_ids: tuple[str, ...] = ()
    """Only where they were asked for."""
    problem: str = ""
    """Why it is not read, where it is not this user's alone."""


@dataclass(frozen=True, slots=True)
class JournalBooks:
    """The books of one journal."""

    id: str
    process: str
    service: str | None
    state: State
    emitted: int
    accepted: int
    handed: int
    sampled_out: int
    dropped: Mapping[str, int]
    stored: int
    rejected: int
    pending: int
    bytes: int = 0
    lag: float | None = None
    """Seconds since the first pending event was emitted; None where none waits on this disk."""

    @property
    def under_way(self) -> int:
        """Emitted, and in no column yet: calls that run now, or that their process did not end."""
        known = self.accepted + self.handed + self.sampled_out + sum(self.dropped.values())
        return self.emitted - known

    @property
    def emitted_balances(self) -> bool:
        """Whether emitted = accepted + handed + sampled out + dropped."""
        return self.under_way == 0 or (self.under_way > 0 and self.state in {"live", "dead"})

    @property
    def accepted_balances(self) -> bool:
        """Whether accepted = stored + rejected + pending."""
        return self.accepted == self.stored + self.rejected + self.pending

    @property
    def balances(self) -> bool:
        """Whether both equations hold."""
        return self.emitted_balances and self.accepted_balances


@dataclass(frozen=True, slots=True)
class Books:
    """All journals of one destination, and those that lie beside them for another."""

    journals: tuple[JournalBooks, ...]
    others: tuple[DiskJournal, ...]
    tallies: Mapping[str, int]
    """Accepted events by name, of the segments that are closed; empty where the role sees none."""
    corrections: Mapping[str, int] = field(default_factory=dict[str, int])
    """What the ledger says became of rows after they were counted, by kind."""

    @property
    def balance(self) -> bool:
        """Whether every journal balances."""
        return all(journal.balances for journal in self.journals)

    def total(self) -> JournalBooks:
        """Add the journals up."""
        dropped: dict[str, int] = {}
        for journal in self.journals:
            for reason, count in journal.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        running = any(journal.state in {"live", "dead"} for journal in self.journals)
        return JournalBooks(
            id="total",
            process="",
            service=None,
            state="live" if running else "closed",
            emitted=sum(journal.emitted for journal in self.journals),
            accepted=sum(journal.accepted for journal in self.journals),
            handed=sum(journal.handed for journal in self.journals),
            sampled_out=sum(journal.sampled_out for journal in self.journals),
            dropped=dropped,
            stored=sum(journal.stored for journal in self.journals),
            rejected=sum(journal.rejected for journal in self.journals),
            pending=sum(journal.pending for journal in self.journals),
            bytes=sum(journal.bytes for journal in self.journals),
        )


def read_books(
    connection: DeadlineConnection,
    *,
    schema: str,
    root: Path,
    destination: str,
) -> Books:
    """Read the books; what does not balance is read again, up to half a second long."""
    books = _read_once(connection, schema, root, destination)
    for _ in range(_TRIES - 1):
        if books.balance:
            break
        time.sleep(_PAUSE)  # a live process writes meanwhile, and tells nobody
        books = _read_once(connection, schema, root, destination)
    return books


def _read_once(connection: DeadlineConnection, schema: str, root: Path, destination: str) -> Books:
    # The database first: a cursor that moves meanwhile leaves rows counted once, as pending.
    rows = read_cursors(connection, schema)
    on_disk = read_journals(root, destination, _positions(rows))
    ours = {disk.id: disk for disk in on_disk if disk.destination == destination}
    journals = [_merge(row, ours.pop(row["journal_id"], None)) for row in rows]
    journals += [_merge(None, disk) for disk in ours.values()]
    return Books(
        journals=tuple(journals),
        others=tuple(disk for disk in on_disk if disk.destination != destination),
        tallies=_read_tallies(connection, schema),
        corrections=read_corrections(connection, schema),
    )


def read_cursors(connection: DeadlineConnection, schema: str) -> list[dict[str, Any]]:
    """Read ``journal_cursors``, oldest first; no row of it belongs to a tenant."""
    query = sql.SQL("SELECT pg_catalog.to_jsonb(c) FROM {} AS c ORDER BY started_at, journal_id")
    table = sql.Identifier(schema, "journal_cursors")
    return [row for (row,) in connection.execute(query.format(table)).fetchall()]


def read_positions(connection: DeadlineConnection, schema: str) -> dict[str, Position]:
    """Read how far the database has each journal, by its id."""
    return _positions(read_cursors(connection, schema))


def _positions(rows: Iterable[Mapping[str, Any]]) -> dict[str, Position]:
    return {row["journal_id"]: Position(row["segment"], row["position"]) for row in rows}


def _read_tallies(connection: DeadlineConnection, schema: str) -> dict[str, int]:
    # Of all tenants, by intention: row-level security shows what the role may see.
    query = sql.SQL("SELECT name, sum(accepted)::bigint FROM {} GROUP BY name ORDER BY name")
    table = sql.Identifier(schema, "event_tallies")
    return dict(connection.execute(query.format(table)).fetchall())


def _merge(row: Mapping[str, Any] | None, disk: DiskJournal | None) -> JournalBooks:
    """Take each count from where it is newest: the disk, then the database."""
    stored = 0 if row is None else row["stored"]
    rejected = 0 if row is None else row["rejected"]
    if disk is not None and disk.is_known_format:
        return JournalBooks(
            id=disk.id,
            process=disk.process,
            service=disk.service,
            state="live" if disk.is_live else "dead",
            emitted=disk.emitted,
            accepted=disk.accepted,
            handed=disk.handed,
            sampled_out=disk.sampled_out,
            dropped=disk.dropped,
            stored=stored,
            rejected=rejected,
            pending=disk.pending,
            bytes=disk.bytes,
            lag=_lag_of(disk),
        )
    counts: Mapping[str, Any] = row or {}
    unsettled = counts.get("accepted", 0) - stored - rejected
    process = disk.process if disk is not None else counts["process"]
    state: State = "closed"
    if disk is None and counts["journal_id"] == str(compacted_id(counts["service"])):
        state = "compacted"
    elif disk is not None:
        state = "live" if disk.is_live else "dead"
    elif unsettled:
        state = "elsewhere" if _may_live(process) else "missing"
    return JournalBooks(
        id=disk.id if disk is not None else counts["journal_id"],
        process=process,
        service=counts.get("service"),
        state=state,
        emitted=counts.get("emitted", 0),
        accepted=counts.get("accepted", 0),
        handed=counts.get("handed", 0),
        sampled_out=counts.get("sampled_out", 0),
        dropped=counts.get("dropped", {}),
        stored=stored,
        rejected=rejected,
        pending=0 if state in {"missing", "compacted"} else max(0, unsettled),
        bytes=0 if disk is None else disk.bytes,
    )


def _lag_of(disk: DiskJournal) -> float | None:
    if not disk.pending or disk.pending_since is None:
        return None
    return max(0.0, time.time() - disk.pending_since)


def _may_live(process: str) -> bool:
    """Say whether a process may run: on another machine, or under its number on this one."""
    host, _, pid = process.rpartition(":")
    if host != socket.gethostname() or not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# The disk.


def read_journals(
    root: Path,
    destination: str,
    cursors: Mapping[str, Position] | None = None,
    *,
    ids: bool = False,
) -> list[DiskJournal]:
    """Read the journals of a directory, oldest first; those that vanish meanwhile are left out.

    ``cursors`` are those of ``destination``. Without them, and for the journals of others, what is
    pending is told by the journal's own cursor, which may lag.
    """
    found: list[DiskJournal] = []
    for directory in journal_directories(root):
        try:
            journal = _read_journal(directory, destination, cursors, ids=ids)
        except FileNotFoundError:
            continue
        except ForeignFile as error:
            journal = DiskJournal(
                id=directory.name,
                directory=directory,
                process="",
                service=None,
                destination="",
                tenant_type="",
                is_live=False,
                is_known_format=False,
                bytes=0,
                problem=str(error),
            )
        if journal is not None:
            found.append(journal)
    return found


def _read_journal(
    directory: Path, destination: str, cursors: Mapping[str, Position] | None, *, ids: bool
) -> DiskJournal | None:
    refuse_foreign(directory)
    header = read_header(directory)
    if header is None and (_is_live(directory) or not segment_paths(directory)):
        return None  # its first line is being written, or never was
    header = header or {}
    known = header.get("format") == LINE_FORMAT
    settled = None
    if cursors is not None and header.get("destination") == destination:
        settled = cursors.get(directory.name, BEGINNING)
    values: dict[str, Any] = {}
    if known:
        values = _read_counts(directory, settled, ids=ids)
    return DiskJournal(
        id=directory.name,
        directory=directory,
        process=str(header.get("process", "")),
        service=header.get("service"),
        destination=str(header.get("destination", "")),
        tenant_type=str(header.get("tenant_type", "")),
        is_live=_is_live(directory),
        is_known_format=known,
        bytes=sum(path.stat().st_size for path in directory.iterdir()),
        **values,
    )


def _is_live(directory: Path) -> bool:
    """Say whether a process holds the journal; takes the lock for an instant if none does."""
    lock = try_lock(directory / "owner.lock", create=False)
    if lock is None:
        return True
    os.close(lock)
    return False


def _read_counts(directory: Path, settled: Position | None, *, ids: bool) -> dict[str, Any]:
    # Counters before lines: what is emitted meanwhile makes `emitted` larger, and never smaller.
    slots = _read_slots(directory)
    if settled is None:
        settled = Position(slots[Slot.CURSOR_SEGMENT], slots[Slot.CURSOR_OFFSET])
    segments = map_segments(directory)
    try:
        counts = _count_lines(segments, settled, slots, ids=ids)
    finally:
        for segment in segments:
            segment.close()
    emitted = max(counts.pop("sequence"), slots[Slot.EMITTED], _read_slots(directory)[Slot.EMITTED])
    return {
        **counts,
        "emitted": emitted,
        "handed": slots[Slot.HANDED],
        "sampled_out": slots[Slot.SAMPLED_OUT],
        "dropped": {reason: n for slot, reason in DROP_REASONS.items() if (n := slots[slot])},
    }


def _read_slots(directory: Path) -> list[int]:
    page = map_books(directory, create=False)
    try:
        with memoryview(page) as view, view.cast("Q") as numbers:
            return list(numbers[: max(Slot) + 1])
    finally:
        page.close()


def _count_lines(
    segments: Iterable[Segment], settled: Position, slots: list[int], *, ids: bool
) -> dict[str, Any]:
    accepted = slots[Slot.FORGOTTEN_ROWS]
    sequence = pending = 0
    pending_since: float | None = None
    opened: dict[str, str] = {}
    closed: set[str] = set()
    event_ids: list[str] = []
    for segment in segments:
        content = segment.map[: segment.used()]
        cut = 0
        if (segment.number, len(content)) > settled:
            cut = settled.offset if segment.number == settled.segment else 0
            rows, damaged = _rows(content[cut:])
            pending += len(rows) + len(damaged)
            if pending_since is None and rows:
                pending_since = _emitted_at(rows[0])
        lines, corrupt = split_lines(content)
        if segment.number > slots[Slot.FORGOTTEN_SEGMENT]:
            accepted += len(corrupt) + sum(1 for line in lines if line.kind in ROWS)
        for line in lines:
            sequence = max(sequence, line.sequence)
            if line.kind == Kind.HEADER:
                sequence = max(sequence, int(json.loads(line.json)["sequence"]))
            elif ids and line.kind in ROWS:
                event_ids.append(json.loads(line.json)["id"])
            if line.kind in {Kind.START, Kind.OPEN}:
                start = json.loads(line.json)
                opened[start["operation_id"]] = start["name"]
            elif line.kind in {Kind.END, Kind.CLOSE}:
                closed.add(json.loads(line.json)["operation_id"])
    return {
        "accepted": accepted,
        "sequence": sequence,
        "pending": pending,
        "pending_since": pending_since,
        "open_operations": tuple(name for key, name in opened.items() if key not in closed),
        "event_ids": tuple(event_ids),
    }


def _emitted_at(line: Line) -> float | None:
    """Read the time out of an event's id; one with an idempotency key has none."""
    event_id = UUID(json.loads(line.json)["id"])
    return (event_id.int >> 80) / 1000 if event_id.version == 7 else None  # noqa: PLR2004  # RFC 9562: milliseconds come first


def _rows(content: bytes) -> tuple[list[Line], list[int]]:
    lines, corrupt = split_lines(content)
    return [line for line in lines if line.kind in ROWS], corrupt
