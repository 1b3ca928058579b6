"""The record and its line: what is written can be read, and what is torn is seen."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.record import (
    EVENT_COLUMNS,
    REJECT_COLUMNS,
    Clock,
    Kind,
    Line,
    Record,
    Reject,
    abandoned_event,
    check_lines,
    closing_json,
    count_events,
    derived_id,
    event_text,
    format_line,
    make_now,
    parse_line,
    renumber,
)

OPERATION = "018f6f0e-0000-7000-8000-00000000000a"
JSON = st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(), st.none()))
KINDS = st.sampled_from("EISTROCH")


def line_of(tenant: object, name: str = "x", kind: str = Kind.EVENT) -> bytes:
    scope = f'"tenant_id":{json.dumps(tenant)},'
    text = event_text(OPERATION, name, scope, "2026-01-01T00:00:00+00:00", "", "{}", "")
    return format_line(kind, 1, text)


@settings(deadline=None)
@given(KINDS, st.integers(0, 2**63), JSON, JSON)
def test_line_is_read_as_it_was_written(kind, sequence, row, closing):
    row_json, closing_text = json.dumps(row, ensure_ascii=False), json.dumps(closing)
    line = format_line(kind, sequence, row_json, closing_text)
    assert line.count(b"\n") == 1
    found = parse_line(line.rstrip(b"\n"))
    assert found == Line(kind, sequence, row_json.encode(), closing_text.encode())


@settings(deadline=None)
@given(KINDS, JSON, st.data())
def test_altered_line_is_seen(kind, row, data):
    line = format_line(kind, 7, json.dumps(row)).rstrip(b"\n")
    place = data.draw(st.integers(0, len(line) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != line[place]))
    altered = line[:place] + bytes([byte]) + line[place + 1 :]
    found = parse_line(altered)
    assert found is None


@settings(deadline=None)
@given(KINDS, JSON, st.data())
def test_torn_or_zeroed_line_is_seen(kind, row, data):
    line = format_line(kind, 7, json.dumps(row)).rstrip(b"\n")
    cut = data.draw(st.integers(0, len(line) - 1))
    assert parse_line(line[:cut]) is None
    assert parse_line(line[:cut] + bytes(len(line) - cut)) is None


@settings(deadline=None)
@given(st.lists(st.tuples(KINDS, JSON, st.sampled_from(["whole", "altered", "cut", "empty"]))))
def test_lines_are_checked_together_as_each_is_alone(rows):
    damage = {
        "whole": lambda line: line,
        "altered": lambda line: line[:-1] + b"~",
        "cut": lambda line: line[:7],
        "empty": lambda _: b"",
    }
    lines = [
        damage[state](format_line(kind, 7, json.dumps(row)).rstrip(b"\n"))
        for kind, row, state in rows
    ]
    found = check_lines([line + b"\n" for line in lines])
    assert found == [
        line[9:] if state == "whole" else None
        for line, (_, _, state) in zip(lines, rows, strict=True)
    ]


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_line_or_none(line):
    found = parse_line(line)
    assert found is None or isinstance(found.sequence, int)


@settings(deadline=None)
@given(KINDS, KINDS, JSON, st.integers(0, 2**40))
def test_renumbered_line_differs_in_kind_and_number_only(kind, other, row, sequence):
    line = format_line(kind, 7, json.dumps(row), '{"a":1}')
    before, after = parse_line(line.rstrip()), parse_line(renumber(line, other, sequence).rstrip())
    assert after == before._replace(kind=other, sequence=sequence)


def test_text_of_an_event_is_the_json_of_its_parts():
    parts = (OPERATION, "x", '"tenant_id":7,', "2026-01-01T00:00:00+00:00", '"phase":"started",')
    tail = ',"event_version":2,"sample_rate":0.5'
    text = event_text(*parts, '{"k":"é"}', tail)
    record = Record.from_json(text.encode())
    assert record.data == {"k": "é"}
    assert (record.id, record.name, record.tenant_id, record.phase) == (
        OPERATION,
        "x",
        7,
        "started",
    )
    assert (record.event_version, record.sample_rate) == (2, 0.5)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.text(min_size=1), st.integers(1, 2**63)), KINDS), max_size=9)
)
def test_events_are_counted_by_tenant_and_name(rows):
    lines = b"".join(line_of(tenant, kind=kind) for tenant, kind in rows)
    expected: dict[tuple[str, str], int] = {}
    for tenant, kind in rows:
        if kind in "EIST":
            expected[str(tenant), "x"] = expected.get((str(tenant), "x"), 0) + 1
    assert count_events(lines) == expected


@pytest.mark.parametrize("tail", [b"", bytes(60) + b'"}\n'], ids=["cut off", "zeroed"])
def test_torn_line_is_no_event_that_is_counted(tail: bytes):
    line = line_of("a", kind="E")
    assert count_events(line + line[:-10] + tail) == {("a", "x"): 1}


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000 * 10**9))
def test_timestamp_is_the_time_in_utc_with_microseconds(nanoseconds):
    text = make_now(lambda: nanoseconds)()
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    assert datetime.fromisoformat(text) == expected
    assert len(text) == 32


@settings(deadline=None)
@given(st.lists(st.integers(0, 5 * 10**9), min_size=1))
def test_what_a_timestamp_remembers_changes_nothing(times):
    left = iter(times)
    remembering = make_now(lambda: next(left))
    assert [remembering() for _ in times] == [make_now(lambda at=at: at)() for at in times]


@settings(deadline=None)
@given(st.datetimes(timezones=st.just(UTC)), st.lists(st.text(), min_size=1))
def test_derived_id_is_a_uuid7_of_the_time(stamp, parts):
    made = UUID(derived_id(stamp.isoformat(), *parts))
    assert str(made) == derived_id(stamp.isoformat(), *parts)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    milliseconds = max(0, int(stamp.timestamp() * 1000))
    assert made.int >> 80 == milliseconds


def test_derived_id_is_pinned():
    """A change would store replays of old events twice."""
    made = derived_id("2026-01-01T00:00:00+00:00", OPERATION, "abandoned")
    assert made == "019b76da-a800-7f89-814c-1c106eb7548d"


def test_abandoned_event_carries_what_the_start_knew():
    start = {
        "id": OPERATION,
        "tenant_id": "t",
        "operation_id": OPERATION,
        "actor_id": "a",
        "name": "work_started",
        "created_at": "2026-01-01T00:00:00+00:00",
        "data": {"url": "u", "size": 1},
        "sample_rate": 0.5,
    }
    closing = closing_json("work_failed", 2, ["url", "code"], "code")
    line = Line(Kind.START, 1, json.dumps(start).encode(), closing.encode())
    made = abandoned_event(line, "2026-01-01T00:00:09+00:00")
    record = Record.from_json(made.encode())
    assert (record.name, record.phase, record.error_code) == ("work_failed", "failed", "abandoned")
    assert (record.tenant_id, record.actor_id, record.operation_id) == ("t", "a", OPERATION)
    assert record.data == {"url": "u", "code": "abandoned"}
    assert (record.event_version, record.sample_rate) == (2, 1.0)
    assert made == abandoned_event(line, "2026-01-01T00:00:09+00:00")


def test_what_goes_without_saying_is_not_said_at_the_end():
    assert closing_json("work_failed", 1, None, None) == '{"name":"work_failed"}'
    start = {"operation_id": OPERATION, "tenant_id": "t", "data": {"url": "u", "size": 1}}
    line = Line(Kind.START, 1, json.dumps(start).encode(), b'{"name":"work_failed"}')
    record = Record.from_json(abandoned_event(line, "2026-01-01T00:00:09+00:00").encode())
    assert record.event_version == 1
    assert record.data == {"url": "u", "size": 1}


def test_reader_passes_over_columns_of_a_newer_version():
    row = {"id": "i", "tenant_id": 1, "name": "n", "created_at": "2026-01-01T00:00:00+00:00"}
    assert Record.from_json(json.dumps(row | {"newer": 1}).encode()).name == "n"
    reject = {"id": "i", "reason": "r", "created_at": "2026-01-01T00:00:00+00:00", "newer": 1}
    assert Reject.from_json(json.dumps(reject).encode()).reason == "r"


def test_records_have_an_attribute_for_each_column():
    assert {column.name for column in EVENT_COLUMNS} == set(Record.__slots__)
    assert {column.name for column in REJECT_COLUMNS} == set(Reject.__slots__)


def test_clock_goes_on():
    first, second = Clock.perf_counter_ns(), Clock.perf_counter_ns()
    assert first <= second
    assert Clock.time_ns() > 1_700_000_000 * 10**9
