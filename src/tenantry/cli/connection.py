"""Where a command reads: the database that ``--dsn`` names, and what of Tenantry is in it."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from tenantry.cli import interrupts
from tenantry.database import embedded
from tenantry.database.connect import (
    DeadlineConnection,
    DeadlineReached,
    connect,
    describe_destination,
)
from tenantry.database.installed import Installed, check_identifier, read_installed
from tenantry.exceptions import (
    ConfigurationError,
    DatabaseError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMissing,
)

EMBEDDED: Final = "embedded"

ANSWER_TIMEOUT: Final = 60.0
"""Seconds that a command waits for the answer to one question."""


@contextmanager
def resolved(dsn: str | None) -> Generator[str]:
    """Give a libpq DSN; ``embedded`` starts the embedded server for the length of the block."""
    if not dsn:
        raise ConfigurationError(
            "no database is named: pass --dsn, or set TENANTRY_DSN. With `embedded` it is a "
            "PostgreSQL of Tenantry's own, to try things out"
        )
    if dsn != EMBEDDED:
        yield dsn
        return
    with ExitStack() as stack:
        with interrupts.held():
            server = embedded.start()
            stack.callback(server.stop)
        try:
            yield server.dsn
        finally:
            with interrupts.held():
                stack.close()


@dataclass(frozen=True, slots=True)
class Source:
    """An open connection, and what is installed behind it."""

    connection: DeadlineConnection
    installed: Installed
    schema: str

    def allow(self, seconds: float = ANSWER_TIMEOUT) -> None:
        """Give the next statements so long to be answered."""
        self.connection.deadline = time.monotonic() + seconds

    def sees_all_tenants(self) -> bool:
        """Say whether row-level security hides no tenant from the connected role."""
        row = self.connection.execute(_SEES_ALL, [self.installed.roles.admin]).fetchone()
        return row is not None and bool(row[0])

    def require(self, *roles: str) -> None:
        """Raise ``PrivilegeMissing`` unless the connected role has what one of ``roles`` has.

        Asked beforehand: row-level security does not refuse, it hides.
        """
        row = self.connection.execute(_HAS_ROLE, [list(roles)]).fetchone()
        if row is None or not row[0]:
            grant = sql.SQL("GRANT {} TO {};").format(
                sql.Identifier(roles[0]), sql.Identifier(self.installed.user)
            )
            raise PrivilegeMissing(
                f"{self.installed.user!r} may not do this: it is no member of {roles[0]}. Run as a "
                f"user who may grant it: {grant.as_string(None)}"
            )


_HAS_ROLE: Final = (
    "SELECT bool_or(pg_has_role(role, 'USAGE')) FROM pg_catalog.unnest(%s::name[]) AS role"
)
_SEES_ALL: Final = """
    SELECT rolsuper OR rolbypassrls OR pg_has_role(%s, 'USAGE')
      FROM pg_catalog.pg_roles WHERE rolname = current_user
"""


@contextmanager
def opened(dsn: str, schema: str) -> Generator[Source]:
    """Connect, and see that Tenantry is installed.

    Raises ``DatabaseUnreachable``, ``SchemaMissing``, ``PrivilegeMissing`` and ``DatabaseError``:
    errors of statements in the block as well.
    """
    check_identifier(schema, "a schema")
    destination = describe_destination(dsn)
    with connect(dsn, deadline=time.monotonic() + ANSWER_TIMEOUT) as connection:
        try:
            installed = read_installed(connection, schema)
            if installed is None:
                raise _schema_missing(destination, schema)
            source = Source(connection, installed, schema)
            source.allow()
            yield source
        except psycopg.errors.InsufficientPrivilege as error:
            raise PrivilegeMissing(
                f"{destination} does not let {connection.info.user!r} read this: "
                f"{error.diag.message_primary}. Connect as a member of tenantry_admin, or of the "
                "role that takes its place"
            ) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise _schema_missing(destination, schema) from error
        except (psycopg.OperationalError, DeadlineReached) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise DatabaseUnreachable(
                f"the connection to {destination} was lost: {first_line}"
            ) from error
        except psycopg.Error as error:
            raise DatabaseError(
                f"{destination} answered {error.sqlstate}: {error.diag.message_primary}"
            ) from error


def _schema_missing(destination: str, schema: str) -> SchemaMissing:
    return SchemaMissing(
        f"{destination} has no complete Tenantry tables in the schema {schema!r}. "
        f"Run: tenantry migrate --schema {schema}"
    )
