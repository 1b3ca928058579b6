"""`tenantry stats`: the books of every journal, checked against the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tenantry import Pipeline, Sampling, log_event, tenant
from tenantry.cli.books import Books, JournalBooks
from tests.cli.commands import TENANT, Command, die_with_events
from tests.fix_postgres import Database

QUOTA = {"quota_type": "documents", "limit": 3, "attempted": 4}


def make_pipeline(database: Database, journal: Path, **options) -> Pipeline:
    return Pipeline(
        dsn=database.writer,
        taxonomy="tenantry.taxonomies.saas",
        journal=journal,
        service="helpdesk",
        **options,
    )


def stats(command: Command, database: Database, journal: Path) -> tuple[int, dict]:
    code = command("stats", "--dsn", database.owner, "--journal", journal, "--json")
    return code, command.json()


def test_books_of_a_process_that_ended_balance(command: Command, database: Database, journal: Path):
    with make_pipeline(database, journal) as pipeline, tenant(TENANT):
        for _ in range(3):
            log_event("quota_exceeded", **QUOTA)
        log_event("quota_exceeded", limit="none")
        assert pipeline.shutdown(timeout=20)
    code, books = stats(command, database, journal)
    assert code == 0
    assert books["balance"] is True
    (entry,) = books["journals"]
    assert entry.keys() == {
        *("journal_id", "process", "service", "state", "emitted", "accepted", "handed"),
        *("sampled_out", "dropped", "under_way", "stored", "rejected", "pending", "bytes", "lag"),
        "balance",
    }
    assert (entry["service"], entry["state"]) == ("helpdesk", "closed")
    assert (entry["emitted"], entry["accepted"]) == (4, 4)
    assert (entry["stored"], entry["rejected"], entry["pending"]) == (3, 1, 0)
    assert books["total"]["accepted"] == 4
    assert books["tallies"] == {"quota_exceeded": 3}
    assert books["others"] == []


def test_pending_events_of_a_living_process_are_counted_on_disk(
    command: Command, database18: Database, journal: Path
):
    sampling = {"message_sent": Sampling(1e-12)}
    with make_pipeline(database18, journal, ship_interval=60.0, sampling=sampling) as pipeline:
        with tenant(TENANT):
            for _ in range(5):
                log_event("quota_exceeded", **QUOTA)
            log_event("message_sent", conversation_id="c", role="user")
        code, books = stats(command, database18, journal)
        pipeline.shutdown(timeout=20)
    (entry,) = books["journals"]
    assert code == 0
    assert (entry["state"], entry["emitted"], entry["sampled_out"]) == ("live", 6, 1)
    assert entry["accepted"] == 5
    assert entry["stored"] + entry["pending"] == 5
    assert entry["bytes"] > 0


def test_dead_journal_is_pending_until_it_is_drained(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal)
    code, books = stats(command, database18, journal)
    (entry,) = books["journals"]
    assert (code, entry["state"], entry["accepted"], entry["pending"]) == (0, "dead", 6, 6)
    command("drain", "--dsn", database18.writer, "--journal", journal)
    code, books = stats(command, database18, journal)
    (entry,) = books["journals"]
    assert (code, entry["state"], entry["stored"], entry["pending"]) == (0, "closed", 7, 0)


def lose_half(command: Command, database: Database, journal: Path) -> None:
    """Ship a journal, then make its cursor say that two events more were accepted."""
    die_with_events(database.writer, journal)
    command("drain", "--dsn", database.writer, "--journal", journal)
    database.execute(
        "UPDATE tenantry.journal_cursors SET accepted = accepted + 2, emitted = emitted + 2"
    )


def test_lost_journal_does_not_balance_and_exits_with_1(
    command: Command, database18: Database, journal: Path
):
    lose_half(command, database18, journal)
    shutil.rmtree(journal)
    code, books = stats(command, database18, journal)
    (entry,) = books["journals"]
    assert (code, books["balance"]) == (1, False)
    assert (entry["state"], entry["balance"], entry["pending"]) == ("missing", False, 0)
    assert command("stats", "--dsn", database18.owner, "--journal", journal) == 1
    assert "2 accepted events are not accounted for. Its process is gone" in command.out
    assert "NO" in command.out.split()


def test_journal_on_another_machine_is_believed(
    command: Command, database18: Database, journal: Path
):
    lose_half(command, database18, journal)
    database18.execute("UPDATE tenantry.journal_cursors SET process = 'another-host:7'")
    code, books = stats(command, database18, journal)
    (entry,) = books["journals"]
    assert (code, entry["state"], entry["pending"]) == (0, "elsewhere", 2)


def test_emitted_events_that_no_column_has_do_not_balance(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal)
    command("drain", "--dsn", database18.writer, "--journal", journal)
    database18.execute("UPDATE tenantry.journal_cursors SET emitted = emitted + 1")
    assert command("stats", "--dsn", database18.owner, "--journal", journal) == 1
    assert "8 emitted, and 7 accounted for" in command.out


def test_role_that_may_not_see_the_books_is_told(
    command: Command, database18: Database, journal: Path
):
    assert command("stats", "--dsn", database18.reader, "--journal", journal) == 4
    assert "Connect as a member of tenantry_admin" in command.err


def test_pipe_gets_both_equations(command: Command, database18: Database, journal: Path):
    die_with_events(database18.writer, journal)
    command("drain", "--dsn", database18.writer, "--journal", journal)
    assert command("stats", "--dsn", database18.owner, "--journal", journal) == 0
    lines = command.out.splitlines()
    assert lines[0] == "# Books: emitted = accepted + handed + sampled + dropped"
    assert lines[4] == "# Books: accepted = stored + rejected + pending"
    assert lines[6].split("\t")[2:] == ["closed", "7", "7", "0", "0", "ok"]
    assert lines[7].split("\t") == ["total", "", "", "7", "7", "0", "0", "ok"]
    assert lines[8] == "# Accepted events of closed segments, by name"
    assert "quota_exceeded\t5" in lines


def test_journals_on_disk_are_listed_with_their_bytes(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal)
    die_with_events(make_conninfo(database18.writer, dbname="elsewhere"), journal)
    ours, other = sorted(journal.iterdir())
    size = sum(path.stat().st_size for path in ours.iterdir())
    assert command("stats", "--dsn", database18.owner, "--journal", journal) == 0
    lines = [line.split("\t") for line in command.out.splitlines()]
    listed = lines[lines.index(["# Journals on disk"]) + 2]
    assert (listed[0], *listed[2:4], listed[5]) == (ours.name, "dead", "6", str(size))
    assert 0 <= float(listed[4]) < 600
    foreign = lines[lines.index(["# Journals for other destinations"]) + 2]
    assert (foreign[0], *foreign[3:]) == (other.name, "6", "dead")


def test_terminal_gets_tables_that_fit_it(
    command: Command, database18: Database, journal: Path, monkeypatch: pytest.MonkeyPatch
):
    from tenantry.cli.output import console

    die_with_events(database18.writer, journal)
    (left,) = journal.iterdir()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(console, "_force_terminal", True)
    assert command("stats", "--dsn", database18.owner, "--journal", journal) == 0
    assert "accepted = stored + rejected + pending" in command.out
    assert left.name[-6:] in command.out
    assert "\t" not in command.out


@pytest.mark.parametrize(
    "state, holds", [("live", True), ("dead", True), ("closed", False)], ids=str
)
def test_only_calls_under_way_excuse_a_difference(state, holds: bool):
    journal = JournalBooks("j", "host:1", None, state, 10, 9, 0, 0, {}, 9, 0, 0)
    assert journal.under_way == 1
    assert journal.balances is holds


def test_total_adds_the_journals_up():
    one = JournalBooks("a", "h:1", None, "closed", 9, 6, 1, 1, {"full": 1}, 5, 1, 0)
    two = JournalBooks("b", "h:2", None, "closed", 4, 3, 0, 0, {"full": 1}, 3, 0, 0)
    total = Books((one, two), (), {}).total()
    assert (total.emitted, total.accepted, total.handed, total.sampled_out) == (13, 9, 1, 1)
    assert (total.dropped, total.stored, total.rejected) == ({"full": 2}, 8, 1)
    assert total.balances
