"""How scopes are entered and left: `tenant` blocks, decorated functions, and `bind_tenant`.

A scope that was left never becomes current again, in whatever order blocks end; and one that ends
in another context than it was entered in leaves what is current there alone.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, TypeVar, assert_never, cast

from tenantry.callables import Taker, find_taker, kind_of, parameters_of
from tenantry.context import Scope, UnknownTenant, current, current_rule, make_scope, shown
from tenantry.exceptions import UnsupportedCallable
from tenantry.interruptions import is_interruption
from tenantry.steps import generate, generate_async, make_async_generator_function

F = TypeVar("F", bound=Callable[..., Any])

_left_early: ContextVar[tuple[Scope, ...]] = ContextVar("tenantry_left", default=())
"""Scopes that ended while a later block was open: nobody returns to them."""


def leave_scope(scope: Scope, token: Token[Scope | None]) -> bool:
    """Undo the ``set`` that made a scope current; a later block that is open stays current.

    False in another context than that of the ``set``.
    """
    now = current.get()
    try:
        current.reset(token)
    except ValueError:
        if now is scope and scope.is_block:  # a generator took it along, or a task its copy
            current.set(_skip_left(scope.outer))
        return False
    left = _left_early.get()
    if now is scope and not left:
        return True
    ended, has_block = [scope], False
    each = now
    while each is not None and each is not scope:
        if each.is_block:
            ended, has_block = [scope], True
        else:
            ended.append(each)
        each = each.outer
    if each is None:  # it was over already, with a block around it
        current.set(now)
    elif has_block:
        current.set(now)
        _left_early.set((*left, *ended))
    else:
        current.set(_skip_left(scope.outer))
    return True


def _skip_left(scope: Scope | None) -> Scope | None:
    """Give the scope, or the first around it that nobody has left."""
    left = _left_early.get()
    gone: set[Scope] = set()
    while scope is not None and scope in left:
        gone.add(scope)
        scope = scope.outer
    if gone:
        _left_early.set(tuple(each for each in left if each not in gone))
    return scope


class Binding:
    """What ``bind_tenant`` gives to ``reset``."""

    __slots__ = ("_scope", "_token")

    def __init__(self, scope: Scope) -> None:
        """Make the scope current."""
        self._scope = scope
        self._token: Token[Scope | None] | None = current.set(scope)

    def undo(self) -> None:
        """See ``reset``."""
        token = self._token
        if token is None:
            return
        if leave_scope(self._scope, token):
            self._token = None
        elif current_rule().strict:
            raise ValueError(
                f"reset() of the scope of {shown(self._scope.tenant)} was called in another "
                "context (task or thread) than bind_tenant(), where it can undo nothing; call both "
                "in one place, or write `with tenant(…):`"
            )


def bind_tenant(
    tenant_id: object, *, actor: str | None = None, correlation: str | None = None
) -> Binding:
    """Enter a tenant's scope without a block, as a middleware does; give the result to ``reset``.

    Without a ``reset``, the scope ends with the block or the context (task, thread) that it was
    entered in. Raises ``InvalidTenant`` in strict mode only.
    """
    scope = make_scope(tenant_id, actor, correlation)
    scope.is_block = False
    return Binding(scope)


def reset(binding: Binding) -> None:
    """Leave the scope that ``bind_tenant`` entered, and those bound in it that were not reset.

    In another context (task, thread) than that of ``bind_tenant`` there is nothing to leave: what
    is current there stays, and in strict mode ``ValueError`` says so. A second ``reset`` does
    nothing. A ``with tenant(…)`` block that was entered later and is still open stays current.
    """
    binding.undo()


class tenant:  # noqa: N801  # reads as a keyword: with tenant(…)
    """Enter a tenant's scope for a block or for each call of a function.

    Events emitted inside belong to that tenant. ``actor`` names who acts (``user:42``),
    ``correlation`` the request or job; both are inherited from an outer scope of the same tenant.
    Scopes nest, and follow contextvars: asyncio tasks and ``asyncio.to_thread`` inherit them, new
    threads do not (see ``propagate``), and a forked process starts without one.

    As a decorator it takes the id itself, or text that names an argument of the function or begins
    with one (``"request.state.tenant_id"``: keys of mappings, or attributes), or a callable of the
    call's arguments. Text whose first part is no parameter's name is an id. Where an argument gives
    no id, the scope is a bad one, and never that around the call. The body of a decorated generator
    runs within the scope, and its consumer does not.

    A bad id gives a scope whose events are refused and kept with the reason; in strict mode
    ``InvalidTenant`` is raised. Each block takes a fresh ``tenant(…)``.
    """

    def __init__(
        self, tenant_id: object, /, *, actor: str | None = None, correlation: str | None = None
    ) -> None:
        """Keep the values; nothing is entered yet."""
        self._values = (tenant_id, actor, correlation)
        self._token: Token[Scope | None] | None = None
        self._scope: Scope | None = None

    def __enter__(self) -> Scope:
        if self._token is not None:
            raise RuntimeError(
                f"this tenant({shown(self._values[0])}) block is already entered; write "
                "`with tenant(…)` anew for each block"
            )
        self._scope = scope = self.make()
        self._token = current.set(scope)
        return scope

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, scope = self._token, self._scope
        self._token = self._scope = None
        if token is not None and scope is not None:
            leave_scope(scope, token)

    def make(self) -> Scope:
        """Make the scope of one block or call."""
        return make_scope(*self._values)

    def __call__(self, function: F) -> F:
        """Decorate a function of any kind, or a method (above or below ``@staticmethod``)."""
        if isinstance(function, (staticmethod, classmethod)):
            method = cast("Any", function)
            return cast("F", type(method)(self(method.__func__)))
        if inspect.isclass(function) or not callable(function):
            raise UnsupportedCallable(
                f"tenant(…) cannot decorate {getattr(function, '__qualname__', shown(function))}, "
                "which is no function; decorate functions and methods, or write `with tenant(…):`"
            )
        return cast("F", _decorate(function, self._enterer(function)))

    def _enterer(self, function: Callable[..., Any]) -> _Enterer:
        """Give what makes the block of a call from its arguments."""
        given, actor, correlation = self._values
        take: Taker | None = None
        if isinstance(given, str):
            take = find_taker(given, parameters_of(function))
        elif callable(given):
            ask = given
            take = lambda args, kwargs: ask(*args, **kwargs)  # noqa: E731  # one of two takers
        kind = type(self)

        def enter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tenant:
            tenant_id = given if take is None else _ask(take, given, args, kwargs)
            return kind(tenant_id, actor=actor, correlation=correlation)

        return enter


_Enterer = Callable[[tuple[Any, ...], dict[str, Any]], tenant]


def _ask(take: Taker, given: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Take the tenant id from a call's arguments; a bad one where they have none."""
    asked = shown(given) if isinstance(given, str) else "…"
    try:
        tenant_id = take(args, kwargs)
    except Exception as error:
        if is_interruption(error):
            raise
        # The arguments' own code: whether the function can do with them is for it to say.
        return UnknownTenant(f"<tenant({asked}) raised {type(error).__name__}>")
    return UnknownTenant(f"<tenant({asked}) gave None>") if tenant_id is None else tenant_id


def _decorate(function: Callable[..., Any], enter: _Enterer) -> Callable[..., Any]:
    kind = kind_of(function)
    match kind:
        case "coroutine":

            @functools.wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with enter(args, kwargs):
                    return await function(*args, **kwargs)

            return run_async
        case "generator":

            @functools.wraps(function)
            def run_generator(*args: Any, **kwargs: Any) -> Any:
                block = enter(args, kwargs)
                return (yield from generate(function(*args, **kwargs), _Within(block)))

            return run_generator
        case "async generator":

            def begin(*args: Any, **kwargs: Any) -> tuple[Any, _Within]:
                block = enter(args, kwargs)
                return function(*args, **kwargs), _Within(block)

            return functools.wraps(function)(make_async_generator_function(begin))
        case "function":

            @functools.wraps(function)
            def run(*args: Any, **kwargs: Any) -> Any:
                block = enter(args, kwargs)
                with block:
                    result = function(*args, **kwargs)
                return _follow(block, result)

            return run
        case _:
            assert_never(kind)


def _follow(block: tenant, result: Any) -> Any:
    """Let a body that has not run yet, and that a plain function returned, run in the scope too."""
    kind = cast("type[object]", type(result))
    if kind is types.CoroutineType:
        return _await_within(block, result)
    if kind is types.GeneratorType:
        return generate(result, _Within(block))
    if kind is types.AsyncGeneratorType:
        return generate_async(result, _Within(block))
    return result


async def _await_within(block: tenant, awaitable: Awaitable[Any]) -> Any:
    with block:
        return await awaitable


class _Within:
    """Runs the steps of a body in a scope, which its consumer does not see."""

    __slots__ = ("_scope",)

    def __init__(self, block: tenant) -> None:
        self._scope: Scope | None = block.make()

    def __call__(self, step: Callable[..., Any], *args: Any) -> Any:
        token = current.set(self._scope)
        try:
            return step(*args)
        finally:
            self._scope = current.get()
            current.reset(token)
