"""Tables that are full already: rows are made by the server, as its superuser."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from benchmarks.servers import Server
from tenantry.exporters import BEGINNING, Batch

STEP = 100_000
"""Rows a transaction, so that rows have different transaction ids."""

_FILL = """
    INSERT INTO {events} (id, tenant_id, name, created_at, data, actor_id, service)
    SELECT gen_random_uuid(),
           ('018f6f0e-0000-7000-8000-' || lpad(to_hex(n % %(tenants)s), 12, '0'))::uuid,
           'event_' || (n / %(tenants)s %% %(types)s),
           now() - interval '1 minute' - (%(rows)s - n) * (interval '20 days' / %(rows)s),
           '{{"sourceType": "web", "url": "https://example.com/handbook", "docs": 3}}',
           'user:42', 'benchmark'
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
"""


def fill(server: Server, schema: str, rows: int, *, tenants: int, types: int) -> None:
    """Add rows of the last twenty days, the oldest first; tenants and types take turns."""
    query = sql.SQL(_FILL.replace("n % %", "n %% %")).format(
        events=sql.Identifier(schema, "events")
    )
    with psycopg.connect(server.superuser, autocommit=True) as connection:
        for first in range(1, rows + 1, STEP):
            last = min(rows, first + STEP - 1)
            values = {"rows": rows, "tenants": tenants, "types": types}
            connection.execute(query, {**values, "first": first, "last": last})
        connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(schema, "events")))
        connection.execute("CHECKPOINT")


def renew(batches: Sequence[Batch], journal_id: str, ids: Sequence[str]) -> list[Batch]:
    """Make batches of another journal, with rows that are new: only their ids differ."""
    fresh = iter(ids)
    renewed: list[Batch] = []
    position = BEGINNING
    for batch in batches:
        events = [b'{"id":"%b"%b' % (next(fresh).encode(), line[44:]) for line in batch.events]
        renewed.append(
            Batch(
                journal_id=journal_id,
                start=position,
                end=batch.end,
                events=events,
                totals=batch.totals,
                tallies=batch.tallies,
                service=batch.service,
                process=batch.process,
                segment=batch.segment,
            )
        )
        position = batch.end
    return renewed
