"""Events in the caller's own transaction: over each kind of connection, and gone on rollback."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tenantry.exceptions import UnsupportedConnection
from tenantry.exporters.handover import insert_async, insert_sync
from tenantry.exporters.postgres import PostgresExporter
from tests.djangos import set_up_django
from tests.exporters.batches import make_batch, make_event, make_line
from tests.fix_postgres import Database

sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
django = pytest.importorskip("django", reason="Django is not installed")

TARGET = {"schema": "tenantry", "tenant_type": "uuid"}


def read_rows(database: Database) -> list[dict]:
    rows = database.execute(
        "SELECT to_jsonb(e) - '{recorded_at,transaction_id}'::text[] FROM tenantry.events AS e"
    )
    return [row for (row,) in rows]


def make_engine(dsn: str, create: Callable[..., Any] = sqlalchemy.create_engine) -> Any:
    parameters = conninfo_to_dict(dsn)
    url = sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=str(parameters["user"]),
        database=str(parameters["dbname"]),
        query={"host": str(parameters["host"])},
    )
    return create(url, poolclass=sqlalchemy.NullPool)  # nothing stays open behind a test


# Each gives a connection in a transaction, commits when its block ends well, else rolls back.


@contextmanager
def psycopg_connection(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn) as connection:
        yield connection


@contextmanager
def psycopg_cursor(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def psycopg_raw_cursors(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn, cursor_factory=psycopg.RawCursor) as connection:
        yield connection


@contextmanager
def sqlalchemy_session(dsn: str) -> Iterator[Any]:
    from sqlalchemy.orm import Session

    engine = make_engine(dsn)
    with Session(engine) as session, session.begin():
        yield session


@contextmanager
def sqlalchemy_scoped_session(dsn: str) -> Iterator[Any]:
    from sqlalchemy.orm import scoped_session, sessionmaker

    engine = make_engine(dsn)
    session = scoped_session(sessionmaker(engine))
    try:
        with session.begin():
            yield session
    finally:
        session.remove()


@contextmanager
def sqlalchemy_connection(dsn: str) -> Iterator[Any]:
    engine = make_engine(dsn)
    with engine.begin() as connection:
        yield connection


@contextmanager
def django_connection(dsn: str) -> Iterator[Any]:
    from django.db import connection, connections, transaction

    parameters = conninfo_to_dict(dsn)
    set_up_django()
    connections.close_all()
    connections["default"].settings_dict.update(
        NAME=parameters["dbname"], USER=parameters["user"], HOST=parameters["host"]
    )
    try:
        with transaction.atomic():
            yield connection
    finally:
        connections.close_all()


@contextmanager
def django_wrapper(dsn: str) -> Iterator[Any]:
    from django.db import connections

    with django_connection(dsn):
        yield connections["default"]


@contextmanager
def django_cursor(dsn: str) -> Iterator[Any]:
    with django_connection(dsn) as connection, connection.cursor() as cursor:
        yield cursor


Opener = Callable[[str], AbstractContextManager[Any]]
OPENERS: list[Opener] = [
    psycopg_connection,
    psycopg_cursor,
    psycopg_raw_cursors,
    sqlalchemy_session,
    sqlalchemy_scoped_session,
    sqlalchemy_connection,
    django_connection,
    django_wrapper,
    django_cursor,
]
each_opener = pytest.mark.parametrize("opened", OPENERS, ids=lambda opener: opener.__name__)


@each_opener
def test_event_is_committed_with_the_transaction(database: Database, opened: Opener):
    event = make_event(data={"text": "100% :colon ä 'quoted'"})
    with opened(database.writer) as conn:
        insert_sync(conn, json.dumps(event).encode(), **TARGET)
        assert read_rows(database) == []
    (row,) = read_rows(database)
    assert {name: row[name] for name in event} == event


@each_opener
def test_event_is_rolled_back_with_the_transaction(database: Database, opened: Opener):
    def write_and_fail() -> None:
        with opened(database.writer) as conn:
            insert_sync(conn, make_line(), **TARGET)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert read_rows(database) == []


def test_row_is_the_one_that_the_exporter_stores(database: Database):
    event = make_event(duration_ms=0.1, operation_id=make_event()["id"], phase="failed")
    del event["data"]
    line = json.dumps(event).encode()
    exporter = PostgresExporter(database.writer)
    exporter.export(make_batch([line]), time.monotonic() + 20)
    exporter.close()
    exported = read_rows(database)
    database.execute("DELETE FROM tenantry.events")
    with psycopg.connect(database.writer) as conn:
        insert_sync(conn, line, **TARGET)
    assert read_rows(database) == exported


def test_event_stored_before_does_no_harm(database: Database):
    line = make_line()
    with psycopg.connect(database.writer) as conn:
        insert_sync(conn, line, **TARGET)
        insert_sync(conn, line, **TARGET)
    assert len(read_rows(database)) == 1


def test_database_error_reaches_the_caller_and_ends_the_transaction(database: Database):
    with psycopg.connect(database.writer) as conn:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            insert_sync(conn, make_line(tenant_id="acme"), **TARGET)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR


def test_role_that_is_no_writer_cannot_write(database: Database):
    with (
        psycopg.connect(database.reader) as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        insert_sync(conn, make_line(), **TARGET)


# Asynchronous connections.


async def write_over_psycopg(dsn: str, line: bytes, *, fail: bool, cursor: bool = False) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await insert_async(conn.cursor() if cursor else conn, line, **TARGET)
        if fail:
            raise ZeroDivisionError


async def write_over_psycopg_cursor(dsn: str, line: bytes, *, fail: bool) -> None:
    await write_over_psycopg(dsn, line, fail=fail, cursor=True)


async def write_over_sqlalchemy_session(dsn: str, line: bytes, *, fail: bool) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = make_engine(dsn, create_async_engine)
    async with AsyncSession(engine) as session, session.begin():
        await insert_async(session, line, **TARGET)
        if fail:
            raise ZeroDivisionError


async def write_over_sqlalchemy_connection(dsn: str, line: bytes, *, fail: bool) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    async with make_engine(dsn, create_async_engine).begin() as connection:
        await insert_async(connection, line, **TARGET)
        if fail:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    "write",
    [
        write_over_psycopg,
        write_over_psycopg_cursor,
        write_over_sqlalchemy_session,
        write_over_sqlalchemy_connection,
    ],
    ids=lambda write: write.__name__.removeprefix("write_over_"),
)
def test_asynchronous_connection_commits_and_rolls_back(database: Database, write: Any):
    if "sqlalchemy" in write.__name__:
        pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio extension needs greenlet")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(write(database.writer, make_line(), fail=True))
    assert read_rows(database) == []
    asyncio.run(write(database.writer, make_line(), fail=False))
    assert len(read_rows(database)) == 1


# What is not supported.


def test_unsupported_object_is_named_with_what_is_supported():
    with pytest.raises(
        UnsupportedConnection, match=r"conn=builtins\.dict: supported are a psycopg"
    ):
        insert_sync({}, make_line(), **TARGET)
    with pytest.raises(TypeError, match=r"conn=builtins\.dict: supported are a psycopg Async"):
        asyncio.run(insert_async({}, make_line(), **TARGET))


def test_synchronous_connection_is_refused_by_the_asynchronous_function(database: Database):
    with (
        psycopg.connect(database.writer) as conn,
        pytest.raises(UnsupportedConnection, match=r"conn=psycopg\.Connection"),
    ):
        asyncio.run(insert_async(conn, make_line(), **TARGET))
