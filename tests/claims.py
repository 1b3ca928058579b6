"""Reads what pages claim: each claim names the test that would show it broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
EXPLANATION: Final = TESTS.parent / "docs" / "explanation"


def find_claims(page: str) -> list[tuple[str, str]]:
    """List the file and the name of each test that a page names; state machines are classes."""
    return sorted(set(re.findall(r"`([\w/]+\.py)::([tT]est\w+)`", page)))


def find_items(page: str) -> list[str]:
    """List the items of a page's lists, each with the lines that belong to it."""
    return re.findall(r"^- (.*?)(?=^- |^#|^$)", page, re.MULTILINE | re.DOTALL)


def has_test(path: Path, name: str) -> bool:
    """Say whether a file has a test of that name; False where there is no such file."""
    if not path.is_file():
        return False
    return bool(re.search(rf"^((async )?def {name}\(|{name} = )", path.read_text(), re.MULTILINE))
