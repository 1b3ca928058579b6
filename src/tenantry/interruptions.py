"""Interruptions: exceptions that come into our code from outside, and are not ours to swallow."""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import Final, cast

_OURS: Final = frozenset(
    {"psycopg", "pydantic", "pydantic_core", "tenantry", "uuid_utils", "wrapt"}
)
"""Where exceptions are defined that a frame of ours can meet, beside the standard library."""


def is_interruption(error: BaseException) -> bool:
    """Say whether a signal handler raised it, or another thread put it into this one.

    What the application's code raises that we called, a validator say, is none, and neither is a
    mistake of our own. A signal handler is known by its argument, the very frame that it
    interrupted. What ``PyThreadState_SetAsyncExc`` puts into a frame of ours is known by its
    type: neither we nor the standard library define it. Of a builtin type it cannot be told apart.
    """
    traceback = error.__traceback__
    while traceback is not None:
        if _is_handler(traceback.tb_frame):
            return True
        if traceback.tb_next is None:
            return _is_put_in(error, traceback)
        traceback = traceback.tb_next
    return False


def _is_handler(frame: FrameType) -> bool:
    interrupted = frame.f_back
    if interrupted is None:
        return False
    for value in frame.f_locals.values():
        # A tuple is that of handler(*args).
        members = cast("tuple[object, ...]", value) if type(value) is tuple else (value,)
        if any(each is interrupted for each in members):
            return True
    return False


def _is_put_in(error: BaseException, innermost: TracebackType) -> bool:
    def package(name: object) -> str:
        return str(name).partition(".")[0]

    defined_in = package(type(error).__module__)
    return (
        package(innermost.tb_frame.f_globals.get("__name__")) == "tenantry"
        and defined_in not in _OURS
        and defined_in not in sys.stdlib_module_names
    )
