"""Every block of the tutorial and of the how-to pages runs, and prints what the page shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.docs.pages import DOCS, Page, find_pages
from tests.fix_postgres import Database

TUTORIAL = "tutorial/first-events.md"


def test_tutorial_runs_from_an_empty_directory_to_an_answer(run_page: Callable[[Page], None]):
    run_page(Page(DOCS / TUTORIAL))


@pytest.mark.parametrize("name", [page for page in find_pages() if page != TUTORIAL])
def test_how_to_runs_on_a_migrated_database(
    name: str,
    database18: Database,
    tidied: None,
    run_page: Callable[[Page], None],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("TENANTRY_DSN", database18.owner)
    run_page(Page(DOCS / name))
    database18.execute("DROP TABLE IF EXISTS orders")
