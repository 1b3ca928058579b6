"""Partitions of events: what there is, what is missing, and how a month is made.

A month is built beside the table and attached, since ``CREATE TABLE … PARTITION OF`` would lock
all writers out. Attaching takes SHARE UPDATE EXCLUSIVE on events, which no reader or writer meets,
and ACCESS EXCLUSIVE on the DEFAULT partition, which PostgreSQL reads through for rows of the month.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from tenantry.database.ledger import Entry, write_entries
from tenantry.database.short_locks import ShortLocks
from tenantry.exceptions import SchemaMismatch

MONTHS_BACK: Final = 120
"""Rows of months further back stay in DEFAULT: so old a time is an odd clock's, not a delay's."""

_FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Partition:
    """An attached partition with a range; ``end`` is not in it."""

    name: str
    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Layout:
    """The table of events, as it is partitioned at this moment."""

    owner: str
    may_change: bool
    """Whether the connected role owns the table, or is a member of who does."""
    is_referenced: bool
    """Whether foreign keys of other tables lead to events."""
    default: str | None
    now: datetime
    """The server's clock."""
    partitions: tuple[Partition, ...]
    """In the order of time."""

    def missing(self, months: Sequence[datetime]) -> list[datetime]:
        """Give those of ``months`` that no partition touches."""
        return [
            month
            for month in months
            if not any(
                each.begin < add_months(month, 1) and month < each.end for each in self.partitions
            )
        ]

    def in_default(self) -> sql.Composable:
        """Give the condition of rows that no partition has a range for."""
        if not self.partitions:
            return sql.SQL("true")
        ends = [_FIRST, *(each.end for each in self.partitions)]
        begins = [*(each.begin for each in self.partitions), _LAST]
        gaps = [
            # The outermost are open: created_at may be infinite.
            sql.SQL(" AND ").join(
                [
                    *([sql.SQL("created_at >= {}").format(begin)] if begin != _FIRST else []),
                    *([sql.SQL("created_at < {}").format(end)] if end != _LAST else []),
                ]
            )
            for begin, end in zip(ends, begins, strict=True)
            if begin < end
        ]
        return sql.SQL(" OR ").join(gaps) if gaps else sql.SQL("false")


@dataclass(frozen=True, slots=True)
class Stray:
    """Rows in DEFAULT: of one month, or with None of all the months that are not built."""

    month: datetime | None
    rows: int
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Made:
    """A month that was attached, and the rows of DEFAULT that went there."""

    partition: str
    rows: int


def add_months(month: datetime, count: int) -> datetime:
    """Give the first moment of the month ``count`` months from that of ``month``, in UTC."""
    year, index = divmod(month.year * 12 + month.month - 1 + count, 12)
    return datetime(year, index + 1, 1, tzinfo=UTC)


def months_ahead(now: datetime, ahead: int) -> list[datetime]:
    """Give the month of ``now`` and as many more."""
    return [add_months(now, count) for count in range(ahead + 1)]


def read_layout(connection: psycopg.Connection[Any], schema: str) -> Layout:
    """Read the catalogue, within a transaction of ``ShortLocks``."""
    row = connection.execute(_LAYOUT, {"schema": schema}).fetchone()
    if row is None:
        raise SchemaMismatch(
            f"The table events in the schema {schema!r} is not partitioned: something else than "
            "`tenantry migrate` made it. Months are made of partitioned tables only"
        )
    owner, may_change, is_referenced, default, now = row
    bounds = connection.execute(_BOUNDS, {"schema": schema, "first": _FIRST, "last": _LAST})
    partitions = tuple(Partition(*each) for each in bounds)
    return Layout(owner, may_change, is_referenced, default, now, partitions)


def read_strays(
    connection: psycopg.Connection[Any], schema: str, layout: Layout, ahead: int
) -> list[Stray]:
    """Count the rows in DEFAULT by month, through the parent: DEFAULT itself shows nobody a row.

    Of all tenants, by intention. Takes as long as reading DEFAULT does, and blocks nobody.
    """
    if layout.default is None:
        return []
    query = sql.SQL(_STRAYS).format(
        events=sql.Identifier(schema, "events"),
        in_default=layout.in_default(),
        first=add_months(layout.now, -MONTHS_BACK),
        last=add_months(layout.now, ahead + 1),
    )
    return [Stray(*row) for row in connection.execute(query)]


def make_month(locks: ShortLocks, schema: str, month: datetime) -> Made | None:
    """Build a month, move its rows out of DEFAULT, and attach it: in one transaction.

    So that a reader finds each row once at any moment, and a crash leaves everything as it was. The
    rows keep all columns, ``transaction_id`` and ``recorded_at`` included. None where another
    session made the month meanwhile. Needs the owner of the tables, as a maintainer.

    Rows are moved before any lock that others meet is asked for; what is stored behind that is
    moved, and the month attached, under the lock. Nobody waits behind it for longer than twice the
    lock timeout: that long for the lock, and that long while it is held.
    """
    return locks.run(lambda: _Month(locks, schema, month).make())


class _Month:
    """A month in the making, in the current transaction."""

    def __init__(self, locks: ShortLocks, schema: str, month: datetime) -> None:
        self._locks = locks
        self._connection = locks.connection
        self._schema = schema
        self._month = month
        self._name = f"events_{month:%Y_%m}"
        self._names: dict[str, sql.Composable] = {
            "events": sql.Identifier(schema, "events"),
            "table": sql.Identifier(schema, self._name),
            "begin": sql.Literal(month),
            "end": sql.Literal(add_months(month, 1)),
        }

    def make(self) -> Made | None:
        layout = read_layout(self._connection, self._schema)
        if not layout.missing([self._month]):
            return None
        begun = time.monotonic()
        self._build(layout)
        # Deleting what another row refers to would be refused, or delete that row as well.
        moves = layout.default is not None and not layout.is_referenced
        rows = self._move() if moves else 0
        is_busy = rows > 0 or self._month <= layout.now
        # As patient as the rows are worth: while this waits, so do readers that tail.
        rows += self._locks.run_inside(
            lambda: self._attach(layout, moves=moves, is_busy=is_busy),
            patience=time.monotonic() - begun,
        )
        if rows:
            write_entries(
                self._connection, self._schema, [Entry("moved", None, None, self._name, rows)]
            )
        return Made(self._name, rows)

    def _build(self, layout: Layout) -> None:
        """Make the table: the owner's, nobody's to use, and with a proof of what it holds."""
        self._execute(_CREATE)
        self._execute("ALTER TABLE {table} OWNER TO {owner}", owner=sql.Identifier(layout.owner))
        for (role,) in self._connection.execute(
            _GRANTEES, {"schema": self._schema, "table": self._name}
        ).fetchall():
            grantee = sql.Identifier(role) if role else sql.SQL("PUBLIC")
            self._execute("REVOKE ALL ON {table} FROM {grantee}", grantee=grantee)
        columns = self._connection.execute(_COLUMNS, {"schema": self._schema}).fetchall()
        self._names["columns"] = sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns)

    def _move(self) -> int:
        return self._execute(_MOVE).rowcount

    def _attach(self, layout: Layout, *, moves: bool, is_busy: bool) -> int:
        """Attach the table; gives how many rows were stored in DEFAULT since the others moved."""
        rows, patience = 0, self._locks.lock_timeout
        asked = time.monotonic()
        # A writer that has chosen DEFAULT for its row and waits there would be refused when the
        # month is attached meanwhile. Where rows of the month may well arrive, writers wait before
        # they choose.
        mode = sql.SQL("SHARE ROW EXCLUSIVE" if is_busy else "SHARE UPDATE EXCLUSIVE")
        self._execute("LOCK TABLE ONLY {events} IN {mode} MODE", mode=mode)
        if layout.default is not None:
            default = sql.Identifier(self._schema, layout.default)
            # Who came behind the first lock must not wait that long again for the second.
            self._locks.limit(wait=asked + patience - time.monotonic(), work=0)
            self._execute("LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE", default=default)
        # From here on others wait for what is done, and no more for what it waits for.
        until = time.monotonic() + patience
        self._locks.limit(wait=patience / 2, work=patience)
        if moves:
            rows = self._move()
        self._execute("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        remaining = until - time.monotonic()
        # A foreign key of events takes a lock on the table that it leads to.
        self._locks.limit(wait=remaining / 2, work=remaining)
        self._execute(
            "ALTER TABLE {events} ATTACH PARTITION {table} FOR VALUES FROM ({begin}) TO ({end})"
        )
        self._execute("ALTER TABLE {table} DROP CONSTRAINT tenantry_month")
        return rows

    def _execute(self, query: LiteralString, **names: sql.Composable) -> psycopg.Cursor[Any]:
        return self._connection.execute(sql.SQL(query).format(**self._names, **names))


_LAYOUT: Final = """
    SELECT pg_get_userbyid(events.relowner)::text,
           pg_has_role(events.relowner, 'USAGE')
               AND has_schema_privilege(events.relnamespace, 'CREATE'),
           EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = events.oid),
           (SELECT relname::text FROM pg_class WHERE pg_class.oid = partdefid),
           clock_timestamp()
      FROM pg_class AS events
      JOIN pg_namespace AS namespace ON namespace.oid = events.relnamespace
      JOIN pg_partitioned_table ON partrelid = events.oid
     WHERE nspname = %(schema)s AND relname = 'events'
"""
_BOUNDS: Final = """
    SELECT relname::text,
           greatest(coalesce((regexp_match(bound, $$FROM \\('([^']+)'\\) TO$$))[1]::timestamptz,
                             '-infinity'), %(first)s),
           least(coalesce((regexp_match(bound, $$TO \\('([^']+)'\\)$$))[1]::timestamptz,
                          'infinity'), %(last)s)
      FROM (SELECT child.relname, pg_get_expr(child.relpartbound, child.oid) AS bound
              FROM pg_inherits
              JOIN pg_class AS child ON child.oid = inhrelid
              JOIN pg_class AS events ON events.oid = inhparent AND events.relname = 'events'
              JOIN pg_namespace AS namespace ON namespace.oid = events.relnamespace
             WHERE nspname = %(schema)s) AS children
     WHERE bound <> 'DEFAULT'
     ORDER BY 2
"""
# Of all tenants: a month holds them together.
_STRAYS: Final = """
    SELECT CASE WHEN created_at >= {first} AND created_at < {last}
                THEN date_trunc('month', created_at) END AS month,
           count(*), min(created_at)::text, max(created_at)::text
      FROM {events} WHERE {in_default} GROUP BY 1 ORDER BY 1
"""
# Not INCLUDING ALL: PARTITION OF takes over no comments, statistics or identities either.
_CREATE: Final = """
    CREATE TABLE {table} (
        LIKE {events} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES
             INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING GENERATED,
        CONSTRAINT tenantry_month CHECK (created_at >= {begin} AND created_at < {end})
    )
"""
_GRANTEES: Final = """
    SELECT DISTINCT CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee)::text END
      FROM pg_class JOIN pg_namespace AS namespace ON namespace.oid = relnamespace,
           aclexplode(relacl)
     WHERE nspname = %(schema)s AND relname = %(table)s AND grantee <> relowner
"""
_COLUMNS: Final = """
    SELECT attname::text
      FROM pg_attribute
      JOIN pg_class ON pg_class.oid = attrelid AND relname = 'events'
      JOIN pg_namespace AS namespace ON namespace.oid = relnamespace AND nspname = %(schema)s
     WHERE attnum > 0 AND NOT attisdropped AND attgenerated = ''
     ORDER BY attnum
"""
# Of all tenants as well. Through the parent, whose policies let the maintainer do so.
_MOVE: Final = """
    WITH gone AS (
        DELETE FROM {events} WHERE created_at >= {begin} AND created_at < {end} RETURNING {columns}
    )
    INSERT INTO {table} ({columns}) SELECT {columns} FROM gone
"""
