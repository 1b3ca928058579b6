"""Adoption: takes the rows of an older table ``events(id, tenant_id, name, data, created_at)``.

Batches of rows, each a transaction of its own, so that it may be interrupted and run again at any
time while the application goes on inserting. Which ids were taken is kept as ranges: ids are given
before the commit, so that a lower one may appear later than any higher one. The older table is only
read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from tenantry.database.connect import DeadlineConnection
from tenantry.database.host_tables import find_oid, parse_table
from tenantry.database.installed import Installed, TenantType, check_tenant_type
from tenantry.database.ledger import Entry, write_entries
from tenantry.database.older_rows import Judge, NewEvent, OldRow, month_of
from tenantry.database.older_table import check_older_table
from tenantry.database.partitions import MONTHS_BACK, add_months, make_month
from tenantry.database.scripts import LIMITED, SEARCH_PATH
from tenantry.database.short_locks import ShortLocks, StillLocked, let_others_pass
from tenantry.exceptions import (
    DatabaseUnreachable,
)
from tenantry.exporters.host_rules import HostRules
from tenantry.exporters.salvage import REASON as REFUSED
from tenantry.exporters.statements import insert_events, insert_rejects
from tenantry.exporters.transaction import primary_message

BATCH_ROWS: Final = 2000
"""Rows of one transaction: some 60 ms, and what an interruption may cost."""

STATEMENT_ROWS: Final = 250
"""Rows of one statement: the server reads several smaller documents faster than a large one."""

BATCH_TIMEOUT: Final = 600.0
"""Seconds for one batch, most of which finds the rows that were not taken yet."""

_SHORT_LOCK: Final = 0.5
"""Seconds that writers may have to wait for the making of a month."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """How far it has come: present + gone = adopted + rejected + waiting."""

    source: str
    present: int
    """Rows that the older table has."""
    adopted: int
    """Rows that are events now."""
    rejected: int
    """Rows that went to ``rejected_events``."""
    waiting: int
    """Rows that are there and were not taken yet."""
    gone: int
    """Rows that were taken, and deleted from the older table since."""
    writers: int
    """Transactions that had the older table open for writing: their rows may appear yet."""

    @property
    def balances(self) -> bool:
        """Whether every row of the older table is accounted for."""
        return self.present + self.gone == self.adopted + self.rejected + self.waiting

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left, and nobody is about to add something."""
        return not self.waiting and not self.writers


class Adopter:
    """Takes the rows of one table into one schema, over a connection in autocommit mode."""

    def __init__(
        self,
        connection: DeadlineConnection,
        schema: str,
        installed: Installed,
        source: str,
        *,
        timeout: float = 60.0,
    ) -> None:
        """Look at the table; ``timeout`` is how many seconds a batch may wait for locks.

        Raises:
            ConfigurationError: when ``source`` is no ``schema.table``.
            SchemaMismatch: when that is not a plain table of events, or Tenantry's is too old.
            PrivilegeMissing: with what to grant.
        """
        self._connection = connection
        self._schema = schema
        self._source = parse_table(source)
        self._timeout = timeout
        self._tenant_type: TenantType = check_tenant_type(installed.tenant_type)
        check_older_table(connection, schema, installed, self._source)
        self._rules = HostRules(connection, schema)
        self._months: set[datetime] = set()
        """Those that need not be made: they are there, or their rows stay in DEFAULT."""
        self._insert = insert_events(
            schema, self._tenant_type, _DOCUMENT, version=installed.version, may_repeat=False
        ).encode()
        self._reject = insert_rejects(
            schema, self._tenant_type, _DOCUMENT, version=installed.version
        ).encode()
        digest = blake2b(f"{schema}\0{self._source}".encode(), digest_size=8).digest()
        self._lock_key = int.from_bytes(digest, "big", signed=True)
        self._judge = Judge(self._source, self._tenant_type)

    @property
    def _events(self) -> sql.Identifier:
        return sql.Identifier(self._schema, "events")

    # How far it has come.

    def report(self) -> Adoption:
        """Count all rows of both sides in one snapshot."""
        self._connection.deadline = time.monotonic() + BATCH_TIMEOUT
        # Before the count: a transaction that ends in between is in neither, or in both.
        (writers,) = self._ask(_WRITERS) or (0,)
        present, waiting, adopted, rejected, taken = self._ask(_REPORT) or (0, 0, 0, 0, 0)
        return Adoption(
            source=str(self._source),
            present=present,
            adopted=adopted,
            rejected=rejected,
            waiting=waiting,
            gone=taken - (present - waiting),
            writers=writers,
        )

    def _ask(self, query: LiteralString) -> tuple[Any, ...] | None:
        with self._connection.transaction():
            self._connection.execute(SEARCH_PATH)
            values = {"source": str(self._source)}
            return self._connection.execute(self._compose(query), values).fetchone()

    # Taking rows.

    def run(self, on_batch: Callable[[int], object] = lambda _: None) -> Adoption:
        """Take all rows that can be seen, and report; ``on_batch`` is told how many so far.

        Goes over the table again for what appeared behind it, until little does.
        """
        done = 0
        while True:
            before, last = done, None
            while True:
                taken, last = self._take(last)
                done += taken
                on_batch(done)
                if taken < BATCH_ROWS:
                    break
            if done - before < BATCH_ROWS:
                return self.report()

    def _take(self, after: int | None) -> tuple[int, int | None]:
        """Take the next batch; gives how many rows, and the last id. Waits for locks."""
        deadline = time.monotonic() + self._timeout
        while True:
            self._connection.deadline = time.monotonic() + BATCH_TIMEOUT
            try:
                try:
                    with self._connection.transaction():
                        rows = self._take_in_transaction(after)
                except _MonthsMissing as missing:
                    self._make_months(missing.months, deadline)
                    continue
            except _TRY_AGAIN as error:
                if time.monotonic() >= deadline:
                    raise DatabaseUnreachable(
                        f"Adopting {self._source} had to wait for a lock until its time was up. "
                        "What was taken stays. Look in pg_stat_activity for another adoption or a "
                        "long transaction, then run it again."
                    ) from error
                let_others_pass()
                continue
            return len(rows), rows[-1].id if rows else None

    def _take_in_transaction(self, after: int | None) -> list[OldRow]:
        connection = self._connection
        connection.execute(LIMITED)
        # Else a constraint of the host's might speak up at the commit, for all rows.
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        row = connection.execute(_LOCK, [self._lock_key]).fetchone()
        if row is None or not row[0]:
            raise _AnotherRuns
        rows = [
            OldRow(*values)
            for values in connection.execute(
                self._compose(_FETCH),
                {"source": str(self._source), "after": after, "limit": BATCH_ROWS},
            ).fetchall()
        ]
        events: list[NewEvent] = []
        rejects: dict[int, str] = {}
        for each in rows:
            judged = self._judge.judge(each)
            if isinstance(judged, NewEvent):
                events.append(judged)
            else:
                rejects[each.id] = judged
        missing = {month_of(event.row) for event in events} - self._months
        if missing:
            raise _MonthsMissing(missing)
        self._rules.read()
        for first in range(0, len(events), STATEMENT_ROWS):
            self._store(events[first : first + STATEMENT_ROWS], rejects)
        lines = list(rejects.values())
        for first in range(0, len(lines), STATEMENT_ROWS):
            document = f"[{','.join(lines[first : first + STATEMENT_ROWS])}]"
            connection.execute(self._reject, [document])
        if rows:
            ids = [each.id for each in rows]
            values = {
                "source": str(self._source),
                "ids": ids,
                "adopted": [row_id not in rejects for row_id in ids],
            }
            connection.execute(self._compose(_MARK), values)
        if adopted := len(rows) - len(rejects):
            entry = Entry("adopted", None, None, str(self._source), adopted)
            write_entries(connection, self._schema, [entry])
        return rows

    def _make_months(self, months: set[datetime], deadline: float) -> None:
        """Make the partitions of past months, each in a transaction of its own.

        An odd clock makes none: beyond `MONTHS_BACK` months rows lie in DEFAULT, as others do.
        """
        now = datetime.now(UTC)
        locks = ShortLocks(self._connection, _SHORT_LOCK, deadline)
        for month in sorted(months):
            if add_months(now, -MONTHS_BACK) <= month <= now:
                # Rows of the month in DEFAULT that are referred to cannot be moved: all stay there.
                with suppress(psycopg.errors.CheckViolation):
                    make_month(locks, self._schema, month)
            self._months.add(month)

    def _store(self, events: Sequence[NewEvent], rejects: dict[int, str]) -> None:
        """Insert events by halves, down to the rows that the database refuses."""
        document = f"[{','.join(event.json for event in events)}]"
        try:
            with self._connection.transaction():  # a savepoint
                self._connection.execute(self._insert, [document])
        except psycopg.Error as error:
            if not self._rules.blame_row(error):
                raise
            if len(events) > 1:
                middle = len(events) // 2
                self._store(events[:middle], rejects)
                self._store(events[middle:], rejects)
            elif not self._is_stored(document):
                detail = f"{error.sqlstate}: {primary_message(error)}"
                row, tenant, event_json = events[0]
                rejects[row.id] = self._judge.reject(
                    row, REFUSED, detail, tenant=tenant, event=event_json
                )

    def _is_stored(self, document: str) -> bool:
        """Say whether an event is there already, as when ``adoptions`` was emptied by hand."""
        found = self._connection.execute(self._compose(_FIND_STORED), {"document": document})
        return found.fetchone() is not None

    def _compose(self, query: LiteralString) -> sql.Composed:
        return sql.SQL(query).format(
            old=self._source.identifier,
            events=self._events,
            adoptions=sql.Identifier(self._schema, "adoptions"),
            tenant_type=sql.SQL(self._tenant_type),
            old_oid=find_oid(self._source.schema, self._source.name),
            is_taken=sql.SQL(_IS_TAKEN).format(adoptions=sql.Identifier(self._schema, "adoptions")),
        )


class _MonthsMissing(Exception):
    """Rows of the batch are of months without a partition; it is begun again with them."""

    def __init__(self, months: set[datetime]) -> None:
        self.months = months


class _AnotherRuns(Exception):
    """Another adoption of this table has its turn."""


_TRY_AGAIN: Final = (
    _AnotherRuns,
    StillLocked,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)

_DOCUMENT: Final = "pg_catalog.jsonb_to_recordset(CAST(%s AS pg_catalog.jsonb))"
_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"

# No statement here filters by tenant: the rows of all tenants are taken.
_WRITERS: Final = """
    SELECT count(DISTINCT virtualtransaction) FROM pg_catalog.pg_locks
     WHERE relation = {old_oid} AND granted
       AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
       AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock')
"""
_IS_TAKEN: Final = """
    EXISTS (SELECT FROM {adoptions} AS taken
             WHERE taken.source = %(source)s AND taken.part = old.id::bigint >> 12
               AND taken.ids @> old.id::bigint)
"""
_REPORT: Final = """
    SELECT (SELECT count(*) FROM {old} AS old),
           (SELECT count(*) FROM {old} AS old WHERE NOT {is_taken}),
           coalesce(sum(adopted), 0)::bigint, coalesce(sum(rejected), 0)::bigint,
           coalesce(sum((SELECT sum(upper(part.ids) - lower(part.ids))
                           FROM pg_catalog.unnest(taken.ids) AS part(ids))), 0)::bigint
      FROM {adoptions} AS taken WHERE source = %(source)s
"""
_FETCH: Final = """
    SELECT old.id::bigint, old.tenant_id::pg_catalog.text, old.name::pg_catalog.text,
           CASE WHEN old.created_at >= '0001-01-01 00:00:00+00'
                 AND old.created_at < '9999-01-01 00:00:00+00'
                THEN to_char(old.created_at AT TIME ZONE 'UTC',
                             'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"') END,
           old.created_at IS NULL,
           (CASE WHEN old.data IS NULL OR jsonb_typeof(old.data) = 'null' THEN '{{}}'
                 WHEN jsonb_typeof(old.data) = 'object' THEN old.data
                 ELSE jsonb_build_object('value', old.data) END)::pg_catalog.text
      FROM {old} AS old
     WHERE (%(after)s::bigint IS NULL OR old.id > %(after)s::bigint) AND NOT {is_taken}
     ORDER BY old.id LIMIT %(limit)s
"""
_FIND_STORED: Final = """
    SELECT FROM pg_catalog.jsonb_to_recordset(CAST(%(document)s AS pg_catalog.jsonb))
               AS line(id uuid, tenant_id {tenant_type}, created_at timestamptz)
      JOIN {events} USING (tenant_id, created_at, id)
"""
_MARK: Final = """
    INSERT INTO {adoptions} AS taken (source, part, ids, adopted, rejected)
    SELECT %(source)s, id >> 12, range_agg(int8range(id, id, '[]')),
           count(*) FILTER (WHERE is_event), count(*) FILTER (WHERE NOT is_event)
      FROM unnest(%(ids)s::bigint[], %(adopted)s::bool[]) AS one(id, is_event)
     GROUP BY id >> 12
    ON CONFLICT (source, part) DO UPDATE
    SET ids = taken.ids + excluded.ids, adopted = taken.adopted + excluded.adopted,
        rejected = taken.rejected + excluded.rejected, updated_at = clock_timestamp()
"""
