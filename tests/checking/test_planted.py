"""Every mistake that is planted is found on its line, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

from tenantry.checking.findings import Code, Report
from tests.checking.conftest import APPS

_COMMENT = re.compile(rf"#((?: (?:{'|'.join(Code)})(?: \w+)?)+)$")
WITHOUT_KEY = {"unknown_operation", "unknown_event", "unknown_class", "never_emitted"} | {
    "occurred_at_missing"
}


def planted_in(file: Path) -> set[tuple[str, int, str, str | None]]:
    found: set[tuple[str, int, str, str | None]] = set()
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        match = _COMMENT.search(line)
        words = iter(match[1].split() if match else [])
        for code in words:
            key = None if code in WITHOUT_KEY else next(words)
            found.add((file.name, number, code, key))
    return found


def test_every_planted_mistake_is_found_on_its_line_and_nothing_else(planted: Report):
    expected = set().union(*map(planted_in, (APPS / "planted").glob("*.py")))
    found = {(Path(f.place.file).name, f.place.line, f.code, f.key) for f in planted.findings}
    assert found == expected


def test_every_code_is_planted(planted: Report):
    assert {finding.code for finding in planted.findings} == set(Code)


def test_what_depends_on_what_runs_is_a_warning(planted: Report):
    warnings = {f.code for f in planted.findings if f.level == "warning"}
    assert warnings == {Code.UNCERTAIN_KEY, Code.NEVER_EMITTED, Code.RESERVED_KEY}
    reserved = [f for f in planted.findings if f.code == Code.RESERVED_KEY]
    assert {(f.key, f.level) for f in reserved} == {
        ("result", "error"),
        ("tenant", "warning"),  # the key is optional
        ("correlation", "error"),
    }


def test_calls_of_which_only_a_run_tells_name_or_keys_are_listed(planted: Report):
    lines = {(Path(p.file).name, p.line) for p in planted.unchecked}
    sources = {
        (file.name, number)
        for file in (APPS / "planted").glob("*.py")
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if "**more)" in line or "emits(source)" in line or "log_event(name" in line
    }
    assert lines == sources
    assert len(lines) == 4
