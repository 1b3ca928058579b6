"""Plain functions whose work goes on after they returned, and coroutines that move."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import inspect
import sys
import types
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenantry import current_operation, emits, tenant
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


async def body(clock):
    clock.tick(2)
    await asyncio.sleep(0)
    return here()


@emits("work")
async def coroutine_function(clock):
    return await body(clock)


@emits("work")
def returns_coroutine(clock):
    clock.tick(1)
    return body(clock)


@emits("work")
def returns_task(clock):
    clock.tick(1)
    return asyncio.get_running_loop().create_task(body(clock))


@pytest.mark.parametrize(
    "function, duration",
    [(coroutine_function, 2000), (returns_coroutine, 3000), (returns_task, 3000)],
)
def test_duration_is_until_the_work_is_done(events, clock, function, duration):
    async def main():
        awaitable = function(clock)
        assert here() == (ACME, None)
        return await awaitable

    seen = asyncio.run(main())
    assert seen == (ACME, end_of(events).operation_id)
    assert outcome(events) == ("work_completed", None, duration)


@pytest.mark.parametrize("function", [coroutine_function, returns_coroutine])
@pytest.mark.parametrize("run", [in_thread, in_empty_context, in_copied_context])
def test_events_belong_where_the_call_was_made(events, clock, function, run):
    with emits("inner") as outer:
        coroutine = function(clock)
    with tenant(OTHER):
        seen = run(lambda: asyncio.run(coroutine))
        assert here() == (OTHER, None)
    (start,) = [r for r in events.records if r.name == "work_started"]
    (end,) = [r for r in events.records if r.name == "work_completed"]
    assert seen == (ACME, start.operation_id)
    assert start.tenant_id == end.tenant_id == ACME
    assert start.parent_operation_id == end.parent_operation_id == outer.id


def test_coroutine_made_without_a_tenant_is_never_the_awaiters(clock):
    with capture_events(TAXONOMY, strict=False, clock=clock) as events:
        coroutine = coroutine_function(clock)
        with tenant(OTHER):
            asyncio.run(coroutine)
        assert events.records == []
        assert {r.reason for r in events.rejected} == {"tenant_not_set"}


@pytest.mark.parametrize("function", [coroutine_function, returns_coroutine])
def test_exception_has_one_frame_of_ours(events, function):
    error = LookupError()

    class Clock:
        def tick(self, seconds):
            if seconds == 2:
                raise error

    with pytest.raises(LookupError) as caught:
        asyncio.run(function(Clock()))
    ours = {"run", "_run_awaited", "finish_awaited", "_follow"}
    names = frames_of(caught.value)
    runner = names.index("run_until_complete")
    assert len([name for name in names[runner + 1 :] if name in ours]) == 1
    assert error.__context__ is None
    assert outcome(events) == ("work_failed", "LookupError", 0)


@pytest.mark.parametrize("function", [coroutine_function, returns_coroutine, returns_task])
def test_cancellation_is_a_failure_with_code_cancelled(events, clock, function):
    async def main():
        async def consume():
            return await function(clock)

        task = asyncio.create_task(consume())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(main())
    assert outcome(events)[:2] == ("work_failed", "cancelled")


def test_returned_coroutine_that_is_never_awaited_ends_as_abandoned(events, clock):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        returns_coroutine(clock)
        gc.collect()
    assert [str(w.message) for w in caught] == ["coroutine 'body' was never awaited"]
    caught.clear()  # a warning keeps its coroutine
    assert outcome(events) == ("work_failed", "abandoned", 1000)
    assert here() == (ACME, None)


def test_returned_coroutine_keeps_its_name(events, clock):
    coroutine = returns_coroutine(clock)
    assert inspect.iscoroutine(coroutine)
    assert (coroutine.__name__, coroutine.__qualname__) == ("body", "body")
    coroutine.close()
    del coroutine
    assert told(events) == ["work_started", ("work_failed", "abandoned")]


# Futures.


def test_task_is_the_very_object(events, clock):
    made = []

    @emits("work")
    def start():
        made.append(asyncio.get_running_loop().create_task(body(clock)))
        return made[0]

    async def main():
        task = start()
        assert task is made[0]
        await task

    asyncio.run(main())


def test_future_of_an_executor_is_followed(events, clock):
    with ThreadPoolExecutor(1) as pool:

        @emits("work")
        def submit():
            return pool.submit(lambda: {"size": 3})

        assert submit().result(10) == {"size": 3}
    assert end_of(events).data == {"size": 3}
    assert here() == (ACME, None)


def test_future_that_is_done_already_ends_at_once(events):
    @emits("work")
    def start():
        future = concurrent.futures.Future()
        future.set_exception(LookupError())
        return future

    assert isinstance(start().exception(), LookupError)
    assert outcome(events) == ("work_failed", "LookupError", 0)


def test_future_of_a_closed_loop_that_is_done_ends_at_once(events):
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_result({"size": 3})
    loop.close()
    assert emits("work")(lambda: future)() is future
    assert end_of(events).data == {"size": 3}
    assert here() == (ACME, None)


def test_future_that_is_cancelled(events):
    @emits("work")
    def start():
        return concurrent.futures.Future()

    assert start().cancel()
    assert outcome(events) == ("work_failed", "cancelled", 0)


def test_future_whose_exception_nobody_reads_is_told_by_asyncio_as_ever(events):
    complaints = []

    async def fail():
        raise LookupError

    @emits("work")
    def start():
        return asyncio.get_running_loop().create_task(fail())

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        start()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(main())
    assert [c["message"] for c in complaints] == ["Task exception was never retrieved"]
    assert outcome(events) == ("work_failed", "LookupError", 0)


def test_future_that_is_dropped_ends_as_abandoned(events):
    @emits("work")
    def start():
        return concurrent.futures.Future()

    start()
    assert outcome(events) == ("work_failed", "abandoned", 0)


def test_future_with_its_own_idea_of_a_result_is_a_failure(events):
    class Odd(concurrent.futures.Future):
        def result(self, timeout=None):
            raise LookupError

    @emits("work")
    def start():
        future = Odd()
        future.set_result(1)
        return future

    start()
    assert outcome(events) == ("work_failed", "LookupError", 0)


def test_conn_takes_the_completed_event_of_a_future(events):
    @emits("work", conn="conn")
    def start(conn):
        future = concurrent.futures.Future()
        future.set_result(None)
        return future

    start(object())
    assert events.stats().handed == 1


def test_run_of_a_future_is_freed(events):
    runs = []

    @emits("work")
    def start():
        runs.append(weakref.ref(current_operation()))
        return concurrent.futures.Future()

    gc.disable()
    try:
        future = start()
        future.set_result(1)
        del future
        assert runs[0]() is None
    finally:
        gc.enable()


# Other awaitables.


@types.coroutine
def old_style(item):
    yield
    return item


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(emits("work")(old_style), id="decorated"),
        pytest.param(emits("work")(lambda item: old_style(item)), id="returned"),  # noqa: PLW0108
    ],
)
def test_generator_that_can_be_awaited_still_can(events, function):
    async def main():
        return await function("a")

    assert asyncio.run(main()) == "a"
    assert told(events) == ["work_started", "work_completed"]


def test_generator_function_that_is_marked_a_coroutine_function(events):
    if sys.version_info < (3, 12):
        pytest.skip("inspect.markcoroutinefunction came with Python 3.12")

    @emits("work")
    @inspect.markcoroutinefunction
    def marked(item):
        return old_style(item)

    async def main():
        return await marked("a")

    assert inspect.iscoroutinefunction(marked)
    assert asyncio.run(main()) == "a"
    assert told(events) == ["work_started", "work_completed"]


class Awaitable:
    def __await__(self):
        yield


def test_other_awaitable_has_no_outcome_and_one_warning(events, caplog):
    @emits("work")
    def start():
        return Awaitable()

    async def main():
        await start()
        await start()

    asyncio.run(main())
    assert told(events) == ["work_started"] * 2
    (warning,) = caplog.messages
    assert "returned a Awaitable, whose end is not seen; no outcome is recorded" in warning
    assert here() == (ACME, None)
