"""SIGALRM lent to a test. pytest-timeout has the same timer, and must find it as it left it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def alarms(handler: Callable[[], object]) -> Iterator[Callable[[float], None]]:
    """Yield a function that has `handler` called once, after so many seconds.

    At the end of the block no alarm is left under way: not even one that fired just before, whose
    handler Python runs a moment later and that asks for the next.
    """
    lent = True

    def on_alarm(*_: object) -> None:
        if lent:
            handler()

    def after(seconds: float) -> None:
        if lent:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    remaining, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        yield after
    finally:
        lent = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, remaining)
