"""Draining: ships the journals of dead processes, and says of each that remains why it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenantry.cli.books import DiskJournal, read_journals, read_positions
from tenantry.cli.connection import opened
from tenantry.database.connect import destination_fingerprint
from tenantry.exporters import BEGINNING, Batch, Outcome, Position, Retry
from tenantry.exporters.postgres import PostgresExporter
from tenantry.record import ABANDONED
from tenantry.shipper import Shipper

_ABANDONED = f'"error_code":"{ABANDONED}"'.encode()


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of one journal in this drain."""

    id: str
    process: str
    stored: int = 0
    rejected: int = 0
    abandoned: int = 0
    """Of the stored: ends of operations that the process did not live to end."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """A journal that is not drained, and why."""

    journal: DiskJournal
    reason: str


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain reached."""

    drained: tuple[Drained, ...] = ()
    remaining: tuple[Remaining, ...] = ()
    live: tuple[DiskJournal, ...] = ()
    """Their processes run, and ship them."""
    others: tuple[DiskJournal, ...] = ()
    """They belong to another destination."""

    @property
    def is_complete(self) -> bool:
        """Whether no dead process has left anything here for this destination."""
        return not self.remaining


@dataclass(slots=True)
class Progress:
    """How far a drain is; ``total`` is what was pending when it began."""

    total: int
    settled: int = 0


@dataclass(slots=True)
class WatchedExporter:
    """The PostgreSQL exporter, with the counts and the troubles of each journal kept."""

    exporter: PostgresExporter
    deadline: float
    tenant_types: Mapping[str, str]
    cursors: Mapping[str, Position]
    """Where the destination stood before: what lies behind is settled again, and not counted."""
    on_batch: Callable[[int], object]
    drained: dict[str, Drained] = field(default_factory=dict[str, Drained])
    troubles: dict[str, Retry] = field(default_factory=dict[str, Retry])

    def export(self, batch: Batch, deadline: float) -> Outcome:
        """Store a batch."""
        outcome = self._refuse_other_type(batch) or self.exporter.export(
            batch, min(deadline, self.deadline)
        )
        if outcome.retry is not None:
            self.troubles[batch.journal_id] = outcome.retry
        elif outcome.resume is None and batch.end > self.cursors.get(batch.journal_id, BEGINNING):
            known = self.drained.get(batch.journal_id, Drained(batch.journal_id, batch.process))
            self.drained[batch.journal_id] = replace(
                known,
                stored=known.stored + outcome.stored,
                rejected=known.rejected + outcome.rejected,
                abandoned=known.abandoned + sum(_ABANDONED in line for line in batch.events),
            )
            self.on_batch(outcome.stored + outcome.rejected)
        return outcome

    def _refuse_other_type(self, batch: Batch) -> Outcome | None:
        """Hold a journal whose tenant ids are of another type: its rows would all be rejected."""
        theirs = self.tenant_types.get(batch.journal_id, self.exporter.tenant_type)
        if theirs == self.exporter.tenant_type:
            return None
        reason = f"its tenant ids are {theirs}, those of the schema {self.exporter.tenant_type}"
        return Outcome(retry=Retry("hold", reason, "Name the database or schema it was meant for"))

    def finish(self, journal_id: str, deadline: float) -> bool:
        """Note that a journal has ended."""
        return self.exporter.finish(journal_id, deadline)

    def close(self) -> None:
        """Close the connection."""
        self.exporter.close()


def drain(
    dsn: str,
    *,
    schema: str,
    root: Path,
    timeout: float,
    on_progress: Callable[[Progress], object] = lambda _: None,
) -> DrainReport:
    """Adopt and ship the journals of dead processes under ``root`` that belong to ``dsn``.

    Blocks for ``timeout`` seconds at most, and some seconds more where a first connection takes
    them. Connects only when there is something to ship.

    Raises:
        DatabaseUnreachable: and the other subclasses of ``DatabaseError``, before anything is
            shipped; trouble that begins later is the reason of what remains.
    """
    destination = destination_fingerprint(dsn, schema)
    ours = [disk for disk in read_journals(root, destination) if disk.destination == destination]
    dead_ids = {disk.id for disk in ours if not disk.is_live}
    if not dead_ids:
        return _report(root, destination, None)
    deadline = time.monotonic() + timeout
    with opened(dsn, schema) as source:
        exporter = PostgresExporter(dsn, schema=schema, tenant_type=source.installed.tenant_type)
        exporter.check(deadline)
        cursors = read_positions(source.connection, schema)
    dead = [disk for disk in read_journals(root, destination, cursors) if disk.id in dead_ids]
    progress = Progress(sum(disk.pending for disk in dead))

    def count(rows: int) -> None:
        progress.settled += rows
        on_progress(progress)

    watched = WatchedExporter(
        exporter, deadline, {disk.id: disk.tenant_type for disk in dead}, cursors, count
    )
    on_progress(progress)
    shipper = Shipper(watched, None, root=root, destination=destination)
    shipper.drain(deadline)
    return _report(root, destination, watched)


def _report(root: Path, destination: str, watched: WatchedExporter | None) -> DrainReport:
    found = read_journals(root, destination)
    # Whose an unreadable one is, nobody can say: it may be ours.
    ours = [disk for disk in found if disk.destination in {destination, ""}]
    return DrainReport(
        drained=() if watched is None else tuple(watched.drained.values()),
        remaining=tuple(
            Remaining(disk, _reason(disk, watched)) for disk in ours if not disk.is_live
        ),
        live=tuple(disk for disk in ours if disk.is_live),
        others=tuple(disk for disk in found if disk not in ours),
    )


def _reason(disk: DiskJournal, watched: WatchedExporter | None) -> str:
    if disk.problem:
        return disk.problem
    if not disk.destination:
        return "its first line cannot be read: look at the disk, and at the file's other lines"
    if not disk.is_known_format:
        return "another version of Tenantry wrote it; run `tenantry drain` of that version"
    trouble = None if watched is None else watched.troubles.get(disk.id)
    if trouble is not None:
        return f"{trouble.reason}. {trouble.remedy}".rstrip()
    if watched is not None and watched.troubles:
        return "the drain ended before it was its turn"
    return "the time was up" if watched is not None else "its process died just now"
