"""``tenantry.testing``: what tests of applications use."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from tenantry import Event, emits, log_event, tenant
from tenantry.exceptions import UnknownEvent
from tenantry.pipeline import current_pipeline
from tenantry.testing import FrozenClock, SequentialIds, capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"


class Happened(Event):
    n: int = 0


def test_events_of_the_block_are_captured():
    with capture_events([Happened]) as events, tenant(ACME):
        assert current_pipeline() is events
        log_event(Happened(n=1))
        assert events.names == ["happened"]
        assert events.records[0].data == {"n": 1}
    assert current_pipeline() is not events
    assert events.is_shut_down
    assert events.names == ["happened"]


def test_it_is_strict_by_default():
    with capture_events([Happened]), tenant(ACME), pytest.raises(UnknownEvent):
        log_event("never_happened")


def test_it_may_be_lenient():
    with capture_events([Happened], strict=False) as events, tenant(ACME):
        log_event("never_happened")
        assert [reject.reason for reject in events.rejected] == ["unknown_event"]


def test_captures_nest_and_end_whatever_is_raised():
    with capture_events([Happened]) as outer, tenant(ACME):
        with pytest.raises(LookupError), capture_events([Happened]) as inner:  # noqa: PT012
            log_event("happened", n=1)
            raise LookupError
        log_event("happened", n=2)
        assert inner.is_shut_down
        assert [r.data["n"] for r in inner.records + outer.records] == [1, 2]


def test_clock_stands_still_until_told():
    clock = FrozenClock()
    with capture_events(open_taxonomy=["x_*"], clock=clock) as events, tenant(ACME):
        with emits("x_work"):
            clock.tick(1.25)
        clock.set_back(0.25)
        log_event("x_happened")
        start, end, fact = events.records
    assert start.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (end.created_at - start.created_at).total_seconds() == 1.25
    assert (fact.created_at - start.created_at).total_seconds() == 1
    assert end.duration_ms == 1250


def test_sequential_ids_are_uuids_that_count():
    ids = SequentialIds()
    assert [ids(), ids()] == [f"00000000-0000-7000-8000-00000000000{n}" for n in (1, 2)]
    assert UUID(ids()).version == 7
