"""The statements that write rows; the exporter and the caller's own transactions share them.

Composes text only. Column lists are those of `tenantry.record`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, LiteralString

from psycopg import sql

from tenantry.record import EVENT_COLUMNS, REJECT_COLUMNS, Column

_TALLY_COLUMNS: Final = (
    Column("tenant_id", "tenant"),
    Column("journal_id", "uuid"),
    Column("segment", "bigint"),
    Column("name", "text"),
    Column("accepted", "bigint"),
)

# Types and functions are PostgreSQL's own whatever the search_path of the session, which in a
# caller's transaction is the caller's. The names without a schema are words of SQL.
_TYPES: Final = {
    "bigint": sql.SQL("bigint"),
    "double precision": sql.SQL("double precision"),
    "jsonb": sql.SQL("pg_catalog.jsonb"),
    "smallint": sql.SQL("smallint"),
    "text": sql.SQL("pg_catalog.text"),
    "timestamptz": sql.SQL("pg_catalog.timestamptz"),
    "uuid": sql.SQL("pg_catalog.uuid"),
}

_DEFAULTS: Final = {
    "data": sql.SQL("'{}'::pg_catalog.jsonb"),
    "event_version": sql.SQL("1"),
    "sample_rate": sql.SQL("1"),
}
"""The defaults of the migrations: a key that a line lacks arrives as null, not as absent."""

_ON_REPEAT: Final = " ON CONFLICT DO NOTHING"

BINARY_DOCUMENT: Final = "pg_catalog.jsonb_to_recordset(%b)"
"""A JSON array of events, in jsonb's binary format."""

TEXT_DOCUMENT: Final = (
    "pg_catalog.jsonb_to_record(CAST(CAST(%s AS pg_catalog.text) AS pg_catalog.jsonb))"
)
"""One event as text. No colons, and a type that needs no guess: any driver understands it."""


@lru_cache
def insert_events(
    schema: str,
    tenant_type: str,
    document: LiteralString,
    *,
    version: int | None,
    may_repeat: bool = True,
) -> str:
    """Make the statement that stores the events of a document, given as its one parameter.

    Against repeats it names no conflict target: with one, or with RETURNING, it would need SELECT.

    Args:
        schema: the schema's name, not quoted.
        tenant_type: the type that the schema was made with.
        document: `BINARY_DOCUMENT`, `TEXT_DOCUMENT`, or another call that gives records.
        version: leave out the columns of later migrations; None for all that are known.
        may_repeat: pass over rows that are stored already. Without it they are an error, and the
            rest takes a fifth less of the server's time.
    """
    columns = [column for column in EVENT_COLUMNS if version is None or column.since <= version]
    statement = _insert(schema, "events", columns, tenant_type, document, defaults=_DEFAULTS)
    return statement if may_repeat else statement.removesuffix(_ON_REPEAT)


@lru_cache
def insert_rejects(schema: str, tenant_type: str, document: LiteralString, *, version: int) -> str:
    """Make the statement that stores a JSON array of refused events."""
    columns = [column for column in REJECT_COLUMNS if column.since <= version]
    return _insert(schema, "rejected_events", columns, tenant_type, document, defaults={})


@lru_cache
def insert_tallies(schema: str, tenant_type: str, document: LiteralString) -> str:
    """Make the statement that stores a JSON array of tallies."""
    return _insert(schema, "event_tallies", _TALLY_COLUMNS, tenant_type, document, defaults={})


def _insert(
    schema: str,
    table: str,
    columns: Sequence[Column],
    tenant_type: str,
    document: LiteralString,
    *,
    defaults: Mapping[str, sql.SQL],
) -> str:
    names = [sql.Identifier(column.name) for column in columns]
    types = [_TYPES[tenant_type if column.type == "tenant" else column.type] for column in columns]
    values = [
        sql.SQL("coalesce({}, {})").format(name, defaults[column.name])
        if column.name in defaults
        else name
        for column, name in zip(columns, names, strict=True)
    ]
    return (
        sql.SQL(
            "INSERT INTO {table} ({names}) SELECT {values}"
            " FROM {document} AS line({definitions})"
            " ON CONFLICT DO NOTHING"
        )
        .format(
            table=sql.Identifier(schema, table),
            names=sql.SQL(", ").join(names),
            values=sql.SQL(", ").join(values),
            document=sql.SQL(document),
            definitions=sql.SQL(", ").join(
                sql.SQL("{} {}").format(name, type_)
                for name, type_ in zip(names, types, strict=True)
            ),
        )
        .as_string(None)
    )
