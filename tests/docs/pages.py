"""Runs a page of the documentation: every block in its order, and the output that it shows checked.

- ``python`` runs in the page's namespace; with a caption, it is written to a file of that name
- ``sql`` goes through psql to the server of the variable ``dsn``, else of ``TENANTRY_DSN``
- ``console`` runs what follows ``$``; the other lines are the output
- ``text`` is the output of the block before it
- ``py`` shows the code of a library that is not installed here: it is compiled, and not run

``...`` stands for what differs from run to run. A block whose output is not shown fails the page.
``@localhost/`` stands for the page's own server, which listens on a socket.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict
from sybil import Example, Sybil
from sybil.parsers.abstract.codeblock import AbstractCodeBlockParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer
from sybil.parsers.myst.lexers import DirectiveLexer

DOCS: Final = Path(__file__).parents[2] / "docs"

NOT_RUN: Final = ("pip install ", "export ")
"""Commands that a test does not run; an ``export`` sets the variable for the rest of the page."""

_BLOCK: Final = re.compile(
    r"^```(?:\{code-block\} )?(?P<language>[a-z]+)\n(?::caption: (?P<caption>[^\n]+)\n)?"
    r"(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)

_CHECKER: Final = OutputChecker()
_FLAGS: Final = ELLIPSIS | NORMALIZE_WHITESPACE


def find_pages() -> list[str]:
    """List the pages that hold code to run."""
    folders = ("tutorial", "how-to")
    return [str(page.relative_to(DOCS)) for each in folders for page in (DOCS / each).glob("*.md")]


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page: ``caption`` is the name of the file that it stands for."""

    language: str
    caption: str | None
    text: str


def read_blocks(page: str) -> list[Block]:
    """Read the blocks of a page, to be checked in another way than by running the page."""
    return [
        Block(found["language"], found["caption"], found["text"].removeprefix("\n"))
        for found in _BLOCK.finditer((DOCS / page).read_text())
    ]


def write_files(page: str, directory: Path, *names: str) -> None:
    """Write blocks of a page to the files that their captions name."""
    files = {block.caption: block.text for block in read_blocks(page)}
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(files[name])


class Page:
    """One page on its way: what the blocks so far have left behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.output = ""
        self.where = ""

    def run(self) -> None:
        """Run every block, then see that nothing was printed that the page keeps to itself."""
        for example in self._examples():
            example.evaluate()
        self._check_nothing_hidden()

    def _examples(self) -> Iterator[Example]:
        lexers = [
            FencedCodeBlockLexer("[a-z]+", mapping={"language": "arguments", "source": "source"}),
            DirectiveLexer("code-block", arguments="[a-z]+"),
        ]
        blocks = {
            "python": self._run_python,
            "sql": self._run_sql,
            "console": self._run_console,
            "text": self._check_output,
            "py": self._compile,
        }
        parsers = [
            AbstractCodeBlockParser(lexers, language, run) for language, run in blocks.items()
        ]
        return iter(Sybil(parsers).parse(self.path).examples())

    def _run_python(self, example: Example) -> None:
        self._begin(example)
        source = self._locate(str(example.parsed))
        caption = example.region.lexemes.get("options", {}).get("caption")
        if caption is not None:
            file = Path(caption)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
            compile(source, caption, "exec", dont_inherit=True)
            return
        first_line = example.line + example.parsed.line_offset
        code = compile("\n" * first_line + source, str(self.path), "exec", dont_inherit=True)
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(code, self.namespace)
        self.output = printed.getvalue()

    def _compile(self, example: Example) -> None:
        self._begin(example)
        compile(str(example.parsed), str(self.path), "exec", dont_inherit=True)

    def _run_sql(self, example: Example) -> None:
        self._begin(example)
        dsn = self.namespace.get("dsn") or os.environ["TENANTRY_DSN"]
        query = ["psql", "-X", "-v", "ON_ERROR_STOP=1", dsn]
        self.output = _run(query, stdin=str(example.parsed), where=self.where)

    def _run_console(self, example: Example) -> None:
        self._begin(example)
        for part in ("\n" + str(example.parsed)).replace("\\\n", " ").split("\n$ ")[1:]:
            command, _, shown = part.partition("\n")
            command = self._locate(command)
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                os.environ[name] = value.strip("\"'")
            if command.startswith(NOT_RUN):
                continue
            self._check(shown, _run(["sh", "-c", command], where=self.where))

    def _check_output(self, example: Example) -> None:
        self.where = f"{self.path}:{example.line}"
        self._check(str(example.parsed), self.output)
        self.output = ""

    def _begin(self, example: Example) -> None:
        self._check_nothing_hidden()
        self.where = f"{self.path}:{example.line}"

    def _check_nothing_hidden(self) -> None:
        output, self.output = self.output, ""
        assert not output.strip(), f"{self.where} prints what the page does not show:\n{output}"

    def _check(self, shown: str, printed: str) -> None:
        want, got = shown.strip() + "\n", printed.strip() + "\n"
        assert _CHECKER.check_output(want, got, _FLAGS), (
            f"{self.where} shows\n{want}\nand the block prints\n{got}"
        )

    def _locate(self, source: str) -> str:
        if "@localhost/" not in source:
            return source
        server = conninfo_to_dict(self.namespace.get("dsn") or os.environ["TENANTRY_DSN"])
        database, rest = source.split("@localhost/", 1)[1][:1], quote(str(server["host"]))
        assert database.isalpha()
        return _replace_hosts(source, rest)


def _replace_hosts(source: str, host: str) -> str:
    head, *parts = source.split("@localhost/")
    moved = [head]
    for part in parts:
        name = part[: next((i for i, c in enumerate(part) if not c.isalnum()), len(part))]
        moved.append(f"@/{name}?host={host}{part[len(name) :]}")
    return "".join(moved)


def _run(command: list[str], *, where: str, stdin: str = "") -> str:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, f"{where} ends with {done.returncode}:\n{done.stderr}"
    return done.stdout
