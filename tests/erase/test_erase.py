"""`tenantry erase`: what goes, what stays, and what says so."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tenantry.cli.erasure import Eradication
from tenantry.database import erase
from tenantry.database.retention import detach
from tenantry.database.short_locks import ShortLocks
from tests.cli.commands import Command, start_command, wait_until
from tests.erase.rows import (
    NEIGHBOUR,
    PLATFORM,
    US,
    add_all,
    add_event,
    add_reject,
    add_tally,
    erasure_lines,
    rows_of,
)
from tests.fix_postgres import Database

NOWHERE = "host=127.0.0.1 port=1"


@pytest.fixture
def two_tenants(database: Database) -> Database:
    add_all(database, US)
    add_all(database, NEIGHBOUR)
    return database


def places(command: Command) -> dict[str, tuple[int | None, int, int | None]]:
    return {
        each["place"]: (each["found"], each["erased"], each["left"])
        for each in command.json()["places"]
    }


def hints(command: Command) -> str:
    """Give what is on stderr, however it is wrapped."""
    return " ".join(command.err.split())


def reason_of(command: Command, kind: str) -> str:
    (reason,) = [each["reason"] for each in command.json()["places"] if each["kind"] == kind]
    return reason


@pytest.fixture
def run_erase(command: Command, journal: Path) -> Callable[..., int]:
    def run(dsn: str, *arguments: object) -> int:
        return command("erase", "--dsn", dsn, "--journal", journal, "--json", *arguments)

    return run


# What goes, and what stays.


def test_tenant_is_erased_from_all_tables_and_its_neighbour_is_not(
    two_tenants: Database, run_erase: Callable[..., int], command: Command
):
    maintainer = two_tenants.member_of("maintainer")
    assert run_erase(maintainer, "--tenant", US, "--yes") == 0
    assert rows_of(two_tenants, US) == [0, 0, 0, 0]
    assert rows_of(two_tenants, NEIGHBOUR) == [6, 1, 1, 2]
    assert command.json()["complete"] is True
    assert places(command) == {
        "events_2026_10": (1, 1, 0),
        "events_2026_11": (2, 2, 0),
        "events_2026_12": (1, 1, 0),
        "events_default": (2, 2, 0),
        "rejected_events": (1, 1, 0),
        "event_tallies": (1, 1, 0),
        "ledger": (2, 2, 0),
    }


def test_ledger_and_an_event_of_nobody_record_it(
    two_tenants: Database, run_erase: Callable[..., int], command: Command
):
    assert run_erase(two_tenants.owner, "--tenant", US, "--yes") == 0
    report = command.json()
    assert erasure_lines(two_tenants) == {("erased", US): 6, ("discarded", US): 1}
    ((event_id, tenant, data),) = two_tenants.execute(
        "SELECT id::text, tenant_id::text, data FROM tenantry.events WHERE name = 'data_erased'"
    )
    assert (event_id, tenant) == (report["event_id"], PLATFORM)
    assert data == {
        "tenantId": US,
        "scope": "tenant",
        "complete": True,
        "events": 6,
        "rejectedEvents": 1,
        "eventTallies": 1,
        "ledger": 2,
        "detached": 0,
        "journalLines": 0,
        "placesLeft": 0,
    }
    assert report["began_at"] < report["ended_at"]
    assert report["login"] == "host_owner"


def test_counts_stay_and_belong_to_nobody(database: Database, run_erase: Callable[..., int]):
    journal_id = "018f6f0e-0000-7000-8000-0000000000ff"
    for tenant, accepted in ((US, 3), (NEIGHBOUR, 4), (PLATFORM, 5)):
        add_tally(database, tenant, journal_id, accepted)
    add_tally(database, US, "018f6f0e-0000-7000-8000-0000000000fe", 7)
    assert run_erase(database.owner, "--tenant", US, "--yes") == 0
    tallies = "SELECT tenant_id::text, accepted FROM tenantry.event_tallies ORDER BY 2"
    assert database.execute(tallies) == [(NEIGHBOUR, 4), (PLATFORM, 7), (PLATFORM, 8)]


def test_only_the_actor_is_erased(
    database: Database, run_erase: Callable[..., int], command: Command
):
    for actor in ("user:1", "user:11", "User:1", "user:1 ", None):
        add_event(database, US, actor=actor)
    for actor in ("user:1", "user:11", None):
        add_reject(database, US, actor=actor)
    add_all(database, NEIGHBOUR)
    add_tally(database, US, "018f6f0e-0000-7000-8000-0000000000fe", 5)
    assert run_erase(database.owner, "--tenant", US, "--actor", "user:1", "--yes") == 0
    left = database.execute(
        "SELECT actor_id FROM tenantry.events WHERE tenant_id = %s ORDER BY id", [US]
    )
    assert {actor for (actor,) in left} == {"user:11", "User:1", "user:1 ", None}
    assert rows_of(database, US) == [4, 2, 1, 0]
    assert rows_of(database, NEIGHBOUR) == [6, 1, 1, 2]
    assert command.json()["unattributed"] == 1
    proof = database.execute("SELECT data::text FROM tenantry.events WHERE name = 'data_erased'")
    assert "user:1" not in str(proof)
    assert json.loads(proof[0][0])["scope"] == "actor"


def test_actor_of_platform_can_be_erased(database18: Database, run_erase: Callable[..., int]):
    for actor in ("staff:1", "staff:2"):
        add_event(database18, PLATFORM, actor=actor)
    options = ("--tenant", PLATFORM, "--actor", "staff:1", "--yes")
    assert run_erase(database18.owner, *options) == 0
    assert database18.execute("SELECT actor_id FROM tenantry.events ORDER BY 1") == [
        ("staff:2",),
        (None,),  # the record of it
    ]


def test_tenant_without_rows_is_reported_with_zeros(
    database18: Database, run_erase: Callable[..., int], command: Command
):
    assert run_erase(database18.owner, "--tenant", US, "--yes") == 0
    assert set(places(command).values()) == {(0, 0, 0)}
    assert set(places(command)) == {"events", "rejected_events", "event_tallies", "ledger"}
    assert erasure_lines(database18) == {}


def test_uuid_is_read_in_any_form(database18: Database, run_erase: Callable[..., int]):
    add_all(database18, US)
    given = US.upper().replace("-", "")
    assert run_erase(database18.owner, "--tenant", given, "--yes") == 0
    assert rows_of(database18, US) == [0, 0, 0, 0]


def test_erasing_again_changes_nothing_but_records_it(
    two_tenants: Database, run_erase: Callable[..., int], command: Command
):
    for _ in range(2):
        assert run_erase(two_tenants.owner, "--tenant", US, "--yes") == 0
    assert erasure_lines(two_tenants) == {("erased", US): 6, ("discarded", US): 1}
    assert set(places(command).values()) == {(0, 0, 0)}
    records = "SELECT count(*) FROM tenantry.events WHERE name = 'data_erased'"
    assert two_tenants.execute(records) == [(2,)]


# Dry runs.


@pytest.mark.parametrize("option", [[], ["--dry-run"]], ids=["default", "explicit"])
def test_without_yes_it_is_only_said_what_there_is(
    database18: Database, run_erase: Callable[..., int], command: Command, option: list[str]
):
    add_all(database18, US)
    assert run_erase(database18.owner, "--tenant", US, *option) == 0
    report = command.json()
    assert (report["dry_run"], report["complete"], report["event_id"]) == (True, False, None)
    assert places(command)["events_2026_11"] == (2, 0, 2)
    assert "Nothing is erased. Run it with --yes to erase." in hints(command)
    assert rows_of(database18, US) == [6, 1, 1, 2]
    assert erasure_lines(database18) == {}


def test_table_names_places_and_numbers(database18: Database, command: Command, journal: Path):
    add_all(database18, US)
    arguments = ("--dsn", database18.owner, "--journal", journal, "--tenant", US)
    assert command("erase", *arguments) == 0
    lines = [line.split("\t") for line in command.out.splitlines()]
    assert lines[0] == [f"# Would be erased: the tenant {US}"]
    assert lines[1] == ["kind", "place", "found", "erased", "left", "reason"]
    assert lines[2] == ["partition", "events_2026_10", "1", "0", "", ""]
    assert command("erase", *arguments, "--actor", "user:1", "--yes") == 0
    lines = [line.split("\t") for line in command.out.splitlines()]
    assert lines[0] == [f"# Erased: user:1, an actor of the tenant {US}"]
    assert lines[2] == ["partition", "events_2026_10", "1", "1", "0", ""]
    assert f"Journalsreadin{journal}:0." in "".join(command.err.split())


def test_logins_that_are_bound_to_the_tenant_are_named_and_stay(
    database18: Database, run_erase: Callable[..., int], command: Command
):
    database18.execute("INSERT INTO tenantry.tenant_roles VALUES ('analyst', %s)", [US])
    assert run_erase(database18.owner, "--tenant", US, "--yes") == 0
    assert command.json()["bound_logins"] == ["analyst"]
    assert "Logins that are bound to this tenant, and stay: analyst." in hints(command)
    assert database18.execute("SELECT role::text FROM tenantry.tenant_roles") == [("analyst",)]
    assert "Logins that are bound to this tenant, and stay: analyst." in hints(command)


def test_rejects_that_name_no_actor_are_told(
    database18: Database, run_erase: Callable[..., int], command: Command
):
    add_reject(database18, US)
    assert run_erase(database18.owner, "--tenant", US, "--actor", "user:1", "--yes") == 0
    assert "Rejected events of this tenant that name no actor, and stay: 1." in hints(command)


# What is refused.


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--tenant", US, "--yes", "--dry-run"], "--yes and --dry-run contradict each other"),
        (["--tenant", US, "--actor", ""], "--actor '' is no actor as it is stored"),
        (["--tenant", US, "--actor", "a" * 201], "those have 1 to 200 characters"),
    ],
    ids=["yes and dry run", "empty actor", "long actor"],
)
def test_contradiction_is_refused(command: Command, arguments: list[str], text: str):
    assert command("erase", "--dsn", NOWHERE, *arguments) == 2
    assert text in command.err


def test_platform_is_not_erased_as_a_whole(
    database18: Database, run_erase: Callable[..., int], command: Command
):
    add_event(database18, PLATFORM)
    assert run_erase(database18.owner, "--tenant", PLATFORM, "--yes") == 2
    assert "is PLATFORM, whose events belong to no customer" in command.err
    assert rows_of(database18, PLATFORM)[0] == 1


@pytest.mark.parametrize("tenant", ["", "acme", "'; DROP TABLE events; --"])
def test_what_is_no_tenant_id_is_refused(
    database18: Database, run_erase: Callable[..., int], command: Command, tenant: str
):
    assert run_erase(database18.owner, "--tenant", tenant, "--yes") == 2
    assert "is not a tenant id: tenant ids are UUIDs" in command.err


@pytest.mark.parametrize("role", ["writer", "reader", "admin"])
def test_missing_role_is_told_with_the_grant(
    database18: Database, run_erase: Callable[..., int], command: Command, role: str
):
    add_all(database18, US)
    dsn = database18.member_of(role)
    for option in ([], ["--yes"]):
        assert run_erase(dsn, "--tenant", US, *option) == 4
        assert f'GRANT "tenantry_maintainer" TO "app_{role}";' in command.err
    assert rows_of(database18, US) == [6, 1, 1, 2]


def test_hostile_actor_is_nobody(
    database18: Database, run_erase: Callable[..., int], command: Command
):
    add_all(database18, US)
    for text in ("' OR true --", "%", "user:1' OR 'a' = 'a", "\\", "null"):
        assert run_erase(database18.owner, "--tenant", US, "--actor", text, "--yes") == 0
        assert {erased for _, erased, _ in places(command).values()} == {0}
    assert rows_of(database18, US) == [6, 1, 1, 2]


# Batches, interruptions, and others at work.


@pytest.mark.parametrize("rows", [1, 4])
def test_each_batch_has_its_line_in_the_ledger(
    database18: Database,
    run_erase: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
):
    monkeypatch.setattr(erase, "BATCH_ROWS", rows)
    add_all(database18, US)
    add_all(database18, NEIGHBOUR)
    assert run_erase(database18.owner, "--tenant", US, "--yes") == 0
    lines = database18.execute("SELECT count FROM tenantry.ledger WHERE kind = 'erased'")
    assert sum(count for (count,) in lines) == 6
    assert max(count for (count,) in lines) == rows
    assert rows_of(database18, NEIGHBOUR) == [6, 1, 1, 2]


def test_lost_connection_leaves_whole_batches_and_the_next_run_completes(
    database18: Database,
    run_erase: Callable[..., int],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(erase, "BATCH_ROWS", 2)
    add_all(database18, US)
    original = Eradication.run

    def cut_off(self: Eradication) -> None:
        def kill(erased: int, _total: int) -> None:
            if erased == 4:
                database18.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'tenantry' AND usename = 'host_owner'"
                )

        self.on_batch = kill
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Eradication, "run", cut_off)
        assert run_erase(database18.owner, "--tenant", US, "--yes") == 4
    assert "the connection to" in command.err
    assert "4 rows erased, until it stopped. Run it again to go on." in hints(command)
    assert rows_of(database18, US)[0] == 2
    assert erasure_lines(database18) == {("erased", US): 4}
    assert run_erase(database18.owner, "--tenant", US, "--yes") == 0
    assert erasure_lines(database18) == {("erased", US): 6, ("discarded", US): 1}


@pytest.mark.parametrize(
    "number, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=["kill", "int"]
)
def test_killed_in_the_middle_of_a_batch_it_has_done_nothing_of_it_and_blocked_no_writer(
    database: Database,
    run_erase: Callable[..., int],
    journal: Path,
    number: signal.Signals,
    code: int,
):
    add_all(database, US)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND usename = 'host_owner' AND query LIKE 'INSERT INTO%%ledger%%'"
    )
    with psycopg.connect(database.superuser) as holder:
        holder.execute("LOCK TABLE tenantry.ledger IN EXCLUSIVE MODE")
        process = start_command(
            *("erase", "--dsn", database.owner, "--journal", journal, "--tenant", US, "--yes")
        )
        wait_until(lambda: database.execute(waiting) == [(1,)], "it never came to the ledger")
        with psycopg.connect(database.writer, autocommit=True) as writer:
            writer.execute("SET statement_timeout = '5s'")
            for tenant in (US, NEIGHBOUR):
                writer.execute(
                    "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
                    " VALUES (gen_random_uuid(), %s, 'late', now())",
                    [tenant],
                )
        os.kill(process.pid, number)
        process.communicate(timeout=20)
        assert process.returncode == code
        holder.rollback()
    wait_until(lambda: database.execute(waiting) == [(0,)], "its session outlives the lock")
    assert rows_of(database, US) == [7, 1, 1, 2]
    assert erasure_lines(database) == {}
    assert run_erase(database.owner, "--tenant", US, "--yes") == 0
    assert rows_of(database, US) == [0, 0, 0, 0]
    assert erasure_lines(database) == {("erased", US): 7, ("discarded", US): 1}
    assert rows_of(database, NEIGHBOUR)[0] == 1


def test_rows_that_another_has_locked_are_left_and_reported(
    database: Database, run_erase: Callable[..., int], command: Command
):
    add_all(database, US)
    with psycopg.connect(database.superuser) as holder:
        holder.execute(
            "SELECT FROM tenantry.events WHERE tenant_id = %s AND created_at < '2000-01-01'"
            " FOR UPDATE",
            [US],
        )
        assert run_erase(database.owner, "--tenant", US, "--yes") == 3
    assert places(command)["events_default"] == (2, 1, 1)
    (left,) = [each for each in command.json()["places"] if each["left"]]
    assert "they came after it had begun, or another has locked them" in left["reason"]
    assert "Something is left. Do as the reasons say, and run it again." in hints(command)
    record = "SELECT data FROM tenantry.events WHERE name = 'data_erased'"
    ((data,),) = database.execute(record)
    assert (data["complete"], data["placesLeft"]) == (False, 1)
    assert run_erase(database.owner, "--tenant", US, "--yes") == 0


def test_host_that_knows_no_platform_gets_no_event(
    own_database: Database, run_erase: Callable[..., int], command: Command
):
    own_database.execute("CREATE TABLE tenants (id uuid PRIMARY KEY)")
    own_database.execute("INSERT INTO tenants VALUES (%s)", [US])
    own_database.execute(
        "ALTER TABLE tenantry.events ADD FOREIGN KEY (tenant_id) REFERENCES tenants"
    )
    add_all(own_database, US)
    assert run_erase(own_database.owner, "--tenant", US, "--yes") == 0
    assert command.json()["event_id"] is None
    assert "a constraint of events refuses one of PLATFORM. The ledger does." in hints(command)
    assert erasure_lines(own_database) == {("erased", US): 6, ("discarded", US): 1}


# Detached months.


def detach_november(database: Database) -> str:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        locks = ShortLocks(connection, lock_timeout=5.0, deadline=float("inf"))
        name = detach(locks, "tenantry", "events_2026_11")
    assert name is not None
    return name


def count_detached(database: Database, table: str) -> dict[str, int]:
    query = f"SELECT tenant_id::text, count(*) FROM tenantry.{table} GROUP BY 1"
    return dict(database.execute(query))


def test_detached_month_is_erased_by_the_owner(
    own_database: Database, run_erase: Callable[..., int], command: Command
):
    add_all(own_database, US)
    add_all(own_database, NEIGHBOUR)
    table = detach_november(own_database)
    assert run_erase(own_database.owner, "--tenant", US) == 0
    assert places(command)[table] == (2, 0, 2)
    assert run_erase(own_database.owner, "--tenant", US, "--yes") == 0
    assert places(command)[table] == (2, 2, 0)
    assert count_detached(own_database, table) == {NEIGHBOUR: 2}
    lines = own_database.execute(
        "SELECT kind, tenant_id::text, count FROM tenantry.ledger WHERE reason = %s ORDER BY 1",
        [table],
    )
    assert lines == [("detached", None, 4), ("erased", US, 2)]
    forced = "SELECT relforcerowsecurity FROM pg_class WHERE relname = %s"
    assert own_database.execute(forced, [table]) == [(True,)]


def test_detached_month_is_left_by_a_maintainer_who_does_not_own_it(
    own_database: Database, run_erase: Callable[..., int], command: Command
):
    add_all(own_database, US)
    table = detach_november(own_database)
    maintainer = own_database.member_of("maintainer")
    assert run_erase(maintainer, "--tenant", US, "--yes") == 3
    assert places(command)[table] == (None, 0, None)
    assert "which only the owner of the tables can look into" in reason_of(command, "detached")
    assert count_detached(own_database, table) == {US: 2}
