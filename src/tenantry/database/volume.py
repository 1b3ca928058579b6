"""How much is stored, by name and by tenant: this stretch of time against the one before.

Counts of all tenants, by intention: row-level security shows what the role may see. Every statement
is bounded by time, so that only the partitions of the two stretches are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from tenantry.exceptions import DatabaseError
from tenantry.payload import MARK


@dataclass(frozen=True, slots=True)
class Stretch:
    """Two stretches of equal length: from ``begin`` to ``middle``, and on to ``end``, which is now.

    Times are those at which events happened (``created_at``).
    """

    begin: datetime
    middle: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Volume:
    """What is stored of one name, or of one tenant."""

    label: str
    rows: int
    events: int
    """Estimated: each row is weighed by 1 / sample_rate."""
    events_before: int
    bytes: int
    """Of payloads, as JSON text."""
    bytes_before: int
    kinds: int
    """Distinct keys of a name's payloads; distinct names of a tenant's events."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the payloads of one name are, in bytes of JSON text."""

    name: str
    rows: int
    p50: int
    p99: int
    largest: int
    cut: int
    """Rows with a string that was cut to the limit."""
    p50_before: int | None
    p99_before: int | None
    largest_before: int | None
    cut_before: int


class Meter:
    """Reads volumes and sizes of one schema, each statement within ``timeout`` seconds."""

    def __init__(
        self, connection: psycopg.Connection[Any], schema: str, *, since: float, timeout: float
    ) -> None:
        """Fix the times: ``since`` seconds up to now, and as many before. A transaction is open."""
        self._connection = connection
        self._events = sql.Identifier(schema, "events")
        self._since = since
        self._timeout = timeout
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        milliseconds = str(max(1, round(timeout * 1000)))
        connection.execute(_TIMEOUT, [milliseconds])
        with connection.cursor(row_factory=class_row(Stretch)) as cursor:
            (self.stretch,) = cursor.execute(_STRETCH, {"since": since}).fetchall()

    def by_name(self) -> list[Volume]:
        """Measure each name, the one with the most bytes first."""
        return self._read(_BY_NAME, Volume)

    def by_tenant(self, limit: int) -> list[Volume]:
        """Measure the tenants with the most bytes."""
        return self._read(_BY_TENANT, Volume, limit=limit)

    def sizes(self) -> list[Sizes]:
        """Measure the payloads of each name, the one with the largest 99th percentile first."""
        return self._read(_SIZES, Sizes, mark=MARK.decode())

    def _read(self, query: LiteralString, row: type[Any], **values: Any) -> list[Any]:
        stretch = self.stretch
        values |= {"begin": stretch.begin, "middle": stretch.middle, "end": stretch.end}
        try:
            with self._connection.cursor(row_factory=class_row(row)) as cursor:
                composed = sql.SQL(query).format(events=self._events)
                return cursor.execute(composed, values).fetchall()
        except psycopg.errors.QueryCanceled as error:
            raise DatabaseError(
                f"counting the events of twice {self._since:g} seconds took longer than "
                f"{self._timeout:g} seconds, and was given up. Choose a shorter time with --since, "
                "or allow more with --timeout"
            ) from error


_TIMEOUT: Final = "SELECT pg_catalog.set_config('statement_timeout', %s, true)"

_STRETCH: Final = """
    SELECT t - 2 * length AS begin, t - length AS middle, t AS end
      FROM (SELECT pg_catalog.now() AS t,
                   pg_catalog.make_interval(secs => %(since)s) AS length) AS stretch
"""

_BY_NAME: Final = """
    WITH keys AS (
        SELECT name, count(*) AS kinds
          FROM (SELECT DISTINCT name, key
                  FROM {events}, pg_catalog.jsonb_object_keys(
                       CASE pg_catalog.jsonb_typeof(data) WHEN 'object' THEN data ELSE '{{}}' END
                       ) AS key
                 WHERE created_at >= %(middle)s AND created_at < %(end)s) AS pairs
         GROUP BY name
    ), volumes AS (
        SELECT name AS label,
               count(*) FILTER (WHERE is_now) AS rows,
               round(coalesce(sum(1 / sample_rate) FILTER (WHERE is_now), 0))::bigint AS events,
               round(coalesce(sum(1 / sample_rate) FILTER (WHERE NOT is_now), 0))::bigint
                   AS events_before,
               coalesce(sum(size) FILTER (WHERE is_now), 0)::bigint AS bytes,
               coalesce(sum(size) FILTER (WHERE NOT is_now), 0)::bigint AS bytes_before
          FROM (SELECT name, sample_rate, created_at >= %(middle)s AS is_now,
                       pg_catalog.octet_length(data::text)::bigint AS size
                  FROM {events}
                 WHERE created_at >= %(begin)s AND created_at < %(end)s) AS measured
         GROUP BY name
    )
    SELECT volumes.*, coalesce(kinds, 0) AS kinds
      FROM volumes LEFT JOIN keys ON keys.name = volumes.label
     ORDER BY bytes DESC, bytes_before DESC, label
"""

_BY_TENANT: Final = """
    SELECT tenant_id::text AS label,
           count(*) FILTER (WHERE is_now) AS rows,
           round(coalesce(sum(1 / sample_rate) FILTER (WHERE is_now), 0))::bigint AS events,
           round(coalesce(sum(1 / sample_rate) FILTER (WHERE NOT is_now), 0))::bigint
               AS events_before,
           coalesce(sum(size) FILTER (WHERE is_now), 0)::bigint AS bytes,
           coalesce(sum(size) FILTER (WHERE NOT is_now), 0)::bigint AS bytes_before,
           count(DISTINCT name) FILTER (WHERE is_now) AS kinds
      FROM (SELECT tenant_id, name, sample_rate, created_at >= %(middle)s AS is_now,
                   pg_catalog.octet_length(data::text)::bigint AS size
              FROM {events}
             WHERE created_at >= %(begin)s AND created_at < %(end)s) AS measured
     GROUP BY tenant_id ORDER BY bytes DESC, bytes_before DESC, label LIMIT %(limit)s
"""

_SIZES: Final = """
    SELECT name,
           count(*) FILTER (WHERE is_now) AS rows,
           coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY size) FILTER (WHERE is_now), 0)
               AS p50,
           coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY size) FILTER (WHERE is_now), 0)
               AS p99,
           coalesce(max(size) FILTER (WHERE is_now), 0) AS largest,
           count(*) FILTER (WHERE is_now AND is_cut) AS cut,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY size) FILTER (WHERE NOT is_now)
               AS p50_before,
           percentile_disc(0.99) WITHIN GROUP (ORDER BY size) FILTER (WHERE NOT is_now)
               AS p99_before,
           max(size) FILTER (WHERE NOT is_now) AS largest_before,
           count(*) FILTER (WHERE NOT is_now AND is_cut) AS cut_before
      FROM (SELECT name, created_at >= %(middle)s AS is_now,
                   pg_catalog.octet_length(data::text) AS size,
                   pg_catalog.strpos(data::text, %(mark)s) > 0 AS is_cut
              FROM {events}
             WHERE created_at >= %(begin)s AND created_at < %(end)s) AS measured
     GROUP BY name ORDER BY p99 DESC, p99_before DESC NULLS LAST, name
"""
