"""Bodies run step by step: each step of a coroutine or generator through a function of ours.

Knows nothing of scopes. What is yielded, sent or thrown is kept by nobody here.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Self, cast

RunStep = Callable[..., Any]
"""Calls its first argument with the others, as ``Context.run`` does."""


class Steps(Coroutine[Any, Any, Any]):
    """A coroutine or generator, to be awaited or iterated in place of the one that it runs."""

    __slots__ = ("_inner", "_run")

    def __init__(self, inner: Any, run: RunStep) -> None:
        """Keep both; nothing runs yet."""
        self._inner = inner
        self._run = run

    def __await__(self) -> Generator[Any, Any, Any]:
        return cast("Generator[Any, Any, Any]", self)  # it has all that await asks for

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._run(self._inner.send, None)

    def send(self, value: Any, /) -> Any:
        return self._run(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._run(self._inner.throw, *error)

    def close(self) -> None:
        self._run(self._inner.close)


def generate(inner: Generator[Any, Any, Any], run: RunStep) -> Generator[Any, Any, Any]:
    """Run a generator by steps."""
    return (yield from cast("Generator[Any, Any, Any]", Steps(inner, run)))


def make_async_generator_function(
    begin: Callable[..., tuple[AsyncGenerator[Any, Any], RunStep]],
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Make an asynchronous generator function that runs, by steps, what ``begin`` gives for a call.

    There is no ``yield from`` that could do this within another one.
    """

    async def generate_async(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        inner, run = begin(*args, **kwargs)
        step: Callable[[Any], Any] = begin_unhooked(inner)
        passing: list[Any] = [None]
        while True:
            try:
                passing.append(await Steps(step(passing.pop()), run))
            except StopAsyncIteration:
                return
            try:
                passing.append((yield passing.pop()))
            except BaseException as error:  # noqa: BLE001  # the body's to see, GeneratorExit too
                passing.append(without_frame(error))
                step = inner.athrow
            else:
                step = inner.asend

    return generate_async


def generate_async(inner: AsyncGenerator[Any, Any], run: RunStep) -> AsyncGenerator[Any, Any]:
    """Run an asynchronous generator by steps."""
    return make_async_generator_function(lambda: (inner, run))()


def without_frame(error: BaseException) -> BaseException:
    """Take our frame from the traceback of what a consumer threw: the body adds it again."""
    traceback = error.__traceback__
    return error if traceback is None else error.with_traceback(traceback.tb_next)


def begin_unhooked(inner: AsyncGenerator[Any, Any]) -> Callable[[Any], Awaitable[Any]]:
    """Give the first step of a generator of which the event loop is not told.

    It knows the one that drives it, and closes that. At its end it closes all that it knows at the
    same time, and two that wait for one another would fail.
    """

    def begin(value: Any) -> Awaitable[Any]:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        try:
            return inner.asend(value)  # which asks for the hooks, before anything is awaited
        finally:
            sys.set_asyncgen_hooks(*hooks)

    return begin
