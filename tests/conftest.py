"""Fixtures of all tests. Those that need a server are in ``fix_postgres``."""

from collections.abc import Iterator

import pytest

from tenantry import current_operation, current_scope

pytest_plugins = ["tests.fix_postgres"]


@pytest.fixture(autouse=True)
def nothing_is_left_current() -> Iterator[None]:
    """A test that leaves a scope or an operation behind fails itself, and not the next one."""
    yield
    assert (current_scope(), current_operation()) == (None, None)
