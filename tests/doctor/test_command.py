"""``tenantry doctor``: what it prints, and how it exits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.doctor.findings import (
    APPLICATION,
    CODES,
    JOURNALS,
    ROLES,
    SECURITY,
    SERVER,
)
from tests.cli.commands import Command, die_with_events
from tests.docs.pages import DOCS
from tests.doctor.conftest import Patient

PASSWORD = "hunter2-swordfish"


@pytest.fixture
def server(postgres18):
    return postgres18  # nothing here is the server's doing


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir(mode=0o700)
    return tmp_path / "journal"


def test_it_exits_with_0_when_there_are_notes_only(
    patient: Patient, command: Command, journal: Path
):
    code = command("doctor", "--dsn", patient.dsn, "--journal", journal, "--json")
    report = command.json()
    severities = {each["severity"] for each in report["findings"]}
    assert (code, report["is_well"]) == (0, True), report["findings"]
    assert severities <= {"note"}


def test_it_exits_with_1_when_there_is_a_finding(patient: Patient, command: Command, journal: Path):
    patient.do("GRANT SELECT ON tenantry.events TO PUBLIC")
    try:
        code = command("doctor", "--dsn", patient.dsn, "--journal", journal)
    finally:
        patient.do("REVOKE SELECT ON tenantry.events FROM PUBLIC")
    assert code == 1
    first = command.out.splitlines()[0].split("\t")
    assert first == [
        "problem",
        "grant_excess",
        "tenantry.events",
        "PUBLIC has SELECT, which no role needs there",
        'REVOKE SELECT ON "tenantry"."events" FROM PUBLIC CASCADE;',
    ]
    assert re.match(r"1 problem, \d+ notes?$", command.out.splitlines()[-1])


def test_json_has_each_part_of_a_finding(patient: Patient, command: Command, journal: Path):
    patient.do("GRANT CREATE ON SCHEMA tenantry TO PUBLIC")
    try:
        assert command("doctor", "--dsn", patient.dsn, "--journal", journal, "--json") == 1
    finally:
        patient.do("REVOKE CREATE ON SCHEMA tenantry FROM PUBLIC")
    assert command.json()["findings"][0] == {
        "code": "schema_create",
        "severity": "problem",
        "subject": "tenantry",
        "detail": "PUBLIC may create tables, views and functions in the schema",
        "remedy": 'REVOKE CREATE ON SCHEMA "tenantry" FROM PUBLIC CASCADE;',
        "remedy_kind": "sql",
    }


def test_unreachable_database_leaves_the_journals_to_be_looked_at(command: Command, tmp_path: Path):
    dsn = f"postgresql://me:{PASSWORD}@127.0.0.1:1/app"
    die_with_events(dsn, tmp_path / "journal")
    code = command("doctor", "--dsn", dsn, "--journal", tmp_path / "journal", "--json")
    report = command.json()
    assert code == 4
    assert {each["code"] for each in report["findings"]} == {"unreachable", "journal_dead"}
    (journal,) = report["journals"]
    assert (journal["service"], journal["is_live"], journal["pending"]) == ("helpdesk", False, 6)
    assert PASSWORD not in command.out + command.err


def test_password_is_printed_nowhere(patient: Patient, command: Command, tmp_path: Path):
    dsn = make_conninfo(patient.dsn, password=PASSWORD)
    die_with_events(dsn, tmp_path / "journal")
    for more in ([], ["--json"]):
        command("doctor", "--dsn", dsn, "--journal", tmp_path / "journal", *more)
        assert "journal_dead" in command.out
        assert PASSWORD not in command.out + command.err


@pytest.mark.parametrize("arguments", [[], ["--dsn", f"postgresql://u:{PASSWORD}/x@h/y"]])
def test_it_exits_with_2_without_a_dsn_that_can_be_read(command: Command, arguments: list[str]):
    assert command("doctor", *arguments) == 2
    assert PASSWORD not in command.err


def test_limit_of_the_journals_comes_from_the_environment(
    patient: Patient, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    die_with_events(patient.dsn, tmp_path / "journal")
    monkeypatch.setenv("TENANTRY_JOURNAL_MAX_BYTES", "300000")
    command("doctor", "--dsn", patient.dsn, "--journal", tmp_path / "journal")
    assert "journal_near_limit" in command.out
    monkeypatch.setenv("TENANTRY_JOURNAL_MAX_BYTES", "4 MiB")
    assert command("doctor", "--dsn", patient.dsn, "--journal", tmp_path / "journal") == 2
    assert "TENANTRY_JOURNAL_MAX_BYTES='4 MiB' is no number of bytes" in command.err


def test_terminal_is_shown_blocks_whose_remedies_are_whole(
    patient: Patient, command: Command, journal: Path, monkeypatch: pytest.MonkeyPatch
):
    from tenantry.cli import output

    monkeypatch.setattr(output.console, "_force_terminal", True)
    monkeypatch.setenv("COLUMNS", "60")
    patient.do("GRANT SELECT ON tenantry.events TO PUBLIC")
    try:
        command("doctor", "--dsn", patient.dsn, "--journal", journal)
    finally:
        patient.do("REVOKE SELECT ON tenantry.events FROM PUBLIC")
    text = re.sub(r"\x1b\[[\d;]*m", "", command.out)
    assert "problem  grant_excess  tenantry.events\n" in text
    assert '  REVOKE SELECT ON "tenantry"."events" FROM PUBLIC CASCADE;\n' in text


def test_names_that_steer_a_terminal_are_shown(patient: Patient, command: Command, journal: Path):
    name = '"evil\x1b[2J\nproblem\tnothing"'
    patient.do(f"CREATE VIEW public.{name} AS SELECT FROM tenantry.events")
    try:
        command("doctor", "--dsn", patient.dsn, "--journal", journal)
        lines = [line for line in command.out.splitlines() if "view_as_owner" in line]
        command("doctor", "--dsn", patient.dsn, "--journal", journal, "--json")
    finally:
        patient.do(f"DROP VIEW public.{name}")
    assert [line.split("\t")[2] for line in lines] == ["public.evil\ufffd[2J problem nothing"]
    assert any("\x1b[2J" in each["remedy"] for each in command.json()["findings"])


# The codes.

SECTIONS = {
    "## What guards the rows": SECURITY,
    "## Roles and logins": ROLES,
    "## The server and the schema": SERVER,
    "## Journals": JOURNALS,
    "## The application": APPLICATION,
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_page_lists_the_codes_of(heading: str):
    page = (DOCS / "reference" / "doctor.md").read_text()
    section = page.partition(f"{heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", section, re.MULTILINE)
    assert rows == [(name, code.severity, code.meaning) for name, code in SECTIONS[heading].items()]


@pytest.mark.parametrize("code", CODES)
def test_code_has_a_test_that_breaks_the_thing(code: str):
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert f'"{code}"' in tests


def test_code_is_in_one_list():
    assert len(CODES) == sum(map(len, SECTIONS.values()))
