"""Asynchronous generators: what generators do, and what event loops do to them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import weakref

import anyio
import pytest
import trio
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
    outcome,
    told,
)
from tests.capturing import capture_events


@emits("work")
async def echo(item=None):
    """Give back how much was sent."""
    received = []
    while len(received) < 3:
        try:
            sent = yield len(received)
        except KeyError as error:
            sent = error
        if sent is None:
            return
        received.append(sent)


def forms(body):
    """Give a body decorated, and returned by a decorated function."""
    return [
        pytest.param(emits("work")(body), id="decorated"),
        pytest.param(emits("work")(lambda *a, **k: body(*a, **k)), id="returned"),  # noqa: PLW0108
    ]


async def body_of_three(clock):
    for _ in range(3):
        clock.tick(1)
        await asyncio.sleep(0)
        yield here()
    clock.tick(1)


three = pytest.mark.parametrize("function", forms(body_of_three))
on_closes = pytest.mark.parametrize(
    "on_close, told_end",
    [("completed", "work_completed"), ("cancelled", ("work_failed", "cancelled"))],
)


@three
def test_items_are_the_bodys_and_so_is_the_duration(events, clock, function):
    async def main():
        seen = []
        async for item in function(clock):
            seen.append(item)
            clock.tick(100)
            assert here() == (ACME, None)
        return seen

    seen = asyncio.run(main())
    assert len(seen) == 3
    assert set(seen) == {(ACME, end_of(events).operation_id)}
    assert outcome(events) == ("work_completed", None, 4000)


def test_send_and_throw_reach_the_body(events):
    async def main():
        generator = echo()
        with pytest.raises(TypeError, match="can't send non-None value to a just-started"):
            await generator.asend(1)
        assert await anext(generator) == 0
        assert await generator.asend("a") == 1
        assert await generator.athrow(KeyError("thrown")) == 2
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        with pytest.raises(StopAsyncIteration):
            await anext(generator)

    asyncio.run(main())
    assert outcome(events) == ("work_completed", None, 0)


@pytest.mark.parametrize("function", forms(inspect.unwrap(echo)))
def test_exception_thrown_in_is_the_very_object_with_one_frame_of_ours(events, function):
    error = LookupError("mine")

    async def main():
        generator = function()
        await anext(generator)
        await generator.athrow(error)

    with pytest.raises(LookupError) as caught:
        asyncio.run(main())
    assert caught.value is error
    assert error.__context__ is error.__cause__ is None
    assert frames_of(error)[-2:] == ["drive_async", "echo"]
    assert frames_of(error).count("drive_async") == 1
    assert outcome(events) == ("work_failed", "LookupError", 0)


def test_exception_of_the_body_has_one_frame_of_ours(events):
    @emits("work")
    async def fail():
        yield 1
        raise LookupError

    async def main():
        async for _ in fail():
            pass

    with pytest.raises(LookupError) as caught:
        asyncio.run(main())
    assert caught.value.__context__ is None
    assert frames_of(caught.value)[-3:] == ["main", "drive_async", "fail"]


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_stop_iteration_in_the_body_is_a_runtime_error_as_ever(events, kind):
    @emits("work")
    async def fail():
        yield 1
        raise kind

    async def main():
        async for _ in fail():
            pass

    with pytest.raises(RuntimeError, match=f"async generator raised {kind.__name__}"):
        asyncio.run(main())
    assert outcome(events) == ("work_failed", "RuntimeError", 0)


def test_nothing_is_recorded_before_it_is_asked(events):
    async def main():
        await echo().aclose()
        echo()

    asyncio.run(main())
    assert told(events) == []


def test_wrong_arguments_raise_at_the_call(events):
    with pytest.raises(TypeError, match=r"echo\(\) takes from 0 to 1 positional arguments but 2"):
        echo(1, 2)


def test_strict_mode_raises_when_asked_and_before_the_body():
    ran = []

    @emits("work", colour=1)
    async def body():
        ran.append(1)
        yield

    with capture_events(TAXONOMY), tenant(ACME):
        with pytest.raises(InvalidEvent, match="declares no key 'colour'"):
            asyncio.run(anext(body()))  # type: ignore[arg-type]
        assert here() == (ACME, None)
    assert ran == []


def test_without_an_event_for_it_it_is_passed_through(events):
    @emits("nothing")
    async def body():
        try:
            yield (yield 1)
        finally:
            await asyncio.sleep(0)

    async def main():
        generator = body()
        first = await anext(generator), await generator.asend("b")
        await generator.aclose()
        generator = body()
        await anext(generator)
        with pytest.raises(LookupError):
            await generator.athrow(LookupError)
        return first, [item async for item in body()]

    assert asyncio.run(main()) == ((1, "b"), [1, None])


# The end, when the consumer stops early.


@on_closes
@pytest.mark.parametrize("returned", [False, True], ids=["decorated", "returned"])
@pytest.mark.parametrize("how", ["close", "break", "drop", "loop"])
def test_consumer_that_stops_early(events, clock, on_close, told_end, returned, how):  # noqa: PLR0917  # the cases
    finished = []

    async def body():
        try:
            while True:
                clock.tick(1)
                yield 1
        finally:
            await asyncio.sleep(0)
            clock.tick(1)
            finished.append(here())

    decorated = emits("work", on_close=on_close)((lambda: body()) if returned else body)  # noqa: PLW0108
    kept = []

    async def main():
        generator = decorated()
        await anext(generator)
        clock.tick(100)
        if how == "close":
            await generator.aclose()
        elif how == "break":
            async for _ in generator:
                break
            await generator.aclose()
        elif how == "drop":
            del generator
            for _ in range(10):
                await asyncio.sleep(0)
        else:
            kept.append(generator)

    asyncio.run(main())
    kept.clear()
    assert told(events) == ["work_started", told_end]
    end = end_of(events)
    assert finished == [(ACME, end.operation_id)]
    assert end.duration_ms == (3000 if how == "break" else 2000)


def test_loop_that_ends_closes_many_without_a_complaint(events, caplog):
    @emits("work")
    async def body():
        try:
            yield 1
        finally:
            for _ in range(3):
                await asyncio.sleep(0)

    kept = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, told: kept.append(told))
        generators = [body() for _ in range(20)]
        kept.append(generators)
        for generator in generators:
            await anext(generator)

    asyncio.run(main())
    assert len(kept) == 1
    assert told(events).count("work_completed") == 20


@on_closes
def test_body_that_returns_when_it_is_closed(events, on_close, told_end):
    @emits("work", on_close=on_close)
    async def function():
        with contextlib.suppress(GeneratorExit):
            yield 1

    async def main():
        generator = function()
        await anext(generator)
        await generator.aclose()

    asyncio.run(main())
    assert told(events) == ["work_started", told_end]


def test_body_that_goes_on_when_it_is_closed(events):
    @emits("work", on_close="cancelled")
    async def function():
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2
        yield 3

    async def main():
        generator = function()
        await anext(generator)
        with pytest.raises(RuntimeError, match="async generator ignored GeneratorExit"):
            await generator.aclose()
        with contextlib.suppress(StopAsyncIteration):  # CPython has closed it for good
            while True:
                await anext(generator)
        return generator

    asyncio.run(main())
    gc.collect()
    assert len(told(events)) == 2


@on_closes
def test_generator_that_no_loop_can_close_ends_all_the_same(events, on_close, told_end):
    @emits("work", on_close=on_close)
    async def function():
        yield 1

    loop = asyncio.new_event_loop()
    generator = function()
    loop.run_until_complete(anext(generator))
    loop.close()
    del generator
    gc.collect()
    assert told(events) == ["work_started", told_end]
    assert here() == (ACME, None)


@on_closes
def test_returned_generator_that_is_never_asked_ends(events, on_close, told_end):
    async def body():
        yield 1

    emits("work", on_close=on_close)(lambda: body())()  # noqa: PLW0108
    assert told(events) == ["work_started", told_end]


def test_completed_event_joins_the_transaction(events):
    @emits("work", conn="conn")
    async def rows(conn):
        yield 1

    async def main():
        async for _ in rows(object()):
            pass
        generator = rows(object())
        await anext(generator)
        await generator.aclose()

    asyncio.run(main())
    assert events.stats().handed == 2


# Cancellation, timeouts, task groups and cancel scopes.


@emits("work")
async def waiting(seen=None):
    try:
        yield 1
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if seen is not None:
            seen.append(here()[1])
        raise


def test_cancelled_consumer_is_a_failure_with_code_cancelled(events):
    seen = []

    async def consume():
        async for _ in waiting(seen):
            pass

    async def main():
        task = asyncio.create_task(consume())
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task

    asyncio.run(main())
    assert seen == [end_of(events).operation_id]
    assert outcome(events) == ("work_failed", "cancelled", 0)


def test_timeout_around_it_times_out(events):
    async def main():
        async with asyncio.timeout(0.01):
            async for _ in waiting():
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert outcome(events) == ("work_failed", "cancelled", 0)


def test_timeout_in_the_body_across_a_yield_times_out(events):
    @emits("work", errors={TimeoutError: "timeout"})
    async def body():
        async with asyncio.timeout(0.01):
            yield 1
            await asyncio.Event().wait()

    async def main():
        async for _ in body():
            pass

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert outcome(events) == ("work_failed", "timeout", 0)


def test_task_group_in_the_body_works_and_its_tasks_are_children(events):
    @emits("inner")
    async def child():
        await asyncio.sleep(0)

    @emits("work")
    async def body():
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            yield 1
            group.create_task(child())

    async def main():
        async for _ in body():
            await asyncio.sleep(0)

    asyncio.run(main())
    (start,) = [r for r in events.records if r.name == "work_started"]
    inner = [r for r in events.records if r.name == "inner_started"]
    assert [r.parent_operation_id for r in inner] == [start.operation_id] * 2


def test_task_group_around_it_cancels_it(events):
    async def consume():
        async for _ in waiting():
            pass

    async def fail():
        for _ in range(3):
            await asyncio.sleep(0)
        raise LookupError

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(consume())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [type(each) for each in caught.value.exceptions] == [LookupError]
    assert outcome(events) == ("work_failed", "cancelled", 0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancel_scope_in_the_body_and_around_it(events, backend):
    @emits("work")
    async def body():
        with anyio.move_on_after(0.01) as scope:
            yield "in"
            await anyio.sleep_forever()
        yield scope.cancelled_caught
        await anyio.sleep_forever()

    async def main():
        seen = []
        with anyio.move_on_after(0.05) as scope:
            async for item in body():
                seen.append(item)  # noqa: PERF401  # it does not come to its end
        return seen, scope.cancelled_caught

    assert anyio.run(main, backend=backend) == (["in", True], True)
    code = "cancelled" if backend == "asyncio" else "trio.Cancelled"
    assert outcome(events)[:2] == ("work_failed", code)


def test_trio_closes_what_is_left(events):
    finished = []

    @emits("work")
    async def body():
        try:
            yield 1
        finally:
            finished.append(here())

    kept = []

    async def main():
        kept.append(body())
        await anext(kept[0])

    trio.run(main)
    assert told(events) == ["work_started", "work_completed"]
    assert finished == [(ACME, end_of(events).operation_id)]


def test_two_tasks_that_ask_at_once_are_refused_as_ever(events):
    async def main():
        generator = waiting()
        await anext(generator)
        first = asyncio.create_task(anext(generator))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="asynchronous generator is already running"):
            await anext(generator)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())
    assert outcome(events) == ("work_failed", "cancelled", 0)


# Where the events belong, and who sees what.


async def here_too(function):
    return await function()


async def in_task(function):
    return await asyncio.create_task(here_too(function))


async def in_task_of_nowhere(function):
    task = asyncio.get_running_loop().create_task(here_too(function), context=contextvars.Context())
    return await task


@three
@pytest.mark.parametrize("move", [here_too, in_task, in_task_of_nowhere])
def test_consumer_may_be_in_any_task(events, clock, function, move):
    async def main():
        with emits("inner") as outer:
            generator = function(clock)
        with tenant(OTHER):
            seen = [await move(lambda: anext(generator)) for _ in range(3)]
            assert here() == (OTHER, None)
            with pytest.raises(StopAsyncIteration):
                await move(lambda: anext(generator))
            assert here() == (OTHER, None)
        return outer.id, seen

    outer_id, seen = asyncio.run(main())
    (start,) = [r for r in events.records if r.name == "work_started"]
    (end,) = [r for r in events.records if r.name == "work_completed"]
    assert set(seen) == {(ACME, start.operation_id)}
    assert start.tenant_id == end.tenant_id == ACME
    assert start.parent_operation_id == end.parent_operation_id == outer_id
    assert end.duration_ms == 4000


@pytest.mark.parametrize("move", [here_too, in_task, in_task_of_nowhere])
def test_what_the_body_opens_stays_in_the_body_and_can_be_left_elsewhere(events, move):
    @emits("work")
    async def body():
        mine = here()
        with tenant(OTHER):
            with emits("inner") as inner:
                yield 1
                assert here() == (OTHER, inner.id)
            yield 2
            assert here() == (OTHER, mine[1])
        yield 3
        assert here() == mine
        log_event("noted")

    async def main():
        generator = body()
        items = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                items.append(await move(lambda: anext(generator)))
                assert here() == (ACME, None)
        return items

    assert asyncio.run(main()) == [1, 2, 3]
    (noted,) = [r for r in events.records if r.name == "noted"]
    assert noted.tenant_id == ACME
    assert told(events)[-1] == "work_completed"


def test_concurrent_generators_do_not_meet(events):
    @emits("work", tenant="tenant_id")
    async def body(tenant_id):
        for _ in range(5):
            await asyncio.sleep(0)
            yield here()[0] == tenant_id

    async def consume(number):
        tenant_id = f"018f6f0e-0000-7000-8000-{number:012x}"
        return [item async for item in body(tenant_id)]

    async def main():
        return await asyncio.gather(*map(consume, range(1, 51)))

    assert asyncio.run(main()) == [[True] * 5] * 50
    assert len(events.records) == 100
    assert len({(r.tenant_id, r.phase) for r in events.records}) == 100


# Whatever a consumer does, the decorated generator does as the undecorated one.


async def answering(item):
    """Go on, return, raise or refuse, as it is told."""
    count = 0
    while True:
        try:
            sent = yield count
        except KeyError:
            sent = "go on"
        except GeneratorExit:
            await asyncio.sleep(0)
            if count > 5:
                return
            raise
        await asyncio.sleep(0)
        if sent == "return":
            return
        if sent == "raise":
            raise LookupError(count)
        count += 1


async def attempt(move, step, generator):
    try:
        return await move(lambda: step(generator))
    except BaseException as error:  # noqa: BLE001  # told, and compared
        return type(error), error.args, type(error.__cause__), type(error.__context__)


STEPS = {
    "next": lambda g: g.__anext__(),
    "send": lambda g: g.asend("on"),
    "return": lambda g: g.asend("return"),
    "raise": lambda g: g.asend("raise"),
    "throw": lambda g: g.athrow(KeyError("k")),
    "fail": lambda g: g.athrow(ValueError("v")),
    "stop": lambda g: g.athrow(StopAsyncIteration()),
    "close": lambda g: g.aclose(),
}


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*["next", "send", "throw"] * 3, *STEPS]),
            st.sampled_from([here_too, in_task, in_task_of_nowhere]),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_it_does_as_the_undecorated_one_whatever_the_consumer_does(steps, returned):
    function = emits("work")((lambda item: answering(item)) if returned else answering)  # noqa: PLW0108

    async def main():
        decorated, plain = function("a"), answering("a")
        is_new, has_run = True, False
        for name, move in steps:
            has_run |= is_new and name == "next"
            is_new &= name in {"send", "return", "raise"}  # which a new one refuses
            step = STEPS[name]
            done = await attempt(move, step, decorated)
            assert done == await attempt(move, step, plain)
            assert here() == (ACME, None)
        await decorated.aclose()
        return has_run or returned

    with capture_events(TAXONOMY, strict=False) as events, tenant(ACME):
        is_recorded = asyncio.run(main())
        if is_recorded and len(events.records) < 2:
            gc.collect()  # a task's traceback holds a generator that was never asked
        phases = [record.phase for record in events.records]
        assert phases[:1] == ["started"] * is_recorded
        assert phases[1:] in ([["completed"], ["failed"]] if is_recorded else [[]])
        assert {record.tenant_id for record in events.records} <= {ACME}


# Memory.


class Big:
    pass


@pytest.mark.parametrize("returned", [False, True], ids=["decorated", "returned"])
def test_nothing_that_passes_is_kept_and_the_run_is_freed(events, returned):
    runs = []

    async def body():
        runs.append(weakref.ref(current_operation()))
        for _ in range(3):
            received = yield Big()
            del received

    function = emits("work")((lambda: body()) if returned else body)  # noqa: PLW0108

    async def main():
        generator = function()
        item = weakref.ref(await anext(generator))
        assert item() is None
        sent = Big()
        held = weakref.ref(sent)
        await generator.asend(sent)
        del sent
        assert held() is None
        async for _ in generator:
            pass
        held = weakref.ref(generator)
        del generator
        assert held() is None
        assert runs[0]() is None

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


# What it still is.


@pytest.mark.parametrize("function", forms(inspect.unwrap(echo)))
def test_it_is_an_asynchronous_generator_with_the_bodys_name(events, function):
    generator = function()
    assert inspect.isasyncgen(generator)
    assert (generator.__name__, generator.__qualname__) == ("echo", "echo")


def test_it_stays_an_asynchronous_generator_function():
    assert inspect.isasyncgenfunction(echo)
    assert not inspect.iscoroutinefunction(echo)
    assert not inspect.isgeneratorfunction(echo)


class Asked:
    async def __call__(self, item):
        yield item

    @emits("work")
    async def method(self, item):
        yield item

    @emits("work")
    @staticmethod
    async def static_below(item):
        yield item

    @classmethod
    @emits("work")
    async def class_above(cls, item):
        yield item


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(emits("work")(Asked()), id="callable object"),
        pytest.param(emits("work")(functools.partial(Asked().__call__)), id="partial"),
        pytest.param(emits("work")(functools.partial(Asked())), id="partial of an object"),
        pytest.param(Asked().method, id="method"),
        pytest.param(Asked.static_below, id="static below"),
        pytest.param(Asked().class_above, id="class above"),
    ],
)
def test_asynchronous_generators_of_every_kind_record_their_arguments(events, function):
    async def main():
        return [each async for each in function(item="first")]

    assert asyncio.run(main()) == ["first"]
    assert events.records[0].data == {"item": "first"}
    assert told(events) == ["work_started", "work_completed"]


def test_context_manager_above_is_recorded_by_what_its_body_does(events, clock):
    @contextlib.asynccontextmanager
    @emits("work")
    async def opened():
        clock.tick(1)
        try:
            yield here()
        finally:
            await asyncio.sleep(0)
            clock.tick(2)

    async def main():
        async with opened() as (tenant_seen, operation_seen):
            assert tenant_seen == ACME
            assert operation_seen
            assert here() == (ACME, None)
            clock.tick(100)

    asyncio.run(main())
    assert outcome(events) == ("work_completed", None, 3000)
