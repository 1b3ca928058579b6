"""The ledger: what became of rows after they were counted.

A count once written is final; a correction is a line of its own, written in the transaction that
makes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import psycopg
from psycopg import sql

Kind = Literal[
    "retried", "discarded", "compacted", "erased", "moved", "detached", "dropped", "adopted"
]


class Entry(NamedTuple):
    """A line of the ledger, but for when and by whom."""

    kind: Kind
    tenant_id: str | None
    """A valid tenant id as text; None where there is none."""
    name: str | None
    reason: str | None
    rows: int


def write_entries(
    connection: psycopg.Connection[Any], schema: str, entries: Iterable[Entry]
) -> None:
    """Write lines in the current transaction; needs the maintainer role."""
    query = sql.SQL(_INSERT).format(sql.Identifier(schema, "ledger"))
    with connection.cursor() as cursor:
        cursor.executemany(query, list(entries))


def read_corrections(connection: psycopg.Connection[Any], schema: str) -> dict[str, int]:
    """Add the lines up, by kind; nothing where the schema is older than the ledger.

    Of all tenants, by intention: row-level security shows what the role may see.
    """
    query = sql.SQL(_TOTALS).format(sql.Identifier(schema, "ledger"))
    try:
        return dict(connection.execute(query).fetchall())
    except psycopg.errors.UndefinedTable:
        return {}


_INSERT: Final = "INSERT INTO {} (kind, tenant_id, name, reason, count) VALUES (%s, %s, %s, %s, %s)"
_TOTALS: Final = "SELECT kind, sum(count)::bigint FROM {} GROUP BY kind ORDER BY kind"
