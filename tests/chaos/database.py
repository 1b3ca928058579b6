"""The database: away, stopped, cut off, unwilling, full, or older than it was."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random, SystemRandom

import psycopg

from tenantry.database.migrate import migrate
from tests.chaos.harness import Field, Truth, cell, wait_until
from tests.chaos.mounts import small_disk
from tests.chaos.proxy import FaultyProxy, random_faults
from tests.chaos.workers import Worker, await_trouble, settle

GROUP = "The database"

BRISK = {"LONGEST_BACKOFF": 0.1, "LONGEST_SOON": 0.1, "HOLD": 0.1}
"""What passes within a cell is tried again soon."""
IMPATIENT = {**BRISK, "EXPORT_TIMEOUT": 0.5}
"""And a connection without an answer is given up soon."""

BACKENDS = "FROM pg_stat_activity WHERE application_name = 'tenantry' AND datname = %s"
EVENTS_A_SEGMENT = 3_000
"""At the least."""
FLAT = 8 << 20
"""Bytes of private memory by which a worker may grow while it keeps events for later."""


def make_proxy(field: Field) -> FaultyProxy:
    proxy = FaultyProxy(field.dsn)
    field.on_leave.callback(proxy.close)
    return proxy


def let_emit(field: Field, events: int, seconds: float = 60) -> None:
    """Wait until the workers have emitted so many more events."""
    goal = field.size() + 37 * events
    wait_until(lambda: field.size() >= goal, seconds, f"the emission of {events} events")


# Away.


@cell(GROUP, "refuses connections")
def refuses(field: Field) -> Truth:
    seconds = field.scale.of(short=1.0, full=60.0)
    proxy = make_proxy(field)
    with Worker(field, dsn=proxy.dsn) as worker:
        worker("emit", count=100)
        settle(field, worker)
        before = worker("memory")
        proxy.refuse()
        worker("start_load", pause=0.001)
        over = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > over, seconds + 10)
        after, pending = worker("memory"), worker("stats")["pending"]
        assert "refused" in worker("stats")["error"]
        proxy.take_again()
        let_emit(field, 100)
        worker("end_load")
        settle(field, worker)
    grown = after["private"] - before["private"]
    assert grown < FLAT, f"private memory grew by {grown} bytes"
    segments = pending // EVENTS_A_SEGMENT + 3  # each is a file that is held open
    assert after["descriptors"] <= before["descriptors"] + segments, (before, after)
    return Truth(note=f"{seconds:g} s; private memory grew by {grown >> 10} KiB")


@contextmanager
def blocked_batch(field: Field) -> Iterator[None]:
    """Stand in the way of a batch: its cursor is moved, its rows wait for a lock."""
    with suppress(psycopg.OperationalError), psycopg.connect(field.database.superuser) as blocker:
        blocker.execute("LOCK TABLE tenantry.events")
        with psycopg.connect(field.database.superuser, autocommit=True) as watcher:
            query = f"SELECT 1 {BACKENDS} AND wait_event_type = 'Lock'"
            wait_until(lambda: watcher.execute(query, [field.database.name]).fetchone())
        yield


def _define_stopped(mode: str) -> None:
    @cell(GROUP, f"stopped in mid-batch ({mode})")
    def stopped(field: Field) -> Truth:
        times = field.scale.of(short=1, full=8)
        with Worker(field, own=BRISK) as worker:
            worker("start_load")
            for _ in range(times):
                with blocked_batch(field):
                    field.server.control("stop", "-w", "-m", mode)
                let_emit(field, 100)
                field.server.start()
                let_emit(field, 100)
            worker("end_load")
            settle(field, worker)
        return Truth(times=times)


for _mode in ("fast", "immediate"):
    _define_stopped(_mode)


# The network.


@cell(GROUP, "connections cut and held at random bytes, either way")
def cut(field: Field) -> Truth:
    times, seed = field.scale.of(short=20, full=250), SystemRandom().randrange(2**32)
    proxy = make_proxy(field)
    with Worker(field, dsn=proxy.dsn, own=IMPATIENT) as worker:
        worker("start_load")
        let_emit(field, 100)
        proxy.faults.extend(random_faults(Random(seed), times))
        wait_until(lambda: not proxy.faults, seconds=120)
        worker("end_load")
        settle(field, worker)
    assert len(proxy.done) == times
    return Truth(times=times, note=f"seed {seed}")


@cell(GROUP, "accepts bytes and answers nothing")
def black_hole(field: Field) -> Truth:
    times = field.scale.of(short=1, full=8)
    proxy = make_proxy(field)
    with Worker(field, dsn=proxy.dsn, own=IMPATIENT) as worker:
        worker("start_load")
        for _ in range(times):
            proxy.black_hole()
            await_trouble(worker, "did not answer in time")
            proxy.restore()
            let_emit(field, 100)
        worker("end_load")
        settle(field, worker)
    return Truth(times=times)


@cell(GROUP, "answer to a COMMIT lost, on a slow network")
def lost_answer(field: Field) -> Truth:
    times = field.scale.of(short=5, full=60)
    proxy = make_proxy(field)
    proxy.delay = 0.003
    with Worker(field, dsn=proxy.dsn, own=BRISK) as worker:
        worker("start_load")
        proxy.lose_commits = times
        wait_until(lambda: proxy.commits_lost == times, seconds=60)
        worker("end_load")
        settle(field, worker)
    return Truth(times=times)


@cell(GROUP, "pg_terminate_backend in a loop")
def terminated(field: Field) -> Truth:
    times = field.scale.of(short=15, full=200)
    with (
        Worker(field, own=BRISK) as worker,
        psycopg.connect(field.database.superuser, autocommit=True) as connection,
    ):
        worker("start_load")
        terminate = f"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) {BACKENDS}"

        def has_terminated() -> bool:
            (count,) = connection.execute(terminate, [field.database.name]).fetchone()
            return count > 0

        for _ in range(times):
            wait_until(has_terminated, what="a connection to terminate")
        worker("end_load")
        settle(field, worker)
    return Truth(times=times)


# Unwilling.


@cell(GROUP, "read-only for a while")
def read_only(field: Field) -> Truth:
    def switch(value: str) -> None:
        with field.server.connect() as connection:
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")

    field.on_leave.callback(switch, "off")
    with Worker(field, own=BRISK) as worker:
        worker("start_load")
        let_emit(field, 100)
        switch("on")
        await_trouble(worker, "25006")
        let_emit(field, 100)
        with field.server.connect(options="-c default_transaction_read_only=off") as connection:
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")
        let_emit(field, 100)
        worker("end_load")
        settle(field, worker)
    return Truth()


@cell(GROUP, "a standby, then promoted")
def standby(field: Field) -> Truth:
    with Worker(field, own=BRISK) as worker:
        worker("start_load")
        let_emit(field, 100)
        field.server.control("stop", "-w", "-m", "fast")
        signal = field.server.data / "standby.signal"
        signal.touch()
        owner = field.server.data.stat()
        shutil.chown(signal, owner.st_uid, owner.st_gid)
        field.server.start()
        await_trouble(worker, "25006")
        let_emit(field, 100)
        field.server.control("promote", "-w")
        let_emit(field, 100)
        worker("end_load")
        settle(field, worker)
    return Truth()


@cell(GROUP, "full tablespace")
def full_tablespace(field: Field) -> Truth:
    disk = field.scratch / "tablespace"
    field.scratch.chmod(0o755)
    grow = small_disk(field, disk, "3m")
    owner = field.server.data.stat()
    shutil.chown(disk, owner.st_uid, owner.st_gid)
    partition = f"events_{time.strftime('%Y_%m', time.gmtime())}"
    space = f"{field.database.name}_small"

    def leave() -> None:  # before it is unmounted
        field.database.execute(f"ALTER TABLE tenantry.{partition} SET TABLESPACE pg_default")
        field.database.execute(f"DROP TABLESPACE {space}")

    with field.server.connect() as connection:
        connection.execute(f"CREATE TABLESPACE {space} LOCATION '{disk}'")
    field.on_leave.callback(leave)
    field.database.execute(f"ALTER TABLE tenantry.{partition} SET TABLESPACE {space}")
    with Worker(field, own=BRISK) as worker:
        worker("start_load", pause=0)
        await_trouble(worker, "53100")
        let_emit(field, 100)
        grow("64m")
        let_emit(field, 100)
        worker("end_load")
        settle(field, worker)
    return Truth()


@cell(GROUP, "no partition for the events")
def no_partition(field: Field) -> Truth:
    month = f"tenantry.events_{time.strftime('%Y_%m', time.gmtime())}"
    ((bounds,),) = field.database.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass", [month]
    )
    with Worker(field, own=BRISK) as worker:
        worker("start_load")
        let_emit(field, 100)
        field.database.execute(
            "ALTER TABLE tenantry.events DETACH PARTITION tenantry.events_default"
        )
        field.database.execute(f"ALTER TABLE tenantry.events DETACH PARTITION {month}")
        await_trouble(worker, "no partition of relation")
        let_emit(field, 100)
        attach = f"ALTER TABLE tenantry.events ATTACH PARTITION {month} {bounds}"
        field.database.execute(attach)
        worker("end_load")
        settle(field, worker)
    return Truth()


@cell(GROUP, "privileges revoked and given back")
def revoked(field: Field) -> Truth:
    privileges = (
        "INSERT ON tenantry.events",
        "INSERT ON tenantry.event_tallies",
        "UPDATE ON tenantry.journal_cursors",
        "SELECT ON tenantry.migrations",
        "USAGE ON SCHEMA tenantry",
    )
    with (
        Worker(field, own=BRISK) as worker,
        psycopg.connect(field.database.superuser, autocommit=True) as connection,
    ):
        worker("start_load", pause=0.0002)
        for privilege in privileges:
            let_emit(field, 50)
            connection.execute(f"REVOKE {privilege} FROM tenantry_writer")
            if "migrations" in privilege:  # it is read at the beginning of a connection
                connection.execute(
                    f"SELECT pg_terminate_backend(pid) {BACKENDS}", [field.database.name]
                )
            await_trouble(worker, "does not let 'app_writer' write events")
            connection.execute(f"GRANT {privilege} TO tenantry_writer")
            wait_until(lambda: worker("stats")["error"] is None)
        worker("end_load")
        settle(field, worker)
    return Truth(times=len(privileges))


@cell(GROUP, "tables missing, then migrated; renamed, and named again")
def missing(field: Field) -> Truth:
    field.database.execute("DROP SCHEMA tenantry CASCADE")
    with (
        Worker(field, own=BRISK) as worker,
        psycopg.connect(field.database.superuser, autocommit=True) as connection,
    ):
        worker("start_load")
        await_trouble(worker, "has no Tenantry tables")
        migrate(field.database.superuser)
        wait_until(lambda: worker("stats")["error"] is None)
        for table in ("events", "journal_cursors"):
            connection.execute(f"ALTER TABLE tenantry.{table} RENAME TO away")
            await_trouble(worker, "42P01")
            connection.execute(f"ALTER TABLE tenantry.away RENAME TO {table}")
            wait_until(lambda: worker("stats")["error"] is None)
        worker("end_load")
        settle(field, worker)
    return Truth(times=3)


# Older than it was.


@cell(GROUP, "failover to an older state, and replay")
def failover(field: Field) -> Truth:
    after = field.scale.of(short=1_500, full=40_000)
    data: Path = field.server.data
    copy = data.with_name("copy")
    with Worker(field, own=BRISK) as worker:
        worker("emit", count=500)
        settle(field, worker)
        field.server.control("stop", "-w", "-m", "fast")
        subprocess.run(["cp", "-a", data, copy], check=True)  # its owner is kept
        field.server.start()
        worker("emit", count=after)
        settle(field, worker)
        assert field.count() == 500 + after
        field.server.control("stop", "-w", "-m", "immediate")
        shutil.rmtree(data)
        copy.rename(data)
        field.server.start()
        assert field.count() == 500
        worker("emit", count=10)
        wait_until(
            lambda: worker("flush", timeout=1)["settled"] and field.count() == 510 + after,
            what="the replay",
        )
        settle(field, worker)
    return Truth(note=f"{after} events were stored behind the backup")
