"""``tenantry check``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import DEADLINE, Command

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests/checking/apps"
SAAS = "tenantry.taxonomies.saas"
CLEAN = """
import tenantry
from tenantry import log_event
from tenantry.taxonomies.saas import QuotaExceeded
def main():
    tenantry.configure(taxonomy=[QuotaExceeded])
    log_event("quota_exceeded", quota_type="q", limit=1, attempted=2)
"""


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    """Forget the modules that a command imports."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in {"planted", "shop"}]:
        del sys.modules[name]


MESSAGES = """\
the operation 'imprt' has no event in the taxonomy: declare imprt_started, imprt_completed or \
imprt_failed, or did you mean 'import'?
import_started, import_completed and import_failed require 'source', which without_source() gives \
in no way that is known by then: the event is refused. Give it as a parameter, a keyword or by \
fields=, or make it optional
import_completed requires 'rows', which unannotated() may not give: it depends on what runs, or on \
a result whose annotation does not say. Annotate the result, or give the key from the start
misspelt() gives the key 'origin', which no event of the operation 'import' declares: it is \
removed. Declare it, or leave it out
log_event() gives the key 'currency', which invoice_sent does not declare. Declare it, or leave it
the parameter 'result' of refund() is not taken for the key of that name, since it is the name of \
an option: give fields={'result': 'result'}
emits() raises for the data key 'correlation', which is the name of an option, here or in a later \
version: give fields={'correlation': …}
invoice_sent requires 'invoice_id', which log_event() is not given: the event is refused. Give it
the class planted.elsewhere.LeftOut is not in the taxonomy; it is refused. Add it, or use the one
the class planted.elsewhere.InvoiceSent is not in the taxonomy; another class has its name. Add it
nothing in these modules emits forgotten; name the module that does as well
""".splitlines()


def test_clean_application_exits_with_0(command: Command, tmp_path: Path):
    (tmp_path / "shop.py").write_text(CLEAN)
    assert command("check", "shop", "--app-dir", tmp_path, "--strict") == 0
    assert command.out == ""
    assert "1 fact in 1 module, against 1 event: 0 errors, 0 warnings." in command.err.replace(
        "\n", " "
    )


def test_working_directory_is_looked_at_first(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "shop.py").write_text(CLEAN)
    monkeypatch.chdir(tmp_path)
    assert command("check", "shop:main") == 0


def test_error_exits_with_1_and_says_file_line_and_code(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "shop.py").write_text(CLEAN + '    log_event("quota_exceded", limit=1)\n')
    monkeypatch.chdir(tmp_path)
    assert command("check", "shop") == 1
    assert command.out == (
        "shop.py:8: error: no event 'quota_exceded' is declared; did you mean 'quota_exceeded'? "
        "[unknown_event]\n"
    )


def test_warnings_fail_in_strict_mode_only(command: Command, tmp_path: Path):
    (tmp_path / "shop.py").write_text(CLEAN)
    arguments = ("check", "shop", "--app-dir", tmp_path, "--taxonomy", SAAS)
    assert command(*arguments) == 0
    assert command.out.count("[never_emitted]") == 10
    assert command(*arguments, "--strict") == 1


def test_ignored_codes_are_left_out(command: Command, tmp_path: Path):
    (tmp_path / "shop.py").write_text(CLEAN)
    arguments = ("check", "shop", "--app-dir", tmp_path, "--taxonomy", SAAS, "--strict")
    assert command(*arguments, "--ignore", "never_emitted") == 0
    assert command.out == ""


def test_open_names_need_no_declaration(command: Command, tmp_path: Path):
    (tmp_path / "shop.py").write_text(
        'from tenantry import log_event\nlog_event("plugin_x", a=1)\n'
    )
    arguments = ("check", "shop", "--app-dir", tmp_path, "--taxonomy", SAAS)
    assert command(*arguments) == 1
    assert command(*arguments, "--open-taxonomy", "other_*, plugin_*") == 0


def test_several_modules_are_one_application(command: Command, tmp_path: Path):
    (tmp_path / "shop.py").write_text(CLEAN)
    (tmp_path / "shop_worker.py").write_text(
        "from tenantry import emits\n@emits('x')\ndef f(): ..."
    )
    assert command("check", "shop", "shop_worker", "--app-dir", tmp_path) == 1
    assert "the operation 'x' has no event in the taxonomy: declare x_started" in command.out
    del sys.modules["shop_worker"]


def test_json_holds_every_finding(command: Command):
    assert command("check", "planted.app:app", "--app-dir", APPS, "--json") == 1
    found = command.json()
    assert (found["events"], found["blocks"]) == (9, 9)
    assert found["errors"] == sum(1 for each in found["findings"] if each["level"] == "error")
    assert found["warnings"] == sum(1 for each in found["findings"] if each["level"] == "warning")
    assert len(found["unchecked"]) == 4
    [missing] = [each for each in found["findings"] if each["code"] == "occurred_at_missing"]
    assert missing == {
        "code": "occurred_at_missing",
        "level": "error",
        "file": str(Path("tests/checking/apps/planted/facts.py")),
        "line": 21,
        "name": "invoice_sent",
        "key": None,
        "message": "log_event() has idempotency_key= without occurred_at=: the event is refused. "
        "Give the time at which it happened, the same at each replay",
    }


def test_every_message_says_what_and_what_to_do(command: Command):
    command("check", "planted.app", "--app-dir", APPS)
    for text in MESSAGES:
        assert text in command.out


def test_import_that_fails_exits_with_2(command: Command, tmp_path: Path):
    (tmp_path / "shop.py").write_text("1 / 0\n")
    assert command("check", "shop", "--app-dir", tmp_path) == 2
    assert re.search(r"importing shop failed in .*shop\.py:1: ZeroDivisionError", command.err)


def test_taxonomy_that_cannot_be_loaded_exits_with_2(command: Command, tmp_path: Path):
    (tmp_path / "shop.py").write_text("")
    assert command("check", "shop", "--app-dir", tmp_path, "--taxonomy", "no.such") == 2
    assert "the taxonomy 'no.such' cannot be imported" in command.err


# The examples, in processes of their own: what other tests import of them does not count.


@pytest.mark.parametrize(
    "arguments",
    [
        ("helpdesk.app:app", "helpdesk.dispatcher", "--app-dir", "examples", "--strict"),
        ("ingestion", "--app-dir", "examples/ingestion", "--taxonomy", SAAS),
    ],
    ids=["helpdesk", "ingestion"],
)
def test_examples_pass(arguments: tuple[str, ...], tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", "from tenantry.cli import main; main()", "check", *arguments],
        cwd=ROOT,
        env={**os.environ, "HELPDESK_DSN": "dbname=nowhere", "HELPDESK_FILES": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert (done.returncode, " 0 errors," in done.stderr.replace("\n", " ")) == (0, True), (
        done.stdout + done.stderr
    )
