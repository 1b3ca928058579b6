"""Connections to PostgreSQL: with deadlines, and with errors that say where, never the password.

Knows nothing of tables.
"""

from __future__ import annotations

import ipaddress
import math
import os
import time
from collections.abc import Generator, Mapping, Sequence
from configparser import ConfigParser, Error
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen, PQGenConn
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from tenantry.exceptions import ConfigurationError, DatabaseUnreachable

_Result = TypeVar("_Result")

_WAKE_UP: Final = 0.05
"""Seconds between two looks at the clock while the server is silent."""

_connect_deadline: ContextVar[float] = ContextVar("tenantry_connect_deadline", default=math.inf)


class DeadlineReached(TimeoutError):
    """The deadline passed while waiting for the server; the connection is closed."""


class DeadlineConnection(psycopg.Connection[TupleRow]):
    """A connection on which no wait outlasts ``deadline``, whatever the server does.

    A server that accepts bytes and never answers is invisible to TCP and to the server's own
    timeouts. Past the deadline (``time.monotonic()`` seconds, settable at any time) the connection
    is closed and `DeadlineReached` raised; what became of the last statement is unknown.

    A class of our own also stays out of reach of instrumentation that replaces
    ``psycopg.connect``.
    """

    deadline: float = math.inf

    def wait(
        self, gen: PQGen[_Result], interval: float = _WAKE_UP, timeout: float | None = None
    ) -> _Result:
        deadline = self.deadline
        if timeout is not None:
            deadline = min(deadline, time.monotonic() + timeout)
        try:
            return super().wait(_bounded(gen, deadline), min(interval, _WAKE_UP))
        except DeadlineReached:
            self.pgconn.finish()
            # Else it is closed when it is forgotten, and what it raises then is printed.
            with suppress(psycopg.Error, RuntimeError):
                gen.close()
            raise

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        # psycopg's connect_timeout is whole seconds, two at least, for each host in turn.
        return (yield from _bounded(super()._connect_gen(conninfo), _connect_deadline.get()))


def _bounded(gen: Generator[Any, Any, _Result], deadline: float) -> Generator[Any, Any, _Result]:
    try:
        waiting_for = next(gen)
        while True:
            ready = yield waiting_for
            if time.monotonic() >= deadline:
                raise DeadlineReached("the database did not answer in time")
            waiting_for = gen.send(ready)
    except StopIteration as stop:
        result: _Result = stop.value
        return result


def connect(
    dsn: str, *, connect_timeout: float = 10.0, deadline: float = math.inf
) -> DeadlineConnection:
    """Open a connection in autocommit mode that leaves no state in the session.

    It prepares no statement and sets nothing, so that it may go through PgBouncer in transaction
    mode. Blocks for ``connect_timeout`` seconds at most, and not past ``deadline``.

    Raises:
        DatabaseUnreachable: with host, port and database, never the password.
        ConfigurationError: when ``dsn`` cannot be read.
    """
    given = _parse(dsn)
    remaining = min(connect_timeout, deadline - time.monotonic())
    defaults = {
        "application_name": "tenantry",
        # Milliseconds until the kernel gives up on bytes that nobody acknowledges.
        "tcp_user_timeout": str(round(connect_timeout * 1000)),
    }
    token = _connect_deadline.set(time.monotonic() + remaining)
    try:
        connection = DeadlineConnection.connect(
            make_conninfo("", **{**defaults, **given, "client_encoding": "utf8"}),
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(2, math.ceil(remaining)),
        )
    except (psycopg.OperationalError, DeadlineReached) as error:
        why = _first_line(error)
        raise DatabaseUnreachable(
            f"Cannot connect to {describe_destination(dsn)}: {why}. {_remedy(why)}"
        ) from error
    finally:
        _connect_deadline.reset(token)
    connection.deadline = deadline
    return connection


def describe_destination(dsn: str) -> str:
    """Name the server and the database of ``dsn`` for a message: ``host:port/database``."""
    parameters = _resolve(dsn)
    hosts = _listed(parameters.get("hostaddr") or parameters.get("host") or "local socket")
    ports = _listed(parameters.get("port") or "5432")
    if len(ports) == 1:
        ports = list(ports) * len(hosts)
    servers = ",".join(f"{host}:{port or 5432}" for host, port in zip(hosts, ports, strict=False))
    name = parameters.get("dbname") or parameters.get("user", "")
    if _is_conninfo(name):  # of the service file, or of PGDATABASE
        raise _unreadable()
    return f"{servers}/{name}"


def destination_fingerprint(dsn: str, schema: str) -> str:
    """Return what tells one destination from another: servers, database and schema.

    A pure function of ``dsn``, of libpq's environment variables and of its service file; no user,
    no password, no connection.
    """
    return f"{describe_destination(dsn)}/{schema}"


def _listed(value: str) -> Sequence[str]:
    return value.split(",")


def _parse(dsn: str) -> dict[str, str]:
    try:
        given = {
            key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None
        }
    except psycopg.ProgrammingError:
        given = None  # libpq quotes the offending part, which may be a password
    if (
        given is None
        or _is_cut_within_the_password(dsn, given)
        or _is_conninfo(given.get("dbname", ""))
    ):
        raise _unreadable()
    return given


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "The DSN cannot be read. Write postgresql://user:password@host:port/database, with "
        "special characters percent-encoded, or host=… port=… dbname=… user=…."
    )


def _is_conninfo(database: str) -> bool:
    """Say whether a database's name is a connection string, which may hold a password."""
    return "=" in database or "://" in database


def _is_cut_within_the_password(dsn: str, given: Mapping[str, str]) -> bool:
    """Say whether libpq took part of an unescaped password for host, port or database."""
    path = dsn.partition("://")[2].partition("?")[0].partition("/")[2]
    return (
        (dsn.startswith(("postgresql://", "postgres://")) and "@" in path)
        or not all(_is_host(host) for host in _listed(given.get("host", "")))
        or not all(
            port.strip() == "" or (port.strip().isascii() and port.strip().isdecimal())
            for port in _listed(given.get("port", ""))
        )
    )


def _is_host(host: str) -> bool:
    """Say whether it is a name, an address, or a socket's directory (``@``: an abstract one)."""
    if host.startswith("/"):
        return True
    if "@" in host[1:]:
        return False
    if ":" not in host or host.startswith("@"):
        return True
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _resolve(dsn: str) -> dict[str, str]:
    """Add what libpq would: the service file, then the environment, then its own defaults."""
    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }
    given = _parse(dsn)
    return {**defaults, **_read_service(given.get("service")), **given}


def _read_service(name: str | None) -> dict[str, str]:
    """Read a service as libpq does (its manual, "The Connection Service File")."""
    if name is None:
        return {}  # one that PGSERVICE names is among libpq's defaults already
    files = [Path(os.environ.get("PGSERVICEFILE", Path.home() / ".pg_service.conf"))]
    if "PGSYSCONFDIR" in os.environ:
        files.append(Path(os.environ["PGSYSCONFDIR"]) / "pg_service.conf")
    for file in files:
        parser = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
        try:
            parser.read(file)
        except Error as error:  # its text quotes the line, which may hold a password
            raise ConfigurationError(
                f"The service file {file} cannot be read ({type(error).__name__}): it takes "
                "[sections] of lines such as host=…"
            ) from None
        if parser.has_section(name):
            return dict(parser[name])
    return {}


def _remedy(why: str) -> str:
    """Say what to do; libpq passes on the server's own answer as text, without its SQLSTATE."""
    if "FATAL:" not in why:
        return (
            "Check that the server runs and that the DSN names its host, port, user and database."
        )
    if "authentication failed" in why or "pg_hba.conf" in why or "role " in why:
        return "Check the user and the password of the DSN, and that the server lets them in."
    if "database " in why and "does not exist" in why:
        return "Create the database, or correct its name in the DSN."
    return "The server runs; do what it asks for, or wait until it takes connections."


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
