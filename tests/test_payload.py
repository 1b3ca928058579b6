"""Payloads: any Python value becomes JSON that jsonb takes, within the limit, or is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
import uuid_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from tenantry.exceptions import InvalidEvent
from tenantry.payload import MAX_DEPTH, fit, plain, to_json


class Colour(Enum):
    RED = "red"
    NUL = "\0"


class Level(IntEnum):
    HIGH = 3


class Point(BaseModel):
    x: int


class Word(RootModel[str]):
    pass


@dataclass
class Plain:
    x: int = 1


class Hostile(dict):
    def items(self):
        raise RuntimeError("no items")


class Unreadable:
    def __getattribute__(self, name):
        raise RuntimeError("no attributes")

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**4090, max_value=2**4100),
    st.builds(pow, st.just(10), st.just(5000)),
    st.floats(),
    st.text(st.characters(codec=None, exclude_categories=[])),
    st.sampled_from(["\0", "\ud800", "a\udfffb", "\\u0000"]),
    st.binary(max_size=3),
    st.decimals(),
    st.uuids(),
    st.datetimes(timezones=st.one_of(st.none(), st.just(UTC))),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.sampled_from([*Colour, *Level]),
    st.builds(Point, x=st.integers()),
    st.just(Word("w\0")),
    st.sampled_from([Plain(), object(), object, len, Hostile(a=1), 1j, ...]),
)
KEYS = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=[]), max_size=3),
    st.integers(),
    st.uuids(),
    st.sampled_from(Colour),
    st.booleans(),
    st.none(),
    st.floats(),
    st.builds(pow, st.just(10), st.just(5000)),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=4),
        st.frozensets(st.one_of(st.text(max_size=2), st.integers()), max_size=3),
    ),
    max_leaves=12,
)
JSON_OBJECTS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.recursive(
        st.one_of(st.integers(0, 9), st.text(st.characters(codec="utf-8"), max_size=200)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
        ),
        max_leaves=10,
    ),
    max_size=5,
)


def texts_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in texts_of(item)]
    return [text for item in value for text in texts_of(item)] if isinstance(value, list) else []


@settings(deadline=None)
@given(ANYTHING)
def test_any_value_becomes_safe_json_or_is_refused(value):
    try:
        written = to_json(plain(value))
    except InvalidEvent as refused:
        assert refused.reason == "unserializable"  # noqa: PT017  # either outcome is allowed
        return
    for text in texts_of(json.loads(written.decode())):
        assert "\0" not in text
        assert not any("\ud800" <= character <= "\udfff" for character in text)


@settings(deadline=None)
@given(ANYTHING, st.integers(2, 300))
def test_any_value_fits_the_limit_or_is_refused(value, limit):
    try:
        data, _ = fit(to_json({"k": plain(value)}), limit)
    except InvalidEvent as refused:
        assert refused.reason in {"unserializable", "too_large"}  # noqa: PT017
    else:
        assert len(data) <= limit
        json.loads(data)


@settings(deadline=None)
@given(JSON_OBJECTS, st.integers(30, 400))
def test_cutting_only_shortens_strings_and_marks_each_cut(value, limit):
    before = to_json(plain(value))
    try:
        data, was_cut = fit(before, limit)
    except InvalidEvent:
        assert len(before) > limit
        return
    assert was_cut == (len(before) > limit)
    old, new = texts_of(plain(value)), texts_of(json.loads(data))
    assert len(old) == len(new)
    for whole, kept in zip(old, new, strict=True):
        if whole != kept:
            head, _, mark = kept.rpartition("…[+")
            assert whole.startswith(head)
            assert len(head) + int(mark.removesuffix("]")) == len(whole)
            assert len(kept.encode()) < len(whole.encode())


def test_largest_string_is_cut_first():
    data, was_cut = fit(to_json({"short": "s" * 50, "long": "l" * 500}), 300)
    kept = json.loads(data)
    assert was_cut
    assert kept["short"] == "s" * 50
    assert kept["long"].startswith("l" * 100)
    assert len(data) > 250


def test_what_is_within_the_limit_is_not_touched():
    data = to_json({"k": "x" * 100})
    assert fit(data, len(data)) == (data, False)


def test_payload_that_cutting_cannot_save_is_refused():
    with pytest.raises(InvalidEvent, match=r"data: \d+ bytes of JSON, and \d+ with its str") as e:
        fit(to_json({"k": list(range(1000))}), 100)
    assert e.value.reason == "too_large"


def test_integer_beyond_every_reader_is_refused_and_not_a_crash():
    with pytest.raises(InvalidEvent) as caught:
        fit(b'{"k":1' + b"0" * 5000 + b"}", 2048)
    assert caught.value.reason == "unserializable"


@pytest.mark.parametrize(
    "value, written",
    [
        pytest.param(math.nan, None, id="nan"),
        pytest.param(-math.inf, None, id="infinity"),
        pytest.param("a\0\ud800", "a\ufffd\ufffd", id="unsafe text"),
        pytest.param(Decimal("1.50"), "1.50", id="decimal"),
        pytest.param(UUID(int=1), "00000000-0000-0000-0000-000000000001", id="uuid"),
        pytest.param(
            uuid_utils.UUID(int=1), "00000000-0000-0000-0000-000000000001", id="other uuid"
        ),
        pytest.param(datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00", id="time"),
        pytest.param(date(2026, 1, 2), "2026-01-02", id="date"),
        pytest.param(time(1, 2), "01:02:00", id="time of day"),
        pytest.param(timedelta(minutes=1), 60.0, id="duration"),
        pytest.param(Colour.RED, "red", id="enum"),
        pytest.param(Level.HIGH, 3, id="integer enum"),
        pytest.param(PurePosixPath("/a"), "/a", id="path"),
        pytest.param((1, {2}), [1, [2]], id="tuple and set"),
        pytest.param({1: "a"}, {"1": "a"}, id="integer key"),
        pytest.param(Point(x=1), {"x": 1}, id="model"),
        pytest.param(Word("w"), "w", id="root model"),
        pytest.param(True, True, id="bool"),
    ],
)
def test_kinds_that_have_an_honest_form(value, written):
    assert plain(value) == written


@pytest.mark.parametrize(
    "value, why",
    [
        pytest.param(b"x", "bytes have no JSON form; decode them", id="bytes"),
        pytest.param(object(), "object has no JSON form", id="object"),
        pytest.param(Plain(), "Plain has no JSON form", id="dataclass"),
        pytest.param({None: 1}, "a key of type NoneType; keys are text", id="key"),
        pytest.param(2**5000, "an integer of 5001 bits; at most 4096", id="huge integer"),
        pytest.param(Hostile(), "Hostile raised RuntimeError while it was read", id="raises"),
        pytest.param(Unreadable(), "Unreadable raised RuntimeError", id="hostile"),
    ],
)
def test_what_has_no_honest_form_is_refused(value, why):
    with pytest.raises(InvalidEvent, match=why):
        plain(value)


def test_the_path_of_what_is_refused_is_told_without_nested_keys():
    with pytest.raises(InvalidEvent, match=r"^data\.a\[1\]\.\*: bytes"):
        plain({"a": [0, {"b": b""}]})


@pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 1])
def test_nesting_has_a_limit(levels):
    value: Any = 1
    for _ in range(levels):
        value = [value]
    if levels <= MAX_DEPTH:
        assert plain(value) == value
    else:
        with pytest.raises(InvalidEvent, match="nested more than 32 levels"):
            plain(value)


def test_cycle_is_refused():
    cycle: list[Any] = []
    cycle.append({"again": cycle})
    with pytest.raises(InvalidEvent, match="or contains itself"):
        plain(cycle)
