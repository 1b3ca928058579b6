"""A patient: a database of the doctor's tests, which each of them breaks and mends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.doctor import Finding, Limits, examine
from tenantry.database.doctor.design import TABLES
from tenantry.exceptions import DatabaseUnreachable
from tests import fix_postgres
from tests.fix_postgres import Database, Server, run_postgres15, run_postgres18
from tests.pgbouncer import IS_MISSING, PGBOUNCER, run_pgbouncer

GROUPS = ("writer", "reader", "admin", "maintainer", "tenant")


@dataclass
class Patient:
    """A database, and a doctor's login that sees everything in it."""

    database: Database
    dsn: str

    def find(self, code: str | None = None, *, dsn: str = "", **limits: float) -> list[Finding]:
        """Examine; only the findings of ``code``, if one is given.

        Who can dump is left out unless it is asked for: it names roles that come and go.
        """
        found, _ = examine(dsn or self.dsn, limits=Limits(**limits))
        return [
            each
            for each in found
            if code == each.code or (code is None and each.code != "dump_by_owner")
        ]

    def do(self, statements: str) -> None:
        """Run statements as superuser, all in one transaction unless they say otherwise."""
        self.database.execute(statements)

    def break_and_mend(self, code: str, statements: str, **options: object) -> list[Finding]:
        """See that ``statements`` make new findings of ``code``, whose SQL mends them."""
        before = self.find(**options)
        self.do(statements)
        new = [each for each in self.find(**options) if each not in before]
        assert {each.code for each in new} == {code}
        for finding in new:
            assert finding.remedy_kind == "sql"
            self.do(finding.remedy)
        assert self.find(**options) == before
        return new


# Servers of their own: roles belong to a server, and here they are broken.


@pytest.fixture(scope="session")
def postgres18() -> Iterator[Server]:
    with run_postgres18("tenantry-test-doctor-18-") as server:
        yield server


@pytest.fixture(scope="session")
def postgres15() -> Iterator[Server]:
    with run_postgres15("tenantry-test-doctor-15-") as server:
        yield server


@pytest.fixture
def patient(server: Server) -> Patient:
    """Return a database that is well."""
    database = fix_postgres._find_database(server, "test_doctor")
    dsn = make_conninfo(database.superuser, user="app_doctor")
    if not _is_well(dsn):
        _restore(database)
    database.execute(
        "; ".join(f"DELETE FROM tenantry.{table}" for table in TABLES if table != "migrations")
    )
    return Patient(database, dsn)


def _is_well(dsn: str) -> bool:
    try:
        found, _ = examine(dsn)
    except DatabaseUnreachable:  # no such login yet
        return False
    return all(
        each.subject.startswith("role ") and not each.code.startswith("group_role")
        for each in found
    )


def _restore(database: Database) -> None:
    database.execute("ALTER DATABASE test_doctor RESET ALL")
    database.execute("DROP SCHEMA IF EXISTS tenantry CASCADE")
    fix_postgres._migrated(database)
    with database.server.connect() as connection:
        for group in GROUPS:
            connection.execute(
                f"ALTER ROLE tenantry_{group} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE"
            )
        fix_postgres._make_login(connection, "app_doctor")
        connection.execute("GRANT tenantry_admin, pg_read_all_stats TO app_doctor")


@pytest.fixture(scope="session")
def hospital() -> Iterator[Server]:
    """Return a server that tests may configure and restart: it allows prepared transactions."""
    with run_postgres18("tenantry-test-doctor-") as server:
        with server.connect() as connection:
            connection.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        server.control("restart", "-w", "-m", "fast", "-l", str(server.data / "log"))
        yield server


@pytest.fixture
def inpatient(hospital: Server) -> Patient:
    """Return a migrated database of that server."""
    database = fix_postgres._migrated(fix_postgres._empty_database(hospital))
    return Patient(database, database.superuser)


@pytest.fixture
def pooled(patient: Patient) -> Callable[[str], AbstractContextManager[str]]:
    """Return what starts a PgBouncer in a mode, and gives the DSN of the doctor through it."""
    if PGBOUNCER is None:
        pytest.skip(IS_MISSING)
    return lambda mode: _run_pooler(patient, mode)


@contextmanager
def _run_pooler(patient: Patient, mode: str) -> Iterator[str]:
    with run_pgbouncer(patient.database.server, ["app_doctor"], mode=mode, size=20) as port:
        yield make_conninfo(patient.dsn, host="127.0.0.1", port=port)
