"""A journal goes on in a fresh segment when somebody asks it to."""

from __future__ import annotations

from pathlib import Path

from tenantry.exporters import Position
from tenantry.journal import Journal
from tenantry.journal.erasing import await_removal, find_traces
from tenantry.journal.files import ask_to_turn_over, is_turn_over_asked_for
from tests.journal.journals import (
    adopted,
    append_event,
    die,
    end,
    make_journal,
    numbers_in,
    segment_files,
    start,
)


def names(journal: Journal) -> list[str]:
    assert journal.directory is not None
    return [path.name for path in segment_files(journal.directory)]


def ask(journal: Journal) -> None:
    assert journal.directory is not None
    ask_to_turn_over(journal.directory)
    ask_to_turn_over(journal.directory)  # twice is once


def test_nobody_asked(tmp_path: Path):
    journal = make_journal(tmp_path)
    append_event(journal, 1)
    journal.turn_over()
    assert names(journal) == ["0000000001.segment"]
    journal.close(remove=True)


def test_what_was_written_is_in_a_segment_that_can_go(tmp_path: Path):
    journal = make_journal(tmp_path)
    append_event(journal, 1)
    ask(journal)
    journal.turn_over()
    assert journal.directory is not None
    assert not is_turn_over_asked_for(journal.directory)
    append_event(journal, 2)
    journal.turn_over()
    assert names(journal) == ["0000000001.segment", "0000000002.segment"]
    assert numbers_in(journal) == [1, 2]
    journal.settle(Position(2, 0), stored=1, rejected=0)
    journal.shelf.forget_settled(0.0)
    assert names(journal) == ["0000000002.segment"]
    dead = adopted(die(journal))
    assert (dead.totals().accepted, dead.totals().emitted) == (2, 2)
    dead.close(remove=True)


def test_open_operations_are_taken_along(tmp_path: Path):
    journal = make_journal(tmp_path)
    for operation_id in ("open", "ended"):
        start(journal, operation_id)
    ask(journal)
    journal.turn_over()
    end(journal, "ended")
    dead = adopted(die(journal))
    assert list(dead.open) == ["open"]
    dead.close(remove=True)


def test_without_room_nothing_is_dropped_and_it_is_asked_again(tmp_path: Path):
    journal = make_journal(tmp_path, max_bytes=300 * 1024)
    append_event(journal, 1)
    ask(journal)
    journal.turn_over()
    assert journal.directory is not None
    assert is_turn_over_asked_for(journal.directory)
    assert append_event(journal, 2)
    journal.shelf.max_bytes *= 4
    journal.turn_over()
    assert not is_turn_over_asked_for(journal.directory)
    assert numbers_in(journal) == [1, 2]
    journal.close(remove=True)


def test_sealed_journal_and_one_in_memory_have_nothing_to_turn_over(tmp_path: Path):
    journal = make_journal(tmp_path)
    ask(journal)
    journal.seal()
    journal.turn_over()
    assert names(journal) == ["0000000001.segment"]
    journal.close(remove=True)
    make_journal(None).turn_over()


def test_removal_is_waited_for_until_the_deadline(tmp_path: Path):
    journal = make_journal(tmp_path)
    append_event(journal, 1)
    (traces,) = find_traces(tmp_path, lambda line: b'"number":1' in line)
    assert (traces.lines, traces.is_live, traces.newest) == ({1: 1}, True, 1)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            journal.close(remove=True)

    await_removal(tmp_path, [traces], deadline=float("inf"), pause=pause)
    assert len(pauses) == 3
    assert find_traces(tmp_path, lambda line: True) == []
