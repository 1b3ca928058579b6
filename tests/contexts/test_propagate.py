"""``propagate`` and ``ContextExecutor``: the context of the moment, wherever the call is made."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from multiprocessing import get_context
from uuid import UUID

import pytest
import uuid_utils

from tenantry import (
    PLATFORM,
    ContextExecutor,
    current_operation,
    current_scope,
    emits,
    propagate,
    tenant,
)
from tenantry.exceptions import InvalidTenant, UnsupportedCallable
from tests.contexts.scenes import A, B, happen, tenant_now

own = ContextVar("own", default="nothing")


def in_thread(function, *args):
    """Run in a thread that inherits nothing, and give the result."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*args)))
    thread.start()
    thread.join(20)
    return found[0]


def scope_now() -> tuple | None:
    """Say what is current: tenant, actor, correlation, operation."""
    scope, operation = current_scope(), current_operation()
    return scope and (scope.tenant, scope.actor, scope.correlation, operation and operation.id)


def set_own(value: str) -> tuple[str, str]:
    before = own.get()
    own.set(value)
    return before, own.get()


class Desk:
    def __init__(self, name: str) -> None:
        self.name = name

    def tell(self) -> tuple[str, object]:
        return self.name, tenant_now()


# Calls.


def test_thread_runs_in_the_context_of_the_moment():
    own.set("mine")
    with tenant(A, actor="user:1"):
        carried = propagate(lambda: (tenant_now(), own.get()))
    with tenant(B):
        assert in_thread(carried) == (A, "mine")
        assert carried() == (A, "mine")
        assert tenant_now() == B


def test_timer_and_callbacks_run_in_the_context():
    seen = []
    future: Future[None] = Future()
    with tenant(A):
        timer = threading.Timer(0, propagate(lambda: seen.append(tenant_now())))
        future.add_done_callback(propagate(lambda _: seen.append(tenant_now())))
    timer.start()
    timer.join(20)
    with tenant(B):
        future.set_result(None)
    assert seen == [A, A]


def test_each_call_has_a_copy_of_the_context():
    own.set("before")
    carried = propagate(set_own)
    assert [carried("1"), carried("2")] == [("before", "1"), ("before", "2")]
    assert own.get() == "before"


def test_calls_may_overlap_and_recur():
    met = threading.Barrier(2, timeout=20)

    def meet(depth: int) -> list:
        met.wait()
        return [tenant_now(), *(carried_again() if depth else [])]

    with tenant(A):
        carried = propagate(meet)
        carried_again = propagate(lambda: [tenant_now()])
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(carried, [1, 1])) == [[A, A], [A, A]]


def test_events_of_a_thread_are_part_of_the_operation(events):
    with tenant(A), emits("ingest", source_type="web", url="u", docs=1, chunks=1) as operation:
        in_thread(propagate(happen))
    fact = next(r for r in events.records if r.name == "quota_exceeded")
    assert (fact.tenant_id, fact.parent_operation_id) == (A, operation.id)


def test_no_tenant_is_taken_along_as_none():
    carried = propagate(tenant_now)
    with tenant(A):
        assert carried() is None


def test_exceptions_pass_unchanged():
    error = LookupError("own")

    def fail():
        raise error

    with pytest.raises(LookupError) as caught:
        propagate(fail)()
    assert caught.value is error


def test_metadata_is_that_of_the_function():
    def work(size: int) -> str:
        """Work."""

    work.mark = 1
    carried = propagate(work)
    assert (carried.__name__, carried.__doc__, carried.mark) == ("work", "Work.", 1)
    assert carried.__wrapped__ is work
    assert inspect.signature(carried) == inspect.signature(work)
    assert repr(carried) == f"propagate({work!r})"


def test_propagate_twice_keeps_the_inner_context():
    with tenant(A):
        inner = propagate(tenant_now)
    with tenant(B):
        assert propagate(inner)() == A


@pytest.mark.parametrize("bad", [3, None], ids=["int", "None"])
def test_what_cannot_be_called_is_refused(bad):
    with pytest.raises(UnsupportedCallable, match=r"takes a function, not .*; hand over the argum"):
        propagate(bad)


# Bodies that run later.


async def tell_later():
    await asyncio.sleep(0)
    return tenant_now(), own.get()


@pytest.mark.parametrize(
    "function", [tell_later, functools.partial(tell_later), lambda: tell_later()],  # noqa: PLW0108
    ids=["coroutine function", "partial", "plain function"],
)  # fmt: skip
def test_body_of_a_coroutine_runs_in_the_context(function):
    async def main():
        own.set("mine")
        with tenant(A):
            carried = propagate(function)
        own.set("other")
        with tenant(B):
            awaited = await carried()
            as_task = await asyncio.create_task(carried())
            return awaited, as_task, (tenant_now(), own.get())

    assert asyncio.run(main()) == ((A, "mine"), (A, "mine"), (B, "other"))


def test_coroutine_function_is_seen_to_be_one():
    carried = propagate(tell_later)
    assert inspect.iscoroutinefunction(type(carried).__call__)
    if sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(carried)


def test_timeout_and_cancellation_reach_the_body_of_a_coroutine():
    seen = []

    async def wait():
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(tenant_now())

    async def main():
        with tenant(A):
            carried = propagate(wait)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await carried()
        task = asyncio.create_task(carried())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == [A, A]


def test_bodies_of_generators_run_in_the_context_and_hear_their_consumer():
    heard = []

    def talk():
        try:
            heard.append((yield tenant_now()))
            yield tenant_now()
        except LookupError as error:
            heard.append(type(error))
        yield tenant_now()
        return "end"

    with tenant(A):
        carried = propagate(talk)
    generator = carried()
    assert next(generator) == A
    assert tenant_now() is None
    assert generator.send("hello") == A
    assert generator.throw(LookupError()) == A
    with pytest.raises(StopIteration, match="end"):
        next(generator)
    assert heard == ["hello", LookupError]
    closed = carried()
    next(closed)
    closed.close()


def test_bodies_of_asynchronous_generators_run_in_the_context_and_hear_their_consumer():
    heard = []

    async def talk():
        try:
            heard.append((yield tenant_now()))
            await asyncio.sleep(0)
            yield tenant_now()
        except LookupError as error:
            heard.append(type(error))
        try:
            yield tenant_now()
        finally:
            heard.append(tenant_now())

    async def main():
        with tenant(A):
            carried = propagate(talk)
        with tenant(B):
            generator = carried()
            assert await anext(generator) == A
            assert tenant_now() == B
            assert await generator.asend("hello") == A
            assert await generator.athrow(LookupError()) == A
            await generator.aclose()

    asyncio.run(main())
    assert heard == ["hello", LookupError, A]


# To other processes.


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("not to be pickled")

    def __repr__(self):
        return "7"


@pytest.mark.parametrize(
    "tenant_id, arrives",
    [
        (A, A),
        (UUID(A), A),
        (uuid_utils.UUID(A), A),
        (PLATFORM, PLATFORM),
    ],
    ids=["text", "UUID", "uuid_utils", "PLATFORM"],
)
def test_pickled_it_takes_the_scope_and_the_id_of_the_operation(events, tenant_id, arrives):
    with (
        tenant(tenant_id, actor="user:1", correlation="r"),
        emits("ingest", source_type="web", url="u") as operation,
    ):
        own.set("not pickled")
        pickled = pickle.dumps(propagate(scope_now))
    carried = Context().run(pickle.loads, pickled)
    with tenant(B):
        assert carried() == (arrives, "user:1", "r", operation.id)
        assert tenant_now() == B
    assert pickle.loads(pickle.dumps(carried))() == (arrives, "user:1", "r", operation.id)


@pytest.mark.parametrize("bad", ["nobody", 7, Unpicklable()], ids=["text", "int", "unpicklable"])
def test_pickled_a_bad_id_stays_a_bad_one(events, bad):
    with tenant(bad):
        pickled = pickle.dumps(propagate(happen))
    with tenant(A):
        assert pickle.loads(pickled)() is None
    assert [(r.reason, r.tenant_id) for r in events.rejected] == [("invalid_tenant", None)]
    assert events.rejected[0].detail.startswith(f"{bad!r} (UnknownTenant) is not a tenant id")


def test_pickled_no_tenant_is_none_in_whatever_scope_it_is_called():
    pickled = pickle.dumps(propagate(tenant_now))
    with tenant(A):
        assert pickle.loads(pickled)() is None


def test_pickled_context_of_the_other_process_is_kept_for_what_is_not_ours():
    with tenant(A):
        pickled = pickle.dumps(propagate(set_own))
    own.set("of the worker")
    assert pickle.loads(pickled)("of the task") == ("of the worker", "of the task")
    assert own.get() == "of the worker"


def test_methods_and_coroutine_functions_are_pickled():
    with tenant(A):
        method, function = propagate(Desk("help").tell), propagate(tell_later)
    assert pickle.loads(pickle.dumps(method))() == ("help", A)
    assert asyncio.run(pickle.loads(pickle.dumps(function))())[0] == A


# Executors.


@pytest.fixture(params=["threads", "processes"])
def pool(request):
    if request.param == "threads":
        return ThreadPoolExecutor(2)
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def test_each_task_of_an_executor_has_the_context_of_its_submit(pool):
    with ContextExecutor(pool) as executor:
        assert isinstance(executor, Executor)
        with tenant(A, actor="user:1", correlation="r"):
            first = executor.submit(scope_now)
            mapped = executor.map(divmod_here, [7, 9], [2, 2], timeout=20)
        with tenant(B):
            second = executor.submit(scope_now)
            assert first.result(20) == (A, "user:1", "r", None)
            assert list(mapped) == [(A, 3, 1), (A, 4, 1)]
        assert second.result(20) == (B, None, None, None)
        assert executor.submit(scope_now).result(20) is None
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(scope_now)


def divmod_here(one: int, other: int) -> tuple:
    return tenant_now(), *divmod(one, other)


def test_run_in_executor_takes_the_context(pool):
    async def main():
        loop = asyncio.get_running_loop()
        with tenant(A):
            return await loop.run_in_executor(executor, tenant_now)

    with ContextExecutor(pool) as executor:
        assert asyncio.run(main()) == A


def test_shutdown_passes_its_options_on():
    started, may_end = threading.Event(), threading.Event()

    def block():
        started.set()
        may_end.wait(20)

    executor = ContextExecutor(ThreadPoolExecutor(1))
    executor.submit(block)
    started.wait(20)
    waiting = executor.submit(tenant_now)
    executor.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    may_end.set()
    executor.shutdown()


def test_executor_of_another_library_is_enough():
    class Immediate(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_result(Context().run(fn, *args, **kwargs))
            return future

    with tenant(A):
        assert ContextExecutor(Immediate()).submit(tenant_now).result() == A
        assert list(ContextExecutor(Immediate()).map(divmod_here, [1], [1])) == [(A, 1, 0)]


# What needs nothing.


def test_asyncio_takes_the_context_along_by_itself():
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        with tenant(A):
            loop.call_soon(lambda: seen.append(tenant_now()))
            loop.call_later(0, lambda: seen.append(tenant_now()))
            seen.append(await asyncio.to_thread(tenant_now))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(tell_later())
            seen.append(task.result()[0])
            loop.call_soon_threadsafe(lambda: seen.append(tenant_now()))
        await asyncio.sleep(0.01)
        assert tenant_now() is None

    asyncio.run(main())
    assert seen == [A] * 5


def test_anyio_takes_the_context_along_by_itself():
    anyio = pytest.importorskip("anyio")

    async def main():
        seen = []

        async def child():
            seen.append(tenant_now())
            seen.append(await anyio.to_thread.run_sync(tenant_now))

        with tenant(A):
            async with anyio.create_task_group() as group:
                group.start_soon(child)
        with tenant(B):
            seen.append(await anyio.to_thread.run_sync(tenant_now))
        return seen

    assert anyio.run(main) == [A, A, B]


def test_copied_context_carries_the_scope_after_its_block():
    with tenant(A):
        copied = copy_context()
    assert copied.run(tenant_now) == A
    assert tenant_now() is None


def test_import_of_tenantry_patches_nothing():
    code = (
        "import threading, concurrent.futures as f; a = threading.Thread.start, "
        "f.ThreadPoolExecutor.submit; import tenantry; "
        "assert a == (threading.Thread.start, f.ThreadPoolExecutor.submit)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_strict_mode_refuses_a_bad_id_before_it_could_be_taken_along(strict_events):
    with pytest.raises(InvalidTenant), tenant("nobody"):
        propagate(happen)
