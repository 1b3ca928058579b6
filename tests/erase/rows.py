"""Rows of several tenants in every table, and what is left of them."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from tests.fix_postgres import Database

US = "018f6f0e-0000-7000-8000-00000000000a"
NEIGHBOUR = "018f6f0e-0000-7000-8000-00000000000b"
PLATFORM = "00000000-0000-0000-0000-000000000000"

NO_ERASURE = " AND kind <> 'erased' AND reason IS DISTINCT FROM 'erased'"

TIMES = ("2026-10-15", "2026-11-02", "2026-11-02", "2026-12-24", "1999-01-01", "infinity")
"""In three months, and in DEFAULT."""


def add_event(database: Database, tenant: object, at: str = "2026-11-22", **values: Any) -> str:
    event_id = str(uuid4())
    database.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at, actor_id, data)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        [
            event_id,
            tenant,
            values.get("name", "message_sent"),
            at,
            values.get("actor"),
            json.dumps(values.get("data", {"role": "user"})),
        ],
    )
    return event_id


def add_reject(database: Database, tenant: object, *, actor: str | None = None) -> None:
    event = None if actor is None else json.dumps({"tenant_id": tenant, "actor_id": actor})
    database.execute(
        "INSERT INTO tenantry.rejected_events (id, tenant_id, created_at, reason, event)"
        " VALUES (gen_random_uuid(), %s, now(), 'database', %s)",
        [str(tenant), event],
    )


def add_tally(database: Database, tenant: object, journal_id: str, accepted: int) -> None:
    database.execute(
        "INSERT INTO tenantry.event_tallies VALUES (%s, %s, 1, 'message_sent', %s)",
        [tenant, journal_id, accepted],
    )


def add_all(database: Database, tenant: object) -> None:
    """Add six events, a reject, a tally and two lines of the ledger."""
    for at in TIMES:
        add_event(database, tenant, at, actor="user:1")
    add_reject(database, tenant, actor="user:1")
    add_tally(database, tenant, "018f6f0e-0000-7000-8000-0000000000ff", 6)
    for kind in ("discarded", "retried"):
        database.execute(
            "INSERT INTO tenantry.ledger (kind, tenant_id, name, reason, count)"
            " VALUES (%s, %s, 'message_sent', 'database', 2)",
            [kind, tenant],
        )


def rows_of(database: Database, tenant: object) -> list[int]:
    """Count events, rejects, tallies, and lines of the ledger but for those of erasures."""
    return [
        database.execute(query, [str(tenant)])[0][0]
        for query in (
            "SELECT count(*) FROM tenantry.events WHERE tenant_id::text = %s",
            "SELECT count(*) FROM tenantry.rejected_events WHERE tenant_id = %s",
            "SELECT count(*) FROM tenantry.event_tallies WHERE tenant_id::text = %s",
            "SELECT count(*) FROM tenantry.ledger WHERE tenant_id::text = %s" + NO_ERASURE,
        )
    ]


def erasure_lines(database: Database) -> dict[tuple[str, str | None], int]:
    """Add up the ledger's lines of erasures, by kind and tenant."""
    rows = database.execute(
        "SELECT kind, tenant_id::text, sum(count)::bigint FROM tenantry.ledger"
        " WHERE kind = 'erased' OR reason = 'erased' GROUP BY 1, 2"
    )
    return {(kind, tenant): count for kind, tenant, count in rows}
