"""`tenantry drain`: ships what killed processes left, and says why something remains."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tenantry import Pipeline
from tenantry.cli.draining import Progress, drain
from tenantry.record import Kind, format_line
from tests.cli.commands import DEADLINE, Command, die_with_events
from tests.fix_postgres import Database


def count_events(database: Database) -> dict[str, int]:
    return dict(
        database.execute(
            "SELECT concat_ws(' ', name, error_code), count(*) FROM tenantry.events GROUP BY 1"
        )
    )


def journals(root: Path) -> list[Path]:
    return sorted(root.iterdir())


def test_journal_of_a_killed_process_is_shipped_and_removed(
    command: Command, database: Database, journal: Path
):
    die_with_events(database.writer, journal)
    (left,) = journals(journal)
    assert command("drain", "--dsn", database.writer, "--journal", journal, "--json") == 0
    report = command.json()
    assert report["complete"] is True
    assert report["remaining"] == report["others"] == report["live"] == []
    (drained,) = report["drained"]
    assert drained["journal_id"] == left.name
    assert (drained["stored"], drained["rejected"], drained["abandoned"]) == (7, 0, 1)
    assert journals(journal) == []
    assert count_events(database) == {
        "quota_exceeded": 5,
        "ingest_started": 1,
        "ingest_failed abandoned": 1,
    }


def test_table_names_what_was_drained(command: Command, database18: Database, journal: Path):
    die_with_events(database18.writer, journal)
    (left,) = journals(journal)
    assert command("drain", "--dsn", database18.writer, "--journal", journal) == 0
    heading, columns, row = command.out.splitlines()
    assert heading == "# Drained"
    assert columns.split("\t") == ["journal", "process", "stored", "rejected", "abandoned"]
    assert row.split("\t")[0] == left.name
    assert row.split("\t")[2:] == ["7", "0", "1"]


def test_nothing_to_drain_needs_no_connection(command: Command, journal: Path):
    assert command("drain", "--dsn", "host=127.0.0.1 port=1", "--journal", journal) == 0
    assert command.out == f"nothing to drain in {journal}\n"


def test_default_journal_is_that_of_configure(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert command("drain", "--dsn", "host=127.0.0.1 port=1") == 0
    assert command.out == f"nothing to drain in {tmp_path / 'tenantry'}\n"
    monkeypatch.setenv("TENANTRY_JOURNAL", str(tmp_path / "mine"))
    assert command("drain", "--dsn", "host=127.0.0.1 port=1") == 0
    assert command.out == f"nothing to drain in {tmp_path / 'mine'}\n"


def test_journals_for_other_destinations_are_left_alone_and_listed(
    command: Command, database18: Database, journal: Path
):
    die_with_events(make_conninfo(database18.writer, dbname="elsewhere"), journal)
    (other,) = journals(journal)
    die_with_events(database18.writer, journal)
    assert command("drain", "--dsn", database18.writer, "--journal", journal, "--json") == 0
    report = command.json()
    assert len(report["drained"]) == 1
    (listed,) = report["others"]
    assert listed["journal_id"] == other.name
    assert listed["pending"] == 6
    assert listed["state"] == "dead"
    assert "/elsewhere/" in listed["destination"]
    assert journals(journal) == [other]


def test_journal_of_a_living_process_is_left_to_it(
    command: Command, database18: Database, journal: Path
):
    pipeline = Pipeline(
        dsn=database18.writer,
        taxonomy="tenantry.taxonomies.saas",
        journal=journal,
        ship_interval=60.0,
    )
    try:
        assert command("drain", "--dsn", database18.writer, "--journal", journal, "--json") == 0
        report = command.json()
        assert (report["drained"], len(report["live"])) == ([], 1)
    finally:
        pipeline.shutdown()


def test_unreachable_database_leaves_the_journal(
    command: Command, database18: Database, journal: Path
):
    dsn = "host=127.0.0.1 port=1 user=app dbname=shop"
    die_with_events(dsn, journal)
    assert command("drain", "--dsn", dsn, "--journal", journal) == 4
    assert "Cannot connect to 127.0.0.1:1/shop" in command.err
    assert len(journals(journal)) == 1


def test_role_that_may_not_write_is_refused_with_the_grant(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal)
    assert command("drain", "--dsn", database18.reader, "--journal", journal) == 4
    assert "GRANT" in command.err
    assert len(journals(journal)) == 1


def test_journal_with_ids_of_another_type_remains_with_the_reason(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal, tenant="acme", tenant_type="text")
    assert command("drain", "--dsn", database18.writer, "--journal", journal, "--json") == 3
    report = command.json()
    assert report["complete"] is False
    (remaining,) = report["remaining"]
    assert remaining["pending"] == 7  # its open operation was closed in the journal
    assert "its tenant ids are text, those of the schema uuid" in remaining["reason"]
    assert count_events(database18) == {}


def test_journal_of_another_format_remains_with_the_reason(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal)
    (left,) = journals(journal)
    (segment,) = left.glob("*.segment")
    first, _, rest = segment.read_bytes().partition(b"\n")
    header = json.loads(first.split(b" ", 3)[3]) | {"format": 99}
    segment.write_bytes(format_line(Kind.HEADER, 0, json.dumps(header)) + rest)
    assert command("drain", "--dsn", database18.writer, "--journal", journal) == 3
    assert "# Remaining" in command.out
    assert "another version of Tenantry wrote it" in command.out
    assert left.is_dir()


def test_journal_whose_first_line_is_damaged_remains_with_the_reason(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal)
    (left,) = journals(journal)
    segment = min(left.glob("*.segment"))
    content = bytearray(segment.read_bytes())
    content[20] ^= 1
    segment.write_bytes(content)
    assert command("drain", "--dsn", database18.writer, "--journal", journal, "--json") == 3
    report = command.json()
    assert (report["complete"], report["others"]) == (False, [])
    (remaining,) = report["remaining"]
    assert remaining["reason"].startswith("its first line cannot be read: look at the disk")
    assert segment.exists()


def test_journal_that_is_not_its_users_alone_remains_with_the_reason(
    command: Command, database18: Database, journal: Path
):
    """Its lock is a FIFO, which would block whoever opens it to write."""
    die_with_events(database18.writer, journal)
    (left,) = journals(journal)
    left.chmod(0o777)
    (left / "owner.lock").unlink()
    os.mkfifo(left / "owner.lock")
    options = ("--dsn", database18.writer, "--journal", journal, "--json")
    assert command("drain", *options) == 3
    (remaining,) = command.json()["remaining"]
    assert f"{str(left)!r} may be written to by others (mode 0777)" in remaining["reason"]
    left.chmod(0o700)
    assert command("drain", *options) == 3
    (remaining,) = command.json()["remaining"]
    assert remaining["reason"].endswith("owner.lock' is no regular file: remove it")
    assert command("stats", "--dsn", database18.owner, "--journal", journal, "--json") == 0
    (shown,) = command.json()["others"]
    assert shown["journal_id"] == left.name


def test_database_that_does_not_answer_in_time_leaves_the_journal(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal)
    with locked_cursors(database18):
        options = ("--dsn", database18.writer, "--journal", journal, "--timeout", 0.5)
        assert command("drain", *options) == 4
    assert "did not answer in time" in command.err
    assert len(journals(journal)) == 1


def test_trouble_in_the_middle_is_the_reason_of_what_remains(database18: Database, journal: Path):
    die_with_events(database18.writer, journal, facts=3000)
    before = sum(count_events(database18).values())  # its own shipper may have begun
    with ExitStack() as stack:

        def lock_after_first_batch(progress: Progress) -> None:
            if progress.settled and not locks:
                locks.append(stack.enter_context(locked_cursors(database18)))

        locks: list[object] = []
        report = drain(
            database18.writer,
            schema="tenantry",
            root=journal,
            timeout=1.5,
            on_progress=lock_after_first_batch,
        )
    (remaining,) = report.remaining
    (drained,) = report.drained
    assert "did not answer in time" in remaining.reason
    assert before + drained.stored + remaining.journal.pending == 3002
    rest = drain(database18.writer, schema="tenantry", root=journal, timeout=20)
    assert rest.is_complete
    assert rest.drained[0].stored == remaining.journal.pending
    assert sum(count_events(database18).values()) == 3002


@contextmanager
def locked_cursors(database: Database) -> Generator[None]:
    with database.server.connect(dbname=database.name) as connection, connection.transaction():
        connection.execute("LOCK TABLE tenantry.journal_cursors IN ACCESS EXCLUSIVE MODE")
        yield


def test_journal_that_was_drained_before_is_not_stored_twice(
    command: Command, database18: Database, journal: Path
):
    die_with_events(database18.writer, journal)
    (left,) = journals(journal)
    copy = journal.with_name("copy")
    shutil.copytree(left, copy)
    assert command("drain", "--dsn", database18.writer, "--journal", journal) == 0
    shutil.copytree(copy, left)  # as after a machine's disk was restored
    assert command("drain", "--dsn", database18.writer, "--journal", journal) == 0
    assert journals(journal) == []
    assert sum(count_events(database18).values()) == 7


def test_terminal_gets_a_progress_bar_on_stderr(database18: Database, journal: Path):
    die_with_events(database18.writer, journal)
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", "from tenantry.cli import main; main()", "drain", "--json"],
        env={
            **os.environ,
            "TERM": "xterm",
            "TENANTRY_DSN": database18.writer,
            "TENANTRY_JOURNAL": str(journal),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
        timeout=DEADLINE,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "draining" in shown
    assert json.loads(done.stdout)["complete"] is True


def test_journal_that_cannot_be_opened_is_one_line(command: Command, journal: Path):
    directory = journal / "018f6f0e-0000-7000-8000-000000000001"
    (directory / "owner.lock").mkdir(parents=True)
    (directory / "0000000001.segment").touch()
    assert command("drain", "--dsn", "host=127.0.0.1 port=1", "--journal", journal) == 2
    assert command.err.startswith("tenantry: [Errno 21] Is a directory")
    assert command.err.count("\n") == 1
