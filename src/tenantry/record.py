"""The record: an event frozen into the row that it will become.

Owns the one list of columns and the line format of the journal (versioned). Knows nothing of
files or of databases.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from uuid import UUID
from zlib import crc32

LINE_FORMAT: Final = 1
"""Version of the line format; written into the header of each segment."""


class Column(NamedTuple):
    """A column of ``events`` or ``rejected_events``, and the key of the same name in a line."""

    name: str
    type: str
    """PostgreSQL's type; ``tenant`` stands for the type chosen with the first migration."""
    since: int = 1
    """The migration that added it: an older schema is not sent this key."""


EVENT_COLUMNS: Final = (
    Column("id", "uuid"),
    Column("tenant_id", "tenant"),
    Column("name", "text"),
    Column("phase", "text"),
    Column("created_at", "timestamptz"),
    Column("data", "jsonb"),
    Column("event_version", "smallint"),
    Column("operation_id", "uuid"),
    Column("parent_operation_id", "uuid"),
    Column("actor_id", "text"),
    Column("correlation_id", "text"),
    Column("duration_ms", "double precision"),
    Column("error_code", "text"),
    Column("trace_id", "text"),
    Column("span_id", "text"),
    Column("service", "text"),
    Column("environment", "text"),
    Column("sample_rate", "double precision"),
)
"""What a line of an event carries. ``recorded_at`` and the watermark are the database's."""

REJECT_COLUMNS: Final = (
    Column("id", "uuid"),
    Column("tenant_id", "text"),
    Column("name", "text"),
    Column("phase", "text"),
    Column("created_at", "timestamptz"),
    Column("reason", "text"),
    Column("detail", "text"),
    Column("data", "jsonb"),
    Column("other_keys", "jsonb"),
    Column("operation_id", "uuid"),
    Column("parent_operation_id", "uuid"),
    Column("service", "text"),
    Column("environment", "text"),
    Column("event", "jsonb", since=5),
)
"""What a line of a refused event carries; ``tenant_id`` is the text as it was given, or null."""


@dataclass(frozen=True, slots=True)
class Record:
    """One stored event: an attribute for each column, ``data`` with the stored (camelCase) keys."""

    id: str
    tenant_id: str | int
    name: str
    created_at: datetime
    phase: str | None = None
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    event_version: int = 1
    operation_id: str | None = None
    parent_operation_id: str | None = None
    actor_id: str | None = None
    correlation_id: str | None = None
    duration_ms: float | None = None
    error_code: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    service: str | None = None
    environment: str | None = None
    sample_rate: float = 1.0

    @classmethod
    def from_json(cls, line: bytes) -> Record:
        """Read the JSON object of an event line; unknown keys are left out."""
        values = {key: value for key, value in json.loads(line).items() if key in _RECORD_FIELDS}
        values["created_at"] = datetime.fromisoformat(values["created_at"])
        return cls(**values)


_RECORD_FIELDS: Final = frozenset(f.name for f in fields(Record))


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused event, with the reason; the attributes are the columns of ``rejected_events``."""

    id: str
    reason: str
    created_at: datetime
    detail: str | None = None
    tenant_id: str | None = None
    name: str | None = None
    phase: str | None = None
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    other_keys: dict[str, str] = field(default_factory=dict[str, str])
    operation_id: str | None = None
    parent_operation_id: str | None = None
    service: str | None = None
    environment: str | None = None
    event: dict[str, Any] | None = None
    """The whole row, where it was the database that refused it."""

    @classmethod
    def from_json(cls, line: bytes) -> Reject:
        """Read the JSON object of a reject line; unknown keys are left out."""
        values = {key: value for key, value in json.loads(line).items() if key in _REJECT_FIELDS}
        values["created_at"] = datetime.fromisoformat(values["created_at"])
        return cls(**values)


_REJECT_FIELDS: Final = frozenset(f.name for f in fields(Reject))


class Kind:
    """What a line is. One ASCII letter, so that a reader of the file can tell at a glance."""

    HEADER: Final = "H"
    """The first line of a segment: format, journal, destination."""
    EVENT: Final = "E"
    """A row of ``events``."""
    REPEATABLE: Final = "I"
    """A row of ``events`` that may be stored already: its id derives from an idempotency key."""
    START: Final = "S"
    """A row of ``events`` that also opens an operation."""
    OPEN: Final = "O"
    """Opens an operation, and is no row: its started event is not declared, or not sampled."""
    CLOSE: Final = "C"
    """Closes an operation whose terminal event is not in this journal."""
    END: Final = "T"
    """A row of ``events`` that also closes an operation."""
    REJECT: Final = "R"
    """A row of ``rejected_events``."""


EVENTS: Final = frozenset({Kind.EVENT, Kind.REPEATABLE, Kind.START, Kind.END})
ROWS: Final = EVENTS | {Kind.REJECT}
"""The kinds that are counted as accepted."""


class Line(NamedTuple):
    """A line, taken apart."""

    kind: str
    sequence: int
    json: bytes
    closing: bytes
    """Behind the tab of a ``START`` or ``OPEN`` line: how to close it if its process dies."""


def format_line(kind: str, sequence: int, json_object: str, closing: str = "") -> bytes:
    r"""Make one journal line: ``crc32 kind sequence json[\tclosing]\n``.

    The checksum is CRC-32 (zlib) over everything behind it, in eight hexadecimal digits. JSON
    escapes control characters, so neither a tab nor a line feed occurs within the objects.
    """
    tab = "\t" if closing else ""
    body = f"{kind} {sequence} {json_object}{tab}{closing}".encode()
    return b"%08x %b\n" % (crc32(body), body)


def parse_line(line: bytes) -> Line | None:
    """Take a line (without its line feed) apart; None when it is torn, zeroed or altered."""
    body = line[9:]
    if line[:9] != b"%08x " % crc32(body):
        return None
    space = body.find(b" ", 2)
    json_object, _, closing = body[space + 1 :].partition(b"\t")
    try:
        return Line(chr(body[0]), int(body[2:space]), json_object, closing)
    except (IndexError, ValueError):
        return None  # its checksum is right, and yet it is no line of this format


def renumber(line: bytes, kind: str, sequence: int) -> bytes:
    """Make a line anew with another kind and number."""
    _, _, body = line.rstrip(b"\n").split(b" ", 2)
    rest = body.partition(b" ")[2] if body[:1].isdigit() else body
    new = b"%b %d %b" % (kind.encode(), sequence, rest)
    return b"%08x %b\n" % (crc32(new), new)


class Clock:
    """Where times come from; tests give a frozen one."""

    time_ns = staticmethod(time.time_ns)
    """Nanoseconds since the epoch: when something happened."""
    perf_counter_ns = staticmethod(time.perf_counter_ns)
    """Nanoseconds of a monotonic clock: how long it took."""


class TimestampFormat:
    """Formats times as ISO 8601 in UTC with microseconds; remembers the second's text.

    Safe to call from several threads: what is remembered is replaced whole.
    """

    def __init__(self) -> None:
        self._second: tuple[int, str] = (0, "1970-01-01T00:00:00.")

    def __call__(self, nanoseconds: int) -> str:
        """Format nanoseconds since the epoch."""
        begin, text = self._second
        rest = nanoseconds - begin
        if not 0 <= rest < 1_000_000_000:  # noqa: PLR2004  # nanoseconds of a second
            rest = nanoseconds % 1_000_000_000
            begin = nanoseconds - rest
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(begin // 1_000_000_000))
            self._second = (begin, text)
        return "%s%06d+00:00" % (text, rest // 1000)  # noqa: UP031  # a quarter faster than f""


def event_line(  # noqa: PLR0917  # the parts of a line, in their order
    kind: str,
    sequence: int,
    event_id: str,
    name: str,
    scope: str,
    created_at: str,
    extra: str,
    data: bytes,
    tail: str,
    closing: str = "",
) -> bytes:
    """Make the line of an event from its parts; the same line as ``format_line`` makes.

    ``scope`` and ``extra`` are members that end in a comma, ``tail`` members that begin with one;
    ``closing`` begins with its tab. The name is followed by the tenant: ``count_events`` relies on
    it. One expression, because it is on the caller's path.
    """
    body = (
        f'{kind} {sequence} {{"id":"{event_id}","name":"{name}",{scope}"created_at":"{created_at}",'
        f'{extra}"data":{data.decode()}{tail}}}{closing}'
    ).encode()
    return b"%08x %b\n" % (crc32(body), body)


def event_json(  # noqa: PLR0917  # as above
    event_id: str, name: str, scope: str, created_at: str, extra: str, data: bytes, tail: str
) -> bytes:
    """Make only the JSON object of an event, from the same parts."""
    line = event_line(Kind.EVENT, 0, event_id, name, scope, created_at, extra, data, tail)
    return line[len("00000000 E 0 ") : -1]


_NAME_AND_TENANT: Final = re.compile(
    rb'\n[0-9a-f]{8} [EIST] \d+ \{"id":"[^"]*","name":"([^"]*)",'
    rb'"tenant_id":("[^"\\]*(?:\\.[^"\\]*)*"|\d+)'
)


_WHOSE: Final = re.compile(_NAME_AND_TENANT.pattern.partition(rb"\{")[2])

_WHOLE: Final = re.compile(_NAME_AND_TENANT.pattern + rb"(?=[^\n\0]*\n)")
"""A torn line has no line feed, or zero bytes: it was never accepted."""


def whose(line: bytes) -> tuple[str | None, str | None]:
    """Read the tenant's id, as text, and the name of an event's line; (None, None) of another."""
    found = _WHOSE.search(line)
    if found is None:
        return None, None
    name, tenant = found.groups()
    return str(json.loads(tenant)), name.decode()


def count_events(lines: bytes) -> dict[tuple[str, str], int]:
    """Count the events of consecutive lines by (tenant id, name), without parsing them whole."""
    counts = Counter(_WHOLE.findall(b"\n" + lines))
    return {(str(json.loads(tenant)), name.decode()): n for (name, tenant), n in counts.items()}


def closing_json(name: str, version: int, keys: Sequence[str] | None, error_key: str | None) -> str:
    """Say how to close an operation whose process dies: its failed event, and the keys of that.

    ``keys`` is None where the event takes any.
    """
    listed = None if keys is None else list(keys)
    return json.dumps(
        {"name": name, "event_version": version, "keys": listed, "error_key": error_key},
        separators=(",", ":"),
    )


ABANDONED: Final = "abandoned"
"""The error code of an operation whose process died in the middle of it."""


def abandoned_event(line: Line, last_created_at: str) -> str:
    """Make the failed event of an operation that its process did not live to end.

    ``last_created_at`` is the time of the journal's last event: the operation was alive then. The
    id derives from the operation's, so that it is stored once however often it is made. The keys
    that only the end would have known are left out.
    """
    start: dict[str, Any] = json.loads(line.json)
    closing: dict[str, Any] = json.loads(line.closing)
    data: dict[str, Any] = start["data"]
    if closing["keys"] is not None:
        data = {key: data[key] for key in closing["keys"] if key in data}
    if closing["error_key"]:
        data[closing["error_key"]] = ABANDONED
    carried = (
        *("tenant_id", "actor_id", "correlation_id", "parent_operation_id", "trace_id", "span_id"),
        *("service", "environment"),
    )
    event = {
        "id": derived_id(last_created_at, start["operation_id"], ABANDONED),
        "name": closing["name"],
        "tenant_id": start["tenant_id"],
        "created_at": last_created_at,
        "phase": "failed",
        "operation_id": start["operation_id"],
        **{key: start[key] for key in carried if key in start},
        "error_code": ABANDONED,
        "data": data,
        "event_version": closing["event_version"],
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def derived_id(created_at: str, *parts: str) -> str:
    """Make a UUIDv7 of a time (ISO 8601) and of a hash of the parts: the same parts, the same id.

    The 74 random bits of RFC 9562 are taken from BLAKE2b of the parts.
    """
    # A UUIDv7 counts from 1970 on: what happened earlier has the first of all times.
    milliseconds = max(0, int(datetime.fromisoformat(created_at).timestamp() * 1000))
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    bits = int.from_bytes(digest, "big")
    low = (bits & (2**62 - 1)) | (0b10 << 62)
    high = (milliseconds << 16) | (0x7 << 12) | (bits >> 116)
    return str(UUID(int=(high << 64) | low))
