"""`tenantry maintain`, and what `tenantry stats` shows of it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tenantry import Pipeline, log_event, tenant
from tenantry.database.maintain import compacted_id
from tenantry.database.partitions import add_months
from tests.cli.commands import TENANT, Command
from tests.database.partitioned import ON_18, add_month, attached, this_month
from tests.database.partitioned import insert as fill_months
from tests.database.test_maintain import insert, make_cursor, sums
from tests.fix_postgres import Database


def cells(command: Command) -> list[list[str]]:
    return [line.split("\t") for line in command.out.splitlines()]


def test_journals_of_processes_that_ended_are_folded(
    command: Command, database: Database, journal: Path
):
    for _ in range(3):
        pipeline = Pipeline(
            dsn=database.writer,
            journal=journal,
            service="helpdesk",
            taxonomy="tenantry.taxonomies.saas",
        )
        with pipeline, tenant(TENANT):
            log_event("quota_exceeded", quota_type="documents", limit=3, attempted=4)
            log_event("quota_exceeded", limit="none")
        assert pipeline.shutdown(20)
    before = sums(database)
    maintainer = database.member_of("maintainer")
    assert command("maintain", "--dsn", maintainer) == 0
    assert command.out == "nothing to compact\n"
    assert "Journals that ended too short a time ago: 3." in command.err
    assert command("maintain", "--dsn", maintainer, "--after", "0s", "--dry-run") == 0
    assert cells(command) == [
        *(["# Would be compacted"], ["service", "journals"], ["helpdesk", "3"])
    ]
    assert command("maintain", "--dsn", maintainer, "--after", "0s") == 0
    assert cells(command) == [["# Compacted"], ["service", "journals"], ["helpdesk", "3"]]
    assert sums(database) == before
    assert command("maintain", "--dsn", maintainer, "--after", "0s") == 0
    assert command.out == "nothing to compact\n"
    assert command("stats", "--dsn", database.owner, "--journal", journal, "--json") == 0
    books = command.json()
    (entry,) = books["journals"]
    assert (entry["process"], entry["state"], entry["balance"]) == ("3 journals", "compacted", True)
    assert (entry["stored"], entry["rejected"], entry["pending"]) == (3, 3, 0)
    assert books["corrections"] == {"compacted": 3}


def test_what_is_left_alone_is_listed_with_the_reason(command: Command, database18: Database):
    running, lost = make_cursor(ended=None), make_cursor(stored=4, process="web-2:9")
    insert(database18, running, lost, make_cursor())
    assert command("maintain", "--dsn", database18.owner) == 0
    lines = cells(command)
    assert lines[3:5] == [["# Left alone"], ["journal", "process", "service", "reason"]]
    assert sorted(lines[5:]) == sorted(
        [
            [
                *(running["journal_id"], "web-1:77", "helpdesk"),
                "no end is noted: its process runs, or died and nobody could note it",
            ],
            [
                *(lost["journal_id"], "web-2:9", "helpdesk"),
                "it does not balance: 6 accepted, 5 stored or rejected",
            ],
        ]
    )
    assert command("maintain", "--dsn", database18.owner, "--json") == 0
    printed = command.json()
    assert (printed["compacted"], printed["recent"], printed["dry_run"]) == ([], 0, False)
    assert {each["journal_id"] for each in printed["left"]} == {
        running["journal_id"],
        lost["journal_id"],
    }


def test_terminal_is_not_flooded(
    command: Command, database18: Database, monkeypatch: pytest.MonkeyPatch
):
    from tenantry.cli.output import console

    insert(database18, *(make_cursor(ended=None) for _ in range(25)))
    monkeypatch.setattr(console, "_force_terminal", True)
    assert command("maintain", "--dsn", database18.owner) == 0
    assert command.out.count("no end is noted") == 20
    assert "5 more; `--json` has them all." in command.err


@pytest.mark.parametrize(
    "after, left", [("5400s", 0), ("90m", 0), ("1.5h", 0), ("0.0625d", 0), ("3h", 1), ("1d", 1)]
)
def test_after_is_a_length_of_time(command: Command, database18: Database, after: str, left: int):
    insert(database18, make_cursor(ended="2 hours"))
    assert command("maintain", "--dsn", database18.owner, "--after", after, "--json") == 0
    assert command.json()["recent"] == left


@pytest.mark.parametrize("after", ["", "1", "1w", "-1d", "1 d", "nan", "99999d"])
def test_bad_length_of_time_is_refused(command: Command, after: str):
    assert command("maintain", "--dsn", "host=127.0.0.1 port=1", f"--after={after}") == 2
    assert f"--after {after!r} is no length of time: give a number with s, m, h or d" in command.err


@pytest.mark.parametrize("role", ["writer", "reader", "admin"])
@pytest.mark.parametrize("option", [[], ["--dry-run"]], ids=["", "dry run"])
def test_missing_role_is_told_with_the_grant(
    command: Command, database18: Database, role: str, option: list[str]
):
    assert command("maintain", "--dsn", database18.member_of(role), *option) == 4
    assert f'GRANT "tenantry_maintainer" TO "app_{role}";' in command.err


def test_older_schema_is_told_to_migrate(command: Command, own_database: Database):
    own_database.execute("ALTER TABLE tenantry.journal_cursors DROP COLUMN ended_at")
    insert_without_end = (
        "INSERT INTO tenantry.journal_cursors VALUES"
        " (gen_random_uuid(), 0, 0, 0, 0, 0, 0, '{}', 0, 0, 0, 's', 'h:1')"
    )
    own_database.execute(insert_without_end)
    assert command("maintain", "--dsn", own_database.owner) == 4
    assert "Run: tenantry migrate --schema tenantry" in command.err


# Partitions.

OLD = add_months(this_month(), -3)
NEW = f"events_{add_months(this_month(), 25):%Y_%m}"


def table_of(command: Command, title: str) -> list[list[str]]:
    """Return the rows of the table of that title."""
    lines = cells(command)
    begin = lines.index([f"# {title}"]) + 2
    ends = [n for n, line in enumerate(lines) if n >= begin and line[0].startswith("# ")]
    return lines[begin : min(ends, default=len(lines))]


@ON_18
def test_partitions_are_kept_up_and_shown(command: Command, own_database: Database):
    add_month(own_database, OLD)
    fill_months(own_database, OLD, OLD, "2010-01-01", add_months(OLD, -3))
    name, late = f"events_{OLD:%Y_%m}", f"events_{add_months(OLD, -3):%Y_%m}"
    asked = ["maintain", "--dsn", own_database.owner, "--ahead", 25, "--keep", "1months"]
    assert command(*asked, "--dry-run") == 0
    assert table_of(command, "Would be made") == [[late, "1"], [NEW, "0"]]
    assert table_of(command, "Would be detached") == [[name, ""]]
    assert table_of(command, "Left in DEFAULT") == [
        ["other", "1", "2010-01-01 00:00:00+00", "2010-01-01 00:00:00+00"]
    ]
    assert attached(own_database)[0] == name
    assert command(*asked) == 0
    assert table_of(command, "Made") == [[late, "1"], [NEW, "0"]]
    assert table_of(command, "Detached") == [[f"{late}_detached", "1"], [f"{name}_detached", "2"]]
    assert "Partitions reach to " in command.err
    assert f"Detached, and not dropped: {late}_detached, {name}_detached." in command.err
    assert command("maintain", "--dsn", own_database.owner, "--drop-detached", "1h") == 0
    assert "# Dropped" not in command.out
    dropping = ["maintain", "--dsn", own_database.owner, "--drop-detached", "0d", "--ahead", 25]
    assert command(*dropping, "--dry-run") == 0
    gone = [[f"{late}_detached", "1"], [f"{name}_detached", "2"]]
    assert table_of(command, "Would be dropped") == gone
    assert command(*dropping, "--json") == 0
    upkeep = command.json()["partitions"]
    assert [[each["table"], str(each["rows"])] for each in upkeep["dropped"]] == gone
    assert (upkeep["made"], upkeep["problems"], upkeep["kept_detached"]) == ([], [], [])
    assert upkeep["strays"][0]["rows"] == 1


@ON_18
def test_rejects_are_discarded_by_age_and_shown(command: Command, own_database: Database):
    own_database.execute(
        "INSERT INTO tenantry.rejected_events (id, created_at, reason, recorded_at)"
        " SELECT gen_random_uuid(), now(), 'invalid', now() - interval '40 days'"
        " FROM generate_series(1, 3)"
    )
    asked = ["maintain", "--dsn", own_database.owner, "--keep"]
    assert command(*asked, "2months") == 0
    assert "rejected events" not in command.out
    assert command(*asked, "1month", "--dry-run") == 0
    assert table_of(command, "Would be discarded") == [["rejected events", "3"]]
    assert command(*asked, "1month") == 0
    assert table_of(command, "Discarded") == [["rejected events", "3"]]


@ON_18
def test_what_could_not_be_done_is_an_exit_code_of_its_own(
    command: Command, own_database: Database
):
    insert(own_database, make_cursor())
    maintainer = own_database.member_of("maintainer")
    assert command("maintain", "--dsn", maintainer, "--ahead", 25) == 3
    assert cells(command) == [["# Compacted"], ["service", "journals"], ["helpdesk", "1"]]
    assert 'GRANT "host_owner" TO "app_maintainer";' in command.err
    assert command("maintain", "--dsn", maintainer, "--ahead", 25, "--dry-run") == 0
    with psycopg.connect(own_database.reader) as reader:
        reader.execute("SELECT count(*) FROM tenantry.events")
        asked = ["--ahead", 25, "--lock-timeout", 0.05, "--timeout", 0.2]
        assert command("maintain", "--dsn", own_database.owner, *asked) == 3
        assert f"{NEW} was not attached: its locks could not be had within 0.2 s" in command.err
    assert command("maintain", "--dsn", own_database.owner, "--ahead", 25) == 0


@pytest.mark.parametrize(
    "keep", ["", "0d", "13", "13m", "1.5months", "-1d", "1201months", "36501d"]
)
def test_bad_age_is_refused(command: Command, keep: str):
    assert command("maintain", "--dsn", "host=127.0.0.1 port=1", f"--keep={keep}") == 2
    assert (
        f"--keep {keep!r} is no age: give a whole number with months or d behind it, as in 13months"
        in command.err
    )


def test_bad_age_of_detached_months_is_refused(command: Command):
    assert command("maintain", "--dsn", "host=127.0.0.1 port=1", "--drop-detached=all") == 2
    assert "--drop-detached 'all' is no length of time: give a number with s, m, h" in command.err


# stats.


def test_stats_shows_corrections_beside_the_books(
    command: Command, database18: Database, journal: Path
):
    insert(database18, make_cursor())
    database18.execute(
        "INSERT INTO tenantry.ledger (kind, count) VALUES ('retried', 2), ('retried', 3),"
        " ('discarded', 1), ('erased', 4), ('compacted', 5)"
    )
    assert command("stats", "--dsn", database18.owner, "--journal", journal) == 0
    lines = cells(command)
    begin = lines.index(["# Corrections"])
    assert lines[begin + 1 :] == [
        ["what", "count", "meaning"],
        ["compacted", "5", "journals folded into one row for each service"],
        ["discarded", "1", "rejected, and deleted from rejected_events"],
        ["erased", "4", "stored before, and deleted from events"],
        ["retried", "5", "rejected before, and stored after all"],
    ]


def test_stats_of_an_older_schema_has_no_corrections(
    command: Command, own_database: Database, journal: Path
):
    own_database.execute("DROP TABLE tenantry.ledger")
    assert command("stats", "--dsn", own_database.owner, "--journal", journal, "--json") == 0
    assert command.json()["corrections"] == {}


def test_row_of_the_compacted_id_that_does_not_balance_is_no_excuse(
    command: Command, database18: Database, journal: Path
):
    row = make_cursor(journal_id=str(compacted_id("helpdesk")), process="2 journals", stored=4)
    insert(database18, row)
    assert command("stats", "--dsn", database18.owner, "--journal", journal, "--json") == 1
    (entry,) = command.json()["journals"]
    assert (entry["state"], entry["balance"]) == ("compacted", False)
