"""Events written into the caller's own transaction, over the caller's own connection.

Imports none of the libraries whose connections it takes. Adds no savepoint, commits nothing, and
lets the database's errors pass: to the caller they are errors of that transaction.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any, Final

import psycopg

from tenantry.exceptions import UnsupportedConnection
from tenantry.exporters.statements import TEXT_DOCUMENT, insert_events


def insert_sync(conn: Any, event_json: bytes, *, schema: str, tenant_type: str) -> None:
    """Insert one event over ``conn``, in whatever transaction it is in.

    Args:
        conn: a connection or cursor of psycopg or psycopg2, a session or connection of SQLAlchemy,
            or Django's ``connection`` or a cursor of it. Its role must be a writer.
        event_json: a JSON object, as in a batch; the row is the one that a batch would store.
        schema: the schema's name.
        tenant_type: the type that the schema was made with.

    Raises:
        UnsupportedConnection: for anything else, asynchronous connections included.
    """
    statement, encoded = _statement(schema, tenant_type)
    document = event_json.decode()
    match _find_kind(conn.__class__):
        case "psycopg.Connection":
            psycopg.Cursor(conn).execute(encoded, [document])
        case "psycopg.Cursor":
            psycopg.Cursor(conn.connection).execute(encoded, [document])
        case "sqlalchemy.Connection":
            conn.execute(_sqlalchemy_text(statement), {"document": document})
        case "sqlalchemy.Session" | "sqlalchemy.scoped_session":
            conn.connection().execute(_sqlalchemy_text(statement), {"document": document})
        case "psycopg2.connection" | "django.BaseDatabaseWrapper" | "django.ConnectionProxy":
            with conn.cursor() as cursor:
                cursor.execute(statement, [document])
        case "psycopg2.cursor" | "django.CursorWrapper":
            conn.execute(statement, [document])
        case _:
            raise _unsupported(conn, _SYNC)


async def insert_async(conn: Any, event_json: bytes, *, schema: str, tenant_type: str) -> None:
    """Insert one event over an asynchronous ``conn``; the counterpart of `insert_sync`.

    Takes asynchronous connections and cursors of psycopg, and sessions and connections of
    SQLAlchemy's asyncio extension.

    Raises:
        UnsupportedConnection: for anything else.
    """
    statement, encoded = _statement(schema, tenant_type)
    document = event_json.decode()
    match _find_kind(conn.__class__):
        case "psycopg.AsyncConnection":
            await psycopg.AsyncCursor(conn).execute(encoded, [document])
        case "psycopg.AsyncCursor":
            await psycopg.AsyncCursor(conn.connection).execute(encoded, [document])
        case "sqlalchemy.AsyncConnection":
            await conn.execute(_sqlalchemy_text(statement), {"document": document})
        case "sqlalchemy.AsyncSession" | "sqlalchemy.async_scoped_session":
            connection = await conn.connection()
            await connection.execute(_sqlalchemy_text(statement), {"document": document})
        case _:
            raise _unsupported(conn, _ASYNC)


_SYNC: Final = (
    "a psycopg or psycopg2 connection or cursor, a SQLAlchemy Session or Connection, and Django's "
    "connection or cursor"
)
_ASYNC: Final = (
    "a psycopg AsyncConnection or AsyncCursor, and a SQLAlchemy AsyncSession or AsyncConnection"
)


@lru_cache
def _statement(schema: str, tenant_type: str) -> tuple[str, bytes]:
    statement = insert_events(schema, tenant_type, TEXT_DOCUMENT, version=None)
    return statement, statement.encode()


# Of conn.__class__ and not of type(conn): an instrumented connection may be a transparent proxy.
@lru_cache
def _find_kind(cls: type) -> str:
    """Name the library and the class that it is or inherits from."""
    for ancestor in cls.__mro__:
        kind = f"{ancestor.__module__.partition('.')[0]}.{ancestor.__name__}"
        if kind in _KINDS:
            return kind
    return ""


_KINDS: Final = frozenset(
    {
        *("psycopg.Connection", "psycopg.Cursor", "psycopg.AsyncConnection", "psycopg.AsyncCursor"),
        *("psycopg2.connection", "psycopg2.cursor"),
        *("sqlalchemy.Connection", "sqlalchemy.Session", "sqlalchemy.scoped_session"),
        *("sqlalchemy.AsyncConnection", "sqlalchemy.AsyncSession"),
        "sqlalchemy.async_scoped_session",
        *("django.BaseDatabaseWrapper", "django.ConnectionProxy", "django.CursorWrapper"),
    }
)


def _sqlalchemy_text(statement: str) -> Any:
    # An optional dependency; who hands in one of its connections has imported it.
    return sys.modules["sqlalchemy"].text(statement.replace("%s", ":document"))


def _unsupported(conn: object, supported: str) -> UnsupportedConnection:
    kind = type(conn)
    return UnsupportedConnection(
        f"Cannot write an event over conn={kind.__module__}.{kind.__qualname__}: supported are "
        f"{supported}."
    )
