"""Tables of the host: how their names are given, and what the catalogue says of their columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from tenantry.database.installed import check_identifier
from tenantry.exceptions import ConfigurationError

_NAME: Final = re.compile(r"([^.()]+)\.([^.()]+?)(?:\(([^.()]+)\))?")


@dataclass(frozen=True, slots=True)
class HostTable:
    """A table that is not ours, with the column that was named behind it, or ``id``."""

    schema: str
    name: str
    column: str = "id"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The quoted name."""
        return sql.Identifier(self.schema, self.name)


def parse_table(text: str, *, column: bool = False) -> HostTable:
    """Read ``schema.table``, and with ``column`` also ``schema.table(column)``, unquoted.

    Raises:
        ConfigurationError: for anything else.
    """
    match = _NAME.fullmatch(text)
    if match is None or (match[3] and not column):
        form = "schema.table or schema.table(column)" if column else "schema.table"
        raise ConfigurationError(
            f"{text[:80]!r} names no table: write {form}, without quotes, as in public.events."
        )
    parts = [part for part in match.groups() if part]
    for part, what in zip(parts, ("a schema", "a table", "a column"), strict=False):
        check_identifier(part, what)
    return HostTable(*parts)


def read_column_types(connection: psycopg.Connection[Any], table: HostTable) -> dict[str, str]:
    """Return the type of each column; nothing where there is no such table."""
    rows = connection.execute(_COLUMNS, [table.schema, table.name]).fetchall()
    return {name: type_.removeprefix("pg_catalog.") for name, type_ in rows}


def find_oid(schema: str, name: str) -> sql.Composed:
    """Compose the look-up of a table's oid, which needs no privilege on its schema."""
    return sql.SQL(_OID).format(sql.Literal(schema), sql.Literal(name))


_OID: Final = """
    (SELECT relation.oid FROM pg_catalog.pg_class AS relation
       JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
      WHERE namespace.nspname = {} AND relation.relname = {})
"""
_COLUMNS: Final = """
    SELECT attname::pg_catalog.text, format_type(atttypid, NULL)
      FROM pg_catalog.pg_attribute
      JOIN pg_catalog.pg_class AS relation ON relation.oid = attrelid
      JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relnamespace
     WHERE nspname = %s AND relname = %s AND relkind IN ('r', 'p')
       AND attnum > 0 AND NOT attisdropped
"""
