"""Through a real PgBouncer in transaction mode: one session of the server for all clients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry import Pipeline, log_event, tenant
from tenantry.database.host_tables import parse_table
from tenantry.database.installed import read_installed
from tenantry.database.migrate import migrate, status
from tenantry.database.tenant_key import add_tenant_key
from tenantry.exporters.handover import insert_sync
from tenantry.exporters.postgres import PostgresExporter
from tests.cli.commands import Command
from tests.database.adoptions import adopter, insert_old, old_table
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database
from tests.pgbouncer import IS_MISSING, PGBOUNCER, run_pgbouncer
from tests.security.tenants import OURS, THEIRS

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason=IS_MISSING)
USERS = ("postgres", "host_owner", "app_writer", "app_reader", "app_admin", "bound_to_us")


class Pooler:
    def __init__(self, port: int) -> None:
        self.port = port

    def in_front_of(self, dsn: str) -> str:
        return make_conninfo(dsn, host="127.0.0.1", port=self.port)


@pytest.fixture
def pooler(server) -> Iterator[Pooler]:
    with run_pgbouncer(server, USERS) as port:
        yield Pooler(port)


def backend(connection: psycopg.Connection) -> object:
    return connection.execute("SELECT pg_backend_pid()").fetchone()


def test_clients_share_one_session_of_the_server(two_tenants: Database, pooler: Pooler):
    dsn = pooler.in_front_of(two_tenants.reader)
    with (
        psycopg.connect(dsn, autocommit=True) as one,
        psycopg.connect(dsn, autocommit=True) as other,
    ):
        assert backend(one) == backend(other)


def test_tenant_set_for_a_transaction_is_seen_by_no_other_client(
    two_tenants: Database, pooler: Pooler
):
    dsn = pooler.in_front_of(two_tenants.reader)

    def read(tenant_id: str) -> set[str]:
        seen: set[str] = set()
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
            for _ in range(50):
                with connection.transaction():
                    connection.execute(
                        "SELECT set_config('tenantry.tenant_id', %s, true)", [tenant_id]
                    )
                    query = "SELECT tenant_id::text FROM tenantry.events"
                    seen |= {row[0] for row in connection.execute(query)}
                assert connection.execute(query).fetchall() == []
        return seen

    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(read, [OURS, THEIRS, OURS, THEIRS]))
    assert seen == [{OURS}, {THEIRS}, {OURS}, {THEIRS}]


def test_plain_set_leaks_to_the_next_client(two_tenants: Database, pooler: Pooler):
    """Why nothing of ours does it, and the pages say that nobody should."""
    dsn = pooler.in_front_of(two_tenants.reader)
    with (
        psycopg.connect(dsn, autocommit=True) as careless,
        psycopg.connect(dsn, autocommit=True) as other,
    ):
        careless.execute(f"SET tenantry.tenant_id = '{THEIRS}'")
        seen = other.execute("SELECT DISTINCT tenant_id::text FROM tenantry.events")
        assert seen.fetchall() == [(THEIRS,)]


def test_plain_set_of_another_client_does_not_reach_a_bound_login(
    two_tenants: Database, bound: str, pooler: Pooler
):
    dsn = pooler.in_front_of(bound)
    with (
        psycopg.connect(dsn, autocommit=True) as careless,
        psycopg.connect(dsn, autocommit=True) as other,
    ):
        careless.execute(f"SET tenantry.tenant_id = '{THEIRS}'")
        seen = other.execute("SELECT DISTINCT tenant_id::text FROM tenantry.events")
        assert seen.fetchall() == [(OURS,)]


def test_commands_leave_no_tenant_behind(two_tenants: Database, pooler: Pooler, command: Command):
    dsn = pooler.in_front_of(two_tenants.reader)
    assert command("tail", "--dsn", dsn, "--tenant", THEIRS, "--json") == 0
    assert {event["tenant_id"] for event in command.json()["events"]} == {THEIRS}
    assert command("rejected", "list", "--dsn", dsn, "--tenant", THEIRS) == 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in ("events", "rejected_events"):
            assert connection.execute(f"SELECT * FROM tenantry.{table}").fetchall() == []


def test_maintenance_changes_partitions_and_leaves_no_setting_behind(
    own_database: Database, pooler: Pooler, command: Command
):
    dsn = pooler.in_front_of(own_database.owner)
    with psycopg.connect(dsn, autocommit=True) as connection:
        settings = (  # of each client's own, the name of the application is kept by the pooler
            "SELECT name, setting FROM pg_settings WHERE name <> 'application_name' ORDER BY name"
        )
        before = connection.execute(settings).fetchall()
        late = ["--after", "0s", "--ahead", "25"]
        own_database.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
            " VALUES (gen_random_uuid(), gen_random_uuid(), 'late', now() - interval '200 days')"
        )
        assert command("maintain", "--dsn", dsn, *late, "--keep", "3months", "--json") == 0
        upkeep = command.json()["partitions"]
        assert [each["rows"] for each in upkeep["made"]] == [1, 0]
        assert [each["rows"] for each in upkeep["detached"]] == [1]
        assert command("maintain", "--dsn", dsn, *late, "--drop-detached", "0d") == 0
        assert connection.execute(settings).fetchall() == before


def test_exporter_ships_beside_other_clients(two_tenants: Database, pooler: Pooler):
    """More batches than psycopg's default ``prepare_threshold``, from several exporters at once."""
    dsn = pooler.in_front_of(two_tenants.writer)

    def ship(_: int) -> int:
        exporter = PostgresExporter(dsn)
        stored = sum(
            exporter.export(make_batch([make_line(), make_line()]), math.inf).stored
            for _ in range(20)
        )
        exporter.close()
        return stored

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(ship, range(3))) == [40, 40, 40]


def test_pipeline_ships(two_tenants: Database, pooler: Pooler, tmp_path: Path):
    dsn = pooler.in_front_of(two_tenants.writer)
    pipeline = Pipeline(dsn=dsn, open_taxonomy=["*"], journal=tmp_path / "journal")
    with pipeline, tenant(OURS):
        event_id = log_event("was_pooled")
        assert pipeline.flush(30)
    pipeline.shutdown()
    assert two_tenants.execute("SELECT name FROM tenantry.events WHERE id = %s", [event_id]) == [
        ("was_pooled",)
    ]


def test_event_joins_a_pooled_transaction(two_tenants: Database, pooler: Pooler):
    dsn = pooler.in_front_of(two_tenants.writer)
    for _ in range(8):
        with psycopg.connect(dsn, prepare_threshold=None) as connection:
            insert_sync(connection, make_line(name="pooled"), schema="tenantry", tenant_type="uuid")
    assert two_tenants.execute("SELECT count(*) FROM tenantry.events WHERE name = 'pooled'") == [
        (8,)
    ]


def test_migrating_works_and_leaves_no_setting(empty_database: Database, pooler: Pooler):
    dsn = pooler.in_front_of(empty_database.owner)
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = connection.execute("SHOW search_path").fetchone()
    assert migrate(dsn)
    assert migrate(dsn) == []
    assert not status(dsn).pending
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SHOW search_path").fetchone() == before
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.execute(held).fetchone() == (0,)


def test_four_migrate_at_once_through_one_session(empty_database: Database, pooler: Pooler):
    dsn = pooler.in_front_of(empty_database.owner)
    with ThreadPoolExecutor(4) as threads:
        applied = list(threads.map(lambda _: migrate(dsn), range(4)))
    assert sum(map(len, applied)) == status(dsn).latest


def test_adoption_and_foreign_key_work_through_one_session(database: Database, pooler: Pooler):
    with old_table(database):
        row_id = insert_old(database)
        database.execute("CREATE TABLE public.tenants AS SELECT tenant_id AS id FROM public.events")
        database.execute("ALTER TABLE public.tenants OWNER TO host_owner, ADD PRIMARY KEY (id)")
        dsn = pooler.in_front_of(database.owner)
        with adopter(dsn) as running, psycopg.connect(dsn, autocommit=True) as other:
            before = other.execute("SHOW search_path").fetchone()
            assert running.run().adopted == row_id == 1
            assert other.execute("SHOW search_path").fetchone() == before
            assert other.execute("SHOW lock_timeout").fetchone() == ("0",)
            key = {"tenants": parse_table("public.tenants"), "on_delete": "cascade"}
            connection, installed = running._connection, read_installed(other, "tenantry")
            assert installed is not None
            assert add_tenant_key(connection, "tenantry", installed, **key, timeout=20)
