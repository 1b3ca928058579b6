"""What the host added to the table of events, as far as an error alone does not tell.

Asks the catalogue, which any role may read, and which has no rows of tenants.
"""

from __future__ import annotations

from typing import Any, Final, Literal, cast

import psycopg
from psycopg import sql

from tenantry.exporters.sqlstates import is_by_policy, judge

Constraint = Literal["primary key", "tenant", "other"]


class HostRules:
    """The rules of one schema, as of the last `read`."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        """Know of none yet."""
        self._connection = connection
        self._table = sql.Identifier(schema, "events").as_string(None)
        self._constraints: dict[tuple[str | None, ...], Constraint] = {}
        self.have_unique = False
        """There is an index that ON CONFLICT passes a row over for, beside the primary key."""
        self._have_policy = False

    def read(self) -> None:
        """Look again at what there is."""
        row = self._connection.execute(_READ, [self._table]).fetchone()
        self.have_unique, self._have_policy = row or (False, False)

    def blame_row(self, error: psycopg.Error) -> bool:
        """Say whether a row caused ``error``: without a policy of theirs, ours refuse all rows."""
        if is_by_policy(error):
            return self._have_policy
        return judge(error).kind == "row"

    def find_constraint(self, error: psycopg.Error) -> Constraint:
        """Say whether it is the primary key or a foreign key of the tenant that refused a row.

        Asked within a transaction that has failed; goes back to its savepoint ``part``.
        """
        diag = error.diag
        if error.sqlstate not in {"23503", "23505"} or diag.constraint_name is None:
            return "other"
        key = (diag.schema_name, diag.table_name, diag.constraint_name)
        if key not in self._constraints:
            self._connection.execute("ROLLBACK TO SAVEPOINT part")
            row = self._connection.execute(_FIND_CONSTRAINT, key).fetchone()
            self._constraints[key] = cast("Constraint", row[0]) if row else "other"
        return self._constraints[key]


_READ: Final = """
    SELECT EXISTS (
               SELECT FROM pg_catalog.pg_index AS index
                WHERE NOT index.indisprimary AND (index.indisunique OR index.indisexclusion)
                  AND (index.indrelid = events.oid OR index.indrelid IN (
                      SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = events.oid))),
           EXISTS (
               SELECT FROM pg_catalog.pg_policy AS policy
                WHERE policy.polrelid = events.oid AND NOT policy.polpermissive)
      FROM pg_catalog.pg_class AS events WHERE events.oid = to_regclass(%s)
"""
_FIND_CONSTRAINT: Final = """
    SELECT CASE WHEN found.contype = 'p' THEN 'primary key'
                WHEN found.contype = 'f' AND found.conkey = ARRAY[tenant.attnum] THEN 'tenant'
                ELSE 'other' END
      FROM pg_catalog.pg_namespace AS namespace
      JOIN pg_catalog.pg_class AS relation ON relation.relnamespace = namespace.oid
      JOIN pg_catalog.pg_constraint AS found ON found.conrelid = relation.oid
      LEFT JOIN pg_catalog.pg_attribute AS tenant
        ON tenant.attrelid = relation.oid AND tenant.attname = 'tenant_id'
     WHERE namespace.nspname = %s AND relation.relname = %s AND found.conname = %s
"""
