"""The page of features says nothing that no test shows."""

from __future__ import annotations

import re

import pytest

from tests.claims import EXPLANATION, TESTS, find_claims, find_items, has_test

PAGE = (EXPLANATION / "features.md").read_text()
DONE, NOT_DONE = PAGE.split("\n## Not done\n")
CLAIMED = find_claims(PAGE)


@pytest.mark.parametrize("file,name", CLAIMED, ids=[f"{file}-{name}" for file, name in CLAIMED])
def test_feature_has_its_test(file: str, name: str):
    assert has_test(TESTS.parent / file, name)


def test_every_feature_names_a_test():
    """Only what a call costs is held by none: times are measured, never asserted."""
    items = find_items(DONE)
    assert len(items) > 60
    assert [item for item in items if "::" not in item] == [
        "What a call costs is measured by `make bench`, and by no test.\n"
    ]


def test_every_test_is_named_in_the_form_that_is_looked_up():
    assert PAGE.count("::") == len(re.findall(r"`tests/[\w/]+\.py::[tT]est\w+`", PAGE))


def test_what_is_not_done_names_no_test():
    assert find_items(NOT_DONE)
    assert "::" not in NOT_DONE
