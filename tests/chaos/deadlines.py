"""Deadlines: flush, shutdown and exit return in time, whatever the database does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.chaos.database import BACKENDS
from tests.chaos.harness import CannotRun, Field, Truth, cell, wait_until
from tests.chaos.proxy import FaultyProxy
from tests.chaos.workers import Worker
from tests.delivery.deliveries import drain

GROUP = "Deadlines"

GRACE = 0.2
"""Seconds beyond the deadline, as promised; in the full form, on a machine of one's own."""
GRACE_OF_A_BUSY_MACHINE = 3.0
PENDING = 100
MILLISECONDS = 1e3

Trouble = Callable[[Field, FaultyProxy], Iterator[None]]


def black_hole(field: Field, proxy: FaultyProxy) -> Iterator[None]:
    proxy.black_hole()
    yield
    proxy.restore()


def lock(field: Field, proxy: FaultyProxy) -> Iterator[None]:
    with psycopg.connect(field.database.superuser) as blocker:
        blocker.execute("LOCK TABLE tenantry.events")
        yield


def stopped_backend(field: Field, proxy: FaultyProxy) -> Iterator[None]:
    found = field.database.execute(f"SELECT pid {BACKENDS}", [field.database.name])
    yield from _stopped([pid for (pid,) in found])


def stopped_server(field: Field, proxy: FaultyProxy) -> Iterator[None]:
    """Its socket takes connections, which nobody serves; those that are open lose their backend."""
    postmaster = int((field.server.data / "postmaster.pid").read_text().split()[0])
    with psycopg.connect(field.database.superuser, autocommit=True) as connection:
        stopping = contextmanager(_stopped)([postmaster])
        with stopping:
            query = f"SELECT pg_terminate_backend(pid) {BACKENDS}"
            wait_until(lambda: not connection.execute(query, [field.database.name]).fetchall())
            yield


def _stopped(pids: list[int]) -> Iterator[None]:
    assert pids
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    except PermissionError as error:
        raise CannotRun("the server is another user's: its processes cannot be stopped") from error
    finally:
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)


def _define(name: str, trouble: Trouble) -> None:
    @cell(GROUP, name)
    def deadline(field: Field) -> Truth:
        proxy = FaultyProxy(field.dsn)
        field.on_leave.callback(proxy.close)
        begin = contextmanager(trouble)
        timeouts = field.scale.of(short=(0.3,), full=(0.0, 0.2, 1.0))
        journals: list[Path] = []
        late: dict[str, float] = {"flush": 0, "shutdown": 0, "exit": 0}

        def start(**options: float) -> Worker:
            """Start one that has nothing to adopt: that would come first."""
            journals.append(field.scratch / f"journal-{len(journals)}")
            return Worker(field, dsn=proxy.dsn, journal=journals[-1], **options)

        for timeout in timeouts:
            for end in ("flush", "shutdown"):
                with start() as worker:
                    connect(worker)
                    with begin(field, proxy):
                        worker("emit", count=PENDING)
                        report = worker(end, timeout=timeout)
                        late[end] = max(late[end], report["seconds"] - timeout)
                        assert not report["settled"], report
                        assert report["pending"] == PENDING, report
                        assert report["mode"] == "journal", report
                        worker.kill()
            with start(shutdown_timeout=timeout) as worker:
                connect(worker)
                with start() as another:
                    connect(another)
                    usual = time_of_exit(another)
                with begin(field, proxy):
                    worker("emit", count=PENDING)
                    late["exit"] = max(late["exit"], time_of_exit(worker) - timeout - usual)
        grace = field.scale.of(short=GRACE_OF_A_BUSY_MACHINE, full=GRACE)
        said = ", ".join(f"{end} {late[end] * MILLISECONDS:.0f} ms" for end in late)
        assert max(late.values()) < grace, f"behind the deadline: {said}"
        assert len(field.acknowledged_ids()) == len(timeouts) * (3 * PENDING + 4)
        for journal in journals:
            assert drain(journal, proxy.dsn)
            assert not list(journal.iterdir())
        return Truth(times=3 * len(timeouts), note=f"behind the deadline: {said}")


def connect(worker: Worker) -> None:
    """See that the worker has a connection, and nothing to send."""
    worker("emit", count=1)
    assert worker("flush", timeout=30)["settled"]


def time_of_exit(worker: Worker) -> float:
    """Let a worker end; its interpreter takes some time as well, which is not ours."""
    begun = time.monotonic()
    assert worker.end() == 0
    return time.monotonic() - begun


for _name, _trouble in {
    "the database is a black hole": black_hole,
    "a stopped process behind the socket": stopped_backend,
    "a stopped server behind the socket": stopped_server,
    "a lock is held on the table": lock,
}.items():
    _define(_name, _trouble)
