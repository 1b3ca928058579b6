"""The ledger: who may write and see its lines."""

from __future__ import annotations

import psycopg
import pytest

from tenantry.database.connect import connect
from tenantry.database.ledger import Entry, read_corrections, write_entries
from tests.fix_postgres import Database

OURS = "018f6f0e-0000-7000-8000-000000000001"
THEIRS = "018f6f0e-0000-7000-8000-000000000002"
ENTRIES = [
    Entry("retried", OURS, "message_sent", "database", 2),
    Entry("discarded", THEIRS, "message_sent", "invalid", 3),
    Entry("compacted", None, None, "helpdesk", 4),
]


@pytest.fixture
def filled(database: Database) -> Database:
    with connect(database.member_of("maintainer")) as connection:
        write_entries(connection, "tenantry", ENTRIES)
    return database


def test_line_says_when_and_by_whom(filled: Database):
    rows = filled.execute("SELECT at > now() - interval '1 minute', by, count FROM tenantry.ledger")
    assert sorted(rows) == [(True, "app_maintainer", n) for n in (2, 3, 4)]


def test_corrections_are_added_up_by_kind(filled: Database):
    with connect(filled.member_of("admin")) as connection:
        assert read_corrections(connection, "tenantry") == {
            "compacted": 4,
            "discarded": 3,
            "retried": 2,
        }


def test_older_schema_has_no_corrections(database: Database):
    with connect(database.owner) as connection:
        assert read_corrections(connection, "pg_catalog") == {}


@pytest.mark.parametrize("tenant, seen", [(OURS, [2]), (None, []), ("", [])], ids=str)
def test_reader_sees_the_lines_of_its_tenant_only(filled: Database, tenant: str | None, seen: list):
    with psycopg.connect(filled.reader) as connection:
        if tenant is not None:
            connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [tenant])
        assert [n for (n,) in connection.execute("SELECT count FROM tenantry.ledger")] == seen


WRITES = [
    "INSERT INTO tenantry.ledger (kind, count) VALUES ('retried', 1)",
    "UPDATE tenantry.ledger SET count = 0",
    "DELETE FROM tenantry.ledger",
    "TRUNCATE tenantry.ledger",
]


@pytest.mark.parametrize("role", ["writer", "reader", "admin"])
@pytest.mark.parametrize("statement", WRITES)
def test_only_the_maintainer_may_write(database: Database, role: str, statement: str):
    with (
        psycopg.connect(database.member_of(role)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def test_writer_sees_nothing(database: Database):
    with (
        psycopg.connect(database.writer) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT * FROM tenantry.ledger")


def test_unknown_kind_is_refused(database: Database):
    with (
        psycopg.connect(database.owner) as connection,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        connection.execute("INSERT INTO tenantry.ledger (kind, count) VALUES ('guessed', 1)")


def test_owner_without_the_roles_sees_nothing(filled: Database):
    with psycopg.connect(filled.owner) as connection:
        for role in ("reader", "admin", "maintainer"):
            connection.execute(f"REVOKE tenantry_{role} FROM host_owner")
        assert connection.execute("SELECT * FROM tenantry.ledger").fetchall() == []
        connection.rollback()
