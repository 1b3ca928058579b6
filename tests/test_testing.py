"""``tenantry.testing``: what tests of applications use; its pytest plug-in has tests of its own."""

from __future__ import annotations

import threading
import unittest
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Annotated
from unittest.mock import ANY
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tenantry
from tenantry import PLATFORM, Event, Pipeline, Sensitive, emits, log_event, pipeline, tenant
from tenantry.context import current_rule
from tenantry.exceptions import UnknownEvent
from tenantry.exporters.memory import MemoryExporter
from tenantry.testing import FrozenClock, SequentialIds, capture

ACME = "018f6f0e-0000-7000-8000-00000000000a"
OTHER = "018f6f0e-0000-7000-8000-00000000000b"


class Happened(Event):
    n: int = 0
    at: date | None = None
    file_id: UUID | None = None
    phase: str | None = None


class WorkCompleted(Event):
    n: int


@pytest.fixture
def events():
    with capture([Happened, WorkCompleted]) as events, tenant(ACME, actor="user:1"):
        yield events


# What is captured.


def test_events_of_the_block_are_captured():
    before = pipeline.current_pipeline()
    with capture([Happened]) as events, tenant(ACME):
        log_event(Happened(n=1))
        assert events.names == ["happened"]
        assert events.records[0].data == {"n": 1}
    assert pipeline.current_pipeline() is before
    assert events.names == ["happened"]


def test_it_is_strict_by_default(events):
    with pytest.raises(UnknownEvent):
        log_event("never_happened")


def test_it_may_be_lenient():
    with capture([Happened], strict=False) as events, tenant(ACME):
        log_event("never_happened")
        assert [reject.reason for reject in events.rejected] == ["unknown_event"]


def test_captures_nest_and_end_whatever_is_raised():
    with capture([Happened]) as outer, tenant(ACME):
        with pytest.raises(LookupError), capture([Happened]) as inner:  # noqa: PT012
            log_event("happened", n=1)
            raise LookupError
        log_event("happened", n=2)
        assert [r.data["n"] for r in inner] == [1]
        assert [r.data["n"] for r in outer] == [2]


def test_thread_with_a_context_of_its_own_is_captured(events):
    def emit() -> None:
        log_event("happened", tenant=OTHER)

    thread = threading.Thread(target=emit)
    thread.start()
    thread.join()
    assert events.one("happened", tenant=OTHER)


def test_pipeline_made_before_is_replaced_and_one_made_within_stays_itself():
    exporter = MemoryExporter()
    before = Pipeline(exporter=exporter, taxonomy=[Happened], tenant_type="text")
    with before, capture([Happened]) as events, tenant(ACME):
        assert current_rule().tenant_type == "uuid"
        log_event("happened", n=1)
        with before:
            log_event("happened", n=2)
        own = MemoryExporter()
        with Pipeline(exporter=own, taxonomy=[Happened]) as within:
            log_event("happened", n=3)
        within.shutdown()
    assert [event.data["n"] for event in events] == [1, 2]
    assert [event.data["n"] for event in own.records] == [3]
    assert exporter.records == []
    before.shutdown()


def test_settings_of_configure_hold_but_not_where_events_go(monkeypatch):
    monkeypatch.delenv("TENANTRY_DSN", raising=False)
    with capture() as events:
        made = tenantry.configure(
            taxonomy=[Happened], tenant_type="bigint", service="desk", environment="test"
        )
        log_event("happened", tenant=7)
        assert tenantry.configure(service="desk", tenant_type="text", taxonomy=[Happened]) != made
        log_event("happened", tenant="seven")
    assert [(e.tenant_id, e.service, e.environment) for e in events] == [
        (7, "desk", "test"),
        ("seven", "desk", None),
    ]
    assert current_rule().tenant_type == "uuid"


def test_shutdown_of_the_application_flushes_and_the_test_goes_on(events):
    log_event("happened", n=1)
    assert tenantry.shutdown()
    log_event("happened", n=2)
    assert len(events) == 2


def test_events_of_a_transaction_keep_their_place(events):
    log_event("happened", n=1)
    log_event("happened", n=2, conn=object())
    log_event("happened", n=3)
    assert [event.data["n"] for event in events] == [1, 2, 3]


def test_hashing_needs_no_key_of_the_application():
    class Signed(Event):
        email: Annotated[str, Sensitive("hash")]

    with capture([Signed]) as events, tenant(ACME):
        log_event(Signed(email="ann@example.com"))
    assert "ann" not in events.one("signed").data["email"]
    assert events.rejected == []


class UnittestExample(unittest.TestCase):
    def test_unittest(self):
        events = self.enterContext(capture([Happened]))
        log_event("happened", tenant=ACME)
        assert events.names == ["happened"]


# What is refused.


def test_refused_end_of_an_operation_fails_the_block():
    with (
        pytest.raises(AssertionError) as caught,
        capture([WorkCompleted]),
        tenant(ACME),
        emits("work"),
    ):
        pass
    assert "events were refused: 1. In production" in str(caught.value)
    assert "work_completed: invalid: " in str(caught.value)
    assert "a test that means them to be refused reads `rejected`" in str(caught.value)


def test_refused_events_that_were_looked_at_are_meant():
    with capture([WorkCompleted]) as events, tenant(ACME):
        with emits("work"):
            pass
        assert events.rejected[0].name == "work_completed"


def test_what_the_block_raises_counts_for_more_than_what_was_refused():
    with pytest.raises(LookupError), capture([WorkCompleted]), tenant(ACME):  # noqa: PT012
        with emits("work"):
            pass
        raise LookupError


# Looking for events.


def test_events_are_a_list(events):
    for n in range(3):
        log_event("happened", n=n)
    assert len(events) == 3
    assert events[-1].data["n"] == 2
    assert [event.data["n"] for event in events[:2]] == [0, 1]
    assert "happened" in events
    assert Happened in events
    assert events[0] in events
    assert WorkCompleted not in events
    assert repr(events) == "<3 events captured: happened, happened, happened>"
    events.clear()
    assert not events
    assert repr(events) == "<0 events captured: none>"


def test_events_are_found_by_columns_options_and_data(events):
    log_event("happened", n=1)
    log_event("happened", n=2, tenant=OTHER, actor="user:2")
    log_event("happened", n=3, tenant=PLATFORM)
    with emits("work", n=4):
        pass
    found = [
        events.filter("work_completed"),
        events.filter(WorkCompleted),
        events.filter(phase="completed"),
        events.filter(n=4),
    ]
    assert [[e.data["n"] for e in each] for each in found] == [[4]] * 4
    assert events.one("happened", tenant=UUID(OTHER)).data["n"] == 2
    assert events.one("happened", tenant=OTHER.upper(), actor="user:2").data["n"] == 2
    assert events.one("happened", tenant_id=OTHER).data["n"] == 2
    assert events.one("happened", tenant=PLATFORM).data["n"] == 3
    assert len(events.filter("happened", tenant=ANY, n=ANY)) == 3


def test_values_are_compared_as_they_are_stored(events):
    file_id = UUID(ACME)
    log_event("happened", at=date(2026, 1, 2), file_id=file_id, fields={"phase": "odd"})
    assert events.one("happened", at=date(2026, 1, 2), file_id=file_id)
    assert events.one("happened", at="2026-01-02", fileId=str(file_id), data={"phase": "odd"})
    assert events.filter("happened", phase="odd") == []


def test_key_that_is_left_out_is_none(events):
    log_event("happened")
    assert events.one("happened", at=None)


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)))
def test_what_was_emitted_is_found_by_any_part_of_it_and_not_by_another(data):
    with capture(open_taxonomy=["x"]) as events, tenant(ACME):
        log_event("x", **data)
    for key, value in data.items():
        assert events.one("x", **{key: value})
        events.assert_not_emitted("x", **{key: value + 1})
    assert events.one("x", **data)
    events.assert_not_emitted("x", **data, another=1)


def failure(call, *args, **expected):
    with pytest.raises(AssertionError) as caught:
        call(*args, **expected)
    return str(caught.value)


def test_failure_names_the_nearest_event_and_its_differences(events):
    log_event("happened", n=1, at="2026-01-02")
    log_event("happened", n=2)
    text = failure(events.one, "happened", n=1, at="2026-01-03", actor="user:2", file_id=None)
    assert text == (
        "no event happened with n=1, at='2026-01-03', actor='user:2', file_id=None was emitted\n"
        f"nearest: 1 happened [tenant_id='{ACME}', actor_id='user:1'] n=1, at='2026-01-02'\n"
        "    at: expected '2026-01-03', got '2026-01-02'\n"
        "    actor: expected 'user:2', got 'user:1'\n"
        "emitted: 2\n"
        f"  1 happened [tenant_id='{ACME}', actor_id='user:1'] n=1, at='2026-01-02'\n"
        f"  2 happened [tenant_id='{ACME}', actor_id='user:1'] n=2"
    )


def test_failure_says_what_is_missing_and_what_was_refused():
    with capture([Happened], strict=False) as events, tenant(ACME):
        log_event("happened")
        log_event("happened", n="one")
        text = failure(events.assert_emitted, "happened", n=1)
    assert "    n: expected 1, got 0" in text or "    n: expected 1, missing" in text
    assert "refused: 1\n  happened: invalid: " in text


def test_failure_for_a_name_that_was_not_emitted_suggests_one(events):
    assert failure(events.one, "happening") == "no event happening was emitted\nemitted: nothing"
    log_event("happened")
    assert failure(events.one, "happening").startswith(
        "no event happening was emitted; did you mean happened?\nemitted: 1\n"
    )


def test_failure_lists_thirty_events(events):
    for n in range(32):
        log_event("happened", n=n)
    assert failure(events.assert_emitted, "x").endswith("n=29\n  and 2 more")


def test_one_is_not_two(events):
    log_event("happened", n=1)
    log_event("happened", n=1)
    assert len(events.assert_emitted("happened", n=1)) == 2
    assert failure(events.one, "happened", n=1).startswith(
        "expected one event happened with n=1, and 2 were emitted\nemitted: 2\n"
    )


def test_event_that_must_not_be(events):
    events.assert_not_emitted("happened")
    log_event("happened", n=1)
    events.assert_not_emitted("happened", n=2)
    assert failure(events.assert_not_emitted, "happened").startswith(
        "expected no event happened, and 1 were emitted\nemitted: 1\n"
    )


@pytest.mark.parametrize("name", [7, dict, Event, Happened()], ids=str)
def test_name_is_text_or_a_class(events, name):
    with pytest.raises(
        TypeError, match="is no name of an event; pass its name, or the Event class"
    ):
        events.filter(name)


# Time and ids.


def test_clock_stands_still_until_told():
    clock = FrozenClock()
    with capture(open_taxonomy=["x_*"], clock=clock) as events, tenant(ACME):
        with emits("x_work"):
            clock.tick(1.25)
        clock.set_back(0.25)
        log_event("x_happened")
        start, end, fact = events
    assert start.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (end.created_at - start.created_at).total_seconds() == 1.25
    assert (fact.created_at - start.created_at).total_seconds() == 1
    assert end.duration_ms == 1250


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)),  # noqa: DTZ001  # given a zone below
    st.integers(-12, 12),
)
def test_clock_is_set_to_the_microsecond_and_durations_are_not(when, hours):
    clock = FrozenClock()
    when = when.replace(tzinfo=timezone(timedelta(hours=hours)))
    clock.set(when)
    assert (
        clock.time_ns()
        == (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    )
    assert clock.perf_counter_ns() == 0


def test_clock_is_not_set_without_a_time_zone():
    with pytest.raises(ValueError, match=r"it has no time zone\. Pass an aware datetime"):
        FrozenClock().set(datetime(2026, 1, 1))  # noqa: DTZ001


def test_sequential_ids_are_uuids_that_count():
    ids = SequentialIds()
    assert [ids(), ids()] == [f"00000000-0000-7000-8000-00000000000{n}" for n in (1, 2)]
    assert UUID(ids()).version == 7
