"""The database: its tables, and a pool of connections."""

from pathlib import Path
from typing import Any

import psycopg
from fastapi import Request
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from tenantry.database.migrate import migrate

Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]

_SCHEMA = Path(__file__).with_name("schema.sql")


def prepare(dsn: str, login: str | None = None) -> None:
    """Make what is missing: Tenantry's tables and roles, and the help desk's tables.

    ``login`` is the role that the application connects as. It may change the help desk's tables,
    record events, and read those of one tenant at a time; it may neither change nor delete events.
    """
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(20270114)")  # one at a time
        connection.execute(_SCHEMA.read_bytes())
        if login is not None:
            _allow(connection, login)


def _allow(connection: psycopg.Connection, login: str) -> None:
    known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [login]).fetchone()
    if known is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(login)))
    for grant in (
        "GRANT USAGE ON SCHEMA helpdesk TO {}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA helpdesk TO {}",
        "GRANT tenantry_writer, tenantry_reader TO {}",
    ):
        connection.execute(sql.SQL(grant).format(sql.Identifier(login)))


def make_pool(dsn: str, size: int) -> Pool:
    """Make a pool, to be opened; each ``async with pool.connection()`` is one transaction."""
    options: dict[str, Any] = {"row_factory": dict_row, "application_name": "helpdesk"}
    return AsyncConnectionPool(
        dsn,
        kwargs=options,
        min_size=1,
        max_size=size,
        open=False,
        timeout=10,
        check=AsyncConnectionPool.check_connection,  # a server that was restarted costs no request
    )


def pool_of(request: Request) -> Pool:
    """Give the application's pool."""
    pool: Pool = request.app.state.pool
    return pool
