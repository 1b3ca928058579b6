"""Upkeep: folds the cursors of journals that have ended into one row for each service.

Thousands of short-lived processes a day leave a cursor each. What is folded is added up, so that
the sum over all rows stays what it was.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Final, LiteralString
from uuid import NAMESPACE_OID, UUID, uuid5

from psycopg import sql

from tenantry.database.connect import DeadlineConnection
from tenantry.database.ledger import Entry, write_entries

SERVICE_TIMEOUT: Final = 60.0
"""Seconds that the fold of one service may take."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """How many journals of one service were folded, or would be."""

    service: str | None
    journals: int


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A cursor that is not folded, however old it gets, and why."""

    journal_id: str
    process: str
    service: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did; with ``dry_run``, what it would do."""

    compacted: tuple[Compacted, ...]
    left: tuple[LeftAlone, ...]
    recent: int
    """Cursors that only have to get older."""


def compacted_id(service: str | None) -> UUID:
    """Give the id of the row that a service's journals are folded into."""
    return uuid5(NAMESPACE_OID, json.dumps(["tenantry", "compacted", service]))


def compact(
    connection: DeadlineConnection, schema: str, *, after: float, dry_run: bool = False
) -> Compaction:
    """Fold cursors whose journal ended more than ``after`` seconds ago and whose books balance.

    One transaction a service, with a line in the ledger. Any number may run at once: each folds
    what no other has locked. Needs the maintainer role.
    """
    table = sql.Identifier(schema, "journal_cursors")
    services: list[str | None] = [
        service for (service,) in connection.execute(_compose(_SERVICES, table)).fetchall()
    ]
    compacted: list[Compacted] = []
    for service in services:
        values = {"service": service, "id": compacted_id(service), "after": after}
        connection.deadline = time.monotonic() + SERVICE_TIMEOUT
        with connection.transaction():
            query = _compose(_DRY_RUN if dry_run else _FOLD, table)
            row = connection.execute(query, values).fetchone()
            journals: int = row[0] if row is not None else 0
            if journals and not dry_run:
                write_entries(
                    connection, schema, [Entry("compacted", None, None, service, journals)]
                )
        if journals:
            compacted.append(Compacted(service, journals))
    connection.deadline = time.monotonic() + SERVICE_TIMEOUT
    folded_into = {"ids": [compacted_id(service) for service in services], "after": after}
    left = connection.execute(_compose(_LEFT, table), folded_into).fetchall()
    row = connection.execute(_compose(_RECENT, table), folded_into).fetchone()
    return Compaction(
        compacted=tuple(compacted),
        left=tuple(
            LeftAlone(str(journal_id), process, service, _explain(*numbers))
            for journal_id, process, service, *numbers in left
        ),
        recent=row[0] if row is not None else 0,
    )


def _explain(emitted: int, known: int, accepted: int, settled: int) -> str:
    if accepted != settled:
        return f"it does not balance: {accepted} accepted, {settled} stored or rejected"
    if emitted != known:
        return f"it does not balance: {emitted} emitted, {known} accounted for"
    return "no end is noted: its process runs, or died and nobody could note it"


def _compose(query: LiteralString, table: sql.Identifier) -> sql.Composed:
    return sql.SQL(query).format(
        table=table, known=_KNOWN, balances=_BALANCES, is_old=_IS_OLD, foldable=_FOLDABLE
    )


# No statement here filters by tenant: no row of journal_cursors belongs to one.
_KNOWN: Final = sql.SQL("""
    accepted + handed + sampled_out
    + (SELECT coalesce(sum(value::bigint), 0)::bigint FROM jsonb_each_text(dropped))
""")
_BALANCES: Final = sql.SQL("(accepted = stored + rejected AND emitted = {known})").format(
    known=_KNOWN
)
_IS_OLD: Final = sql.SQL("ended_at < clock_timestamp() - make_interval(secs => %(after)s)")
_FOLDABLE: Final = sql.SQL("""
    service IS NOT DISTINCT FROM %(service)s AND journal_id <> %(id)s AND {is_old} AND {balances}
""").format(is_old=_IS_OLD, balances=_BALANCES)
_SERVICES: Final = "SELECT DISTINCT service FROM {table} ORDER BY service"
_DRY_RUN: Final = "SELECT count(*) FROM {table} WHERE {foldable}"
_FOLD: Final = """
    WITH ended AS (
        SELECT journal_id FROM {table} WHERE {foldable} ORDER BY journal_id
           FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM {table} AS cursor USING ended WHERE cursor.journal_id = ended.journal_id
        RETURNING cursor.*
    ), reasons AS (
        SELECT key AS reason, sum(value::bigint) AS count
          FROM gone, jsonb_each_text(gone.dropped) GROUP BY key
    ), folded AS (
        INSERT INTO {table} AS cursor
            (journal_id, segment, "position", emitted, accepted, handed, sampled_out, dropped,
             stored, rejected, last_rejected, service, process, started_at, updated_at, ended_at)
        SELECT %(id)s, 0, 0, sum(emitted), sum(accepted), sum(handed), sum(sampled_out),
               (SELECT coalesce(pg_catalog.jsonb_object_agg(reason, reasons.count), '{{}}')
                  FROM reasons),
               sum(stored), sum(rejected), 0, %(service)s, pg_catalog.concat(count(*), ' journals'),
               min(started_at), max(updated_at), max(ended_at)
          FROM gone HAVING count(*) > 0
        ON CONFLICT (journal_id) DO UPDATE
        SET emitted = cursor.emitted + excluded.emitted,
            accepted = cursor.accepted + excluded.accepted,
            handed = cursor.handed + excluded.handed,
            sampled_out = cursor.sampled_out + excluded.sampled_out,
            dropped = (
                SELECT coalesce(pg_catalog.jsonb_object_agg(key, count), '{{}}')
                  FROM (SELECT key, sum(value::bigint) AS count
                          FROM (SELECT * FROM jsonb_each_text(cursor.dropped)
                                UNION ALL
                                SELECT * FROM jsonb_each_text(excluded.dropped)) AS both_rows
                         GROUP BY key) AS sums
            ),
            stored = cursor.stored + excluded.stored,
            rejected = cursor.rejected + excluded.rejected,
            process = pg_catalog.concat(
                split_part(cursor.process, ' ', 1)::bigint
                + split_part(excluded.process, ' ', 1)::bigint, ' journals'),
            started_at = least(cursor.started_at, excluded.started_at),
            updated_at = greatest(cursor.updated_at, excluded.updated_at),
            ended_at = greatest(cursor.ended_at, excluded.ended_at)
        RETURNING journal_id
    )
    SELECT count(*) FROM gone
"""
_LEFT: Final = """
    SELECT journal_id, process, service, emitted, {known}, accepted, stored + rejected
      FROM {table}
     WHERE journal_id <> ALL(%(ids)s) AND (ended_at IS NULL OR NOT {balances})
     ORDER BY started_at, journal_id
"""
_RECENT: Final = """
    SELECT count(*) FROM {table}
     WHERE journal_id <> ALL(%(ids)s) AND ended_at IS NOT NULL AND NOT {is_old} AND {balances}
"""
