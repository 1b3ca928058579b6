"""Drops: whose events were lost on purpose, and who is told."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tenantry import Drop, Event, Pipeline, Sampling, emits, log_event, tenant
from tenantry.drops import MAX_KINDS, Drops, News, make_drops
from tenantry.exceptions import ConfigurationError, InvalidEvent
from tenantry.journal import Slot
from tenantry.record import Reject, whose
from tests.delivery.deliveries import wait_until
from tests.delivery.pipelines import Destination, make_pipeline

ACME = "018f6f0e-7c1a-7000-8000-000000000001"
GLOBEX = "018f6f0e-7c1a-7000-8000-000000000002"
TEXT = "x" * 1500


@pytest.fixture
def destination():
    return Destination()


@pytest.fixture
def make(destination):
    made = []

    def make_one(journal=None, **options):
        options = {"journal_max_bytes": 4 << 20, **options}
        pipeline = make_pipeline(destination, journal, **options)
        made.append(pipeline)
        return pipeline

    yield make_one
    destination.is_open.set()
    for pipeline in made:
        pipeline.shutdown(20)


def fill(pipeline, destination) -> None:
    destination.is_open.clear()
    with pipeline, tenant(ACME):
        while log_event("tick", text=TEXT) is not None:
            pass


def emit(pipeline, tenant_id: str, name: str, count: int) -> None:
    with pipeline, tenant(tenant_id):
        for _ in range(count):
            log_event(name, text=TEXT)


def counts(drops) -> dict[tuple[str, str | None, str | None], int]:
    return {(drop.reason, drop.tenant_id, drop.name): drop.count for drop in drops}


def test_stats_count_drops_by_reason_tenant_and_name(make, destination):
    pipeline = make(open_taxonomy=["tick", "tock"])
    fill(pipeline, destination)
    emit(pipeline, ACME, "tock", 3)
    emit(pipeline, GLOBEX, "tick", 2)
    stats = pipeline.stats()
    assert counts(stats.drops) == {
        ("journal_full", ACME, "tick"): 1,
        ("journal_full", ACME, "tock"): 3,
        ("journal_full", GLOBEX, "tick"): 2,
    }
    assert stats.dropped == {"journal_full": 6}


# What is emitted while there is no room is dropped before anything is made of it.


class Weighed(Event):
    grams: int


class WeighingStarted(Event):
    scale: str


class WeighingCompleted(Event):
    scale: str


class WeighingFailed(Event):
    scale: str


WEIGHING = [Weighed, WeighingStarted, WeighingCompleted, WeighingFailed]


@contextmanager
def out_of_room(pipeline, destination) -> Iterator[None]:
    """Fill the journal, and let it try no other segment while the block runs."""
    fill(pipeline, destination)
    journal = pipeline._journal
    journal._full_until = time.monotonic() + 60
    assert pipeline.is_out_of_room
    with pipeline, tenant(ACME):
        yield
    journal._full_until = 0.0


@pytest.fixture
def weighing(make):
    return make(taxonomy=WEIGHING, open_taxonomy=["tick"])


def test_event_is_not_looked_at_where_there_is_no_room(weighing, destination):
    with out_of_room(weighing, destination):
        assert log_event("weighed", grams="not a number") is None
        assert log_event(Weighed(grams=3)) is None
    stats = weighing.stats()
    assert counts(stats.drops) == {
        ("journal_full", ACME, "tick"): 1,
        ("journal_full", ACME, "weighed"): 2,
    }
    assert stats.emitted == stats.accepted + 3


def test_strict_mode_looks_at_each_event_all_the_same(make, destination):
    pipeline = make(taxonomy=WEIGHING, open_taxonomy=["tick"], strict=True)
    fill(pipeline, destination)
    with pipeline, tenant(ACME), pytest.raises(InvalidEvent, match="grams"):
        log_event("weighed", grams="not a number")


def test_operation_is_dropped_event_by_event(weighing, destination):
    @emits("weighing")
    def weigh(scale):
        if scale == "broken":
            raise ZeroDivisionError

    with out_of_room(weighing, destination):
        weigh("a")
        with pytest.raises(ZeroDivisionError):
            weigh("broken")
    drops = counts(weighing.stats().drops)
    del drops["journal_full", ACME, "tick"]
    assert drops == {
        ("journal_full", ACME, "weighing_started"): 2,
        ("journal_full", ACME, "weighing_completed"): 1,
        ("journal_full", ACME, "weighing_failed"): 1,
    }


def test_operation_that_began_without_room_ends_with_a_row(weighing, destination):
    with out_of_room(weighing, destination):
        block = emits("weighing", scale="a")
        block.__enter__()
    destination.is_open.set()
    assert weighing.flush(20)
    with weighing:
        block.__exit__(None, None, None)
    assert weighing.flush(20)
    names = [json.loads(line)["name"] for line in destination.events]
    assert "weighing_started" not in names
    assert names[-1] == "weighing_completed"


def test_operation_that_began_with_room_is_not_left_open(weighing, destination):
    with weighing, tenant(ACME):
        block = emits("weighing", scale="a")
        block.__enter__()
    with out_of_room(weighing, destination):
        block.__exit__(None, None, None)
    assert weighing._journal._open == {}
    assert counts(weighing.stats().drops)["journal_full", ACME, "weighing_completed"] == 1


def test_what_is_sampled_out_is_not_dropped(make, destination):
    pipeline = make(
        taxonomy=WEIGHING, open_taxonomy=["tick"], sampling={"weighed": Sampling(1e-15)}
    )
    with out_of_room(pipeline, destination):
        log_event("weighed", grams=1)
    assert pipeline.stats().sampled_out == 1
    assert pipeline.stats().dropped == {"journal_full": 1}


def test_who_fills_the_segments_sees_that_room_is_short(make, destination, tmp_path, monkeypatch):
    monkeypatch.setattr(Pipeline, "_after_round", lambda _: None)  # where the shipper looks
    pipeline = make(tmp_path, journal_max_bytes=16 << 20)
    fill(pipeline, destination)
    assert pipeline.budgets is not None


# Who is told.


def test_gap_is_recorded_for_each_tenant_with_the_names(make, destination):
    pipeline = make(open_taxonomy=["tick", "tock"])
    fill(pipeline, destination)
    emit(pipeline, ACME, "tock", 3)
    emit(pipeline, GLOBEX, "tick", 2)
    destination.is_open.set()
    wait_until(lambda: len(destination.rejects) == 2)
    gaps = {reject.tenant_id: reject for reject in map(Reject.from_json, destination.rejects)}
    assert gaps[ACME].data == {"tick": 1, "tock": 3}
    assert gaps[ACME].detail.startswith("4 events were dropped since ")
    assert gaps[ACME].detail.endswith(": journal_full")
    assert gaps[GLOBEX].data == {"tick": 2}


def test_callback_is_told_each_drop_once(make, destination):
    told: Counter = Counter()
    threads = set()

    def on_drop(drops: list[Drop]) -> None:
        threads.add(threading.current_thread().name)
        for drop in drops:
            told[drop.tenant_id, drop.name] += drop.count

    pipeline = make(on_drop=on_drop)
    fill(pipeline, destination)
    emit(pipeline, GLOBEX, "tick", 2)
    wait_until(lambda: sum(told.values()) == 3)
    emit(pipeline, GLOBEX, "tick", 4)
    wait_until(lambda: sum(told.values()) == 7)
    assert told == {(ACME, "tick"): 1, (GLOBEX, "tick"): 6}
    assert threads == {"tenantry-shipper"}


def test_callback_is_told_of_the_last_drops_at_shutdown(make, destination):
    told: list[Drop] = []
    pipeline = make(on_drop=told.extend, ship_interval=60.0)
    wait_until(lambda: pipeline.flush(1))
    fill(pipeline, destination)
    pipeline.shutdown(1)
    assert counts(told) == {("journal_full", ACME, "tick"): 1}


def test_callback_that_raises_is_logged_and_called_again(make, destination, caplog):
    told: list[Drop] = []

    def on_drop(drops: list[Drop]) -> None:
        told.extend(drops)
        raise ZeroDivisionError

    pipeline = make(on_drop=on_drop)
    fill(pipeline, destination)
    wait_until(lambda: told)
    emit(pipeline, ACME, "tick", 1)
    wait_until(lambda: len(told) == 2)
    destination.is_open.set()
    assert pipeline.flush(20)
    assert "raised; it is called again with the next drops" in caplog.text


def test_callback_that_cannot_be_called_is_refused():
    with pytest.raises(ConfigurationError, match="on_drop='log' cannot be called; give a function"):
        make_pipeline(Destination(), None, on_drop="log")


def test_further_kinds_are_counted_by_reason_alone():
    drops = Drops()
    for number in range(MAX_KINDS + 5):
        drops.add(Slot.DROPPED_DISK_FULL, ACME, f"n{number}")
    totals = make_drops(drops.totals())
    assert len(totals) == MAX_KINDS + 1
    assert totals[-1] == Drop("disk_full", None, None, 5)


def test_news_are_told_once():
    drops = Drops()
    news = News(drops)
    assert not news
    drops.add(Slot.DROPPED_SHUT_DOWN, None, None)
    assert news
    assert news.take() == [Drop("shut_down", None, None, 1)]
    assert not news
    assert news.take() == []


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            b'00000000 E 1 {"id":"1","name":"tick","tenant_id":"a\\"b","created_at":',
            ('a"b', "tick"),
        ),
        (b'{"id":"1","name":"tick","tenant_id":42,"created_at":', ("42", "tick")),
        (b'00000000 R 1 {"id":"1","tenant_id":"a","reason":"gap"}', (None, None)),
    ],
    ids=["text", "bigint without a head", "reject"],
)
def test_line_says_whose_it_is(line, expected):
    assert whose(line) == expected
