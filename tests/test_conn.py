"""``conn=``: events in the caller's own transaction, in a real PostgreSQL."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
import sqlalchemy
from psycopg import errors
from sqlalchemy.orm import Session

from tenantry import Event, Pipeline, alog_event, emits, log_event, tenant
from tenantry.exceptions import UnsupportedConnection

ACME = "018f6f0e-0000-7000-8000-00000000000a"


class SaveStarted(Event):
    item: str


class SaveCompleted(Event):
    item: str


class SaveFailed(Event):
    item: str
    error_code: str


@pytest.fixture
def pipeline(database18):
    pipeline = Pipeline(
        dsn=database18.writer, taxonomy=[SaveStarted, SaveCompleted, SaveFailed], ship_interval=0.01
    )
    with pipeline, tenant(ACME):
        yield pipeline
    pipeline.shutdown()


@pytest.fixture
def conn(database18):
    with psycopg.connect(database18.writer) as connection:
        yield connection


def stored(database, pipeline):
    """Tell what the table holds once everything is shipped, in order of emission."""
    assert pipeline.flush()
    return database.execute(
        "SELECT name, phase, error_code FROM tenantry.events ORDER BY operation_id, id"
    )


STARTED = ("save_started", "started", None)
COMPLETED = ("save_completed", "completed", None)


@emits("save", conn="conn")
def save(item, conn, statement="SELECT 1"):
    return conn.execute(statement)


def test_completed_event_commits_with_the_transaction(database18, pipeline, conn):
    save("i", conn)
    assert stored(database18, pipeline) == [STARTED]
    conn.commit()
    assert stored(database18, pipeline) == [STARTED, COMPLETED]


def test_rollback_takes_only_the_completed_event_back(database18, pipeline, conn):
    save("i", conn)
    conn.rollback()
    assert stored(database18, pipeline) == [STARTED]
    stats = pipeline.stats()
    assert (stats.emitted, stats.accepted, stats.handed) == (2, 1, 1)


def test_failing_statement_propagates_and_is_the_failure(database18, pipeline, conn):
    with pytest.raises(errors.DivisionByZero):
        save("i", conn, statement="SELECT 1/0")
    conn.rollback()
    assert stored(database18, pipeline) == [STARTED, ("save_failed", "failed", "22012")]
    assert pipeline.stats().handed == 0


def test_event_that_cannot_be_inserted_fails_the_operation(database18, pipeline, conn):
    @emits("save", conn="conn")
    def swallow(item, conn):
        with pytest.raises(errors.DivisionByZero):
            conn.execute("SELECT 1/0")

    with pytest.raises(errors.InFailedSqlTransaction):
        swallow("i", conn)
    conn.rollback()
    assert stored(database18, pipeline) == [STARTED, ("save_failed", "failed", "25P02")]
    stats = pipeline.stats()
    assert stats.emitted == stats.accepted + stats.handed + sum(stats.dropped.values())


def test_block_joins_the_transaction(database18, pipeline, conn):
    with emits("save", item="i", conn=conn) as operation:
        pass
    assert stored(database18, pipeline) == [STARTED]
    conn.commit()
    rows = database18.execute("SELECT DISTINCT operation_id::text, data FROM tenantry.events")
    assert rows == [(operation.id, {"item": "i"})]


def test_asynchronous_connection_is_joined_by_coroutine_functions(database18, pipeline):
    @emits("save", conn="conn")
    async def save_async(item, conn):
        await conn.execute("SELECT 1")

    async def main():
        async with await psycopg.AsyncConnection.connect(database18.writer) as conn:
            await save_async("i", conn)
            await conn.rollback()
            await save_async("i", conn)
            async with emits("save", item="i", conn=conn):
                pass
            assert await alog_event("save_completed", item="i", conn=conn)

    asyncio.run(main())
    names = [name for name, _, _ in stored(database18, pipeline)]
    assert sorted(names) == ["save_completed"] * 3 + ["save_started"] * 3
    assert pipeline.stats().handed == 4


def test_failed_asynchronous_hand_over_is_the_failure(database18, pipeline):
    async def main():
        async with await psycopg.AsyncConnection.connect(database18.writer) as conn:
            with pytest.raises(errors.InFailedSqlTransaction):  # noqa: PT012
                async with emits("save", item="i", conn=conn):
                    with pytest.raises(errors.DivisionByZero):
                        await conn.execute("SELECT 1/0")
            await conn.rollback()

    asyncio.run(main())
    assert stored(database18, pipeline) == [STARTED, ("save_failed", "failed", "25P02")]


def test_sqlalchemy_session_is_joined(database18, pipeline):
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(database18.writer)
    )
    with Session(engine) as session:
        with emits("save", item="i", conn=session):
            session.execute(sqlalchemy.text("SELECT 1"))
        session.rollback()
        with emits("save", item="i", conn=session):
            pass
        session.commit()
    engine.dispose()
    names = [name for name, _, _ in stored(database18, pipeline)]
    assert sorted(names) == ["save_completed", "save_started", "save_started"]


def test_fact_joins_the_transaction(database18, pipeline, conn):
    log_event("save_completed", item="kept", conn=conn)
    conn.commit()
    log_event("save_completed", item="taken back", conn=conn)
    conn.rollback()
    assert stored(database18, pipeline) == [("save_completed", None, None)]


def test_fact_inside_a_failed_transaction_propagates_the_databases_error(pipeline, conn):
    with pytest.raises(errors.DivisionByZero):
        conn.execute("SELECT 1/0")
    with pytest.raises(errors.InFailedSqlTransaction):
        log_event("save_completed", item="i", conn=conn)


def test_what_is_no_connection_is_told(pipeline):
    with pytest.raises(UnsupportedConnection, match=r"Cannot write an event over conn=builtins.ob"):
        log_event("save_completed", item="i", conn=object())


def test_argument_that_is_none_is_no_transaction(database18, pipeline):
    @emits("save", conn="conn")
    def perhaps(item, conn=None):
        return conn

    perhaps("i")
    assert stored(database18, pipeline) == [STARTED, COMPLETED]
