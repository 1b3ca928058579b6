"""Two tenants with rows in every table, and those who would like to see the other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.fix_postgres import Database

OURS = "018f6f0e-0000-7000-8000-00000000000a"
THEIRS = "018f6f0e-0000-7000-8000-00000000000b"
SECRET = "their-secret"
"""Is in every row of theirs, and so in whatever shows one."""

TABLES = ("events", "rejected_events", "event_tallies", "ledger", "tenant_roles")
COUNTED = TABLES[:4]


def add_rows(database: Database) -> None:
    """Give each tenant a row a table; those of THEIRS carry the secret."""
    for tenant, word in ((OURS, "our-word"), (THEIRS, SECRET)):
        database.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at, data, actor_id)"
            " SELECT gen_random_uuid(), %s, %s, now() - n * interval '20 days',"
            " jsonb_build_object('word', %s::text), %s FROM generate_series(0, 3) AS n",
            [tenant, word, word, word],
        )
        database.execute(
            "INSERT INTO tenantry.rejected_events"
            " (id, tenant_id, name, created_at, reason, detail)"
            " VALUES (gen_random_uuid(), %s, %s, now(), 'invalid', %s)",
            [tenant, word, word],
        )
        database.execute(
            "INSERT INTO tenantry.event_tallies VALUES (%s, gen_random_uuid(), 0, %s, 1)",
            [tenant, word],
        )
        database.execute(
            "INSERT INTO tenantry.ledger (kind, tenant_id, name, reason, count)"
            " VALUES ('discarded', %s, %s, 'invalid', 1)",
            [tenant, word],
        )


def bind(database: Database, login: str, tenant: str) -> str:
    """Make a login bound to a tenant, as the page on the database says; gives its DSN."""
    database.execute(f"DROP ROLE IF EXISTS {login}")
    database.execute(f"CREATE ROLE {login} LOGIN")
    with psycopg.connect(database.owner, autocommit=True) as owner:
        if owner.info.server_version >= 160000:
            database.execute("GRANT tenantry_tenant TO host_owner WITH ADMIN OPTION")
        owner.execute(sql.SQL("GRANT tenantry_tenant TO {}").format(sql.Identifier(login)))
        owner.execute(
            "INSERT INTO tenantry.tenant_roles VALUES (%s, %s)"
            " ON CONFLICT (role) DO UPDATE SET tenant_id = excluded.tenant_id",
            [login, tenant],
        )
    return make_conninfo(database.superuser, user=login)


@dataclass
class Attacker:
    """Somebody of OURS; ``sets`` says whether the application sets the tenant for them."""

    database: Database
    dsn: str
    sets: bool

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """Open a transaction as the attacker finds it."""
        with psycopg.connect(self.dsn) as connection:
            if self.sets:
                connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [OURS])
            yield connection
            connection.rollback()
