"""What a result offers, as far as the annotation of the function says."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel

from tenantry.callables import kind_of
from tenantry.results import PLAIN_RESULTS
from tenantry.taxonomy import EventType


class Certainty(IntEnum):
    """Whether a value is there; of several sources the best counts."""

    NO = 0
    MAYBE = 1
    YES = 2


Shape: TypeAlias = Callable[[EventType, str], Certainty]
"""Says of an event's field whether a result offers it."""

_AWAITED: Final = (Awaitable, Coroutine, asyncio.Future, asyncio.Task, concurrent.futures.Future)
_GENERATED: Final = (Generator, Iterator, Iterable)
_GENERATED_LATER: Final = (AsyncGenerator, AsyncIterator, AsyncIterable)
_UNKNOWN: Final = object()


def nothing(_event: EventType, _field: str) -> Certainty:
    """Offer nothing."""
    return Certainty.NO


def unknown(_event: EventType, _field: str) -> Certainty:
    """Offer what nobody knows before it runs."""
    return Certainty.MAYBE


def whole(key: str) -> Shape:
    """Offer the result itself, under one key."""
    return lambda event, field: Certainty(2 * (event.keys.get(key) == field))


def mapping_of(required: typing.Collection[str], optional: typing.Collection[str] = ()) -> Shape:
    """Offer the keys of a mapping, in either spelling."""

    def offers(event: EventType, field: str) -> Certainty:
        spellings = {key for key, name in event.keys.items() if name == field}
        if not spellings.isdisjoint(required):
            return Certainty.YES
        return Certainty.NO if spellings.isdisjoint(optional) else Certainty.MAYBE

    return offers


def shape_of_result(target: Any) -> Shape:
    """Read what the result of a decorated function offers, once it has run."""
    annotation = return_annotation(target)
    match kind_of(target):
        case "coroutine":
            return shape_of(annotation)
        case "async generator":
            return nothing  # it cannot return a value
        case "generator":
            return shape_of(_returned_by_generator(annotation))
        case _:
            origin = typing.get_origin(annotation) or annotation
            arguments = typing.get_args(annotation)
            if origin in _AWAITED:
                return shape_of(arguments[-1]) if arguments else unknown
            if origin in _GENERATED_LATER:
                return nothing
            if origin in _GENERATED:
                return shape_of(_returned_by_generator(annotation))
            return shape_of(annotation)


def return_annotation(target: Any) -> Any:
    """Give what a function is annotated to return; a marker of its own where nothing says it."""
    function = target
    while isinstance(function, functools.partial):
        function = cast("Any", function).func
    if not inspect.isroutine(function):
        function = getattr(cast("Any", type(function)), "__call__", function)  # noqa: B004  # on the type
    function = inspect.unwrap(function)
    try:
        annotation = function.__annotations__["return"]
        if isinstance(annotation, str):
            names = {kind.__name__: kind for kind in getattr(function, "__type_params__", ())}
            annotation = eval(annotation, function.__globals__, names)  # noqa: S307  # as typing does
    except Exception:  # noqa: BLE001  # none, or one whose names exist for type checkers only
        return _UNKNOWN
    return annotation


def _returned_by_generator(annotation: Any) -> Any:
    if typing.get_origin(annotation) is not Generator:
        return _UNKNOWN
    arguments = typing.get_args(annotation)
    return arguments[2] if len(arguments) > 2 else None  # noqa: PLR2004  # Generator[Yield, Send, Return]


def shape_of(annotation: Any) -> Shape:  # one case after the other
    """Read what a value of an annotated type offers."""
    if annotation is None or annotation is type(None):
        return nothing
    if annotation is typing.NoReturn or annotation is typing.Never:
        return lambda _event, _field: Certainty.YES  # it never completes
    origin = typing.get_origin(annotation)
    if origin in {typing.Union, types.UnionType}:
        shapes = [shape_of(each) for each in typing.get_args(annotation)]
        return functools.partial(_of_each, shapes)
    if origin is typing.Annotated:
        return shape_of(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return nothing
    if isinstance(annotation, typing.NewType):
        return shape_of(annotation.__supertype__)
    if hasattr(annotation, "__value__"):  # type X = …, from Python 3.12
        return shape_of(annotation.__value__)
    kind = origin or annotation
    if typing.is_typeddict(kind):
        return mapping_of(kind.__required_keys__, kind.__optional_keys__)
    if not isinstance(kind, type) or kind is object or issubclass(kind, Mapping):
        return unknown
    return nothing if issubclass(kind, PLAIN_RESULTS) else functools.partial(_of_class, kind)


def _of_each(shapes: list[Shape], event: EventType, field: str) -> Certainty:
    found = {shape(event, field) for shape in shapes}
    return found.pop() if len(found) == 1 else Certainty.MAYBE


def _of_class(kind: type[Any], _event: EventType, field: str) -> Certainty:
    """Say whether instances have an attribute of that name that is no method."""
    model = kind if issubclass(kind, BaseModel) else None
    declared: set[str] = set() if model is None else set(model.model_fields)
    for each in kind.__mro__:
        with suppress(Exception):  # from Python 3.14 on, names that exist for type checkers only
            declared |= inspect.get_annotations(each).keys()
    if field in declared:
        return Certainty.YES
    value = inspect.getattr_static(kind, field, _UNKNOWN)
    if value is not _UNKNOWN:
        return Certainty.NO if callable(value) or inspect.isroutine(value) else Certainty.YES
    if model is not None:
        return Certainty(model.model_config.get("extra") == "allow")
    is_complete = any(hasattr(kind, mark) for mark in ("__dataclass_fields__", "_fields"))
    has_no_more = is_complete or not kind.__dictoffset__
    return Certainty.NO if has_no_more else Certainty.MAYBE
