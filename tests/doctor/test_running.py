"""The doctor on how the database runs."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.doctor import Finding, examine
from tenantry.database.migrate import migrate
from tests.cli.commands import Command, die_with_events
from tests.doctor.conftest import Patient
from tests.fix_postgres import Database

TENANT = "018f6f0e-0000-7000-8000-000000000001"
CURSOR = """
    INSERT INTO tenantry.journal_cursors (journal_id, segment, position, emitted, accepted, handed,
           sampled_out, dropped, stored, rejected, last_rejected, service, process, started_at,
           updated_at, ended_at)
    VALUES ('{id}', {segment}, 0, {emitted}, {accepted}, 0, 0, '{{}}', {stored}, 0, 0, 'helpdesk',
            'web-1:{pid}', now() - interval '3 days', now() - interval '2 days', {ended})
"""


def run(command: Command, finding: Finding, dsn: str, *more: object) -> int:
    assert finding.remedy_kind == "command"
    program, *arguments = shlex.split(finding.remedy)
    assert program == "tenantry"
    return command(*arguments, "--dsn", dsn, *more)


def test_well_database_has_notes_only(patient: Patient):
    found = [each for each in patient.find() if not each.subject.startswith("role ")]
    assert found == []


def test_every_check_runs_on_a_server_that_can_write_nothing(inpatient: Patient):
    """A standby executes no statement that changes anything: the doctor needs none."""
    inpatient.do("CREATE ROLE app_doctor LOGIN IN ROLE tenantry_admin, pg_read_all_stats")
    server = inpatient.database.server
    before = inpatient.find()
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    try:
        found = inpatient.find()
        (standby,) = [each for each in found if each not in before]
        assert (standby.code, standby.severity) == ("standby", "problem")
        inpatient.do(standby.remedy)
        assert inpatient.find() == before
    finally:
        (server.data / "standby.signal").unlink(missing_ok=True)
        inpatient.do("DROP ROLE app_doctor")


def test_role_that_is_gone_is_made_again_with_what_it_had(inpatient: Patient):
    before = inpatient.find()
    inpatient.do("DROP OWNED BY tenantry_admin; DROP ROLE tenantry_admin")
    found = inpatient.find()
    (missing,) = [each for each in found if each.code == "role_missing"]
    assert missing.subject == "role tenantry_admin"
    assert {each.code for each in found if each not in before} == {"role_missing"}
    inpatient.do(missing.remedy)
    assert inpatient.find() == before
    inpatient.do("GRANT tenantry_admin TO host_owner WITH ADMIN OPTION")  # as who made it has


def test_server_that_is_too_old_is_found(patient: Patient):
    (found,) = patient.find("server_too_old", oldest_server=990000)
    assert "Tenantry needs 99 or later" in found.detail
    assert not patient.find("server_too_old")


@pytest.mark.parametrize("shift,words", [(-60, "ahead of"), (60, "behind")])
def test_clocks_that_differ_are_found(patient: Patient, shift: int, words: str):
    found, _ = examine(patient.dsn, clock=lambda: time.time() + shift)
    (skew,) = [each for each in found if each.code == "clock_skew"]
    assert f"clock is 60 seconds {words} this machine's" in skew.detail


def test_read_only_by_default_is_found_and_mended(patient: Patient):
    patient.break_and_mend(
        "read_only", "ALTER DATABASE test_doctor SET default_transaction_read_only = on"
    )


def test_pooler_is_noted(pooled: Callable[[str], AbstractContextManager[str]], patient: Patient):
    before = patient.find()
    with pooled("transaction") as dsn:
        found = patient.find(dsn=dsn)
    assert [each.code for each in found if each not in before] == ["behind_pooler"]


def test_pooler_that_refuses_transactions_is_a_problem(
    pooled: Callable[[str], AbstractContextManager[str]], patient: Patient
):
    with pooled("statement") as dsn:
        assert [each.code for each in patient.find(dsn=dsn)] == ["statement_pooling"]


# Migrations.


def test_empty_database_is_found_and_migrated(empty_database: Database, command: Command):
    (missing,), tenant_type = examine(empty_database.owner)
    assert (missing.code, tenant_type) == ("schema_missing", None)
    assert run(command, missing, empty_database.owner) == 0
    assert "schema_missing" not in {each.code for each in examine(empty_database.owner)[0]}


@pytest.mark.parametrize("upto", [1, 2, 5])
def test_older_schema_is_found_and_migrated(empty_database: Database, command: Command, upto: int):
    migrate(empty_database.owner, to_version=upto)
    found, _ = examine(empty_database.owner)
    code = "schema_missing" if upto == 1 else "schema_behind"
    (behind,) = [each for each in found if each.code in {"schema_missing", "schema_behind"}]
    assert behind.code == code
    assert run(command, behind, empty_database.owner) == 0
    after = [each for each in examine(empty_database.owner)[0] if each.severity == "problem"]
    assert all(each.subject.startswith("role ") for each in after)  # of other tests


def test_schema_of_a_newer_version_is_not_compared(patient: Patient):
    patient.do(
        "INSERT INTO tenantry.migrations VALUES (9999, 'later', 'x', now(), 1);"
        "REVOKE INSERT ON tenantry.events FROM tenantry_writer"
    )
    try:
        assert [each.code for each in patient.find() if each.severity != "note"] == ["schema_ahead"]
    finally:
        patient.do(
            "DELETE FROM tenantry.migrations WHERE version = 9999;"
            "GRANT INSERT ON tenantry.events TO tenantry_writer"
        )


def test_migration_that_ran_with_another_content_is_found(patient: Patient):
    patient.do("UPDATE tenantry.migrations SET sha256 = '!' || sha256 WHERE version = 2")
    try:
        (found,) = patient.find("migration_changed")
        assert found.detail.startswith("0002_events ran with another content")
    finally:
        patient.do("UPDATE tenantry.migrations SET sha256 = substr(sha256, 2) WHERE version = 2")


def test_tenant_ids_of_several_types_are_found(own_database: Database):
    own_database.execute(
        "DROP POLICY reader ON tenantry.ledger; DROP POLICY tenant ON tenantry.ledger;"
        "ALTER TABLE tenantry.ledger ALTER tenant_id TYPE text"
    )
    (found,) = [each for each in examine(own_database.owner)[0] if "types" in each.code]
    assert found.code == "tenant_types_differ"
    assert "ledger: text" in found.detail


# Partitions and indexes.


def test_months_that_are_missing_are_found_and_made(patient: Patient, command: Command):
    patient.do(
        "DO $$ DECLARE month text; BEGIN FOR month IN SELECT inhrelid::regclass FROM pg_inherits"
        " WHERE inhparent = 'tenantry.events'::regclass AND inhrelid::regclass::text >"
        " 'tenantry.events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')"
        " AND inhrelid::regclass::text <> 'tenantry.events_default'"
        " LOOP EXECUTE 'DROP TABLE ' || month; END LOOP; END $$"
    )
    (found,) = patient.find("partitions_short")
    assert found.detail.count("-") == 3  # 2026-12, 2027-01, 2027-02
    assert run(command, found, patient.database.owner) == 0
    assert not patient.find("partitions_short")


def insert(database: Database, created_at: str) -> None:
    database.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
        f" VALUES (gen_random_uuid(), '{TENANT}', 'x', {created_at})"
    )


def test_rows_in_default_are_found_and_moved(own_database: Database, command: Command):
    insert(own_database, "now() - interval '400 days'")
    found = [each for each in examine(own_database.owner)[0] if each.code == "rows_in_default"]
    assert [each.detail.partition(",")[0] for each in found] == ["1 events"]
    assert run(command, found[0], own_database.owner) == 0
    assert "rows_in_default" not in {each.code for each in examine(own_database.owner)[0]}
    assert own_database.execute("SELECT count(*) FROM tenantry.events") == [(1,)]


def test_rows_of_an_odd_clock_are_noted(patient: Patient, command: Command):
    insert(patient.database, "'1999-01-01'")
    (found,) = patient.find("odd_clocks")
    assert "created from 1999-01-01" in found.detail
    assert run(command, found, patient.database.owner) == 0


def test_rows_in_default_that_are_hidden_are_no_all_clear(patient: Patient):
    insert(patient.database, "'1999-01-01'")
    found = patient.find("unchecked", dsn=patient.database.reader)
    assert "partitions" in {each.subject for each in found}


def test_partition_that_is_detached_by_hand_is_noted(patient: Patient):
    before = patient.database.execute("SELECT count(*) FROM pg_inherits")
    (name,) = patient.database.execute(
        "SELECT max(inhrelid::regclass::text) FROM pg_inherits"
        " WHERE inhparent = 'tenantry.events'::regclass"
        " AND inhrelid::regclass::text <> 'tenantry.events_default'"
    )[0]
    patient.break_and_mend(
        "partition_detached", f"ALTER TABLE tenantry.events DETACH PARTITION {name}"
    )
    assert patient.database.execute("SELECT count(*) FROM pg_inherits") < before


def test_partition_that_maintain_detached_is_dropped_by_it(patient: Patient, command: Command):
    (name,) = patient.database.execute(
        "SELECT max(inhrelid::regclass::text) FROM pg_inherits"
        " WHERE inhparent = 'tenantry.events'::regclass"
        " AND inhrelid::regclass::text <> 'tenantry.events_default'"
    )[0]
    patient.do(
        f"ALTER TABLE tenantry.events DETACH PARTITION {name};"
        f"ALTER TABLE {name} RENAME TO events_2028_11_detached;"
        "COMMENT ON TABLE tenantry.events_2028_11_detached IS"
        " 'Detached by tenantry maintain at 2026-01-01T00:00:00+00:00; rows: 0.'"
    )
    (found,) = patient.find("partition_detached")
    assert run(command, found, patient.database.owner) == 0, command.out + command.err
    assert not patient.find("partition_detached")


@pytest.mark.parametrize(
    "statements",
    [
        "DROP INDEX tenantry.events_tenant_id_name_created_at_idx",
        "ALTER TABLE tenantry.events DROP CONSTRAINT events_pkey",
        "ALTER TABLE tenantry.event_tallies DROP CONSTRAINT event_tallies_pkey",
        "DROP INDEX tenantry.rejected_events_tenant_id_idx",
    ],
    ids=["second", "primary", "tallies", "hash"],
)
def test_index_that_is_gone_is_made_again(patient: Patient, statements: str):
    patient.break_and_mend("index_missing", statements)


def test_index_that_failed_to_be_built_is_dropped(patient: Patient):
    patient.do(
        "INSERT INTO tenantry.rejected_events (id, created_at, reason)"
        " SELECT gen_random_uuid(), now(), 'x' FROM generate_series(1, 2)"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        patient.do("CREATE UNIQUE INDEX CONCURRENTLY once ON tenantry.rejected_events (reason)")
    (found,) = patient.find("index_invalid")
    assert found.remedy == 'DROP INDEX "tenantry"."once";'
    patient.do(found.remedy)
    assert not patient.find("index_invalid")


def test_invalid_index_of_the_design_is_built_anew(patient: Patient):
    patient.break_and_mend(
        "index_invalid",
        "SET allow_system_table_mods = on; UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'tenantry.rejected_events_tenant_id_idx'::regclass",
    )


# The watermark.


def test_transaction_that_stays_open_is_named_and_ended(patient: Patient):
    with closing(psycopg.connect(patient.database.writer, application_name="importer")) as other:
        other.execute("SELECT pg_current_xact_id()")
        assert not patient.find("watermark_held")
        (found,) = patient.find("watermark_held", open_transaction=0.0)
        assert found.subject == f"pid {other.info.backend_pid}"
        assert "app_writer in test_doctor (importer, idle in transaction)" in found.detail
        patient.do(found.remedy)
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    with psycopg.connect(patient.database.reader) as other:
        other.execute("SELECT FROM tenantry.events")  # a transaction that only reads holds nobody
        assert not patient.find("watermark_held", open_transaction=0.0)


def test_transaction_whose_age_is_hidden_is_noted(patient: Patient):
    dsn = patient.database.member_of("admin")
    with psycopg.connect(patient.database.writer) as other:
        other.execute("SELECT pg_current_xact_id()")
        (found,) = patient.find("watermark_unseen", dsn=dsn)
        patient.do(found.remedy)
        try:
            assert not patient.find("watermark_unseen", dsn=dsn)
        finally:
            patient.do("REVOKE pg_read_all_stats FROM app_admin")


def test_prepared_transaction_is_named_and_rolled_back(inpatient: Patient):
    inpatient.do("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'it''s left'")
    (found,) = inpatient.find("watermark_held", open_transaction=0.0)
    assert found.subject == "prepared transaction it's left"
    inpatient.do(found.remedy)
    assert not inpatient.find("watermark_held", open_transaction=0.0)


# Dumps.


def test_dump_by_the_owner_is_explained(patient: Patient):
    (found,) = patient.find("dump_by_owner")
    assert "(postgres" in found.remedy
    patient.do("ALTER ROLE host_owner BYPASSRLS")
    try:
        assert not patient.find("dump_by_owner")
    finally:
        patient.do("ALTER ROLE host_owner NOBYPASSRLS")


def test_dump_with_row_security_leaves_rows_out(patient: Patient):
    """What the remedy warns of: partitions have no policy."""
    insert(patient.database, "now()")
    server = patient.database.server
    dump = [server.binaries / "pg_dump", "--data-only", "--table=tenantry.events*"]
    text = {
        dsn: subprocess.run(
            [*dump, *options, "-d", dsn], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for dsn, options in (
            (patient.database.owner, ["--enable-row-security"]),
            (patient.database.superuser, []),
        )
    }
    assert [TENANT in each for each in text.values()] == [False, True]


# The books.


def test_journal_that_does_not_balance_is_found(patient: Patient, command: Command):
    journal = uuid4()
    values = {"id": journal, "segment": 1, "pid": 7, "ended": "now()"}
    patient.do(CURSOR.format(**values, emitted=5, accepted=5, stored=4))
    (found,) = patient.find("books_unbalanced")
    assert found.subject == f"journal {journal}"
    assert found.detail == "web-1:7, service helpdesk: 5 accepted, 4 stored or rejected"
    run(command, found, patient.database.owner)
    assert str(journal) in command.out
    patient.do("UPDATE tenantry.journal_cursors SET emitted = 6, stored = 5")
    (found,) = patient.find("books_unbalanced")
    assert found.detail.endswith("6 emitted, 5 known")


def test_many_journals_that_do_not_balance_are_counted(patient: Patient):
    values = {"segment": 1, "pid": 7, "ended": "now()", "emitted": 5, "accepted": 5, "stored": 4}
    patient.do(";".join(CURSOR.format(id=uuid4(), **values) for _ in range(23)))
    found = patient.find()
    assert len([each for each in found if each.code == "books_unbalanced"]) == 20
    assert "3 more journals" in {each.subject for each in found}


def test_journal_that_stands_still_is_found_and_drained(
    patient: Patient, command: Command, tmp_path: Path
):
    dsn = patient.database.writer
    die_with_events(dsn, tmp_path / "journal")
    (journal,) = [each.name for each in (tmp_path / "journal").iterdir() if each.is_dir()]
    values = {"id": journal, "segment": 0, "pid": 7, "ended": "NULL"}
    patient.do(CURSOR.format(**values, emitted=7, accepted=7, stored=0))
    (found,) = patient.find("journal_unsettled")
    assert "7 events are accepted and not stored" in found.detail
    assert run(command, found, dsn, "--journal", tmp_path / "journal") == 0
    assert not patient.find("journal_unsettled")


def test_cursors_of_journals_that_ended_are_noted_and_folded(patient: Patient, command: Command):
    values = {"segment": 1, "pid": 7, "emitted": 5, "accepted": 5, "stored": 5}
    ended = "now() - interval '2 days'"
    patient.do(";".join(CURSOR.format(id=uuid4(), ended=ended, **values) for _ in range(2)))
    (found,) = patient.find("journals_ended")
    assert found.detail.startswith("2 rows")
    assert run(command, found, patient.database.owner) == 0
    assert not patient.find("journals_ended")


def test_rejected_events_are_noted_and_listed(patient: Patient, command: Command):
    patient.do(
        "INSERT INTO tenantry.rejected_events (id, created_at, reason)"
        " VALUES (gen_random_uuid(), now(), 'unknown_event')"
    )
    (found,) = patient.find("rejected_waiting")
    assert found.detail == "1 events were rejected as 'unknown_event'"
    run(command, found, patient.database.owner)
    assert "unknown_event" in command.out


def test_words_of_a_command_are_quoted_for_a_shell(patient: Patient):
    """A writer's login chooses reasons: an administrator runs what the doctor prints."""
    patient.do(
        "INSERT INTO tenantry.rejected_events (id, created_at, reason)"
        " VALUES (gen_random_uuid(), now(), '--x; rm -rf $HOME')"
    )
    (found,) = patient.find("rejected_waiting")
    assert shlex.split(found.remedy)[-1] == "--reason=--x; rm -rf $HOME"
    assert found.remedy.endswith("'--reason=--x; rm -rf $HOME'")


# What cannot be looked at.


def test_login_that_may_read_nothing_gets_findings_and_no_error(patient: Patient):
    patient.do("CREATE ROLE doctors_login LOGIN")
    try:
        found = patient.find(dsn=make_conninfo(patient.dsn, user="doctors_login"))
    finally:
        patient.do("DROP ROLE doctors_login")
    unchecked = {each.subject: each for each in found if each.code == "unchecked"}
    assert set(unchecked) == {"migrations", "bindings", "books", "rejected"}
    assert "permission denied" in unchecked["books"].detail
    assert "member of the admin role" in unchecked["books"].remedy


def test_check_that_waits_for_a_lock_gives_up(patient: Patient):
    with psycopg.connect(patient.database.superuser) as other:
        other.execute("LOCK tenantry.rejected_events")
        (found,) = patient.find("unchecked")
        assert (found.subject, "lock timeout" in found.detail) == ("the catalogue", True)
