"""Adoption: the journal of a dead process is taken over by one other, once."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tenantry.exporters import Batch, Outcome
from tenantry.journal import Slot, adopt, journal_directories
from tenantry.journal.files import directory_bytes, try_lock
from tenantry.record import Kind, derived_id, format_line, renumber
from tenantry.shipper import Shipper, make_end
from tests.journal.journals import (
    DESTINATION,
    IDENTITY,
    TENANT,
    adopted,
    append_event,
    close,
    die,
    end,
    make_journal,
    make_json,
    rows_in,
    segment_files,
    start,
)

FOREVER = float("inf")
LATER = "2026-11-22T10:00:07.000000+00:00"


class Collecting:
    """An exporter that keeps the rows."""

    tenant_type = "uuid"

    def __init__(self) -> None:
        self.events: list[dict] = []
        self.batches: list[Batch] = []

    def export(self, batch: Batch, deadline: float) -> Outcome:
        self.batches.append(batch)
        self.events += [json.loads(event) for event in batch.events]
        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def close(self) -> None:
        pass


def drain(root: Path, destination: str = DESTINATION) -> list[dict]:
    exporter = Collecting()
    Shipper(exporter, None, root=root, destination=destination).drain(FOREVER)
    return exporter.events


def test_living_journal_is_left_alone(tmp_path: Path):
    journal = make_journal(tmp_path)
    append_event(journal, 1)
    assert adopt(journal.directory, destination=DESTINATION) is None
    assert drain(tmp_path) == []
    die(journal)
    assert len(drain(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_journal_being_made_is_not_seen_and_removed_when_nobody_finishes_it(tmp_path: Path):
    unfinished = tmp_path / ".018f6f0e-0000-7000-8000-000000000001"
    somebodys = tmp_path / ".git"
    for directory in (unfinished, somebodys):
        directory.mkdir()
        (directory / "owner.lock").touch()
    assert journal_directories(tmp_path) == []
    assert drain(tmp_path) == []
    assert unfinished.exists()
    for directory in (unfinished, somebodys):
        os.utime(directory, (0, 0))
    assert drain(tmp_path) == []
    assert list(tmp_path.iterdir()) == [somebodys]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make what another user may not read")
def test_entries_of_another_user_are_left_alone(tmp_path: Path):
    for directory in (*tmp_path.parents, tmp_path):
        if directory.stat().st_uid == 0 and directory not in {Path("/"), Path("/tmp")}:
            directory.chmod(directory.stat().st_mode | 0o055)
    root = tmp_path / "journals"
    theirs = die(make_journal(root))
    open_to_read = die(make_journal(root))
    open_to_read.chmod(0o755)
    (root / "lost+found").mkdir(mode=0o700)
    os.chown(root, 65534, -1)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        said = "it got no further than setuid"
        try:
            os.setuid(65534)
            own = make_journal(root)
            append_event(own, 1)
            die(own)
            said = f"{len(drain(root))} {sum(directory_bytes(root, '.settled')) > 0}"
        except BaseException as error:  # noqa: BLE001  # told to the parent
            said = repr(error)
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    assert os.read(read, 1000).decode() == "1 True"
    os.close(read)
    assert theirs.exists()
    assert open_to_read.exists()


def test_directory_whose_name_is_no_journal_id_is_left_alone(tmp_path: Path):
    journal = make_journal(tmp_path)
    append_event(journal, 1)
    backup = die(journal).rename(tmp_path / "backup")
    assert journal_directories(tmp_path) == []
    assert backup.exists()


def test_journal_that_died_before_its_first_line_is_removed(tmp_path: Path):
    directory = die(make_journal(tmp_path))
    for file in segment_files(directory):
        file.unlink()
    assert drain(tmp_path) == []
    assert not directory.exists()


def test_lock_file_that_is_removed_before_it_is_locked_is_no_lock(tmp_path: Path, monkeypatch):
    path = tmp_path / "owner.lock"
    path.touch()
    lock = fcntl.flock

    def lock_too_late(fd: int, operation: int) -> None:
        path.unlink()
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock_too_late)
    assert try_lock(path, create=False) is None


@pytest.mark.parametrize(
    "identity",
    [replace(IDENTITY, destination="db.example:5432/app/other")],
    ids=["other destination"],
)
def test_journal_of_another_destination_is_left_alone(tmp_path: Path, identity, caplog):
    journal = make_journal(tmp_path, identity=identity)
    append_event(journal, 1)
    directory = die(journal)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    assert drain(tmp_path) == []
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
    assert caplog.records == []
    assert len(drain(tmp_path, identity.destination)) == 1


def test_unknown_format_is_left_alone_and_reported_once(tmp_path: Path, caplog):
    journal = make_journal(tmp_path)
    append_event(journal, 1)
    (file,) = segment_files(die(journal))
    header, rest = file.read_bytes().split(b"\n", 1)
    newer = header[len("00000000 H 0 ") :].decode().replace('"format": 1', '"format": 99')
    file.write_bytes(format_line(Kind.HEADER, 0, newer) + rest)
    shipper = Shipper(Collecting(), None, root=tmp_path, destination=DESTINATION)
    shipper.adopt_dead()
    shipper.adopt_dead()
    (record,) = caplog.records
    assert "it has the format 99, which this version does not know (it knows 1)" in record.message
    assert "tenantry drain" in record.message
    assert file.exists()


def test_tenants_of_another_type_are_left_alone_and_reported(tmp_path: Path, caplog):
    journal = make_journal(tmp_path, identity=replace(IDENTITY, tenant_type="bigint"))
    append_event(journal, 1)
    directory = die(journal)
    own = make_journal(tmp_path)
    shipper = Shipper(Collecting(), own, root=tmp_path, destination=DESTINATION)
    shipper.adopt_dead()
    assert shipper.adopted == 0
    assert "its tenants are of type bigint, and uuid is configured" in caplog.records[0].message
    assert directory.exists()


def test_unreadable_header_is_left_alone_and_reported(tmp_path: Path, caplog):
    directory = die(make_journal(tmp_path))
    (file,) = segment_files(directory)
    file.write_bytes(b"?" + file.read_bytes()[1:])
    drain(tmp_path)
    assert "no header of a segment is readable" in caplog.records[0].message
    assert file.exists()


# Abandoned operations.


def test_abandoned_operation_is_ended_with_what_is_known(tmp_path: Path):
    journal = make_journal(tmp_path)
    start(
        journal,
        "018f6f0e-0000-7000-8000-00000000000a",
        data={"url": "a.pdf", "sourceType": "file", "secret": "s"},
        actor_id="user:42",
        parent_operation_id="018f6f0e-0000-7000-8000-00000000000b",
    )
    append_event(journal, 1, created_at=LATER)
    die(journal)
    *_, ended = drain(tmp_path)
    assert ended == {
        "id": derived_id(LATER, "018f6f0e-0000-7000-8000-00000000000a", "abandoned"),
        "name": "ingest_failed",
        "tenant_id": TENANT,
        "created_at": LATER,
        "phase": "failed",
        "operation_id": "018f6f0e-0000-7000-8000-00000000000a",
        "parent_operation_id": "018f6f0e-0000-7000-8000-00000000000b",
        "actor_id": "user:42",
        "error_code": "abandoned",
        "data": {"url": "a.pdf", "sourceType": "file", "errorCode": "abandoned"},
        "event_version": 1,
    }


def test_nested_operations_are_all_ended_and_closed_ones_are_not(tmp_path: Path):
    journal = make_journal(tmp_path)
    for name in ("outer", "inner", "ended", "handed"):
        start(journal, name)
    start(journal, "without a started event", row=False)
    end(journal, "ended")
    close(journal, "handed")
    die(journal)
    ended = [event for event in drain(tmp_path) if event.get("error_code") == "abandoned"]
    names = [event["operation_id"] for event in ended]
    assert names == ["outer", "inner", "without a started event"]


def test_abandoned_end_is_not_before_its_start(tmp_path: Path):
    journal = make_journal(tmp_path)
    start(journal, "A", created_at=LATER)
    append_event(journal, 1, created_at="2020-01-01T00:00:00.000000+00:00")  # occurred_at=…
    die(journal)
    assert drain(tmp_path)[-1]["created_at"] == LATER


def test_abandoned_end_is_dated_by_when_the_last_line_was_written(tmp_path: Path):
    journal = make_journal(tmp_path)
    start(journal, "A")
    future = "2031-01-01T00:00:00.000000+00:00"  # occurred_at=…
    append_event(journal, 1, id=derived_id(LATER, "1"), created_at=future)
    line = make_json(2, id=derived_id(future, "2"), created_at=future)  # idempotency_key=…
    journal.append_row(format_line(Kind.REPEATABLE, next(journal.sequence), line))
    die(journal)
    assert drain(tmp_path)[-1]["created_at"] == LATER


@pytest.mark.parametrize(
    "values",
    [{"id": None}, {"id": 7, "created_at": "the day before"}, {"id": "x", "created_at": None}],
    ids=["no id", "no time", "neither"],
)
def test_event_that_nobody_can_date_stops_no_adoption(tmp_path: Path, values: dict[str, object]):
    journal = make_journal(tmp_path)
    start(journal, "A", created_at=LATER)
    append_event(journal, 1, **values)
    die(journal)
    *_, ended = drain(tmp_path)
    assert (ended["operation_id"], ended["created_at"]) == ("A", LATER)


def test_operation_open_only_in_a_checkpoint_is_ended(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=4096)
    start(journal, "A")
    while len(journal.segments) < 3:
        append_event(journal, 1)
    directory = die(journal)
    for file in segment_files(directory)[:-1]:
        file.unlink()
    assert drain(tmp_path)[-1]["operation_id"] == "A"


def test_adopting_again_ends_nothing_twice_and_counts_the_same(tmp_path: Path):
    journal = make_journal(tmp_path)
    start(journal, "A")
    next(journal.sequence)  # a call that had not returned
    append_event(journal, 1)
    directory = die(journal)
    totals = []
    for ended in (1, 0, 0):
        dead = adopted(directory)
        assert dead.close_operations(make_end) == ended
        totals.append(dead.totals())
        assert len(rows_in(dead)) == 3
        dead.close(remove=False)
    assert totals[0] == totals[1] == totals[2]
    assert totals[0].dropped == {"interrupted": 1}
    assert totals[0].emitted == totals[0].accepted + 1


def test_adoption_keeps_no_descriptor_open(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=4096)
    start(journal, "A")
    for number in range(60):
        append_event(journal, number)
    directory = die(journal)
    del journal
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    dead = adopted(directory)
    dead.close_operations(make_end)
    dead.close(remove=True)
    assert len(list(descriptors.iterdir())) <= before


def test_disk_full_at_adoption_is_tried_again(tmp_path: Path, monkeypatch, caplog):
    journal = make_journal(tmp_path)
    start(journal, "A")
    directory = die(journal)
    blocker = directory / "spare-2"
    blocker.mkdir()  # where the segment of the ends would be written
    shipper = Shipper(Collecting(), None, root=tmp_path, destination=DESTINATION)
    shipper.adopt_dead()
    assert shipper.adopted == 0
    assert len(caplog.records) == 1
    blocker.rmdir()
    shipper.adopt_dead()
    assert shipper.adopted == 1
    shipper._close()


# Adopters that race, and that are killed.


def _adopt_in_process(root: Path, barrier, results) -> None:
    barrier.wait(20)
    results.put([event["id"] for event in drain(root)])


def test_two_processes_that_adopt_at_once_share_the_journals(tmp_path: Path):
    for number in range(20):
        journal = make_journal(tmp_path, segment_bytes=4096)
        start(journal, f"operation-{number}", id=f"start-{number}")
        die(journal)
    spawned = multiprocessing.get_context("fork")
    barrier, results = spawned.Barrier(2), spawned.Queue()
    processes = [
        spawned.Process(target=_adopt_in_process, args=(tmp_path, barrier, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = results.get(timeout=30) + results.get(timeout=30)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    found += [event["id"] for event in drain(tmp_path)]  # what both had tried at the same moment
    assert len(found) == len(set(found)) == 40
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fchmod", "fdatasync", "rename", "renamed", "unlink", "rmdir"])
def test_adopter_killed_in_the_middle_leaves_all_to_the_next(tmp_path: Path, call: str):
    journal = make_journal(tmp_path, segment_bytes=4096)
    start(journal, "A")
    append_event(journal, 1, created_at=LATER)
    directory = die(journal)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # the adopter; it tells what it stored, as a database would keep it
        original = getattr(os, "rename" if call == "renamed" else call)

        def kill(*arguments: object, **options: object) -> None:
            if call == "renamed":
                original(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, "rename" if call == "renamed" else call, kill)
        try:
            os.write(write, json.dumps(drain(tmp_path)).encode())
        finally:
            os._exit(1)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    os.close(read)
    assert os.WTERMSIG(status) == signal.SIGKILL
    ended = [event for event in drain(tmp_path) if event.get("error_code") == "abandoned"]
    if call in {"unlink", "rmdir"}:  # all was stored, and the rest is removed or sent again
        assert len(ended) <= 1
    else:
        assert [event["operation_id"] for event in ended] == ["A"]
        assert ended[0]["id"] == derived_id(LATER, "A", "abandoned")
        assert not directory.exists()


# The end of a process that is within operations.


def test_operations_open_at_the_end_move_to_the_successor(tmp_path: Path):
    journal, successor = make_journal(tmp_path), make_journal(tmp_path)
    start(journal, "A")
    start(journal, "B")
    journal.seal()
    assert journal.has_open_operations()
    assert journal.hand_over(successor)
    assert not end(journal, "A")
    assert end(successor, "A")
    assert adopted(die(journal)).open == {}
    assert set(adopted(die(successor)).open) == {"B"}


def test_books_survive_their_process(tmp_path: Path):
    journal = make_journal(tmp_path)
    next(journal.sequence)
    journal.move_number()
    for slot in (Slot.HANDED, Slot.SAMPLED_OUT, Slot.DROPPED_JOURNAL_FULL):
        journal.books.add(slot, next(journal.sequence))
    append_event(journal, 1)
    before = journal.totals()
    assert adopted(die(journal)).totals() == before
    assert (before.emitted, before.accepted, before.handed, before.sampled_out) == (4, 1, 1, 1)
    assert before.dropped == {"journal_full": 1}


def test_renumbered_line_keeps_all_but_kind_and_number():
    line = format_line(Kind.START, 7, make_json(1), '{"x":1}')
    assert renumber(line, Kind.OPEN, 0) == format_line(Kind.OPEN, 0, make_json(1), '{"x":1}')
