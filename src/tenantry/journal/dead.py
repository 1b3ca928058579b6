"""Journals of dead processes: adopted, closed, read and settled, never appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard
from uuid import UUID

from tenantry.exporters import Position, Totals
from tenantry.journal.books import DROP_REASONS, Books, Slot, map_books, settle
from tenantry.journal.files import (
    open_file,
    refuse_foreign,
    remove_directory,
    try_lock,
)
from tenantry.journal.segments import (
    Chunk,
    Identity,
    corrupt_lines_of,
    lines_of,
    map_segments,
    read_chunk,
    read_header,
    segment_name,
    segment_paths,
)
from tenantry.record import EVENTS, LINE_FORMAT, ROWS, Kind, Line, format_line, make_now


class DeadJournal:
    """A journal whose process is gone, adopted: it is read, closed and settled, never appended to.

    What was open when the process died is closed in a segment of its own, written beside the
    others under a temporary name and renamed, so that a second adoption finds it done.
    """

    def __init__(self, directory: Path, locks: list[int], header: dict[str, Any]) -> None:
        """Map every segment; ``adopt`` is the way to get one."""
        self.directory = directory
        self.id: str = header["journal_id"]
        self.identity = Identity(
            header["service"], header["destination"], header["tenant_type"], header["process"]
        )
        self.is_sealed = True
        self._locks = locks
        self.books = Books(map_books(directory, create=False))
        self.segments = {s.number: s for s in map_segments(directory)}
        self._scan()

    def _scan(self) -> None:
        accepted, sequence = self.books[Slot.FORGOTTEN_ROWS], self.books[Slot.EMITTED]
        forgotten = self.books[Slot.FORGOTTEN_SEGMENT]
        self.open: dict[str, Line] = {}
        self.last_created_at: str | None = None
        closed: set[str] = set()
        for segment in self.segments.values():
            is_counted = segment.number <= forgotten  # killed before it could unlink it
            for line in lines_of(segment):
                sequence = max(sequence, line.sequence)
                if line.kind == Kind.HEADER:
                    sequence = max(sequence, int(json.loads(line.json)["sequence"]))
                if line.kind in ROWS and not is_counted:
                    accepted += 1
                if line.kind in EVENTS and line.kind != Kind.REPEATABLE:
                    emitted_at = _emitted_at(json.loads(line.json))
                    self.last_created_at = emitted_at or self.last_created_at
                if line.kind in {Kind.START, Kind.OPEN}:
                    operation_id = json.loads(line.json)["operation_id"]
                    if operation_id not in closed:
                        self.open[operation_id] = line
                elif line.kind in {Kind.END, Kind.CLOSE}:
                    operation_id = json.loads(line.json)["operation_id"]
                    closed.add(operation_id)
                    self.open.pop(operation_id, None)
            segment.corrupt.update(corrupt_lines_of(segment))
            accepted += len(segment.corrupt)
        self._accepted = accepted
        self._sequence = sequence
        self._count_interrupted()

    def _count_interrupted(self) -> None:
        """Count the events whose call had not returned when the process died."""
        known = self._accepted + self.books[Slot.HANDED] + self.books[Slot.SAMPLED_OUT]
        known += self.books[Slot.MOVED] + sum(self.books[slot] for slot in DROP_REASONS)
        if self._sequence > known:
            self.books[Slot.DROPPED_INTERRUPTED] += self._sequence - known
        self._sequence = max(self._sequence, known)  # a corrupt line may have been no row

    def close_operations(self, make_end: Callable[[Line, str], str | None]) -> int:
        """Write the terminal event of every operation that was open; returns how many.

        ``make_end(line, last_created_at)`` gives the event's JSON object for a ``START`` or
        ``OPEN`` line, or None when it has no terminal event.
        """
        lines: list[bytes] = []
        for line in self.open.values():
            # The clock may have been put back.
            started_at = json.loads(line.json)["created_at"]
            end = make_end(line, max(started_at, self.last_created_at or started_at))
            if end is not None:
                self._sequence += 1
                self._accepted += 1
                lines.append(format_line(Kind.END, self._sequence, end))
        self.open.clear()
        if lines:
            self._add_segment(b"".join(lines))
        return len(lines)

    def _add_segment(self, content: bytes) -> None:
        number = max(self.segments) + 1
        header = format_line(
            Kind.HEADER,
            0,
            json.dumps(
                {
                    "format": LINE_FORMAT,
                    "journal_id": self.id,
                    "segment": number,
                    **asdict(self.identity),
                    "sequence": self._sequence - content.count(b"\n"),
                    "accepted": self._accepted - content.count(b"\n"),
                }
            ),
        )
        temporary = self.directory / f"spare-{number}"
        with os.fdopen(open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(header + content)
            file.flush()
            os.fdatasync(file.fileno())
        temporary.rename(self.directory / segment_name(number))
        corrupt = {segment.number: segment.corrupt for segment in self.segments.values()}
        for segment in self.segments.values():
            segment.close()
        self.segments = {s.number: s for s in map_segments(self.directory)}
        for segment_number, offsets in corrupt.items():
            self.segments[segment_number].corrupt = offsets

    def totals(self) -> Totals:
        """Read the counters as the process left them."""
        return Totals(
            self._sequence - self.books[Slot.MOVED],
            self._accepted,
            self.books[Slot.HANDED],
            self.books[Slot.SAMPLED_OUT],
            {reason: n for slot, reason in DROP_REASONS.items() if (n := self.books[slot])},
        )

    def read(self, position: Position, max_bytes: int) -> Chunk | None:
        """Read whole lines from ``position`` on, or None at the end of the journal."""
        return read_chunk(self.segments, position, max_bytes)

    def settle(self, position: Position, *, stored: int, rejected: int) -> None:
        """Note that everything before ``position`` is stored or rejected."""
        settle(self.books, position, stored=stored, rejected=rejected)

    def close(self, *, remove: bool) -> None:
        """Unmap and unlock; remove the files as well when everything in them is settled."""
        for segment in self.segments.values():
            segment.close()
        self.books.close()
        if remove:
            remove_directory(self.directory)
        for fd in self._locks:
            os.close(fd)
        self._locks.clear()

    def abandon_after_fork(self) -> None:
        """In a forked child: close what was inherited, touch no file."""
        self.close(remove=False)


def _emitted_at(event: dict[str, Any]) -> str | None:
    """Tell when an event was emitted: its id knows; ``created_at`` may be any time it was given.

    None where neither is valid: the destination says what becomes of such an event.
    """
    with suppress(ValueError):
        event_id = UUID(str(event.get("id")))
        if event_id.version == 7:  # noqa: PLR2004  # RFC 9562: it begins with 48 bits of milliseconds
            return make_now(lambda: (event_id.int >> 80) * 1_000_000)()
    created_at = str(event.get("created_at"))
    with suppress(ValueError):
        datetime.fromisoformat(created_at)
        return created_at
    return None


def adopt(
    directory: Path, *, destination: str | None, tenant_type: str | None = None
) -> DeadJournal | None:
    """Take over the journal of a dead process; None when it lives, is gone, or is not ours.

    ``destination`` is the fingerprint that must match; None takes any. Raises ``ValueError`` for a
    journal that is ours and cannot be read, and leaves it alone: its format is not known here, its
    tenants are of another type, or its header is damaged; ``ForeignFile`` for what another user
    made, or could have.
    """
    locks: list[int] = []
    adopted = False
    try:
        refuse_foreign(directory)
        if not _take(directory, locks):
            return None
        header = read_header(directory)
        if header is None and not segment_paths(directory):
            remove_directory(directory)  # its process died before the first line
            return None
        if not _is_ours(header, destination, tenant_type):
            return None
        for spare in directory.glob("spare-*"):
            spare.unlink()
        journal = DeadJournal(directory, locks, header)
    except FileNotFoundError:
        return None
    else:
        adopted = True
        return journal
    finally:
        if not adopted:
            for fd in locks:
                os.close(fd)


def _take(directory: Path, locks: list[int]) -> bool:
    """Lock both files; False when another has one, or when it is another user's."""
    for name in ("owner.lock", "shipper.lock"):
        try:
            fd = try_lock(directory / name, create=False)
        except PermissionError:
            return False
        if fd is None:
            return False
        locks.append(fd)
    return True


def _is_ours(
    header: dict[str, Any] | None, destination: str | None, tenant_type: str | None
) -> TypeGuard[dict[str, Any]]:
    if header is None:
        raise ValueError("no header of a segment is readable, so that nobody knows whose it is")
    if header["format"] != LINE_FORMAT:
        raise ValueError(
            f"it has the format {header['format']!r}, which this version does not know (it knows "
            f"{LINE_FORMAT}). Run `tenantry drain` of the version that wrote it"
        )
    if destination is not None and header["destination"] != destination:
        return False
    if tenant_type is not None and header["tenant_type"] != tenant_type:
        raise ValueError(
            f"its tenants are of type {header['tenant_type']}, and {tenant_type} is configured. "
            "Configure what it was written with, or run `tenantry drain`"
        )
    return True
