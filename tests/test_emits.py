"""``@emits`` on functions: what stays as it was, and which events are recorded."""

from __future__ import annotations

import asyncio
import copy
import enum
import functools
import inspect
import itertools
import math
import pickle
import subprocess
import sys
import threading
from collections import namedtuple
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field, SecretStr, field_serializer

from tenantry import (
    PLATFORM,
    Event,
    Pipeline,
    alog_event,
    current_operation,
    current_scope,
    emits,
    log_event,
    tenant,
)
from tenantry.exceptions import (
    ConfigurationError,
    InvalidEvent,
    InvalidTenant,
    TaxonomyError,
    TenantNotSet,
    UnknownOperation,
    UnsupportedCallable,
)
from tenantry.exporters import Outcome
from tenantry.exporters.console import ConsoleExporter
from tenantry.exporters.memory import MemoryExporter
from tenantry.record import Kind
from tenantry.testing import FrozenClock, SequentialIds
from tests.capturing import CapturingPipeline, capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"
OTHER = "018f6f0e-0000-7000-8000-00000000000b"


class WorkStarted(Event):
    item: str | None = None


class WorkCompleted(Event):
    item: str | None = None
    size: int | None = None
    page_count: int | None = None


class WorkFailed(Event):
    item: str | None = None
    error_code: str


class StrictlyStarted(Event):
    item: str


class StrictlyCompleted(Event):
    item: str
    size: int


class OnlyFailed(Event):
    error_code: str


class OnlyCompleted(Event):
    size: int | None = None


TAXONOMY = [
    WorkStarted,
    WorkCompleted,
    WorkFailed,
    StrictlyStarted,
    StrictlyCompleted,
    type("OnlyafailureFailed", (OnlyFailed,), {"__module__": __name__}),
    type("OnlyanendCompleted", (OnlyCompleted,), {"__module__": __name__}),
]


@pytest.fixture
def events():
    with capture_events(TAXONOMY, strict=False) as pipeline, tenant(ACME, actor="user:1"):
        yield pipeline


@pytest.fixture
def strict_events():
    with capture_events(TAXONOMY) as pipeline, tenant(ACME):
        yield pipeline


def told(events):
    """Tell the rows as (name, data)."""
    return [(record.name, record.data) for record in events.records]


def end_of(events):
    return events.records[-1]


# The decorated function stays itself.


@emits("work")
def documented(item: str, /, size: int = 3, *, flag: bool = False) -> str:
    """Do it."""
    return f"{item} {size} {flag}"


class Desk:
    """Methods of every kind, decorated in both orders."""

    def __init__(self, name: str = "desk") -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Desk) and other.name == self.name

    __hash__ = None

    @emits("work")
    def method(self, item: str) -> tuple:
        return self, item

    @emits("work")
    @staticmethod
    def static_below(item: str) -> str:
        return item

    @staticmethod
    @emits("work")
    def static_above(item: str) -> str:
        return item

    @emits("work")
    @classmethod
    def class_below(cls, item: str) -> tuple:
        return cls, item

    @classmethod
    @emits("work")
    def class_above(cls, item: str) -> tuple:
        return cls, item

    @property
    @emits("work")
    def value(self) -> str:
        return self.name


def test_signature_name_and_doc_are_kept():
    plain = inspect.unwrap(documented)
    assert documented.__wrapped__ is plain
    assert inspect.signature(documented) == inspect.signature(plain)
    assert (documented.__name__, documented.__doc__) == ("documented", "Do it.")
    assert documented.__module__ == __name__
    assert inspect.isfunction(documented)
    assert not inspect.iscoroutinefunction(documented)


def test_result_is_the_very_object(events):
    result = object()
    assert emits("work")(lambda: result)() is result


def test_exception_is_the_very_object_and_one_frame_longer(events):
    error = LookupError("mine")
    cause = ValueError("earlier")

    def fail():
        raise error from cause

    with pytest.raises(LookupError) as caught:
        emits("work")(fail)()
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None
    files = []
    traceback = error.__traceback__
    while traceback is not None:
        files.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    assert files[0] == files[-1] == __file__
    assert len(files) == 3


def test_decorated_function_pickles_and_copies_by_name():
    assert pickle.loads(pickle.dumps(documented)) is documented
    assert copy.copy(documented) is copy.deepcopy(documented) is documented


@pytest.mark.parametrize(
    "name", ["method", "static_below", "static_above", "class_below", "class_above"]
)
def test_methods_pickle_and_copy_as_undecorated_ones_do(name, events):
    desk = Desk("mine")
    for method in (getattr(desk, name), copy.copy(getattr(desk, name))):
        again = pickle.loads(pickle.dumps(method))
        assert again("i") == method("i")
    assert copy.deepcopy(getattr(desk, name))("i") == getattr(desk, name)("i")


def test_deep_copied_method_belongs_to_the_copied_object(events):
    desk = Desk("mine")
    found, _ = copy.deepcopy(desk.method)("i")
    assert found == desk
    assert found is not desk


@pytest.mark.parametrize(
    "name", ["method", "static_below", "static_above", "class_below", "class_above"]
)
def test_methods_of_every_kind_record_their_arguments(events, name):
    desk = Desk()
    result = getattr(desk, name)("first")
    assert (result if isinstance(result, str) else result[1]) == "first"
    getattr(desk, name)(item="second")
    if name == "method":
        Desk.method(desk, "third")
    else:
        getattr(Desk, name)("third")
    starts = [record.data for record in events.records if record.phase == "started"]
    assert starts == [{"item": "first"}, {"item": "second"}, {"item": "third"}]


def test_property_below_records(events):
    assert Desk("mine").value == "mine"
    assert events.names == ["work_started", "work_completed"]


class Callable:
    def __call__(self, item):
        return item


def wrapped_twice():
    def inner(item):
        return item

    @functools.wraps(inner)
    def outer(*args, **kwargs):
        return inner(*args, **kwargs)

    return functools.wraps(outer)(lambda *a, **k: outer(*a, **k))  # noqa: PLW0108


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda item: item, id="lambda"),
        pytest.param(Callable(), id="callable object"),
        pytest.param(functools.partial(lambda flag, item: item, True), id="partial"),
        pytest.param(wrapped_twice(), id="functools.wraps stack"),
        pytest.param(functools.lru_cache(lambda item: item), id="lru_cache"),
        pytest.param(Desk().static_below, id="bound, and decorated before"),
        pytest.param(emits("work")(lambda item: item), id="decorated twice"),
    ],
)
def test_callables_of_every_kind_record_their_arguments(events, function):
    assert emits("work")(function)("first") == "first"
    assert events.records[0].data == {"item": "first"}
    assert end_of(events).name == "work_completed"


@pytest.mark.parametrize(
    "function, arguments, result",
    [(len, ("abc",), 3), (math.hypot, (3, 4), 5.0), (max, (1, 2), 2), ("abc".upper, (), "ABC")],
    ids=["len", "hypot", "max", "method"],
)
def test_builtins_are_called_as_ever(events, function, arguments, result):
    assert emits("work")(function)(*arguments) == result
    assert events.names == ["work_started", "work_completed"]


@pytest.mark.parametrize(
    "target, text",
    [
        pytest.param(Desk, "a class; decorate its methods", id="class"),
        pytest.param(property(len), "a property; put @emits below @property", id="property"),
        pytest.param(3, "a int, which cannot be called; decorate a function", id="number"),
    ],
)
def test_what_cannot_be_recorded_rightly_is_refused(target, text):
    with pytest.raises(UnsupportedCallable, match=f"emits\\(\\) cannot decorate .*it is {text}"):
        emits("work")(target)


def test_bare_decorator_is_a_clear_type_error():
    with pytest.raises(TypeError, match=r'write @emits\("ingest"\) above the function, with the'):

        @emits
        def function():
            pass


def test_malformed_operation_name_is_refused():
    with pytest.raises(TaxonomyError, match="'Work!' is not an operation"):
        emits("Work!")


@pytest.mark.parametrize("key", ["correlation", "occurred_at", "idempotency_key"])
def test_data_key_that_is_an_option_goes_through_fields(key):
    with pytest.raises(ConfigurationError, match=f"goes through fields={{'{key}': …}}"):
        emits("work", **{key: 1})


@pytest.mark.parametrize("errors", [{"no type": "x"}, {int: "x"}, {ValueError: 1}])
def test_errors_that_map_no_exception_types_to_codes_are_refused(errors):
    with pytest.raises(ConfigurationError, match="errors= maps exception types to codes"):
        emits("work", errors=errors)


@pytest.mark.parametrize("fields", [["size"], "size", 5, [("size", 1)]])
def test_fields_that_are_no_mapping_are_refused(fields):
    kind = type(fields).__name__
    text = f"fields= takes a mapping, as in .*; the given {kind} is none"
    with pytest.raises(ConfigurationError, match=text):
        emits("work", fields=fields)


def test_errors_that_are_no_mapping_are_refused():
    text = "errors= takes a mapping, as in {TimeoutError: 'timeout'}; the given list is none"
    with pytest.raises(ConfigurationError, match=text):
        emits("work", errors=[(ValueError, "bad")])


@pytest.mark.parametrize("on_close", ["failed", None, []])
def test_unknown_on_close_is_refused(on_close):
    text = "is unknown; it says what it means that a generator's consumer stopped early"
    with pytest.raises(ConfigurationError, match=text):
        emits("work", on_close=on_close)


# Phases.


def test_start_and_end_are_one_operation(events):
    documented("a")
    start, end = events.records
    assert (start.phase, end.phase) == ("started", "completed")
    assert start.operation_id == end.operation_id == start.id != end.id
    assert start.parent_operation_id is end.parent_operation_id is None
    assert start.duration_ms is None
    assert end.duration_ms >= 0
    assert {r.tenant_id for r in events.records} == {ACME}
    assert {r.actor_id for r in events.records} == {"user:1"}


def test_phase_that_is_not_declared_is_not_emitted(events):
    emits("onlyanend")(lambda: None)()
    emits("onlyafailure")(lambda: None)()
    with pytest.raises(LookupError):
        emits("onlyanend")({}.popitem)()
    with pytest.raises(LookupError):
        emits("onlyafailure")({}.popitem)()
    assert told(events) == [
        ("onlyanend_completed", {}),
        ("onlyafailure_failed", {"errorCode": "KeyError"}),
    ]


def test_succeeded_is_the_end_where_completed_is_not_declared():
    with capture_events("tenantry.taxonomies.saas") as events, tenant(ACME):
        emits("integration", type="crm")(lambda integration_id: None)("i")
        assert told(events) == [("integration_succeeded", {"integrationId": "i", "type": "crm"})]
        assert end_of(events).phase == "completed"


def test_operation_without_any_event_warns_once_and_runs(events, caplog):
    function = emits("nothing")(lambda: 5)
    assert function() == function() == 5
    assert [r.message for r in caplog.records if "'nothing' has no event" in r.message] != []
    assert len(caplog.records) == 1
    assert events.stats().emitted == 0


def test_operation_without_any_event_raises_in_strict_mode_before_the_body(strict_events):
    ran = []
    with pytest.raises(UnknownOperation, match="none of nothing_started, nothing_completed"):
        emits("nothing")(ran.append)(1)
    assert ran == []


def test_before_configure_it_only_calls_the_function():
    code = (
        "from tenantry import emits, log_event\n"
        "print(emits('work')(len)('abc'), log_event('x'))\n"
        "with emits('work') as operation: operation.set(a=1); operation.fail('x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "3 None\n"
    assert done.stderr.count("was emitted before tenantry.configure()") == 1


def test_open_operation_takes_keys_as_given():
    with capture_events(open_taxonomy=["plugin_*"]) as events, tenant(ACME):
        with pytest.raises(LookupError):
            emits("plugin_load", file_name="a")({}.popitem)()
        assert told(events) == [
            ("plugin_load_started", {"file_name": "a"}),
            ("plugin_load_failed", {"file_name": "a"}),
        ]
        assert end_of(events).error_code == "KeyError"


# Parents and order.


def test_nested_operations_and_facts_name_their_parent(events):
    inner = emits("work")(lambda: log_event("work_completed"))
    outer = emits("work")(inner)
    outer()
    first, second, fact, _, _ = events.records
    assert second.parent_operation_id == first.operation_id
    assert fact.parent_operation_id == second.operation_id
    assert fact.operation_id is fact.phase is None
    assert current_operation() is None


def test_recursion_nests(events):
    @emits("work")
    def count(item):
        return item and count(item - 1)

    count(3)
    starts = [record for record in events.records if record.phase == "started"]
    assert [r.data["item"] for r in starts] == ["3", "2", "1", "0"]
    for parent, child in itertools.pairwise(starts):
        assert child.parent_operation_id == parent.operation_id


@settings(deadline=None)
@given(st.lists(st.floats(-3600, 3600), min_size=1, max_size=20))
def test_ids_ascend_in_order_of_emission_whatever_the_clock_does(steps):
    clock = FrozenClock()
    with capture_events(TAXONOMY, clock=clock) as events, tenant(ACME):
        for step in steps:
            clock.set_back(step)
            documented("a")
        ids = [record.id for record in events.records]
    assert ids == sorted(ids)
    assert len(set(ids)) == 2 * len(steps)


def test_durations_are_of_the_monotonic_clock():
    clock = FrozenClock()
    with capture_events(TAXONOMY, clock=clock, new_id=SequentialIds()) as events, tenant(ACME):

        @emits("work")
        def work():
            clock.tick(1.5)
            clock.set_back(100)

        work()
        start, end = events.records
    assert end.duration_ms == 1500.0
    assert (start.created_at - end.created_at).total_seconds() == 98.5
    assert start.id == "00000000-0000-7000-8000-000000000001"


def test_two_pipelines_in_two_threads_keep_their_events_apart():
    class OtherStarted(Event, name="work_started"):
        thing: str

    barrier = threading.Barrier(2)
    work = emits("work")(lambda item, thing: None)
    found = {}

    def run(name, taxonomy):
        with capture_events(taxonomy, strict=False) as events, tenant(ACME):
            barrier.wait(10)
            for _ in range(200):
                work(name, name)
            found[name] = {tuple(r.data.items()) for r in events.records if r.phase == "started"}

    threads = [
        threading.Thread(target=run, args=("one", [WorkStarted])),
        threading.Thread(target=run, args=("two", [OtherStarted])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {"one": {(("item", "one"),)}, "two": {(("thing", "two"),)}}


# Where data comes from.


@pytest.mark.parametrize(
    "call, item",
    [
        pytest.param(lambda f: f("given"), "given", id="positional"),
        pytest.param(lambda f: f(item="given"), "given", id="keyword"),
        pytest.param(lambda f: f(), "default", id="default"),
    ],
)
def test_argument_of_a_declared_name_is_taken(events, call, item):
    @emits("work")
    def function(item="default", **other):
        return None

    call(function)
    assert told(events) == [("work_started", {"item": item}), ("work_completed", {"item": item})]


def test_keyword_only_argument_behind_others_is_taken(events):
    @emits("work")
    def function(first, *rest, item, page_count=2):
        return len(rest)

    assert function(0, 1, 2, item="given") == 2
    assert end_of(events).data == {"item": "given", "pageCount": 2}


def test_argument_that_is_not_declared_is_not_taken(events):
    emits("work")(lambda item, password: None)("i", "secret")
    assert "secret" not in str(told(events))


@pytest.mark.parametrize("source", ["set", "keyword", "argument", "result"])
def test_precedence_is_set_then_keywords_then_arguments_then_result(events, source):
    order = ["set", "keyword", "argument", "result"]
    given = order[order.index(source) :]
    options = {"size": 2} if "keyword" in given else {}

    def body(size=None):
        if "set" in given:
            current_operation().set(size=1)
        return {"size": 4}

    if "argument" in given:
        emits("work", **options)(lambda size: body())(3)
    else:
        emits("work", **options)(lambda: body())()  # noqa: PLW0108  # without the parameter
    assert end_of(events).data == {"size": order.index(source) + 1}


def test_fields_and_both_spellings_are_taken(events):
    emits("work", fields={"pageCount": 1}, item="x")(lambda: None)()
    assert end_of(events).data == {"item": "x", "pageCount": 1}


def test_later_set_replaces_an_earlier_one(events):
    def body():
        current_operation().set(size=1, pageCount=5)
        current_operation().set(size=2)

    emits("work")(body)()
    assert end_of(events).data == {"size": 2, "pageCount": 5}


class Pair(NamedTuple):
    size: int
    page_count: int


@dataclass
class Data:
    size: int
    page_count: int
    other: str = "not declared"

    def item(self) -> str:
        return "a method is no data"


class Model(BaseModel):
    size: int
    page_count: int


class Lazy:
    size = 1

    @property
    def page_count(self):
        return 2

    @property
    def item(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "result",
    [
        {"size": 1, "pageCount": 2, "other": 3},
        {"size": 1, "page_count": 2},
        Pair(1, 2),
        namedtuple("P", "size page_count")(1, 2),  # noqa: PYI024
        Data(1, 2),
        Model(size=1, page_count=2),
        Lazy(),
    ],
    ids=["mapping", "snake", "NamedTuple", "namedtuple", "dataclass", "pydantic", "properties"],
)
def test_declared_keys_are_taken_from_the_result(events, result):
    assert emits("work")(lambda: result)() is result
    assert end_of(events).data == {"size": 1, "pageCount": 2}


@pytest.mark.parametrize(
    "option, data",
    [("size", {"size": 7}), (lambda r: {"size": r * 2, "other": 1}, {"size": 14})],
    ids=["key", "callable"],
)
def test_result_option_says_what_the_result_means(events, option, data):
    assert emits("work", result=option)(lambda: 7)() == 7
    assert end_of(events).data == data


def test_undeclared_keys_are_removed_counted_and_warned_of_once(events, caplog):
    function = emits("work", colour=1, fields={"taste": 2})(
        lambda: current_operation().set(weight=1)
    )
    function()
    function()
    assert told(events) == [("work_started", {}), ("work_completed", {})] * 2
    assert events.stats().undeclared == 6
    assert len([r for r in caplog.records if "declares no key" in r.message]) == 2


def test_undeclared_result_key_is_warned_of(events, caplog):
    emits("work", result="colour")(lambda: 1)()
    assert "declares no key 'colour'" in caplog.text
    assert events.stats().undeclared == 1


@pytest.mark.parametrize("options", [{"colour": 1}, {"result": "colour"}])
def test_undeclared_keys_raise_in_strict_mode_before_the_body(strict_events, options):
    ran = []
    with pytest.raises(InvalidEvent, match="'work' declares no key 'colour'; it declares"):
        emits("work", **options)(ran.append)(1)
    assert ran == []
    assert current_operation() is None


def test_undeclared_key_of_set_never_raises(strict_events, caplog):
    emits("work")(lambda: current_operation().set(colour=1))()
    assert strict_events.names == ["work_started", "work_completed"]
    assert "declares no key 'colour'" in caplog.text
    assert strict_events.stats().undeclared == 1


# Outcomes.


class Coded(Exception):
    error_code = "coded"


class FromDatabase(Exception):
    sqlstate = "23505"


class OddCode(Exception):
    error_code = 5


class HostileCode(Exception):
    @property
    def error_code(self):
        raise RuntimeError


HERE = __name__


@pytest.mark.parametrize(
    "error, code",
    [
        (ValueError("text"), "ValueError"),
        (Coded(), "coded"),
        (FromDatabase(), "23505"),
        (OddCode(), f"{HERE}.OddCode"),
        (HostileCode(), f"{HERE}.HostileCode"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(1), "SystemExit"),
        (GeneratorExit(), "GeneratorExit"),
        (KeyError("k"), "first"),
        (LookupError(), "second"),
        (subprocess.TimeoutExpired("x", 1), "subprocess.TimeoutExpired"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_code_of_a_failure(events, error, code):
    @emits("work", errors={KeyError: "first", LookupError: "second"})
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    end = end_of(events)
    assert (end.phase, end.error_code, end.data) == ("failed", code, {"errorCode": code})


def test_message_of_an_exception_is_never_stored(events):
    with pytest.raises(ValueError, match="secret"):
        emits("work")(lambda text: int(text))("secret")  # noqa: PLW0108  # int is a class
    assert "secret" not in str(events.records[-1])


@pytest.mark.parametrize(
    "tell", [lambda op: op.fail("mine"), lambda op: op.set(error_code="mine")], ids=["fail", "set"]
)
def test_code_given_by_hand_counts_most(events, tell):
    @emits("work", errors={ValueError: "mapped"})
    def fail():
        tell(current_operation())
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert end_of(events).error_code == "mine"
    assert events.stats().undeclared == 0


def test_fail_without_an_exception_fails(events):
    assert emits("work")(lambda: current_operation().fail("full") or 5)() == 5
    assert end_of(events).name == "work_failed"
    assert end_of(events).error_code == "full"


@pytest.mark.parametrize(
    "verdict, code", [("too_small", "too_small"), (True, "failed"), (False, None), ("", None)]
)
def test_failed_if_judges_the_result(events, verdict, code):
    assert emits("work", failed_if=lambda result: verdict)(lambda: 5)() == 5
    assert end_of(events).error_code == code


# The tenant, the connection and the actor.


class Request:
    def __init__(self, tenant_id):
        self.user = {"tenant": tenant_id}
        self.tenant_id = tenant_id


@pytest.mark.parametrize(
    "option, argument",
    [
        ("item", OTHER),
        ("item.tenant_id", Request(OTHER)),
        ("item.user.tenant", Request(OTHER)),
        (lambda item: item.tenant_id, Request(OTHER)),
    ],
    ids=["name", "attribute", "mapping", "callable"],
)
def test_tenant_is_taken_from_an_argument(events, option, argument):
    function = emits("onlyanend", tenant=option)(lambda item: current_scope().tenant)
    assert function(argument) == OTHER
    assert function(item=argument) == OTHER
    assert {record.tenant_id for record in events.records} == {OTHER}
    assert {record.actor_id for record in events.records} == {None}
    assert current_scope().tenant == ACME


def test_tenant_is_taken_from_the_instance(events):
    class Service:
        tenant_id = OTHER

        @emits("onlyanend", tenant="self.tenant_id")
        def run(self):
            return current_scope().tenant

    assert Service().run() == OTHER


def test_platform_may_be_the_fixed_tenant(events):
    emits("onlyanend", tenant=PLATFORM)(lambda: None)()
    assert end_of(events).tenant_id == "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("option", ["tenant", "conn"])
def test_option_that_names_no_parameter_is_refused_at_decoration(option):
    with pytest.raises(
        ConfigurationError, match=r"'nobody.id' names no parameter of .*it has item"
    ):
        emits("work", **{option: "nobody.id"})(lambda item: None)


def test_conn_that_is_no_name_is_refused_at_decoration():
    with pytest.raises(ConfigurationError, match="conn= is an argument's name, a dotted path or"):
        emits("work", conn=3)(lambda: None)


def test_tenant_that_cannot_be_found_is_never_the_scopes(events):
    ran = emits("onlyanend", tenant="item.tenant_id")(lambda item: 5)(None)
    assert ran == 5
    assert events.records == []
    assert [(r.reason, r.name) for r in events.rejected] == [
        ("invalid_tenant", "onlyanend_completed")
    ]
    assert "tenant= raised AttributeError" in events.rejected[0].detail


def test_actor_is_text_or_of_the_call(events):
    emits("onlyanend", actor="job:1")(lambda: None)()
    emits("onlyanend", actor=lambda who: f"user:{who}")(lambda who: None)(7)
    emits("onlyanend", actor=lambda who: None)(lambda who: None)(7)
    assert [record.actor_id for record in events.records] == ["job:1", "user:7", "user:1"]
    assert current_scope().actor == "user:1"


@pytest.mark.parametrize("option", ["tenant", "conn", "actor"])
def test_option_that_raises_raises_in_strict_mode_before_the_body(strict_events, option):
    ran = []
    with pytest.raises(ConfigurationError, match=f"{option}= raised ZeroDivisionError for this"):
        emits("work", **{option: lambda x: 1 / 0})(ran.append)(1)
    assert ran == []


def test_without_a_tenant_the_body_runs_and_each_event_is_rejected():
    with capture_events(TAXONOMY, strict=False) as events:
        outer = emits("work")(lambda: documented("a"))
        assert outer() == "a 3 False"
        assert events.records == []
        found = [(r.name, r.phase, r.reason) for r in events.rejected]
        assert found == [
            ("work_started", "started", "tenant_not_set"),
            ("work_started", "started", "tenant_not_set"),
            ("work_completed", "completed", "tenant_not_set"),
            ("work_completed", "completed", "tenant_not_set"),
        ]
        outer_start, start, end, outer_end = events.rejected
        assert start.operation_id == end.operation_id != outer_start.operation_id
        assert start.parent_operation_id == end.parent_operation_id == outer_start.operation_id
        assert outer_end.parent_operation_id is None
        assert end.data == {"item": "a", "size": 3}


def test_strict_mode_without_a_tenant_raises_before_the_body():
    ran = []
    with capture_events(TAXONOMY), pytest.raises(TenantNotSet, match=r"^work: no tenant is set"):
        emits("work")(ran.append)(1)
    assert ran == []


def test_strict_mode_with_a_bad_tenant_raises_before_the_body(strict_events):
    ran = []
    with pytest.raises(InvalidTenant):
        emits("work", tenant="x")(lambda x: ran.append(x))("nobody")  # noqa: PLW0108
    assert ran == []
    assert current_scope().tenant == ACME


# Refused events.


def test_refused_start_is_kept_with_the_reason_and_the_body_runs(events):
    assert emits("strictly", colour=1)(lambda: {"item": "i", "size": 1})() is not None
    assert events.names == ["strictly_completed"]
    (reject,) = events.rejected
    assert (reject.name, reject.phase, reject.reason) == ("strictly_started", "started", "invalid")
    assert reject.detail == "item: Field required"
    assert reject.operation_id == end_of(events).operation_id
    assert reject.other_keys == {"colour": "int"}


def test_refused_end_keeps_declared_values_and_types_of_others(events):
    def body(item):
        current_operation().set(colour="secret")

    emits("strictly")(body)("i")
    (reject,) = events.rejected
    assert (reject.name, reject.phase) == ("strictly_completed", "completed")
    assert reject.data == {"item": "i"}
    assert reject.other_keys == {"colour": "str"}


class Masked(Event, name="masked"):
    card: str
    password: SecretStr
    signature: str = Field(exclude=True)
    mail: Annotated[str, AfterValidator(lambda mail: "hash of it" if mail else "")]
    size: int

    @field_serializer("card")
    def hide(self, card: str) -> str:
        return "****"


class MaskingFailed(Masked, name="masking_failed"):
    error_code: str = ""


RAW = {"card": "secret", "password": "secret", "signature": "secret", "mail": "secret"}


def test_what_a_declaration_masks_is_not_kept_of_a_refused_event():
    with capture_events([Masked, MaskingFailed], strict=False) as events, tenant(ACME):
        log_event("masked", **RAW, size="large")
        with pytest.raises(KeyError), emits("masking", **RAW, size="large"):
            raise KeyError
        fact, end = events.rejected
        assert fact.data == {"size": "large"}
        assert fact.other_keys == dict.fromkeys(RAW, "str")
        assert end.data == {"size": "large", "errorCode": "KeyError"}
        assert "secret" not in str(events.rejected)


def test_what_a_declaration_masks_is_not_kept_for_an_abandoned_end(tmp_path):
    with capture_events([MaskingFailed], journal=tmp_path) as events, tenant(ACME):
        with emits("masking", **RAW, size=3):
            (segment,) = [path for path in tmp_path.rglob("*") if b"masking" in read(path)]
            assert b"secret" not in segment.read_bytes()
            assert b'"size":3' in segment.read_bytes()
        assert events.records == []


def read(path):
    return path.read_bytes() if path.is_file() else b""


def test_strict_mode_refuses_an_invalid_start_before_the_body(strict_events):
    ran = []
    with pytest.raises(InvalidEvent, match="strictly_started: item: Field required"):
        emits("strictly")(ran.append)(1)
    assert ran == []
    assert current_operation() is None


def test_strict_mode_never_raises_after_the_body(strict_events):
    assert emits("strictly")(lambda item: 5)("i") == 5
    with pytest.raises(LookupError) as caught:
        emits("work", result=lambda r: 1 / 0)({}.popitem)()
    assert type(caught.value) is KeyError
    assert [r.name for r in strict_events.rejected] == ["strictly_completed"]


def test_strict_mode_notes_a_refused_failure_on_the_exception():
    class NotedFailed(Event):
        needed: int

    with capture_events([NotedFailed]) as events, tenant(ACME):
        with pytest.raises(KeyError) as caught:
            emits("noted")({}.popitem)()
        assert caught.value.__notes__ == [
            "tenantry: the event noted_failed was refused: noted_failed: needed: Field required"
        ]
        assert [r.phase for r in events.rejected] == ["failed"]


def test_too_large_payload_is_cut_and_counted(events):
    emits("work")(lambda item: None)("x" * 5000)
    assert events.stats().truncated == 2
    assert "…[+" in events.records[0].data["item"]


# Telemetry never raises into the caller.


class Hostile:
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __eq__(self, other):
        raise RuntimeError

    def __bool__(self):
        raise RuntimeError

    def __str__(self):
        raise RuntimeError

    def __len__(self):
        raise RuntimeError

    def __iter__(self):
        raise RuntimeError

    __hash__ = None
    __repr__ = __str__


class HostileMapping(dict):
    def __getitem__(self, key):
        raise RuntimeError

    __contains__ = __getitem__
    get = __getitem__

    def items(self):
        raise RuntimeError

    keys = __iter__ = items


@pytest.mark.parametrize("hostile", [Hostile(), HostileMapping(item=1)], ids=["object", "mapping"])
def test_hostile_arguments_and_results_do_no_harm(events, hostile):
    assert emits("work")(lambda item, size: hostile)(hostile, hostile) is hostile
    assert emits("work")(lambda: hostile)() is hostile
    assert emits("work", failed_if=lambda r: r)(lambda: hostile)() is hostile
    assert emits("work", item=hostile)(lambda: None)() is None
    assert emits("work")(lambda: current_operation().set(item=hostile))() is None
    assert emits("work")(lambda: current_operation().fail(hostile))() is None
    assert emits("onlyanend", tenant="x")(lambda x: 5)(hostile) == 5
    assert emits("onlyanend", actor=lambda: hostile)(lambda: 5)() == 5
    stats = events.stats()
    assert stats.dropped.get("internal_error", 0) == 0
    assert current_scope().tenant == ACME
    assert current_operation() is None


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), ANY_TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(st.tuples(ANYTHING, ANYTHING, ANYTHING, st.booleans()), max_size=5))
def test_whatever_is_passed_calls_work_and_the_books_balance(calls):
    @emits("work")
    def work(item, size, result, fails):
        if fails:
            raise LookupError(item)
        return result

    with capture_events(TAXONOMY, strict=False) as events, tenant(ACME):
        for item, size, result, fails in calls:
            if fails:
                with pytest.raises(LookupError):
                    work(item, size, result, fails)
            else:
                assert work(item, size, result, fails) is result
        assert events.flush()
        stats = events.stats()
        assert len(events.records) + len(events.rejected) == stats.emitted == 2 * len(calls)
        assert (stats.stored, stats.rejected) == (len(events.records), len(events.rejected))
        assert not any(stats.dropped.values())
        assert current_operation() is None


class UnboundProxy:
    """Like a proxy of a web framework outside a request: even its class cannot be asked for."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


def test_unbound_proxies_do_no_harm(events):
    proxy = UnboundProxy()
    assert emits("work")(lambda: proxy)() is proxy
    assert emits("work")(lambda item: 5)(proxy) == 5
    assert emits("onlyanend", tenant="item")(lambda item: 5)(proxy) == 5
    assert emits("onlyanend", conn="item")(lambda item: 5)(proxy) == 5
    assert tenant(OTHER)(lambda: proxy)() is proxy
    assert log_event("work_started", item=proxy) is None
    assert log_event("work_started", tenant=proxy) is None
    assert [reject.reason for reject in events.rejected] == [
        "invalid",
        "invalid",
        "invalid_tenant",
        "invalid",
        "invalid_tenant",
    ]
    assert events.stats().dropped.get("internal_error", 0) == 0


class BrokenPipeline(CapturingPipeline):
    """Its journal takes nothing, as when its files were taken away."""

    def accept(self, *args, **kwargs):
        raise OSError("no journal")

    def close_operation(self, *args, **kwargs):
        raise OSError("no journal")


@pytest.mark.parametrize("strict", [False, True])
def test_journal_that_fails_does_no_harm(caplog, strict):
    pipeline = BrokenPipeline(taxonomy=TAXONOMY, strict=strict)
    with pipeline, tenant(ACME):
        assert documented("a") == "a 3 False"
        assert log_event("work_started") is None
        assert asyncio.run(alog_event("work_started")) is None
        assert emits("work", conn="conn")(lambda conn: 5)(object()) == 5
        assert list(emits("work")(lambda: iter([1]))()) == [1]
        with pytest.raises(KeyError), emits("work"):
            raise KeyError
        assert current_operation() is None
    pipeline.shutdown()
    assert "an event was lost to an error inside Tenantry" in caplog.text


class BreakingPipeline(BrokenPipeline):
    """Its journal takes the start, and nothing more."""

    def accept(self, kind, *args, **kwargs):
        if kind == Kind.START:
            return CapturingPipeline.accept(self, kind, *args, **kwargs)
        raise OSError("no journal any more")


def test_journal_that_fails_later_does_no_harm(caplog):
    pipeline = BreakingPipeline(taxonomy=TAXONOMY)
    with pipeline, tenant(ACME):
        assert documented("a") == "a 3 False"
        assert emits("work", conn="conn")(lambda conn: 5)(object()) == 5
        assert list(emits("work")(lambda: (n for n in [1]))()) == [1]
        with pytest.raises(KeyError) as caught:
            emits("work")({}.popitem)()
        assert caught.value.__context__ is None
    pipeline.shutdown()
    assert "an event was lost to an error inside Tenantry" in caplog.text


def test_forked_child_leaves_the_end_to_its_parent():
    code = (
        "import os\n"
        "from tenantry import emits, tenant\n"
        "from tenantry.testing import capture\n"
        f"with capture(open_taxonomy=['x_*']) as events, tenant('{ACME}'):\n"
        "    with emits('x_work'):\n"
        "        child = os.fork()\n"
        "    if not child:\n"
        "        print('child', 'x_work_completed' in events.names, flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    print('parent', *events.names)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "child False\nparent x_work_started x_work_completed\n"


def boom(*_args: Any) -> Any:
    raise RuntimeError("in a callable of the application")


@pytest.mark.parametrize("option", ["failed_if", "result", "actor", "conn"])
def test_callable_option_that_raises_loses_neither_result_nor_events(events, option, caplog):
    assert emits("work", **{option: boom})(lambda item: 5)("i") == 5
    assert told(events) == [("work_started", {"item": "i"}), ("work_completed", {"item": "i"})]
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize("option", ["failed_if", "result"])
def test_callable_option_that_raises_after_the_body_is_silent_in_strict_mode(strict_events, option):
    assert emits("work", **{option: boom})(lambda: 5)() == 5
    assert strict_events.names == ["work_started", "work_completed"]


def test_failure_is_recorded_whatever_the_exception_does(events):
    class Odd(Exception):
        def __getattribute__(self, name):
            raise RuntimeError(name)

    @emits("work")
    def fail():
        raise Odd

    with pytest.raises(Odd):
        fail()
    assert end_of(events).error_code.endswith(".Odd")


class Counting:
    """An exporter that takes no events over a connection."""

    def export(self, batch, deadline):
        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def close(self):
        pass


def test_conn_without_an_exporter_for_it_raises_in_strict_mode_before_the_body():
    pipeline = Pipeline(exporter=Counting(), taxonomy=TAXONOMY, strict=True)
    ran = []
    with pipeline, tenant(ACME), pytest.raises(ConfigurationError, match="conn= needs an exporter"):
        emits("work", conn="conn")(lambda conn: ran.append(conn))(object())  # noqa: PLW0108
    pipeline.shutdown()
    assert ran == []


def test_conn_without_an_exporter_for_it_is_warned_of_and_loses_nothing(caplog):
    pipeline = Pipeline(exporter=Counting(), taxonomy=TAXONOMY)
    with pipeline, tenant(ACME):
        assert emits("work", conn="conn")(lambda conn: 5)(object()) == 5
        with emits("work", conn=object()):
            pass
    assert pipeline.shutdown().stored == 4
    assert "its completed event does not join the transaction" in caplog.text


def test_conn_hands_the_completed_event_over(events):
    emits("work", conn="conn")(lambda conn: None)(object())
    with pytest.raises(KeyError):
        emits("work", conn="conn")(lambda conn: {}.popitem())(object())
    stats = events.stats()
    assert (stats.emitted, stats.handed, stats.accepted) == (4, 1, 3)
    assert sorted(events.names) == [
        "work_completed",
        "work_failed",
        "work_started",
        "work_started",
    ]


def test_enum_member_is_stored_by_value(events):
    kind = enum.Enum("Kind", {"WEB": "web"})
    emits("work")(lambda item: None)(kind.WEB)
    assert end_of(events).data == {"item": "web"}


def test_pipelines_of_all_exporters_take_decorated_calls(capsys):
    for exporter in (MemoryExporter(), ConsoleExporter()):
        pipeline = Pipeline(exporter=exporter, taxonomy=TAXONOMY)
        with pipeline, tenant(ACME):
            documented("a")
        assert pipeline.shutdown().stored == 2
    assert "work_completed" in capsys.readouterr().out


# What is only read once is never read.


class ImportStarted(Event):
    rows: list[int] | None = None
    anything: Any = None
    name: str | None = None


class ImportCompleted(Event):
    n: int
    rows: list[int] | None = None


class AsyncIterator:
    def __aiter__(self):
        return self

    async def __anext__(self):
        raise StopAsyncIteration


@pytest.fixture
def imports():
    taxonomy = [ImportStarted, ImportCompleted]
    with (
        capture_events(taxonomy, strict=False, open_taxonomy=["x_*"]) as pipeline,
        tenant(ACME),
    ):
        yield pipeline


def in_list(iterator):
    return [{"deep": (iterator,)}]


@pytest.mark.parametrize("wrap", [lambda i: i, in_list], ids=["itself", "nested"])
@pytest.mark.parametrize(
    "give",
    [
        pytest.param(emits("import")(lambda rows: {"n": 0}), id="argument"),
        pytest.param(emits("import")(lambda anything: {"n": 0}), id="any"),
        pytest.param(emits("import")(lambda name: {"n": 0}), id="text"),
        pytest.param(lambda i: emits("import", rows=i)(lambda: {"n": 0})(), id="keyword"),
        pytest.param(lambda i: emits("import")(lambda: {"n": 0, "rows": i})(), id="result"),
        pytest.param(
            lambda i: emits("import", result=lambda n: {"n": n, "rows": i})(lambda: 0)(),
            id="result option",
        ),
        pytest.param(
            lambda i: emits("import")(lambda: current_operation().set(rows=i, n=0))(), id="set"
        ),
        pytest.param(emits("x_open")(lambda rows: 0), id="open"),
        pytest.param(lambda i: log_event("x_fact", rows=i), id="open fact"),
        pytest.param(lambda i: log_event("import_started", rows=i), id="fact"),
        pytest.param(lambda i: log_event(ImportStarted(anything=i)), id="instance"),
    ],
)
def test_iterators_are_never_read_and_count_as_not_given(imports, give, wrap):
    iterator = iter(n for n in range(3))
    give(wrap(iterator))
    assert list(iterator) == [0, 1, 2]
    assert imports.records
    assert imports.rejected == []
    assert all("rows" not in record.data for record in imports.records)


def test_asynchronous_iterator_counts_as_not_given(imports):
    log_event("import_started", anything=AsyncIterator())
    assert told(imports) == [("import_started", {})]


def test_iterator_in_a_refused_event_is_named_by_its_type(imports):
    iterator = iter(n for n in range(3))
    emits("import")(lambda rows: {"n": "many"})(iterator)
    (reject,) = imports.rejected
    assert reject.data == {"n": "many", "rows": "<generator>"}
    assert list(iterator) == [0, 1, 2]


def find_none(_item):
    return None


@pytest.mark.parametrize(
    "option, argument, shown",
    [
        ("item", None, "'item'"),
        ("item.tenant_id", Request(None), "'item.tenant_id'"),
        (find_none, 1, "…"),
    ],
    ids=["name", "path", "callable"],
)
def test_tenant_that_is_none_is_never_the_scopes(events, option, argument, shown):
    assert emits("work", tenant=option)(lambda item: 5)(argument) == 5
    assert events.records == []
    assert [r.reason for r in events.rejected] == ["invalid_tenant"] * 2
    assert f"<tenant={shown} gave None>" in events.rejected[0].detail


def test_tenant_from_an_argument_that_is_not_given_is_never_the_scopes(events):
    with pytest.raises(TypeError):
        emits("onlyafailure", tenant="item")(lambda item: 5)()
    assert events.records == []
    assert "<tenant='item' gave None>" in events.rejected[0].detail


def test_tenant_that_is_none_raises_in_strict_mode_before_the_body(strict_events):
    ran = []
    with pytest.raises(InvalidTenant, match="tenant='item' gave None"):
        emits("work", tenant="item")(lambda item: ran.append(item))(None)  # noqa: PLW0108  # named
    assert ran == []


class HostileType(type):
    def __eq__(cls, other):
        raise RuntimeError

    def __hash__(cls):
        raise RuntimeError

    def __getattr__(cls, name):
        raise RuntimeError


class OfHostileType(metaclass=HostileType):
    size = 3


def test_type_that_cannot_be_hashed_gives_its_attributes(events, caplog):
    result = OfHostileType()
    assert emits("work")(lambda: result)() is result
    assert end_of(events).data == {"size": 3}
    assert caplog.records == []


@pytest.mark.parametrize("block", [False, True], ids=["call", "block"])
def test_mistake_of_our_own_in_compiling_does_no_harm(events, monkeypatch, block):
    def fail(*_args):
        raise RuntimeError("a mistake of our own")

    monkeypatch.setattr("tenantry.instrument.BoundOperation", fail)
    if block:
        with emits("work") as operation:
            operation.set(size=1)
    else:
        assert emits("work")(lambda: 5)() == 5
    assert events.stats().dropped["internal_error"] == 1


def test_id_source_that_raises_does_a_block_no_harm(events):
    def fail():
        raise RuntimeError("no id")

    known, events.new_id = events.new_id, fail
    with emits("work") as operation:
        operation.set(size=1)
    events.new_id = known
    assert events.records == []


class Changing:
    """A result whose attributes are not always the same."""


@pytest.mark.parametrize("order", [("both", "one", "both"), ("one", "both", "none", "both")])
def test_each_result_is_read_for_itself(order):
    class AllDone(Event, name="all_done_completed"):
        first: int | None = None
        second: int | None = None

    values = {"both": {"first": 1, "second": 2}, "one": {"second": 3}, "none": {}}

    @emits("all_done")
    def work(which: str) -> Changing:
        result = Changing()
        vars(result).update(values[which])
        return result

    with CapturingPipeline(taxonomy=[AllDone]) as pipeline, tenant(ACME):
        for which in order:
            work(which)
    assert [record.data for record in pipeline.records] == [values[which] for which in order]


def test_attribute_that_has_become_a_method_or_raises_is_left_out():
    class AllDone(Event, name="all_done_completed"):
        first: int | None = None
        second: int | None = None

    class Result:
        first: object = 1
        second: object = 2

    class Raising(Result):
        @property
        def broken(self) -> int:
            raise ValueError

    result = Result()
    work = emits("all_done")(lambda: result)
    with CapturingPipeline(taxonomy=[AllDone]) as pipeline, tenant(ACME):
        work()
        work()
        result.second = print
        work()
        Result.first = Raising.broken
        work()
    both = {"first": 1, "second": 2}
    assert [record.data for record in pipeline.records] == [both, both, {"first": 1}, {}]


def test_call_is_read_alike_by_position_and_by_name():
    class AllDone(Event, name="all_done_started"):
        first: int
        second: int

    @emits("all_done")
    def work(first: int, second: int = 5) -> None: ...

    with CapturingPipeline(taxonomy=[AllDone]) as pipeline, tenant(ACME):
        work(1, 2)
        work(1)
        work(1, second=2)
        work(first=1, second=2)
    assert [tuple(record.data.values()) for record in pipeline.records] == [
        (1, 2),
        (1, 5),
        (1, 2),
        (1, 2),
    ]
