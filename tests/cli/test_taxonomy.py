"""``tenantry taxonomy``."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Command

SAAS = "tenantry.taxonomies.saas"
BEFORE = """
from tenantry import Event, Sampling
class MailSent(Event):
    to: str
    size: int
class MailOpened(Event):
    to: str
SAMPLING = {"mail_sent": Sampling(0.5)}
"""
BREAKS = BEFORE.replace("    size: int\n", "    size: str\n")
RAISED = BREAKS.replace("class MailSent(Event)", "class MailSent(Event, version=2)")
GROWN = BEFORE.replace("    size: int\n", "    size: int\n    note: str | None = None\n")
FEWER = BEFORE.replace("class MailOpened(Event):\n    to: str\n", "")


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Write the module ``mails`` into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within one second

    def write(source: str) -> None:
        (tmp_path / "mails.py").write_text(source)
        sys.modules.pop("mails", None)

    write(BEFORE)
    yield write
    sys.modules.pop("mails", None)


@pytest.mark.parametrize(
    "name,head",
    [
        ("docs", "# Tracking plan\n"),
        ("typescript", "// Written by `tenantry taxonomy typescript`"),
        ("jsonschema", '{\n  "$schema": "https://json-schema.org/draft/2020-12/schema"'),
        ("snapshot", '{\n  "format": "tenantry-taxonomy"'),
    ],
)
def test_generated_of_the_module_in_the_working_directory(
    command: Command, declare: Callable[[str], None], name: str, head: str
):
    assert command("taxonomy", name, "mails") == 0
    assert command.out.startswith(head)
    assert "mail_sent" in command.out


def test_app_dir_and_open_names(command: Command, tmp_path: Path):
    (tmp_path / "posts.py").write_text("from tenantry import Event\nclass PostSent(Event): ...")
    arguments = ("posts", "--app-dir", tmp_path, "--open-taxonomy", "plugin_*")
    assert command("taxonomy", "docs", *arguments) == 0
    assert "## post_sent" in command.out
    assert "Events named like `plugin_*`" in command.out
    del sys.modules["posts"]


def test_taxonomy_may_come_from_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TENANTRY_TAXONOMY", SAAS)
    assert command("taxonomy", "typescript") == 0


def test_docs_of_a_snapshot_are_those_of_its_taxonomy(
    command: Command, declare: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    command("taxonomy", "docs", "mails")
    page = command.out
    command("taxonomy", "snapshot", "mails", "--update", "taxonomy.json")
    assert command("taxonomy", "docs", "taxonomy.json") == 0
    assert command.out == page
    monkeypatch.setattr(sys, "stdin", io.StringIO(Path("taxonomy.json").read_text()))
    assert command("taxonomy", "docs", "-") == 0
    assert command.out == page


def test_docs_tell_sampling(command: Command, declare: Callable[[str], None]):
    assert command("taxonomy", "docs", "mails", "--sampling", "mails:SAMPLING") == 0
    assert "A fact; version 1; a share of 0.5 is kept." in command.out


@pytest.mark.parametrize(
    "sampling,why",
    [
        ("mails:NOTHING", "'mails:NOTHING' cannot be imported"),
        ("mails:MailSent", "'mails:MailSent' is no mapping of names to Sampling"),
    ],
    ids=["missing", "no mapping"],
)
def test_bad_sampling_is_named(
    command: Command, declare: Callable[[str], None], sampling: str, why: str
):
    assert command("taxonomy", "docs", "mails", "--sampling", sampling) == 2
    assert why in command.err


# diff.


@pytest.mark.parametrize(
    "source,exit_code,line",
    [
        (BEFORE, 0, ""),
        (GROWN, 0, "compatible\tmail_sent.note\tthe optional key was added [optional_key_added]"),
        (
            BREAKS,
            1,
            "breaking\tmail_sent.size\tthe type went from integer to text [type_changed]",
        ),
        (
            RAISED,
            0,
            "versioned\tmail_sent.size\tthe type went from integer to text [type_changed]",
        ),
        (FEWER, 1, "breaking\tmail_opened\tthe event was removed [event_removed]"),
    ],
    ids=["nothing", "compatible", "breaking", "versioned", "removed"],
)
def test_difference_of_snapshot_and_module(
    command: Command, declare: Callable[[str], None], source: str, exit_code: int, line: str
):
    command("taxonomy", "snapshot", "mails", "--update", "taxonomy.json")
    declare(source)
    assert command("taxonomy", "diff", "taxonomy.json", "mails") == exit_code
    assert line in command.out.splitlines() or command.out == line
    is_same = source == BEFORE
    assert command("taxonomy", "diff", "taxonomy.json", "mails", "--exact") == (not is_same)


def test_difference_as_json(command: Command, declare: Callable[[str], None]):
    command("taxonomy", "snapshot", "mails", "--update", "taxonomy.json")
    declare(BREAKS)
    assert command("taxonomy", "diff", "taxonomy.json", "mails", "--json") == 1
    assert command.json() == {
        "version": 1,
        "breaking": True,
        "changes": [
            {
                "kind": "type_changed",
                "verdict": "breaking",
                "event": "mail_sent",
                "key": "size",
                "message": "the type went from integer to text",
            }
        ],
    }


def test_updated_snapshot_retires_what_is_gone_and_remembers_its_shape(
    command: Command, declare: Callable[[str], None]
):
    command("taxonomy", "snapshot", "mails", "--update", "old.json")
    command("taxonomy", "snapshot", "mails", "--update", "new.json")
    declare(FEWER)
    command("taxonomy", "snapshot", "mails", "--update", "new.json")
    assert list(json.loads(Path("new.json").read_text())["retired"]) == ["mail_opened"]
    assert command("taxonomy", "diff", "old.json", "new.json") == 0
    assert "event_retired" in command.out
    declare(BEFORE.replace("    to: str\nSAMPLING", "    by: str\nSAMPLING"))
    assert command("taxonomy", "diff", "new.json", "mails") == 1
    assert "name_reused" in command.out


@pytest.mark.parametrize(
    "text,why",
    [
        (None, "cannot be read: No such file"),
        (b"\xff", "it is not UTF-8"),
        (b"[]", "is no snapshot"),
    ],
    ids=["missing", "not text", "something else"],
)
def test_bad_snapshot_exits_with_2(
    command: Command, declare: Callable[[str], None], text: bytes | None, why: str
):
    if text is not None:
        Path("taxonomy.json").write_bytes(text)
    assert command("taxonomy", "diff", "taxonomy.json", "mails") == 2
    assert why in command.err


def test_module_that_cannot_be_imported_exits_with_2(command: Command):
    assert command("taxonomy", "docs", "no.such") == 2
    assert "the taxonomy 'no.such' cannot be imported" in command.err
