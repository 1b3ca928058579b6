"""The decorated function stays itself: whatever asks it, it answers as before."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import copy
import functools
import inspect
import multiprocessing
import pickle
import pydoc
import typing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from unittest import mock

import pydantic
import pytest

from tenantry import emits
from tests.callables.operations import told

Marker = typing.NewType("Marker", int)


def plain(item: str, /, size: int = 3, *, flag: bool = False) -> list[Marker]:
    """Do it plainly."""
    return [Marker(size)]


async def coroutine(item: str, /, size: int = 3, *, flag: bool = False) -> list[Marker]:
    """Do it later."""
    return [Marker(size)]


def generator(item: str, /, size: int = 3, *, flag: bool = False) -> typing.Iterator[Marker]:
    """Do it by and by."""
    yield Marker(size)


async def async_generator(
    item: str, /, size: int = 3, *, flag: bool = False
) -> typing.AsyncIterator[Marker]:
    """Do it by and by, later."""
    yield Marker(size)


PLAIN = [plain, coroutine, generator, async_generator]
NAMES = ["plain", "coroutine", "generator", "async_generator"]


class Desk:
    def __init__(self, name="desk"):
        self.name = name

    @emits("work")
    def plain(self, item):
        return [self.name, item]

    @emits("work")
    async def coroutine(self, item):
        return [self.name, item]

    @emits("work")
    def generator(self, item):
        yield self.name
        yield item

    @emits("work")
    async def async_generator(self, item):
        yield self.name
        yield item


def outcome_of(result):
    """Run whatever a call gave to its end."""

    async def collect(items):
        return [each async for each in items]

    if inspect.iscoroutine(result):
        return asyncio.run(result)
    return asyncio.run(collect(result)) if inspect.isasyncgen(result) else list(result)


each = pytest.mark.parametrize("function", PLAIN, ids=NAMES)


def help_text(function):
    return pydoc.plain(pydoc.render_doc(function))


def names(function):
    return function.__name__, function.__qualname__, function.__module__, function.__doc__


def parts(function):
    return function.__defaults__, function.__kwdefaults__, function.__code__, function.__dict__


def is_function(function):
    return isinstance(function, type(plain))


QUESTIONS = [
    inspect.signature,
    inspect.getsource,
    inspect.getdoc,
    inspect.getfile,
    inspect.getmodule,
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
    help_text,
    names,
    inspect.isfunction,
    inspect.isroutine,
    inspect.unwrap,
    inspect.get_annotations,
    typing.get_type_hints,
    callable,
    parts,
    is_function,
    hash,
]


@each
def test_annotations_survive_that_somebody_asks_the_class_for_its_own(function):
    decorated = emits("work")(function)
    assert inspect.get_annotations(type(decorated)) == {}
    assert inspect.get_annotations(decorated) == inspect.get_annotations(function) != {}
    method = getattr(Desk(), function.__name__)
    assert inspect.get_annotations(type(method)) == {}
    assert method.__annotations__ == inspect.unwrap(method.__func__).__annotations__


@each
@pytest.mark.parametrize("ask", QUESTIONS, ids=lambda ask: ask.__name__)
def test_it_answers_as_before(function, ask):
    decorated = emits("work")(function)
    assert ask(decorated) == ask(function)
    assert decorated.__wrapped__ is function
    assert decorated == function


@pytest.mark.parametrize("ask", QUESTIONS[:8], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_bound_method_answers_as_before(name, ask):
    class Undecorated(Desk):
        pass

    setattr(Undecorated, name, inspect.unwrap(getattr(Desk, name)))
    assert ask(getattr(Desk(), name)) == ask(getattr(Undecorated(), name))
    assert inspect.ismethod(getattr(Desk(), name))
    assert getattr(Desk(), name).__func__ is getattr(Undecorated, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_it_pickles_by_name(name, protocol, events):
    function = pickle.loads(pickle.dumps(getattr(Desk, name), protocol))
    assert outcome_of(function(Desk("a"), "i")) == ["a", "i"]
    method = pickle.loads(pickle.dumps(getattr(Desk("b"), name), protocol))
    assert outcome_of(method("i")) == ["b", "i"]


def test_function_pickles_as_the_very_object():
    for function in (of_the_module, generator_of_the_module):
        assert pickle.loads(pickle.dumps(function)) is function


@emits("work")
def of_the_module(item):
    return [item]


@emits("work")
def generator_of_the_module(item):
    yield item


@pytest.mark.parametrize("name", NAMES)
def test_it_copies_as_a_function_does(name, events):
    function = emits("work")(globals()[name])
    assert copy.copy(function) is copy.deepcopy(function) is function
    desk = Desk(["kept"])
    assert outcome_of(copy.copy(getattr(desk, name))("i"))[0] is desk.name
    copied = outcome_of(copy.deepcopy(getattr(desk, name))("i"))[0]
    assert copied == desk.name
    assert copied is not desk.name


def run_in_child(method, item):
    return outcome_of(method(item))


def test_methods_go_through_a_process_pool():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = [
            pool.submit(run_in_child, getattr(Desk("far"), name), "i").result(50) for name in NAMES
        ]
        assert pool.submit(Desk("far").plain, "i").result(50) == ["far", "i"]
        assert pool.submit(of_the_module, "i").result(50) == ["i"]
    assert found == [["far", "i"]] * 4


# Stacks of decorators.


def around(function):
    @functools.wraps(function)
    def outer(*args, **kwargs):
        return function(*args, **kwargs)

    return outer


@each
@pytest.mark.parametrize("order", ["ours above", "ours below"])
def test_stacks_of_wraps_record_once(events, function, order):
    stack = (
        emits("work")(around(function))
        if order == "ours above"
        else around(emits("work")(function))
    )
    assert outcome_of(stack("a", 5)) == [5]
    assert inspect.signature(stack) == inspect.signature(function)
    assert inspect.unwrap(stack) is function
    assert told(events) == ["work_started", "work_completed"]


def test_cache_above_and_below(events):
    above = functools.cache(emits("work")(lambda item: item))
    assert above("a") == above("a")
    assert told(events) == ["work_started", "work_completed"]
    below = emits("work")(functools.cache(lambda item: item))
    assert below("a") == below("a")
    assert below.cache_info().hits == 1
    assert len(events.records) == 6


def test_single_dispatch(events):
    @emits("work")
    @functools.singledispatch
    def show(item):
        return "object"

    @show.register
    def _(item: int):
        return "int"

    assert (show("a"), show(1)) == ("object", "int")
    assert len(events.records) == 4


def test_exit_stack_and_partial_method(events):
    class Partly:
        @emits("work")
        def method(self, item, size):
            return item, size

        half = functools.partialmethod(method, "a")

    assert Partly().half(2) == ("a", 2)
    with contextlib.ExitStack() as stack:
        stack.callback(Partly().method, "b", 3)
    assert [r.data for r in events.records if r.phase == "started"] == [
        {"item": "a"},
        {"item": "b"},
    ]


# Classes.


def test_abstract_methods_stay_abstract(events):
    class Base(abc.ABC):
        @emits("work")
        @abc.abstractmethod
        def above(self): ...

        @abc.abstractmethod
        @emits("work")
        def below(self): ...

        @emits("work")
        @classmethod
        @abc.abstractmethod
        def on_class(cls): ...

    assert Base.__abstractmethods__ == {"above", "below", "on_class"}
    with pytest.raises(TypeError, match="abstract"):
        Base()

    class Real(Base):
        def above(self):
            return super().above() or "above"

        def below(self):
            return "below"

        @classmethod
        def on_class(cls):
            return "class"

    assert Real().above() == "above"
    assert told(events) == ["work_started", "work_completed"]


def test_overloads_are_kept(events):
    @typing.overload
    def twice(item: int) -> int: ...
    @typing.overload
    def twice(item: str) -> str: ...
    @emits("work")
    def twice(item):
        return item + item

    assert len(typing.get_overloads(twice)) == 2
    assert (twice(1), twice("a")) == (2, "aa")


@pytest.mark.parametrize("slots", [False, True])
def test_dataclass_methods(events, slots):
    @dataclass(slots=slots, frozen=True)
    class Parcel:
        item: str

        @emits("work")
        def send(self):
            return {"size": len(self.item)}

        @property
        @emits("work")
        def weight(self):
            return 3

        @emits("work")
        def __post_init__(self):
            pass

    parcel = Parcel("abc")
    assert parcel.send() == {"size": 3}
    assert parcel.weight == 3
    assert told(events) == ["work_started", "work_completed"] * 3


def test_pydantic_methods(events):
    class Parcel(pydantic.BaseModel):
        item: str

        @emits("work")
        def send(self):
            return {"size": len(self.item)}

        @emits("work")
        @staticmethod
        def static():
            return 1

        @classmethod
        @emits("work")
        def on_class(cls):
            return cls

        @pydantic.field_validator("item")
        @classmethod
        @emits("work")
        def check(cls, item):
            return item.upper()

        @pydantic.computed_field
        @property
        @emits("work")
        def weight(self) -> int:
            return 3

    parcel = Parcel(item="abc")
    assert parcel.send() == {"size": 3}
    assert (Parcel.static(), Parcel.on_class()) == (1, Parcel)
    assert parcel.model_dump() == {"item": "ABC", "weight": 3}
    assert told(events) == ["work_started", "work_completed"] * 5


@pytest.mark.parametrize("order", ["ours above", "ours below"])
def test_validate_call(events, order):
    def send(item: str, size: int) -> int:
        return size

    stack = (
        emits("work")(pydantic.validate_call(send))
        if order == "ours above"
        else pydantic.validate_call(emits("work")(send))
    )
    assert stack("a", "5") == 5
    with pytest.raises(pydantic.ValidationError):
        stack("a", "b")
    failed = ["work_started", ("work_failed", "pydantic_core._pydantic_core.ValidationError")]
    assert told(events)[2:] == (failed if order == "ours above" else [])


# Stand-ins.


@each
def test_autospec_is_that_of_the_function(function):
    decorated = emits("work")(function)
    stand_in = mock.create_autospec(decorated)
    reference = mock.create_autospec(function)
    assert inspect.signature(stand_in) == inspect.signature(reference)
    assert inspect.iscoroutinefunction(stand_in) == inspect.iscoroutinefunction(reference)

    def call():
        result = stand_in()
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    with pytest.raises(TypeError, match="missing a required argument: 'item'"):
        call()


def test_method_can_be_patched_with_its_spec(events):
    with mock.patch.object(Desk, "plain", autospec=True, return_value="patched") as stand_in:
        desk = Desk()
        assert desk.plain("i") == "patched"
        stand_in.assert_called_once_with(desk, "i")
    assert Desk().plain("i") == ["desk", "i"]
    assert told(events) == ["work_started", "work_completed"]


# Concurrency and recursion of what runs at once.


def test_re_entrant_calls_nest(events):
    @emits("work")
    def outer(item):
        return inner(item)

    @emits("work")
    def inner(item):
        return outer(item - 1) if item else "done"

    assert outer(2) == "done"
    starts = [r for r in events.records if r.phase == "started"]
    assert len(starts) == 6
    assert [s.parent_operation_id for s in starts] == [
        None,
        *(s.operation_id for s in starts[:-1]),
    ]
