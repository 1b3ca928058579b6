"""Older tables of events for tests, and adopters of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tenantry.database.adopt import Adopter, Adoption
from tenantry.database.connect import connect
from tenantry.database.installed import read_installed
from tests.fix_postgres import Database

TENANT = "018f6f0e-0000-7000-8000-000000000001"
OTHER = "018f6f0e-0000-7000-8000-000000000002"

OLD_TABLE = """
    CREATE TABLE public.events (
        id bigserial PRIMARY KEY, tenant_id {tenant_type}, name text, data jsonb,
        created_at timestamptz DEFAULT now()
    );
    ALTER TABLE public.events OWNER TO host_owner
"""


def make_old_table(database: Database, tenant_type: str = "uuid") -> None:
    for statement in OLD_TABLE.format(tenant_type=tenant_type).split(";"):
        database.execute(statement)


def insert_old(database: Database, **values: object) -> int:
    row = {
        "tenant_id": TENANT,
        "name": "order_placed",
        "data": '{"total": 3}',
        "created_at": "2026-11-20T10:00:00Z",
        **values,
    }
    names = ", ".join(row)
    query = f"INSERT INTO public.events ({names}) VALUES ({', '.join(['%s'] * len(row))})"
    return database.execute(f"{query} RETURNING id", list(row.values()))[0][0]


@contextmanager
def old_table(database: Database) -> Iterator[Database]:
    """Give a database an older table, and take away what comes of it."""
    make_old_table(database)
    try:
        yield database
    finally:
        for table in ("events", "tenants"):
            database.execute(f"DROP TABLE IF EXISTS public.{table} CASCADE")
        history = database.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = 'tenantry.events'::regclass"
            " AND inhrelid::regclass::text < to_char((now() AT TIME ZONE 'UTC')"
            " - interval '1 month', '\"tenantry.events_\"YYYY_MM')"
        )
        for (partition,) in history:
            database.execute(f"DROP TABLE {partition}")


@contextmanager
def adopter(
    dsn: str, source: str = "public.events", schema: str = "tenantry", **options: float
) -> Iterator[Adopter]:
    with connect(dsn) as connection:
        installed = read_installed(connection, schema)
        assert installed is not None
        yield Adopter(connection, schema, installed, source, **options)


def adopt(
    database: Database, on_batch: Callable[[int], object] = lambda _: None, **options: float
) -> Adoption:
    with adopter(database.owner, **options) as running:
        adoption = running.run(on_batch)
    assert adoption.balances
    return adoption
