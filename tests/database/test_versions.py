"""Versions that differ: migrating in part, and an SDK that is older or newer than the schema."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import psycopg
import pytest

from tenantry import log_event
from tenantry.database.migrate import find_migrations, migrate, scripts, sql, status
from tenantry.exceptions import ConfigurationError
from tenantry.exporters.postgres import PostgresExporter
from tests.cli.commands import Command
from tests.database.test_migrate import dump
from tests.delivery.deliveries import assert_books_balance, stored_ids
from tests.delivery.pipelines import TENANT, make_pipeline
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database, Server, grant_logins

LATEST = find_migrations()[-1].version

WITH_CURSORS = 4
"""The first version that takes batches."""


@pytest.mark.parametrize("tool", ["server's own psql", "scripts"])
def test_printed_steps_give_the_same_schema_as_migrating(
    server: Server, empty_database: Database, tool: str
):
    migrate(empty_database.owner)
    migrated = dump(server, empty_database.name)
    empty_database.execute("DROP SCHEMA tenantry CASCADE")
    steps = [(0, 2), (2, 5), (5, LATEST)]
    for first, last in steps:
        if tool == "scripts":
            texts = scripts(from_version=first, to_version=last)
            assert len(texts) == last - first
            script = "\n".join(["\\set ON_ERROR_STOP on", "BEGIN;", *texts, "COMMIT;"])
        else:
            script = sql(from_version=first, to_version=last)
        server.run("psql", "-q", empty_database.owner, stdin=script)
        assert status(empty_database.owner).version == last
    assert dump(server, empty_database.name) == migrated
    assert migrate(empty_database.owner) == []


def test_older_psql_runs_the_script_on_a_newer_server(
    empty_database18: Database, postgres15: Server, command: Command
):
    """What a team has on its laptop is older than what it rents."""
    assert command("migrate", "--sql", "--from", "0", "--to", LATEST) == 0
    program = [postgres15.binaries / "psql", "-q", empty_database18.owner]
    subprocess.run(program, input=command.out, text=True, check=True, timeout=50)
    assert not status(empty_database18.owner).pending


def test_script_for_a_tool_leaves_its_search_path_alone(empty_database18: Database):
    empty_database18.execute("CREATE SCHEMA app AUTHORIZATION host_owner")
    with psycopg.connect(empty_database18.owner) as tool:
        tool.execute("SET LOCAL search_path = app, public")
        for text in scripts(to_version=LATEST):
            tool.execute(text.encode())
        assert tool.execute("SHOW search_path").fetchone() == ("app, public",)
        tool.execute("CREATE TABLE versions ()")
    assert empty_database18.execute("SELECT to_regclass('app.versions') IS NOT NULL") == [(True,)]


@pytest.mark.parametrize("first, last", [(0, LATEST + 1), (3, 2), (-1, 2), (LATEST + 1, None)])
def test_versions_that_there_are_not_are_refused(first: int, last: int | None):
    with pytest.raises(ConfigurationError, match=f"There are no migrations from version {first}"):
        sql(from_version=first, to_version=last)


def test_command_migrates_up_to_a_version(empty_database18: Database, command: Command):
    dsn = empty_database18.owner
    assert command("migrate", "--dsn", dsn, "--to", 3) == 0
    assert "applied 0003_rejected_events" in command.out
    assert status(dsn).version == 3
    assert command("migrate", "--dsn", dsn, "--to", 2) == 0
    assert command.out == "nothing to apply: the schema is up to date\n"
    assert command("migrate", "--sql", "--from", 3, "--to", 4) == 0
    assert command.out == sql(from_version=3, to_version=4)


def test_from_without_sql_is_refused(command: Command):
    assert command("migrate", "--from", 3) == 2
    assert "--from 3 goes with --sql" in command.err


@pytest.mark.parametrize("version", range(WITH_CURSORS, LATEST))
def test_this_sdk_stores_events_on_an_older_schema(empty_database18: Database, version: int):
    """The rehearsal, an event, one that the database refuses, and the end of the journal."""
    migrate(empty_database18.owner, to_version=version)
    grant_logins(empty_database18)
    exporter = PostgresExporter(empty_database18.writer)
    exporter.check(math.inf)
    batch = make_batch([make_line(), make_line(sample_rate=7)])
    outcome = exporter.export(batch, math.inf)
    assert (outcome.stored, outcome.rejected) == (1, 1)
    assert exporter.finish(batch.journal_id, math.inf)
    exporter.close()


def test_migrating_under_running_traffic_loses_nothing(empty_database: Database, tmp_path: Path):
    """The open connection goes on sending what the older schema knew, as an older SDK does."""
    migrate(empty_database.owner, to_version=LATEST - 1)
    grant_logins(empty_database)
    pipeline = make_pipeline(PostgresExporter(empty_database.writer), tmp_path)
    emitted: list[str | None] = []

    def emit(count: int) -> None:
        with pipeline:
            emitted.extend(log_event("tick", tenant=TENANT) for _ in range(count))

    emit(50)
    assert pipeline.flush(20)
    migrate(empty_database.owner, on_progress=lambda _: emit(50))
    emit(50)
    assert pipeline.flush(20)
    empty_database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app_writer'"
    )
    emit(50)
    assert pipeline.flush(20)
    pipeline.shutdown()
    assert len(emitted) == 200
    assert stored_ids(empty_database) == sorted(str(each) for each in emitted)
    assert_books_balance(empty_database)
