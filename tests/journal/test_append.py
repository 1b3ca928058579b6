"""Appending: every accepted line is there once, whatever comes in between."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.exceptions import JournalUnavailable
from tenantry.exporters import BEGINNING, Position
from tenantry.journal import SEGMENT_BYTES, Journal, Segment, Slot
from tenantry.record import Kind, format_line, parse_line
from tests.alarms import alarms
from tests.journal.journals import (
    adopted,
    append_event,
    close,
    die,
    end,
    lines_in,
    lines_of,
    make_journal,
    make_json,
    numbers_in,
    rows_in,
    segment_files,
    start,
)

SMALL = 4096
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(value=JSON, closing=st.just("") | JSON.map(json.dumps), number=st.integers(0, 2**63))
def test_line_round_trip(value: object, closing: str, number: int):
    body = json.dumps(value)
    line = parse_line(format_line(Kind.START, number, body, closing)[:-1])
    assert line == (Kind.START, number, body.encode(), closing.encode())


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(JSON.filter(lambda value: len(json.dumps(value)) < 1500), max_size=60),
    segment_bytes=st.sampled_from([4096, 5000, 8192, 65536]),
    read_every=st.integers(1, 20),
    max_bytes=st.integers(1, 10_000),
)
def test_lines_read_while_they_are_written(
    values: list[object], segment_bytes: int, read_every: int, max_bytes: int
):
    journal = make_journal(None, segment_bytes=segment_bytes)
    read: list[bytes] = []
    position = BEGINNING
    for number, value in enumerate([*values, None]):
        assert journal.append_row(format_line(Kind.EVENT, number, json.dumps(value)))
        if number % read_every == 0 or number == len(values):
            while (chunk := journal.read(position, max_bytes)) is not None:
                assert chunk.corrupt == []
                read += [line.json for line in lines_of(chunk) if line.kind == Kind.EVENT]
                position = chunk.end
    assert [json.loads(line) for line in read] == [*values, None]
    assert journal.totals().accepted == len(values) + 1


def test_lines_of_many_threads_are_kept_once_and_in_order_across_rotations(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=16_384)

    def append(thread: int) -> None:
        for number in range(2000):
            assert append_event(journal, thread * 10_000 + number)

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(4)]
    seen = _read_during(journal, threads)
    assert Counter(seen) == Counter(t * 10_000 + n for t in range(4) for n in range(2000))
    for thread in range(4):
        own = [number for number in seen if number // 10_000 == thread]
        assert own == sorted(own)
    assert journal.totals().accepted == 8000
    assert numbers_in(adopted(die(journal))) == seen


def _read_during(journal: Journal, threads: list[threading.Thread]) -> list[int]:
    for thread in threads:
        thread.start()
    seen: list[int] = []
    position = BEGINNING
    while True:
        alive = any(thread.is_alive() for thread in threads)
        journal.prepare()
        while (chunk := journal.read(position, 9000)) is not None:
            seen += [
                json.loads(line.json)["data"]["number"]
                for line in lines_of(chunk)
                if line.kind == Kind.EVENT
            ]
            position = chunk.end
        if not alive:
            return seen


# The checkpoint: operations that are open across rotations.


def test_open_operation_survives_the_removal_of_its_segment(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    start(journal, "A")
    start(journal, "B", row=False)
    start(journal, "C")
    end(journal, "C")
    for number in range(60):
        append_event(journal, number)
    journal.settle(Position(max(journal.segments), 0), stored=1, rejected=0)
    journal.shelf.forget_settled(-1)
    assert len(segment_files(journal.directory)) == 1
    assert set(adopted(die(journal)).open) == {"A", "B"}


def test_checkpoint_larger_than_a_segment_gets_a_larger_one(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    names = [f"operation-{number}" for number in range(50)]
    for name in names:
        assert start(journal, name)
    for number in range(60):
        assert append_event(journal, number)
    assert set(adopted(die(journal)).open) == set(names)


@pytest.mark.parametrize("rotates", [False, True], ids=["", "though a rotation came between"])
def test_start_that_finds_no_room_is_not_open(
    tmp_path: Path, rotates: bool, monkeypatch: pytest.MonkeyPatch
):
    journal = make_journal(tmp_path, segment_bytes=SMALL)

    def refuse(_line: bytes) -> bool:
        if rotates:  # another thread's
            with journal._rotation:
                assert journal._rotate(journal.shelf.active)
        return False

    def is_full(_line: bytes) -> int:
        raise ValueError

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", is_full)
        patch.setattr(journal, "_append_rotating", refuse)
        assert not start(journal, "A")
        write = journal.shelf.active.map.write
    journal._write = write
    start(journal, "B")
    assert journal.has_open_operations()
    assert set(adopted(die(journal)).open) == {"B"}


@pytest.mark.parametrize("run", range(5))
def test_operation_closed_during_a_rotation_never_looks_open(tmp_path: Path, run: int):
    journal = make_journal(tmp_path, segment_bytes=SMALL)

    def work(thread: int) -> None:
        for number in range(400):
            operation = f"{thread}-{number}"
            start(journal, operation, row=number % 3 > 0)
            (end if number % 2 else close)(journal, operation)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    newest = max(journal.segments)
    journal.settle(Position(newest - run, 0), stored=0, rejected=0)
    journal.shelf.forget_settled(-1)
    dead = adopted(die(journal))
    assert dead.open == {}


def test_operation_whose_end_found_no_room_does_not_look_open(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL, max_bytes=SMALL * 2 + 4096)
    start(journal, "A")
    number = 0
    while append_event(journal, number):
        number += 1
    assert not end(journal, "A")
    journal.settle(Position(max(journal.segments), 0), stored=0, rejected=0)
    _append_until_taken(journal)
    assert adopted(die(journal)).open == {}


def test_counts_are_exact_after_segments_are_removed(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    threads = [
        threading.Thread(target=lambda: [append_event(journal, n) for n in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # What a header says of the lines before it lacks the calls that were under way.
    journal.settle(Position(max(journal.segments), 0), stored=0, rejected=0)
    journal.shelf.forget_settled(-1)
    totals = adopted(die(journal)).totals()
    assert (totals.emitted, totals.accepted, totals.dropped) == (2000, 2000, {})


# Re-entrancy.


@pytest.mark.parametrize("root", ["file", "memory"])
def test_signal_handler_that_appends_loses_and_doubles_nothing(tmp_path: Path, root: str):
    journal = make_journal(tmp_path if root == "file" else None, segment_bytes=SMALL)
    accepted: list[int] = []

    def emit(number: int) -> None:
        if append_event(journal, number):
            accepted.append(number)

    def handler() -> None:
        emit(1_000_000 + len(accepted))
        after(0.0001)

    with alarms(handler) as after:
        after(0.0001)
        for number in range(2000):
            emit(number)
    assert len(accepted) > 2000
    assert Counter(numbers_in(journal)) == Counter(accepted)


def test_signal_handler_that_fills_a_segment_in_the_middle_of_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    original, inner = journal._publish, iter([True])

    def publish(segment):
        if next(inner, False):  # what a handler, or a destructor, does between any two calls
            assert append_event(journal, 1)
        published = original(segment)
        if next(inner, False):
            assert append_event(journal, 2)
        return published

    number = 10
    monkeypatch.setattr(journal, "_publish", publish)
    for number in range(10, 60):
        assert append_event(journal, number)
    assert Counter(numbers_in(journal)) == Counter([1, *range(10, 60)])
    assert numbers_in(adopted(die(journal)))[-1] == number


@pytest.mark.parametrize("moment", ["before", "after"])
def test_journal_sealed_in_the_middle_of_a_rotation_stays_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    original = journal._publish

    def publish(segment):
        if moment == "before":
            journal.seal()
        published = original(segment)
        journal.seal()
        return published

    monkeypatch.setattr(journal, "_publish", publish)
    taken = [number for number in range(60) if append_event(journal, number)]
    assert numbers_in(journal) == taken
    assert len(taken) < 60
    assert not append_event(journal, 99)


def test_append_from_a_destructor(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    made: list[int] = []

    class Emitting:
        def __del__(self) -> None:
            made.append(1_000_000 + len(made))
            assert append_event(journal, made[-1])

    for number in range(500):
        cycle: list[object] = [Emitting()]
        cycle.append(cycle)
        append_event(journal, number)
    del cycle
    import gc

    gc.collect()
    assert len(made) == 500
    assert Counter(numbers_in(journal)) == Counter([*range(500), *made])


# Room.


def _append_until_taken(journal: Journal) -> None:
    journal._full_until = 0.0  # the pause between two tries is over
    assert append_event(journal, 777)


def test_full_journal_refuses_and_goes_on_when_lines_are_settled(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL, max_bytes=3 * SMALL + 4096)
    number = 0
    while append_event(journal, number):
        number += 1
    assert journal.full_reason is Slot.DROPPED_JOURNAL_FULL
    assert not journal.has_room()
    assert sum(file.stat().st_size for file in journal.directory.iterdir()) <= 3 * SMALL + 4096
    journal.settle(Position(2, 0), stored=0, rejected=0)
    assert journal.has_room()
    _append_until_taken(journal)
    assert numbers_in(journal)[-1] == 777


def test_journal_that_has_room_for_one_segment_goes_on_when_it_is_settled(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL, max_bytes=2 * SMALL)
    start(journal, "A")
    for _ in range(3):
        while append_event(journal, 0):
            pass
        journal.settle(Position(max(journal.segments) + 1, 0), stored=0, rejected=0)
        journal.shelf.forget_settled(-1)
        assert len(journal.segments) == 1  # the checkpoint is never without a segment
        assert journal.has_room()
        _append_until_taken(journal)
    assert set(adopted(die(journal)).open) == {"A"}


def test_limit_holds_for_all_journals_of_the_directory(tmp_path: Path):
    other = make_journal(tmp_path, segment_bytes=SMALL)
    journal = make_journal(tmp_path, segment_bytes=SMALL, max_bytes=3 * SMALL + 2 * 4096)
    number = 0
    while append_event(journal, number):
        number += 1
    assert len(journal.segments) == 2
    other.close(remove=True)
    _append_until_taken(journal)


def test_segment_that_must_be_sent_again_is_not_removed(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    for number in range(60):
        append_event(journal, number)
    journal.settle(Position(max(journal.segments), 0), stored=60, rejected=0)
    journal.settle(BEGINNING, stored=-60, rejected=0)
    journal.shelf.forget_settled(-1)
    assert numbers_in(journal) == list(range(60))


@pytest.mark.parametrize("in_files", [True, False], ids=["files", "memory"])
def test_segments_that_wait_are_unmapped_and_read_all_the_same(tmp_path: Path, *, in_files: bool):
    journal = make_journal(tmp_path if in_files else None, segment_bytes=SMALL)
    start(journal, "A")
    for number in range(100):
        append_event(journal, number)
    last = max(journal.segments)
    assert last > 5
    journal.shelf.let_go_unread(Position(2, 0))
    mapped = {number for number, segment in journal.segments.items() if not segment.map.closed}
    assert mapped == ({1, 2, 3, last} if in_files else set(journal.segments))
    assert journal.shelf.unsettled_bytes() == last * SMALL
    assert append_event(journal, 100)
    assert len(rows_in(journal)) == 102
    assert end(journal, "A")
    journal.shelf.let_go_unread(BEGINNING)
    if in_files:
        assert len(rows_in(adopted(die(journal)))) == 103


def test_line_longer_than_half_a_segment_is_refused(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    assert not append_event(journal, 1, name="x" * SMALL)
    assert append_event(journal, 2)


def test_spare_segment_is_prepared_once_and_used(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    journal.prepare()
    assert list(journal.directory.glob("spare-*")) == []
    while journal.shelf.active.used() <= SMALL // 2:
        append_event(journal, 0)
    journal.prepare()
    journal.prepare()
    (spare,) = journal.directory.glob("spare-*")
    inode = spare.stat().st_ino
    while len(journal.segments) == 1:
        append_event(journal, 0)
    assert segment_files(journal.directory)[-1].stat().st_ino == inode
    assert not spare.exists()


def test_sealed_journal_refuses_and_prepares_nothing(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    while journal.shelf.active.used() <= SMALL // 2:
        append_event(journal, 0)
    journal.seal()
    journal.prepare()
    assert list(journal.directory.glob("spare-*")) == []
    assert not append_event(journal, 1)
    assert not journal.has_room()


def test_journal_that_is_sealed_while_room_is_made_has_none(monkeypatch: pytest.MonkeyPatch):
    journal = make_journal(None, segment_bytes=SMALL)
    while journal.shelf.active.used() <= SMALL // 2:
        append_event(journal, 0)
    make = journal.shelf.new_segment

    def make_while_sealed() -> Segment:
        journal.seal()
        return make()

    monkeypatch.setattr(journal.shelf, "new_segment", make_while_sealed)
    assert not journal.has_room()
    assert journal.shelf.spares != []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", tmp_path], check=False
    )
    if mounted.returncode:
        pytest.skip("this container may not mount a small disk")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as rest, suppress(OSError):
        while rest.write(bytes(4096)):
            pass


def test_full_disk_is_an_error_at_rotation(small_disk: Path):
    journal = make_journal(small_disk, segment_bytes=1 << 20)
    number = 0
    while append_event(journal, number):
        number += 1
    assert journal.full_reason is Slot.DROPPED_DISK_FULL
    assert journal.full_error is not None
    assert journal.full_error.errno == errno.ENOSPC
    assert numbers_in(journal) == list(range(number))
    rest = small_disk / "rest"
    _fill(rest)
    with pytest.raises(JournalUnavailable, match="No space left on device"):
        make_journal(small_disk, segment_bytes=1 << 20)
    rest.unlink()
    assert [path.name for path in small_disk.iterdir()] == [journal.id]
    journal.settle(Position(2, 0), stored=0, rejected=0)
    _append_until_taken(journal)


def test_settled_segments_hold_no_descriptor_and_can_be_read_again(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(300):
        append_event(journal, number)
    assert len(journal.segments) > 10
    journal.settle(Position(max(journal.segments), 0), stored=0, rejected=0)
    journal.shelf.forget_settled(300)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4
    journal.settle(BEGINNING, stored=0, rejected=0)
    assert numbers_in(journal) == list(range(300))
    journal.shelf.forget_settled(-1)
    journal.close(remove=True)


def test_full_disk_has_no_room_although_all_is_settled(small_disk: Path):
    journal = make_journal(small_disk, segment_bytes=1 << 20)
    rest = small_disk / "rest"
    _fill(rest)
    number = 0
    while append_event(journal, number):
        number += 1
    journal.settle(Position(2, 0), stored=0, rejected=0)
    assert not journal.has_room()
    rest.unlink()
    assert journal.has_room()
    _append_until_taken(journal)


def test_removed_directory_drops_events_and_raises_nothing(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    while journal.shelf.active.used() <= SMALL // 2:
        append_event(journal, 0)
    journal.prepare()  # a spare that has lost its name by the time it is needed
    shutil.rmtree(journal.directory)
    outcomes = {append_event(journal, number) for number in range(100)}
    assert outcomes == {True, False}
    assert journal.full_reason is Slot.DROPPED_DISK_FULL
    assert isinstance(journal.full_error, FileNotFoundError)
    journal.close(remove=True)


def test_rotation_logs_nothing_under_its_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A logging handler may emit events: it would wait for the lock while others wait for it."""
    journal = make_journal(tmp_path, segment_bytes=SMALL)
    shutil.rmtree(journal.directory)
    with caplog.at_level(logging.DEBUG):
        while append_event(journal, 0):
            pass
    assert caplog.records == []


# Files.


@pytest.mark.parametrize("umask", [0, 0o022, 0o777], ids=oct)
def test_files_belong_to_their_user_alone(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        journal = make_journal(tmp_path / "deep" / "root", segment_bytes=SMALL)
        for number in range(30):
            append_event(journal, number)
        journal.prepare()
    finally:
        os.umask(before)
    files = [*journal.directory.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    for directory in (journal.directory, *(tmp_path / "deep" / "root", tmp_path / "deep")):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_segment_is_readable_text(tmp_path: Path):
    journal = make_journal(tmp_path)
    append_event(journal, 5)
    (file,) = segment_files(die(journal))
    header, event, rest = file.read_bytes().split(b"\n", 2)
    assert json.loads(header[len("00000000 H 0 ") :])["service"] == "helpdesk"
    assert json.loads(event[len("00000000 E 1 ") :]) == json.loads(make_json(5))
    assert rest.strip(b"\0") == b""


@pytest.mark.parametrize("kind", ["regular file", "proc"])
def test_directory_that_cannot_be_had(tmp_path: Path, kind: str):
    root = Path("/proc/tenantry")
    if kind == "regular file":
        (tmp_path / "file").write_text("")
        root = tmp_path / "file" / "journal"
    with pytest.raises(JournalUnavailable, match="cannot keep a journal in") as caught:
        make_journal(root)
    assert str(caught.value).startswith("cannot keep a journal in")
    assert caught.value.errno is not None
    assert str(root) in str(caught.value)
    assert "Give configure(journal=…) a directory that this user may write to" in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_closing_removes_the_files_only_when_told(tmp_path: Path):
    kept, removed = make_journal(tmp_path), make_journal(tmp_path)
    kept.close(remove=False)
    removed.close(remove=True)
    assert [path.name for path in tmp_path.iterdir()] == [kept.id]


def test_memory_mode_has_no_files_and_the_same_lines(tmp_path: Path):
    journal = make_journal(None, segment_bytes=SMALL)
    for number in range(100):
        append_event(journal, number)
    assert len(rows_in(journal)) == len(list(lines_in(journal))) - len(journal.segments) == 100
    assert journal.directory is None


def test_settled_segments_of_another_process_take_nobodys_room(tmp_path: Path):
    limit = 8 * SMALL
    keeper = make_journal(tmp_path, segment_bytes=SMALL, max_bytes=limit)
    while len(keeper.segments) < 6:
        assert append_event(keeper, 0)
    keeper.settle(Position(max(keeper.segments), 0), stored=0, rejected=0)
    keeper.shelf.forget_settled(300)
    settled, _ = keeper.shelf.used_bytes()
    assert (settled, len(keeper.segments)) == (5 * SMALL, 6)
    other = make_journal(tmp_path, segment_bytes=SMALL, max_bytes=limit)
    while len(other.segments) < 4:
        assert append_event(other, 0)
    keeper.shelf.forget_settled(300)  # the other one asked for room
    assert len(keeper.segments) == 1
    assert sum(other.shelf.used_bytes()) < limit
    assert sorted(path.suffix for path in segment_files(keeper.directory)) == [".segment"]


def test_first_segment_is_small_so_that_short_lived_processes_take_little(tmp_path: Path):
    journal = make_journal(tmp_path)
    assert [len(segment.map) for segment in journal.segments.values()] == [256 * 1024]
    while len(journal.segments) < 2:
        assert append_event(journal, 0)
    assert len(journal.segments[2].map) == SEGMENT_BYTES
