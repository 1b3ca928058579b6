"""The feed of events: the newest, and then each new one, exactly once.

A follower goes by the transaction that stored a row. Every transaction below
``pg_snapshot_xmin`` has ended, so that behind a reader who stops there no row can appear; by id or
by time, rows of a slow transaction appear behind the reader and are missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, LiteralString

from psycopg import sql
from psycopg.rows import dict_row

from tenantry.cli.connection import Source
from tenantry.context import PLATFORM, canonical_tenant
from tenantry.record import EVENT_COLUMNS

Row = dict[str, Any]

PAGE_ROWS: Final = 1000

POLL: Final = 0.25
"""Seconds between two looks for new rows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a follower stands: everything up to this row has been given."""

    transaction_id: str
    id: str = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Feed:
    """Events of one tenant, or of all that the connected role sees.

    Raises ``InvalidTenant`` where ``tenant`` is not of the installed type.
    """

    def __init__(
        self, source: Source, *, tenant: str | None = None, name: str | None = None
    ) -> None:
        """Compose the statements; nothing is read yet."""
        self._source = source
        self._tenant = None if tenant is None else stored_form(source, tenant)
        self._name = name
        self._events = sql.Identifier(source.schema, "events")

    def newest(self, limit: int) -> list[Row]:
        """Read the newest events, the oldest of them first."""
        return self._read(_NEWEST, limit=limit)[::-1]

    def begin(self, limit: int) -> tuple[list[Row], Place]:
        """Read the newest of the events that ``follow`` will not give, and where it goes on."""
        watermark = self._watermark()
        return self._read(_NEWEST_BELOW, limit=limit, watermark=watermark)[::-1], Place(
            str(int(watermark) - 1)
        )

    def follow(self, place: Place, pause: Callable[[float], object]) -> Iterator[list[Row]]:
        """Give pages of what is stored from ``place`` on, for ever; ``pause`` waits between looks.

        A look scans the table, since no index leads to a transaction. It is left out while no
        transaction has ended, and the pauses grow with it, so that a follower costs the server a
        fifth of one core at most.
        """
        watermark = ""
        while True:
            begun = time.monotonic()
            watermark, previous = self._watermark(), watermark
            while watermark != previous:
                rows = self._read(
                    _SINCE, limit=PAGE_ROWS, transaction_id=place.transaction_id, id=place.id
                )
                if rows:
                    place = Place(rows[-1]["transaction_id"], str(rows[-1]["id"]))
                    yield rows
                if len(rows) < PAGE_ROWS:
                    break
            pause(max(POLL, 4 * (time.monotonic() - begun)))

    def _watermark(self) -> str:
        self._source.allow()
        row = self._source.connection.execute(_WATERMARK).fetchone()
        return "" if row is None else str(row[0])

    def _read(self, query: LiteralString, **values: Any) -> list[Row]:
        """Run one statement, in a transaction of its own that has the tenant set.

        The setting ends with the transaction: a plain SET would leak the tenant to whoever gets
        the session next from a pooler.
        """
        source = self._source
        source.allow()
        composed = sql.SQL(query).format(
            columns=_COLUMNS,
            events=self._events,
            tenant=sql.SQL("tenant_id = %(tenant)s")
            if self._tenant is not None
            else sql.SQL("true"),  # all tenants, as far as row-level security lets the role see
            name=sql.SQL("name = %(name)s") if self._name is not None else sql.SQL("true"),
        )
        parameters = {"tenant": self._tenant, "name": self._name, **values}
        with source.connection.transaction(), source.connection.cursor(row_factory=dict_row) as c:
            if self._tenant is not None:
                c.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [str(self._tenant)])
            return c.execute(composed, parameters).fetchall()


def stored_form(source: Source, tenant: str) -> str | int:
    """Read a tenant's id as it was typed; raises ``InvalidTenant`` for one of another type."""
    tenant_type = source.installed.tenant_type
    platform = canonical_tenant(PLATFORM, tenant_type)  # type: ignore[arg-type]  # read from the catalogue
    if tenant == str(platform):
        return platform
    return canonical_tenant(tenant, tenant_type)  # type: ignore[arg-type]  # read from the catalogue


_COLUMNS: Final = sql.SQL(", ").join(
    [
        *(sql.Identifier(column.name) for column in EVENT_COLUMNS),
        sql.SQL("recorded_at"),
        sql.SQL("transaction_id::text AS transaction_id"),
    ]
)
_NEWEST: Final = """
    SELECT {columns} FROM {events} WHERE {tenant} AND {name}
     ORDER BY created_at DESC, id DESC LIMIT %(limit)s
"""
_WATERMARK: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
_NEWEST_BELOW: Final = """
    SELECT {columns} FROM {events}
     WHERE {tenant} AND {name} AND transaction_id < %(watermark)s::text::xid8
     ORDER BY created_at DESC, id DESC LIMIT %(limit)s
"""
_SINCE: Final = """
    SELECT {columns} FROM {events}
     WHERE {tenant} AND {name}
       AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
       AND (transaction_id, id) > (%(transaction_id)s::text::xid8, %(id)s::uuid)
     ORDER BY events.transaction_id, id LIMIT %(limit)s
"""
