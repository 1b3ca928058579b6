"""Whether a table can be adopted: its columns, its index, and what the connected role may do."""

from __future__ import annotations

from typing import Final

from psycopg import sql

from tenantry.database.connect import DeadlineConnection
from tenantry.database.host_tables import HostTable, find_oid, read_column_types
from tenantry.database.installed import Installed
from tenantry.database.scripts import SEARCH_PATH
from tenantry.exceptions import PrivilegeMissing, SchemaMismatch

_SINCE: Final = 7
"""The migration that made ``adoptions``."""

_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
_TEXTS: Final = frozenset({"text", "character varying", "character"})
_TYPES: Final = {
    "id": _INTEGERS,
    "tenant_id": frozenset({"uuid"}) | _INTEGERS | _TEXTS,
    "name": _TEXTS,
    "data": frozenset({"jsonb"}),
    "created_at": frozenset({"timestamp with time zone"}),
}


def check_older_table(
    connection: DeadlineConnection, schema: str, installed: Installed, source: HostTable
) -> None:
    """Raise unless ``source`` can be adopted into ``schema`` by the connected role.

    Raises:
        SchemaMismatch: when it is not a plain table of events, or Tenantry's schema is too old.
        PrivilegeMissing: with what to grant.
    """
    if installed.version < _SINCE:
        raise SchemaMismatch(
            f"{source} cannot be adopted into the schema {schema!r} of version "
            f"{installed.version}: it takes {_SINCE}. Run tenantry migrate without --to."
        )
    columns = read_column_types(connection, source)
    if not columns:
        raise _refusal(source, "there is no such table", "Name it with its schema.")
    for name, types in _TYPES.items():
        if columns.get(name) not in types:
            has = f"is {columns[name]}" if name in columns else "is missing"
            raise _refusal(
                source,
                f"its column {name} {has}, and has to be {' or '.join(sorted(types))}",
                "Change it in a copy of the table, and adopt that.",
            )
    given = columns["tenant_id"]
    if (given == "uuid" and installed.tenant_type == "bigint") or (
        given in _INTEGERS and installed.tenant_type == "uuid"
    ):
        raise _refusal(
            source,
            f"its tenant ids are {given}, and those of the schema {schema!r} are "
            f"{installed.tenant_type}",
            "Migrate into another --schema with a fitting --tenant-type.",
        )
    query = sql.SQL(_FACTS).format(
        old_oid=find_oid(source.schema, source.name), events_oid=find_oid(schema, "events")
    )
    with connection.transaction():
        connection.execute(SEARCH_PATH)
        row = connection.execute(query).fetchone()
    is_unique, may_read, hides_rows, is_owner = row or (False,) * 4
    if not is_unique:
        raise _refusal(
            source,
            "it has no unique index on id alone, or its id may be null",
            f"Run: CREATE UNIQUE INDEX CONCURRENTLY ON {source.identifier.as_string(None)} (id); "
            f"ALTER TABLE {source.identifier.as_string(None)} ALTER id SET NOT NULL;",
        )
    if hides_rows:
        raise _refusal(
            source,
            f"its row-level security hides rows from {installed.user!r}",
            "Adopt as a role with BYPASSRLS, or as its owner without FORCE.",
        )
    user = sql.Identifier(installed.user)
    if not may_read:
        grant = sql.SQL("GRANT USAGE ON SCHEMA {} TO {}; GRANT SELECT ON {} TO {};").format(
            sql.Identifier(source.schema), user, source.identifier, user
        )
        raise PrivilegeMissing(
            f"{installed.user!r} may not read {source}. Run as its owner: {grant.as_string(None)}"
        )
    if not is_owner:
        raise PrivilegeMissing(
            f"{installed.user!r} may not adopt {source}: that makes partitions, and only the "
            f"owner of {schema}.events may. Adopt as the user who migrated."
        )


def _refusal(source: HostTable, why: str, remedy: str) -> SchemaMismatch:
    return SchemaMismatch(f"{source} cannot be adopted: {why}. It was left untouched. {remedy}")


_FACTS: Final = """
    SELECT EXISTS (
               SELECT FROM pg_catalog.pg_index AS index
                 JOIN pg_catalog.pg_attribute AS id
                   ON id.attrelid = index.indrelid AND id.attname = 'id'
                WHERE index.indrelid = old.oid AND index.indisunique AND index.indisvalid
                  AND index.indnkeyatts = 1 AND index.indkey[0] = id.attnum
                  AND index.indpred IS NULL AND id.attnotnull),
           has_schema_privilege(old.relnamespace, 'USAGE')
               AND has_table_privilege(old.oid, 'SELECT'),
           row_security_active(old.oid),
           pg_has_role(events.relowner, 'USAGE')
      FROM pg_catalog.pg_class AS old, pg_catalog.pg_class AS events
     WHERE old.oid = {old_oid} AND events.oid = {events_oid}
"""
