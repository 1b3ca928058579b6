"""A subject: what is called, in bursts, while the CPU of the calling thread is measured.

Knows neither Tenantry nor what it is compared with: those are in ``subjects`` and ``peers``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

CALLS = 1000
"""Calls in a burst."""

WARM_UP = 3
"""Bursts before it counts: caches, specialised bytecode, and the second journal segment."""

SUSTAINED = 20
"""Bursts without a pause between them, of the sustained subjects."""

PAUSE = 0.02
"""Seconds of rest after the background thread has caught up."""

BUSY_THREADS = 4

TENANT = "018f6f0e-0000-7000-8000-000000000001"
ACTOR = "user:42"
URL = "https://example.com/handbook"


@dataclass(slots=True)
class Report:
    docs: int
    chunks: int


REPORT = Report(3, 41)


def ingest(source_type: str, url: str) -> Report:  # noqa: ARG001  # the arguments are what is recorded
    return REPORT


@dataclass
class Subject:
    """One thing to call, and to wait for in the pauses; ``lost`` counts what was thrown away.

    ``call_in_loop`` makes what is awaited, within the event loop of each burst.
    """

    call: Callable[[], object]
    catch_up: Callable[[], object] = lambda: None
    lost: Callable[[], int] = lambda: 0
    bursts_without_pause: int = 1
    runs_in_loop: bool = False
    call_in_loop: Callable[[], Callable[[], object]] | None = None


@contextmanager
def busy_threads() -> Iterator[None]:
    """Keep the GIL wanted: threads that compute, in Python, all the time."""
    stopping = threading.Event()

    def compute() -> None:
        while not stopping.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=compute, daemon=True) for _ in range(BUSY_THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(timeout=10)


def run_burst(subject: Subject) -> tuple[float, float]:
    """Call it some thousand times; gives this thread's CPU, and the wall time, in seconds."""
    call = subject.call
    calls = range(CALLS * subject.bursts_without_pause)
    if subject.runs_in_loop:
        return asyncio.run(_await_all(lambda: call, calls))
    if subject.call_in_loop is not None:
        return asyncio.run(_await_all(subject.call_in_loop, calls))
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in calls:
        call()
    return time.thread_time() - cpu, time.perf_counter() - wall


async def _await_all(
    make_call: Callable[[], Callable[[], object]], calls: range
) -> tuple[float, float]:
    call = make_call()
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in calls:
        await call()  # type: ignore[misc]
    return time.thread_time() - cpu, time.perf_counter() - wall


def measure(made: AbstractContextManager[Subject], bursts: int) -> dict[str, float]:
    """Give microseconds a call, as the mean of all bursts: rotations and collections count."""
    cpu = wall = 0.0
    with ExitStack() as stack:
        subject = stack.enter_context(made)
        for _ in range(WARM_UP):
            run_burst(subject)
            subject.catch_up()
        lost_before = subject.lost()
        for _ in range(bursts):
            burst_cpu, burst_wall = run_burst(subject)
            cpu += burst_cpu
            wall += burst_wall
            subject.catch_up()
            time.sleep(PAUSE)
        lost = subject.lost() - lost_before
    calls = bursts * CALLS * subject.bursts_without_pause
    return {"cpu": cpu / calls * 1e6, "wall": wall / calls * 1e6, "lost": lost, "calls": calls}


def main(subjects: Mapping[str, Callable[[], AbstractContextManager[Subject]]]) -> None:
    """Measure the one that the command line names, in so many bursts, and print JSON."""
    print(json.dumps(measure(subjects[sys.argv[1]](), int(sys.argv[2]))))
