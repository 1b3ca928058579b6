"""``@emits`` on what is awaited: coroutine functions, and functions that give coroutines."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import warnings

import pytest

from tenantry import Event, current_operation, current_scope, emits, tenant
from tenantry.exceptions import InvalidEvent
from tenantry.testing import FrozenClock
from tests.capturing import capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"
OTHER = "018f6f0e-0000-7000-8000-00000000000b"


class WorkStarted(Event):
    item: str | None = None


class WorkCompleted(Event):
    item: str | None = None
    size: int | None = None


class WorkFailed(Event):
    item: str | None = None
    error_code: str


TAXONOMY = [WorkStarted, WorkCompleted, WorkFailed]


@pytest.fixture
def events():
    with capture_events(TAXONOMY, strict=False) as pipeline, tenant(ACME):
        yield pipeline


@emits("work")
async def work(item: str) -> dict:
    """Work."""
    await asyncio.sleep(0)
    return {"size": len(item)}


class Desk:
    @emits("work")
    async def method(self, item):
        return self

    @emits("work")
    @staticmethod
    async def static(item):
        return item

    @classmethod
    @emits("work")
    async def on_class(cls, item):
        return cls


class AsyncCallable:
    async def __call__(self, item):
        return item


def outcomes(events):
    return [(r.name, r.error_code) for r in events.records if r.phase != "started"]


def test_it_stays_a_coroutine_function():
    assert inspect.iscoroutinefunction(work)
    assert inspect.iscoroutinefunction(Desk().method)
    assert inspect.iscoroutinefunction(Desk.static)
    assert inspect.iscoroutinefunction(Desk.on_class)


def test_start_and_end_are_recorded_around_the_await(events):
    assert asyncio.run(work("abc")) == {"size": 3}
    start, end = events.records
    assert (start.name, start.data) == ("work_started", {"item": "abc"})
    assert (end.name, end.data) == ("work_completed", {"item": "abc", "size": 3})
    assert start.operation_id == end.operation_id


def test_nothing_is_recorded_before_it_is_awaited(events):
    coroutine = work("abc")
    assert events.records == []
    coroutine.close()
    assert events.records == []


@pytest.mark.parametrize("name", ["method", "static", "on_class"])
def test_methods_of_every_kind_record_their_arguments(events, name):
    asyncio.run(getattr(Desk(), name)("i"))
    assert events.records[0].data == {"item": "i"}


@pytest.mark.parametrize(
    "function",
    [AsyncCallable(), functools.partial(AsyncCallable().__call__), functools.partial(work)],
    ids=["callable object", "partial of a method", "partial"],
)
def test_other_callables_that_are_awaited_are_recorded(events, function):
    asyncio.run(emits("work")(function)("i"))
    assert events.records[0].data == {"item": "i"}
    assert events.records[-1].name == "work_completed"


def test_exception_is_the_very_object_and_one_frame_longer(events):
    error = LookupError("mine")

    @emits("work")
    async def fail():
        raise error

    async def main():
        await fail()

    with pytest.raises(LookupError) as caught:
        asyncio.run(main())
    assert caught.value is error
    assert error.__context__ is None
    names = [entry.name for entry in caught.traceback]
    assert names[-3:] == ["main", "_run_awaited", "fail"]
    assert outcomes(events) == [("work_failed", "LookupError")]


def test_cancelled_task_is_a_failure_with_code_cancelled(events):
    async def main():
        begun = asyncio.Event()

        @emits("work")
        async def wait():
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await begun.wait()
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert outcomes(events) == [("work_failed", "cancelled")]


def test_timeout_around_it_still_times_out_and_is_cancelled(events):
    @emits("work")
    async def wait():
        await asyncio.Event().wait()

    async def main():
        async with asyncio.timeout(0):
            await wait()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert outcomes(events) == [("work_failed", "cancelled")]


def test_timeout_inside_is_the_bodys_own_failure(events):
    @emits("work", errors={TimeoutError: "timeout"})
    async def wait():
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    assert outcomes(events) == [("work_failed", "timeout")]


def test_cancellation_that_the_body_survives_is_no_failure(events):
    async def main():
        begun = asyncio.Event()

        @emits("work")
        async def wait():
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return {"size": 1}

        task = asyncio.create_task(wait())
        await begun.wait()
        task.cancel()
        assert await task == {"size": 1}

    asyncio.run(main())
    assert outcomes(events) == [("work_completed", None)]


def test_closed_coroutine_is_a_failure(events):
    @emits("work")
    async def wait():
        await asyncio.Event().wait()

    async def main():
        coroutine = wait()
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert outcomes(events) == [("work_failed", "GeneratorExit")]


def test_concurrent_calls_are_operations_of_their_own(events):
    @emits("work")
    async def child(item):
        await asyncio.sleep(0)
        return current_operation().id

    @emits("work")
    async def parent(item):
        mine = current_operation().id
        children = await asyncio.gather(*(child(f"{item}/{n}") for n in range(5)))
        assert current_operation().id == mine
        return None if len({mine, *children}) == 6 else "mixed up"

    async def main():
        return await asyncio.gather(*(parent(str(n)) for n in range(5)))

    assert asyncio.run(main()) == [None] * 5
    starts = {r.operation_id: r for r in events.records if r.phase == "started"}
    assert len(starts) == 30
    for start in starts.values():
        above = starts.get(start.parent_operation_id)
        assert start.data["item"].partition("/")[0] == (above or start).data["item"]
        assert (above is None) == ("/" not in start.data["item"])
    ends = [r for r in events.records if r.phase == "completed"]
    assert sorted(r.operation_id for r in ends) == sorted(starts)


def test_function_that_gives_a_coroutine_is_timed_until_it_is_awaited():
    clock = FrozenClock()

    async def body():
        clock.tick(2)
        return current_operation().id

    @emits("work", tenant="tenant_id")
    def plain(tenant_id):
        clock.tick(1)
        return body()

    async def main():
        coroutine = plain(OTHER)
        assert current_operation() is None
        assert current_scope().tenant == ACME
        return await coroutine

    with capture_events(TAXONOMY, clock=clock) as events, tenant(ACME):
        operation_id = asyncio.run(main())
        start, end = events.records
        assert operation_id == start.operation_id == end.operation_id
        assert end.duration_ms == 3000
        assert {start.tenant_id, end.tenant_id} == {OTHER}


def test_coroutine_from_a_function_fails_as_it_raises(events):
    async def body():
        raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(emits("work")(lambda: body())())  # noqa: PLW0108  # a plain function
    assert outcomes(events) == [("work_failed", "LookupError")]


def test_conn_hands_the_completed_event_over(events):
    @emits("work", conn="conn")
    async def save(conn):
        return None

    asyncio.run(save(object()))
    assert events.stats().handed == 1


def test_strict_mode_raises_when_awaited_and_before_the_body():
    ran = []

    @emits("work", colour=1)
    async def body():
        ran.append(1)

    with (
        capture_events(TAXONOMY),
        tenant(ACME),
        pytest.raises(InvalidEvent, match="declares no key 'colour'"),
    ):
        asyncio.run(body())
    assert ran == []


def test_wrong_arguments_raise_at_the_call(events):
    with pytest.raises(TypeError, match=r"work\(\) takes 1 positional argument but 3 were given"):
        work(1, 2, 3)
    assert events.records == []


def test_coroutine_keeps_the_names_of_its_function(events):
    coroutine = work("a")
    assert inspect.iscoroutine(coroutine)
    assert (coroutine.__name__, coroutine.__qualname__) == ("work", "work")
    coroutine.close()
    method = Desk().method("a")
    assert method.__qualname__ == "Desk.method"
    method.close()


@pytest.mark.parametrize("configured", [True, False])
def test_coroutine_that_is_never_awaited_is_warned_of_once(configured):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if configured:
            with capture_events(TAXONOMY) as events:
                work("a")
                assert events.records == []
        else:
            work("a")
        gc.collect()
    assert [str(w.message) for w in caught] == ["coroutine 'work' was never awaited"]


def test_coroutine_that_is_closed_before_it_ran_is_silent(events):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work("a").close()
        gc.collect()
    assert caught == []
