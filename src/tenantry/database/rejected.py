"""Rejected events: read, stored after all, or discarded, each with its line in the ledger.

Works in batches, each a transaction of its own, so that it may be interrupted and run again at any
time, beside others and beside running applications: rows that another has locked are passed over.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tenantry.context import PLATFORM, canonical_tenant
from tenantry.database.connect import DeadlineConnection
from tenantry.database.installed import Installed, TenantType, check_tenant_type
from tenantry.database.ledger import Entry, Kind, write_entries
from tenantry.exceptions import InvalidTenant
from tenantry.exporters.sqlstates import judge
from tenantry.exporters.statements import insert_events
from tenantry.exporters.transaction import primary_message

BATCH_ROWS: Final = 500
"""Rows of one transaction: few enough to be quick, and what an interruption may cost."""

BATCH_TIMEOUT: Final = 60.0
"""Seconds that one batch may take."""

STORED_ALREADY: Final = "stored_already"
"""``ledger.reason`` of a reject whose event is there by now: it is discarded, and adds no row."""

_NOT_UNIQUE: Final = "23505: another event has its values under a unique index of events"

_DETAIL_LIMIT: Final = 1000

_DOCUMENT: Final = "pg_catalog.jsonb_to_recordset(CAST(%s AS jsonb))"

_Key = tuple[Kind, str | None, str | None, str]
"""Kind, tenant, name and reason of a line of the ledger."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rejects; without any criterion, all that the role sees."""

    ids: tuple[UUID, ...] = ()
    reason: str | None = None
    name: str | None = None
    tenant: str | None = None
    """As it is stored."""
    until: datetime | None = None
    """Rows that the database stored later are left out."""


@dataclass(frozen=True, slots=True)
class Count:
    """Rejects of one reason: how many carry their whole row, and how many do not."""

    reason: str
    retryable: int
    other: int


@dataclass(slots=True)
class Retried:
    """What a retry reached so far."""

    stored: int = 0
    """They are events now."""
    stored_already: int = 0
    """Their events were there; the rejects are gone."""
    refused: Counter[str] = field(default_factory=Counter[str])
    """Refused once more, by the new detail."""

    @property
    def done(self) -> int:
        """How many rows were tried."""
        return self.stored + self.stored_already + self.refused.total()


class Rejects:
    """The rejects of one schema, over one connection in autocommit mode."""

    def __init__(self, connection: DeadlineConnection, schema: str, installed: Installed) -> None:
        """Keep the connection; nothing is read yet."""
        self._connection = connection
        self._schema = schema
        self._table = sql.Identifier(schema, "rejected_events")
        self._tenant_type: TenantType = check_tenant_type(installed.tenant_type)
        insert = insert_events(
            schema, installed.tenant_type, _DOCUMENT, version=installed.version or None
        )
        # Only a maintainer may read what it stored; the exporter's role may not.
        self._insert = f"{insert} RETURNING id, tenant_id::text, name".encode()
        self._find_stored = sql.SQL(_FIND_STORED).format(
            events=sql.Identifier(schema, "events"), tenant_type=sql.SQL(self._tenant_type)
        )

    def now(self) -> datetime | None:
        """Read the server's clock, for ``Selection.until``."""
        row = self._connection.execute("SELECT clock_timestamp()").fetchone()
        return None if row is None else row[0]

    # Reading.

    def overview(self, selection: Selection) -> list[dict[str, Any]]:
        """Group by reason and name, the most frequent first."""
        return self._read(_OVERVIEW, selection)

    def newest(self, selection: Selection, limit: int) -> list[dict[str, Any]]:
        """Read the rows that were stored last, the newest first."""
        return self._read(_NEWEST, selection, limit=limit)

    def count(self, selection: Selection) -> list[Count]:
        """Count by reason."""
        return [Count(**row) for row in self._read(_COUNT, selection)]

    def _read(
        self, query: LiteralString, selection: Selection, **values: Any
    ) -> list[dict[str, Any]]:
        connection = self._connection
        connection.deadline = time.monotonic() + BATCH_TIMEOUT
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            if selection.tenant is not None:
                # A reader sees its tenant then; for the transaction only, because of poolers.
                cursor.execute(
                    "SELECT set_config('tenantry.tenant_id', %s, true)", [selection.tenant]
                )
            composed, parameters = self._compose(query, selection)
            return cursor.execute(composed, {**parameters, **values}).fetchall()

    def _compose(
        self, query: LiteralString, selection: Selection
    ) -> tuple[sql.Composed, Mapping[str, Any]]:
        criteria = [sql.SQL("true")]  # all tenants, as far as row-level security lets the role see
        if selection.ids:
            criteria.append(sql.SQL("id = ANY(%(ids)s)"))
        if selection.reason is not None:
            criteria.append(sql.SQL("reason = %(reason)s"))
        if selection.name is not None:
            criteria.append(sql.SQL("name = %(name)s"))
        if selection.tenant is not None:
            criteria.append(sql.SQL("tenant_id = %(tenant)s"))
        if selection.until is not None:
            criteria.append(sql.SQL("recorded_at <= %(until)s"))
        parameters = {
            "ids": list(selection.ids),
            "reason": selection.reason,
            "name": selection.name,
            "tenant": selection.tenant,
            "until": selection.until,
        }
        composed = sql.SQL(query).format(
            rejects=self._table, selected=sql.SQL(" AND ").join(criteria)
        )
        return composed, parameters

    # Storing after all.

    def retry(
        self, selection: Selection, on_batch: Callable[[Retried], object] = lambda _: None
    ) -> Retried:
        """Store the rows that carry their event; each batch is settled when ``on_batch`` is called.

        What the database refuses again stays, with the new detail. Raises ``psycopg.Error`` for
        any other trouble: the batches before are settled, and the rest is as it was.
        """
        result = Retried()
        after: UUID | None = None
        while True:
            self._connection.deadline = time.monotonic() + BATCH_TIMEOUT
            batch = Retried(result.stored, result.stored_already, result.refused.copy())
            with self._connection.transaction():
                # Else a constraint of the host's might speak up at the commit, for all rows.
                self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                after = self._retry_batch(selection, after, batch)
            result = batch
            on_batch(result)
            if after is None:
                return result

    def _retry_batch(
        self, selection: Selection, after: UUID | None, result: Retried
    ) -> UUID | None:
        """Retry the next rows in the current transaction; gives the last id if there may be more.

        In the order of ids, so that a row that stays is not met again.
        """
        query, parameters = self._compose(_CLAIM, selection)
        rows = self._connection.execute(
            query, {**parameters, "after": after, "limit": BATCH_ROWS}
        ).fetchall()
        if not rows:
            return None
        stored: dict[UUID, tuple[str, str]] = {}
        refused: dict[UUID, str] = {}
        self._store([(row[0], row[1]) for row in rows], stored, refused)
        entries: Counter[_Key] = Counter()
        for row_id, _, reason, tenant, name in rows:
            if row_id in stored:
                entries["retried", *stored[row_id], reason] += 1
                result.stored += 1
            elif row_id in refused:
                result.refused[refused[row_id]] += 1
            else:
                entries["discarded", tenant, name, STORED_ALREADY] += 1
                result.stored_already += 1
        if refused:
            with self._connection.cursor() as cursor:
                cursor.executemany(
                    sql.SQL(_EXPLAIN).format(rejects=self._table),
                    [(detail, row_id) for row_id, detail in refused.items()],
                )
        settled = [row[0] for row in rows if row[0] not in refused]
        self._connection.execute(sql.SQL(_DELETE).format(rejects=self._table), [settled])
        self._write(entries)
        return rows[-1][0] if len(rows) == BATCH_ROWS else None

    def _store(
        self,
        rows: Sequence[tuple[UUID, str]],
        stored: dict[UUID, tuple[str, str]],
        refused: dict[UUID, str],
    ) -> None:
        """Insert events by halves, down to the rows that the database refuses."""
        document = f"[{','.join(event for _, event in rows)}]"
        try:
            with self._connection.transaction():  # a savepoint
                inserted = self._connection.execute(self._insert, [document]).fetchall()
        except psycopg.Error as error:
            if judge(error).kind != "row":
                raise
            if len(rows) == 1:
                detail = f"{error.sqlstate}: {primary_message(error)}"
                refused[rows[0][0]] = detail[:_DETAIL_LIMIT]
                return
            middle = len(rows) // 2
            self._store(rows[:middle], stored, refused)
            self._store(rows[middle:], stored, refused)
            return
        stored.update({row_id: (tenant, name) for row_id, tenant, name in inserted})
        passed_over = {row_id for row_id, _ in rows} - stored.keys()
        if passed_over:
            # Not surely because they are there: the host may have a unique index of its own.
            known = self._connection.execute(self._find_stored, [document]).fetchall()
            for row_id in passed_over - {row_id for (row_id,) in known}:
                refused[row_id] = _NOT_UNIQUE

    # Discarding.

    def discard(
        self, selection: Selection, on_batch: Callable[[int], object] = lambda _: None
    ) -> int:
        """Delete rows, and count them in the ledger; gives how many."""
        discarded = 0
        while True:
            self._connection.deadline = time.monotonic() + BATCH_TIMEOUT
            query, parameters = self._compose(_DISCARD, selection)
            with self._connection.transaction():
                gone = self._connection.execute(
                    query, {**parameters, "limit": BATCH_ROWS}
                ).fetchall()
                entries: Counter[_Key] = Counter()
                for tenant, name, reason in gone:
                    entries["discarded", self._valid_tenant(tenant), name, reason] += 1
                self._write(entries)
            discarded += len(gone)
            on_batch(discarded)
            if len(gone) < BATCH_ROWS:
                return discarded

    def _valid_tenant(self, tenant: str | None) -> str | None:
        """Give a tenant's id as the ledger takes it; None where the reject had no valid one."""
        if tenant is None:
            return None
        platform = str(canonical_tenant(PLATFORM, self._tenant_type))
        try:
            return (
                tenant if tenant == platform else str(canonical_tenant(tenant, self._tenant_type))
            )
        except InvalidTenant:
            return None

    def _write(self, entries: Mapping[_Key, int]) -> None:
        write_entries(
            self._connection,
            self._schema,
            [
                Entry(kind, tenant, name, reason, rows)
                for (kind, tenant, name, reason), rows in entries.items()
            ],
        )


_OVERVIEW: Final = """
    SELECT reason, name, count(*) AS count, max(recorded_at) AS newest,
           pg_catalog.count(event) AS retryable
      FROM {rejects} WHERE {selected} GROUP BY reason, name ORDER BY count(*) DESC, reason, name
"""
_NEWEST: Final = """
    SELECT id, tenant_id, name, phase, created_at, recorded_at, reason, detail, data, other_keys,
           operation_id, parent_operation_id, service, environment, event
      FROM {rejects} WHERE {selected} ORDER BY recorded_at DESC, id DESC LIMIT %(limit)s
"""
_COUNT: Final = """
    SELECT reason, pg_catalog.count(event) AS retryable, count(*) - pg_catalog.count(event) AS other
      FROM {rejects} WHERE {selected} GROUP BY reason ORDER BY reason
"""
_CLAIM: Final = """
    SELECT id, event::text, reason, event ->> 'tenant_id', event ->> 'name'
      FROM {rejects}
     WHERE {selected} AND event IS NOT NULL AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
     ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""
# Each row is looked up by its whole key, the tenant in it.
_FIND_STORED: Final = """
    SELECT id FROM pg_catalog.jsonb_to_recordset(CAST(%s AS jsonb))
               AS line(id uuid, tenant_id {tenant_type}, created_at timestamptz)
      JOIN {events} USING (tenant_id, created_at, id)
"""
_EXPLAIN: Final = "UPDATE {rejects} SET detail = %s WHERE id = %s"
_DELETE: Final = "DELETE FROM {rejects} WHERE id = ANY(%s)"
_DISCARD: Final = """
    WITH selected AS (
        SELECT id FROM {rejects} WHERE {selected} ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    DELETE FROM {rejects} AS reject USING selected WHERE reject.id = selected.id
    RETURNING reject.tenant_id, reject.name, reject.reason
"""
