"""The journal that this process appends to."""

from __future__ import annotations

import itertools
import json
import mmap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tenantry.exceptions import JournalUnavailable
from tenantry.exporters import Position, Totals
from tenantry.journal.books import COUNTED, DROP_REASONS, Books, Slot, peek, settle
from tenantry.journal.claims import Claim
from tenantry.journal.files import (
    PAGE,
    is_turn_over_asked_for,
    note_turn_over,
    remove_directory,
)
from tenantry.journal.segments import (
    Chunk,
    Identity,
    Segment,
    close_line,
    open_line,
    read_chunk,
    seal,
    segment_name,
)
from tenantry.journal.shelf import (
    FIRST_SEGMENT_BYTES,
    PRIVATE,
    SEGMENT_BYTES,
    JournalFull,
    Shelf,
)
from tenantry.record import LINE_FORMAT, Kind, format_line

_FULL_PAUSE: Final = 0.1
"""Seconds without another try after a rotation found no room: a try costs system calls."""


class Journal:
    """The journal that this process appends to.

    ``append`` holds no lock: ``mmap.write`` checks the room, copies the line and moves the
    position in one call that gives up neither the GIL nor control to a signal handler, so that a
    thread, a signal handler or a destructor that comes in between finds a whole line or none.
    Rotation is guarded by ``_rotation``; a sealed map refuses writes by itself, since its position
    is at its end.
    """

    def __init__(
        self,
        root: Path | None,
        identity: Identity,
        *,
        journal_id: str,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int = 256 * 1024 * 1024,
        after_rotation: Callable[[Journal], object] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the directory, take both locks and map the first segment.

        ``root`` is None for memory mode. ``after_rotation`` is called in whatever thread filled a
        segment, with the rotation's lock held: it must neither log nor emit. Raises
        ``JournalUnavailable``, and leaves nothing behind, where that cannot be done.
        """
        self.id = journal_id
        self.identity = identity
        self.root = root
        self._after_rotation = after_rotation
        self._rotation = threading.RLock()
        self._generation = 0
        self._full_until = 0.0
        self.is_sealed = False
        self.full_reason = Slot.DROPPED_JOURNAL_FULL
        self.full_error: OSError | None = None
        """What the last rotation failed of. Not logged here: a logging handler may emit events,
        and would meet the lock of the rotation."""
        self._numbers = itertools.count(1)
        self.sequence = itertools.count(1)
        self._accepted = itertools.count()
        self._open: dict[str, bytes] = {}
        self._unwritten: list[bytes] = []
        """``CLOSE`` lines of operations whose end found no room: the next segment begins so."""
        self._successor: Journal | None = None
        self.directory: Path | None = None
        self._claim = Claim()
        try:
            if root is None:
                self.books = Books(mmap.mmap(-1, PAGE, flags=PRIVATE))
            else:
                self.root, self.directory, page = self._claim.make(root, journal_id)
                self.books = Books(page)
            self.books[Slot.FORMAT] = LINE_FORMAT
            self.shelf = Shelf(
                root=self.root,
                directory=self.directory,
                segment_bytes=segment_bytes,
                max_bytes=max_bytes,
                books=self.books,
                lock=self._rotation,
                now=now,
            )
            first = self._publish(self.shelf.new_segment(min(segment_bytes, FIRST_SEGMENT_BYTES)))
            self.shelf.active = self.segments[first.number] = first
            self._write = first.map.write
        except OSError as error:
            self._claim.undo()
            raise JournalUnavailable(
                error.errno,
                f"cannot keep a journal in {str(root)!r}: {error.strerror or error}. Give "
                "configure(journal=…) a directory that this user may write to and that has room "
                f"for {min(segment_bytes, FIRST_SEGMENT_BYTES)} bytes, or journal=None for memory "
                "mode",
            ) from error

    @property
    def segments(self) -> dict[int, Segment]:
        """Those that can be read, by their numbers."""
        return self.shelf.segments

    # Appending: the caller's path.

    def append(self, line: bytes) -> bool:
        """Write one line; False when there is no room and the line is not kept.

        Returned True means accepted: the line survives the death of the process. Does no system
        call but for page faults, except when a segment is full.
        """
        try:
            self._write(line)
        except ValueError:
            return self._append_rotating(line)
        return True

    def append_row(self, line: bytes, opens: str = "", closes: str = "") -> bool:
        """Append a line that is a row, and count it as accepted.

        ``opens`` and ``closes`` name an operation that begins or ends with it. An open one is
        kept: a rotation writes it again, as an ``OPEN`` line, into the new segment, so that no open
        operation is forgotten.

        An exception that comes in between (of a signal handler, or for want of stack) leaves; it is
        marked with ``COUNTED`` when the row is kept and counted all the same.
        """
        counted = None
        generation = self._generation
        try:
            if opens and self.directory is not None:
                self._open[opens] = line
            try:
                self._write(line)
            except ValueError:
                if not self._append_rotating(line):
                    self._forget_refused(opens, closes, generation)
                    return False
            for counted in self._accepted:  # noqa: B007  # no signal between step and assignment
                break
            if closes:
                opened = self._open.pop(closes, None)
                if generation != self._generation or self._successor is not None:
                    self._close_again(closes, opened)
        except BaseException as error:
            self._mark_counted(error, line, counted)
            raise
        return True

    def open_operation(self, operation_id: str, line: bytes) -> bool:
        """Append an ``OPEN`` line, which is no row."""
        if self.directory is not None:
            self._open[operation_id] = line
        return self.append(line)

    def close_operation(self, operation_id: str, line: bytes) -> bool:
        """Append a ``CLOSE`` line, which is no row, and forget the operation."""
        generation = self._generation
        if not self.append(line):
            self._close_unwritten(operation_id)
            return False
        try:
            opened = self._open.pop(operation_id, None)
            if generation != self._generation or self._successor is not None:
                self._close_again(operation_id, opened)
        except BaseException as error:
            error.__dict__[COUNTED] = id(line)  # what it closes has been counted
            raise
        return True

    def _close_again(self, operation_id: str, opened: bytes | None) -> None:
        """Close an operation that may be open elsewhere: in a successor, or in a checkpoint.

        A rotation may have written the operation into its checkpoint after our line.
        """
        if self._successor is not None:
            self._successor.close_operation(operation_id, close_line(operation_id))
        elif opened:
            self.append(close_line(operation_id))

    def _mark_counted(self, error: BaseException, line: bytes, counted: int | None) -> None:
        """Count a row that was written before ``error`` came, and note on it that it is counted."""
        if counted is None and self._holds(line):
            counted = next(self._accepted)
        if counted is not None:
            error.__dict__[COUNTED] = id(line)

    def _holds(self, line: bytes) -> bool:
        """Say whether a line was written: no two rows of a journal have the same number."""
        for segment in self.shelf.all_segments():
            with suppress(ValueError):  # the shipper has just removed it
                if segment.map.find(line, 0) >= 0:
                    return True
        return False

    def _forget_refused(self, opens: str, closes: str, generation: int) -> None:
        """Forget the operation of a row that found no room."""
        if closes:
            self._close_unwritten(closes)
        elif opens:  # it is not there to be closed, unless a rotation wrote it meanwhile
            opened = self._open.pop(opens, None)
            if generation != self._generation:
                self._close_again(opens, opened)

    def _close_unwritten(self, operation_id: str) -> None:
        """Note the end of an operation whose line is dropped: it is not to look abandoned."""
        if self._open.pop(operation_id, None) is not None:
            line = close_line(operation_id)
            if not self.append(line):
                self._unwritten.append(line)

    def _append_rotating(self, line: bytes) -> bool:
        if time.monotonic() < self._full_until:
            return False
        with self._rotation:
            while True:
                full = self.shelf.active
                try:
                    full.map.write(line)
                except ValueError:
                    pass
                else:
                    return True
                if len(line) > self.shelf.segment_bytes // 2 or not self._rotate(full):
                    return False

    def _rotate(self, full: Segment) -> bool:
        if self.is_sealed or time.monotonic() < self._full_until:
            return False
        try:
            self._replace(
                full, self.shelf.spares.pop() if self.shelf.spares else self.shelf.new_segment()
            )
        except OSError as error:
            is_limit = isinstance(error, JournalFull)
            self.full_reason = Slot.DROPPED_JOURNAL_FULL if is_limit else Slot.DROPPED_DISK_FULL
            self.full_error = error
            if len(full.map) - full.used() < self.shelf.segment_bytes // 4:
                seal(full)  # so that it can be settled, and make room for another
            self._full_until = time.monotonic() + _FULL_PAUSE
            return self.shelf.active is not full
        with suppress(OSError, ValueError):
            self._after_rotation(self)
        return True

    def _replace(self, full: Segment, fresh: Segment) -> None:
        """Go on in ``fresh``, unless somebody did so in another segment, or sealed the journal.

        Under ``_rotation``; yet a signal handler or a destructor may do either within our rotation.
        """
        seal(full)
        self._generation += 1
        fresh = self._publish(fresh)
        shelf, write = self.shelf, fresh.map.write
        # No call between the test and the last assignment: nothing can come in between.
        if shelf.active is full and not self.is_sealed:
            shelf.segments[fresh.number] = fresh
            shelf.active = fresh
            self._write = write
        else:
            fresh.remove()

    def _publish(self, segment: Segment) -> Segment:
        """Number a segment, write its header and its checkpoint, and give it its name."""
        segment.number = next(self._numbers)
        header = format_line(
            Kind.HEADER,
            0,
            json.dumps(
                {
                    "format": LINE_FORMAT,
                    "journal_id": self.id,
                    "segment": segment.number,
                    **asdict(self.identity),
                    "sequence": peek(self.sequence) - 1,
                    "accepted": peek(self._accepted),
                }
            ),
        )
        ended = list(self._unwritten)
        opened = [open_line(line) for line in list(self._open.values())]
        beginning = b"".join([header, *opened, *ended])
        try:
            if len(beginning) > self.shelf.segment_bytes // 2:
                segment.remove()
                segment = self.shelf.map_segment(
                    2 * len(beginning) + self.shelf.segment_bytes, number=segment.number
                )
            segment.map.write(beginning)
            if segment.path is not None:
                final = segment.path.with_name(segment_name(segment.number))
                segment.path.rename(final)
                segment.path = final
        except OSError:
            segment.remove()
            raise
        del self._unwritten[: len(ended)]
        return segment

    # Space.

    def prepare(self) -> None:
        """Map the next segment ahead of its use; the shipper calls this, off the caller's path."""
        if self.is_sealed:
            return
        active = self.shelf.active
        if not self.shelf.spares and (active.is_sealed() or active.used() > len(active.map) // 2):
            try:
                spare = self.shelf.new_segment()
            except OSError:
                return  # the rotation that needs it finds out, and says so
            self.shelf.spares.append(spare)
            spare.fault_in()

    def turn_over(self) -> None:
        """Go on in a fresh segment where somebody asked for it, so that this one can go.

        The shipper calls this. Where there is no room, it is tried again: no event is dropped.
        """
        if self.directory is None or self.is_sealed or not is_turn_over_asked_for(self.directory):
            return
        with suppress(OSError):
            fresh = self.shelf.new_segment(min(self.shelf.segment_bytes, FIRST_SEGMENT_BYTES))
            with self._rotation:
                self._replace(self.shelf.active, fresh)
            note_turn_over(self.directory)

    def has_room(self) -> bool:
        """Say whether a line would be taken, without taking one; the shipper calls this."""
        if self.is_sealed:
            return False
        active = self.shelf.active
        if not active.is_sealed() and len(active.map) - active.used() > PAGE:
            return True
        self.prepare()  # the disk may be full, whatever the limit says
        return bool(self.shelf.spares) and not self.is_sealed  # which it may be by now

    @property
    def is_full(self) -> bool:
        """Whether a line would be refused without another try."""
        return self.shelf.active.is_sealed() and time.monotonic() < self._full_until

    # Reading and settling: the shipper's side.

    def totals(self) -> Totals:
        """Read the counters, in an order in which no sum can run ahead of ``emitted``."""
        interrupted = self.books.current(Slot.DROPPED_INTERRUPTED)
        if interrupted != self.books[Slot.DROPPED_INTERRUPTED]:  # counted where no stack was left
            self.books.write(Slot.DROPPED_INTERRUPTED, interrupted, peek(self.sequence) - 1)
        accepted = peek(self._accepted)
        handed = self.books.current(Slot.HANDED)
        sampled_out = self.books.current(Slot.SAMPLED_OUT)
        dropped = {
            reason: count
            for slot, reason in DROP_REASONS.items()
            if (count := self.books.current(slot))
        }
        emitted = peek(self.sequence) - 1 - self.books.current(Slot.MOVED)
        return Totals(emitted, accepted, handed, sampled_out, dropped)

    def read(self, position: Position, max_bytes: int) -> Chunk | None:
        """Read whole lines from ``position`` on, or None when there are none yet."""
        return read_chunk(self.segments, position, max_bytes)

    def settle(self, position: Position, *, stored: int, rejected: int) -> None:
        """Note that everything before ``position`` is stored or rejected, and nothing behind it.

        The counts are what to add; they are negative when the destination went back in time.
        """
        settle(self.books, position, stored=stored, rejected=rejected)
        if self.shelf.settle(position):
            self._full_until = 0.0

    # The end.

    def seal(self) -> None:
        """Refuse any further line."""
        with self._rotation:
            self.is_sealed = True
            seal(self.shelf.active)

    def move_number(self) -> None:
        """Note that an event numbered here is kept in another journal, under its number there."""
        self.books.add(Slot.MOVED)

    def has_open_operations(self) -> bool:
        """Say whether somebody's end is still to come, or was not written."""
        return bool(self._open or self._unwritten)

    def hand_over(self, successor: Journal) -> bool:
        """Move the open operations of a sealed journal to another, where they will end.

        They are closed here in a last segment. False, and nothing done, where there is no room for
        that: then they look abandoned here.
        """
        with self._rotation:
            self._successor = successor
            moving = dict(self._open)
            self._unwritten += [close_line(operation_id) for operation_id in moving]
            self._open.clear()
            try:
                last = self._publish(self.shelf.map_segment(self.shelf.segment_bytes))
            except OSError:
                self._successor = None
                return False
            seal(last)
            self.segments[last.number] = last
            for operation_id, line in moving.items():
                successor.open_operation(operation_id, open_line(line))
            return True

    def close(self, *, remove: bool) -> None:
        """Unlock; remove the files as well when everything in them is settled.

        The maps go with the object: a thread that is still in ``append`` finds them sealed.
        """
        with self._rotation:
            for segment in [*self.segments.values(), *self.shelf.spares]:
                segment.close_file()
            if self.directory is not None:
                for spare in self.shelf.spares:
                    spare.remove()
                if remove:
                    remove_directory(self.directory)
            self.shelf.spares.clear()
            self._claim.release()

    def abandon_after_fork(self) -> None:
        """In a forked child: close what was inherited, touch no file, take no lock."""
        for segment in [*self.segments.values(), *self.shelf.spares]:
            segment.close()
        self.books.close()
        self._claim.release()
