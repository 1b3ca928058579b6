"""Erasure: deletes what the tables hold of one tenant, or of one actor of it, and proves it.

Works in batches, each a transaction of its own with its line in the ledger, so that it may be
killed and run again at any time, beside writers, whom it does not block, and beside others of its
kind: rows that another has locked are passed over, and counted as left.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg import sql
from uuid_utils import uuid7

from tenantry.context import PLATFORM, canonical_tenant
from tenantry.database.connect import DeadlineConnection
from tenantry.database.erase_detached import DetachedMonths
from tenantry.database.installed import Installed, TenantType, check_tenant_type
from tenantry.database.ledger import Entry, Kind, write_entries
from tenantry.exporters.statements import TEXT_DOCUMENT, insert_events

BATCH_ROWS: Final = 5000
"""Rows of one transaction: few enough to be quick, and what an interruption may cost."""

STATEMENT_TIMEOUT: Final = 600.0
"""Seconds for one statement: an actor's rows are found by reading all rows of the tenant."""

PROOF: Final = "data_erased"
"""Name of the event, of no customer's, that says what an erasure did."""

DISCARDED_FOR: Final = "erased"
"""``ledger.reason`` of rejects that an erasure deleted."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose data: a tenant, or one actor of it."""

    tenant: str
    """As it is stored, as text."""
    actor: str | None = None

    def owns(self, line: bytes) -> bool:
        """Say whether the JSON object of a journal's line is theirs."""
        if _PLAIN.fullmatch(self.tenant) and self.tenant.encode() not in line:
            return False  # spares the parsing of most lines
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(row, dict):
            return False
        columns = cast("dict[str, Any]", row)
        if str(columns.get("tenant_id")) != self.tenant:
            return False
        return self.actor is None or columns.get("actor_id") == self.actor


_PLAIN: Final = re.compile(r"[\w.:@-]+", re.ASCII)
"""Text that JSON writes in one way only."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of the subject, by where they are."""

    events: Mapping[str, int]
    """By partition."""
    rejected_events: int = 0
    event_tallies: int = 0
    ledger: int = 0
    unattributed: int = 0
    """Rejects of the tenant that name no actor: only where an actor was asked for."""
    detached: Mapping[str, int | None] = field(default_factory=dict[str, int | None])
    """By table; None where the role may not read it."""


@dataclass(slots=True)
class Erased:
    """What was erased so far; each number is committed."""

    events: Counter[str] = field(default_factory=Counter[str])
    """By partition."""
    rejected_events: int = 0
    event_tallies: int = 0
    """Counts that belong to no customer now."""
    ledger: int = 0
    """Lines that name no tenant now."""
    detached: Counter[str] = field(default_factory=Counter[str])
    """By table."""

    @property
    def rows(self) -> int:
        """How many rows."""
        tables = self.rejected_events + self.event_tallies + self.ledger
        return self.events.total() + self.detached.total() + tables


class Eraser:
    """Erases one subject from one schema, over one connection in autocommit mode.

    Needs the maintainer role. Tallies and lines of the ledger name no actor, and stay as they are
    where only an actor is erased.
    """

    def __init__(
        self,
        connection: DeadlineConnection,
        schema: str,
        installed: Installed,
        subject: Subject,
    ) -> None:
        """Keep the connection; nothing is read yet."""
        self._connection = connection
        self._schema = schema
        self._subject = subject
        self._tenant_type: TenantType = check_tenant_type(installed.tenant_type)
        self._version = installed.version
        self._platform = str(canonical_tenant(PLATFORM, self._tenant_type))
        self._names: dict[int, str] = {}
        self._values: Mapping[str, Any] = {
            "tenant": subject.tenant,
            "actor": subject.actor,
            "platform": self._platform,
            "limit": BATCH_ROWS,
        }
        theirs = self._compose("{of_subject}")
        self._months = DetachedMonths(connection, schema, theirs, self._values)

    def count(self) -> Counts:
        """Count what is there; changes nothing."""
        self._allow()
        events = self._connection.execute(self._compose(_COUNT_EVENTS), self._values).fetchall()
        tables = {"rejected_events": self._read_number(_COUNT_REJECTS)}
        if self._subject.actor is None:
            tables["event_tallies"] = self._read_number(_COUNT_TALLIES)
            tables["ledger"] = self._read_number(_COUNT_LEDGER)
        else:
            tables["unattributed"] = self._read_number(_COUNT_UNATTRIBUTED)
        by_partition = {self._name_of(oid): rows for oid, rows in events}
        return Counts(by_partition, **tables, detached=self._months.count())

    def bound_logins(self) -> list[str]:
        """List the logins that are bound to the tenant; they stay, and see nothing any more."""
        rows = self._connection.execute(self._compose(_BOUND), self._values).fetchall()
        return [login for (login,) in rows]

    def erase(self, erased: Erased, on_batch: Callable[[Erased], object] = lambda _: None) -> None:
        """Delete batch after batch, adding to ``erased`` what is committed.

        Raises ``psycopg.Error``: the batches before are settled, and the rest is as it was.
        """
        place: tuple[str, str] | None = None
        while True:
            place, gone = self._erase_events(place)
            erased.events.update(gone)
            on_batch(erased)
            if place is None:
                break
        for table, rows in self._months.erase(lambda name, n: self._write("erased", n, name)):
            erased.detached[table] += rows
            on_batch(erased)
        while rows := self._erase_rejects():
            erased.rejected_events += rows
            on_batch(erased)
        if self._subject.actor is not None:
            return
        while rows := self._read_number(_FOLD_TALLIES):
            erased.event_tallies += rows
            on_batch(erased)
        self._allow()
        forget = self._compose(_FORGET_LEDGER)
        erased.ledger += self._connection.execute(forget, self._values).rowcount

    def _erase_events(
        self, after: tuple[str, str] | None
    ) -> tuple[tuple[str, str] | None, Counter[str]]:
        """Delete the next events, in the order of time; gives where to go on, if anywhere.

        From a place on, so that no batch wades through the dead rows of those before.
        """
        self._allow()
        gone: Counter[str] = Counter()
        with self._connection.transaction():
            # A time that Python cannot hold travels as text, and has to come back as it went.
            self._connection.execute(_PLAIN_TIMES)
            claim = self._compose(_CLAIM_EVENTS if after is None else _CLAIM_EVENTS_AFTER)
            created_at, event_id = after or (None, None)
            rows = self._connection.execute(
                claim, {**self._values, "created_at": created_at, "id": event_id}
            ).fetchall()
            if not rows:
                return None, gone
            bounds = {"first": rows[0][0], "last": rows[-1][0], "ids": [row[1] for row in rows]}
            deleted = self._connection.execute(
                self._compose(_DELETE_EVENTS), {**self._values, **bounds}
            ).fetchall()
            gone.update(self._name_of(oid) for (oid,) in deleted)
            self._write("erased", gone.total(), None)
        return (rows[-1][0], str(rows[-1][1])) if len(rows) == BATCH_ROWS else None, gone

    def _erase_rejects(self) -> int:
        self._allow()
        with self._connection.transaction():
            rows = self._connection.execute(self._compose(_DELETE_REJECTS), self._values).rowcount
            self._write("discarded", rows, DISCARDED_FOR)
        return rows

    def _write(self, kind: Kind, rows: int, reason: str | None) -> None:
        if rows:
            # Without names: what somebody did, and how often, is what is to be forgotten.
            entry = Entry(kind, self._subject.tenant, None, reason, rows)
            write_entries(self._connection, self._schema, [entry])

    def prove(self, data: Mapping[str, Any]) -> str | None:
        """Store an event of no customer's that says what was done; gives its id.

        None where a constraint of the host's refuses it: PLATFORM may be no tenant there.
        """
        self._allow()
        event_id = str(uuid7())
        event = {
            "id": event_id,
            "tenant_id": self._platform,
            "name": PROOF,
            "created_at": datetime.now(UTC).isoformat(),
            "data": data,
        }
        insert = insert_events(
            self._schema, self._tenant_type, TEXT_DOCUMENT, version=self._version or None
        )
        try:
            self._connection.execute(insert.encode(), [json.dumps(event)])
        except psycopg.errors.IntegrityError:
            return None
        return event_id

    def _read_number(self, query: LiteralString) -> int:
        self._allow()
        row = self._connection.execute(self._compose(query), self._values).fetchone()
        return 0 if row is None else int(row[0])

    def _name_of(self, oid: int) -> str:
        """Name a partition; it may be dropped just now."""
        if oid not in self._names:
            row = self._connection.execute(_NAME, [oid]).fetchone()
            self._names[oid] = "events" if row is None else row[0]
        return self._names[oid]

    def _allow(self) -> None:
        self._connection.deadline = time.monotonic() + STATEMENT_TIMEOUT

    def _compose(self, query: LiteralString) -> sql.Composed:
        by_actor = self._subject.actor is not None
        tenant = sql.SQL("tenant_id = CAST(%(tenant)s AS {})").format(sql.SQL(self._tenant_type))
        return sql.SQL(query).format(
            **{
                table: sql.Identifier(self._schema, table)
                for table in ("events", "rejected_events", "event_tallies", "ledger")
            },
            tenant_roles=sql.Identifier(self._schema, "tenant_roles"),
            tenant_type=sql.SQL(self._tenant_type),
            of_tenant=tenant,
            of_subject=tenant + sql.SQL(" AND actor_id = %(actor)s" if by_actor else ""),
            rejected=sql.SQL("tenant_id = %(tenant)s" + (_BY_ACTOR if by_actor else "")),
        )


# Rejects have no actor of their own; those that the database refused carry their whole row.
_BY_ACTOR: Final[LiteralString] = " AND event ->> 'actor_id' = %(actor)s"
_PLAIN_TIMES: Final = (
    "SELECT pg_catalog.set_config('DateStyle', 'ISO', true),"
    " pg_catalog.set_config('TimeZone', 'UTC', true)"
)
_NAME: Final = "SELECT relname::pg_catalog.text FROM pg_catalog.pg_class WHERE oid = %s"
_COUNT_EVENTS: Final = """
    SELECT tableoid, count(*) FROM {events} WHERE {of_subject} GROUP BY tableoid ORDER BY tableoid
"""
_COUNT_REJECTS: Final = "SELECT count(*) FROM {rejected_events} WHERE {rejected}"
_COUNT_UNATTRIBUTED: Final = """
    SELECT count(*) FROM {rejected_events}
     WHERE tenant_id = %(tenant)s AND event ->> 'actor_id' IS NULL
"""
_COUNT_TALLIES: Final = "SELECT count(*) FROM {event_tallies} WHERE {of_tenant}"
# The lines of erasures stay as they are: they are the proof.
_COUNT_LEDGER: Final = """
    SELECT count(*) FROM {ledger}
     WHERE {of_tenant} AND kind <> 'erased' AND reason IS DISTINCT FROM 'erased'
"""
_FORGET_LEDGER: Final = """
    UPDATE {ledger} SET tenant_id = NULL
     WHERE {of_tenant} AND kind <> 'erased' AND reason IS DISTINCT FROM 'erased'
"""
_BOUND: Final = "SELECT role::pg_catalog.text FROM {tenant_roles} WHERE {of_tenant} ORDER BY role"
_CLAIM: Final[LiteralString] = """
    SELECT created_at::pg_catalog.text, id FROM {events} WHERE {of_subject}
"""
_CLAIMED: Final[LiteralString] = """
     ORDER BY events.created_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""
_CLAIM_EVENTS: Final = _CLAIM + _CLAIMED
_CLAIM_EVENTS_AFTER: Final = (
    _CLAIM
    + "AND (created_at, id) > (CAST(%(created_at)s AS timestamptz), CAST(%(id)s AS uuid))"
    + _CLAIMED
)
# The bounds of time are for the planner: it reads one part of one or two partitions.
_DELETE_EVENTS: Final = """
    DELETE FROM {events}
     WHERE {of_subject} AND id = ANY(%(ids)s)
       AND created_at BETWEEN CAST(%(first)s AS timestamptz) AND CAST(%(last)s AS timestamptz)
    RETURNING tableoid
"""
_DELETE_REJECTS: Final = """
    WITH theirs AS (
        SELECT id FROM {rejected_events} WHERE {rejected}
         ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    DELETE FROM {rejected_events} AS reject USING theirs WHERE reject.id = theirs.id
"""
# What was counted for the tenant is counted for nobody: the sums stay what they were.
_FOLD_TALLIES: Final = """
    WITH theirs AS (
        SELECT journal_id, segment, name FROM {event_tallies} WHERE {of_tenant}
         ORDER BY journal_id, segment, name LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM {event_tallies} AS tally USING theirs
         WHERE tally.{of_tenant} AND tally.journal_id = theirs.journal_id
           AND tally.segment = theirs.segment AND tally.name = theirs.name
        RETURNING tally.journal_id, tally.segment, tally.name, tally.accepted
    ), folded AS (
        INSERT INTO {event_tallies} AS nobodys (tenant_id, journal_id, segment, name, accepted)
        SELECT CAST(%(platform)s AS {tenant_type}), journal_id, segment, name, accepted FROM gone
            ON CONFLICT (tenant_id, journal_id, segment, name)
            DO UPDATE SET accepted = nobodys.accepted + excluded.accepted
    )
    SELECT count(*) FROM gone
"""
