"""The PostgreSQL exporter: stores each record of a batch exactly once.

Owns the connection and the meaning of the database's errors; the transaction of a batch is in
`tenantry.exporters.transaction`. Knows nothing of files, threads or backoff.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, Literal, TypeVar, assert_never

import psycopg
from psycopg import sql

from tenantry.database.connect import (
    DeadlineConnection,
    DeadlineReached,
    connect,
    describe_destination,
    destination_fingerprint,
)
from tenantry.database.installed import (
    Installed,
    check_identifier,
    check_tenant_type,
    read_installed,
)
from tenantry.exceptions import (
    DatabaseError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMismatch,
    SchemaMissing,
)
from tenantry.exporters import Batch, Outcome, Retry
from tenantry.exporters.absentees import Absentees
from tenantry.exporters.handover import insert_async, insert_sync
from tenantry.exporters.sqlstates import judge
from tenantry.exporters.transaction import BatchTransaction, primary_message

_Result = TypeVar("_Result")


class PostgresExporter:
    """Stores batches in ``schema`` of a PostgreSQL database, exactly once.

    One connection, opened by the first ``export`` and again after each failure. Needs no more than
    the writer role, and may go through PgBouncer in transaction mode. Not thread-safe: one thread
    drives it. After a fork, the child calls `abandon` before anything else.

    ``tenant_type`` must be the one that the schema was made with; if it is not, batches are held.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "tenantry",
        tenant_type: str = "uuid",
        connect_timeout: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep the settings; connect later. ``connect_timeout`` is in seconds.

        ``monotonic`` gives the seconds by which absent tenants are waited for.
        """
        check_identifier(schema, "a schema")
        self.destination: Final = describe_destination(dsn)
        self.fingerprint: Final = destination_fingerprint(dsn, schema)
        self.schema: Final = schema
        self.tenant_type: Final = check_tenant_type(tenant_type)
        self._dsn = dsn
        self._connect_timeout = connect_timeout
        self._connection: DeadlineConnection | None = None
        self._transaction: BatchTransaction | None = None
        self._absentees = Absentees(monotonic)

    def export(self, batch: Batch, deadline: float) -> Outcome:
        """Store ``batch`` in one transaction with its journal's cursor, or say why not.

        Rows that the database refuses go to ``rejected_events`` in the same transaction. When the
        cursor is elsewhere nothing is written, and the outcome has ``resume``, with what the
        database counts as stored and rejected up to there.
        """
        try:
            return self._attempt(deadline, lambda transaction: transaction.store(batch))
        except _Trouble as trouble:
            return Outcome(
                retry=Retry(trouble.kind, trouble.reason, trouble.remedy, trouble.smaller)
            )

    def finish(self, journal_id: str, deadline: float) -> bool:
        """Note in its cursor that a journal has ended for good; False where that cannot be done.

        Opens no connection for it, raises nothing, and does nothing on a schema that is older.
        """
        if self._connection is None or self._transaction is None or self._connection.closed:
            return False
        try:
            self._connection.deadline = deadline
            self._transaction.end_journal(journal_id)
        except (psycopg.Error, DeadlineReached):
            self.close()
            return False
        return True

    def check(self, deadline: float) -> None:
        """Raise unless a batch could be stored now; ``deadline`` as in ``export``.

        Raises:
            DatabaseUnreachable: when no connection can be made, or it cannot be written to.
            SchemaMissing: when the migrations have not run.
            SchemaMismatch: when the schema has another tenant type.
            PrivilegeMissing: when the connected role is not a writer.
        """
        try:
            self._attempt(deadline, lambda transaction: transaction.rehearse())
        except _Trouble as trouble:
            # What connect() says ends in a remedy of its own.
            own = trouble.reason.endswith(".")
            remedy = trouble.remedy or ("" if own else "Check the server.")
            text = f"{trouble.reason.rstrip('.')}. {remedy}".rstrip()
            raise trouble.error(text) from trouble.__cause__

    def insert(self, conn: object, event_json: bytes) -> None:
        """Write one event into the caller's own transaction; see `handover.insert_sync`."""
        insert_sync(conn, event_json, schema=self.schema, tenant_type=self.tenant_type)

    async def ainsert(self, conn: object, event_json: bytes) -> None:
        """Write one event into the caller's own transaction; see `handover.insert_async`."""
        await insert_async(conn, event_json, schema=self.schema, tenant_type=self.tenant_type)

    def close(self) -> None:
        """Close the connection; the next ``export`` opens another."""
        connection, self._connection, self._transaction = self._connection, None, None
        if connection is not None:
            connection.close()

    def abandon(self) -> None:
        """Forget the connection in a forked child, and leave the parent's untouched.

        Closes the inherited descriptor only: the usual goodbye would end the parent's session.
        psycopg closes no connection that another process opened.
        """
        connection, self._connection, self._transaction = self._connection, None, None
        if connection is not None and not connection.closed:
            os.close(connection.fileno())

    def _attempt(self, deadline: float, action: Callable[[BatchTransaction], _Result]) -> _Result:
        """Run ``action``; after any failure the next attempt starts with a new connection."""
        try:
            return action(self._open(deadline))
        except _Trouble:
            self.close()
            raise
        except DeadlineReached as error:
            self.close()
            reason = f"{self.destination} did not answer in time"
            raise _Trouble("backoff", DatabaseUnreachable, reason, smaller=True) from error
        except DatabaseUnreachable as error:
            self.close()
            raise _Trouble("backoff", DatabaseUnreachable, str(error)) from error
        except psycopg.Error as error:
            trouble = self._diagnose(error)
            self.close()
            raise trouble from error

    def _open(self, deadline: float) -> BatchTransaction:
        if time.monotonic() >= deadline:
            raise DeadlineReached
        if self._connection is None or self._transaction is None or self._connection.closed:
            self._connection = connect(
                self._dsn, connect_timeout=self._connect_timeout, deadline=deadline
            )
            installed = self._read_installed(self._connection)
            self._transaction = BatchTransaction(
                self._connection, self.schema, installed, self._absentees
            )
        self._connection.deadline = deadline
        return self._transaction

    def _read_installed(self, connection: DeadlineConnection) -> Installed:
        installed = read_installed(connection, self.schema)
        if installed is None:
            reason = f"{self.destination} has no Tenantry tables in the schema {self.schema!r}"
            raise _Trouble("hold", SchemaMissing, reason, self._migrate_command())
        if installed.tenant_type != self.tenant_type:
            raise _Trouble(
                "hold",
                SchemaMismatch,
                f"The schema {self.schema!r} of {self.destination} has tenant ids of type "
                f"{installed.tenant_type}, and {self.tenant_type} is configured",
                f"Configure tenant_type={installed.tenant_type!r}, or another schema.",
            )
        if not installed.version or not installed.is_writer:
            raise self._privilege_trouble(installed, "It is not a writer")
        return installed

    def _diagnose(self, error: psycopg.Error) -> _Trouble:
        verdict, message = judge(error), primary_message(error)
        if verdict.error is PrivilegeMissing:
            return self._diagnose_privilege(error)
        reason = f"{self.destination} answered {error.sqlstate}: {message}"
        if error.sqlstate is None:
            is_lost = verdict.kind == "backoff"
            what = f"Connection to {self.destination} lost" if is_lost else "A batch cannot be sent"
            reason = f"{what}: {message}"
        remedy = verdict.remedy.format(
            schema=sql.Identifier(self.schema).as_string(None),
            migrate=self._migrate_command(),
            partition=self._default_partition_command(),
        )
        match verdict.kind:
            case "backoff":
                return _Trouble("backoff", verdict.error, reason, remedy, smaller=verdict.smaller)
            case "hold" | "row":  # a row that has to be written, in another table than events
                return _Trouble("hold", verdict.error, reason, remedy)
            case _:
                assert_never(verdict.kind)

    def _diagnose_privilege(self, error: psycopg.Error) -> _Trouble:
        """Ask again what is granted: it was all there when the connection was opened."""
        installed = None
        try:
            if self._connection is not None:
                self._connection.execute("ROLLBACK")
                installed = read_installed(self._connection, self.schema)
        except (psycopg.Error, DeadlineReached):
            installed = None
        if installed is None:
            reason = f"{self.destination} answered {error.sqlstate}: {primary_message(error)}"
            return _Trouble("hold", PrivilegeMissing, reason, self._migrate_command())
        return self._privilege_trouble(installed, primary_message(error))

    def _privilege_trouble(self, installed: Installed, why: str) -> _Trouble:
        names = {
            "schema": sql.Identifier(self.schema),
            "writer": sql.Identifier(installed.roles.writer),
            "user": sql.Identifier(installed.user),
        }
        grants = _GRANT_MEMBERSHIP if not installed.is_writer else _GRANT_TABLES
        return _Trouble(
            "hold",
            PrivilegeMissing,
            f"{self.destination} does not let {installed.user!r} write events: {why}",
            "Run as the owner of the schema: " + sql.SQL(grants).format(**names).as_string(None),
        )

    def _migrate_command(self) -> str:
        return f"Run: tenantry migrate --schema {self.schema} --tenant-type {self.tenant_type}"

    def _default_partition_command(self) -> str:
        return "Run as the owner of the schema: " + sql.SQL(_DEFAULT_PARTITION).format(
            events=sql.Identifier(self.schema, "events"),
            partition=sql.Identifier(self.schema, "events_default"),
        ).as_string(None)


_GRANT_MEMBERSHIP: Final = "GRANT {writer} TO {user};"
_GRANT_TABLES: Final = (
    "GRANT USAGE ON SCHEMA {schema} TO {writer}; "
    "GRANT SELECT ON {schema}.migrations TO {writer}; "
    "GRANT SELECT, INSERT, UPDATE ON {schema}.journal_cursors TO {writer}; "
    "GRANT INSERT ON {schema}.events, {schema}.rejected_events, {schema}.event_tallies "
    "TO {writer};"
)
_DEFAULT_PARTITION: Final = (
    "CREATE TABLE {partition} PARTITION OF {events} DEFAULT; "
    "ALTER TABLE {partition} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
)


class _Trouble(Exception):
    """Why nothing was stored, and which error says so to whoever asked directly."""

    def __init__(
        self,
        kind: Literal["backoff", "hold"],
        error: type[DatabaseError],
        reason: str,
        remedy: str = "",
        *,
        smaller: bool = False,
    ) -> None:
        self.kind: Final[Literal["backoff", "hold"]] = kind
        self.error: Final = error
        self.reason: Final = reason
        self.remedy: Final = remedy
        self.smaller: Final = smaller
        super().__init__(reason)
