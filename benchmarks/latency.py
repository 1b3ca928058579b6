"""How long single calls take while the application is busy: threads and tasks that all emit.

``python -m benchmarks.latency NAME SHAPE COUNT SECONDS`` measures once: ``COUNT`` threads (or
asyncio tasks) each do some work in Python, then the call, again and again. The elapsed time of each
call is kept; what is left of the time is the application's own, which is its throughput. Waiting
for the GIL is in it: the plain call shows how much of that is there without any recording.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from array import array
from collections.abc import Iterable
from contextvars import copy_context

from benchmarks.peers import PEERS
from benchmarks.processes import run_module
from benchmarks.results import Measurement, Section
from benchmarks.subject import WARM_UP, Subject, run_burst
from benchmarks.subjects import SUBJECTS

SHAPES = (("threads", 1), ("threads", 4), ("threads", 16), ("tasks", 1000))
COMPARED = {
    "plain": "the plain call",
    "decorated": "@emits",
    "otel_logs": "OpenTelemetry logs",
}
WORK = range(1000)
"""Summed between two calls: some ten microseconds."""

SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def measure(*, rounds: int, seconds: float, quick: bool) -> Section:
    shapes = SHAPES[1:2] if quick else SHAPES
    cases = [(name, *shape) for shape in shapes for name in COMPARED]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            arguments = (case[0], case[1], str(case[2]), str(seconds))
            found[case].append(run_module("benchmarks.latency", *arguments))
    measurements: list[Measurement] = []
    notes: list[str] = []
    for (name, kind, count), runs in found.items():
        label = f"{count:,} {kind if count > 1 else kind[:-1]}, {COMPARED[name]}"
        measurements += [
            Measurement.of(f"{label}: {share}", "us", [run[share] for run in runs])
            for share in SHARES
        ]
        measurements.append(
            Measurement.of(f"{label}: throughput", "calls/s", [run["calls/s"] for run in runs])
        )
        lost = sum(run["lost"] for run in runs) / sum(run["calls"] for run in runs) / 2
        if lost > 0.001:
            notes.append(f"{label}: {lost:.1%} of the records were dropped, which costs less")
    return Section(
        f"Single calls of a busy application, elapsed: {seconds:g} s each",
        tuple(measurements),
        notes=tuple(notes),
    )


def call_in_threads(subject: Subject, count: int, seconds: float) -> list[array[int]]:
    begin = threading.Barrier(count)

    def work(durations: array[int]) -> None:
        call, now, keep, numbers = subject.call, time.perf_counter_ns, durations.append, WORK
        begin.wait()
        end = now() + int(seconds * 1e9)
        before = 0
        while before < end:
            sum(numbers)
            before = now()
            call()
            keep(now() - before)

    kept = [array("q") for _ in range(count)]
    # A thread begins without a tenant: it gets this one's context.
    threads = [
        threading.Thread(target=copy_context().run, args=(work, durations)) for durations in kept
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return kept


async def call_in_tasks(subject: Subject, count: int, seconds: float) -> list[array[int]]:
    durations = array("q")
    end = time.perf_counter_ns() + int(seconds * 1e9)

    async def work() -> None:
        call, now, keep, numbers = subject.call, time.perf_counter_ns, durations.append, WORK
        before = 0
        while before < end:
            sum(numbers)
            before = now()
            call()
            keep(now() - before)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(work())
    return [durations]


def summarise(kept: Iterable[array[int]], seconds: float) -> dict[str, float]:
    durations = sorted(each for part in kept for each in part)
    found = {name: durations[int(len(durations) * share)] / 1000 for name, share in SHARES.items()}
    return {**found, "calls/s": len(durations) / seconds, "calls": len(durations)}


def main(name: str, kind: str, count: int, seconds: float) -> None:
    with {**SUBJECTS, **PEERS}[name]() as subject:
        for _ in range(WARM_UP):
            run_burst(subject)
            subject.catch_up()
        lost = subject.lost()
        begin = time.perf_counter()
        if kind == "threads":
            kept = call_in_threads(subject, count, seconds)
        else:
            kept = asyncio.run(call_in_tasks(subject, count, seconds))
        elapsed = time.perf_counter() - begin
        subject.catch_up()
        found = summarise(kept, elapsed)
        print(json.dumps({**found, "lost": subject.lost() - lost}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
