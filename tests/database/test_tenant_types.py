"""Each type of tenant id, the whole way: emitted, shipped, read, bound, rejected, adopted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry import PLATFORM, Pipeline, log_event
from tenantry.database.adopt import Adopter
from tenantry.database.connect import connect
from tenantry.database.installed import read_installed
from tenantry.database.migrate import migrate
from tests.fix_postgres import Database, grant_logins

TABLES = ("events", "rejected_events", "event_tallies", "ledger")


class Ids(NamedTuple):
    """Tenant ids of one type."""

    type: str
    ours: str
    theirs: str
    platform: str
    bad: Any
    """No id of that type, for ``log_event``."""
    old_type: str
    """Of the older table, which may hold ids that are bad."""


TYPES = [
    Ids(
        "uuid",
        "018f6f0e-0000-7000-8000-000000000001",
        "018f6f0e-0000-7000-8000-000000000002",
        "00000000-0000-0000-0000-000000000000",
        "acme",
        "text",
    ),
    Ids("bigint", "41", "9223372036854775807", "0", "acme", "varchar(40)"),
    Ids("text", "acme", "Größe & Söhne 'x'", "_platform", "a\nb", "text"),
]


@pytest.fixture(params=TYPES, ids=lambda ids: ids.type)
def ids(request: pytest.FixtureRequest) -> Ids:
    return request.param


@pytest.fixture
def typed(empty_database: Database, ids: Ids) -> Iterator[Database]:
    """Return a database of that type, with a login that is bound to ``ours``."""
    migrate(empty_database.owner, tenant_type=ids.type)
    grant_logins(empty_database)
    empty_database.execute("DROP ROLE IF EXISTS bound_by_type")
    empty_database.execute("CREATE ROLE bound_by_type LOGIN IN ROLE tenantry_tenant")
    empty_database.execute(
        "INSERT INTO tenantry.tenant_roles VALUES ('bound_by_type', %s)", [ids.ours]
    )
    yield empty_database
    empty_database.execute("DROP ROLE bound_by_type")


def seen(dsn: str, table: str, tenant: str | None = None) -> set[str | None]:
    """Return whose rows a login sees."""
    with psycopg.connect(dsn) as connection:
        if tenant is not None:
            connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [tenant])
        return {t for (t,) in connection.execute(f"SELECT tenant_id::text FROM tenantry.{table}")}


def test_the_whole_way(typed: Database, ids: Ids, tmp_path: Path):
    options: dict[str, Any] = {"open_taxonomy": ["tick"], "tenant_type": ids.type}
    pipeline = Pipeline(dsn=typed.writer, journal=tmp_path, **options)
    with pipeline, psycopg.connect(typed.writer) as own:
        for tenant in (ids.ours, ids.theirs, PLATFORM, ids.bad):
            log_event("tick", tenant=tenant)
        log_event("tick", tenant=ids.ours, conn=own)
        assert pipeline.flush(20)
    pipeline.shutdown()
    assert seen(typed.superuser, "events") == {ids.ours, ids.theirs, ids.platform}
    assert typed.execute("SELECT reason, tenant_id FROM tenantry.rejected_events") == [
        ("invalid_tenant", None)
    ]

    old = "(id bigserial PRIMARY KEY, tenant_id {}, name text, data jsonb, created_at timestamptz)"
    typed.execute(f"CREATE TABLE public.events {old.format(ids.old_type)}")
    typed.execute("ALTER TABLE public.events OWNER TO host_owner")
    for tenant in (ids.ours, ids.theirs, ids.platform, ids.bad, None):
        typed.execute(
            "INSERT INTO public.events (tenant_id, name, created_at) VALUES (%s, 'old', now())",
            [tenant],
        )
    with connect(typed.owner) as connection:
        installed = read_installed(connection, "tenantry")
        assert installed is not None
        adoption = Adopter(connection, "tenantry", installed, "public.events").run()
    assert (adoption.adopted, adoption.rejected, adoption.waiting) == (2, 3, 0)

    bound = make_conninfo(typed.superuser, user="bound_by_type")
    for table in TABLES:
        for tenant in (ids.ours, ids.theirs):
            theirs_too = {tenant} if table in {"events", "event_tallies"} else set[str]()
            assert seen(typed.reader, table, tenant) == theirs_too, table
            assert seen(bound, table, tenant) <= {ids.ours}, table
        assert seen(typed.reader, table) == set(), table
    assert seen(bound, "events", ids.theirs) == {ids.ours}
    names = "SELECT name, count(*) FROM tenantry.events GROUP BY name ORDER BY name"
    assert typed.execute(names) == [("old", 2), ("tick", 4)]
    books = "SELECT sum(emitted), sum(handed), sum(stored), sum(rejected) FROM tenantry."
    assert typed.execute(f"{books}journal_cursors") == [(5, 1, 3, 1)]
    assert typed.execute("SELECT kind, reason, count FROM tenantry.ledger") == [
        ("adopted", "public.events", 2)
    ]
