"""What the table's tests share: one operation, a frozen clock, and two tenants."""

from __future__ import annotations

import pytest

from tenantry import tenant
from tenantry.testing import FrozenClock
from tests.callables.operations import ACME, TAXONOMY
from tests.capturing import capture_events


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture
def events(clock):
    with capture_events(TAXONOMY, strict=False, clock=clock) as pipeline, tenant(ACME):
        yield pipeline
