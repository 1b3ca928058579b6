"""Migrations: applies those that a database lacks, each in a transaction of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import psycopg
from psycopg import sql as compose

from tenantry.database.connect import (
    DeadlineConnection,
    DeadlineReached,
    connect,
    describe_destination,
)
from tenantry.database.installed import (
    Installed,
    Roles,
    check_identifier,
    read_installed,
)
from tenantry.database.scripts import (
    LIMITED,
    Migration,
    fill,
    fill_in,
    find_migrations,
    scripts,
    select_migrations,
    sql,
    version_row,
)
from tenantry.database.short_locks import POLL, let_others_pass
from tenantry.exceptions import (
    DatabaseError,
    DatabaseUnreachable,
    PrivilegeMissing,
    SchemaMismatch,
)

__all__ = ["Applied", "Status", "find_migrations", "migrate", "scripts", "sql", "status"]

_TABLES: Final = (
    "events",
    "rejected_events",
    "journal_cursors",
    "event_tallies",
    "ledger",
    "tenant_roles",
    "adoptions",
    "migrations",
)

_LOCK_KEY: Final = 0x74656E616E747279
"""The bytes of "tenantry", as the key of the advisory lock that one migration at a time holds."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration that ran; ``duration_ms`` is the server's."""

    version: int
    name: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Status:
    """A database, compared with the migrations of this package."""

    version: int
    """The highest version that ran; 0 for none."""
    latest: int
    """The highest version of this package."""
    pending: tuple[str, ...]
    """Names of the migrations that did not run, with their numbers."""
    tenant_type: str | None
    """None when nothing is installed."""

    @property
    def is_ahead(self) -> bool:
        """Whether a newer Tenantry migrated it; this one writes what it knows."""
        return self.version > self.latest


def migrate(
    dsn: str,
    *,
    schema: str = "tenantry",
    tenant_type: str = "uuid",
    roles: Roles | None = None,
    to_version: int | None = None,
    on_progress: Callable[[Applied], None] | None = None,
    timeout: float = 60.0,
) -> list[Applied]:
    """Apply the migrations that the database lacks; return those that this call applied.

    Each runs in a transaction of its own. Any number of processes may call this at once: one
    works, the others wait for it. A database that is ahead of this package is left as it is.

    Args:
        dsn: of a user who may do what the headers of the files say. A pooler is fine.
        schema: where the tables go.
        tenant_type: uuid, bigint or text; chosen with the first migration, for good.
        roles: names of the group roles; None for ``tenantry_writer`` and so on.
        to_version: stop after this one; None for the latest.
        on_progress: called after each migration.
        timeout: seconds in all, waiting for other migrations and for locks included.

    Raises:
        DatabaseUnreachable: no connection, or ``timeout`` passed.
        SchemaMismatch: another tenant type or other roles are installed, a migration that ran
            has changed since, or a table of that name is not Tenantry's.
        PrivilegeMissing: with what to grant.
        ConfigurationError: for a version that there is not, or a name that no script should carry.
    """
    roles = roles or Roles()
    names = fill_in(schema, tenant_type, roles)
    deadline = time.monotonic() + timeout
    applied: list[Applied] = []
    with connect(dsn, deadline=deadline) as connection:
        runner = _Runner(
            connection,
            select_migrations(0, to_version),
            schema=schema,
            tenant_type=tenant_type,
            roles=roles,
            destination=describe_destination(dsn),
        )
        while (step := runner.step(names)) is not None:
            applied.append(step)
            if on_progress is not None:
                on_progress(step)
    return applied


def status(dsn: str, *, schema: str = "tenantry") -> Status:
    """Compare the database with the migrations of this package; changes nothing.

    Raises:
        DatabaseUnreachable: when no connection can be made.
    """
    check_identifier(schema, "a schema")
    with connect(dsn) as connection:
        installed = read_installed(connection, schema)
    migrations = find_migrations()
    version = installed.version if installed else 0
    return Status(
        version=version,
        latest=migrations[-1].version,
        pending=tuple(each.title for each in migrations if each.version > version),
        tenant_type=installed.tenant_type if installed else None,
    )


class _Runner:
    """Applies one migration at a time over one connection."""

    def __init__(
        self,
        connection: DeadlineConnection,
        migrations: Sequence[Migration],
        *,
        schema: str,
        tenant_type: str,
        roles: Roles,
        destination: str,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._tenant_type = tenant_type
        self._roles = roles
        self._destination = destination
        self._migrations = migrations

    def step(self, names: dict[str, str]) -> Applied | None:
        """Apply the first migration that is pending; None when there is none."""
        while True:
            try:
                if self._begin():
                    return self._apply_next(names)
            except psycopg.errors.LockNotAvailable:
                pass
            except psycopg.errors.InsufficientPrivilege as error:
                raise self._privilege_missing(error) from error
            except (psycopg.OperationalError, DeadlineReached) as error:
                raise DatabaseUnreachable(
                    f"Migrating {self._destination} was cut short: {error}. A migration that did "
                    "not commit is rolled back. Check the server, then run it again."
                ) from error
            except psycopg.Error as error:
                raise DatabaseError(
                    f"Migrating {self._destination} failed with {error.sqlstate}: "
                    f"{error.diag.message_primary}. The migration that ran was rolled back."
                ) from error
            if time.monotonic() + 2 * POLL >= self._connection.deadline:
                raise DatabaseUnreachable(
                    f"Migrating {self._destination} had to wait for a lock until its time was up. "
                    "Look in pg_stat_activity for another migration or a long transaction, then "
                    "run it again."
                )
            self._connection.execute("ROLLBACK")
            let_others_pass()

    def _begin(self) -> bool:
        # A waiter in pg_advisory_lock would deadlock with CREATE INDEX CONCURRENTLY, and a
        # session's lock would be shared by the clients of a pooler.
        self._connection.execute(f"BEGIN; {LIMITED}".encode())
        row = self._connection.execute(
            "SELECT pg_try_advisory_xact_lock(%s)", [_LOCK_KEY]
        ).fetchone()
        return row is not None and row[0]

    def _apply_next(self, names: dict[str, str]) -> Applied | None:
        ran = self._read_ran()
        self._verify(ran)
        migration = next(
            (each for each in self._migrations if each.version > max(ran, default=0)), None
        )
        if migration is None:
            self._connection.execute("ROLLBACK")
            return None
        # No parameters, so the text may hold many statements, and % means itself.
        self._connection.execute(fill(migration.text, names).encode())
        row = self._connection.execute(
            f"{version_row(migration, self._schema)} RETURNING duration_ms".encode()
        ).fetchone()
        self._connection.execute("COMMIT")
        return Applied(migration.version, migration.name, row[0] if row else 0.0)

    def _read_ran(self) -> dict[int, str]:
        """Return the checksums of the migrations that ran, by version."""
        columns = self._read_columns()
        if "sha256" in columns.get("migrations", ()):
            query = compose.SQL("SELECT version, sha256 FROM {}.migrations")
            table = compose.Identifier(self._schema)
            return dict(self._connection.execute(query.format(table)).fetchall())
        if columns:
            raise SchemaMismatch(
                f"The schema {self._schema!r} of {self._destination} has a table "
                f"{min(columns)!r} that Tenantry did not make; it was left untouched. "
                "Choose another schema with --schema; into that one, --adopt takes over the rows "
                "of an older table of events."
            )
        return {}

    def _read_columns(self) -> dict[str, list[str]]:
        return dict(
            self._connection.execute(
                """
                SELECT relname::text, coalesce(array_agg(attname::text)
                       FILTER (WHERE attname IS NOT NULL), '{}')
                  FROM pg_class
                  JOIN pg_namespace ON pg_namespace.oid = relnamespace
                  LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
                 WHERE nspname = %s AND relname = ANY(%s)
                 GROUP BY relname
                """,
                [self._schema, list(_TABLES)],
            ).fetchall()
        )

    def _verify(self, ran: dict[int, str]) -> None:
        for migration in self._migrations:
            if ran.get(migration.version, migration.sha256) != migration.sha256:
                raise SchemaMismatch(
                    f"Migration {migration.title} was applied to {self._destination} with "
                    f"another content than this package has ({ran[migration.version][:12]}…, not "
                    f"{migration.sha256[:12]}…). A released migration never changes: install the "
                    "version of Tenantry that applied it, or a later one."
                )
        installed = read_installed(self._connection, self._schema)
        if installed is not None:
            self._verify_installed(installed)

    def _verify_installed(self, installed: Installed) -> None:
        if installed.tenant_type != self._tenant_type:
            raise SchemaMismatch(
                f"The schema {self._schema!r} of {self._destination} has tenant ids of type "
                f"{installed.tenant_type}, and {self._tenant_type} was asked for. The type is "
                f"chosen once: use --tenant-type {installed.tenant_type}, or another --schema."
            )
        if installed.lacks(self._roles):
            raise SchemaMismatch(
                f"The schema {self._schema!r} of {self._destination} has the roles "
                f"{_list_names(installed.roles)}, and {_list_names(self._roles)} were asked for. "
                "Ask for those that are installed."
            )

    def _privilege_missing(self, error: psycopg.Error) -> PrivilegeMissing:
        info = self._connection.info
        roles = [compose.Identifier(name) for name in asdict(self._roles).values()]
        remedy = compose.SQL(" ").join(
            [
                *(compose.SQL("CREATE ROLE {} NOLOGIN;").format(role) for role in roles),
                compose.SQL("GRANT {} TO {};").format(
                    compose.SQL(", ").join(roles), compose.Identifier(info.user)
                ),
                compose.SQL("GRANT CREATE ON DATABASE {} TO {};").format(
                    compose.Identifier(info.dbname), compose.Identifier(info.user)
                ),
            ]
        )
        return PrivilegeMissing(
            f"{info.user!r} may not migrate {self._destination}: {error.diag.message_primary}. "
            "Migrate as a user with CREATEROLE who may create schemas in the database, or let an "
            f"administrator run what is not there yet of: {remedy.as_string(None)}"
        )


def _list_names(roles: Roles) -> str:
    return ", ".join(asdict(roles).values())
