"""Callables: what kind of function is decorated, and which parameters it has."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, cast

from tenantry.exceptions import UnsupportedCallable
from tenantry.payload import defines

MISSING: Final = object()
"""Stands for an argument that was not given and has no default."""

KEYWORD_ONLY: Final = 1 << 30
"""The place of an argument that has none among the positional ones."""

Taker = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Takes something from the positional and the keyword arguments of a call."""

CallableKind = Literal["function", "coroutine", "generator", "async generator"]


class Argument:
    """How to take a decorated function's argument by name, at each call."""

    __slots__ = ("default", "index", "name")

    def __init__(self, name: str, index: int, default: object) -> None:
        """Keep the place among the positional arguments, and the default."""
        self.name = name
        self.index = index
        self.default = default

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the argument of a call, its default, or ``MISSING``."""
        if self.index < len(args):
            return args[self.index]
        return kwargs.get(self.name, self.default)


def takes_any_keyword(target: Any) -> bool:
    """Say whether it has a ``**`` parameter."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def parameters_of(target: Any) -> dict[str, Argument]:
    """List the parameters that can be taken by name; none where there is no signature."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return {}
    found: dict[str, Argument] = {}
    for index, parameter in enumerate(signature.parameters.values()):
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        place = KEYWORD_ONLY if parameter.kind is parameter.KEYWORD_ONLY else index
        default = MISSING if parameter.default is parameter.empty else parameter.default
        found[parameter.name] = Argument(parameter.name, place, default)
    return found


def find_taker(path: str, parameters: Mapping[str, Argument]) -> Taker | None:
    """Compile a dotted path whose first part names a parameter; None where it names none.

    The further parts are keys of mappings, or attributes.
    """
    first, *parts = path.split(".")
    argument = parameters.get(first)
    if argument is None:
        return None

    def take(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = argument.take(args, kwargs)
        for part in parts:
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
        return None if value is MISSING else value

    return take


def is_coroutine_function(target: Any) -> bool:
    """Say whether calling it gives a coroutine: a coroutine function, or an object of that kind."""
    return inspect.iscoroutinefunction(target) or (
        not inspect.isroutine(target) and inspect.iscoroutinefunction(type(target).__call__)
    )


def kind_of(target: Any) -> CallableKind:
    """Say what a call gives: of a function, a partial of one, or an object with ``__call__``."""
    if is_coroutine_function(target):
        return "coroutine"
    asked = [target]
    if not inspect.isroutine(target) and not isinstance(target, functools.partial):
        asked.append(cast("Any", type(target)).__call__)
    if any(map(inspect.isgeneratorfunction, asked)):
        # What types.coroutine() marked is awaited.
        return "coroutine" if any(map(_is_awaited, asked)) else "generator"
    if any(map(inspect.isasyncgenfunction, asked)):
        return "async generator"
    return "function"


def _is_awaited(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE)


def refuse_unsupported(target: Any, name: str) -> None:
    """Raise ``UnsupportedCallable`` for what would be recorded wrongly."""
    if inspect.isclass(target):
        problem, remedy = "a class", "decorate its methods"
    elif isinstance(target, property):
        problem, remedy = "a property", "put @emits below @property"
    elif not callable(target):
        problem = f"a {type(target).__name__}, which cannot be called"
        remedy = "decorate a function"
    else:
        return
    raise UnsupportedCallable(f"emits() cannot decorate {name}: it is {problem}; {remedy}")


def is_unfinished(kind: type) -> bool:
    """Say whether a function that returns this may not have done its work yet."""
    return (
        kind is types.GeneratorType
        or kind is types.AsyncGeneratorType
        or is_future(kind)
        or defines(kind, "__await__")
    )


def is_future(kind: type) -> bool:
    """Say whether it is a type of futures: asyncio's, tasks included, or an executor's."""
    return any(base is asyncio.Future or base is concurrent.futures.Future for base in kind.__mro__)


def outcome_of(future: Any) -> tuple[BaseException | None, Any]:
    """Give the exception and the result of a future that is done.

    Reads what futures keep: to ask would tell asyncio that somebody saw to the exception.
    """
    if future.cancelled():
        return asyncio.CancelledError(), None
    error: BaseException | None = future._exception  # noqa: SLF001  # see above
    if error is not None:
        return error, None
    try:
        return None, future.result()
    except BaseException as problem:  # noqa: BLE001  # of a subclass that has its own idea of it
        return problem, None
