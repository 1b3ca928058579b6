"""Segments: maps of lines, and how they are read."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from tenantry.exporters import Position
from tenantry.journal.files import open_file
from tenantry.record import (
    ROWS,
    Kind,
    Line,
    check_lines,
    count_events,
    format_line,
    parse_line,
    renumber,
    take_apart,
)

SEGMENT_SUFFIX: Final = ".segment"
SETTLED_SUFFIX: Final = ".settled"
"""Of a segment that is only kept to be sent again after a failover; it takes nobody's room."""

_MADV_POPULATE_WRITE: Final = 23
"""Of Linux 5.14 (``asm-generic/mman-common.h``); Python's ``mmap`` has no name for it."""

_FAULT_BYTES: Final = 64 * 1024
"""Made writable in one call: some 40 us."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose journal it is. A journal is adopted only where the destination is the same."""

    service: str | None
    destination: str
    """Fingerprint of server, database and schema; no password."""
    tenant_type: str
    process: str = ""
    """``host:pid``."""


@dataclass(slots=True)
class Segment:
    """One map of lines. ``end`` is None while it is written."""

    number: int
    map: mmap.mmap
    path: Path | None
    fd: int = -1
    end: int | None = None
    settled_at: float | None = None
    corrupt: set[int] = field(default_factory=set[int])
    """Offsets of the lines that were read and whose checksum fails."""

    def is_sealed(self) -> bool:
        """Say whether it takes no more lines."""
        return self.end is not None

    def used(self) -> int:
        """Count the bytes of complete lines."""
        return self.map.tell() if self.end is None else self.end

    def mark_settled(self, at: float | None) -> None:
        """Note when everything in it was settled, or, with None, that it is not; its name says so.

        Its owner alone does this, and counts its rows before it removes it.
        """
        self.settled_at = at
        if self.path is not None:
            path = self.path.with_suffix(SEGMENT_SUFFIX if at is None else SETTLED_SUFFIX)
            with suppress(OSError):  # the directory is gone; the map stays
                self.path.rename(path)
                self.path = path

    def close(self) -> None:
        """Unmap, and close the descriptor."""
        self.map.close()
        self.close_file()

    def fault_in(self) -> None:
        """Make the pages writable now, so that no caller waits for the file system at each.

        In parts, because Python lets no other thread run within one. Before Linux 5.14 nothing
        happens, and callers wait.
        """
        with suppress(OSError, ValueError):  # ValueError: it was used up and closed meanwhile
            for start in range(0, len(self.map), _FAULT_BYTES):
                self.map.madvise(_MADV_POPULATE_WRITE, start, _FAULT_BYTES)

    def let_go(self) -> None:
        """Unmap a settled segment of a file: a map holds a descriptor of its own as well."""
        if self.path is not None:
            self.close()

    def take_up(self) -> None:
        """Map again, to read, what was let go."""
        if self.map.closed and self.path is not None:
            with _opened(self.path) as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def close_file(self) -> None:
        """Close the descriptor; the map stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Unlink, then close: an adopter that races sees either the whole file or none."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.close()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines read in one go from one segment."""

    start: Position
    end: Position
    segment: int
    bodies: list[bytes]
    """What is behind the checksum of each line: `take_apart` knows how to read it."""
    corrupt: list[int]
    """Offsets of complete lines whose checksum fails."""
    begins_segment: bool
    ends_segment: bool


def segment_paths(directory: Path) -> list[Path]:
    """List the files of a journal's segments, in order."""
    suffixes = {SEGMENT_SUFFIX, SETTLED_SUFFIX}
    return sorted(path for path in directory.iterdir() if path.suffix in suffixes)


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(open_file(path, os.O_RDONLY), "rb")


def segment_name(number: int) -> str:
    """Name the file of a segment."""
    return f"{number:010d}{SEGMENT_SUFFIX}"


def seal(segment: Segment) -> None:
    """Make a map refuse writes, and note where its lines end.

    Safe to re-enter: the position that was read counts only if nobody sealed meanwhile.
    """
    if segment.is_sealed():
        return
    end = segment.map.tell()
    if segment.is_sealed():
        return
    segment.map.seek(0, os.SEEK_END)
    # A thread may have written between the two calls; lines hold no zero byte.
    zero = segment.map.find(b"\0", end)
    segment.end = len(segment.map) if zero < 0 else zero


def read_chunk(segments: dict[int, Segment], position: Position, max_bytes: int) -> Chunk | None:
    """Read whole lines from ``position`` on, never across the end of a segment.

    A chunk that reaches the end of a sealed segment ends at the beginning of the next number. It
    may be empty: the segment was sealed after its last line had been read.
    """
    number = min((n for n in list(segments) if n >= position.segment), default=None)
    if number is None:
        return None
    segment = segments[number]
    segment.take_up()
    offset = position.offset if number == position.segment else 0
    sealed = segment.end is not None
    used = segment.used()
    data = segment.map[offset : min(used, offset + max_bytes)]
    if not sealed and b"\0" in data:
        data = data[: data.index(b"\0")]  # it was sealed between the two looks
    elif offset + len(data) < used and not data.endswith(b"\n"):
        newline = segment.map.find(b"\n", offset + max(0, data.rfind(b"\n")), used)
        data = segment.map[offset : used if newline < 0 else newline + 1]
    if not data and not sealed:
        return None
    bodies, corrupt = _split(data, offset)
    segment.corrupt.update(corrupt)
    ends_segment = sealed and offset + len(data) >= used
    end = Position(number + 1, 0) if ends_segment else Position(number, offset + len(data))
    return Chunk(position, end, number, bodies, corrupt, offset == 0, ends_segment)


def split_lines(data: bytes, offset: int = 0) -> tuple[list[Line], list[int]]:
    """Parse consecutive lines; returns them, and the offsets of those whose checksum fails.

    A torn line (its process died within the copy) holds zero bytes or has no line feed. It was
    never accepted, and is passed over.
    """
    bodies, corrupt = _split(data, offset)
    return [line for line in map(take_apart, bodies) if line is not None], corrupt


def _split(data: bytes, offset: int) -> tuple[list[bytes], list[int]]:
    bodies: list[bytes] = []
    corrupt: list[int] = []
    file = BytesIO(data)  # it finds line feeds in a fifth of the time that `bytes.split` takes
    while lines := file.readlines(_AT_ONCE):
        if not lines[-1].endswith(b"\n"):
            lines.pop()
        found = check_lines(lines)
        if None in found:
            corrupt += _corrupt(lines, found, offset)
            found = [body for body in found if body is not None]
        bodies += cast("list[bytes]", found)
        offset += sum(map(len, lines))
    return bodies, corrupt


_AT_ONCE: Final = 256 * 1024
"""Bytes of lines that are checked together: what the cache of a processor holds, several times."""


def _corrupt(lines: list[bytes], bodies: list[bytes | None], offset: int) -> Iterator[int]:
    """Iterate over the offsets of the lines that are no torn ones, and have no body."""
    for line, body in zip(lines, bodies, strict=True):
        if body is None and b"\0" not in line:
            yield offset
        offset += len(line)


def lines_of(segment: Segment) -> Iterator[Line]:
    """Iterate over the valid lines of a sealed segment."""
    return iter(split_lines(segment.map[: segment.used()])[0])


def oldest_row(segments: Iterable[Segment], position: Position) -> Line | None:
    """Find the oldest row behind ``position``, as far as one look into each segment shows it.

    From any thread. A row with an idempotency key is taken only where there is no other: its id
    tells when it occurred, and not when it was emitted.
    """
    repeatable: Line | None = None
    for segment in sorted(segments, key=lambda each: each.number):
        if segment.number < position.segment or segment.settled_at is not None:
            continue
        offset = position.offset if segment.number == position.segment else 0
        with suppress(ValueError):  # the shipper has just let go of it
            for line in split_lines(segment.map[offset : min(segment.used(), offset + _LOOK)])[0]:
                if line.kind in ROWS and line.kind != Kind.REPEATABLE:
                    return line
                if line.kind == Kind.REPEATABLE:
                    repeatable = repeatable or line
    return repeatable


_LOOK: Final = 64 * 1024
"""Bytes: a segment may begin with a checkpoint of open operations."""


def emitted_at(row: Line) -> float:
    """Say when a row was emitted, in seconds since the epoch: its id is a UUIDv7."""
    return int(json.loads(row.json)["id"].replace("-", "")[:12], 16) / 1000


def corrupt_lines_of(segment: Segment) -> Iterator[int]:
    """Iterate over the offsets of the lines whose checksum fails."""
    return iter(split_lines(segment.map[: segment.used()])[1])


def tally(segment: Segment) -> dict[tuple[str, str], int]:
    """Count the events of a whole segment, which was read, by (tenant id, name).

    A line whose checksum fails counts for nobody: its tenant is what may be wrong in it.
    """
    content = segment.map[: segment.used()]
    for offset in sorted(segment.corrupt, reverse=True):
        content = content[:offset] + content[content.index(b"\n", offset) + 1 :]
    return count_events(content)


def count_row_lines(segment: Segment) -> int:
    """Count the rows of a whole segment by the letter of each line, without parsing any."""
    segment.take_up()
    content = segment.map[: segment.used()]
    return sum(line[9:10] in _ROW_LETTERS for line in content.split(b"\n") if line)


_ROW_LETTERS: Final = frozenset(kind.encode() for kind in ROWS)


def map_segments(directory: Path) -> list[Segment]:
    """Map the segments of a dead journal, in order, each sealed behind its last byte."""
    segments: list[Segment] = []
    for path in segment_paths(directory):
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                continue
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        content = mapped[:].rstrip(b"\0")
        segments.append(Segment(int(path.stem), mapped, path, end=len(content)))
    return segments


def read_header(directory: Path) -> dict[str, Any] | None:
    """Read the header of the oldest segment; None when there is no readable one."""
    for path in segment_paths(directory):
        with _opened(path) as file:
            line = parse_line(file.readline().rstrip(b"\n"))
        if line is not None and line.kind == Kind.HEADER:
            header: dict[str, Any] = json.loads(line.json)
            return header
    return None


def close_line(operation_id: str, *, handed: bool = False) -> bytes:
    """Make the ``CLOSE`` line of an operation."""
    body = (
        {"operation_id": operation_id, "handed": True} if handed else {"operation_id": operation_id}
    )
    return format_line(Kind.CLOSE, 0, json.dumps(body))


def open_line(start: bytes) -> bytes:
    """Make the ``OPEN`` line of an operation from its ``START`` or ``OPEN`` line."""
    return renumber(start, Kind.OPEN, 0)
