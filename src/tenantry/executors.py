"""Taking the context along: ``propagate`` for one callable, ``ContextExecutor`` for a pool.

Within a process all context variables are taken along; to another process only what is Tenantry's.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextvars import Context, copy_context
from typing import Any, NamedTuple, TypeVar, cast

from tenantry import context as contexts
from tenantry.callables import kind_of
from tenantry.context import (
    PLATFORM,
    Operation,
    PlatformTenant,
    RemoteOperation,
    Scope,
    UnknownTenant,
    canonical_tenant,
    current,
    current_rule,
    running,
    safe_text,
    shown,
)
from tenantry.exceptions import InvalidTenant, UnsupportedCallable
from tenantry.steps import Steps, generate, generate_async

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def propagate(function: F) -> F:
    """Give a callable that runs ``function`` in the context of this moment, wherever it is called.

    For threads, timers, executors and callbacks: all context variables are taken along, the tenant
    and the current operation among them. Each call has a copy of the context, so that calls may
    come as often as they like, and at once; what one sets is not seen by another. The bodies of
    coroutine functions, generators and asynchronous generators run in it too.

    Pickled (for a pool of processes) or called in a forked process, it takes along the tenant,
    actor, correlation and the id of the current operation, and enters them there.

    Raises ``UnsupportedCallable`` for what cannot be called.
    """
    if not callable(function):
        raise UnsupportedCallable(
            f"propagate() takes a function, not {shown(function)}; hand over the arguments at the "
            "call, as in executor.submit(propagate(function), 1)"
        )
    return cast("F", _make(function, copy_context()))


class _Handed(NamedTuple):
    """What goes to another process: text, ints and PLATFORM, which any process can unpickle."""

    tenant: str | int | PlatformTenant | UnknownTenant | None
    actor: str | None
    correlation: str | None
    operation_id: str | None

    def enter(self) -> None:
        """Make it current, in a context that is made for this."""
        tenant, actor, correlation, operation_id = self
        current.set(None if tenant is None else Scope(tenant, actor=actor, correlation=correlation))
        running.set(None if operation_id is None else RemoteOperation(operation_id))


def _hand_over(scope: Scope | None, operation: Operation | None) -> _Handed:
    operation_id = None if operation is None else operation.id
    if scope is None:
        return _Handed(None, None, None, operation_id)
    actor, correlation = scope.actor, scope.correlation
    return _Handed(
        _portable(scope.tenant),
        None if actor is None else safe_text(actor),
        None if correlation is None else safe_text(correlation),
        operation_id,
    )


def _portable(tenant: object) -> str | int | PlatformTenant | UnknownTenant:
    """Give the canonical form of a tenant id; a bad one stays bad, whatever it may be."""
    if type(tenant) is PlatformTenant:
        return PLATFORM
    try:
        return canonical_tenant(tenant, current_rule().tenant_type)
    except InvalidTenant:
        return UnknownTenant(shown(tenant))


class _Propagated:
    """What ``propagate`` gives."""

    def __init__(self, function: Callable[..., Any], captured: Context | None, handed: Any) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._captured = captured
        """None in another process, where calls run in a copy of the context that they meet."""
        self._handed: _Handed | None = handed
        self._generation = contexts.fork_generation

    def _context(self) -> Context:
        context = copy_context() if self._captured is None else self._captured.copy()
        if self._captured is None or self._generation != contexts.fork_generation:
            context.run(self._hand_over().enter)
        return context

    def _hand_over(self) -> _Handed:
        """Give what goes to another process: of what was usable where this was made."""
        if self._handed is None:
            captured = self._captured or copy_context()
            scope, operation = captured.get(current), captured.get(running)
            generation = self._generation
            self._handed = _hand_over(
                None if scope is None or scope.generation != generation else scope,
                None if operation is None or operation.generation != generation else operation,
            )
        return self._handed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self._context().run
        result = run(self._function, *args, **kwargs)
        kind = cast("type[object]", type(result))
        if kind is types.CoroutineType:
            return Steps(result, run)
        if kind is types.GeneratorType:
            return generate(result, run)
        if kind is types.AsyncGeneratorType:
            return generate_async(cast("AsyncGenerator[Any, Any]", result), run)
        return result

    def __reduce__(self) -> Any:
        return _unpickle, (self._function, self._hand_over())

    def __repr__(self) -> str:
        return f"propagate({self._function!r})"


class _PropagatedCoroutineFunction(_Propagated):
    """The same, of a coroutine function, which frameworks can see that it is."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self._context().run
        return await Steps(run(self._function, *args, **kwargs), run)


def _make(
    function: Callable[..., Any], captured: Context | None, handed: _Handed | None = None
) -> _Propagated:
    if kind_of(function) != "coroutine":
        return _Propagated(function, captured, handed)
    made = _PropagatedCoroutineFunction(function, captured, handed)
    mark = getattr(inspect, "markcoroutinefunction", None)  # of Python 3.12 and later
    return made if mark is None else mark(made)


def _unpickle(function: Callable[..., Any], handed: _Handed) -> _Propagated:
    return _make(function, None, handed)


class ContextExecutor(Executor):
    """An executor that runs each task in the context of its ``submit``, by another executor.

    ``executor`` is a pool of threads, processes or interpreters, or any other; to processes and
    interpreters goes what `propagate` pickles. Also for ``loop.run_in_executor``. The end of its
    ``with`` block, or its ``shutdown``, is that of ``executor``.
    """

    def __init__(self, executor: Executor) -> None:
        """Keep the executor, which is to be shut down by this one from now on."""
        self._executor = executor

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Do as ``Executor.submit`` does."""
        return self._executor.submit(propagate(fn), *args, **kwargs)

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **options: Any) -> Iterator[T]:
        """Do as ``Executor.map`` does; every call has a copy of the context of this one."""
        return self._executor.map(propagate(fn), *iterables, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # as Executor's
        """Do as ``Executor.shutdown`` does."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)
