"""No row of a tenant that only looks like the one that is erased is ever touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.database.connect import connect
from tenantry.database.erase import Erased, Eraser, Subject
from tenantry.database.installed import read_installed
from tenantry.database.migrate import migrate
from tests.cli.commands import Command
from tests.fix_postgres import Database

E_ACUTE, E_AND_ACUTE = "caf\u00e9", "cafe\u0301"

TEXTS = [
    *("a", "A", "a ", " a", "aa", "ä", "\u0430", "\uff41"),  # the last two only look like an a
    *(E_ACUTE, E_AND_ACUTE, "%", "_", "a%", "a\\", "'a'", '"a"', "ß", "ss", "1", "01"),
]


def test_lookalikes_among_texts_stay(text_tenants: Database, command: Command, tmp_path: Path):
    erased = {given: given for given in ("a", "a ", E_ACUTE, "%", "01")}
    check(text_tenants, command, tmp_path, TEXTS, erased)


@pytest.mark.parametrize("server", ["postgres18"], indirect=True)
def test_lookalikes_among_numbers_stay(empty_database: Database, command: Command, tmp_path: Path):
    migrate(empty_database.owner, tenant_type="bigint")
    numbers = [1, 2, 10, 11, 2**63 - 1]
    check(empty_database, command, tmp_path, numbers, {"1": "1", "0010": "10"})


def check(
    database: Database,
    command: Command,
    journal: Path,
    tenants: Sequence[object],
    erased: Mapping[str, str],
) -> None:
    """Erase one after the other, and see that each time it is that one and no other."""
    add_rows(database, [(tenant, None) for tenant in tenants])
    left = {str(tenant) for tenant in tenants}
    for given_as, tenant in erased.items():
        options = ("--dsn", database.owner, "--journal", journal, "--yes")
        assert command("erase", *options, "--tenant", given_as) == 0
        left.remove(tenant)
        for table in ("events", "rejected_events"):
            there = f"SELECT tenant_id::text FROM tenantry.{table} WHERE name = 'seen'"
            assert {each for (each,) in database.execute(there)} == left


def add_rows(database: Database, rows: Sequence[tuple[object, str | None]]) -> None:
    """Add an event and a reject for each tenant and actor, in several months."""
    with psycopg.connect(database.owner) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO tenantry.events (id, name, tenant_id, actor_id, created_at)"
            " VALUES (gen_random_uuid(), 'seen', %s, %s, %s)",
            [(*row, f"2026-{9 + number % 4}-01") for number, row in enumerate(rows)],
        )
        cursor.executemany(
            "INSERT INTO tenantry.rejected_events (id, name, tenant_id, reason, created_at)"
            " VALUES (gen_random_uuid(), 'seen', %s, 'invalid', now())",
            [(str(tenant),) for tenant, _ in rows],
        )


WHO = st.tuples(st.sampled_from(TEXTS), st.sampled_from([None, "u", "U", "u ", "é", "e\u0301"]))


@pytest.fixture
def text_tenants(empty_database: Database) -> Database:
    migrate(empty_database.owner, tenant_type="text")
    return empty_database


@pytest.mark.parametrize("server", ["postgres18"], indirect=True)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(WHO, max_size=12), whose=WHO, batch=st.integers(1, 5))
def test_exactly_the_rows_of_the_subject_go(
    text_tenants: Database,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[tuple[str, str | None]],
    whose: tuple[str, str | None],
    batch: int,
):
    monkeypatch.setattr("tenantry.database.erase.BATCH_ROWS", batch)
    for table in ("events", "rejected_events", "ledger"):
        text_tenants.execute(f"DELETE FROM tenantry.{table}")
    add_rows(text_tenants, rows)
    tenant, actor = whose
    with connect(text_tenants.owner) as connection:
        installed = read_installed(connection, "tenantry")
        assert installed is not None
        erased = Erased()
        Eraser(connection, "tenantry", installed, Subject(tenant, actor)).erase(erased)
    theirs = [row for row in rows if row[0] == tenant and actor in {None, row[1]}]
    left = text_tenants.execute("SELECT tenant_id, actor_id FROM tenantry.events")
    assert Counter(left) == Counter(rows) - Counter(theirs)
    assert erased.events.total() == len(theirs)
    sums = "SELECT coalesce(sum(count), 0)::integer FROM tenantry.ledger WHERE kind = 'erased'"
    assert text_tenants.execute(sums) == [(len(theirs),)]
