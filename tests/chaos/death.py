"""Death of the process: what was accepted is stored, by the next process or by ``tenantry drain``.

Each cell lets the same happen twice: a command drains after the first, a process that starts after
the second.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import Final, Literal

from tests.chaos.harness import Field, Truth, cell, wait_until

GROUP: Final = "Death of the process"

THREADS: Final = 4
"""Of ``load.py``: as many calls may be under way, or just returned, in the moment of a death."""

_FROM_WITHIN: Final = {
    "exit without flush": ("", 0),
    "sys.exit": ("exit", 3),
    "sys.exit in a thread": ("exit in a thread", 0),
    "unhandled exception": ("raise", 1),
    "unhandled exception in a thread": ("raise in a thread", 0),
    "os._exit": ("_exit", 3),
    "os.abort": ("abort", -signal.SIGABRT),
    "segmentation fault in C code (faulthandler)": ("segfault", -signal.SIGSEGV),
    "null pointer read in C code (ctypes)": ("null pointer", -signal.SIGSEGV),
}

_FROM_WITHOUT: Final = {
    "SIGTERM, no handler": (signal.SIGTERM, "none", -signal.SIGTERM),
    "SIGTERM, a handler that emits and exits": (signal.SIGTERM, "handler", 7),
    "SIGINT, no handler": (signal.SIGINT, "none", -signal.SIGINT),
    "SIGINT, a handler that emits and exits": (signal.SIGINT, "handler", 7),
}

_WITHIN_A_BATCH: Final = ("cursor moved", "rows stored", "committed")


def twice(field: Field, happen: Callable[[], None], *, more: int = 0, each: int = 1) -> Truth:
    happen()
    drained = field.drain()
    assert drained.code == 0, drained.output + drained.errors
    assert field.journals() == []
    happen()
    return Truth(times=2 * each, more=2 * each * more, drain="next process")


def _end_from_within(name: str, ending: str, code: int) -> None:
    @cell(GROUP, name)
    def end_from_within(field: Field) -> Truth:
        def happen() -> None:
            count = field.scale.of(short=100, full=1_000)
            done = field.run("load.py", field.dsn, field.journal, field.acknowledged, ending, count)
            assert done.code == code, (done.code, done.errors)

        return twice(field, happen)


def _end_from_without(name: str, number: int, ending: str, code: int) -> None:
    @cell(GROUP, name)
    def end_from_without(field: Field) -> Truth:
        def happen() -> None:
            goal = field.size() + random.randint(1, field.scale.of(short=40_000, full=200_000))
            process = field.start("load.py", field.dsn, field.journal, field.acknowledged, ending)
            wait_until(lambda: field.size() > goal)
            process.signal(number)
            assert process.wait() == code, process.errors

        return twice(field, happen, more=THREADS)


for _name, (_ending, _code) in _FROM_WITHIN.items():
    _end_from_within(_name, _ending, _code)
for _name, (_number, _ending, _code) in _FROM_WITHOUT.items():
    _end_from_without(_name, _number, _ending, _code)


@cell(GROUP, "SIGKILL in the middle of an append")
def killed_within_an_append(field: Field) -> Truth:
    def happen() -> None:
        done = field.run("load.py", field.dsn, field.journal, field.acknowledged, "append", 100)
        assert done.code == -signal.SIGKILL, done.errors

    # The torn line was the last: nobody knows of it any more, neither the books nor the tallies.
    return twice(field, happen)


def _kill_within_a_batch(point: str) -> None:
    @cell(GROUP, f"SIGKILL in the middle of a batch: {point}")
    def killed_within_a_batch(field: Field) -> Truth:
        def happen() -> None:
            done = field.run("load.py", field.dsn, field.journal, field.acknowledged, point)
            assert done.code == -signal.SIGKILL, done.errors

        return twice(field, happen, more=THREADS)


for _point in _WITHIN_A_BATCH:
    _kill_within_a_batch(_point)


def _kill_at_random(name: str, drain: Literal["command", "next process"]) -> None:
    @cell(GROUP, f"SIGKILL at random under 4 threads, then {name}")
    def killed_at_random(field: Field) -> Truth:
        kills = field.scale.of(short=6, full=110)
        done = field.run(
            "herd.py", field.dsn, field.journal, field.acknowledged, kills, seconds=240
        )
        assert done.code == 0, done.errors
        return Truth(times=kills, more=kills * THREADS, drain=drain)


_kill_at_random("tenantry drain", "command")
_kill_at_random("the next process", "next process")
