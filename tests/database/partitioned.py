"""Months of events in tests: missing, filled, held by other sessions, and counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tenantry.database.connect import connect
from tenantry.database.installed import read_installed
from tenantry.database.partitions import add_months
from tenantry.database.upkeep import Caretaker, Upkeep, Wishes
from tests.cli.commands import INSERT, make_row
from tests.fix_postgres import Database

ON_18 = pytest.mark.parametrize("server", ["postgres18"], indirect=True)
"""For what is not the server's doing."""

STUCK = "SET statement_timeout = '20s'"
"""For sessions that must not be held up: forty times what a lock is waited for."""


def this_month() -> datetime:
    return add_months(datetime.now(UTC), 0)


def name_of(month: datetime) -> str:
    return f"events_{month:%Y_%m}"


def insert(database: Database, *moments: object) -> None:
    with psycopg.connect(database.superuser) as connection:
        connection.cursor().executemany(INSERT, [make_row(created_at=each) for each in moments])


def add_month(database: Database, month: datetime) -> None:
    database.execute(
        f"CREATE TABLE tenantry.{name_of(month)} PARTITION OF tenantry.events"
        f" FOR VALUES FROM ('{month}') TO ('{add_months(month, 1)}')"
    )
    database.execute(f"ALTER TABLE tenantry.{name_of(month)} OWNER TO host_owner")
    for what in ("ENABLE", "FORCE"):
        database.execute(f"ALTER TABLE tenantry.{name_of(month)} {what} ROW LEVEL SECURITY")


def drop_months(database: Database, *months: datetime) -> None:
    for month in months:
        database.execute(f"DROP TABLE tenantry.{name_of(month)}")


def attached(database: Database) -> list[str]:
    return [
        name
        for (name,) in database.execute(
            "SELECT relname::text FROM pg_inherits JOIN pg_class ON oid = inhrelid"
            " WHERE inhparent = 'tenantry.events'::regclass ORDER BY 1"
        )
    ]


def count(database: Database, table: str = "events") -> int:
    return database.execute(f"SELECT count(*) FROM tenantry.{table}")[0][0]


def keep_up(
    database: Database,
    *,
    dsn: str | None = None,
    lock_timeout: float = 0.5,
    timeout: float = 20.0,
    **wishes: Any,
) -> Upkeep:
    with connect(dsn or database.owner) as connection:
        installed = read_installed(connection, "tenantry")
        assert installed is not None
        caretaker = Caretaker(
            connection, "tenantry", installed, lock_timeout=lock_timeout, timeout=timeout
        )
        return caretaker.keep_up(Wishes(**wishes))


@contextmanager
def unhindered(dsn: str, query: str, make: Any) -> Iterator[None]:
    """Run a statement again and again beside the block; none may be held up for good.

    At least ten are begun and ended within the block.
    """
    ended = threading.Event()
    problems: list[Exception] = []
    done: list[None] = []

    def work() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(STUCK)
                while not ended.is_set() or len(done) < 10:
                    connection.execute(query, make())
                    done.append(None)
        except (psycopg.Error, OSError) as problem:
            problems.append(problem)

    thread = threading.Thread(target=work, name="unhindered")
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not done and not problems and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        yield
    finally:
        ended.set()
        thread.join(60)
    assert not problems, repr(problems)
