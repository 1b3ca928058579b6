"""Exceptions that come into our code from outside leave it; what our own work raises does not."""

from __future__ import annotations

import contextvars
import ctypes
import functools
import signal
import threading

import pytest

from tenantry import Event, current_operation, emits, log_event, tenant
from tenantry.interruptions import is_interruption
from tests.capturing import capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"


class SoftTimeLimitExceeded(Exception):
    """As Celery's worker raises it from a signal handler, into whatever runs."""


class JobTimeout(ValueError):
    """One that is a ValueError as well."""


class WorkStarted(Event):
    item: str | None = None


class WorkCompleted(Event):
    item: str | None = None


class WorkFailed(Event):
    error_code: str


TAXONOMY = [WorkStarted, WorkCompleted, WorkFailed]


@pytest.fixture
def events():
    with capture_events(TAXONOMY, strict=False) as pipeline, tenant(ACME):
        yield pipeline


def raise_by_function(kind):
    def handler(signum, frame):
        raise kind

    return handler


def raise_by_any_arguments(kind):
    def handler(*_):
        raise kind

    return handler


def raise_by_method(kind):
    class Timeout:
        def handle(self, signum, frame):
            self.give_up()

        def give_up(self):
            raise kind

    return Timeout().handle


def raise_by_partial(kind):
    return functools.partial(lambda label, signum, frame: {}[label], kind)


@pytest.fixture
def on_usr2():
    """Give a function that installs a handler, and one that has it called here and now."""
    before = signal.getsignal(signal.SIGUSR2)
    yield functools.partial(signal.signal, signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, before)


def interrupt(*_args, **_kwargs):
    signal.raise_signal(signal.SIGUSR2)


handlers = pytest.mark.parametrize(
    "make, kind",
    [
        (raise_by_function, SoftTimeLimitExceeded),
        (raise_by_function, RuntimeError),
        (raise_by_any_arguments, SoftTimeLimitExceeded),
        (raise_by_method, SoftTimeLimitExceeded),
        (raise_by_partial, KeyError),
    ],
)


def work(item=None):
    return emits("work")(lambda item: item)(item)


def block():
    with emits("work"):
        pass


def generate():
    return list(emits("work")(lambda: (yield 1))())


calls = pytest.mark.parametrize("call", [work, block, generate], ids=["call", "block", "generator"])


@calls
@handlers
@pytest.mark.parametrize("place", ["accept", "new_id", "perf_counter_ns"])
def test_what_a_signal_handler_raises_in_our_code_leaves_it(  # noqa: PLR0917  # the cases
    events, on_usr2, monkeypatch, call, make, kind, place
):
    on_usr2(make(kind))
    monkeypatch.setattr(events, place, interrupt)
    with pytest.raises(kind):
        contextvars.copy_context().run(call)
    monkeypatch.undo()
    assert current_operation() is None
    call()
    assert events.names[-2:] == ["work_started", "work_completed"]
    assert events.stats().dropped.get("internal_error", 0) == 0


@handlers
def test_it_leaves_log_event(events, on_usr2, monkeypatch, make, kind):
    on_usr2(make(kind))
    for place in ("accept", "new_id"):
        with monkeypatch.context() as patch:
            patch.setattr(events, place, interrupt)
            with pytest.raises(kind):
                log_event("work_started")


@handlers
def test_it_leaves_where_the_application_is_asked(events, on_usr2, make, kind):
    """A validator's own exception is a reason to refuse; one that came into it is not."""
    on_usr2(make(kind))

    class Interrupted:
        item = property(interrupt)

    for option in ("tenant", "actor", "conn", "failed_if", "result"):
        with pytest.raises(kind):
            emits("work", **{option: interrupt})(lambda: 1)()
    with pytest.raises(kind):
        emits("work")(lambda: Interrupted())()  # noqa: PLW0108  # a class is refused
    with pytest.raises(kind):
        emits("work", fields=Keys())
    with pytest.raises(kind):
        log_event("work_started", fields=Keys())


class Keys:
    def keys(self):
        interrupt()


def test_it_leaves_validation(on_usr2):
    class Odd(Event, name="odd"):
        item: str

        def model_post_init(self, _context):
            interrupt()

    on_usr2(raise_by_function(SoftTimeLimitExceeded))
    with (
        capture_events([Odd], strict=False),
        tenant(ACME),
        pytest.raises(SoftTimeLimitExceeded),
    ):
        log_event("odd", item="a")


def test_operation_that_was_interrupted_as_it_started_has_failed(events, on_usr2, monkeypatch):
    on_usr2(raise_by_function(SoftTimeLimitExceeded))
    accept = events.accept

    def accept_and_interrupt(*args, **kwargs):
        accept(*args, **kwargs)
        monkeypatch.setattr(events, "accept", accept)
        interrupt()

    monkeypatch.setattr(events, "accept", accept_and_interrupt)
    ran = []
    with pytest.raises(SoftTimeLimitExceeded):
        emits("work")(ran.append)("a")
    assert ran == []
    assert events.names == ["work_started", "work_failed"]
    assert events.records[-1].error_code.endswith("SoftTimeLimitExceeded")
    assert current_operation() is None


def test_operation_that_was_interrupted_as_it_ended_is_not_left_open(events, on_usr2, monkeypatch):
    closed = []
    on_usr2(raise_by_function(SoftTimeLimitExceeded))
    close = events.close_operation
    monkeypatch.setattr(
        events, "close_operation", lambda *a, **k: (closed.append(a), close(*a, **k))
    )
    accept, seen = events.accept, []

    def interrupt_the_second(*args, **kwargs):
        seen.append(args)
        if len(seen) == 2:
            interrupt()
        accept(*args, **kwargs)

    monkeypatch.setattr(events, "accept", interrupt_the_second)
    with pytest.raises(SoftTimeLimitExceeded):
        work("a")
    assert len(closed) == 1


def test_what_another_thread_puts_into_ours_leaves_it(events, monkeypatch):
    put = functools.partial(
        ctypes.pythonapi.PyThreadState_SetAsyncExc,
        ctypes.c_ulong(threading.get_ident()),
        ctypes.py_object(SoftTimeLimitExceeded),
    )
    monkeypatch.setattr(events, "new_id", put)
    with pytest.raises(SoftTimeLimitExceeded):
        work()


@pytest.mark.parametrize("place", ["accept", "new_id"])
def test_mistakes_of_our_own_still_do_no_harm(events, monkeypatch, place):
    def fail(*_args, **_kwargs):
        raise RuntimeError("no signal handler")

    monkeypatch.setattr(events, place, fail)
    assert work("a") == "a"
    assert current_operation() is None


def test_exception_that_is_still_being_raised_is_none():
    assert not is_interruption(LookupError())
