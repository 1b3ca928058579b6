"""Events that a database refuses, for the tests of what becomes of them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from tenantry.exporters import Outcome
from tenantry.exporters.postgres import PostgresExporter
from tests.exporters.batches import make_batch, make_event
from tests.fix_postgres import Database

FULL = {
    "phase": "failed",
    "data": {"docs": 3, "Grüße": ["ü", 1.25, None]},
    "event_version": 4,
    "operation_id": "018f6f0e-0000-7000-8000-00000000000a",
    "parent_operation_id": "018f6f0e-0000-7000-8000-00000000000b",
    "actor_id": "user:42",
    "correlation_id": "request 7",
    "duration_ms": 12.5,
    "error_code": "timeout",
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "span_id": "b7ad6b7169203331",
    "service": "helpdesk",
    "environment": "test",
    "sample_rate": 0.5,
}
"""Every column beside those that `make_event` gives."""

SHORT = "ALTER TABLE tenantry.events ADD CONSTRAINT short CHECK (length(actor_id) < 6) NOT VALID"
LONG = "ALTER TABLE tenantry.events DROP CONSTRAINT IF EXISTS short"


def export(database: Database, lines: Sequence[bytes], **values: Any) -> Outcome:
    exporter = PostgresExporter(database.writer)
    try:
        return exporter.export(make_batch(lines, **values), time.monotonic() + 20)
    finally:
        exporter.close()


def refuse(database: Database, events: Sequence[dict[str, Any]]) -> None:
    """Have events refused by a constraint, and drop it: the cause is gone."""
    database.execute(SHORT)
    try:
        outcome = export(database, [json.dumps(event).encode() for event in events])
        assert outcome == Outcome(rejected=len(events))
    finally:
        database.execute(LONG)


def make_refused(count: int, **values: Any) -> list[dict[str, Any]]:
    return [make_event(**{**FULL, **values}) for _ in range(count)]


def read(database: Database, table: str) -> list[dict[str, Any]]:
    rows = database.execute(f"SELECT to_jsonb(t) FROM tenantry.{table} AS t ORDER BY id")
    return [row for (row,) in rows]


def ledger(database: Database) -> list[tuple]:
    return database.execute(
        "SELECT kind, tenant_id::text, name, reason, sum(count)::bigint FROM tenantry.ledger"
        " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    )
