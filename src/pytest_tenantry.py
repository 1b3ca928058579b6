"""The pytest plug-in of Tenantry; what it gives is in `tenantry.testing`.

A module of its own, and without an import of ``tenantry``: pytest loads it in every test run of an
environment that has Tenantry, before coverage is measured. A run that asks for none of its fixtures
pays for this file alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tenantry.testing import CapturedEvents, FrozenClock, SequentialIds

_AROUND = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting."""
    parser.addini(
        "tenantry_autouse",
        type="bool",
        default=False,
        help="capture the events of every test, and let nothing be sent outside of tests either",
    )


@pytest.hookimpl
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin before a conftest imports the application, which may configure itself then."""
    _begin(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; begin here where the plug-in was only named in a conftest."""
    config.addinivalue_line(
        "markers",
        "tenantry(**options): capture the events of this test, with options of "
        "tenantry.testing.capture()",
    )
    _begin(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what was begun."""
    config.stash.get(_AROUND, ExitStack()).close()


def _begin(config: pytest.Config) -> None:
    """Let what is emitted outside of tests, as by an import, go nowhere; not strict, as it is."""
    if config.getini("tenantry_autouse") and _AROUND not in config.stash:
        from tenantry.testing import capture  # noqa: PLC0415  # see above

        config.stash[_AROUND] = stack = ExitStack()
        stack.enter_context(capture(strict=False))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the fixture to tests that are marked, or to all."""
    every = config.getini("tenantry_autouse")
    for item in items:
        if isinstance(item, pytest.Function) and (every or item.get_closest_marker("tenantry")):
            # The first, so that the other fixtures of the test are captured as well.
            item.fixturenames = ["captured_events", *item.fixturenames]


@pytest.fixture
def tenantry_options() -> dict[str, Any]:
    """Options of ``tenantry.testing.capture()`` for each test; override it to give some."""
    return {}


@pytest.fixture
def tenantry_clock() -> FrozenClock:
    """Freeze the time of a test's events; it passes by ``tick()`` and ``set()``."""
    from tenantry.testing import FrozenClock  # noqa: PLC0415  # see above

    return FrozenClock()


@pytest.fixture
def tenantry_ids() -> SequentialIds:
    """Number the ids of a test's events from 1."""
    from tenantry.testing import SequentialIds  # noqa: PLC0415  # see above

    return SequentialIds()


@pytest.fixture
def captured_events(
    request: pytest.FixtureRequest, tenantry_options: dict[str, Any]
) -> Iterator[CapturedEvents]:
    """Keep the test's events in memory, in strict mode, and give them."""
    from tenantry.testing import capture  # noqa: PLC0415  # see above

    options = dict(tenantry_options)
    for option, fixture in (("clock", "tenantry_clock"), ("new_id", "tenantry_ids")):
        if fixture in request.fixturenames:
            options[option] = request.getfixturevalue(fixture)
    for marker in reversed(list(request.node.iter_markers("tenantry"))):  # the nearest is the last
        options |= marker.kwargs
    with capture(**options) as events:
        yield events


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """List what was captured where ``assert name in captured_events`` fails."""
    testing = sys.modules.get("tenantry.testing")
    return None if testing is None else testing.explain_comparison(op, left, right)
