"""The shelf: the segments of one journal, and the room that they take."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tenantry.exporters import Position
from tenantry.journal.books import Books, Slot
from tenantry.journal.files import (
    ask_for_room,
    directory_bytes,
    is_room_asked_for,
    open_file,
    preallocate,
)
from tenantry.journal.segments import SETTLED_SUFFIX, Segment, count_row_lines

SEGMENT_BYTES: Final = 2 * 1024 * 1024
"""Size of one segment: about 4,500 events. A busy process holds two."""

FIRST_SEGMENT_BYTES: Final = 256 * 1024
"""Size of the first one, and all that a short-lived process takes."""

_MAP_FLAGS: Final = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""What is mapped in a hurry is readable at once; ``Segment.fault_in`` does more, off the path."""

PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Of memory mode: no forked child writes into what its parent reads."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class JournalFull(OSError):
    """The limit that was set for the journal directory is reached."""


class Shelf:
    """The segments of a journal that lives: the one that is written, spares, and those before it.

    ``segment_bytes`` is the size of each but the first, ``max_bytes`` the limit of all journals of
    the root together. ``lock`` is held by whoever makes another segment the active one.
    """

    active: Segment
    """The one that is written; whoever made the shelf sets it."""

    def __init__(
        self,
        *,
        root: Path | None,
        directory: Path | None,
        segment_bytes: int,
        max_bytes: int,
        books: Books,
        lock: threading.RLock,
        now: Callable[[], float],
    ) -> None:
        """Begin without any segment; ``root`` and ``directory`` are None in memory mode."""
        self.root = root
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.max_bytes = max_bytes
        self.segments: dict[int, Segment] = {}
        self.spares: list[Segment] = []
        self._books = books
        self._lock = lock
        self._now = now

    # New ones.

    def new_segment(self, size: int = 0) -> Segment:
        """Map a segment, making room for it; ``OSError`` where there is none."""
        size = size or self.segment_bytes
        self._make_room(size)
        while True:
            try:
                return self.map_segment(size)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                if (retained := self._find_retained()) is not None:
                    self.forget(retained)
                elif size > FIRST_SEGMENT_BYTES:
                    size = FIRST_SEGMENT_BYTES  # the disk is nearly full: a small one may fit
                else:
                    raise

    def map_segment(self, size: int, number: int = 0) -> Segment:
        """Map a segment whatever the limit; in a file that nobody takes for one yet."""
        if self.directory is None:
            private = mmap.mmap(-1, size, flags=PRIVATE)
            return Segment(number, private, None)
        path = self.directory / f"spare-{threading.get_ident()}-{time.monotonic_ns()}"
        fd = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            preallocate(fd, size)
            return Segment(number, mmap.mmap(fd, size, flags=_MAP_FLAGS), path, fd)
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise

    def _make_room(self, needed: int) -> None:
        """Raise ENOSPC when one more segment would pass the limit of the whole directory.

        Segments that are kept only to be sent again make room: this journal's now, those of other
        processes as soon as they see that it is asked for.
        """
        while sum(used := self.used_bytes()) + needed > self.max_bytes:
            retained = self._find_retained()
            if retained is not None:
                self.forget(retained)
                continue
            settled, unsettled = used
            if settled and self.root is not None:
                ask_for_room(self.root)
            if unsettled + needed <= self.max_bytes:
                return
            if self.segments and self.active.settled_at is not None:
                return  # it goes when another holds its checkpoint, and not before
            raise JournalFull(errno.ENOSPC, f"the journal's limit of {self.max_bytes} bytes")

    def _find_retained(self) -> Segment | None:
        """Find the oldest segment that is kept only to be sent again, if need be."""
        for segment in self.all_segments():
            if segment.settled_at is not None and segment is not self.active:
                return segment
        return None

    # How much there is.

    def free_bytes(self) -> int:
        """Count the bytes that lines can still take; settled segments make room, and do not count.

        Of all processes of the root together, but for what others have left of their last segments.
        """
        active = self.active
        mapped = [*self.spares, *([] if active.is_sealed() else [active])]
        unmapped = max(0, self.max_bytes - self.used_bytes()[1]) // self.segment_bytes
        left = sum(len(segment.map) - segment.used() for segment in mapped)
        return left + unmapped * self.segment_bytes

    def unsettled_bytes(self) -> int:
        """Count the bytes of this journal's own segments that are still to be settled, or so."""
        return self.segment_bytes * sum(s.settled_at is None for s in self.all_segments())

    def used_bytes(self) -> tuple[int, int]:
        """Count the bytes of settled segments and of all else, of all journals of the root.

        In memory mode, of this journal alone.
        """
        if self.root is not None:
            return directory_bytes(self.root, SETTLED_SUFFIX)
        segments = [*self.all_segments(), *self.spares]
        settled = sum(len(s.map) for s in segments if s.settled_at is not None)
        return settled, sum(len(s.map) for s in segments) - settled

    def all_segments(self) -> list[Segment]:
        """Copy the list: the shipper and the rotation both change the dictionary."""
        return list(self.segments.values())

    # Those that are done with.

    def settle(self, position: Position) -> bool:
        """Note that what is before ``position`` is settled, and nothing behind it; True if new."""
        is_news = False
        for segment in self.all_segments():
            if segment.number >= position.segment:
                if segment.settled_at is not None:
                    segment.mark_settled(None)
            elif segment.settled_at is None:
                segment.mark_settled(self._now())
                is_news = True
        return is_news

    def forget_settled(self, older_than: float) -> None:
        """Remove segments that were settled more than ``older_than`` seconds ago.

        The younger ones are let go: 256 MiB of them would hold 256 descriptors.
        """
        settled = [
            (segment, segment.settled_at)
            for segment in self.all_segments()
            if segment.settled_at is not None and segment is not self.active
        ]
        if settled and self.root is not None and is_room_asked_for(self.root):
            older_than = 0.0
        limit = self._now() - older_than
        for segment, settled_at in settled:
            if settled_at <= limit:
                self.forget(segment)
            elif not segment.map.closed:
                with self._lock:
                    segment.let_go()

    def let_go_unread(self, position: Position) -> None:
        """Unmap the segments that wait behind the one at ``position`` and the next.

        A backlog then costs no memory, and half as many descriptors. Who reads maps it again.
        """
        for segment in self.all_segments():
            waits = segment.number > position.segment + 1 and segment.is_sealed()
            if waits and segment.path is not None and not segment.map.closed:
                with self._lock:
                    if segment is not self.active:
                        segment.map.close()

    def forget(self, segment: Segment) -> None:
        """Remove a settled segment, and count its rows."""
        with self._lock:
            if self.segments.pop(segment.number, None) is not None:
                # Exact, where the header's count lacks the calls that were under way.
                self._books[Slot.FORGOTTEN_ROWS] += count_row_lines(segment)
                self._books[Slot.FORGOTTEN_SEGMENT] = segment.number
                segment.remove()

    def sync(self) -> None:
        """Force what is written to the disk (``power`` durability); gives up the GIL meanwhile."""
        for segment in self.all_segments():
            if segment.fd >= 0 and segment.settled_at is None:
                os.fdatasync(segment.fd)
