"""Lines that have to go: looked for in the journals on disk, those of living processes included.

Nothing is written into a segment, where its process may be writing too. Its process is asked to go
on in a fresh one and to let the others go as soon as they are shipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tenantry.journal.files import (
    ask_for_room,
    ask_to_turn_over,
    journal_directories,
    open_file,
    refuse_foreign,
    try_lock,
)
from tenantry.journal.segments import (
    SETTLED_SUFFIX,
    read_header,
    segment_name,
    segment_paths,
    split_lines,
)
from tenantry.record import LINE_FORMAT, ROWS, Kind

POLL: Final = 0.1
"""Seconds between two looks whether segments are gone."""

_ASK_AGAIN: Final = 2.0
"""Seconds: a request for room holds for ten."""

_TRIES: Final = 10
"""A living process renames and removes segments while they are listed and read."""


@dataclass(slots=True)
class Traces:
    """What one journal holds of somebody."""

    id: str
    directory: Path
    process: str = ""
    destination: str = ""
    is_live: bool = False
    """Whether a process holds it: its own, or one that ships it."""
    lines: dict[int, int] = field(default_factory=dict[int, int])
    """How many of their lines each segment has."""
    reminders: int = 0
    """Of those lines: no rows, but what tells of an operation that was open when the segment
    began."""
    unreadable: dict[int, int] = field(default_factory=dict[int, int])
    """Lines whose checksum fails, so that nobody knows whose they are."""
    problem: str = ""
    """Why the journal cannot be read."""
    newest: int = 0
    """Its last segment."""

    @property
    def count(self) -> int:
        """How many lines are theirs."""
        return sum(self.lines.values())

    @property
    def segments(self) -> set[int]:
        """The segments that have to go."""
        return {*self.lines, *self.unreadable}


def find_traces(root: Path, owns: Callable[[bytes], bool]) -> list[Traces]:
    """Read all journals of a root, oldest first; ``owns`` is asked of each line's JSON object.

    Those that hold nothing are among them; those that vanish meanwhile are not. Raises ``OSError``
    where ``root`` itself cannot be read.
    """
    found = (_read(directory, owns) for directory in journal_directories(root))
    return [traces for traces in found if traces is not None]


def _read(directory: Path, owns: Callable[[bytes], bool]) -> Traces | None:
    for _ in range(_TRIES):
        traces = Traces(directory.name, directory)
        try:
            refuse_foreign(directory)
            _read_into(traces, owns)
        except FileNotFoundError:
            if not directory.exists():
                return None
            continue
        except OSError as error:
            traces.problem = error.strerror or str(error)
        except ValueError:
            traces.problem = "a file in it has the name of a segment, and is none"
        return traces
    return Traces(directory.name, directory, problem="its files vanish while they are read")


def _read_into(traces: Traces, owns: Callable[[bytes], bool]) -> None:
    traces.is_live = _is_live(traces.directory)
    paths = segment_paths(traces.directory)
    header = read_header(traces.directory)
    if header is None:
        if paths:
            traces.problem = "no header of a segment is readable, so that nobody knows whose it is"
        return
    traces.process = str(header.get("process", ""))
    traces.destination = str(header.get("destination", ""))
    if header.get("format") != LINE_FORMAT:
        traces.problem = "another version of Tenantry wrote it, in a format not known here"
        return
    for path in paths:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            lines, corrupt = split_lines(file.read().rstrip(b"\0"))
        number = traces.newest = int(path.stem)
        theirs = [line for line in lines if line.kind in _WITH_DATA and owns(line.json)]
        if theirs:
            traces.lines[number] = len(theirs)
            traces.reminders += sum(line.kind == Kind.OPEN for line in theirs)
        if corrupt:
            traces.unreadable[number] = len(corrupt)


_WITH_DATA: Final = ROWS | {Kind.OPEN}


def _is_live(directory: Path) -> bool:
    lock = try_lock(directory / "owner.lock", create=False)
    if lock is None:
        return True
    os.close(lock)
    return False


def ask_to_let_go(journals: Iterable[Traces]) -> None:
    """Ask the processes that write these journals to go on in a fresh segment, once each."""
    for traces in journals:
        if traces.is_live and traces.newest in traces.segments:
            ask_to_turn_over(traces.directory)


def await_removal(
    root: Path,
    journals: Iterable[Traces],
    *,
    deadline: float,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until the segments that have to go are gone, at most until ``deadline``.

    Blocks; ``deadline`` is in seconds of ``time.monotonic()``. All processes of the root are asked
    meanwhile to give up the segments that they keep only to send them again.
    """
    waiting = [(traces.directory, number) for traces in journals for number in traces.segments]
    asked = 0.0
    while waiting := [each for each in waiting if _is_there(*each)]:
        now = time.monotonic()
        if now >= deadline:
            return
        if now - asked >= _ASK_AGAIN:
            asked = now
            ask_for_room(root)
        pause(min(POLL, deadline - now))


def _is_there(directory: Path, number: int) -> bool:
    path = directory / segment_name(number)
    with suppress(OSError):
        return path.exists() or path.with_suffix(SETTLED_SUFFIX).exists()
    return False
