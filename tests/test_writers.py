"""What is written without pydantic is what pydantic would have written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model, field_serializer, field_validator

from tenantry import Event, Sensitive
from tenantry.redaction import Redaction
from tenantry.results import Results, read_attributes, read_mapping
from tenantry.schemas import compile_dict
from tenantry.taxonomy import EventType
from tenantry.writers import make_extender, make_writer, members_of

LIMIT = 2048


class Everything(Event):
    order_id: str
    role: Literal["user", "assistant"]
    count: int
    weight: float
    is_new: bool
    label: Annotated[str, Field(min_length=2, max_length=5)] = "none"
    size: Annotated[int, Field(gt=0, le=9)] = 3
    share: Annotated[float, Field(ge=0, lt=1)] | None = None
    note: str | None = None
    flag: bool | None = True


class Optional(Event):
    first: int | None = None
    second: str | None = None


class Nothing(Event):
    pass


class Word(StrEnum):
    USER = "user"


class Text(str):
    __slots__ = ()


ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(
        [Word.USER, Text("user"), object(), 10**13, -(10**13), "\ud800", "\0", "\x7f"]
    )
)


def valid_or_odd(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return strategy | strategy | ODD


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "order_id": valid_or_odd(st.text()),
        "role": valid_or_odd(st.sampled_from(["user", "assistant"])),
        "count": valid_or_odd(st.integers()),
        "weight": valid_or_odd(st.floats()),
        "is_new": valid_or_odd(st.booleans()),
        "label": valid_or_odd(st.text(max_size=6)),
        "size": valid_or_odd(st.integers(-1, 10)),
        "share": valid_or_odd(st.floats(-0.5, 1.5)),
        "note": valid_or_odd(st.text()),
        "flag": valid_or_odd(st.booleans()),
        "unknown": ODD,
    },
)


def written(model: type[Event], values: Mapping[str, Any]) -> str | None:
    members = members_of(model)
    assert members is not None
    return make_writer(members)(values)


@settings(deadline=None, max_examples=500)
@given(VALUES)
def test_writer_agrees_with_pydantic_or_leaves_it_to_it(values):
    text = written(Everything, values)
    if text is not None:
        freeze = compile_dict(Everything)
        assert freeze is not None
        try:
            expected = freeze(values)
        except Exception:  # noqa: BLE001  # pydantic cannot write a lone surrogate
            with pytest.raises(UnicodeEncodeError):
                text.encode()
        else:
            assert json.loads(text) == json.loads(expected)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "order_id": st.text(),
            "role": st.sampled_from(["user", "assistant"]),
            "count": st.integers(-(10**13) + 1, 10**13 - 1),
            "weight": st.floats(-1e12, 1e12),
            "is_new": st.booleans(),
        },
        optional={"share": st.none() | st.floats(0, 0.5), "note": st.none() | st.text()},
    )
)
def test_values_of_exactly_the_types_are_left_to_nobody(values):
    assert written(Everything, values) is not None


@pytest.mark.parametrize(
    "values, text",
    [
        ({}, "{}"),
        ({"first": None, "second": None}, "{}"),
        ({"first": 1}, '{"first":1}'),
        ({"second": "é\n"}, '{"second":"é\\n"}'),
        ({"first": -1, "second": ""}, '{"first":-1,"second":""}'),
        ({"first": True}, None),
        ({"second": 1}, None),
    ],
)
def test_event_of_optional_fields_alone(values, text):
    assert written(Optional, values) == text


def test_event_without_fields():
    assert written(Nothing, {"any": 1}) == "{}"


class _Model(BaseModel):
    x: int = 1


@pytest.mark.parametrize(
    "field_type",
    [
        dict[str, str],
        list[int],
        Any,
        Word,
        int | str,
        Literal["a", 1],
        Annotated[str, Field(pattern="a")],
        Annotated[int, Field(multiple_of=2)],
        Annotated[str, Sensitive("mask")],
        Annotated[str, Field(exclude=True)],
        _Model,
        bytes,
    ],
    ids=str,
)
def test_field_that_is_more_than_its_type_is_left_to_pydantic(field_type):
    assert members_of(create_model("Made", __base__=Event, given=(field_type, ...))) is None


def test_default_that_is_made_is_left_to_pydantic():
    made = create_model("Made", __base__=Event, given=(str, Field(default_factory=str)))
    assert members_of(made) is None


@pytest.mark.parametrize("option", [{"str_to_lower": True}, {"str_max_length": 2}])
def test_option_of_a_model_that_changes_values_is_left_to_pydantic(option):
    class Lowered(Event):
        model_config = ConfigDict(**option)
        word: str

    assert members_of(Lowered) is None
    assert json.loads(EventType(Lowered).freeze({"word": "AB"}, LIMIT)[0])["word"] in {"ab", "AB"}


def test_code_of_a_model_s_own_is_left_to_pydantic():
    class Checked(Event):
        word: str

        @field_validator("word")
        @classmethod
        def lower(cls, value: str) -> str:
            return value.lower()

    class Written(Event):
        word: str

        @field_serializer("word")
        def stars(self, value: str) -> str:
            return "*" * len(value)

    for event, stored in ((Checked, "ab"), (Written, "**")):
        assert members_of(event) is None
        assert json.loads(EventType(event).freeze({"word": "AB"}, LIMIT)[0]) == {"word": stored}


def test_names_that_are_no_identifiers_are_no_code():
    name = '"] or exit() or ["'
    made = create_model(
        "Made", __base__=Event, **{name: Annotated[int, Field(serialization_alias="stored")]}
    )
    assert written(made, {name: 1}) == '{"stored":1}'
    members = members_of(made)
    assert members is not None
    assert make_extender(members, "attributes") is None
    extend = make_extender(members, "keys")
    assert extend is not None
    assert extend({name: 2}) == ',"stored":2}'


# What a result adds.


class Began(Event):
    url: str


class Finished(Event):
    url: str
    docs: int
    title: str | None = None
    chunk_count: int = 0


@dataclass
class Report:
    docs: Any
    title: Any = None
    chunk_count: Any = 7


@dataclass(slots=True)
class SlottedReport:
    docs: Any
    title: Any = None


class TupleReport(NamedTuple):
    docs: Any
    title: Any = None
    chunk_count: Any = 1


class ModelReport(BaseModel):
    docs: int = 3
    title: str | None = None


class Bag:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


BEGUN = '{"url":"https://example.com"}'


def results(completed: type[Event] = Finished, **options: Any) -> Results:
    redaction = Redaction(**options)
    return Results(None, str, EventType(Began, redaction), EventType(completed, redaction))


@pytest.mark.parametrize(
    "result, added",
    [
        (Report(3), {"docs": 3, "chunkCount": 7}),
        (Report(3, "é"), None),  # it is not searched as it stands: bytes are what counts
        (Report(3, "t"), {"docs": 3, "chunkCount": 7, "title": "t"}),
        (Report("3"), None),
        (Report(len), None),
        (SlottedReport(3), {"docs": 3, "chunkCount": 0}),
        (TupleReport(3, "t"), {"docs": 3, "chunkCount": 1, "title": "t"}),
        (ModelReport(docs=4), {"docs": 4, "chunkCount": 0}),
        (Bag(docs=3), {"docs": 3, "chunkCount": 0}),
        (Bag(title="t"), None),
        ({"docs": 3, "title": "t"}, None),  # chunk_count may be there in the other spelling
        (Report(3, "mail bob@example.com"), None),
        (Report(4111111111111111), None),
        (None, None),
        ([], None),
    ],
)
def test_what_a_result_adds(result, added):
    text = results().go_on(BEGUN, result, LIMIT)
    expected = None if added is None else {"url": "https://example.com", **added}
    assert (None if text is None else json.loads(text)) == expected


def test_keys_of_a_dictionary_are_added():
    class Plainly(Event):
        url: str
        docs: int

    made = results(Plainly)
    assert made.go_on(BEGUN, {"docs": 3, "url": "other"}, LIMIT) == f'{BEGUN[:-1]},"docs":3}}'
    assert made.go_on(BEGUN, {}, LIMIT) is None


class Colliding:
    def __hash__(self) -> int:
        return hash("docs")

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


def test_key_that_cannot_be_compared_is_left():
    class Plainly(Event):
        url: str
        docs: int

    assert results(Plainly).go_on(BEGUN, {Colliding(): 1}, LIMIT) is None


def test_nothing_to_add_asks_the_result_for_nothing():
    assert results(Began).go_on(BEGUN, 3, LIMIT) == BEGUN


def test_what_is_too_long_together_is_left():
    text = f'{BEGUN[:-1]},"docs":3,"chunkCount":7}}'
    assert results().go_on(BEGUN, Report(3), len(text)) == text
    assert results().go_on(BEGUN, Report(3), len(text) - 1) is None


def test_the_application_s_own_rule_sees_what_is_added():
    assert results(redact=lambda _event, _path, value: value).begins == -1


class Asked:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    @property
    def docs(self) -> int:
        self.times += 1
        return 3


class Guessing:
    def __getattr__(self, name: str) -> object:
        raise AttributeError(name)


@pytest.mark.parametrize(
    "kind", [Asked, Guessing, make_dataclass("D", ["x"], namespace={"docs": len})]
)
def test_attributes_that_run_code_are_left(kind):
    result = kind(1) if kind.__name__ == "D" else kind()
    assert results().go_on(BEGUN, result, LIMIT) is None
    if isinstance(result, Asked):
        assert result.times == 0


class Metaclass(type):
    def __hash__(cls) -> int:
        raise ZeroDivisionError


def test_type_that_cannot_be_looked_up_is_left():
    result = Metaclass("Made", (), {"docs": 1})()
    assert results().go_on(BEGUN, result, LIMIT) is None
    assert results().of(type(result)).read is read_attributes


@pytest.mark.parametrize(
    "started, completed",
    [
        (None, Finished),
        (Began, None),
        (Nothing, Finished),
        (Optional, Optional),  # a start may leave them out
        (Everything, Finished),
        (create_model("Other", __base__=Event, url=(int, ...)), Finished),
        (create_model("Tagged", __base__=Event, url=(str, ...), tags=(list[str], ...)), Finished),
        (
            type("Unsearched", (Began,), {"__module__": __name__}, detect=False),
            Finished,
        ),
    ],
    ids=lambda event: getattr(event, "__name__", "none"),
)
def test_events_that_do_not_begin_alike_are_written_each(started, completed):
    compiled = [None if event is None else EventType(event) for event in (started, completed)]
    assert Results(None, str, *compiled).begins == -1


def test_result_option_reads_all():
    compiled = EventType(Began), EventType(Finished)
    made = Results(lambda result: {"docs": result}, {"docs": "docs"}.get, *compiled)
    assert made.begins == -1
    assert made.of(int).read(compiled[1], 3, {}) == {"docs": 3}
    assert results().of(dict).read is read_mapping


@settings(deadline=None)
@given(
    docs=ODD | st.integers(),
    title=ODD | st.text(),
    extra=st.dictionaries(st.sampled_from(["chunk_count", "chunkCount", "url"]), ODD, max_size=2),
)
def test_what_is_added_is_what_would_be_written_anew(docs, title, extra):
    result = Bag(docs=docs, title=title, **extra)
    text = results().go_on(BEGUN, result, LIMIT)
    if text is not None:
        event = EventType(Finished)
        values = {"url": "https://example.com"}
        values = {**read_attributes(event, result, values), **values}
        assert json.loads(text) == json.loads(event.freeze(values, LIMIT)[0])
