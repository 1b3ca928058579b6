"""The doctor's look at a database: what is wrong with it, and what mends it. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import psycopg

from tenantry.database.connect import DeadlineConnection, DeadlineReached, connect
from tenantry.database.doctor.access import (
    check_functions,
    check_policies,
    check_privileges,
    check_row_security,
    check_rules_and_triggers,
    check_schema,
    check_views,
)
from tenantry.database.doctor.findings import (
    CODES,
    Code,
    Finding,
    Severity,
    advised,
    is_well,
    mended_by_command,
    mended_by_sql,
)
from tenantry.database.doctor.roles import (
    check_bindings,
    check_group_roles,
    check_logins,
    check_session,
    check_settings,
)
from tenantry.database.doctor.running import (
    check_books,
    check_dump,
    check_indexes,
    check_migrations,
    check_partitions,
    check_read_only,
    check_rejected,
    check_server,
    check_watermark,
)
from tenantry.database.doctor.survey import (
    Limits,
    Survey,
    Unchecked,
    read_session,
    survey,
)
from tenantry.database.installed import check_identifier

__all__ = [
    "CODES",
    "Code",
    "Finding",
    "Limits",
    "Severity",
    "advised",
    "examine",
    "is_well",
    "mended_by_command",
    "mended_by_sql",
]

Check = Callable[[Survey], Iterator[Finding]]

TIMEOUT: Final = 60.0
"""Seconds for all checks together."""

_BEGIN: Final = b"""
    BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL search_path = pg_catalog, pg_temp;
    SET LOCAL statement_timeout = '10s';
    SET LOCAL lock_timeout = '2s';
    SET LOCAL timezone = 'UTC';
    SET LOCAL datestyle = 'ISO'
"""

_COMPARING: Final[tuple[Check, ...]] = (check_policies, check_privileges, check_indexes)
"""They know the newest version of the schema only."""

_CHECKS: Final[tuple[Check, ...]] = (
    check_row_security,
    check_schema,
    check_views,
    check_rules_and_triggers,
    check_functions,
    check_group_roles,
    check_logins,
    check_session,
    check_bindings,
    check_settings,
    check_read_only,
    check_partitions,
    check_watermark,
    check_dump,
    check_books,
    check_rejected,
)


def examine(
    dsn: str,
    *,
    schema: str = "tenantry",
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
) -> tuple[list[Finding], str | None]:
    """Look at a database; gives what was found, and the type of its tenant ids, if it has any.

    Reads in transactions that are read-only, a minute long at most. A check that fails is a
    finding. ``clock`` is this machine's.

    Raises:
        DatabaseUnreachable: when no connection can be made.
        ConfigurationError: when ``dsn`` or ``schema`` cannot be read.
    """
    check_identifier(schema, "a schema")
    with connect(dsn, deadline=time.monotonic() + TIMEOUT) as connection:
        return _Examination(connection, schema, limits or Limits(), clock).run()


class _Examination:
    """One look, over one connection."""

    def __init__(
        self,
        connection: DeadlineConnection,
        schema: str,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._limits = limits
        self._clock = clock
        self._findings: list[Finding] = []

    def run(self) -> tuple[list[Finding], str | None]:
        found: list[Survey] = []
        self._attempt("the server", self._look_at_server)
        if not any(finding.code == "statement_pooling" for finding in self._findings):
            self._attempt("the catalogue", lambda: self._look_at_schema(found))
        for seen in found:
            self._check(seen)
        return self._findings, found[0].tenant_type if found else None

    def _check(self, seen: Survey) -> None:
        self._attempt("migrations", lambda: check_migrations(seen))
        behind = {"schema_behind", "schema_ahead"}
        is_latest = behind.isdisjoint(finding.code for finding in self._findings)
        for check in (*(_COMPARING if is_latest else ()), *_CHECKS):
            name = check.__name__.removeprefix("check_").replace("_", " ")
            self._attempt(name, lambda check=check: check(seen))  # type: ignore[misc]  # bound now

    def _look_at_server(self) -> Iterator[Finding]:
        before = self._clock()
        session = read_session(self._connection)
        middle = (before + self._clock()) / 2
        pid = self._connection.info.backend_pid
        yield from check_server(session, self._limits, pid, middle)

    def _look_at_schema(self, found: list[Survey]) -> Iterator[Finding]:
        seen = survey(self._connection, self._schema, self._limits)
        if seen is not None:
            found.append(seen)
            return
        yield mended_by_command(
            "schema_missing",
            self._schema,
            "there is no events table of Tenantry in it: events stay in the journals",
            *("tenantry", "migrate", "--schema", self._schema),
        )

    def _attempt(self, name: str, check: Callable[[], Iterator[Finding]]) -> None:
        """Run a check; what it cannot do is a finding, and the next one begins anew."""
        try:
            if self._connection.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
                self._connection.execute(_BEGIN)
            self._findings.extend(check())
        except Unchecked as error:
            self._findings.append(self._unchecked(name, str(error)))
        except (psycopg.Error, DeadlineReached) as error:
            self._findings.append(self._explain(name, error))
            if not self._connection.closed:
                self._connection.execute("ROLLBACK")

    def _explain(self, name: str, error: Exception) -> Finding:
        text = str(error).strip().partition("\n")[0]
        if "statement pooling" in text:  # PgBouncer's answer to BEGIN; it has no SQLSTATE for it
            return advised(
                "statement_pooling",
                "pooler",
                f"it refuses transactions ({text}): nothing can be stored exactly once",
                "Set pool_mode = transaction, or session, in the pooler",
            )
        return self._unchecked(name, text)

    def _unchecked(self, name: str, why: str) -> Finding:
        return advised(
            "unchecked",
            name,
            f"this was not looked at: {why}",
            "Run the doctor as a member of the admin role and of pg_read_all_stats",
        )
