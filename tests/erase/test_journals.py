"""`tenantry erase` and the journals on this machine, of real processes, dead and alive."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tenantry.record import Kind, format_line
from tests.cli.commands import Command, die_with_events, wait_until
from tests.erase.rows import NEIGHBOUR, US, erasure_lines, rows_of
from tests.erase.worker import Worker
from tests.fix_postgres import Database

Erase = Callable[..., int]


@pytest.fixture
def erase(command: Command, journal: Path) -> Erase:
    def run(database: Database, *options: object, dsn: str = "") -> int:
        where = ("--dsn", dsn or database.owner, "--journal", journal, "--json")
        return command("erase", *where, "--tenant", US, *options)

    return run


def journal_places(command: Command) -> list[dict[str, object]]:
    return [each for each in command.json()["places"] if each["kind"] == "journal"]


def bytes_in(journal: Path) -> bytes:
    return b"".join(path.read_bytes() for path in journal.rglob("*") if path.is_file())


def events_of(database: Database, tenant: str) -> int:
    return rows_of(database, tenant)[0]


# Journals of dead processes.


def test_journal_of_a_dead_process_is_shipped_first(
    erase: Erase, command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal, tenant=US)
    die_with_events(database18.writer, journal, tenant=NEIGHBOUR)
    assert erase(database18) == 0
    (place,) = journal_places(command)
    assert (place["found"], place["erased"], place["left"]) == (6, 0, 6)
    assert erase(database18, "--yes") == 0
    (place,) = journal_places(command)
    assert (place["found"], place["erased"], place["left"]) == (6, 6, 0)
    assert US.encode() not in bytes_in(journal)
    # 5 facts, the start of the operation, and its abandoned end.
    assert erasure_lines(database18) == {("erased", US): 7}
    assert (events_of(database18, US), events_of(database18, NEIGHBOUR)) == (0, 7)
    assert command("stats", "--dsn", database18.owner, "--journal", journal) == 0


def test_journal_of_a_dead_process_is_left_where_it_cannot_be_shipped(
    erase: Erase, command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal, tenant=US)
    maintainer = database18.member_of("maintainer")
    assert erase(database18, "--yes", dsn=maintainer) == 3
    (place,) = journal_places(command)
    assert place["left"] == 6
    assert "it could not be drained: " in str(place["reason"])
    assert 'GRANT "tenantry_writer" TO "app_maintainer";' in str(place["reason"])
    assert US.encode() in bytes_in(journal)


def test_journal_without_a_line_of_theirs_is_not_touched(
    erase: Erase, command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal, tenant=NEIGHBOUR)
    before = bytes_in(journal)
    assert erase(database18, "--yes") == 0
    assert journal_places(command) == []
    assert command.json()["journals"] == 1
    assert bytes_in(journal) == before


def test_actor_is_erased_from_the_journal_with_the_events(
    erase: Erase, command: Command, database18: Database, start_worker: Callable[..., Worker]
):
    worker = start_worker(database18.writer)
    worker.tell("emit", US, 3)
    assert erase(database18, "--actor", "user:8", "--yes") == 0
    assert (journal_places(command), events_of(database18, US)) == ([], 3)
    assert erase(database18, "--actor", "user:7", "--yes") == 0
    assert [place["erased"] for place in journal_places(command)] == [3]
    assert events_of(database18, US) == 0


# Journals of living processes.


def test_living_process_lets_go_of_what_it_shipped(
    erase: Erase,
    command: Command,
    database: Database,
    journal: Path,
    start_worker: Callable[..., Worker],
):
    worker = start_worker(database.writer)
    worker.tell("emit", US, 1000)  # several segments: they are kept to be sent again
    worker.tell("emit", NEIGHBOUR, 10)
    worker.tell("emit", US, 10)
    assert US.encode() in bytes_in(journal)
    assert erase(database, "--yes") == 0
    (place,) = journal_places(command)
    assert (place["found"], place["erased"], place["left"]) == (1010, 1010, 0)
    assert US.encode() not in bytes_in(journal)
    assert (events_of(database, US), events_of(database, NEIGHBOUR)) == (0, 10)
    worker.tell("emit", NEIGHBOUR, 10)
    assert events_of(database, NEIGHBOUR) == 20
    assert command("stats", "--dsn", database.owner, "--journal", journal) == 0


def test_database_that_goes_back_in_time_gets_nothing_of_theirs_again(
    erase: Erase, database18: Database, start_worker: Callable[..., Worker]
):
    worker = start_worker(database18.writer)
    worker.tell("emit", US, 50)
    worker.tell("emit", NEIGHBOUR, 5)
    assert erase(database18, "--yes") == 0
    database18.execute("DELETE FROM tenantry.journal_cursors")
    worker.tell("emit", NEIGHBOUR, 5)
    assert (events_of(database18, US), events_of(database18, NEIGHBOUR)) == (0, 10)


def test_operation_that_is_open_is_left_until_it_has_ended(
    erase: Erase,
    command: Command,
    database18: Database,
    journal: Path,
    start_worker: Callable[..., Worker],
):
    worker = start_worker(database18.writer)
    worker.tell("open", US)
    assert erase(database18, "--yes") == 3
    (place,) = journal_places(command)
    assert (place["erased"], place["left"]) == (1, 1)
    assert "an operation of theirs is open in the process" in str(place["reason"])
    worker.tell("end", US)
    assert erase(database18, "--yes") == 0
    assert US.encode() not in bytes_in(journal)
    assert events_of(database18, US) == 0


def test_process_that_does_not_answer_is_reported(
    erase: Erase,
    command: Command,
    database18: Database,
    start_worker: Callable[..., Worker],
    stopped_processes: list[int],
):
    worker = start_worker(database18.writer)
    worker.tell("emit", US, 5)
    stopped_processes.append(worker.pid)
    os.kill(worker.pid, signal.SIGSTOP)
    assert erase(database18, "--yes", "--timeout", 0.3) == 3
    (place,) = journal_places(command)
    assert (place["found"], place["left"]) == (5, 5)
    assert "did not ship them and let them go in 0.3 s" in str(place["reason"])
    assert events_of(database18, US) == 0
    os.kill(worker.pid, signal.SIGCONT)
    assert erase(database18, "--yes") == 0


def test_process_that_died_under_the_hands_of_another_is_waited_for(
    erase: Erase, database18: Database, journal: Path, start_worker: Callable[..., Worker]
):
    die_with_events(database18.writer, journal, tenant=US)
    start_worker(database18.writer).tell("emit", NEIGHBOUR, 1)  # it may adopt the dead one's
    assert erase(database18, "--yes") == 0
    assert US.encode() not in bytes_in(journal)
    assert events_of(database18, US) == 0


# Journals that are not ours to read.


def test_journal_for_another_destination_is_left(
    erase: Erase, command: Command, database18: Database, journal: Path
):
    elsewhere = make_conninfo(database18.writer, dbname="elsewhere")
    die_with_events(elsewhere, journal, tenant=NEIGHBOUR)
    assert erase(database18, "--yes") == 0
    die_with_events(elsewhere, journal, tenant=US)
    assert erase(database18, "--yes") == 3
    (place,) = journal_places(command)
    assert (place["found"], place["erased"], place["left"]) == (6, 0, 6)
    assert "/elsewhere/tenantry. If that is this database under another name" in str(
        place["reason"]
    )
    assert US.encode() in bytes_in(journal)


@pytest.mark.parametrize(
    "header, problem",
    [
        (b"no header\n", "no header of a segment is readable, so that nobody knows whose it is"),
        (
            format_line(Kind.HEADER, 0, json.dumps({"format": 99})),
            "another version of Tenantry wrote it, in a format not known here",
        ),
    ],
    ids=["damaged", "other format"],
)
def test_journal_that_cannot_be_read_is_left(  # noqa: PLR0917  # the cases
    erase: Erase,
    command: Command,
    database18: Database,
    journal: Path,
    header: bytes,
    problem: str,
):
    die_with_events(database18.writer, journal, tenant=US)
    (segment,) = journal.rglob("*.segment")
    segment.write_bytes(header)
    assert erase(database18) == 0
    assert erase(database18, "--yes") == 3
    (place,) = journal_places(command)
    assert (place["found"], place["left"]) == (None, None)
    assert place["reason"] == f"{problem}. Look into it, or remove {segment.parent}"


def test_journal_that_may_not_be_opened_is_left(
    erase: Erase, command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal, tenant=US)
    (segment,) = journal.rglob("*.segment")
    target = segment.with_name("elsewhere")
    segment.rename(target)
    segment.symlink_to(target)
    assert erase(database18, "--yes") == 3
    (place,) = journal_places(command)
    assert (place["found"], place["left"]) == (None, None)
    assert "links are not followed" in str(place["reason"])


def test_line_that_cannot_be_read_goes_as_well(
    erase: Erase, command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal, tenant=US, facts=2)
    (segment,) = journal.rglob("*.segment")
    content = segment.read_bytes()
    at = content.index(b"quota_exceeded")
    segment.write_bytes(content[:at] + b"X" + content[at + 1 :])
    assert erase(database18, "--yes") == 0
    (place,) = journal_places(command)
    assert (place["found"], place["erased"]) == (3, 3)
    assert US.encode() not in bytes_in(journal)


def test_request_to_turn_over_is_taken_away_when_it_is_done(
    erase: Erase, database18: Database, journal: Path, start_worker: Callable[..., Worker]
):
    worker = start_worker(database18.writer)
    worker.tell("emit", US, 1)
    assert erase(database18, "--yes") == 0
    wait_until(lambda: not list(journal.rglob("turn-over")), "the request is still there")
