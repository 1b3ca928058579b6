"""Fixtures of all tests. Those that need a server are in ``fix_postgres``."""

import os
from collections.abc import Iterator

import pytest

from tenantry import current_operation, current_scope
from tests.cli.commands import Command

pytest_plugins = ["pytest_tenantry", "tests.fix_postgres"]


@pytest.fixture(autouse=True)
def nothing_is_left_current() -> Iterator[None]:
    """A test that leaves a scope or an operation behind fails itself, and not the next one."""
    yield
    assert (current_scope(), current_operation()) == (None, None)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return the command line, run without any TENANTRY_* variable."""
    for name in [name for name in os.environ if name.startswith("TENANTRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    return Command(capsys)
