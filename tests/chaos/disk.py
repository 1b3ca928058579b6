"""The disk: full, read-only, gone, damaged, shared; and what else a journal must outlive."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from tenantry.exporters.postgres import PostgresExporter
from tenantry.journal import Identity, local_process
from tenantry.record import LINE_FORMAT, Kind, format_line
from tests.chaos.database import BRISK, make_proxy
from tests.chaos.harness import TENANT, CannotRun, Field, Truth, _fresh_database, cell, wait_until
from tests.chaos.mounts import small_disk
from tests.chaos.workers import Worker, settle
from tests.delivery.deliveries import drain
from tests.journal.journals import append_event, die, make_journal, segment_files, start

GROUP = "The disk"

AS_NOBODY = {"user": 65534} if os.geteuid() == 0 else {}
"""Root may write to any directory."""


def no_connections(field: Field, *, allowed: bool) -> None:
    """Let nobody but superusers into the database, or everybody again."""
    with field.server.connect() as connection:
        limit = -1 if allowed else 0
        connection.execute(f"ALTER DATABASE {field.database.name} CONNECTION LIMIT {limit}")
        if not allowed:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %s AND usename = 'app_writer'",
                [field.database.name],
            )


# No room.


def fill(path: Path) -> None:
    """Take every byte that is left of a disk."""
    with path.open("wb", buffering=0) as rest:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while rest.write(bytes(size)):
                    pass
            except OSError:
                continue


@cell(GROUP, "journal on a full file system")
def full(field: Field) -> Truth:
    size = field.scale.of(short="3m", full="24m")
    grow = small_disk(field, field.journal, size)
    no_connections(field, allowed=False)
    with Worker(field, own=BRISK) as worker:
        worker("emit", count=50)
        fill(field.journal / "rest")
        worker("emit_until_dropped")
        stats = worker("stats")
        assert stats["dropped"] == {"disk_full": 1}, stats
        assert stats["drops"] == [["disk_full", TENANT, "tick", 1]], stats
        worker("burst", count=5_000)  # its pages are there: no SIGBUS
        (field.journal / "rest").unlink()
        no_connections(field, allowed=True)
        worker("flush", timeout=30)
        grow("64m")
        return go_on(field, worker)


def go_on(field: Field, worker: Worker) -> Truth:
    """Emit until the gap is recorded, as there is room again; it tells of every drop."""
    wait_until(lambda: worker("emit", count=1) and field.count("rejected_events"))
    settle(field, worker)
    dropped = worker("stats")["dropped"]
    gaps = field.database.execute("SELECT data::text FROM tenantry.rejected_events")
    told = [json.loads(data) for (data,) in gaps]
    assert sum(dropped.values()) == sum(sum(data.values()) for data in told), (dropped, told)
    assert dropped.keys() == {"disk_full"}, dropped
    return Truth(dropped=dropped, rejected={"gap": len(told)})


@cell(GROUP, "a disk with one segment's room")
def one_segment(field: Field) -> Truth:
    grow = small_disk(field, field.journal, "300k")
    with Worker(field, own=BRISK) as worker:
        worker("emit", count=50)
        worker("emit_until_dropped")
        worker("emit", count=200)
        report = worker("flush", timeout=30)
        assert report["settled"], report
        grow("64m")
        return go_on(field, worker)


@cell(GROUP, "read-only file system")
def read_only(field: Field) -> Truth:
    mount_anew = small_disk(field, field.scratch / "disk", "8m")
    mount_anew("ro")
    with Worker(field, journal=field.scratch / "disk" / "journal") as worker:
        worker("emit", count=500)
        report = worker("flush", timeout=30)
        assert (report["settled"], report["mode"]) == (True, "memory"), report
        assert "Read-only file system" in worker.said()
        worker("emit", count=500)  # stored at exit
    return Truth()


@cell(GROUP, "directory that may not be written to")
def not_writable(field: Field) -> Truth:
    field.scratch.chmod(0o755)
    field.acknowledged.touch()
    field.acknowledged.chmod(0o666)
    field.journal.mkdir(mode=0o555)
    os.chown(field.journal, AS_NOBODY.get("user", -1), -1)
    with Worker(field, dsn=make_proxy(field).dsn, own=AS_NOBODY) as worker:
        worker("emit", count=500)
        report = worker("flush", timeout=30)
        assert (report["settled"], report["mode"]) == (True, "memory"), report
        assert "Permission denied" in worker.said()
    return Truth()


@cell(GROUP, "deleted while in use")
def deleted(field: Field) -> Truth:
    with Worker(field, own=BRISK) as worker:
        worker("emit", count=200)
        settle(field, worker)
        no_connections(field, allowed=False)
        worker("emit", count=200)
        shutil.rmtree(field.journal)
        worker("emit_until_dropped")
        no_connections(field, allowed=True)
        settle(field, worker)
        stats = worker("stats")
        assert stats["dropped"].keys() == {"disk_full"}, stats
        field.journal.mkdir()
        worker("emit", count=100)
    return Truth(dropped={"disk_full": None})


# Whose it is.


@cell(GROUP, "two destinations in one directory")
def two_destinations(field: Field) -> Truth:
    other = _fresh_database(field.server)
    field.on_leave.callback(field.database.execute, f"DROP DATABASE {other.name} WITH (FORCE)")
    no_connections(field, allowed=False)
    theirs = replace(field, database=other, scratch=field.scratch / "theirs")
    theirs.scratch.mkdir()
    with Worker(field) as own, Worker(theirs, journal=field.journal) as their:
        no_connections(theirs, allowed=False)
        own("emit", count=300)
        their("emit", count=300)
        own.kill()
        their.kill()
    before = read_all(field.journal)
    for each in (field, theirs):
        no_connections(each, allowed=True)
    with Worker(field) as own:
        wait_until(lambda: own("stats")["adopted"] == 1 and len(field.journals()) == 2)
        settle(field, own)
    assert field.count() == 300
    (left,) = field.journals()
    assert other.execute("SELECT count(*) FROM tenantry.journal_cursors") == [(0,)]
    now = read_all(left)
    assert now == {path: before[path] for path in now}, "another's journal was touched"
    assert drain(field.journal, other.writer)
    assert not left.exists()
    query = "SELECT count(DISTINCT id), count(*) FROM tenantry.events"
    assert other.execute(query) == [(300, 300)]
    return Truth()


def read_all(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@cell(GROUP, "journal of another user")
def another_user(field: Field) -> Truth:
    if os.geteuid() != 0:
        raise CannotRun("only root can start processes of another user")
    field.scratch.chmod(0o755)
    field.acknowledged.touch()
    field.acknowledged.chmod(0o666)
    no_connections(field, allowed=False)
    dsn = make_proxy(field).dsn  # the server's socket is its own user's
    with Worker(field, dsn=dsn) as owner:
        owner("emit", count=300)
        owner.kill()
    os.chown(field.journal, AS_NOBODY.get("user", -1), -1)
    before = read_all(field.journal)
    no_connections(field, allowed=True)
    with Worker(field, dsn=dsn, own={**AS_NOBODY, "ADOPTION_INTERVAL": 0.01}) as stranger:
        stranger("emit", count=300)
        settle(field, stranger)
        assert stranger("stats")["adopted"] == 0
        assert stranger("stats")["mode"] == "journal"
    assert read_all(field.journal) == before
    assert field.count() == 300
    assert drain(field.journal, dsn)
    return Truth()


# Adoption.


def identity_of(field: Field, process: str = "") -> Identity:
    fingerprint = PostgresExporter(field.dsn).fingerprint
    return Identity("dead", fingerprint, "uuid", process or local_process())


@cell(GROUP, "many processes adopt the same dead journals at once")
def adopted_at_once(field: Field) -> Truth:
    rounds, processes, each = field.scale.of(short=1, full=5), 4, 20
    ids: list[str] = []
    for round_ in range(rounds):
        for number in range(round_ * each + 1, (round_ + 1) * each + 1):
            journal = make_journal(field.journal, identity=identity_of(field), segment_bytes=4096)
            ids.append(str(UUID(int=number)))
            append_event(journal, number)
            operation = {"id": str(UUID(int=number << 32)), "data": {"url": "a.pdf"}}
            start(journal, str(UUID(int=number << 64)), **operation)
            die(journal)
        with (field.scratch / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            adopters = [
                field.start("disk_adopter.py", field.dsn, field.journal, gate.name)
                for _ in range(processes)
            ]
            for adopter in adopters:
                wait_until(lambda adopter=adopter: "ready" in adopter.output)
        assert [adopter.wait() for adopter in adopters] == [0] * processes, adopters[0].errors
        assert field.journals() == []
        adopted = [int(adopter.output.split()[-1]) for adopter in adopters]
        assert sum(adopted) == each, adopted
    return Truth(times=rounds, acknowledged=tuple(ids), in_flight=rounds * each)


@cell(GROUP, "process id used again")
def reused_pid(field: Field) -> Truth:
    host = local_process().partition(":")[0]
    with Worker(field) as ended:
        ended("emit", count=10)
    living = make_journal(field.journal, identity=identity_of(field, f"{host}:{ended.pid}"))
    append_event(living, 1)
    with Worker(field, own={"ADOPTION_INTERVAL": 0.01}) as worker:
        worker("emit", count=10)
        dead = make_journal(field.journal, identity=identity_of(field, f"{host}:{worker.pid}"))
        append_event(dead, 2)
        die(dead)
        wait_until(lambda: worker("stats")["adopted"] == 1)
        wait_until(lambda: dead.directory not in field.journals())
        assert living.directory in field.journals()
    die(living)
    ids = (*field.acknowledged_ids(), *(str(UUID(int=number)) for number in (1, 2)))
    return Truth(acknowledged=ids)


# Damage.


def write_dead(field: Field, first: int, count: int) -> tuple[Path, bytes]:
    """Leave a journal of one segment behind; returns its file and the lines in it."""
    journal = make_journal(field.journal, identity=identity_of(field), segment_bytes=1 << 15)
    for number in range(first, first + count):
        append_event(journal, number)
    (file,) = segment_files(die(journal))
    return file, file.read_bytes().rstrip(b"\0")


def ids_of(first: int, count: int) -> list[str]:
    return [str(UUID(int=number)) for number in range(first, first + count)]


@cell(GROUP, "segments cut at every byte")
def cut(field: Field) -> Truth:
    step, count = field.scale.of(short=53, full=1), 3
    whole, left_alone = list[str](), dict[Path, bytes]()
    _, sample = write_dead(field, 1, count)
    shutil.rmtree(field.journal)
    header = sample.index(b"\n")  # the one offset where either is right: nothing is behind it
    offsets = [offset for offset in range(0, len(sample), step) if offset != header]
    for offset in offsets:
        first = 1 + offset * count
        file, content = write_dead(field, first, count)
        torn = content[:offset]
        file.write_bytes(torn + bytes(offset % 2 * (4096 - offset % 4096)))
        if b"\n" in torn:
            whole += ids_of(first, torn.count(b"\n") - 1)
        else:
            left_alone[file] = content  # its header is torn: nobody knows whose it is
            whole += ids_of(first, count)
    field.drain()
    assert {file.parent for file in left_alone} == set(field.journals())
    for file, content in left_alone.items():
        file.write_bytes(content)
    return Truth(times=len(offsets), acknowledged=tuple(whole))


@cell(GROUP, "segments with a zeroed page")
def zeroed(field: Field) -> Truth:
    count, lost, whole, pages = 80, 0, list[str](), (1, 2, 3)
    for page in pages:
        first = page * 1000
        file, content = write_dead(field, first, count)
        assert len(content) > (page + 1) * 4096
        damaged = content[: page * 4096] + bytes(4096) + content[(page + 1) * 4096 :]
        file.write_bytes(damaged)
        kept = set(damaged.split(b"\n"))
        lines = content.split(b"\n")[1:-1]
        found = [n for n, line in zip(ids_of(first, count), lines, strict=True) if line in kept]
        whole += found
        lost += count - len(found)
    reason = "what a page of zeros took had been accepted; it is counted as interrupted"
    return Truth(
        times=len(pages),
        acknowledged=tuple(whole),
        dropped={"interrupted": lost},
        waived={"under way": reason},
        note=reason,
    )


@cell(GROUP, "segments with a flipped bit")
def flipped(field: Field) -> Truth:
    times, count, whole = field.scale.of(short=20, full=300), 4, list[str]()
    for number in range(times):
        first = 1 + number * count
        file, content = write_dead(field, first, count)
        lines = content.splitlines(keepends=True)
        hit = 1 + number % count
        line = bytearray(lines[hit])
        position = number * 7 % (len(line) - 1)
        line[position] ^= 4 << number % 3  # of no printable character a line feed or a zero
        lines[hit] = bytes(line)
        file.write_bytes(b"".join(lines))
        ids = ids_of(first, count)
        whole += ids[: hit - 1] + ids[hit:]
    return Truth(
        times=times,
        acknowledged=tuple(whole),
        rejected={"corrupt": times},
        waived={"under way": "a damaged last line is accepted, and its number is not readable"},
    )


@cell(GROUP, "segments of an older and of a newer format")
def other_format(field: Field) -> Truth:
    originals: dict[Path, bytes] = {}
    for first, version in ((1, 0), (11, 99)):
        file, content = write_dead(field, first, 10)
        header, _, rest = content.partition(b"\n")
        other = (
            header[len("00000000 H 0 ") :]
            .decode()
            .replace(f'"format": {LINE_FORMAT}', f'"format": {version}')
        )
        file.write_bytes(format_line(Kind.HEADER, 0, other) + rest)
        originals[file] = content
    before = read_all(field.journal)
    with Worker(field) as worker:
        worker("emit", count=10)
        settle(field, worker)
        for version in (0, 99):
            wait_until(lambda version=version: f"it has the format {version}," in worker.said())
    assert read_all(field.journal) == before
    for file, content in originals.items():  # what the version that wrote it finds
        file.write_bytes(content)
    return Truth(acknowledged=(*field.acknowledged_ids(), *ids_of(1, 20)))


# Time, forks, and operations that last.


@cell(GROUP, "clock put forward and back by a day")
def clock(field: Field) -> Truth:
    day = 86_400
    with Worker(field) as worker:
        ended = worker("begin")
        for shift in (day, -day, day, 0):
            worker("shift_clock", seconds=shift)
            worker("emit", count=50)
            worker("begin")
        worker("shift_clock", seconds=-day)
        worker("emit", count=50)
        worker("finish", operation_id=ended)
        settle(field, worker)
        worker.kill()
    assert field.drain().code == 0
    wrong = field.database.execute(
        "SELECT count(*) FROM tenantry.events AS s JOIN tenantry.events AS e USING (operation_id)"
        " WHERE s.phase = 'started' AND e.error_code = 'abandoned' AND e.created_at < s.created_at"
    )
    assert wrong == [(0,)], "an abandoned end is dated before its start"
    ((duration,),) = field.database.execute(
        "SELECT duration_ms FROM tenantry.events WHERE phase = 'completed'"
    )
    assert 0 <= duration < 60_000
    return Truth(times=5, in_flight=4)


@cell(GROUP, "fork inside an open with")
def fork(field: Field) -> Truth:
    times = field.scale.of(short=5, full=50)
    with Worker(field) as worker:
        for _ in range(times):
            worker("fork_within_a_block")
    return Truth(times=times, in_flight=0)


@cell(GROUP, "operation open across many rotations")
def rotations(field: Field) -> Truth:
    count = field.scale.of(short=4_000, full=60_000)
    with Worker(field) as worker:
        ended, _ = worker("begin"), worker("begin")
        worker("emit", count=count, text="x" * 1_500)
        segments = worker("stats")["segments"]
        assert segments > count // 1_500, segments
        worker("finish", operation_id=ended)
        settle(field, worker)
        worker.kill()
    return Truth(times=segments, in_flight=1)


@cell(GROUP, "completed event handed to a transaction: committed, rolled back, failed to commit")
def handed(field: Field) -> Truth:
    times = field.scale.of(short=2, full=40)
    field.database.execute("CREATE TABLE public.host (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    field.database.execute("GRANT INSERT ON public.host TO app_writer")
    endings = {"commits": ["started", "completed"], "rolls back": ["started"], "fails": ["started"]}
    expected: dict[str, list[str]] = {}
    with Worker(field) as worker:
        for _ in range(times):
            for ending, phases in endings.items():
                expected[worker("hand_over", dsn=field.dsn, ending=ending)] = phases
        worker("emit", count=10)
        worker.kill()
    assert field.drain().code == 0
    found = field.database.execute(
        "SELECT operation_id::text, array_agg(phase ORDER BY id) FROM tenantry.events"
        " WHERE operation_id IS NOT NULL GROUP BY 1"
    )
    assert dict(found) == expected
    return Truth(
        times=3 * times,
        handed=3 * times,
        committed=times,
        waived={"operations": "where the transaction did not commit, its end is unresolved"},
    )
