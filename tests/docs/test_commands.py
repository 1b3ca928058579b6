"""Every `tenantry …` that a page shows is a command that exists, with options that it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tenantry.cli.app import app
from tests.docs.pages import DOCS

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]

BLOCK = re.compile(r"^```[^\n]*?(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(tenantry\s[^`]+)`")
IN_LIST = re.compile(r'"tenantry"(?:, "[^"]*")*')
IN_LINE = re.compile(r"(?:^|[\s'\x22(/])(tenantry [a-z-][^|&;)]*)")

NOT_COMMANDS = ("python", "sql", "postgresql", "toctree")
"""Languages of blocks in which the word before a blank is no command."""


def find_commands(text: str) -> list[str]:
    """List the command lines of a page: in its prose, and in blocks that are no Python or SQL."""
    found: list[str] = []
    for language, block in BLOCK.findall(text):
        if language in NOT_COMMANDS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            in_list = IN_LIST.search(line)
            if in_list:
                found.append(in_list[0].replace('"', "").replace(",", ""))
            else:
                found += IN_LINE.findall(line.partition(" # ")[0])
    return found + [" ".join(each.split()) for each in INLINE.findall(BLOCK.sub("", text))]


def problem_of(line: str) -> str | None:
    """Say what a command line names that does not exist, or None."""
    command: Any = get_command(app)
    words = [word.strip("[]'\"") for word in line.split()][1:]
    while words and (known := getattr(command, "commands", None)) and is_word(words[0]):
        if words[0] not in known:
            return f"there is no command {words[0]!r}"
        command = known[words.pop(0)]
    options = {name for each in command.params for name in [*each.opts, *each.secondary_opts]}
    for word in words:
        option = word.partition("=")[0]
        if len(option) > 1 and option.startswith("-") and option not in {"--help", "-h", *options}:
            return f"there is no option {option!r}"
    return None


def is_word(text: str) -> bool:
    return text.replace("-", "").isalpha() and not text.startswith("-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_exist(page: Path):
    problems = {line: problem_of(line) for line in find_commands(page.read_text())}
    assert {line: problem for line, problem in problems.items() if problem} == {}


@pytest.mark.parametrize(
    "text, found",
    [
        pytest.param(
            "run `tenantry drain --timeout 5` now", ["tenantry drain --timeout 5"], id="prose"
        ),
        pytest.param(
            "```console\n$ tenantry stats --json | jq\n```",
            ["tenantry stats --json "],
            id="console",
        ),
        pytest.param(
            '```{code-block} yaml\ncommand: ["tenantry", "drain"]\n```',
            ["tenantry drain"],
            id="list",
        ),
        pytest.param(
            "```ini\nExecStart=-/opt/bin/tenantry drain\n```", ["tenantry drain"], id="unit"
        ),
        pytest.param(
            "```yaml\ncommand: sh -c 'tenantry migrate && tenantry drain'\n```",
            ["tenantry migrate ", "tenantry drain'"],
            id="two",
        ),
        pytest.param("```python\nfrom tenantry import emits\n```", [], id="Python"),
    ],
)
def test_commands_are_found(text: str, found: list[str]):
    assert find_commands(text) == found


@pytest.mark.parametrize(
    "line, problem",
    [
        pytest.param("tenantry drian", "there is no command 'drian'", id="command"),
        pytest.param("tenantry rejected lst", "there is no command 'lst'", id="command of a group"),
        pytest.param("tenantry drain --tiemout 5", "there is no option '--tiemout'", id="option"),
        pytest.param("tenantry drain --timeout=5 --json", None, id="right"),
        pytest.param("tenantry migrate status --dsn x", None, id="group that is a command"),
    ],
)
def test_what_does_not_exist_is_named(line: str, problem: str | None):
    assert problem_of(line) == problem
