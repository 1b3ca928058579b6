"""What all commands have in common: help, settings, exit codes and errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.commands import DEADLINE, Command, start_command
from tests.fix_postgres import Database

UNREACHABLE = "postgresql://app:s3cret@127.0.0.1:1/shop?connect_timeout=2"
READING = ["tail", "stats", "maintain"]


@pytest.mark.parametrize(
    "name", ["migrate", "tail", "drain", "stats", "demo", "maintain", "rejected"]
)
def test_each_command_explains_itself_and_the_exit_codes(command: Command, name: str):
    assert command(name, "--help") == 0
    assert "Exit codes: 0 done; 1 a check failed" in " ".join(command.out.split())


def test_version_is_shown(command: Command):
    import tenantry

    assert command("--version") == 0
    assert command.out == f"tenantry {tenantry.__version__}\n"


@pytest.mark.parametrize("name", ["migrate", "tail", "drain", "stats", "maintain"])
def test_command_without_a_database_says_how_to_name_one(command: Command, name: str):
    assert command(name) == 2
    assert command.err.startswith("tenantry: no database is named: pass --dsn")


def test_unknown_option_is_a_usage_error(command: Command):
    assert command("tail", "--unknown") == 2


@pytest.mark.parametrize("name", ["migrate", *READING])
def test_unreachable_database_is_one_line_without_the_password(command: Command, name: str):
    assert command(name, "--dsn", UNREACHABLE) == 4
    assert command.err.startswith("tenantry: Cannot connect to 127.0.0.1:1/shop")
    assert command.err.count("\n") == 1
    assert "s3cret" not in command.err


@pytest.mark.parametrize("name", ["migrate", *READING, "drain"])
def test_unreadable_dsn_is_a_usage_error_that_does_not_quote_it(command: Command, name: str):
    assert command(name, "--dsn", "postgresql://app:s3cret@host:x y/") == 2
    assert "The DSN cannot be read" in command.err
    assert "s3cret" not in command.err


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("server", ["postgres18"], indirect=True)
def test_missing_schema_names_the_command_that_makes_it(
    command: Command, empty_database: Database, name: str
):
    assert command(name, "--dsn", empty_database.owner, "--schema", "audit") == 4
    assert "has no complete Tenantry tables in the schema 'audit'" in command.err
    assert "tenantry migrate --schema audit" in command.err


def test_options_come_from_the_environment(
    command: Command, database18: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TENANTRY_DSN", database18.owner)
    assert command("tail") == 0
    monkeypatch.setenv("TENANTRY_SCHEMA", "elsewhere")
    assert command("tail") == 4


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_missing_extra_is_named_in_one_line(module: str):
    program = f"import sys; sys.modules[{module!r}] = None\nfrom tenantry.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "tenantry[cli]" in done.stderr


def test_main_exits_with_the_code_of_the_command():
    process = start_command("tail", "--dsn", UNREACHABLE)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 4
    assert "Cannot connect" in err


def test_embedded_is_a_dsn(command: Command, monkeypatch: pytest.MonkeyPatch, postgres18):
    from tenantry.cli import connection

    class Running:
        dsn = postgres18.dsn

        def stop(self):
            stopped.append(True)

    stopped: list[bool] = []
    monkeypatch.setattr(connection.embedded, "start", Running)
    assert command("migrate", "status", "--dsn", "embedded", "--schema", "nothing_here") == 1
    assert stopped == [True]
