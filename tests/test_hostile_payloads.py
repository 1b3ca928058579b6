"""Hostile payloads: what an event may cost, counted in steps and not in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from tenantry import Event, detectors, emits, log_event, payload, redaction, tenant
from tenantry.exceptions import InvalidEvent
from tenantry.payload import MAX_KEY, MAX_VALUES, fit, plain, to_json
from tests.capturing import capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"


class Told(Event):
    data: Any = None
    text: str = ""


class Node(BaseModel):
    child: Any = None


class Endless(Mapping[str, int]):
    """Has as many keys as are asked for, and counts them."""

    def __init__(self) -> None:
        self.asked = 0

    def __iter__(self) -> Iterator[str]:
        while True:
            self.asked += 1
            yield f"k{self.asked}"

    def __getitem__(self, key: str) -> int:
        return 1

    def __len__(self) -> int:
        return 1


class Silent:
    """Says no text of itself, and counts who asks."""

    asked = 0

    def __str__(self) -> str:
        type(self).asked += 1
        raise RuntimeError

    __repr__ = __str__


def laughs() -> Any:
    """Nine lists that a writer would make a thousand million of."""
    value: Any = ["ha"] * 10
    for _ in range(8):
        value = [value] * 10
    return value


@pytest.fixture
def events():
    with (
        capture_events([Told], strict=False, open_taxonomy="plugin_*") as pipeline,
        tenant(ACME),
    ):
        yield pipeline


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_endless_mapping_is_read_no_further_than_the_limit(events):
    endless = Endless()
    log_event("plugin_ran", value=endless)
    assert endless.asked <= 2 * (MAX_VALUES + 1)  # once for the event, once for the reject
    assert events.rejected[0].reason == "too_large"
    assert "more than 10000 values, or one that contains itself" in events.rejected[0].detail
    assert events.rejected[0].data == {"value": "<Endless>"}


@pytest.mark.parametrize("name", ["told", "plugin_ran"])
@pytest.mark.parametrize(
    "value",
    [
        dict.fromkeys(range(10**6), 1),
        [0] * 10**6,
        [[0] * 5000] * 3,
        {"a": set(range(10**5))},
        laughs(),
    ],
    ids=["keys", "list", "lists", "set", "a billion laughs"],
)
def test_too_many_values_are_refused_before_they_are_read(events, monkeypatch, name, value):
    written: list[int] = []
    monkeypatch.setattr(payload, "to_json", lambda value: written.append(1) or to_json(value))
    log_event(name, data=value)
    assert [reject.reason for reject in events.rejected] in (["too_large"], ["unserializable"])
    assert events.rejected[0].data in ({"data": f"<{type(value).__name__}>"}, {})
    assert sum(written) <= 4


def test_values_within_the_limit_are_counted_over_all_depths():
    assert plain([[1] * 99] * 100) == [[1] * 99] * 100
    with pytest.raises(InvalidEvent, match="more than 10000 values"):
        plain([[1] * 100] * 100)


def test_too_many_keys_are_refused_by_their_number(events):
    log_event("told", fields={f"k{i}": 1 for i in range(MAX_VALUES + 1)})
    assert events.rejected[0].reason == "too_large"
    assert events.rejected[0].detail == "told: 10001 keys; at most 10000"
    assert events.stats().undeclared == 0


def test_undeclared_keys_of_an_operation_are_counted_up_to_the_limit(events):
    class RanCompleted(Event):
        pass

    with (
        capture_events([RanCompleted], strict=False) as pipeline,
        tenant(ACME),
        emits("ran") as operation,
    ):
        operation.set(**{f"k{i}": 1 for i in range(MAX_VALUES + 5)})
    assert pipeline.stats().undeclared == MAX_VALUES
    assert pipeline.names == ["ran_completed"]


@pytest.mark.parametrize("name", ["told", "plugin_ran"])
def test_long_key_is_refused(events, name):
    log_event(name, data={"k" * (MAX_KEY + 1): 1, "n": float("nan")})
    log_event("plugin_ran", fields={"k" * (MAX_KEY + 1): 1})
    assert events.rejected[-1].reason == "too_large"
    assert "a key of 201 characters; at most 200" in events.rejected[-1].detail


@pytest.mark.parametrize("levels", [33, 10_000], ids=str)
@pytest.mark.parametrize("name", ["told", "plugin_ran"])
def test_deep_nesting_is_refused(events, name, levels):
    log_event(name, data=deep(levels))
    assert len(events.records) + len(events.rejected) == 1
    assert all(reject.reason == "unserializable" for reject in events.rejected)
    assert levels == 33 or events.rejected


@pytest.mark.parametrize("name", ["told", "plugin_ran"])
def test_recursive_model_is_refused(events, name):
    node = Node()
    node.child = {"again": node}
    log_event(name, data=node)
    assert [reject.reason for reject in events.rejected] == ["unserializable"]


@pytest.mark.parametrize("name", ["told", "plugin_ran"])
def test_text_of_an_unknown_object_is_never_asked_for(events, name):
    log_event(name, data={"a": [Silent()]})
    assert [reject.reason for reject in events.rejected] == ["unserializable"]
    assert Silent.asked == 0


@pytest.mark.parametrize("name", ["told", "plugin_ran"])
def test_of_a_huge_text_the_detectors_read_no_more_than_may_be_kept(events, monkeypatch, name):
    read: list[int] = []
    real = detectors.clean
    monkeypatch.setattr(
        redaction, "clean", lambda text, names: read.append(len(text)) or real(text, names)
    )
    log_event(name, text="alice@example.com " * 600_000)
    assert events.records[0].data["text"].startswith("[email] [email]")
    assert len(json.dumps(events.records[0].data)) < 2100
    assert sum(read) < 10_000
    assert events.stats().truncated == 1


def test_many_texts_of_middling_length_are_refused_after_a_few_attempts(monkeypatch):
    """Cutting them one by one would write the whole payload once for each."""
    written: list[int] = []
    monkeypatch.setattr(
        payload, "to_json", lambda value: written.append(type(value) is dict) or to_json(value)
    )
    with pytest.raises(InvalidEvent, match="Record less, or raise max_payload_bytes"):
        fit(to_json({"data": ["x" * 30] * 9_000}), 2048)
    assert sum(written) <= 2


def test_hundred_texts_are_cut_in_as_many_attempts(monkeypatch):
    written: list[int] = []
    data = to_json({"data": ["x" * 500] * 60})
    monkeypatch.setattr(
        payload, "to_json", lambda value: written.append(type(value) is dict) or to_json(value)
    )
    assert len(fit(data, 2048)[0]) <= 2048
    assert sum(written) <= 200
