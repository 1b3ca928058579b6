"""Emits from where Python calls back in the middle of an append or a flush.

Usage: reentrant.py DSN JOURNAL ACKNOWLEDGED WAY EVENTS. Prints as JSON how often it was called
back, how often within an emission and within a flush, and how many events are to be rejected.
"""

import atexit
import gc
import json
import logging
import os
import signal
import sys
import threading
import weakref

from tenantry import Pipeline, log_event

LONG = "x" * 1_500
TENANT = "018f6f0e-0000-7000-8000-000000000001"
EMITTING = {"log_event"}
FLUSHING = {"flush", "_ship", "_round"}

dsn, journal, path, way, count = sys.argv[1:]
acknowledgements = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
seen = {
    "calls": 0,
    "within an emission": 0,
    "within a flush": 0,
    "within a rotation": 0,
    "rejected": 0,
}
calling = threading.local()


def note(line: str | None) -> None:
    if line is not None:
        os.write(acknowledgements, f"{line}\n".encode())


def tick(**data: object) -> None:
    note(log_event("tick", tenant=TENANT, **data))


def call_back(*_: object) -> None:
    """Emit, unless it is this very call that calls back."""
    if getattr(calling, "back", False):
        return
    calling.back = True
    try:
        observe()
        with pipeline:
            tick(way=way)
    finally:
        calling.back = False


def observe() -> None:
    names = set()
    frame = sys._getframe(2)
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    seen["within a rotation"] += "_append_rotating" in names
    seen["calls"] += 1
    seen["within an emission"] += bool(names & EMITTING)
    seen["within a flush"] += bool(names & FLUSHING)


class Cycle:
    """Found by the collector only, which runs whenever something is allocated."""

    def __init__(self) -> None:
        self.itself = self


class Destroyed(Cycle):
    def __del__(self) -> None:
        call_back()


class Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        call_back()


def at_exit(before: str) -> None:
    with pipeline:
        tick(registered=before)
        if before == "after":
            pipeline.flush(5)
            tick(registered=before)


def report() -> None:
    sys.stdout.write(json.dumps(seen))
    sys.stdout.flush()


def hook(kind: type, error: BaseException, traceback: object) -> None:
    call_back()
    pipeline.flush(5)
    report()


atexit.register(at_exit, "before")
pipeline = Pipeline(
    dsn=dsn,
    journal=journal,
    open_taxonomy=["tick"],
    ship_interval=0.005,
    journal_max_bytes=2**30,
)
atexit.register(at_exit, "after")
pipeline._journal.shelf.segment_bytes = 32 * 1024  # rotations: they open, map and rename files
kept: list[object] = []
if way == "signal":
    signal.signal(signal.SIGALRM, call_back)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0001)
elif way == "logging":
    logging.getLogger().addHandler(Handler())
elif way == "audit":
    sys.addaudithook(lambda event, arguments: call_back())
elif way == "excepthook":
    sys.excepthook = hook
    threading.excepthook = call_back


def emit_beside() -> None:
    with pipeline:
        for number in range(int(count)):
            tick(beside=number, text=LONG)


beside = threading.Thread(target=emit_beside)
beside.start()
with pipeline:
    for number in range(int(count)):
        if way in {"__del__", "weakref"}:
            # The collector runs after some more allocations: within the next calls.
            gc.disable()
            gc.set_threshold(gc.get_count()[0] + number % 40)
        if way == "__del__":
            Destroyed()
        elif way == "weakref":
            cycle = Cycle()
            kept.append(weakref.ref(cycle, call_back))
            del cycle, kept[:-50]
        if way == "logging" and number % 10 == 0:
            assert log_event("nobody_declares_this", tenant=TENANT) is None
            pipeline._warned.clear()  # the next one logs again
            seen["rejected"] += 1
        elif way == "excepthook" and number % 10 == 0:
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
        gc.enable()
        tick(number=number, text=LONG)
        if number % 50 == 0:
            assert pipeline.flush(20)
signal.setitimer(signal.ITIMER_REAL, 0)
beside.join()
if way == "excepthook":
    raise RuntimeError("nobody handles this")
report()
