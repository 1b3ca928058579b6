"""`tenantry tail`: the newest events, and each new one exactly once."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.cli.commands import (
    DEADLINE,
    INSERT,
    OTHER_TENANT,
    TENANT,
    Command,
    make_row,
    start_command,
    wait_until,
)
from tests.fix_postgres import Database


def insert(database: Database, **values: object) -> str:
    row = make_row(**values)
    with psycopg.connect(database.writer, autocommit=True) as connection:
        connection.execute(INSERT, row)
    return row["id"]


@pytest.fixture
def ids(database18: Database) -> list[str]:
    """Return the ids of four events, oldest first, of two tenants and two names."""
    return [
        insert(database18, created_at="2026-11-22T10:00:01+00:00"),
        insert(database18, created_at="2026-11-22T10:00:02+00:00", tenant_id=OTHER_TENANT),
        insert(database18, created_at="2026-11-22T10:00:03+00:00", name="plan_updated"),
        insert(database18, created_at="2026-11-22T10:00:04+00:00"),
    ]


def shown(command: Command) -> list[str]:
    return [event["id"] for event in command.json()["events"]]


def test_newest_events_are_shown_oldest_first(
    command: Command, database18: Database, ids: list[str]
):
    assert command("tail", "--dsn", database18.owner, "--limit", 2, "--json") == 0
    assert shown(command) == ids[2:]


def test_json_carries_every_column(command: Command, database18: Database, ids: list[str]):
    from tenantry.record import EVENT_COLUMNS

    command("tail", "--dsn", database18.owner, "--json")
    (event, *_) = command.json()["events"]
    names = {column.name for column in EVENT_COLUMNS}
    assert event.keys() == names | {"recorded_at", "transaction_id"}
    assert event["created_at"] == "2026-11-22T10:00:01+00:00"
    assert event["data"] == {"role": "user"}


def test_pipe_gets_one_line_an_event_with_tabs(
    command: Command, database18: Database, ids: list[str]
):
    command("tail", "--dsn", database18.owner)
    lines = [line.split("\t") for line in command.out.splitlines()]
    assert [line[1:3] for line in lines[:2]] == [
        [TENANT, "message_sent"],
        [OTHER_TENANT, "message_sent"],
    ]
    assert lines[0][5] == '{"role": "user"}'


def test_events_of_one_tenant_or_name(command: Command, database18: Database, ids: list[str]):
    command("tail", "--dsn", database18.owner, "--tenant", OTHER_TENANT, "--json")
    assert shown(command) == [ids[1]]
    command("tail", "--dsn", database18.owner, "--name", "plan_updated", "--json")
    assert shown(command) == [ids[2]]


def test_reader_sees_the_tenant_that_it_names(
    command: Command, database18: Database, ids: list[str]
):
    assert command("tail", "--dsn", database18.reader, "--tenant", TENANT, "--json") == 0
    assert shown(command) == [ids[0], ids[2], ids[3]]
    assert not command.err


def test_reader_without_a_tenant_sees_nothing_and_is_told_why(
    command: Command, database18: Database, ids: list[str]
):
    assert command("tail", "--dsn", database18.reader, "--json") == 0
    assert shown(command) == []
    assert "No row is visible to 'app_reader', which is no member of tenantry_admin" in command.err


def test_administrator_of_an_empty_table_gets_no_hint(command: Command, database18: Database):
    assert command("tail", "--dsn", database18.owner) == 0
    assert not command.err


def test_role_that_may_not_read_is_told_which_may(command: Command, database18: Database):
    assert command("tail", "--dsn", database18.writer) == 4
    assert "does not let 'app_writer' read this" in command.err


def test_tenant_of_another_type_is_a_usage_error(command: Command, database18: Database):
    assert command("tail", "--dsn", database18.owner, "--tenant", "acme") == 2
    assert "is not a tenant id" in command.err


def test_platform_tenant_can_be_read(command: Command, database18: Database):
    nil = "00000000-0000-0000-0000-000000000000"
    event_id = insert(database18, tenant_id=nil)
    command("tail", "--dsn", database18.owner, "--tenant", nil, "--json")
    assert shown(command) == [event_id]


class Follower:
    """A `tail --follow` in a process of its own; ``ids`` are those of the rows that it printed."""

    def __init__(self, *options: object) -> None:
        self.ids: list[str] = []
        self.process = start_command("tail", "--follow", "--json", *options)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            parsed = json.loads(line)
            assert parsed["version"] == 1
            self.ids.append(parsed["event"]["id"])

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.ids) >= count, f"{len(self.ids)} of {count} rows were shown")

    def waits_for_an_answer(self) -> bool:
        """Say whether it waits for a socket, and does not sleep between two looks."""
        where = Path(f"/proc/{self.process.pid}/wchan").read_text()
        return "poll" in where or where == "0"  # some kernels do not tell

    def interrupt(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=DEADLINE)
        self._thread.join(timeout=DEADLINE)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


@pytest.fixture
def follower(database18: Database):
    first = insert(database18)
    follower = Follower("--dsn", database18.owner)
    follower.wait_for(1)  # it follows once it has shown what was there
    assert follower.ids == [first]
    yield follower
    follower.process.kill()
    follower.process.communicate()


def write_in_transactions(dsn: str, ids: list[str], names: list[str]) -> None:
    """Insert rows in transactions of three, each of which ends some time after it began."""
    with psycopg.connect(dsn) as slow, psycopg.connect(dsn) as quick:
        while names:
            slow.execute(INSERT, make_row(id=names[0]))
            for each in names[1:3]:
                quick.execute(INSERT, make_row(id=each))
                quick.commit()
            slow.commit()
            ids += names[:3]
            del names[:3]


def test_follower_sees_every_row_of_concurrent_writers_once(
    database18: Database, follower: Follower
):
    written: list[str] = []
    threads = [
        threading.Thread(
            target=write_in_transactions,
            args=(database18.writer, written, [str(uuid4()) for _ in range(60)]),
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=DEADLINE)
    follower.wait_for(1 + len(written))
    assert len(written) == 240
    assert sorted(follower.ids[1:]) == sorted(written)


def test_row_of_a_transaction_that_ends_late_is_not_missed(
    database18: Database, follower: Follower
):
    with psycopg.connect(database18.writer) as slow:
        late = make_row()
        slow.execute(INSERT, late)
        early = insert(database18)
        slow.commit()
    follower.wait_for(3)
    assert follower.ids[1:] == [late["id"], early]


@pytest.mark.parametrize("attempt", range(3))
def test_interrupted_follower_exits_with_0_and_says_nothing(follower: Follower, attempt: int):
    assert follower.interrupt() == (0, "")


def test_follower_whose_server_is_silent_can_be_interrupted(
    database18: Database, follower: Follower, stopped_processes: list[int]
):
    backends = "SELECT pid FROM pg_stat_activity WHERE usename = 'host_owner'"
    for (pid,) in database18.execute(backends):
        stopped_processes.append(pid)
        os.kill(pid, signal.SIGSTOP)
    wait_until(follower.waits_for_an_answer, "the follower does not ask")
    begun = time.monotonic()
    assert follower.interrupt() == (0, "")
    assert time.monotonic() - begun < 10


def test_follower_whose_connection_is_lost_exits_with_4(database18: Database, follower: Follower):
    database18.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = 'host_owner' AND pid <> pg_backend_pid()"
    )
    assert follower.process.wait(timeout=DEADLINE) == 4
    assert follower.process.stderr is not None
    assert "was lost" in follower.process.stderr.read()
