"""The foreign key from events to the host's own tenants: made, found and removed.

Optional. Made without holding up writers for longer than an instant: on each partition without a
look at the rows (PostgreSQL knows NOT VALID on a partitioned table from 18 on, on partitions since
ever), then the rows are looked at beside everybody, and the table takes its partitions' keys over.

PostgreSQL's own look is not enough: it reads as the owner, from whom the forced row-level security
of the partitions hides all rows, and finds nothing wrong.
"""

from __future__ import annotations

import time
from typing import Any, Final, Literal, LiteralString, NamedTuple, get_args

import psycopg
from psycopg import sql

from tenantry.context import PLATFORM, canonical_tenant
from tenantry.database.connect import DeadlineConnection, DeadlineReached
from tenantry.database.host_tables import HostTable, find_oid, read_column_types
from tenantry.database.installed import Installed, check_tenant_type
from tenantry.database.scripts import LIMITED, SEARCH_PATH
from tenantry.database.short_locks import POLL, let_others_pass
from tenantry.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMismatch,
)

OnDelete = Literal["no-action", "restrict", "cascade"]

CONSTRAINT: Final = "events_tenant_fkey"
"""Its name; a foreign key of another name is the host's own."""

_SHOWN: Final = 5
"""Tenants without a row that an error names."""


class TenantKey(NamedTuple):
    """A foreign key of ``events.tenant_id``."""

    name: str
    table: str
    column: str
    on_delete: str


def check_on_delete(text: str) -> OnDelete:
    """Return ``text`` if it is one of no-action, restrict and cascade.

    Raises:
        ConfigurationError: for any other.
    """
    match text:
        case "no-action" | "restrict" | "cascade":
            return text
        case _:
            raise ConfigurationError(
                f"--on-delete {text[:80]!r} is not one of {', '.join(get_args(OnDelete))}."
            )


def tenant_key_sql(schema: str, tenants: HostTable, on_delete: OnDelete) -> str:
    """Return the statement that makes it at once, for a table without rows."""
    return _compose(_ADD, schema, "events", tenants, on_delete).as_string(None)


def read_tenant_key(connection: psycopg.Connection[Any], schema: str) -> TenantKey | None:
    """Return the foreign key of ``events.tenant_id``, whoever made it; None when there is none."""
    row = connection.execute(_FIND, [schema]).fetchone()
    return None if row is None else TenantKey(*row)


def add_tenant_key(
    connection: DeadlineConnection,
    schema: str,
    installed: Installed,
    tenants: HostTable,
    on_delete: OnDelete,
    *,
    timeout: float,
) -> bool:
    """Let events refer to ``tenants``; False when they do so already.

    Waits ``timeout`` seconds in all, for locks included. What an attempt leaves on partitions that
    was cut short, the next one removes.

    Raises:
        SchemaMismatch: when there is another foreign key, no such column, one that cannot be
            referred to, or when events have tenants that are not there.
        PrivilegeMissing: with what to grant.
        DatabaseUnreachable: when its time is up.
    """
    wanted = TenantKey(CONSTRAINT, str(tenants), tenants.column, on_delete)
    deadline = time.monotonic() + timeout
    while True:
        existing = read_tenant_key(connection, schema)
        if existing == wanted:
            return False
        if existing is not None:
            raise _other_key(schema, existing, wanted)
        _check_tenants(connection, installed, tenants)
        try:
            _Work(connection, schema, tenants, on_delete, deadline).make()
        except _CROSSED as error:
            # Another migration is doing the same: see what it left.
            if time.monotonic() + 2 * POLL >= deadline:
                raise _time_is_up() from error
            let_others_pass()
        except (psycopg.errors.DatatypeMismatch, psycopg.errors.InvalidForeignKey) as error:
            raise SchemaMismatch(
                f"{schema}.events cannot refer to {tenants}({tenants.column}): "
                f"{error.diag.message_primary}. It takes a primary key or unique constraint of the "
                f"type {installed.tenant_type}. Nothing was changed."
            ) from error
        else:
            return True


def _other_key(schema: str, existing: TenantKey, wanted: TenantKey) -> SchemaMismatch:
    how = "Remove it with --no-tenants-table first."
    if existing.name != CONSTRAINT:
        how = f"It was not made by Tenantry: drop the constraint {existing.name} first."
    return SchemaMismatch(
        f"{schema}.events refers to {existing.table}({existing.column}) on delete "
        f"{existing.on_delete} already, and {wanted.table}({wanted.column}) on delete "
        f"{wanted.on_delete} was asked for. {how}"
    )


def drop_tenant_key(connection: DeadlineConnection, schema: str, *, timeout: float) -> bool:
    """Remove the foreign key that `add_tenant_key` made; False when there is none.

    Raises:
        DatabaseUnreachable: when ``timeout`` seconds have passed.
    """
    existing = read_tenant_key(connection, schema)
    if existing is None or existing.name != CONSTRAINT:
        return False
    drop = sql.SQL(_DROP).format(sql.Identifier(schema, "events"), sql.Identifier(CONSTRAINT))
    _run(connection, drop, time.monotonic() + timeout)
    return True


def has_platform_row(
    connection: psycopg.Connection[Any], installed: Installed, tenants: HostTable
) -> bool:
    """Say whether events of ``PLATFORM`` have a tenant to refer to."""
    platform = canonical_tenant(PLATFORM, check_tenant_type(installed.tenant_type))
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {}::pg_catalog.text = %s)").format(
        tenants.identifier, sql.Identifier(tenants.column)
    )
    with connection.transaction():
        connection.execute(SEARCH_PATH)
        row = connection.execute(query, [str(platform)]).fetchone()
    return row is not None and bool(row[0])


class _Work:
    """The steps on the way to the key, each a transaction of its own."""

    def __init__(
        self,
        connection: DeadlineConnection,
        schema: str,
        tenants: HostTable,
        on_delete: OnDelete,
        deadline: float,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._tenants = tenants
        self._on_delete: OnDelete = on_delete
        self._deadline = deadline
        row = connection.execute(_PARTITIONS, [schema]).fetchall()
        self._partitions = [name for (name,) in row]

    def make(self) -> None:
        """Make the key, or leave nothing of it."""
        self._drop_parts()  # what an attempt left that was cut short
        for partition in self._partitions:
            self._run(_compose(_ADD_PART, self._schema, partition, self._tenants, self._on_delete))
        missing = self._find_missing()
        if missing:
            self._drop_parts()
            raise SchemaMismatch(
                f"{self._schema}.events cannot refer to {self._tenants}: it has events of tenants "
                f"without a row there, {', '.join(missing)} among them. Insert those tenants, or "
                "delete their events; then run it again. Nothing was changed."
            )
        for partition in self._partitions:
            self._run(
                sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
                    sql.Identifier(self._schema, partition), sql.Identifier(CONSTRAINT)
                )
            )
        self._run(_compose(_ADD, self._schema, "events", self._tenants, self._on_delete))

    def _drop_parts(self) -> None:
        for partition in self._partitions:
            self._run(
                sql.SQL(_DROP).format(
                    sql.Identifier(self._schema, partition), sql.Identifier(CONSTRAINT)
                )
            )

    def _find_missing(self) -> list[str]:
        self._connection.deadline = self._deadline
        query = sql.SQL(_MISSING).format(
            events=sql.Identifier(self._schema, "events"),
            tenants=self._tenants.identifier,
            column=sql.Identifier(self._tenants.column),
        )
        try:
            with self._connection.transaction():
                self._connection.execute(SEARCH_PATH)
                rows = self._connection.execute(query, [_SHOWN]).fetchall()
        except DeadlineReached as error:
            raise _time_is_up() from error
        return [tenant for (tenant,) in rows]

    def _run(self, statement: sql.Composed) -> None:
        _run(self._connection, statement, self._deadline)


def _run(connection: DeadlineConnection, statement: sql.Composed, deadline: float) -> None:
    """Run a statement in a transaction; while a lock is taken, let others pass and try again."""
    while True:
        connection.deadline = deadline
        try:
            with connection.transaction():
                connection.execute(LIMITED)
                connection.execute(statement)
        except DeadlineReached as error:
            raise _time_is_up() from error
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if time.monotonic() + 2 * POLL >= deadline:
                raise _time_is_up() from error
            let_others_pass()
        else:
            return


def _time_is_up() -> DatabaseUnreachable:
    return DatabaseUnreachable(
        "The foreign key to the tenants was not made before its time was up. Look in "
        "pg_stat_activity for a long transaction, or allow more by --timeout; then run it again."
    )


def _check_tenants(
    connection: DeadlineConnection, installed: Installed, tenants: HostTable
) -> None:
    columns = read_column_types(connection, tenants)
    if tenants.column not in columns:
        what = f"has no column {tenants.column}" if columns else "is no table"
        raise SchemaMismatch(
            f"Events cannot refer to {tenants}({tenants.column}): {tenants} {what}. Name it as "
            "--tenants-table schema.table(column)."
        )
    facts = sql.SQL(_MAY_REFER).format(oid=find_oid(tenants.schema, tenants.name))
    values = {"schema": tenants.schema, "column": tenants.column}
    with connection.transaction():
        connection.execute(SEARCH_PATH)
        row = connection.execute(facts, values).fetchone()
    may_refer_to, hides_rows = row or (False, False)
    if not may_refer_to:
        grant = sql.SQL("GRANT USAGE ON SCHEMA {} TO {}; GRANT SELECT, REFERENCES ON {} TO {};")
        user = sql.Identifier(installed.user)
        composed = grant.format(
            sql.Identifier(tenants.schema),
            user,
            tenants.identifier,
            user,
        )
        raise PrivilegeMissing(
            f"{installed.user!r} may not let events refer to {tenants}. Run as its owner: "
            f"{composed.as_string(None)}"
        )
    if hides_rows:
        raise SchemaMismatch(
            f"Events cannot refer to {tenants}: its row-level security hides rows from "
            f"{installed.user!r}, who has to see whether tenants are missing. Run it as a role "
            "with BYPASSRLS, or as the table's owner without FORCE."
        )


def _compose(
    query: LiteralString, schema: str, table: str, tenants: HostTable, on_delete: OnDelete
) -> sql.Composed:
    return sql.SQL(query).format(
        table=sql.Identifier(schema, table),
        constraint=sql.Identifier(CONSTRAINT),
        tenants=tenants.identifier,
        column=sql.Identifier(tenants.column),
        action=_ACTIONS[on_delete],
    )


_CROSSED: Final = (
    psycopg.errors.DuplicateObject,
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidTableDefinition,  # an inherited constraint cannot be dropped
)
_ACTIONS: Final[dict[OnDelete, sql.SQL]] = {
    "no-action": sql.SQL("NO ACTION"),
    "restrict": sql.SQL("RESTRICT"),
    "cascade": sql.SQL("CASCADE"),
}
_ADD: Final = (
    "ALTER TABLE {table} ADD CONSTRAINT {constraint} FOREIGN KEY (tenant_id)"
    " REFERENCES {tenants} ({column}) ON DELETE {action}"
)
_ADD_PART: Final[LiteralString] = _ADD + " NOT VALID"
_DROP: Final = "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}"
_PARTITIONS: Final = """
    SELECT child.relname::pg_catalog.text
      FROM pg_catalog.pg_inherits AS link
      JOIN pg_catalog.pg_class AS child ON child.oid = link.inhrelid
      JOIN pg_catalog.pg_class AS events ON events.oid = link.inhparent
      JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = events.relnamespace
     WHERE namespace.nspname = %s AND events.relname = 'events'
     ORDER BY child.relname
"""
_FIND: Final = """
    SELECT key.conname::pg_catalog.text,
           pg_catalog.concat(target_schema.nspname, '.', target.relname),
           target_column.attname::pg_catalog.text,
           CASE key.confdeltype WHEN 'a' THEN 'no-action' WHEN 'r' THEN 'restrict'
                                WHEN 'c' THEN 'cascade' WHEN 'n' THEN 'set null'
                                ELSE 'set default' END
      FROM pg_catalog.pg_constraint AS key
      JOIN pg_catalog.pg_class AS events ON events.oid = key.conrelid
      JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = events.relnamespace
      JOIN pg_catalog.pg_attribute AS tenant
        ON tenant.attrelid = events.oid AND tenant.attname = 'tenant_id'
      JOIN pg_catalog.pg_class AS target ON target.oid = key.confrelid
      JOIN pg_catalog.pg_namespace AS target_schema ON target_schema.oid = target.relnamespace
      JOIN pg_catalog.pg_attribute AS target_column
        ON target_column.attrelid = target.oid AND target_column.attnum = key.confkey[1]
     WHERE namespace.nspname = %s AND events.relname = 'events' AND key.contype = 'f'
       AND key.conkey = ARRAY[tenant.attnum]
     ORDER BY key.conparentid, key.conname LIMIT 1
"""
_MAY_REFER: Final = """
    SELECT has_schema_privilege(%(schema)s, 'USAGE')
               AND has_column_privilege({oid}, %(column)s, 'REFERENCES')
               AND has_column_privilege({oid}, %(column)s, 'SELECT'),
           row_security_active({oid})
"""
# Of all tenants, by intention: which of them are missing.
_MISSING: Final = """
    SELECT DISTINCT event.tenant_id::pg_catalog.text FROM {events} AS event
     WHERE NOT EXISTS (SELECT FROM {tenants} AS tenant WHERE tenant.{column} = event.tenant_id)
     LIMIT %s
"""
