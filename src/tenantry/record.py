"""The record: an event frozen into the row that it will become.

Owns the one list of columns and the line format of the journal (versioned). Knows nothing of
files or of databases.
"""

from __future__ import annotations

import json
import re
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
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
    Column("event_version", "smallint", since=9),
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
    event_version: int | None = None
    """Of the declaration; None where none was found."""

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
    if closing:
        json_object = f"{json_object}\t{closing}"
    body = f"{kind} {sequence} {json_object}".encode()
    return b"%08x %b\n" % (crc32(body), body)


def parse_line(line: bytes) -> Line | None:
    """Take a line (without its line feed) apart; None when it is torn, zeroed or altered."""
    (body,) = check_lines([line + b"\n"])
    return None if body is None else take_apart(body)


def check_lines(lines: Sequence[bytes]) -> list[bytes | None]:
    """Give what is behind the checksum of each line; None for what is torn, zeroed or altered.

    The lines end in their line feeds. All checksums at once: that takes half of the time.
    """
    bodies = [line[9:-1] for line in lines]
    sums = struct.pack(f">{len(lines)}I", *map(crc32, bodies)).hex(" ", 4)
    if b"".join([line[:9] for line in lines]) == b"%b " % sums.encode():
        return [*bodies]
    pairs = zip(lines, bodies, strict=True)
    return [body if line[:9] == b"%08x " % crc32(body) else None for line, body in pairs]


def take_apart(body: bytes) -> Line | None:
    """Take apart what is behind a checksum; None where it is no line of this format."""
    try:
        kind, sequence, rest = body.split(b" ", 2)
        json_object, _, closing = rest.partition(b"\t")
        return Line(kind.decode("ascii"), int(sequence), json_object, closing)
    except ValueError:
        return None


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


_THOUSANDTHS: Final = tuple(f"{number:03}+00:00" for number in range(1000))


def make_now(time_ns: Callable[[], int]) -> Callable[[], str]:
    """Make what tells the time by a clock: ISO 8601 in UTC, with microseconds.

    It remembers the text of the millisecond, and is safe to call from several threads: what is
    remembered is replaced whole.
    """
    known = (-1000, "")

    def now() -> str:
        nonlocal known
        microseconds = time_ns() // 1000
        begin, text = known
        if not 0 <= microseconds - begin < 1000:  # noqa: PLR2004  # microseconds of a millisecond
            begin = microseconds - microseconds % 1000
            second, millisecond = divmod(begin // 1000, 1000)
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)) + f"{millisecond:03}"
            known = (begin, text)
        return text + _THOUSANDTHS[microseconds - begin]

    return now


def event_text(  # noqa: PLR0917  # the parts of an event, in their order
    event_id: str, name: str, scope: str, created_at: str, extra: str, data: str, tail: str
) -> str:
    """Make the JSON object of an event from its parts.

    ``scope`` and ``extra`` are members that end in a comma, ``tail`` members that begin with one.
    The name is followed by the tenant: ``count_events`` relies on it. One expression, because it is
    on the caller's path.
    """
    return (
        f'{{"id":"{event_id}","name":"{name}",{scope}"created_at":"{created_at}",'
        f'{extra}"data":{data}{tail}}}'
    )


_WHOSE: Final = re.compile(
    rb'"id":"[^"]*","name":"([^"]*)","tenant_id":("[^"\\]*(?:\\.[^"\\]*)*"|\d+)'
)
_EVENT_OF: Final = re.compile(
    rb'[0-9a-f]{8} [EIST] \d+ \{"id":"[^"]*","name":"'
    rb'([^"]*","tenant_id":(?:"[^"\\]*(?:\\.[^"\\]*)*"|\d+))'
)


def whose(line: bytes) -> tuple[str | None, str | None]:
    """Read the tenant's id, as text, and the name of an event's line; (None, None) of another."""
    found = _WHOSE.search(line)
    if found is None:
        return None, None
    name, tenant = found.groups()
    text = tenant.decode()
    if text[0] == '"':
        text = text[1:-1] if "\\" not in text else str(json.loads(text))
    return text, name.decode()


def count_events(lines: bytes) -> dict[tuple[str, str], int]:
    """Count the events of consecutive lines by (tenant id, name), without parsing them whole.

    A torn line has no line feed, or zero bytes: it was never accepted.
    """
    whole = [line for line in lines.split(b"\n")[:-1] if b"\0" not in line]
    counts = Counter([found[1] for line in whole if (found := _EVENT_OF.match(line))])
    pairs = ((*key.split(b'","tenant_id":', 1), count) for key, count in counts.items())
    return {(str(json.loads(tenant)), name.decode()): count for name, tenant, count in pairs}


def closing_json(name: str, version: int, keys: Sequence[str] | None, error_key: str | None) -> str:
    """Say how to close an operation whose process dies: its failed event, and the keys of that.

    ``keys`` is None where the event takes any that the start wrote. Each start carries this, so
    what goes without saying is left out.
    """
    said: dict[str, Any] = {"name": name}
    if version != 1:
        said["event_version"] = version
    if keys is not None:
        said["keys"] = list(keys)
    if error_key is not None:
        said["error_key"] = error_key
    return json.dumps(said, separators=(",", ":"))


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
    if closing.get("keys") is not None:
        data = {key: data[key] for key in closing["keys"] if key in data}
    if closing.get("error_key"):
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
        "event_version": closing.get("event_version", 1),
    }
    if "sample_rate" in closing:
        event["sample_rate"] = closing["sample_rate"]
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
