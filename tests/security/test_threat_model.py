"""The page on security and these tests name each other: no claim without a test."""

from __future__ import annotations

import pytest

from tests.claims import EXPLANATION, TESTS, find_claims, find_items, has_test

PAGE = (EXPLANATION / "security.md").read_text()
CLAIMED = find_claims(PAGE)


@pytest.mark.parametrize("file,name", CLAIMED, ids=[name for _, name in CLAIMED])
def test_claim_has_its_test(file: str, name: str):
    path = TESTS.parent / file if "/" in file else TESTS / "security" / file
    assert has_test(path, name)


def test_every_line_that_claims_something_names_a_test():
    """A line without one begins with "Not stopped", and says what to do."""
    items = find_items(PAGE)
    assert len(items) > 30
    assert not [item for item in items if "::test_" not in item and "Not stopped" not in item]
