"""`tenantry rejected`: what was refused, stored after all, or discarded."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.rejected import BATCH_ROWS
from tests.cli.commands import DEADLINE, Command, start_command, wait_until
from tests.database.rejections import ledger, make_refused, read, refuse
from tests.exporters.batches import TENANT, make_event
from tests.fix_postgres import Database


def reject_by_hand(database: Database, reason: str = "invalid", **values: object) -> str:
    """Leave a reject of the application's, which carries no event."""
    row_id = str(uuid4())
    row = {"tenant_id": TENANT, "name": "quota_exceeded", "detail": "limit: no number", **values}
    database.execute(
        "INSERT INTO tenantry.rejected_events (id, reason, tenant_id, name, detail, created_at)"
        " VALUES (%s, %s, %s, %s, %s, now())",
        [row_id, reason, row["tenant_id"], row["name"], row["detail"]],
    )
    return row_id


def cells(command: Command) -> list[list[str]]:
    return [line.split("\t") for line in command.out.splitlines()]


# list.


def test_list_counts_and_shows_the_newest(command: Command, database: Database):
    refuse(database, make_refused(3))
    newest = reject_by_hand(database)
    admin = database.member_of("admin")
    assert command("rejected", "list", "--dsn", admin, "--limit", 2) == 0
    lines = cells(command)
    assert lines[0] == ["# Rejected events"]
    assert lines[1] == ["reason", "name", "count", "newest", "retryable"]
    assert [lines[2][n] for n in (0, 1, 2, 4)] == ["database", "ingest_completed", "3", "3"]
    assert [lines[3][n] for n in (0, 1, 2, 4)] == ["invalid", "quota_exceeded", "1", "0"]
    assert lines[5] == ["recorded", "id", "tenant", "name", "retryable", "reason", "detail"]
    assert lines[6][1:] == [
        *(newest, TENANT, "quota_exceeded", "no", "invalid", "limit: no number")
    ]
    assert len(lines) == 8


def test_list_as_json_has_groups_and_whole_rows(command: Command, database18: Database):
    (event,) = events = make_refused(1)
    refuse(database18, events)
    assert command("rejected", "list", "--dsn", database18.owner, "--json") == 0
    printed = command.json()
    (group,) = printed["groups"]
    assert group.keys() == {"reason", "name", "count", "newest", "retryable"}
    (row,) = printed["rows"]
    assert (row["id"], row["event"]) == (event["id"], event)


@pytest.mark.parametrize(
    "option, value, count",
    [("--reason", "database", 2), ("--name", "b", 1), ("--tenant", TENANT, 2)],
)
def test_list_takes_what_is_asked_for(
    command: Command, database18: Database, option: str, value: str, count: int
):
    other = "018f6f0e-0000-7000-8000-000000000002"
    refuse(database18, [*make_refused(1), *make_refused(1, name="b", tenant_id=other)])
    reject_by_hand(database18)
    assert command("rejected", "list", "--dsn", database18.owner, "--json", option, value) == 0
    assert len(command.json()["rows"]) == count


def test_list_of_nothing_says_so(command: Command, database18: Database):
    assert command("rejected", "list", "--dsn", database18.owner) == 0
    assert command.out == "nothing is rejected\n"


def test_reader_sees_the_rejects_of_the_tenant_that_it_names(
    command: Command, database18: Database
):
    refuse(database18, make_refused(1))
    reader = database18.reader
    assert command("rejected", "list", "--dsn", reader, "--json", "--tenant", TENANT) == 0
    assert len(command.json()["rows"]) == 1
    assert command("rejected", "list", "--dsn", reader) == 4
    assert 'GRANT "tenantry_admin" TO "app_reader";' in command.err


def test_tenant_of_another_type_is_refused(command: Command, database18: Database):
    assert command("rejected", "list", "--dsn", database18.owner, "--tenant", "acme") == 2
    assert "'acme' (str) is not a tenant id" in command.err


# retry.


def test_retry_stores_the_rows_and_says_what_stays(command: Command, database: Database):
    refuse(database, make_refused(2))
    for reason in ("gap", "corrupt", "invalid", "database"):
        reject_by_hand(database, reason)
    maintainer = database.member_of("maintainer")
    assert command("rejected", "retry", "--dsn", maintainer, "--all") == 0
    lines = cells(command)
    assert lines[0] == ["2 retried, 0 refused again"]
    assert lines[1] == ["# Cannot be retried"]
    told = {line[0]: line[1:] for line in lines[3:]}
    assert told.keys() == {"gap", "corrupt", "invalid", "database"}
    assert told["gap"][0] == "1"
    assert "it stands for dropped events, and is none itself" in told["gap"][1]
    assert "the line cannot be read any more. Look at the disk" in told["corrupt"][1]
    assert "Correct the call or the declaration, emit it again" in told["invalid"][1]
    assert "its JSON is what the database refused" in told["database"][1]
    assert len(read(database, "events")) == 2
    assert ledger(database)[0][-1] == 2
    assert database.execute("SELECT DISTINCT by FROM tenantry.ledger") == [("app_maintainer",)]


def test_row_refused_again_exits_with_1(command: Command, database: Database):
    refuse(database, make_refused(1))
    bad = make_refused(1)
    refuse(database, bad)
    database.execute(
        "UPDATE tenantry.rejected_events SET event = event || '{\"sample_rate\": 7}' WHERE id = %s",
        [bad[0]["id"]],
    )
    assert command("rejected", "retry", "--dsn", database.owner, "--all", "--json") == 1
    printed = command.json()
    assert (printed["retried"], printed["refused"], printed["stored_already"]) == (1, 1, 0)
    assert "events_sample_rate_check" in next(iter(printed["details"]))
    assert (printed["locked"], printed["not_retryable"]) == (0, [])
    assert command("rejected", "retry", "--dsn", database.owner, "--all") == 1
    assert cells(command)[0] == ["0 retried, 1 refused again"]
    assert cells(command)[3][0] == "1"


def test_id_that_cannot_be_retried_exits_with_1(command: Command, database18: Database):
    row_id = reject_by_hand(database18)
    assert command("rejected", "retry", "--dsn", database18.owner, "--id", row_id) == 1
    assert command("rejected", "retry", "--dsn", database18.owner, "--reason", "invalid") == 0


def test_ids_that_are_named_are_retried(command: Command, database18: Database):
    one, two, three = make_refused(3)
    refuse(database18, [one, two, three])
    ids = ["--id", one["id"], "--id", two["id"]]
    assert command("rejected", "retry", "--dsn", database18.owner, *ids) == 0
    assert [row["id"] for row in read(database18, "rejected_events")] == [three["id"]]
    assert command("rejected", "retry", "--dsn", database18.owner, *ids) == 0  # again
    assert command.out == "0 retried, 0 refused again\n"


def test_event_that_is_there_already_is_told(command: Command, database18: Database):
    events = make_refused(1)
    refuse(database18, events)
    database18.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at) VALUES (%s, %s, 'x', %s)",
        [events[0]["id"], TENANT, events[0]["created_at"]],
    )
    assert command("rejected", "retry", "--dsn", database18.owner, "--all") == 0
    assert command.out == "0 retried, 0 refused again, 1 stored already\n"


def test_rows_that_are_locked_are_told(command: Command, database18: Database):
    refuse(database18, make_refused(2))
    with psycopg.connect(database18.owner) as other:
        other.execute("SELECT FROM tenantry.rejected_events LIMIT 1 FOR UPDATE")
        assert command("rejected", "retry", "--dsn", database18.owner, "--all") == 0
    assert "Locked, since another retry has them: 1. Run it again to make sure." in command.err


def test_interrupted_retry_says_what_is_done(database18: Database):
    refuse(database18, make_refused(BATCH_ROWS + 1))
    last = read(database18, "rejected_events")[-1]["id"]
    with psycopg.connect(database18.superuser) as blocker:
        # The same event, not committed yet: its insert waits.
        blocker.execute(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
            " SELECT id, tenant_id::uuid, name, created_at FROM tenantry.rejected_events"
            " WHERE id = %s",
            [last],
        )
        process = start_command("rejected", "retry", "--dsn", database18.owner, "--all")
        wait_until(lambda: len(read(database18, "events")) == BATCH_ROWS, "no batch was settled")
        wait_until(lambda: is_waiting(database18), "it does not wait")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert f"{BATCH_ROWS} retried, 0 refused again, until it stopped" in " ".join(err.split())
    assert ledger(database18)[0][-1] == BATCH_ROWS


def is_waiting(database: Database) -> bool:
    return bool(
        database.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'tenantry'"
            " AND wait_event_type = 'Lock'"
        )
    )


def test_retry_beside_a_running_shipper(command: Command, database18: Database, journal):
    from tenantry import Pipeline, log_event, tenant

    refuse(database18, make_refused(BATCH_ROWS))
    stop = threading.Event()
    pipeline = Pipeline(dsn=database18.writer, journal=journal, open_taxonomy=["tick"])

    def emit() -> None:
        with pipeline, tenant(TENANT):
            while not stop.is_set():
                log_event("tick")
                time.sleep(0.001)  # a load that leaves the retry a core

    thread = threading.Thread(target=emit)
    thread.start()
    try:
        assert command("rejected", "retry", "--dsn", database18.owner, "--all") == 0
    finally:
        stop.set()
        thread.join(DEADLINE)
    report = pipeline.shutdown(20)
    assert report
    assert len(read(database18, "events")) == BATCH_ROWS + report.stored


# discard.


def test_discard_deletes_with_a_line_of_the_ledger(command: Command, database: Database):
    refuse(database, make_refused(2))
    reject_by_hand(database)
    maintainer = database.member_of("maintainer")
    options = ("--reason", "database", "--yes")
    assert command("rejected", "discard", "--dsn", maintainer, *options) == 0
    assert command.out == "2 discarded\n"
    assert [row["reason"] for row in read(database, "rejected_events")] == ["invalid"]
    assert ledger(database) == [("discarded", TENANT, "ingest_completed", "database", 2)]
    assert command("rejected", "discard", "--dsn", maintainer, *options, "--json") == 0
    assert command.json() == {"version": 1, "discarded": 0}


def test_discard_without_a_terminal_needs_yes(command: Command, database18: Database):
    reject_by_hand(database18)
    assert command("rejected", "discard", "--dsn", database18.owner, "--all") == 2
    assert command.err == (
        "tenantry: nobody can be asked here: pass --yes to discard without asking\n"
    )
    assert len(read(database18, "rejected_events")) == 1


def run_on_terminal(database: Database, *arguments: str, answer: bytes) -> tuple[int, str]:
    """Run a command whose input and output are a terminal, and answer its question."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from tenantry.cli import main; main()", *arguments],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "TENANTRY_DSN": database.owner},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + DEADLINE
    asked = False
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 100_000)
            except OSError:
                break  # the other end is closed
        if not asked and b"[y/N]" in shown:
            asked = True
            os.write(ours, answer)
    os.close(ours)
    return process.wait(DEADLINE), shown.decode()


@pytest.mark.parametrize(
    "answer, code, left", [(b"y\n", 0, 0), (b"n\n", 1, 3), (b"\n", 1, 3), (b"\x04", 130, 3)]
)
def test_terminal_is_asked_first(database18: Database, answer: bytes, code: int, left: int):
    refuse(database18, make_refused(2))
    reject_by_hand(database18, "gap")
    done, shown = run_on_terminal(database18, "rejected", "discard", "--all", answer=answer)
    assert (done, len(read(database18, "rejected_events"))) == (code, left)
    assert "Discard 3 rejected events (database 2, gap 1)?" in shown
    assert "2 of them could be retried." in shown
    assert ("3 discarded" in shown) is (code == 0)
    assert ("Nothing is discarded." in shown) is (code == 1)


def test_terminal_gets_whole_ids_and_a_progress_bar(database18: Database):
    (event,) = events = make_refused(1)
    refuse(database18, events)
    _, shown = run_on_terminal(database18, "rejected", "list", answer=b"")
    assert event["id"] in shown
    _, shown = run_on_terminal(database18, "rejected", "retry", "--all", answer=b"")
    assert "retrying" in shown
    assert "1 retried, 0 refused again" in shown


# Both.


@pytest.mark.parametrize("name", ["retry", "discard"])
@pytest.mark.parametrize(
    "options",
    [[], ["--all", "--reason", "gap"], ["--id", str(uuid4()), "--all"]],
    ids=["none", "all and reason", "id and all"],
)
def test_choice_must_be_one(command: Command, name: str, options: list[str]):
    assert command("rejected", name, "--dsn", "host=127.0.0.1 port=1", *options) == 2
    assert f"it is not clear which events to {name}: give --id, or some of" in command.err


@pytest.mark.parametrize("name", ["retry", "discard"])
def test_id_that_is_no_uuid_is_refused(command: Command, name: str):
    assert command("rejected", name, "--dsn", "host=127.0.0.1 port=1", "--id", "7") == 2
    assert "--id '7' is no UUID: give the id that `tenantry rejected list` shows" in command.err


@pytest.mark.parametrize("role", ["writer", "reader", "admin"])
@pytest.mark.parametrize("name", ["retry", "discard"])
def test_missing_role_is_told_with_the_grant(
    command: Command, database: Database, name: str, role: str
):
    row_id = reject_by_hand(database)
    options = ["--yes"] if name == "discard" else []
    dsn = database.member_of(role)
    assert command("rejected", name, "--dsn", dsn, "--id", row_id, *options) == 4
    assert f"'app_{role}' may not do this: it is no member of tenantry_maintainer." in command.err
    assert f'GRANT "tenantry_maintainer" TO "app_{role}";' in command.err
    assert len(read(database, "rejected_events")) == 1


def test_older_schema_is_told_to_migrate(command: Command, own_database: Database):
    own_database.execute("ALTER TABLE tenantry.rejected_events DROP COLUMN event")
    assert command("rejected", "list", "--dsn", own_database.owner) == 4
    assert "Run: tenantry migrate --schema tenantry" in command.err


def test_lost_connection_is_told(command: Command, database18: Database):
    gone = make_conninfo(database18.owner, host="127.0.0.1", port="1")
    assert command("rejected", "retry", "--dsn", gone, "--all") == 4


def test_row_of_a_bigint_schema_can_be_selected_by_tenant(
    command: Command, empty_database: Database
):
    command("migrate", "--dsn", empty_database.owner, "--tenant-type", "bigint")
    event = make_event(tenant_id=7)
    empty_database.execute(
        "INSERT INTO tenantry.rejected_events (id, tenant_id, name, created_at, reason, event)"
        " VALUES (%s, '7', 'x', now(), 'database', %s)",
        [event["id"], json.dumps(event)],
    )
    assert command("rejected", "retry", "--dsn", empty_database.owner, "--tenant", "007") == 0
    assert empty_database.execute("SELECT tenant_id FROM tenantry.events") == [(7,)]
