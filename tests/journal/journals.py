"""Journals for tests: how they are made, filled, left as a killed process leaves them, and read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import uuid_utils

from tenantry.exporters import BEGINNING
from tenantry.journal import Chunk, DeadJournal, Identity, Journal, adopt, close_line
from tenantry.journal.segments import segment_paths
from tenantry.record import EVENTS, ROWS, Kind, Line, closing_json, format_line, take_apart

TENANT = "018f6f0e-0000-7000-8000-000000000001"
DESTINATION = "db.example:5432/app/tenantry"
IDENTITY = Identity("helpdesk", DESTINATION, "uuid", "web-1:4711")
BEGAN_AT = "2026-11-22T10:00:00.000000+00:00"
CLOSING = closing_json("ingest_failed", 1, ["sourceType", "url", "errorCode"], "errorCode")


def make_journal(root: Path | None, *, identity: Identity = IDENTITY, **options) -> Journal:
    return Journal(root, identity, journal_id=str(uuid_utils.uuid7()), **options)


def make_json(number: int, created_at: str = BEGAN_AT, **values: object) -> str:
    event = {
        "id": str(UUID(int=number)),
        "name": "ingest_completed",
        "tenant_id": TENANT,
        "created_at": created_at,
        "data": {"number": number},
        **values,
    }
    return json.dumps(event, separators=(",", ":"))


def append_event(journal: Journal, number: int, **values: object) -> bool:
    line = format_line(Kind.EVENT, next(journal.sequence), make_json(number, **values))
    return journal.append_row(line)


def start(journal: Journal, operation_id: str, *, row: bool = True, **values: object) -> bool:
    body = make_json(0, operation_id=operation_id, phase="started", **values)
    kind, sequence = (Kind.START, next(journal.sequence)) if row else (Kind.OPEN, 0)
    line = format_line(kind, sequence, body, CLOSING)
    if row:
        return journal.append_row(line, operation_id)
    return journal.open_operation(operation_id, line)


def end(journal: Journal, operation_id: str) -> bool:
    body = make_json(1, operation_id=operation_id, phase="completed")
    line = format_line(Kind.END, next(journal.sequence), body)
    return journal.append_row(line, "", operation_id)


def close(journal: Journal, operation_id: str) -> bool:
    return journal.close_operation(operation_id, close_line(operation_id))


def die(journal: Journal) -> Path:
    """Leave the journal as a killed process does: nothing sealed, nothing removed, no lock."""
    assert journal.directory is not None
    journal.close(remove=False)
    return journal.directory


def adopted(directory: Path, **options) -> DeadJournal:
    journal = adopt(directory, destination=DESTINATION, **options)
    assert journal is not None
    return journal


def lines_of(chunk: Chunk) -> list[Line]:
    return [line for body in chunk.bodies if (line := take_apart(body))]


def lines_in(journal: Journal | DeadJournal, max_bytes: int = 1 << 20) -> Iterator[Line]:
    """Read all lines there are, ``max_bytes`` at a time."""
    position = BEGINNING
    while (chunk := journal.read(position, max_bytes)) is not None:
        yield from lines_of(chunk)
        position = chunk.end


def rows_in(journal: Journal | DeadJournal, max_bytes: int = 1 << 20) -> list[Line]:
    return [line for line in lines_in(journal, max_bytes) if line.kind in ROWS]


def numbers_in(journal: Journal | DeadJournal) -> list[int]:
    return [
        json.loads(line.json)["data"]["number"] for line in lines_in(journal) if line.kind in EVENTS
    ]


def segment_files(directory: Path) -> list[Path]:
    return segment_paths(directory)
