"""Generators: their bodies run in pieces, and the consumer does what it likes in between."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import itertools
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry import current_operation, emits, log_event, tenant
from tenantry.exceptions import InvalidEvent
from tests.callables.operations import (
    ACME,
    OTHER,
    TAXONOMY,
    end_of,
    frames_of,
    here,
    in_copied_context,
    in_empty_context,
    in_thread,
    outcome,
    told,
)
from tests.capturing import capture_events


@emits("work")
def echo(item=None):
    """Give back what is sent; return what was received."""
    received = []
    while True:
        try:
            sent = yield len(received)
        except KeyError as error:
            sent = error
        if sent is None:
            return received
        received.append(sent)


def forms(body):
    """Give a body decorated, and returned by a decorated function."""
    return [
        pytest.param(emits("work")(body), id="decorated"),
        pytest.param(emits("work")(lambda *a, **k: body(*a, **k)), id="returned"),  # noqa: PLW0108
    ]


def body_of_three(clock):
    for _ in range(3):
        clock.tick(1)
        yield here()
    clock.tick(1)
    return "result"


three = pytest.mark.parametrize("function", forms(body_of_three))

WHEREVER = [in_thread, in_empty_context, in_copied_context]
wherever = pytest.mark.parametrize("run", WHEREVER)


# Results, exceptions, and what passes between.


@three
def test_items_and_return_value_are_those_of_the_body(events, clock, function):
    def consume():
        return (yield from function(clock))

    generator = consume()
    items = [next(generator) for _ in range(3)]
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "result"
    (operation_id,) = {operation for _, operation in items}
    assert end_of(events).operation_id == operation_id


@three
def test_duration_is_of_the_body_alone(events, clock, function):
    for _ in function(clock):
        clock.tick(100)
    assert outcome(events) == ("work_completed", None, 4000)


def test_result_data_comes_from_the_return_value(events):
    @emits("work")
    def count():
        yield 1
        return {"size": 3}

    list(count())
    assert end_of(events).data == {"size": 3}


def test_send_and_throw_reach_the_body(events):
    generator = echo()
    assert next(generator) == 0
    assert generator.send("a") == 1
    error = KeyError("thrown")
    assert generator.throw(error) == 2
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == ["a", error]
    assert outcome(events) == ("work_completed", None, 0)


def test_first_send_must_be_none(events):
    generator = echo()
    with pytest.raises(TypeError, match="can't send non-None value to a just-started generator"):
        generator.send(1)
    assert next(generator) == 0
    assert told(events) == ["work_started"]
    generator.close()


@pytest.mark.parametrize("function", forms(inspect.unwrap(echo)))
def test_exception_thrown_in_is_the_very_object_with_one_frame_of_ours(events, function):
    error = LookupError("mine")
    generator = function()
    next(generator)
    with pytest.raises(LookupError) as caught:
        generator.throw(error)
    assert caught.value is error
    assert error.__context__ is error.__cause__ is None
    assert frames_of(error)[-2:] == ["drive", "echo"]
    assert frames_of(error).count("drive") == 1
    assert outcome(events) == ("work_failed", "LookupError", 0)


def test_exception_that_was_raised_before_keeps_its_traceback(events):
    def raise_it():
        raise LookupError

    def throw_it(generator):
        try:
            raise_it()
        except LookupError as error:
            generator.throw(error)

    generator = echo()
    next(generator)
    with pytest.raises(LookupError) as caught:
        throw_it(generator)
    assert [name for name in frames_of(caught.value) if not name.startswith("test")] == [
        "throw_it",
        "drive",
        "echo",
        "throw_it",
        "raise_it",
    ]


def test_exception_of_the_body_has_one_frame_of_ours(events):
    error, cause = LookupError("mine"), ValueError()

    @emits("work")
    def fail():
        yield 1
        raise error from cause

    with pytest.raises(LookupError) as caught:
        list(fail())
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None
    assert frames_of(error)[-2:] == ["drive", "fail"]
    assert frames_of(error).count("drive") == 1


def test_stop_iteration_in_the_body_is_a_runtime_error_as_ever(events):
    @emits("work")
    def fail():
        yield 1
        raise StopIteration(5)  # noqa: PLR1708  # what is tested

    with pytest.raises(RuntimeError, match="generator raised StopIteration") as caught:
        list(fail())
    assert isinstance(caught.value.__cause__, StopIteration)
    assert outcome(events) == ("work_failed", "RuntimeError", 0)


def test_stop_iteration_that_the_consumer_throws_is_a_runtime_error_as_ever(events):
    generator = echo()
    next(generator)
    thrown = StopIteration(5)
    with pytest.raises(RuntimeError, match="generator raised StopIteration") as caught:
        generator.throw(thrown)
    assert caught.value.__cause__ is thrown


def test_exhausted_generator_stays_exhausted(events, clock):
    generator = emits("work")(body_of_three)(clock)
    assert len(list(generator)) == 3
    assert list(generator) == []
    assert told(events) == ["work_started", "work_completed"]


def test_wrong_arguments_raise_at_the_call(events):
    with pytest.raises(TypeError, match=r"echo\(\) takes from 0 to 1 positional arguments but 2"):
        echo(1, 2)
    assert told(events) == []


def test_nothing_is_recorded_before_it_is_asked(events):
    generator = echo("a")
    assert told(events) == []
    generator.close()
    del generator
    assert told(events) == []


def test_strict_mode_raises_when_asked_and_before_the_body():
    ran = []

    @emits("work", colour=1)
    def body():
        ran.append(1)
        yield

    with capture_events(TAXONOMY), tenant(ACME):
        generator = body()
        with pytest.raises(InvalidEvent, match="declares no key 'colour'"):
            next(generator)
        assert here() == (ACME, None)
    assert ran == []


def test_without_a_pipeline_for_it_it_is_passed_through(events):
    def body():
        return (yield (yield 1))

    generator = emits("nothing")(body)()
    assert next(generator) == 1
    assert generator.send("b") == "b"
    with pytest.raises(StopIteration) as stopped:
        generator.send("c")
    assert stopped.value.value == "c"


# The end, when the consumer stops early.

on_closes = pytest.mark.parametrize(
    "on_close, told_end",
    [("completed", "work_completed"), ("cancelled", ("work_failed", "cancelled"))],
)


def close(generator):
    generator.close()


def leave_a_loop(generator):
    for _ in generator:
        break


def drop(generator):
    del generator


@on_closes
@pytest.mark.parametrize("returned", [False, True], ids=["decorated", "returned"])
@pytest.mark.parametrize("stop", [close, leave_a_loop, drop])
def test_consumer_that_stops_early(events, clock, on_close, told_end, returned, stop):  # noqa: PLR0917  # the cases
    finished = []

    def body():
        try:
            for number in itertools.count():
                clock.tick(1)
                yield number
        finally:
            clock.tick(1)
            finished.append(here())

    @emits("work", on_close=on_close)
    def function():
        return body()

    decorated = function if returned else emits("work", on_close=on_close)(body)
    gc.disable()
    try:
        generator = decorated()
        next(generator)
        clock.tick(100)
        generator = [generator]
        stop(generator.pop())
        assert told(events) == ["work_started", told_end]
    finally:
        gc.enable()
    end = end_of(events)
    assert end.duration_ms == (3000 if stop is leave_a_loop else 2000)
    assert finished == [(ACME, end.operation_id)]


@on_closes
def test_body_that_returns_when_it_is_closed(events, on_close, told_end):
    @emits("work", on_close=on_close)
    def function():
        try:
            yield 1
        except GeneratorExit:
            return {"size": 7}

    generator = function()
    next(generator)
    result = generator.close()
    assert result == ({"size": 7} if sys.version_info >= (3, 13) else None)
    assert told(events) == ["work_started", told_end]
    assert end_of(events).data.get("size") == (7 if on_close == "completed" else None)


def test_body_that_goes_on_when_it_is_closed(events):
    @emits("work", on_close="cancelled")
    def function():
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2
        yield 3

    generator = function()
    next(generator)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        generator.close()
    assert list(generator) == [3]
    assert told(events) == ["work_started", "work_completed"]


def test_body_that_fails_when_it_is_closed(events):
    @emits("work")
    def function():
        try:
            yield 1
        finally:
            raise LookupError

    generator = function()
    next(generator)
    with pytest.raises(LookupError):
        generator.close()
    assert told(events) == ["work_started", ("work_failed", "LookupError")]


def test_failure_that_was_told_before_the_close_counts(events):
    @emits("work", on_close="cancelled")
    def function():
        current_operation().fail("refused")
        yield 1

    next(function())
    assert told(events) == ["work_started", ("work_failed", "refused")]


@on_closes
@pytest.mark.parametrize("stop", [close, drop])
def test_returned_generator_that_is_never_asked_ends(events, on_close, told_end, stop):
    function = emits("work", on_close=on_close)(lambda: (n for n in [1]))
    generators = [function()]
    assert told(events) == ["work_started"]
    stop(generators.pop())
    assert told(events) == ["work_started", told_end]
    assert here() == (ACME, None)


def test_completed_event_of_a_closed_generator_joins_the_transaction(events):
    @emits("work", conn="conn")
    def rows(conn):
        yield 1
        yield 2

    list(rows(object()))
    next(rows(object()))
    assert events.stats().handed == 2


def test_hand_over_that_fails_is_the_failure(events, monkeypatch):
    def fail(*_args):
        raise ConnectionError

    monkeypatch.setattr(events, "insert", fail)

    @emits("work", conn="conn")
    def rows(conn):
        yield 1

    generator = rows(object())
    next(generator)
    with pytest.raises(ConnectionError):
        generator.close()
    with pytest.raises(ConnectionError):
        list(rows(object()))
    assert [r.error_code for r in events.records if r.phase == "failed"] == ["ConnectionError"] * 2


# Where the events belong, and who sees what.


@three
def test_scope_and_operation_are_the_bodys_alone(events, clock, function):
    generator = function(clock)
    for tenant_seen, operation_seen in generator:
        assert tenant_seen == ACME
        assert operation_seen is not None
        assert here() == (ACME, None)
    assert here() == (ACME, None)


@three
@wherever
def test_consumer_may_be_anywhere(events, clock, function, run):
    with emits("inner") as outer:
        generator = function(clock)
    with tenant(OTHER):
        first = next(generator)
        seen = [first, run(lambda: next(generator)), in_thread(lambda: next(generator))]
        assert run(lambda: (list(generator), here()))[1] in {(None, None), (OTHER, None)}
        assert here() == (OTHER, None)
    assert {tenant_seen for tenant_seen, _ in seen} == {ACME}
    assert len({operation for _, operation in seen}) == 1
    (start,) = [r for r in events.records if r.name == "work_started"]
    (end,) = [r for r in events.records if r.name == "work_completed"]
    assert start.tenant_id == end.tenant_id == ACME
    assert start.parent_operation_id == end.parent_operation_id == outer.id
    assert end.duration_ms == 4000


def test_generator_made_without_a_tenant_is_never_the_consumers():
    with capture_events(TAXONOMY, strict=False) as events:
        generator = echo()
        with tenant(OTHER), emits("inner"):
            list(generator)
        assert [r.name for r in events.records] == ["inner_started", "inner_completed"]
        assert {r.reason for r in events.rejected} == {"tenant_not_set"}
        assert {r.parent_operation_id for r in events.rejected} == {None}


@wherever
def test_pipeline_is_that_of_the_call(events, run):
    @emits("work")
    def body():
        log_event("noted")
        yield 1
        log_event("noted")

    generator = body()
    with capture_events(TAXONOMY, strict=False) as others:
        run(lambda: list(generator))
        assert others.records == []
        assert log_event("noted", tenant=OTHER)
        assert len(others.records) == 1
    assert told(events) == ["work_started", "noted", "noted", "work_completed"]


def test_interleaved_generators_do_not_meet(events, clock):
    @emits("work", tenant="tenant_id")
    def body(tenant_id):
        for _ in range(3):
            clock.tick(1)
            log_event("noted")
            yield here()

    one, two = body(ACME), body(OTHER)
    seen = list(zip(one, two, strict=True))
    assert {pair[0][0] for pair in seen} == {ACME}
    assert {pair[1][0] for pair in seen} == {OTHER}
    for tenant_id in (ACME, OTHER):
        mine = [r for r in events.records if r.tenant_id == tenant_id]
        assert [r.name for r in mine] == ["work_started", *["noted"] * 3, "work_completed"]
        assert {r.parent_operation_id for r in mine if r.name == "noted"} == {mine[0].operation_id}
        assert mine[-1].duration_ms == 3000
    assert here() == (ACME, None)


@wherever
def test_tenant_that_the_body_opens_stays_in_the_body(events, run):
    @emits("work")
    def body():
        with tenant(OTHER):
            yield here()[0]
            yield here()[0]
        yield here()[0]
        log_event("noted")

    generator = body()
    assert next(generator) == OTHER
    assert here() == (ACME, None)
    assert run(lambda: (next(generator), here()[0]))[0] == OTHER
    assert next(generator) == ACME
    assert here() == (ACME, None)
    assert list(generator) == []
    assert {r.tenant_id for r in events.records} == {ACME}


@wherever
def test_tenant_that_the_body_opens_can_be_left_elsewhere(events, run):
    @emits("work")
    def body():
        with tenant(OTHER):
            yield here()[0]
        yield here()[0]

    generator = body()
    next(generator)
    assert run(lambda: next(generator)) == ACME
    generator.close()
    assert here() == (ACME, None)


@wherever
def test_operation_that_the_body_opens_can_be_left_elsewhere(events, run):
    @emits("work")
    def body():
        with emits("inner", tenant=OTHER) as inner:
            yield inner.id
            assert here() == (OTHER, inner.id)
        yield here()

    generator = body()
    inner_id = next(generator)
    assert here() == (ACME, None)
    seen = run(lambda: next(generator))
    generator.close()
    starts = {r.name: r for r in events.records if r.phase == "started"}
    assert seen == (ACME, starts["work_started"].operation_id)
    assert starts["inner_started"].operation_id == inner_id
    assert starts["inner_started"].parent_operation_id == starts["work_started"].operation_id


def test_body_that_is_closed_in_another_thread_ends_once(events, clock):
    generator = emits("work")(body_of_three)(clock)
    next(generator)
    in_thread(generator.close)
    assert outcome(events) == ("work_completed", None, 1000)
    assert here() == (ACME, None)


def test_nested_generators_name_their_parents(events):
    @emits("work")
    def count(item):
        yield item
        if item:
            yield from count(item - 1)

    assert list(count(3)) == [3, 2, 1, 0]
    starts = [r for r in events.records if r.phase == "started"]
    assert [r.data["item"] for r in starts] == ["3", "2", "1", "0"]
    for parent, child in itertools.pairwise(starts):
        assert child.parent_operation_id == parent.operation_id
    assert len(events.records) == 8


def test_generator_that_asks_itself_is_refused_as_ever(events):
    held = []

    @emits("work")
    def body():
        yield next(held[0])

    held.append(body())
    with pytest.raises(ValueError, match="generator already executing"):
        next(held[0])
    held.clear()
    assert told(events) == ["work_started", ("work_failed", "ValueError")]


def test_many_threads_and_generators_do_not_meet(events):
    @emits("work", tenant="tenant_id")
    def body(tenant_id):
        for _ in range(20):
            yield here()[0] == tenant_id

    tenants = [f"018f6f0e-0000-7000-8000-{number:012x}" for number in range(1, 21)]
    generators = [body(each) for each in tenants]
    locks = [threading.Lock() for _ in generators]

    def step(number):
        with locks[number % 20]:
            return next(generators[number % 20])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(step, range(400)))
    for generator in generators:
        assert list(generator) == []
    found = [(r.tenant_id, r.phase) for r in events.records]
    assert sorted(found) == sorted((t, p) for t in tenants for p in ("started", "completed"))


# Whatever a consumer does, the decorated generator does as the undecorated one.


def answering(item):
    """Go on, return, raise or refuse, as it is told."""
    count = 0
    while True:
        try:
            sent = yield count
        except KeyError:
            sent = "go on"
        except GeneratorExit:
            if count > 5:
                return "closed"
            raise
        if sent == "return":
            return count
        if sent == "raise":
            raise LookupError(count)
        count += 1


def attempt(step):
    try:
        return step()
    except BaseException as error:  # noqa: BLE001  # told, and compared
        return type(error), error.args, type(error.__cause__), type(error.__context__)


STEPS = {
    "next": lambda g: next(g),  # noqa: PLW0108  # by name
    "send": lambda g: g.send("on"),
    "return": lambda g: g.send("return"),
    "raise": lambda g: g.send("raise"),
    "throw": lambda g: g.throw(KeyError("k")),
    "fail": lambda g: g.throw(ValueError("v")),
    "stop": lambda g: g.throw(StopIteration(1)),
    "close": lambda g: g.close(),
}


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*["next", "send", "throw"] * 3, *STEPS]),
            st.sampled_from([lambda function: function(), *WHEREVER]),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_it_does_as_the_undecorated_one_whatever_the_consumer_does(steps, returned):
    function = emits("work")((lambda item: answering(item)) if returned else answering)  # noqa: PLW0108
    with capture_events(TAXONOMY, strict=False) as events, tenant(ACME):
        decorated, plain = function("a"), answering("a")
        state, has_run = inspect.getgeneratorstate, False
        for name, run in steps:
            has_run |= name == "next" and state(plain) == inspect.GEN_CREATED
            step = STEPS[name]
            assert attempt(partial(run, partial(step, decorated))) == attempt(partial(step, plain))
            assert state(decorated) == state(plain)
            assert here() == (ACME, None)
        del decorated
        if (has_run or returned) and len(events.records) < 2:
            gc.collect()  # a traceback holds a generator that was never asked
        phases = [record.phase for record in events.records]
        assert phases[:1] == ["started"] * (has_run or returned)
        assert phases[1:] in ([["completed"], ["failed"]] if has_run or returned else [[]])
        assert {record.tenant_id for record in events.records} <= {ACME}


# Memory.


class Big:
    pass


@pytest.mark.parametrize("returned", [False, True], ids=["decorated", "returned"])
def test_nothing_that_passes_is_kept(events, returned):
    def body():
        while True:
            received = yield Big()
            del received

    function = emits("work")((lambda: body()) if returned else body)  # noqa: PLW0108
    gc.disable()
    try:
        generator = function()
        item = weakref.ref(next(generator))
        assert item() is None
        sent = Big()
        held = weakref.ref(sent)
        generator.send(sent)
        del sent
        assert held() is None
        for _ in range(2):
            next(generator)
    finally:
        gc.enable()


def body_that_fails():
    yield 1
    raise LookupError


@pytest.mark.parametrize("function", forms(body_that_fails))
@pytest.mark.parametrize("how", ["end", "throw", "close", "drop"])
def test_run_is_freed_without_the_garbage_collector(events, function, how):
    runs = []

    @emits("work")
    def watch():
        runs.append(weakref.ref(current_operation()))
        yield from function()

    gc.collect()
    gc.disable()
    try:
        for make in (watch, function):
            generator = make()
            next(generator)
            with contextlib.suppress(LookupError):
                if how == "end":
                    list(generator)
                elif how == "throw":
                    generator.throw(LookupError())
                elif how == "close":
                    generator.close()
            held = weakref.ref(generator)
            del generator
            assert held() is None
        assert [run() for run in runs] == [None]
    finally:
        gc.enable()


def test_decorating_leaves_no_cycle(events):
    def decorate():
        def body():
            yield

        return weakref.ref(emits("work")(body))

    gc.disable()
    try:
        assert decorate()() is None
    finally:
        gc.enable()


# What it still is.


@pytest.mark.parametrize("function", forms(inspect.unwrap(echo)))
def test_it_is_a_generator_with_the_bodys_name(events, function):
    generator = function()
    assert inspect.isgenerator(generator)
    assert (generator.__name__, generator.__qualname__) == ("echo", "echo")
    assert inspect.getgeneratorstate(generator) == inspect.GEN_CREATED
    assert not inspect.isawaitable(generator)
    list(generator)
    assert inspect.getgeneratorstate(generator) == inspect.GEN_CLOSED


def test_it_stays_a_generator_function():
    assert inspect.isgeneratorfunction(echo)
    assert not inspect.iscoroutinefunction(echo)
    assert not inspect.isasyncgenfunction(echo)


class Asked:
    def __call__(self, item):
        yield item

    @emits("work")
    def method(self, item):
        yield item

    @emits("work")
    @staticmethod
    def static_below(item):
        yield item

    @staticmethod
    @emits("work")
    def static_above(item):
        yield item

    @emits("work")
    @classmethod
    def class_below(cls, item):
        yield item

    @classmethod
    @emits("work")
    def class_above(cls, item):
        yield item


def stacked():
    def body(item):
        yield item

    @functools.wraps(body)
    def around(*args, **kwargs):
        return body(*args, **kwargs)

    return around


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(emits("work")(Asked()), id="callable object"),
        pytest.param(emits("work")(partial(Asked().__call__)), id="partial"),
        pytest.param(emits("work")(partial(Asked())), id="partial of an object"),
        pytest.param(emits("work")(lambda item: (yield item)), id="lambda"),
        pytest.param(emits("work")(stacked()), id="wraps below"),
        pytest.param(Asked().method, id="method"),
        pytest.param(partial(Asked.method, Asked()), id="method of the class"),
        pytest.param(Asked.static_below, id="static below"),
        pytest.param(Asked().static_above, id="static above"),
        pytest.param(Asked.class_below, id="class below"),
        pytest.param(Asked().class_above, id="class above"),
    ],
)
def test_generators_of_every_kind_record_their_arguments(events, function):
    assert list(function(item="first")) == ["first"]
    assert events.records[0].data == {"item": "first"}
    assert told(events) == ["work_started", "work_completed"]


def test_context_manager_above_is_recorded_by_what_its_body_does(events, clock):
    @contextlib.contextmanager
    @emits("work")
    def opened(item):
        clock.tick(1)
        yield here()
        clock.tick(2)

    with opened("a") as (tenant_seen, operation_seen):
        assert tenant_seen == ACME
        assert operation_seen
        assert here() == (ACME, None)
        clock.tick(100)
    assert outcome(events) == ("work_completed", None, 3000)
    with pytest.raises(StopIteration), opened("b"):
        raise StopIteration
    with pytest.raises(LookupError), opened("c"):
        raise LookupError
    assert [r.error_code for r in events.records if r.phase == "failed"] == [
        "RuntimeError",
        "LookupError",
    ]


def test_context_manager_below_records_that_it_was_made(events):
    @emits("work")
    @contextlib.contextmanager
    def opened():
        yield here()[1]

    with opened() as operation_seen:
        assert operation_seen is None
        assert told(events) == ["work_started", "work_completed"]
