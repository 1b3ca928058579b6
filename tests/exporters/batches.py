"""Batches for the tests of exporters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from tenantry.exporters import BEGINNING, Batch, Position

TENANT = "018f6f0e-0000-7000-8000-000000000001"


def make_event(**values: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "tenant_id": TENANT,
        "name": "ingest_completed",
        "created_at": "2026-11-22T10:00:00.123456+00:00",
        "data": {"docs": 3},
        **values,
    }


def make_line(**values: Any) -> bytes:
    return json.dumps(make_event(**values)).encode()


def make_batch(
    events: Sequence[bytes] = (), *, start: Position = BEGINNING, length: int = 100, **values: Any
) -> Batch:
    journal_id = values.pop("journal_id", None) or str(uuid4())
    end = Position(start.segment, start.offset + length)
    return Batch(journal_id, start, end, events, **values)
