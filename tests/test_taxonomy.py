"""Declaring events: names, keys, and what becomes of values on either way to JSON."""

from __future__ import annotations

import json
import types
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    HttpUrl,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tenantry.exceptions import InvalidEvent, TaxonomyError, UnknownEvent
from tenantry.registry import Taxonomy, load_taxonomy
from tenantry.schemas import compile_dict
from tenantry.taxonomy import Event, EventType

LIMIT = 2048


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Address(BaseModel):
    street: str
    floor: int | None = None


class Order(Event):
    order_id: str
    lines: list[str] = Field(default_factory=list)
    size: Size = Size.SMALL
    channel: Literal["web", "phone"] = "web"
    price: Decimal | None = None
    weight: float | None = Field(None, ge=0)
    address: Address | None = None
    anything: Any = None
    own_name: str | None = Field(None, alias="ownSpelling")


def frozen(event: type[Event], **values: Any) -> dict[str, Any]:
    return json.loads(EventType(event).freeze(values, LIMIT)[0])


def frozen_both_ways(event: type[Event], values: dict[str, Any]) -> list[object]:
    """Freeze by the fast dictionary way, by the model, and by the careful way."""
    compiled = EventType(event)
    fast = compile_dict(event)
    assert fast is not None
    outcomes: list[object] = []
    for freeze in (fast, compiled._freeze_model, compiled._freeze_carefully):
        try:
            outcomes.append(json.loads(freeze(values)))
        except Exception:  # noqa: BLE001  # that it refuses is the outcome
            outcomes.append(None)
    return outcomes


# Names and declarations.


def test_event_is_named_after_its_class():
    assert Order.event_name == "order"
    assert types.new_class("InvoiceSent", (Event,)).event_name == "invoice_sent"


def test_event_is_named_by_the_name_option():
    class Anything(Event, name="billing.invoice_sent", version=3):
        pass

    assert (Anything.event_name, Anything.event_version) == ("billing.invoice_sent", 3)


@pytest.mark.parametrize(
    "name", ["", "Upper", "a__b", "_a", "a_", "1a", "a b", "a-b", "é", "a" * 101, 'a"b', "a\n"]
)
def test_malformed_name_is_refused(name):
    with pytest.raises(TaxonomyError, match="is not an event: names are lower-case words"):
        types.new_class("Anything", (Event,), {"name": name})


@pytest.mark.parametrize("version", [0, -1, 2**15, "2", 1.5, True])
def test_version_outside_smallint_is_refused(version):
    with pytest.raises(TaxonomyError, match="is not between 1 and 32767"):
        types.new_class("Anything", (Event,), {"version": version})


def test_two_fields_stored_alike_are_refused():
    with pytest.raises(TaxonomyError, match="would both be stored as 'orderId'"):

        class Twice(Event):
            order_id: str
            orderId: str  # noqa: N815


def test_field_stored_under_the_name_of_another_is_refused():
    with pytest.raises(TaxonomyError, match="'link' would be stored as 'url', which is the name"):

        class Crossed(Event):
            link: str = Field(alias="url")
            url: str = Field(alias="address")


def test_key_that_is_no_word_is_refused():
    with pytest.raises(TaxonomyError, match="is not a key: keys are letters, digits"):

        class Odd(Event):
            order_id: str = Field(alias='order"id')


def test_event_that_names_an_unknown_type_is_refused_by_the_taxonomy():
    class Incomplete(Event):
        what: "NotDeclaredAnywhere"  # noqa: F821, UP037

    with pytest.raises(TaxonomyError, match="is not completely declared"):
        Taxonomy([Incomplete])


def test_instances_are_frozen():
    order = Order(order_id="1")
    with pytest.raises(ValueError, match="frozen"):
        order.order_id = "2"


# The registry.


def test_two_events_of_one_name_are_refused():
    class Order(Event):  # another one
        pass

    with pytest.raises(TaxonomyError, match="two events are named 'order'"):
        Taxonomy([globals()["Order"], Order])


def test_the_same_event_twice_is_one_event():
    assert len(Taxonomy([Order, Order])) == 1


@pytest.mark.parametrize("what", [Event, int, "order", None])
def test_what_is_no_event_is_refused(what):
    with pytest.raises(TaxonomyError, match=r"is not a subclass of tenantry.Event"):
        Taxonomy([what])


def test_unknown_event_is_told_with_the_declared_ones():
    with pytest.raises(UnknownEvent, match=r"no event 'ordr' is declared; declared are: order\."):
        Taxonomy([Order]).get("ordr")


def test_module_gives_its_events():
    module = types.ModuleType("made_up")
    module.Order = Order
    module.Event = Event
    assert [event.name for event in load_taxonomy(module)] == ["order"]


def test_module_without_events_is_refused():
    with pytest.raises(TaxonomyError, match="declares no subclass of Event"):
        load_taxonomy(types.ModuleType("empty"))


def test_taxonomy_is_found_by_module_and_attribute():
    assert "quota_exceeded" in load_taxonomy("tenantry.taxonomies.saas")
    assert "quota_exceeded" in load_taxonomy("tenantry.taxonomies:saas")


@pytest.mark.parametrize(
    "name, problem",
    [
        ("no.such.module", "cannot be imported"),
        ("", "cannot be imported"),
        (".relative", "cannot be imported"),
        ("tenantry.taxonomies.saas:Nothing", "has no attribute 'Nothing'"),
        ("tenantry.taxonomies.saas:QuotaExceeded", "is no taxonomy"),
        ("tenantry:__version__", "is no taxonomy"),
    ],
)
def test_taxonomy_that_is_not_there_is_told(name, problem):
    with pytest.raises(TaxonomyError, match=problem):
        load_taxonomy(name)


def test_open_pattern_allows_undeclared_names_only_where_it_matches():
    taxonomy = Taxonomy([Order], open_patterns=["plugin_*"])
    assert "plugin_loaded" in taxonomy
    assert "other_loaded" not in taxonomy
    assert "plugin_Loaded" not in taxonomy
    assert "plugin_" + "x" * 100 not in taxonomy


def test_one_open_pattern_given_as_text_is_one_pattern():
    for taxonomy in (Taxonomy(open_patterns="plugin_*"), load_taxonomy(None, "plugin_*")):
        assert "plugin_loaded" in taxonomy
        assert "anything_else" not in taxonomy


def test_open_patterns_are_added_to_those_of_a_taxonomy():
    taxonomy = load_taxonomy(Taxonomy([Order], open_patterns=["a_*"]), ["b_*"])
    assert taxonomy.open_patterns == ("a_*", "b_*")
    assert "order" in taxonomy


def test_open_event_keeps_keys_as_given():
    opened = Taxonomy(open_patterns=["plugin_*"]).get("plugin_loaded")
    data, _ = opened.freeze({"snake_key": 1, "camelKey": 2, "none": None}, LIMIT)
    assert json.loads(data) == {"snake_key": 1, "camelKey": 2}


def test_operation_finds_succeeded_where_completed_is_not_declared():
    taxonomy = load_taxonomy("tenantry.taxonomies.saas")
    found = taxonomy.phase("integration", ("completed", "succeeded"))
    assert found is not None
    assert found.name == "integration_succeeded"


def test_taxonomies_of_the_same_events_are_equal():
    assert Taxonomy([Order]) == Taxonomy([Order])
    assert Taxonomy([Order]) != Taxonomy([Order], open_patterns=["x_*"])


# Values.


def test_keys_are_stored_in_camel_case_and_none_is_left_out():
    assert frozen(Order, order_id="1", price=None) == {
        "orderId": "1",
        "lines": [],
        "size": "small",
        "channel": "web",
    }


def test_alias_is_the_stored_key():
    assert frozen(Order, order_id="1", own_name="x")["ownSpelling"] == "x"


@pytest.mark.parametrize(
    "given, stored",
    [
        pytest.param(7, "7", id="number"),
        pytest.param(UUID(int=5), str(UUID(int=5)), id="uuid"),
        pytest.param(Size.LARGE, "large", id="enum"),
        pytest.param("a\0b\ud800", "a\ufffdb\ufffd", id="unsafe text"),
    ],
)
def test_text_key_takes_what_has_an_obvious_text(given, stored):
    assert frozen(Order, order_id=given)["orderId"] == stored


def test_detail_names_keys_and_never_values():
    class Secret(Event):
        code: int
        word: str

        @field_validator("word")
        @classmethod
        def refuse(cls, value: str) -> str:
            raise ValueError(f"{value} is bad")

    with pytest.raises(InvalidEvent) as caught:
        EventType(Secret).freeze({"code": "hunter2", "word": "hunter2"}, LIMIT)
    assert "code: Input should be a valid integer" in caught.value.detail
    assert "word: a validator raised ValueError" in caught.value.detail
    assert "hunter2" not in str(caught.value) + caught.value.detail


def test_validator_that_raises_anything_refuses_the_event():
    class Odd(Event):
        code: int

        @field_validator("code")
        @classmethod
        def divide(cls, value: int) -> int:
            return 1 // value

    with pytest.raises(InvalidEvent, match="odd: a validator raised ZeroDivisionError"):
        EventType(Odd).freeze({"code": 0}, LIMIT)


def test_defaults_made_from_other_values_are_kept_on_the_fast_way():
    class Made(Event):
        first: str
        second: str = Field(default_factory=lambda data: data["first"] + "!")

    assert frozen_both_ways(Made, {"first": "a"}) == [{"first": "a", "second": "a!"}] * 3


def test_field_serializer_masks_on_every_way():
    class Paid(Event):
        card: str
        note: str = ""

        @field_serializer("card")
        def mask(self, card: str) -> str:
            return "****" + card[-4:]

    assert frozen(Paid, card="4111111111111111") == {"card": "****1111", "note": ""}
    assert frozen(Paid, card="4111111111111111", note="\ud800")["card"] == "****1111"
    assert frozen(Paid, card="4111111111111111", note="\0")["card"] == "****1111"


def test_excluded_field_is_stored_on_no_way():
    class Signed(Event):
        password: str = Field(exclude=True)
        empty: str = Field("", exclude_if=lambda value: value == "")
        note: str = ""

    for note in ("plain", "\ud800", "\0"):
        assert list(frozen(Signed, password="p", note=note)) == ["note"]


def test_value_whose_own_serializer_fails_is_refused():
    class Unwritable(Event):
        what: Any

        @field_serializer("what")
        def write(self, what: Any) -> Any:
            raise RuntimeError(what)

    with pytest.raises(InvalidEvent, match="a value has no JSON form") as caught:
        frozen(Unwritable, what="secret")
    assert caught.value.reason == "unserializable"
    assert "secret" not in str(caught.value)


def test_model_with_more_than_fields_goes_the_models_way():
    class Whole(Event):
        first: int
        last: int

        @model_validator(mode="after")
        def check(self):
            if self.last < self.first:
                raise ValueError
            return self

        @computed_field
        @property
        def length(self) -> int:
            return self.last - self.first

    class Written(Event):
        first: int

        @model_serializer
        def write(self) -> dict[str, Any]:
            return {"only": self.first}

    class Before(Event):
        first: int

        @model_validator(mode="before")
        @classmethod
        def double(cls, values: Any) -> Any:
            return {**values, "first": values["first"] * 2}

    class Initialised(Event):
        first: int

        def __init__(self, **data: Any) -> None:
            super().__init__(**{**data, "first": 9})

    for model in (Whole, Written, Before, Initialised):
        assert compile_dict(model) is None
    assert frozen(Whole, first=1, last=3) == {"first": 1, "last": 3, "length": 2}
    with pytest.raises(InvalidEvent, match="a validator raised ValueError"):
        frozen(Whole, first=3, last=1)
    assert frozen(Written, first=1) == {"only": 1}
    assert frozen(Before, first=2) == {"first": 4}
    assert frozen(Initialised, first=1) == {"first": 9}


VALUES = st.fixed_dictionaries(
    {"order_id": st.one_of(st.text(), st.integers(), st.none(), st.booleans(), st.uuids())},
    optional={
        "lines": st.one_of(st.lists(st.text(max_size=5), max_size=3), st.text()),
        "size": st.one_of(st.sampled_from(Size), st.sampled_from(["small", "huge"])),
        "channel": st.sampled_from(["web", "phone", "fax", None]),
        "price": st.one_of(st.decimals(), st.floats(), st.text(max_size=3), st.none()),
        "weight": st.one_of(st.floats(), st.integers(), st.none()),
        "address": st.one_of(
            st.none(),
            st.builds(Address, street=st.text()),
            st.fixed_dictionaries({"street": st.text()}, optional={"floor": st.integers()}),
        ),
        "anything": st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        "own_name": st.one_of(st.none(), st.text()),
        "undeclared": st.integers(),
    },
)


@settings(deadline=None)
@given(VALUES)
def test_fast_way_and_models_way_store_the_same(values):
    fast, model, _ = frozen_both_ways(Order, values)
    assert fast == model


@settings(deadline=None)
@given(VALUES)
def test_what_a_fast_way_stores_the_careful_way_stores_alike(values):
    fast, _, careful = frozen_both_ways(Order, values)
    if fast is not None and careful is not None:
        assert careful == json.loads(json.dumps(fast).replace("\\u0000", "\\ufffd"))


@settings(deadline=None)
@given(VALUES)
def test_whatever_is_given_an_event_is_stored_safely_or_refused(values):
    try:
        data, _ = EventType(Order).freeze(values, LIMIT)
    except InvalidEvent:
        return
    assert len(data) <= LIMIT
    assert "\0" not in json.dumps(json.loads(data), ensure_ascii=False)


# Instances.


def test_instance_is_written_as_its_class_validated_it():
    class Hashed(Event):
        word: str

        @field_validator("word")
        @classmethod
        def double(cls, value: str) -> str:
            return value * 2

    data, _ = EventType(Hashed).freeze_instance(Hashed(word="ab"), LIMIT)
    assert json.loads(data) == {"word": "abab"}


def test_instance_made_without_validation_is_validated():
    made = EventType(Order)
    with pytest.raises(InvalidEvent, match=r"orderId: Field required|order_id: Field required"):
        made.freeze_instance(Order.model_construct(), LIMIT)
    with pytest.raises(InvalidEvent, match="lines: Input should be a valid list"):
        made.freeze_instance(Order.model_construct(order_id="1", lines=3), LIMIT)
    assert json.loads(made.freeze_instance(Order(order_id="a\0"), LIMIT)[0])["orderId"] == "a\ufffd"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


def quote(value: Any) -> Any:
    raise PydanticCustomError("card_number", "{value} is no card", {"value": value})


def imitate(value: Any) -> Any:
    raise PydanticCustomError("int_type", "{value} is no number", {"value": value})


class Quoting(Event):
    card: Annotated[str | None, AfterValidator(quote)] = None
    imitated: Annotated[str | None, AfterValidator(imitate)] = None
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    counts: dict[str, int] | None = None
    id: UUID | None = None
    url: HttpUrl | None = None
    when: datetime | None = None
    choice: Literal["web"] = "web"


@pytest.mark.parametrize(
    "values, detail",
    [
        ({"card": "hunter2"}, "card: refused (card_number)"),
        ({"imitated": "hunter2"}, "imitated: refused (int_type)"),
        ({"pet": {"kind": "hunter2"}}, "pet: refused (union_tag_invalid)"),
        (
            {"counts": {"hunter2": "x", "hunter2b": "y"}},
            "counts: Input should be a valid integer, unable to parse string as an integer",
        ),
        ({"id": "hunter2"}, "id: refused (uuid_parsing)"),
        ({"url": "hunter2"}, "url: refused (url_parsing)"),
        ({"when": "hunter2"}, "when: Input should be a valid datetime or date, input is too short"),
        ({"choice": "hunter2"}, "choice: Input should be 'web'"),
    ],
    ids=["custom", "imitated", "union tag", "key", "uuid", "url", "datetime", "literal"],
)
def test_detail_quotes_the_declaration_at_most(values, detail):
    with pytest.raises(InvalidEvent) as caught:
        EventType(Quoting).freeze(values, LIMIT)
    assert caught.value.detail == detail
    assert "hunter2" not in str(caught.value)


def test_bytes_in_a_field_of_any_type_are_stored_as_text():
    assert frozen(Order, order_id="1", anything=b"a\xc3\xa9")["anything"] == "aé"
