"""Bodies that run after the call: of coroutines, generators and futures.

A generator's body runs in pieces, when its consumer asks. The scope and the current operation are
set for each piece and for no longer, and no context token is held across a yield: the consumer may
be in another task or thread by then. What is yielded, sent or thrown is kept by nobody here.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, cast

from tenantry import pipeline as pipelines
from tenantry.callables import is_future
from tenantry.context import Operation, Scope, current, running
from tenantry.pipeline import Pipeline
from tenantry.run import Run
from tenantry.steps import begin_unhooked, without_frame

Place = tuple[Scope | None, Operation | None, Pipeline | None]
"""Where a call was made: its events belong there, wherever its body runs."""


def here() -> Place:
    """Give what is current."""
    return current.get(), running.get(), pipelines.current.get()


class Body:
    """A body that runs after the call, and its run, or how that begins."""

    __slots__ = ("begin", "inner", "run")

    inner: Any
    run: Run | None
    begin: Callable[[], Run | None]

    def start(self) -> Run | None:
        """Begin the run, unless the function that returned the body began it."""
        begin = getattr(self, "begin", None)
        if begin is not None:
            del self.begin  # and the arguments of the call with it
            self.run = begin()
        return self.run

    def take(self) -> Any:
        """Give the body of a coroutine, which now sees to itself: Python ends what it began."""
        inner, self.inner = self.inner, None
        self.settle()
        return inner

    def close(self) -> None:
        """Close a coroutine that will not be awaited: Python would warn of it."""
        inner, self.inner = self.inner, None
        if type(inner) is types.CoroutineType:
            inner.close()

    def finish_future(self, future: Any) -> None:
        """End the run with the outcome of a future that is done."""
        run, self.run = self.run, None
        if run is not None:
            self.settle()
            run.finish_future(future)

    def settle(self) -> None:
        """Need no destructor any more: what a signal handler raises in one is lost."""
        cast("Any", self).__class__ = Body


class Held(Body):
    """A body that has not ended, with a destructor.

    When nobody holds it any more, the run ends: a coroutine that was never awaited, a generator
    that was never asked or that the event loop could not close any more, a future that was dropped.
    """

    __slots__ = ()

    def __del__(self) -> None:
        inner, run = getattr(self, "inner", None), getattr(self, "run", None)
        if run is not None:
            run.drop(is_closed=isinstance(inner, (types.GeneratorType, types.AsyncGeneratorType)))
        if inner is not None:
            self.close()  # Python warns of the coroutine around it: once is enough


def follow(run: Run, result: Any) -> Any:
    """Go on with a paused run in what a function returned; None where its end cannot be seen."""
    held = Held()
    held.inner, held.run = result, run
    if isinstance(result, types.CoroutineType):
        return named_like(result, finish_awaited(held))
    if isinstance(result, types.GeneratorType):
        # A generator that types.coroutine() marked can be awaited.
        outer = finish_awaited(held) if inspect.isawaitable(result) else drive(held)
        return named_like(result, outer)
    if isinstance(result, types.AsyncGeneratorType):
        return named_like(result, drive_async(held))
    held.inner = None
    if is_future(type(cast("object", result))):
        if result.done():  # its loop may be closed, and take no callback any more
            held.finish_future(result)
        else:
            result.add_done_callback(held.finish_future)
        return result
    held.settle()
    return None


async def finish_awaited(held: Held) -> Any:
    """Await what a plain function returned, as part of its run."""
    run, inner = held.run, held.take()
    assert run is not None  # noqa: S101  # the function began it
    run.resume()
    try:
        result = await inner
    except BaseException as error:
        run.end(error)
        raise
    line = run.end(None, result)
    if line is not None:
        await run.ahand(line)
    return result


def drive(held: Held) -> Generator[Any, Any, Any]:
    """Run a generator's body as part of a run, which ends with it."""
    inner: Generator[Any, Any, Any] = held.inner
    run = held.start()
    if run is None:
        return (yield from inner)
    step: Callable[[Any], Any] = inner.send
    is_closed = False
    passing: list[Any] = [None]
    while True:
        run.resume()
        try:
            passing.append(step(passing.pop()))
        except StopIteration as stop:
            result = stop.value
            break
        except GeneratorExit:
            line = run.end_closed()
            if line is not None:
                run.hand(line)
            raise
        except BaseException as error:
            run.end(error)
            raise
        run.pause()
        try:
            passing.append((yield passing.pop()))
        except BaseException as error:  # noqa: BLE001  # it is the body's to see, GeneratorExit too
            passing.append(without_frame(error))
            step, is_closed = inner.throw, isinstance(error, GeneratorExit)
        else:
            step, is_closed = inner.send, False
    line = run.end_closed(result) if is_closed else run.end(None, result)
    held.settle()
    if line is not None:
        run.hand(line)
    return result


async def drive_async(held: Held) -> AsyncGenerator[Any, Any]:
    """Do as ``drive`` does with an asynchronous generator."""
    inner: AsyncGenerator[Any, Any] = held.inner
    run = held.start() or _NoRun()
    step: Callable[[Any], Awaitable[Any]] = begin_unhooked(inner)
    is_closed = False
    passing: list[Any] = [None]
    while True:
        run.resume()
        try:
            passing.append(await step(passing.pop()))
        except StopAsyncIteration:
            break
        except GeneratorExit:
            line = run.end_closed()
            if line is not None:
                await run.ahand(line)
            raise
        except BaseException as error:
            run.end(error)
            raise
        run.pause()
        try:
            passing.append((yield passing.pop()))
        except BaseException as error:  # noqa: BLE001  # as in drive()
            passing.append(without_frame(error))
            step, is_closed = inner.athrow, isinstance(error, GeneratorExit)
        else:
            step, is_closed = inner.asend, False
    line = run.end_closed() if is_closed else run.end(None)
    held.settle()
    if line is not None:
        await run.ahand(line)


class _NoRun:
    """Stands for the run of an asynchronous generator where nothing is recorded."""

    def resume(self) -> None: ...

    def pause(self) -> None: ...

    def end_closed(self) -> None: ...

    def end(self, error: BaseException | None) -> None: ...

    async def ahand(self, line: bytes) -> None: ...


def named_like(inner: Any, outer: Any) -> Any:
    """Give a body the names of the one that it runs."""
    outer.__name__ = getattr(inner, "__name__", outer.__name__)
    outer.__qualname__ = getattr(inner, "__qualname__", outer.__qualname__)
    return outer
