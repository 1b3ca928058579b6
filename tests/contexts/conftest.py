"""Pipelines in memory, lenient as in production and strict as in tests."""

from __future__ import annotations

import pytest

from tests.capturing import capture_events
from tests.contexts.scenes import SAAS


@pytest.fixture
def events():
    with capture_events(SAAS, strict=False) as pipeline:
        yield pipeline


@pytest.fixture
def strict_events():
    with capture_events(SAAS) as pipeline:
        yield pipeline
