"""Months that are too old: detached, which takes them out of sight, and dropped when told to.

A detached month stays in the schema, renamed, with a comment: since when, and how many rows.
No role reads it, its owner included, until row-level security is no longer forced on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, LiteralString

import psycopg
from psycopg import sql

from tenantry.database.ledger import Entry, write_entries
from tenantry.database.partitions import read_layout
from tenantry.database.short_locks import ShortLocks

_COMMENT: Final = re.compile(
    r"Detached by tenantry maintain at (\S+); rows: (\d+|not counted yet)\."
)


@dataclass(frozen=True, slots=True)
class Detached:
    """A table that was a month of events."""

    name: str
    at: datetime
    rows: int | None
    """None while nobody has counted: the session that detached it was cut off."""


def read_detached(connection: psycopg.Connection[Any], schema: str) -> list[Detached]:
    """List what was detached and not dropped yet, the longest ago first."""
    found: list[Detached] = []
    for name, comment in connection.execute(_DETACHED, {"schema": schema}):
        if match := _COMMENT.match(comment):
            rows = int(match[2]) if match[2].isdecimal() else None
            found.append(Detached(name, datetime.fromisoformat(match[1]), rows))
    return sorted(found, key=lambda each: (each.at, each.name))


def detach(locks: ShortLocks, schema: str, partition: str) -> str | None:
    """Detach a partition, and give its new name; None where another session did meanwhile.

    Takes ACCESS EXCLUSIVE on events: whoever writes or reads then waits for the lock timeout at
    most, and for an instant once it is there. Its rows are counted behind that by ``count``.
    """

    def work() -> str | None:
        layout = read_layout(locks.connection, schema)
        if partition not in {each.name for each in layout.partitions}:
            return None
        row = locks.connection.execute(
            _FREE_NAME, {"schema": schema, "prefix": f"{partition}_detached"}
        ).fetchone()
        name = "" if row is None else str(row[0])
        # One message, and the commit: what is locked is locked for two round trips. A foreign key
        # of events takes a lock on the table that it leads to, for which others wait as well.
        locks.connection.execute(
            sql.SQL(_DETACH).format(
                events=sql.Identifier(schema, "events"),
                partition=sql.Identifier(schema, partition),
                name=sql.Identifier(name),
                detached=sql.Identifier(schema, name),
                comment=sql.Literal(_describe(layout.now, None)),
                limits=locks.limits(wait=locks.lock_timeout / 2, work=locks.lock_timeout),
            )
        )
        return name

    return locks.run(work)


def count(locks: ShortLocks, schema: str, detached: Detached) -> int | None:
    """Count the rows of a detached table into its comment and the ledger.

    None where another session did meanwhile. It blocks nobody: nobody may use the table.
    """

    def work() -> int | None:
        if not _is_there(locks, schema, detached):
            return None
        rows = _count(locks, schema, detached.name)
        locks.connection.execute(
            sql.SQL("COMMENT ON TABLE {} IS {}").format(
                sql.Identifier(schema, detached.name), sql.Literal(_describe(detached.at, rows))
            )
        )
        _write(locks, schema, "detached", detached.name, rows)
        return rows

    return locks.run(work)


def drop(locks: ShortLocks, schema: str, detached: Detached) -> int | None:
    """Drop a detached table for good, and give how many rows it had.

    None where another session did meanwhile. Where the table has a foreign key, dropping it locks
    the table that this leads to, for an instant.
    """

    def work() -> int | None:
        if not _is_there(locks, schema, detached):
            return None
        rows = _count(locks, schema, detached.name)
        _write(locks, schema, "dropped", detached.name, rows)
        locks.connection.execute(
            sql.SQL("DROP TABLE {}").format(sql.Identifier(schema, detached.name))
        )
        return rows

    return locks.run(work)


def _is_there(locks: ShortLocks, schema: str, detached: Detached) -> bool:
    return detached in read_detached(locks.connection, schema)


def _count(locks: ShortLocks, schema: str, table: str) -> int:
    names = {"table": sql.Identifier(schema, table)}

    def execute(query: LiteralString) -> psycopg.Cursor[Any]:
        return locks.connection.execute(sql.SQL(query).format(**names))

    # Its owner sees the rows for the length of this transaction, in which nobody else does.
    execute("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    row = execute("SELECT count(*) FROM {table}").fetchone()
    execute("ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    return 0 if row is None else int(row[0])


def _write(
    locks: ShortLocks, schema: str, kind: Literal["detached", "dropped"], table: str, rows: int
) -> None:
    write_entries(locks.connection, schema, [Entry(kind, None, None, table, rows)])


def _describe(at: datetime, rows: int | None) -> str:
    counted = "not counted yet" if rows is None else rows
    return f"Detached by tenantry maintain at {at.isoformat()}; rows: {counted}."


_DETACHED: Final = """
    SELECT relname::text, obj_description(pg_class.oid, 'pg_class')
      FROM pg_class JOIN pg_namespace AS namespace ON namespace.oid = relnamespace
     WHERE nspname = %(schema)s AND relkind = 'r' AND NOT relispartition
       AND obj_description(pg_class.oid, 'pg_class') IS NOT NULL
"""
_FREE_NAME: Final = """
    SELECT name
      FROM (SELECT concat(%(prefix)s::text, CASE WHEN number > 1 THEN concat('_', number) END),
                   number
              FROM generate_series(1, 1000000) AS number) AS names(name, number)
     WHERE NOT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
                        WHERE nspname = %(schema)s AND relname = name)
     ORDER BY number LIMIT 1
"""
_DETACH: Final = """
    LOCK TABLE ONLY {events} IN ACCESS EXCLUSIVE MODE;
    {limits};
    ALTER TABLE {events} DETACH PARTITION {partition};
    ALTER TABLE {partition} RENAME TO {name};
    COMMENT ON TABLE {detached} IS {comment}
"""
