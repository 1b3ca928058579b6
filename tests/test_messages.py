"""The messages as one body of text: each is listed in the reference, and asserted by a test."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from scripts import error_messages
from scripts.error_messages import Message

TESTS = Path(__file__).parent

ENOUGH = 3
"""Words in a row by which a test is known to look at a message; all, where values are between."""

ENOUGH_LETTERS = 10

NOT_ASSERTED = (
    "… answered …",
    "shipping failed; it is tried again",
    "… cannot be locked",
    "the tenant id is bad",  # where a scope lost its reason, which none does
    "emits(…): …: … was raised",
    "emits(…): …= raised …",
    "adopted the journal of …",
    "The schema … of … has the roles …",
    "… may not let events refer to",
)
"""Beginnings of messages that no test looks at. It only ever gets shorter."""


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.replace("\\", "").casefold())


def runs(found: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(found[at : at + length]) for at in range(len(found) - length + 1)}


@cache
def told_by_tests(length: int) -> set[tuple[str, ...]]:
    """Every run of words in a text of a test, but for what explains the test itself."""
    found: set[tuple[str, ...]] = set()
    for path in TESTS.rglob("*.py"):
        if path == Path(__file__):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        explained = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(getattr(node, "value", None), str) and id(node) not in explained:
                found |= runs(words(node.value), length)
    return found


def is_asserted(message: Message) -> bool:
    fragments = [words(fragment) for fragment in message.fragments]
    telling = [each for each in fragments if len("".join(each)) >= ENOUGH_LETTERS]
    return any(
        run in told_by_tests(len(run))
        for each in telling
        for run in runs(each, min(ENOUGH, len(each)))
    )


def test_reference_lists_every_message():
    assert error_messages.PAGE.read_text(encoding="utf-8") == error_messages.make_page(), (
        "run `python scripts/error_messages.py`, and read what changed as its reader would"
    )


def test_messages_are_asserted_by_tests():
    missing = [message for message in error_messages.collect() if not is_asserted(message)]
    new = [m for m in missing if not m.shown.startswith(NOT_ASSERTED)]
    assert [f"{m.module}:{m.line}: {m.carrier}: {m.shown}" for m in new] == []


def test_list_of_what_no_test_looks_at_is_current():
    missing = [message.shown for message in error_messages.collect() if not is_asserted(message)]
    assert [each for each in NOT_ASSERTED if not any(m.startswith(each) for m in missing)] == []


def test_message_that_no_test_looks_at_is_found():
    invented = "zebras " + "quietly " * 3
    assert not is_asserted(Message("m", 1, "ValueError", f"{error_messages.HOLE} {invented}"))
