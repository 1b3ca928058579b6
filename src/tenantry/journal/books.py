"""The books: the counters of one journal, mapped so that they survive a kill."""

from __future__ import annotations

import itertools
import mmap
import os
from enum import IntEnum
from pathlib import Path
from typing import Final

from tenantry.exporters import Position
from tenantry.journal.files import PAGE, open_file, preallocate


class Slot(IntEnum):
    """A counter in the books: an unsigned 64-bit integer at eight times this offset."""

    FORMAT = 0
    EMITTED = 1
    HANDED = 2
    SAMPLED_OUT = 3
    TRUNCATED = 4
    UNDECLARED = 5
    MOVED = 6
    """Of the numbers given: those whose event is kept in another journal, under its number."""
    CURSOR_SEGMENT = 8
    CURSOR_OFFSET = 9
    STORED = 10
    REJECTED = 11
    FORGOTTEN_SEGMENT = 12
    FORGOTTEN_ROWS = 13
    DROPPED_JOURNAL_FULL = 16
    DROPPED_DISK_FULL = 17
    DROPPED_SHUT_DOWN = 18
    DROPPED_INTERNAL_ERROR = 19
    DROPPED_INTERRUPTED = 20
    DROPPED_HANDOVER_FAILED = 21

    __hash__ = int.__hash__  # that of enumerations is written in Python


_EMITTED: Final = int(Slot.EMITTED)

DROP_REASONS: Final = {
    slot: slot.name.removeprefix("DROPPED_").lower()
    for slot in Slot
    if slot.name.startswith("DROPPED_")
}
"""Why an event was lost on purpose. ``interrupted``: its process died within the call, or an
exception came into it."""

COUNTED: Final = "_tenantry_counted"
"""Attribute of an exception that left an append: the ``id`` of the line that is counted all the
same, so that whoever catches it does not count the event again."""


class Books:
    """The counters of one journal: in memory exact at any time, mapped so that they survive a kill.

    Thread-safe and safe to re-enter from a signal handler, without a lock: each counter is an
    ``itertools.count``, whose step is one uninterruptible call, and what is written to the map is
    compared and stored in one statement that calls nothing, within which the interpreter lets no
    thread and no handler run.
    """

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        self._view = memoryview(page).cast("Q")
        self.counts = [itertools.count(self._view[slot]) for slot in range(max(Slot) + 1)]
        """What ``add`` moves. To step one is a single call, which needs no frame and no lock; the
        map may lag behind it until the next ``add``, or an adoption, which counts anew."""

    def add(self, slot: Slot, sequence: int = 0) -> None:
        """Count one; ``sequence`` is the event's number, which moves the mapped EMITTED up."""
        self.write(slot, next(self.counts[slot]) + 1, sequence)

    def write(self, slot: Slot, count: int, sequence: int = 0) -> None:
        """Write into the map that a counter was moved to ``count``, or further."""
        view = self._view
        view[slot] = count if count > view[slot] else view[slot]  # noqa: FURB136  # max() is a call
        view[_EMITTED] = sequence if sequence > view[_EMITTED] else view[_EMITTED]  # noqa: FURB136

    def current(self, slot: Slot) -> int:
        """Read a counter that ``add`` moves."""
        return peek(self.counts[slot])

    def __getitem__(self, slot: Slot) -> int:
        return self._view[slot]

    def __setitem__(self, slot: Slot, value: int) -> None:
        """Set a counter that only one thread moves (the shipper's)."""
        self._view[slot] = value

    def close(self) -> None:
        """Unmap."""
        self._view.release()
        self._page.close()


def peek(counter: itertools.count[int]) -> int:
    """Read an ``itertools.count`` without moving it; ``count(5)`` is how it prints itself.

    Its other way out, ``__reduce__``, is gone from Python 3.14 on.
    """
    return int(repr(counter)[len("count(") : -1])


def settle(books: Books, position: Position, *, stored: int, rejected: int) -> None:
    """Move the local cursor. It may lag behind the destination's, and is then put right by it."""
    books[Slot.STORED] += stored
    books[Slot.REJECTED] += rejected
    books[Slot.CURSOR_SEGMENT] = position.segment
    books[Slot.CURSOR_OFFSET] = position.offset


def cursor(books: Books) -> Position:
    """Read the local cursor."""
    return Position(books[Slot.CURSOR_SEGMENT], books[Slot.CURSOR_OFFSET])


def map_books(directory: Path, *, create: bool) -> mmap.mmap:
    """Map the page of counters."""
    flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
    fd = open_file(directory / "books", flags)
    try:
        if create:
            preallocate(fd, PAGE)
        return mmap.mmap(fd, PAGE)
    finally:
        os.close(fd)
