"""Differences of taxonomies: nothing of one and the same, and each change for what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from tenantry import Event, Sensitive, Taxonomy
from tenantry.tracking.difference import BREAKING, VERSIONABLE, Change, ChangeKind, compare
from tenantry.tracking.snapshot import DeclaredEvent, Key, Snapshot, take_snapshot
from tenantry.tracking.types import covers
from tests.tracking.taxonomies import INNER, TAXONOMY, TYPES, snapshots

TEXT = Key(required=True, json_schema={"type": "string"})


def with_event(snapshot: Snapshot, name: str, **changes: Any) -> Snapshot:
    event = snapshot.events[name].model_copy(update=changes)
    return snapshot.model_copy(update={"events": {**snapshot.events, name: event}})


def with_key(snapshot: Snapshot, name: str, key: Key | None) -> Snapshot:
    others = {k: v for k, v in snapshot.events[name].keys.items() if k != "theKey"}
    return with_event(snapshot, name, keys=others | ({} if key is None else {"theKey": key}))


def typed(**schema: Any) -> Key:
    return Key(required=True, json_schema=schema)


def without(snapshot: Snapshot, name: str, retired: Any = None) -> Snapshot:
    rest = {key: value for key, value in snapshot.events.items() if key != name}
    return snapshot.model_copy(update={"events": rest, "retired": retired or snapshot.retired})


# Nothing.


@given(snapshots)
def test_snapshot_does_not_differ_from_itself(snapshot: Snapshot):
    assert compare(snapshot, snapshot) == []


def test_taxonomy_does_not_differ_from_its_own_snapshot():
    taken = take_snapshot(TAXONOMY)
    assert compare(Snapshot.model_validate_json(taken.text()), taken) == []


# A single change of keys and types: two keys, and what the one becoming the other is.

KEY_CHANGES: dict[str, tuple[Key | None, Key | None, ChangeKind]] = {
    "required key added": (None, TEXT, ChangeKind.REQUIRED_KEY_ADDED),
    "optional key added": (
        None,
        TEXT.model_copy(update={"required": False}),
        ChangeKind.OPTIONAL_KEY_ADDED,
    ),
    "key removed": (TEXT, None, ChangeKind.KEY_REMOVED),
    "made required": (
        TEXT.model_copy(update={"required": False}),
        TEXT,
        ChangeKind.KEY_MADE_REQUIRED,
    ),
    "made optional": (
        TEXT,
        TEXT.model_copy(update={"required": False}),
        ChangeKind.KEY_MADE_OPTIONAL,
    ),
    "described": (
        TEXT,
        TEXT.model_copy(update={"description": "New."}),
        ChangeKind.DESCRIPTION_CHANGED,
    ),
    "maximum length shrunk": (
        typed(type="string", maxLength=9),
        typed(type="string", maxLength=8),
        ChangeKind.TYPE_NARROWED,
    ),
    "maximum length grown": (
        typed(type="string", maxLength=8),
        typed(type="string", maxLength=9),
        ChangeKind.TYPE_WIDENED,
    ),
    "minimum length set": (
        typed(type="string"),
        typed(type="string", minLength=1),
        ChangeKind.TYPE_NARROWED,
    ),
    "enum value removed": (typed(enum=["a", "b"]), typed(enum=["a"]), ChangeKind.TYPE_NARROWED),
    "enum value added": (typed(enum=["a"]), typed(enum=["a", "b"]), ChangeKind.TYPE_WIDENED),
    "enum value renamed": (
        typed(enum=["a", "b"]),
        typed(enum=["a", "c"]),
        ChangeKind.TYPE_CHANGED,
    ),
    "enum became text": (typed(enum=["a"]), typed(type="string"), ChangeKind.TYPE_WIDENED),
    "text became an enum": (typed(type="string"), typed(enum=["a"]), ChangeKind.TYPE_NARROWED),
    "integer became number": (
        typed(type="integer"),
        typed(type="number"),
        ChangeKind.TYPE_WIDENED,
    ),
    "number became integer": (
        typed(type="number"),
        typed(type="integer"),
        ChangeKind.TYPE_NARROWED,
    ),
    "text became integer": (typed(type="string"), typed(type="integer"), ChangeKind.TYPE_CHANGED),
    "bound raised": (
        typed(type="integer", minimum=0),
        typed(type="integer", exclusiveMinimum=0),
        ChangeKind.TYPE_NARROWED,
    ),
    "upper bound set": (
        typed(type="number"),
        typed(type="number", maximum=1),
        ChangeKind.TYPE_NARROWED,
    ),
    "pattern changed": (
        typed(type="string", pattern="a"),
        typed(type="string", pattern="b"),
        ChangeKind.TYPE_CHANGED,
    ),
    "None allowed": (
        typed(type="string"),
        typed(anyOf=[{"type": "string"}, {"type": "null"}]),
        ChangeKind.TYPE_WIDENED,
    ),
    "alternative removed": (
        typed(anyOf=[{"type": "string"}, {"type": "integer"}]),
        typed(type="integer"),
        ChangeKind.TYPE_NARROWED,
    ),
    "items narrowed": (
        typed(type="array", items={"type": "number"}),
        typed(type="array", items={"type": "integer"}),
        ChangeKind.TYPE_NARROWED,
    ),
    "pair became a list": (
        typed(
            type="array",
            prefixItems=[{"type": "string"}, {"type": "string"}],
            minItems=2,
            maxItems=2,
        ),
        typed(type="array", items={"type": "string"}),
        ChangeKind.TYPE_WIDENED,
    ),
    "inner key removed": (
        typed(type="object", properties={"a": {}, "b": {}}),
        typed(type="object", properties={"a": {}}),
        ChangeKind.TYPE_NARROWED,
    ),
    "inner key required": (
        typed(type="object", properties={"a": {}}),
        typed(type="object", properties={"a": {}}, required=["a"]),
        ChangeKind.TYPE_NARROWED,
    ),
    "any value allowed": (typed(type="string"), typed(), ChangeKind.TYPE_WIDENED),
    "marked sensitive": (
        typed(type="string"),
        typed(**{"type": "string", "x-sensitive": "hash"}),
        ChangeKind.SENSITIVITY_CHANGED,
    ),
    "marked otherwise, within": (
        typed(type="array", items={"type": "string", "x-sensitive": "mask"}),
        typed(type="array", items={"type": "string", "x-sensitive": "drop"}),
        ChangeKind.SENSITIVITY_CHANGED,
    ),
    "default changed": (
        typed(type="integer", default=1),
        typed(type="integer", default=2),
        ChangeKind.DEFAULT_CHANGED,
    ),
}


@pytest.mark.parametrize("case", KEY_CHANGES)
@settings(max_examples=5)  # of each row of the table
@given(snapshot=snapshots, data=st.data())
def test_single_change_of_a_key_is_what_the_table_says(
    case: str, snapshot: Snapshot, data: st.DataObject
):
    before, after, kind = KEY_CHANGES[case]
    name = data.draw(st.sampled_from(sorted(snapshot.events)))
    old, new = with_key(snapshot, name, before), with_key(snapshot, name, after)
    [change] = compare(old, new)
    assert (change.kind, change.event, change.key) == (kind, name, "theKey")
    assert change.verdict == ("breaking" if kind in BREAKING else "compatible")
    raised = with_event(new, name, version=new.events[name].version + 1)
    verdicts = {each.kind: each.verdict for each in compare(old, raised)}
    assert verdicts == {
        ChangeKind.VERSION_RAISED: "compatible",
        kind: "versioned" if kind in VERSIONABLE else change.verdict,
    }


# A single change of an event or of the whole.


def lower(snapshot: Snapshot, name: str) -> Snapshot:
    return with_event(snapshot, name, version=snapshot.events[name].version - 1)


WHOLE_CHANGES: dict[str, tuple[Callable[[Snapshot, str], Snapshot], ChangeKind]] = {
    "added": (
        lambda s, name: s.model_copy(update={"events": {**s.events, "brand_new": s.events[name]}}),
        ChangeKind.EVENT_ADDED,
    ),
    "retired": (
        lambda s, name: without(s, name, {**s.retired, name: s.events[name]}),
        ChangeKind.EVENT_RETIRED,
    ),
    "version raised": (
        lambda s, name: with_event(s, name, version=s.events[name].version + 1),
        ChangeKind.VERSION_RAISED,
    ),
    "version lowered": (lower, ChangeKind.VERSION_LOWERED),
    "described": (
        lambda s, name: with_event(s, name, description="Otherwise."),
        ChangeKind.DESCRIPTION_CHANGED,
    ),
    "owner": (lambda s, name: with_event(s, name, owner="sales"), ChangeKind.OWNER_CHANGED),
    "detection": (
        lambda s, name: with_event(s, name, detect=not s.events[name].detect),
        ChangeKind.DETECTION_CHANGED,
    ),
    "pattern added": (
        lambda s, _: s.model_copy(update={"open_taxonomy": (*s.open_taxonomy, "new_*")}),
        ChangeKind.PATTERN_ADDED,
    ),
}


@pytest.mark.parametrize("case", WHOLE_CHANGES)
@settings(max_examples=5)  # of each row of the table
@given(snapshot=snapshots, data=st.data())
def test_single_change_of_an_event_is_what_the_table_says(
    case: str, snapshot: Snapshot, data: st.DataObject
):
    change_it, kind = WHOLE_CHANGES[case]
    name = data.draw(st.sampled_from(sorted(snapshot.events)))
    [change] = compare(snapshot, change_it(snapshot, name))
    assert change.kind == kind
    assert change.verdict == ("breaking" if kind in BREAKING else "compatible")


def only(changes: list[Change]) -> tuple[str, str]:
    [change] = changes
    return str(change.kind), change.verdict


def declared(**changes: Any) -> DeclaredEvent:
    return DeclaredEvent(version=1, keys={"a": TEXT}, **changes)


def test_removed_fact_breaks():
    old = Snapshot(events={"mail_sent": declared()})
    assert only(compare(old, Snapshot(events={}))) == ("event_removed", "breaking")


def test_removed_phase_of_an_operation_breaks():
    old = Snapshot(events={"import_started": declared(), "import_failed": declared()})
    new = Snapshot(events={"import_failed": declared()})
    [change] = compare(old, new)
    assert (change.kind, change.verdict) == ("phase_removed", "breaking")
    assert change.message == "the operation 'import' no longer records when it starts"


def test_removed_operation_is_removed_events():
    old = Snapshot(events={"import_started": declared(), "import_failed": declared()})
    kinds = [change.kind for change in compare(old, Snapshot(events={}))]
    assert kinds == ["event_removed", "event_removed"]


def test_name_that_comes_back_with_another_shape_breaks_unless_the_version_is_higher():
    old = Snapshot(events={}, retired={"mail_sent": declared()})
    other = DeclaredEvent(version=1, keys={"b": TEXT})
    again = Snapshot(events={"mail_sent": other})
    [change] = compare(old, again)
    assert (change.kind, change.verdict) == ("name_reused", "breaking")
    assert "at version 1 (a: the key was removed; b: the required key was added)" in change.message
    raised = Snapshot(events={"mail_sent": other.model_copy(update={"version": 2})})
    assert only(compare(old, raised)) == ("name_reused", "versioned")


def test_name_that_comes_back_as_it_was_is_an_added_event():
    old = Snapshot(events={}, retired={"mail_sent": declared()})
    new = Snapshot(events={"mail_sent": declared()})
    assert only(compare(old, new)) == ("event_added", "compatible")


def test_pattern_that_is_gone_breaks():
    old, new = Snapshot(events={}, open_taxonomy=("a_*",)), Snapshot(events={})
    assert only(compare(old, new)) == ("pattern_removed", "breaking")


def test_messages_say_both_types_in_words():
    old = Snapshot(events={"e": DeclaredEvent(version=1, keys={"a": typed(enum=["x", "y"])})})
    new = Snapshot(events={"e": DeclaredEvent(version=1, keys={"a": typed(enum=["x"])})})
    [change] = compare(old, new)
    assert change.message == 'the type went from "x" or "y" to "x"'


# Types.


@given(st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_type_covers_itself_and_every_union_with_itself(one: dict, other: dict):
    definitions = {"Inner": INNER}
    assert covers(one, definitions, one, definitions)
    assert covers({"anyOf": [other, one]}, definitions, one, definitions)


def test_types_within_types_are_compared_though_they_recur():
    wider = {**INNER, "properties": {**INNER["properties"], "x": {"type": "number"}}}
    schema = {"$ref": "#/$defs/Inner"}
    assert covers(schema, {"Inner": wider}, schema, {"Inner": INNER})
    assert not covers(schema, {"Inner": INNER}, schema, {"Inner": wider})


class Part(BaseModel):
    size: int


class LargerPart(BaseModel):
    size: int
    weight: float


ANNOTATIONS: dict[str, tuple[Any, Any, str]] = {
    "literal": (Literal["a", "b"], Literal["a"], "type_narrowed"),
    "length": (
        Annotated[str, Field(max_length=5)],
        Annotated[str, Field(max_length=6)],
        "type_widened",
    ),
    "optional": (int, int | None, "type_widened"),
    "model": (Part, LargerPart, "type_changed"),
    "set": (list[int], set[int], "type_narrowed"),
    "marked": (str, Annotated[str, Sensitive("mask")], "sensitivity_changed"),
    "marks within": (
        dict[str, str],
        dict[str, Annotated[str, Sensitive("drop")]],
        "sensitivity_changed",
    ),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_change_of_a_declared_annotation(case: str):
    before, after, kind = ANNOTATIONS[case]
    old, new = (
        take_snapshot(Taxonomy([create_model("Thing", __base__=Event, value=(each, ...))]))
        for each in (before, after)
    )
    assert only(compare(old, new))[0] == kind
