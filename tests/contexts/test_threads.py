"""``instrument_threads``: opt-in, and it restores exactly what was there."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool

import pytest
import wrapt

from tenantry import current_scope, instrument_threads, tenant, threads, uninstrument_threads
from tests.contexts.scenes import A, B, tenant_now

own = ContextVar("own", default="nothing")

PLACES = [
    (threading.Thread, "start"),
    (threading.Thread, "run"),
    (threading.Timer, "start"),
    (threading.Timer, "run"),
    (ThreadPoolExecutor, "submit"),
]


def what_is_there() -> list:
    return [vars(owner).get(name) for owner, name in PLACES]


@pytest.fixture(autouse=True)
def restored():
    before = what_is_there()
    yield
    uninstrument_threads()
    assert what_is_there() == before
    assert threads._patches == []


@pytest.fixture
def instrumented():
    instrument_threads()


def run(thread: threading.Thread) -> None:
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


class Teller(threading.Thread):
    """A thread with a ``run`` of its own."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.told = []

    def run(self) -> None:
        self.told.append((tenant_now(), own.get()))


def test_without_it_threads_and_pools_have_no_tenant():
    teller = Teller()
    with tenant(A), ThreadPoolExecutor(1) as pool:
        run(teller)
        assert pool.submit(tenant_now).result(20) is None
    assert teller.told == [(None, "nothing")]


@pytest.mark.usefixtures("instrumented")
def test_thread_runs_in_the_context_of_its_starter():
    seen = []
    own.set("mine")
    with tenant(B):
        plain = threading.Thread(target=lambda: seen.append((tenant_now(), own.get())))
        timer = threading.Timer(0, lambda: seen.append((tenant_now(), own.get())))
        teller = Teller()
    with tenant(A):
        for thread in (plain, timer, teller):
            run(thread)
    assert seen + teller.told == [(A, "mine")] * 3
    assert tenant_now() is None


@pytest.mark.usefixtures("instrumented")
def test_thread_changes_a_copy_of_the_context():
    own.set("mine")
    run(threading.Thread(target=own.set, args=("other",)))
    assert own.get() == "mine"


@pytest.mark.usefixtures("instrumented")
def test_run_that_was_put_on_the_instance_runs_in_the_context():
    seen = []
    thread = threading.Thread()
    thread.run = lambda: seen.append(tenant_now())
    with tenant(A):
        run(thread)
    assert seen == [A]


@pytest.mark.usefixtures("instrumented")
def test_run_without_start_runs_here():
    teller = Teller()
    with tenant(A):
        teller.run()
    assert [told for told, _ in teller.told] == [A]


@pytest.mark.usefixtures("instrumented")
def test_thread_is_left_as_it_was():
    thread = Teller()
    names = set(vars(thread))
    run(thread)
    assert "run" not in vars(thread)
    assert names >= {name for name in vars(thread) if not name.startswith("_")}
    reference = weakref.ref(thread)
    gc.disable()
    try:
        del thread
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("instrumented")
def test_start_that_fails_leaves_the_thread_as_it_was(monkeypatch):
    thread = threading.Thread(target=tenant_now)
    thread.run = own_run = thread.run
    run(thread)
    with pytest.raises(RuntimeError, match="can only be started once"):
        thread.start()
    assert vars(thread)["run"] is own_run
    del thread.run
    with pytest.raises(RuntimeError, match="can only be started once"):
        thread.start()
    assert "run" not in vars(thread)


@pytest.mark.usefixtures("instrumented")
def test_each_task_of_a_pool_has_the_context_of_its_submit():
    with ThreadPoolExecutor(1) as pool:
        with tenant(A):
            found = [pool.submit(tenant_now).result(20)]
            found += pool.map(lambda _: tenant_now(), [1])
        with tenant(B):
            found.append(pool.submit(tenant_now).result(20))
        found.append(pool.submit(tenant_now).result(20))
    assert found == [A, A, B, None]


@pytest.mark.usefixtures("instrumented")
def test_threads_of_pools_inherit_from_nobody():
    began, seen = [], []
    with tenant(A):
        pool = ThreadPoolExecutor(1, initializer=lambda: began.append(current_scope()))
        future = pool.submit(tenant_now)
        processes = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        done = threading.Event()
        processed = processes.submit(abs, 1)
        processed.add_done_callback(lambda _: (seen.append(tenant_now()), done.set()))
        with ThreadPool(1) as old_pool:
            seen.append(old_pool.apply(tenant_now))
    assert future.result(20) == A
    assert processed.result(20) == 1
    assert done.wait(20)
    pool.shutdown()
    processes.shutdown()
    assert began == [None]
    assert seen == [None, None]


@pytest.mark.usefixtures("instrumented")
def test_run_in_executor_has_the_context():
    async def main():
        loop = asyncio.get_running_loop()
        with tenant(A):
            return [
                await loop.run_in_executor(None, tenant_now),
                await asyncio.to_thread(tenant_now),
            ]

    assert asyncio.run(main()) == [A, A]


@pytest.mark.usefixtures("instrumented")
def test_pool_of_interpreters_is_left_alone():
    class InterpreterPoolExecutor(ThreadPoolExecutor):
        """As Python 3.14 has one: its tasks are pickled."""

    with InterpreterPoolExecutor(1) as pool, tenant(A):
        assert pool.submit(tenant_now).result(20) is None


@pytest.mark.usefixtures("instrumented")
def test_own_context_of_a_thread_counts_for_more(monkeypatch):
    class NewThread(threading.Thread):
        """As in Python 3.14, which takes context=."""

        _context = Context()

        def run(self) -> None:
            seen.append(self._context.run(tenant_now))

    seen = []
    NewThread._context.run(tenant(B).__enter__)
    monkeypatch.setattr(threads, "_HAS_CONTEXT", True)
    with tenant(A):
        run(NewThread())
        teller = Teller()
        run(teller)
    assert seen == [B]
    assert [told for told, _ in teller.told] == [A]


# Patching.


def test_it_is_idempotent():
    instrument_threads()
    once = what_is_there()
    instrument_threads()
    assert what_is_there() == once
    uninstrument_threads()
    uninstrument_threads()


def test_after_uninstrument_threads_start_as_before():
    instrument_threads()
    uninstrument_threads()
    teller = Teller()
    with tenant(A):
        run(teller)
    assert [told for told, _ in teller.told] == [None]


def test_metadata_of_what_is_patched_stays():
    instrument_threads()
    assert threading.Thread.start.__name__ == "start"
    assert concurrent.futures.ThreadPoolExecutor.submit.__doc__ == "".join(
        ThreadPoolExecutor.submit.__doc__
    )


class Other:
    """Patches as opentelemetry-instrumentation-threading does: with wrapt, ``Timer`` apart."""

    places = (*PLACES[:4], PLACES[4])

    def __init__(self) -> None:
        self.carried = ContextVar("carried", default="nothing")
        self.seen = []

    def patch(self) -> None:
        self.before = [(*place, vars(place[0]).get(place[1])) for place in self.places]
        for (owner, name), wrapper in zip(
            self.places, (self.start, self.run, self.start, self.run, self.submit), strict=True
        ):
            wrapt.wrap_function_wrapper(owner, name, wrapper)

    def restore(self) -> None:
        for owner, name, original in self.before:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

    def start(self, wrapped, instance, args, kwargs):
        instance.theirs = self.carried.get()
        return wrapped(*args, **kwargs)

    def run(self, wrapped, instance, args, kwargs):
        token = self.carried.set(instance.theirs)
        try:
            return wrapped(*args, **kwargs)
        finally:
            self.carried.reset(token)

    def submit(self, wrapped, instance, args, kwargs):
        value = self.carried.get()

        def attached(*a, **k):
            token = self.carried.set(value)
            try:
                return args[0](*a, **k)
            finally:
                self.carried.reset(token)

        return wrapped(attached, *args[1:], **kwargs)

    def tell(self) -> tuple:
        return tenant_now(), self.carried.get()


def assert_both_carry(other: Other, expected: object = A) -> None:
    other.carried.set("theirs")
    found = []
    with tenant(A):
        run(threading.Thread(target=lambda: found.append(other.tell())))
        run(threading.Timer(0, lambda: found.append(other.tell())))
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(other.tell).result(20))
    assert found == [(expected, "theirs")] * 3


def test_patch_of_another_library_before_ours():
    other = Other()
    other.patch()
    theirs = what_is_there()
    instrument_threads()
    copy_context().run(assert_both_carry, other)
    uninstrument_threads()
    assert what_is_there() == theirs
    other.restore()


def test_patch_of_another_library_after_ours():
    other = Other()
    instrument_threads()
    ours = what_is_there()
    other.patch()
    copy_context().run(assert_both_carry, other)
    instrument_threads()
    copy_context().run(assert_both_carry, other)
    uninstrument_threads()
    copy_context().run(assert_both_carry, other, None)
    instrument_threads()
    copy_context().run(assert_both_carry, other)
    other.restore()
    assert what_is_there() == ours


def patch_like_sentry(seen: list) -> None:
    """Put a ``run`` on the instance, in ``start``, which calls the one that it found."""
    original = threading.Thread.start

    @functools.wraps(original)
    def start(self, *args, **kwargs):
        found = getattr(self.run, "__func__", self.run)

        def run():
            seen.append("theirs")
            return found(threading.current_thread())

        self.run = run
        return original(self, *args, **kwargs)

    threading.Thread.start = start


@pytest.mark.parametrize("is_first", [True, False], ids=["before ours", "after ours"])
def test_patch_that_puts_run_on_the_instance(is_first, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)
    seen = []
    if is_first:
        patch_like_sentry(seen)
        instrument_threads()
    else:
        instrument_threads()
        patch_like_sentry(seen)
    with tenant(A):
        teller = Teller()
        run(teller)
        run(threading.Thread(target=lambda: seen.append(tenant_now())))
    assert [told for told, _ in teller.told] == [A]
    assert seen == ["theirs", "theirs", A]
    if not is_first:
        threading.Thread.start = threading.Thread.start.__wrapped__
    uninstrument_threads()


def test_patch_of_another_library_that_took_ours_away():
    before = vars(threading.Thread)["start"]
    instrument_threads()
    threading.Thread.start = before
    instrument_threads()
    teller = Teller()
    with tenant(A):
        run(teller)
    assert [told for told, _ in teller.told] == [A]


def test_patch_of_another_library_that_hides_ours():
    instrument_threads()
    ours = vars(threading.Thread)["start"]
    threading.Thread.start = lambda self: ours(self)  # noqa: PLW0108  # without __wrapped__
    instrument_threads()  # so it is patched twice
    teller = Teller()
    with tenant(A):
        run(teller)
    assert [told for told, _ in teller.told] == [A]
    uninstrument_threads()
    threading.Thread.start = ours
    uninstrument_threads()
    threading.Thread.start = ours.__wrapped__
