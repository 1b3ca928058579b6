"""``make bench-short``: what Tenantry adds to a call, in a few seconds, beside a bare wrapt call.

For ``make check``, which prints the figures and never fails because of them. All subjects are in
one process and take turns, burst by burst; a ratio is taken within a turn, so that the load of the
machine does little to it. Compare with the figures of the commit before, on the same machine.
Where ``perf stat`` counts instructions, they are shown as well: they hardly depend on the load.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import Context, copy_context

from benchmarks.peers import PEERS
from benchmarks.processes import ROOT, TIMEOUT
from benchmarks.results import Measurement, Section, print_section
from benchmarks.subject import CALLS, Subject
from benchmarks.subjects import SUBJECTS

NAMES = {
    "wrapt_only": "wrapt alone",
    "unconfigured": "@emits, not configured",
    "sampled_out": "@emits, sampled out",
    "decorated": "@emits, two events",
    "fact": "log_event(QuotaExceeded(…))",
    "otel_logs": "OpenTelemetry, two log records",
}
ROUNDS = 40
CALLS_A_TURN = 200
FLOOR_CALLS = 4000
"""Of wrapt alone, which takes so little that the clock would be part of it."""

COUNTED = ("wrapt_only", "decorated", "fact")
EVENT = "instructions:u"


def main() -> None:
    begin = time.monotonic()
    print_section(measure_ratios())
    if counts_instructions():
        print_section(count_instructions())
    else:
        print("  perf stat counts no instructions here: the ratios are all there is.")
    print(f"\n{time.monotonic() - begin:.0f} s")


def measure_ratios() -> Section:
    with ExitStack() as stack:
        subjects = [(name, *enter(name, stack)) for name in NAMES]
        found: dict[str, list[float]] = {name: [] for name in NAMES}
        for number in range(-3, ROUNDS):  # the first ones warm up
            for name, subject, context in subjects if number % 2 == 0 else reversed(subjects):
                calls = FLOOR_CALLS if name == "wrapt_only" else CALLS_A_TURN
                cpu = context.run(run_turn, subject.call, calls)
                if number >= 0:
                    found[name].append(cpu)
                context.run(subject.catch_up)
    floors = found["wrapt_only"]
    return Section(
        "What a call costs, in calls that wrapt alone forwards: CPU of the calling thread",
        (
            Measurement.of(NAMES["wrapt_only"], "us", [floor * 1e6 for floor in floors]),
            *(
                Measurement.of(
                    label, "x", [a / b for a, b in zip(found[name], floors, strict=True)]
                )
                for name, label in NAMES.items()
                if name != "wrapt_only"
            ),
            Measurement.of(
                "@emits, two events / OpenTelemetry, two log records",
                "x",
                [a / b for a, b in zip(found["decorated"], found["otel_logs"], strict=True)],
            ),
        ),
    )


def enter(name: str, stack: ExitStack) -> tuple[Subject, Context]:
    """Begin a subject in a context of its own: each has its pipeline and its tenant there."""
    context = copy_context()
    manager = {**SUBJECTS, **PEERS}[name]()
    subject = context.run(manager.__enter__)
    stack.callback(context.run, manager.__exit__, None, None, None)
    return subject, context


def run_turn(call: Callable[[], object], calls: int) -> float:
    """Give the CPU seconds of one call."""
    begin = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - begin) / calls


def counts_instructions() -> bool:
    return shutil.which("perf") is not None and run_counted("-c", "pass") is not None


def run_counted(*arguments: str) -> int | None:
    """Give the instructions of Python's main thread alone; None where they are not counted."""
    done = subprocess.run(
        ["perf", "stat", "--no-inherit", "-x", ",", "-e", EVENT, sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        cwd=ROOT,
        # The same order of sets and dicts of text in each run.
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "0"},
    )
    found = re.search(rf"^(\d+),[^,]*,{EVENT}", done.stderr, re.MULTILINE)
    return int(found[1]) if found and done.returncode == 0 and int(found[1]) > 0 else None


def count_instructions() -> Section:
    few, many = 3, 13
    measurements: list[Measurement] = []
    for name in COUNTED:
        # The difference leaves out what starting and ending take.
        less, more = (
            run_counted("-m", "benchmarks.subjects", name, str(bursts)) for bursts in (few, many)
        )
        if less is not None and more is not None:
            each = (more - less) / ((many - few) * CALLS)
            measurements.append(Measurement.of(NAMES[name], "instructions", [each]))
    return Section("Instructions of the calling thread, a call", tuple(measurements))


if __name__ == "__main__":
    main()
