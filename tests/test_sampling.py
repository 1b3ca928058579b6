"""Sampling: which events are kept, decided alike in every process."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry import Sampling, emits, log_event, tenant
from tenantry.exceptions import ConfigurationError, InvalidEvent
from tenantry.record import abandoned_event, parse_line
from tests.capturing import capture_events

ACME = "018f6f0e-0000-7000-8000-000000000001"
SAAS = "tenantry.taxonomies.saas"
ALMOST_NONE = Sampling(1e-18)


class Unprintable:
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize("rate", [0, -0.1, 1.01, math.nan, math.inf, "much", None])
def test_impossible_rate_is_refused(rate):
    with pytest.raises(ConfigurationError, match="it is the share to keep, more than 0"):
        Sampling(rate)


@pytest.mark.parametrize(
    "value, is_kept",
    [
        pytest.param("conversation-1", True, id="kept"),
        pytest.param("conversation-2", False, id="left out"),
        pytest.param(42, True, id="number"),
        pytest.param("42", True, id="its text"),
        pytest.param("é", False, id="not ascii"),
    ],
)
def test_decisions_are_pinned(value, is_kept):
    """Computed once: a change would keep other events in a new version than in the old one."""
    assert Sampling(0.5).keeps(value) is is_kept


@settings(deadline=None)
@given(st.text(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_what_a_lower_rate_keeps_a_higher_rate_keeps(value, one, other):
    low, high = sorted((one, other))
    assert not Sampling(low).keeps(value) or Sampling(high).keeps(value)


@settings(deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=[])))
def test_rate_one_keeps_everything(value):
    assert Sampling(1).keeps(value)


@pytest.mark.parametrize("rate", [Fraction(1, 1), Decimal("1.0"), True])
def test_rate_of_another_number_type_is_stored_as_a_number(rate):
    with (
        capture_events(SAAS, sampling={"quota_exceeded": Sampling(rate)}) as events,
        tenant(ACME),
    ):
        log_event("quota_exceeded", quota_type="m", limit=1, attempted=2)
        assert events.records[0].sample_rate == 1.0


def test_operation_is_kept_or_left_out_whole_and_counted():
    with capture_events(SAAS, sampling={"ingest": ALMOST_NONE}) as events, tenant(ACME):
        with emits("ingest", source_type="web", url="u") as operation:
            operation.set(docs=1, chunks=1)
        assert events.names == []
        stats = events.stats()
        assert (stats.emitted, stats.sampled_out, stats.accepted) == (2, 2, 0)


def test_failure_is_kept_at_rate_one_though_its_start_is_not():
    with capture_events(SAAS, sampling={"ingest": ALMOST_NONE}) as events, tenant(ACME):
        with emits("ingest", source_type="web", url="u") as operation:
            operation.fail("refused")
        assert events.names == ["ingest_failed"]
        assert events.records[0].sample_rate == 1.0


def test_kept_events_carry_the_rate():
    with capture_events(SAAS, sampling={"ingest": Sampling(0.999999)}) as events, tenant(ACME):
        with emits("ingest", source_type="web", url="u") as operation:
            operation.set(docs=1, chunks=1)
        assert {record.sample_rate for record in events.records} == {0.999999}


def test_operations_of_one_key_are_kept_or_left_out_together():
    rule = Sampling(0.5, key="url")
    with capture_events(SAAS, sampling={"ingest": rule}) as events, tenant(ACME):
        for url in ["conversation-1", "conversation-2"] * 3:
            with emits("ingest", source_type="web", url=url) as operation:
                operation.set(docs=1, chunks=1)
        assert {record.data["url"] for record in events.records} == {"conversation-1"}
        assert len(events.records) == 6


def test_key_may_be_given_as_it_is_stored():
    rule = Sampling(0.5, key="conversationId")
    with capture_events(SAAS, sampling={"message_sent": rule}) as events, tenant(ACME):
        for name in ["conversation-1", "conversation-2"]:
            log_event("message_sent", conversation_id=name, role="user")
        assert [record.data["conversationId"] for record in events.records] == ["conversation-1"]


@pytest.mark.parametrize("value", [None, Unprintable()])
def test_without_a_usable_key_each_is_decided_by_its_own_id(value):
    ids = [f"id-{n}" for n in range(200)]
    rule = Sampling(0.5, key="anything")
    decisions = [rule.decide(value, own_id) for own_id in ids]
    assert decisions == [rule.keeps(own_id) for own_id in ids]
    assert len(set(decisions)) == 2


def test_fact_with_an_error_code_is_always_kept():
    with capture_events(SAAS, sampling={"integration_failed": ALMOST_NONE}) as events, tenant(ACME):
        log_event("integration_failed", integration_id="i", type="t", error_code="timeout")
        assert [record.sample_rate for record in events.records] == [1.0]


def test_what_is_left_out_leaves_no_mark_that_it_is_open(tmp_path):
    with (
        capture_events(SAAS, sampling={"ingest": ALMOST_NONE}, journal=tmp_path) as events,
        tenant(ACME),
    ):
        before = events._journal.shelf.free_bytes()
        with emits("ingest", source_type="web", url="https://a.example"):
            assert events._journal.shelf.free_bytes() == before
            assert not events._journal.has_open_operations()


def test_abandoned_end_stands_for_as_many_as_its_start(tmp_path):
    rate = 0.999999
    with (
        capture_events(SAAS, sampling={"ingest": Sampling(rate)}, journal=tmp_path) as events,
        tenant(ACME),
        emits("ingest", source_type="web", url="https://a.example"),
    ):
        (line,) = events._journal._open.values()
    parsed = parse_line(line.rstrip(b"\n"))
    assert parsed is not None
    event = json.loads(abandoned_event(parsed, "2026-11-22T10:00:00+00:00"))
    assert event["sample_rate"] == rate


def test_fact_that_is_left_out_is_looked_at_in_strict_mode_only():
    given = {"sampling": {"quota_exceeded": ALMOST_NONE}}
    with capture_events(SAAS, strict=False, **given) as events, tenant(ACME):
        log_event("quota_exceeded", limit="none")
        stats = events.stats()
        assert (stats.sampled_out, stats.rejected, stats.pending) == (1, 0, 0)
    with capture_events(SAAS, strict=True, **given), tenant(ACME), pytest.raises(InvalidEvent):
        log_event("quota_exceeded", limit="none")
