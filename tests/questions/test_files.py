"""Every question: a file that runs as it stands, for whom it may, with a page that shows it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from tests.fix_postgres import Database
from tests.questions.asking import (
    ACME,
    FILES,
    GLOBEX,
    INITECH,
    NOON,
    QUESTIONS,
    Asking,
    Rows,
    open_asking,
    print_answer,
    read_page,
    read_question,
)
from tests.questions.example import add_example

pytestmark = pytest.mark.parametrize("file", FILES)

ROLES = ("tenantry_admin", "tenantry_reader", "tenantry_maintainer")


def tenant_of(row: dict[str, object]) -> object:
    return row["tenant"] if "tenant" in row else row["tenant_id"]


@pytest.fixture
def example(asking: Asking) -> Asking:
    add_example(asking)
    return asking


@pytest.fixture
def stored_example(database18: Database) -> Iterator[Database]:
    with psycopg.connect(database18.superuser) as connection:
        add_example(Rows(connection))
    return database18


def test_question_has_tests_of_its_own(file: str):
    assert (Path(__file__).parent / f"test_{file}.py").is_file()


def test_page_shows_the_file_and_is_listed(file: str):
    assert f"```{{literalinclude}} {file}.sql\n:language: sql\n```" in read_page(file)
    index = (QUESTIONS / "index.md").read_text()
    assert f"({file.replace('_', '-')}.md)" in index
    assert re.search(rf"^{file.replace('_', '-')}$", index, re.MULTILINE)


def test_page_shows_what_psql_prints(file: str, stored_example: Database):
    (shown,) = re.findall(r"^```text\n(.*?)\n```$", read_page(file), re.DOTALL | re.MULTILINE)
    printed = print_answer(stored_example, file, NOON)
    checker = OutputChecker()
    assert checker.check_output(shown + "\n", printed + "\n", ELLIPSIS | NORMALIZE_WHITESPACE), (
        f"the page shows\n{shown}\nand psql prints\n{printed}"
    )


def test_result_fits_a_terminal(file: str, stored_example: Database):
    printed = print_answer(stored_example, file, NOON)
    assert max(map(len, printed.splitlines())) <= 130


def test_question_begins_with_what_it_answers_and_names_its_columns(file: str, asking: Asking):
    comment = re.match(r"(?:--.*\n)+", read_question(file))
    assert comment
    first, second, *_ = comment[0].splitlines()
    assert first.endswith("?")
    assert second.startswith("-- Window: ")
    assert "row-level security decides" in comment[0]
    asking.add("conversation_started", conversationId="c", sessionId="s")
    asking.ask(file)


def test_question_names_the_schema_and_puts_no_function_on_the_time(file: str):
    statement = re.sub(r"--.*", "", read_question(file))
    assert re.findall(r"(?<!\.)\b(?:rejected_)?events\b", statement) == []
    assert re.findall(r"\(created_at[^)]*\) *[<>=]", statement) == []
    assert statement.count(";") == 1
    assert "\\" not in statement


def test_reader_finds_its_rows_by_an_index_on_tenant_and_time(file: str, asking: Asking):
    asking.connection.execute("SET LOCAL enable_seqscan = off")  # the tables are empty
    plan = asking.run("EXPLAIN " + read_question(file), role="tenantry_reader", tenant=ACME)
    lines = [row["QUERY PLAN"].strip() for row in plan]
    assert [line for line in lines if re.search("Seq Scan on events", line)] == []
    conditions = [line for line in lines if line.startswith("Index Cond:")]
    others = ("refused", "SESSION_USER")  # rejected_events, and the policy's look at tenant_roles
    on_events = [line for line in conditions if not any(other in line for other in others)]
    assert on_events
    assert all("tenant_id =" in line for line in on_events)
    assert any("created_at >=" in line for line in on_events)


@pytest.mark.parametrize("role", ROLES)
def test_question_about_nothing_has_no_lines(file: str, role: str, database: Database):
    with open_asking(database) as asking:
        assert asking.ask(file, role=role, tenant=ACME) == []


def test_other_events_are_no_part_of_the_answer(file: str, asking: Asking):
    asking.add("message_sent", conversationId="c", role="user")
    assert asking.ask(file) == []


def test_admin_sees_all_tenants_and_reader_only_its_own(file: str, example: Asking):
    everything = [row for row in example.ask(file) if tenant_of(row) != "all tenants"]
    tenants = {tenant_of(row) for row in everything}
    assert tenants >= {ACME}
    for tenant in (ACME, GLOBEX):
        seen = example.ask(file, role="tenantry_reader", tenant=tenant)
        assert seen == [row for row in everything if tenant_of(row) == tenant]


@pytest.mark.parametrize("tenant", ["", INITECH], ids=["no tenant", "tenant without events"])
def test_reader_sees_nothing_of_others(file: str, tenant: str, example: Asking):
    assert example.ask(file, role="tenantry_reader", tenant=tenant) == []


def test_line_of_one_tenant_does_not_depend_on_another(file: str, example: Asking):
    before = [row for row in example.ask(file) if tenant_of(row) == ACME]
    example.connection.execute(
        "INSERT INTO tenantry.events (id, tenant_id, name, phase, created_at, data, operation_id,"
        " duration_ms, error_code, sample_rate)"
        " SELECT gen_random_uuid(), %s, name, phase, created_at, data, gen_random_uuid(),"
        " duration_ms * 9, error_code, sample_rate / 3 FROM tenantry.events",
        [INITECH],
    )
    assert [row for row in example.ask(file) if tenant_of(row) == ACME] == before


def test_question_runs_by_the_clock_and_the_time_zone_of_the_server(file: str, database: Database):
    with psycopg.connect(database.superuser, row_factory=dict_row) as connection:
        rows = Rows(connection)
        (rows.now,) = connection.execute("SELECT now()").fetchone().values()
        add_example(rows)
        connection.commit()
        connection.execute("SET TIME ZONE 'Pacific/Auckland'")
        assert connection.execute(read_question(file)).fetchall()


@pytest.mark.parametrize(
    "now",
    ["2026-03-01T00:00:00+00:00", "2026-12-31T23:59:59.999999+00:00", "2028-02-29T12:00:00+00:00"],
    ids=["a month begins", "a year ends", "leap day"],
)
def test_question_is_answered_at_any_time(file: str, now: str, asking: Asking):
    asking.now = NOON.fromisoformat(now)
    add_example(asking)
    assert {tenant_of(row) for row in asking.ask(file)} >= {ACME}


def test_changes_that_the_page_proposes_run(file: str, example: Asking):
    proposed = read_page(file).partition("## Adapt it")[2]
    replaced = re.findall(r"`([^`]+)`,?\sfor\s(?:each\s)?`([^`]+)`(,\sin\sboth\splaces)?", proposed)
    added = re.findall(r"add `([^`]+)`.*?\sbelow\s`([^`]+)`", proposed)
    assert replaced
    question = read_question(file)
    changed = [question.replace(old, new) for new, old, _ in replaced]
    changed += [re.sub(f"{re.escape(line)}.*", rf"\g<0>\n{more}", question) for more, line in added]
    for statement in changed:
        assert statement != question
        example.run(statement)
    counts = [question.count(old) for _, old, both in replaced if both]
    assert counts == [2] * len(counts)


def test_commands_of_the_index_run(
    file: str, database18: Database, monkeypatch: pytest.MonkeyPatch
):
    """The two commands, each with this file in the place of the one that they name."""
    index = (QUESTIONS / "index.md").read_text()
    commands = re.findall(r"^\$ (psql (?:.|\\\n)*?\.sql)$", index, re.MULTILINE)
    assert len(commands) == 2
    with psycopg.connect(database18.superuser) as connection:
        rows = Rows(connection)
        (rows.now,) = connection.execute("SELECT now()").fetchone()
        add_example(rows)
    path = f"{database18.server.binaries}{os.pathsep}{os.environ['PATH']}"
    for command, user in zip(commands, ("host_owner", "app_reader"), strict=True):
        done = subprocess.run(
            ["sh", "-c", re.sub(r"\w+\.sql", f"{file}.sql", command)],
            cwd=QUESTIONS.parents[1],
            env={"PATH": path, "TENANTRY_DSN": make_conninfo(database18.superuser, user=user)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert ACME in done.stdout
        assert (GLOBEX in done.stdout) <= (user == "host_owner")
