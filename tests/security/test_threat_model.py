"""The page on security and these tests name each other: no claim without a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "explanation" / "security.md").read_text()
CLAIMED = sorted(set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)))


@pytest.mark.parametrize("file,name", CLAIMED, ids=[name for _, name in CLAIMED])
def test_claim_has_its_test(file: str, name: str):
    path = TESTS.parent / file if "/" in file else TESTS / "security" / file
    assert f"\ndef {name}(" in path.read_text()


def test_every_line_that_claims_something_names_a_test():
    """A line without one begins with "Not stopped", and says what to do."""
    items = re.findall(r"^- (.*?)(?=^- |^#|^$)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(items) > 30
    assert not [item for item in items if "::test_" not in item and "Not stopped" not in item]
