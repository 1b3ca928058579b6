"""Erasure in months that `tenantry maintain` detached: only the owner of the tables sees into them.

Row-level security is forced on such a table, without a policy. It is lifted within a transaction
that locks the table, so that nobody sees a row meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from tenantry.database.connect import DeadlineConnection
from tenantry.database.retention import Detached, count, read_detached
from tenantry.database.short_locks import ShortLocks, StillLocked

LOCK_TIMEOUT: Final = 30.0
"""Seconds to wait for `tenantry maintain`, which works on one table at a time."""


class DetachedMonths:
    """The detached months of one schema, and the rows of one subject in them.

    ``condition`` is that of the subject's rows, with named parameters of ``values``.
    """

    def __init__(
        self,
        connection: DeadlineConnection,
        schema: str,
        condition: sql.Composable,
        values: Mapping[str, Any],
    ) -> None:
        """Keep the connection; nothing is read yet."""
        self._connection = connection
        self._schema = schema
        self._condition = condition
        self._values = values

    def count(self) -> Mapping[str, int | None]:
        """Count the rows by table; None where the role may not, or maintenance is at work."""
        counts: dict[str, int | None] = {table.name: None for table in self._list()}
        for table in self._owned():
            try:
                counts[table.name] = self._run(table.name, _COUNT)
            except psycopg.errors.UndefinedTable:
                del counts[table.name]  # it was dropped
            except StillLocked:
                continue
        return counts

    def erase(self, note: Callable[[str, int], object]) -> Iterator[tuple[str, int]]:
        """Delete a batch, and give its table and its rows, as long as there are any.

        ``note`` is called with both in the batch's transaction.
        """
        for table in self._owned():
            with suppress(StillLocked, psycopg.errors.UndefinedTable):
                if table.rows is None:
                    count(self._locks(), self._schema, table)  # before any is gone, for the books
                while rows := self._run(table.name, _DELETE, note):
                    yield table.name, rows

    def _list(self) -> list[Detached]:
        with self._connection.transaction():
            self._connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            return read_detached(self._connection, self._schema)

    def _owned(self) -> list[Detached]:
        tables = self._list()
        names = [table.name for table in tables]
        rows = self._connection.execute(_OWNED, {"schema": self._schema, "names": names})
        owned = {name for (name,) in rows.fetchall()}
        return [table for table in tables if table.name in owned]

    def _locks(self) -> ShortLocks:
        deadline = time.monotonic() + LOCK_TIMEOUT
        return ShortLocks(self._connection, lock_timeout=2.0, deadline=deadline)

    def _run(
        self, table: str, query: LiteralString, note: Callable[[str, int], object] | None = None
    ) -> int:
        names = {"table": sql.Identifier(self._schema, table), "theirs": self._condition}

        def execute(statement: LiteralString) -> psycopg.Cursor[Any]:
            return self._connection.execute(sql.SQL(statement).format(**names), self._values)

        def work() -> int:
            execute("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
            row = execute(query).fetchone()
            execute("ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            rows = 0 if row is None else int(row[0])
            if rows and note is not None:
                note(table, rows)
            return rows

        return self._locks().run(work)


_OWNED: Final = """
    SELECT relname::pg_catalog.text
      FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace AS namespace
        ON namespace.oid = relnamespace
     WHERE nspname = %(schema)s AND relname = ANY(%(names)s) AND pg_has_role(relowner, 'USAGE')
"""
_COUNT: Final = "SELECT count(*) FROM {table} WHERE {theirs}"
_DELETE: Final = """
    WITH theirs AS (
        SELECT created_at, id FROM {table} WHERE {theirs} LIMIT %(limit)s
    ), gone AS (
        DELETE FROM {table} AS event USING theirs
         WHERE event.{theirs} AND event.created_at = theirs.created_at AND event.id = theirs.id
        RETURNING event.id
    )
    SELECT count(*) FROM gone
"""
