"""Asks the questions of ``docs/questions``: rows that a test makes up, at a time that stands.

``now()`` is the one of a schema that comes before ``pg_catalog`` in the search path, so the files
run as they are, at any hour that a test chooses, in one transaction that is rolled back.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.fix_postgres import Database

QUESTIONS: Final = Path(__file__).parents[2] / "docs" / "questions"
FILES: Final = sorted(file.stem for file in QUESTIONS.glob("*.sql"))

ACME: Final = "018f6f0e-7c1a-7000-8000-000000000001"
GLOBEX: Final = "018f6f0e-7c1a-7000-8000-000000000002"
INITECH: Final = "018f6f0e-7c1a-7000-8000-000000000003"

NOON: Final = datetime(2026, 3, 15, 12, tzinfo=UTC)

_STOP_CLOCK: Final = """
CREATE SCHEMA stopped;
CREATE FUNCTION stopped.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS $$ SELECT pg_catalog.current_setting('stopped.at')::timestamptz $$;
GRANT USAGE ON SCHEMA stopped TO PUBLIC;
SET LOCAL search_path = stopped, pg_catalog;
"""

Row = dict[str, Any]


def read_question(file: str) -> str:
    return (QUESTIONS / f"{file}.sql").read_text()


def read_page(file: str) -> str:
    return (QUESTIONS / f"{file.replace('_', '-')}.md").read_text()


class Rows:
    """Adds rows, at times counted back from ``now``, which a test may move."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.now = NOON

    def add(
        self,
        name: str,
        /,
        *,
        tenant: str = ACME,
        at: datetime | None = None,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        times: int = 1,
        **columns: Any,
    ) -> None:
        """Store an event, some ``times``; what is no column is a data key, as it is stored."""
        ago = timedelta(days=days, hours=hours, minutes=minutes)
        known = {
            each: columns.pop(each)
            for each in ("phase", "operation_id", "actor_id", "duration_ms", "error_code")
            if each in columns
        }
        known |= {
            "tenant_id": tenant,
            "name": name,
            "created_at": at or self.now - ago,
            "sample_rate": columns.pop("rate", 1),
            "data": Jsonb(columns),
        }
        query = (
            f"INSERT INTO tenantry.events (id, {', '.join(known)}) VALUES (%s{', %s' * len(known)})"
        )
        with self.connection.cursor() as cursor:
            cursor.executemany(query, [[uuid4(), *known.values()] for _ in range(times)])

    def reject(self, name: str, *, phase: str, operation_id: str, tenant: str | None) -> None:
        self.connection.execute(
            "INSERT INTO tenantry.rejected_events"
            " (id, tenant_id, name, phase, created_at, reason, operation_id)"
            " VALUES (%s, %s, %s, %s, %s, 'invalid', %s)",
            [uuid4(), tenant, name, phase, self.now, operation_id],
        )


class Asking(Rows):
    """Adds rows and asks questions, in one transaction."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        super().__init__(connection)
        connection.execute(_STOP_CLOCK)

    def forget(self) -> None:
        """Begin again without rows."""
        self.connection.execute("DELETE FROM tenantry.events")

    def ask(self, file: str, *, role: str = "tenantry_admin", tenant: str = "") -> list[Row]:
        """Run a file as it stands, as a member of ``role``; ``tenant`` is the one that is set."""
        return self.run(read_question(file), role=role, tenant=tenant)

    def run(self, statement: str, *, role: str = "tenantry_admin", tenant: str = "") -> list[Row]:
        self.connection.execute(
            "SELECT set_config('stopped.at', %s, true), set_config('tenantry.tenant_id', %s, true)",
            [self.now.isoformat(), tenant],
        )
        self.connection.execute(f"SET LOCAL ROLE {role}")
        rows = self.connection.execute(statement).fetchall()
        self.connection.execute("RESET ROLE")
        return [{key: _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: object) -> object:
    """Numerics as floats, and ids as text, so that a test can compare with literals."""
    if value is None or isinstance(value, (str, int, float, timedelta)):
        return value
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


@contextmanager
def open_asking(database: Database) -> Iterator[Asking]:
    with psycopg.connect(database.superuser, row_factory=dict_row) as connection:
        yield Asking(connection)
        connection.rollback()


def print_answer(database: Database, file: str, now: datetime) -> str:
    """Run a file through psql at a time of the test's; rows must have been committed."""
    script = (
        f"BEGIN; {_STOP_CLOCK}"
        f"SELECT set_config('stopped.at', '{now.isoformat()}', true) \\g /dev/null\n"
        f"SET LOCAL ROLE tenantry_admin;\n\\i {QUESTIONS / file}.sql\nROLLBACK;\n"
    )
    psql = str(database.server.binaries / "psql")
    done = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", database.superuser],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
