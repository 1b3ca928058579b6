"""Ctrl-C at any moment: held back where it would leave something behind. SIGTERM counts as one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Generator[None]:
    """Hold Ctrl-C and SIGTERM back while something is made or removed; raise it afterwards."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    with _handling(note):
        try:
            yield
        finally:
            if received:
                # Also instead of an error: the terminal sent the signal to our children as well.
                raise KeyboardInterrupt


@contextmanager
def terminable() -> Generator[None]:
    """Make SIGTERM end the block as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield


@dataclass(slots=True)
class Interruption:
    """Whether a block was interrupted, and what ends its wait."""

    came: bool = False
    end_wait: Callable[[], object] = bool
    """Called in the signal's handler."""


@contextmanager
def noted() -> Generator[Interruption]:
    """Let Ctrl-C and SIGTERM interrupt the block, and note that one did.

    What was interrupted, a query for example, may raise an error of its own instead.
    """
    interruption = Interruption()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        interruption.came = True
        interruption.end_wait()
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield interruption


@contextmanager
def _handling(handler: object) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it gets signals
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}  # type: ignore[arg-type]  # typeshed's handler type has no name
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
