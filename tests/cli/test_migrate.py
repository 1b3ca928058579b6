"""`tenantry migrate`: applies, prints, and says what is pending."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tenantry.database import migrate as migrations
from tenantry.database.installed import Roles
from tests.cli.commands import TENANT, Command
from tests.database.adoptions import insert_old, old_table
from tests.fix_postgres import Database


def test_migrate_applies_what_is_pending_and_then_nothing(
    command: Command, empty_database: Database
):
    dsn = empty_database.owner
    assert command("migrate", "--dsn", dsn) == 0
    assert "applied 0001_schema_and_roles" in command.out
    assert command("migrate", "--dsn", dsn) == 0
    assert command.out == "nothing to apply: the schema is up to date\n"


def test_status_fails_while_something_is_pending(command: Command, empty_database: Database):
    dsn = empty_database.owner
    assert command("migrate", "status", "--dsn", dsn) == 1
    assert "pending\t0001_schema_and_roles" in command.out
    command("migrate", "--dsn", dsn)
    assert command("migrate", "status", "--dsn", dsn) == 0
    assert "tenant ids\tuuid" in command.out


def test_json_of_migrate_and_of_status(command: Command, empty_database: Database):
    dsn = empty_database.owner
    latest = migrations.find_migrations()[-1].version
    assert command("migrate", "--dsn", dsn, "--tenant-type", "bigint", "--json") == 0
    applied = command.json()
    assert applied["schema"] == "tenantry"
    assert [step["version"] for step in applied["applied"]] == list(range(1, latest + 1))
    assert applied["applied"][0].keys() == {"version", "name", "duration_ms"}
    assert command("migrate", "status", "--dsn", dsn, "--json") == 0
    assert command.json() == {
        "version": 1,
        "schema": "tenantry",
        "schema_version": latest,
        "latest": latest,
        "pending": [],
        "tenant_type": "bigint",
        "is_ahead": False,
    }


def test_options_may_stand_before_status(command: Command, empty_database: Database):
    assert command("migrate", "--dsn", empty_database.owner, "--json", "status") == 1
    assert command.json()["schema_version"] == 0


def test_sql_prints_the_script_and_needs_no_database(command: Command):
    assert command("migrate", "--sql", "--schema", "audit", "--writer-role", "shop_writer") == 0
    assert command.out == migrations.sql(schema="audit", roles=Roles(writer="shop_writer"))


def test_every_role_option_is_passed_on(command: Command):
    names = {"writer": "w", "reader": "r", "admin": "a", "maintainer": "m", "tenant": "t"}
    options = [part for key, name in names.items() for part in (f"--{key}-role", name)]
    assert command("migrate", "--sql", "--tenant-type", "text", *options) == 0
    assert command.out == migrations.sql(tenant_type="text", roles=Roles(**names))


def test_another_tenant_type_than_the_installed_is_refused(command: Command, database18: Database):
    assert command("migrate", "--dsn", database18.owner, "--tenant-type", "text") == 4
    assert "use --tenant-type uuid" in command.err


def test_unknown_tenant_type_is_a_usage_error(command: Command):
    assert command("migrate", "--sql", "--tenant-type", "number") == 2
    assert "is not one of 'uuid', 'bigint' and 'text'" in command.err


# Adoption.


@pytest.fixture
def old(database18: Database) -> Iterator[Database]:
    with old_table(database18) as database:
        yield database


def test_adoption_is_reported_and_exits_with_3_while_something_may_come(
    command: Command, old: Database
):
    insert_old(old)
    insert_old(old, tenant_id=None)
    options = ("--dsn", old.owner, "--adopt", "public.events")
    with psycopg.connect(old.superuser) as writer:
        writer.execute("INSERT INTO public.events (tenant_id, name) VALUES (%s, 'late')", [TENANT])
        assert command("migrate", *options) == 3
        assert "# Adoption of public.events" in command.out
        assert "\n2\t0\t1\t1\t0\t1\n" in command.out
        assert "run it again to catch up" in command.err
    assert command("migrate", *options, "--json") == 0
    assert command.json()["adoption"] == {
        "source": "public.events",
        "present": 3,
        "adopted": 2,
        "rejected": 1,
        "waiting": 0,
        "gone": 0,
        "writers": 0,
        "balances": True,
    }
    assert command("stats", "--dsn", old.owner, "--journal", "/nonexistent") == 0
    assert "adopted\t2\tevents from an older table" in command.out


def test_adoption_counted_wrongly_by_hand_is_told(command: Command, old: Database):
    insert_old(old)
    options = ("--dsn", old.owner, "--adopt", "public.events")
    assert command("migrate", *options) == 0
    old.execute("UPDATE tenantry.adoptions SET adopted = 7")
    assert command("migrate", *options) == 1
    assert "It does not balance: the table of adoptions was changed by hand." in command.err


def test_adoption_needs_a_maintainer(command: Command, old: Database):
    old.execute("GRANT SELECT ON public.events TO PUBLIC")
    dsn = old.member_of("writer")
    assert command("migrate", "--dsn", dsn, "--adopt", "public.events") == 4
    assert "is no member of tenantry_maintainer" in command.err


@pytest.mark.parametrize("option", [("--adopt", "public.events"), ("--no-tenants-table",)])
def test_script_does_not_look_at_the_database(command: Command, option: tuple[str, ...]):
    assert command("migrate", "--sql", *option) == 2
    assert f"and {option[0]} has to look at the database" in command.err
