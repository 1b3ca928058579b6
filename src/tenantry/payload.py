"""Payloads: JSON that PostgreSQL's jsonb takes, within the size limit. Knows no event.

What jsonb refuses (NUL, lone surrogates, NaN, infinities) is made safe; what has no honest JSON
form (bytes, cycles, unknown types) is refused by ``plain``, so that no event can fail a batch.
Fields of declared events are written by pydantic, and pass through ``plain`` only where that fails
or the text is unsafe: bytes that are UTF-8 are stored as text there. Iterators are read by neither.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, cast
from uuid import UUID

from pydantic import BaseModel

from tenantry.exceptions import InvalidEvent
from tenantry.interruptions import is_interruption

MAX_BYTES: Final = 2048
"""Default limit of the JSON of one payload, in bytes of UTF-8."""

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
"""Values that one payload holds, at any depth: more are counted no further, and refused."""

MAX_KEY: Final = 200
"""Characters of a key."""

_MAX_INTEGER_BITS: Final = 4096
_SHORTEST_CUT: Final = 16
_LONGEST_UNCUT: Final = _SHORTEST_CUT + 8
"""Cutting a text no longer than this would make it longer: the mark takes 7 bytes or more."""
_UNSAFE = re.compile("[\0\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"

bases_of: Final[Callable[[type], tuple[type, ...]]] = type.__dict__["__mro__"].__get__
members_of: Final[Callable[[type], Mapping[str, object]]] = type.__dict__["__dict__"].__get__


def defines(kind: type, *names: str) -> bool:
    """Say whether a class has one of these methods; asks neither the class nor its metaclass."""
    return any(name in members_of(base) for base in bases_of(kind) for name in names)


def holds_iterator(value: object) -> bool:
    """Say whether a value is an iterator, or a list, tuple, set or dict that holds one.

    To read an iterator is to take it from the application, so nothing may. Reads none itself.
    Raises ``InvalidEvent`` for more than ``MAX_VALUES`` values, as a list that holds itself has.
    """
    pending = [value]
    left = MAX_VALUES
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is str or kind is int or kind is float or kind is bool or item is None:
            continue
        if kind is list or kind is tuple or kind is dict or kind is set or kind is frozenset:
            members = cast("Any", item)
            left -= len(members)  # what is shared counts again: it is written again
            if left < 0:
                raise _too_many("data")
            pending.extend(members.values() if kind is dict else members)
        elif defines(kind, "__next__", "__anext__"):
            return True
    return False


def without_iterators(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out the values that are or hold iterators, as if they had not been given."""
    found = [key for key, value in values.items() if holds_iterator(value)]
    return {k: v for k, v in values.items() if k not in found} if found else values


def plain(value: Any, context: object = None, *, keep_models: bool = False) -> Any:
    """Turn a value into what ``json.dumps`` writes and jsonb accepts.

    UUIDs, paths, decimals, dates (ISO 8601) and enum members become text or their value, sets and
    tuples lists, time deltas float seconds, NaN and infinities null; NUL and lone surrogates become
    U+FFFD. Raises ``InvalidEvent`` that names the path for bytes, other types, integers of more
    than 4,096 bits, keys that are no text or have more than 200 characters, nesting beyond 32
    levels (cycles included), more than 10,000 values, iterators, which are not read, and values
    whose own methods raise. In the path the keys of nested mappings are ``*``: they are values too.

    Models of pydantic's are written with ``context``, or left as they are.
    """
    try:
        return _Plain(context, keep_models).value(value, "data", 0)
    except InvalidEvent:
        raise
    except Exception as error:
        if is_interruption(error):
            raise
        why = f"{type(value).__name__} raised {type(error).__name__} while it was read"
        raise _unfit("data", why) from error


class _Plain:
    """One value on its way to JSON, and how many values it may still hold."""

    __slots__ = ("_context", "_keep_models", "_left")

    def __init__(self, context: object, keep_models: bool) -> None:  # noqa: FBT001  # of plain() alone
        self._context = context
        self._keep_models = keep_models
        self._left = MAX_VALUES

    def value(self, value: Any, path: str, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Enum):
            return self.value(value.value, path, depth)
        if isinstance(value, str):
            return _UNSAFE.sub(_REPLACEMENT, value)
        if isinstance(value, int):
            return _integer(value, path)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        if depth >= MAX_DEPTH:
            raise _unfit(
                path, f"it is nested more than {MAX_DEPTH} levels deep, or contains itself"
            )
        kind = cast("type[object]", type(value))
        if defines(kind, "__next__", "__anext__"):
            raise _unfit(path, f"{kind.__name__} is an iterator, which is not read")
        return self._container(value, path, depth)

    def _container(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, BaseModel):
            if self._keep_models:
                return value
            dumped = value.model_dump(by_alias=True, context=cast("Any", self._context))
            return self.value(dumped, path, depth + 1)
        if isinstance(value, Mapping):
            pairs = cast("Iterable[tuple[Any, Any]]", value.items())
            members = ((_key(key, path), item) for key, item in self._counted(pairs, path))
            return {
                key: self.value(item, f"{path}.{key if depth == 0 else '*'}", depth + 1)
                for key, item in members
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            items = enumerate(self._counted(cast("Iterable[Any]", value), path))
            return [self.value(item, f"{path}[{i}]", depth + 1) for i, item in items]
        return _scalar(value, path)

    def _counted(self, items: Iterable[Any], path: str) -> Iterable[Any]:
        for item in items:
            self._left -= 1
            if self._left < 0:
                raise _too_many(path)
            yield item


def _integer(value: int, path: str) -> int:
    if value.bit_length() > _MAX_INTEGER_BITS:
        raise _unfit(path, f"an integer of {value.bit_length()} bits; at most {_MAX_INTEGER_BITS}")
    return int(value)


def _key(key: object, path: str) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        if len(key) > MAX_KEY:
            raise _unfit(path, f"a key of {len(key)} characters; at most {MAX_KEY}", "too_large")
        return _UNSAFE.sub(_REPLACEMENT, key)
    if isinstance(key, (int, UUID)) and not isinstance(key, bool):
        return str(key)
    raise _unfit(path, f"a key of type {type(key).__name__}; keys are text")


def _scalar(value: object, path: str) -> str | float:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (UUID, PurePath, Decimal)) or type(value).__name__ == "UUID":
        return _UNSAFE.sub(_REPLACEMENT, str(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise _unfit(path, "bytes have no JSON form; decode them, or leave them out")
    raise _unfit(path, f"{type(value).__name__} has no JSON form; pass text, numbers or their kind")


def _unfit(path: str, why: str, reason: str = "unserializable") -> InvalidEvent:
    return InvalidEvent(f"{path}: {why}", reason=reason)


def _too_many(path: str) -> InvalidEvent:
    return _unfit(path, f"more than {MAX_VALUES} values, or one that contains itself", "too_large")


def beyond_limits() -> InvalidEvent:
    """Say that JSON cannot be read again."""
    return _unfit("data", "an integer or a nesting beyond all limits")


def to_json(value: Any) -> bytes:
    """Write compact UTF-8 JSON of a value that ``plain`` gave."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def fit(data: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Make a JSON object safe and small enough; returns it, and whether strings were cut.

    The largest strings are cut first, and end in ``…[+N]``, where N counts the characters that are
    gone. Raises ``InvalidEvent`` (reason ``too_large``) where cutting strings is not enough.
    """
    original = len(data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # json's own limits
        raise beyond_limits() from error
    for container, key in _strings(value):
        if len(container[key]) > max_bytes:  # a huge one is not worked on any further
            container[key] = _shorten(container[key], max_bytes)
    value = plain(value)
    data = to_json(value)
    if len(data) <= max_bytes:
        return data, False
    holders = sorted(_strings(value), key=lambda holder: -len(holder[0][holder[1]]))
    smallest = len(data) - sum(
        max(0, len(to_json(holder[0][holder[1]])) - _SHORTEST_CUT) for holder in holders
    )
    for place in range(len(holders) if smallest <= max_bytes else 0):
        container, key = holders[place]
        text: str = container[key]
        if len(text) <= _LONGEST_UNCUT:
            break
        keep = max(_SHORTEST_CUT, len(text) - (len(data) - max_bytes) - _SHORTEST_CUT)
        while True:
            container[key] = _shorten(text, keep)
            data = to_json(value)
            if len(data) <= max_bytes:
                return data, True
            if keep == _SHORTEST_CUT:
                break
            keep = max(_SHORTEST_CUT, keep - (len(data) - max_bytes))
    raise InvalidEvent(
        f"data: {original} bytes of JSON, and {len(data)} with its strings cut; at most "
        f"{max_bytes}. Record less, or raise max_payload_bytes in configure()",
        reason="too_large",
    )


MARK: Final = "…[+".encode()
"""How the mark of a text that was cut begins, in JSON."""

_MARKED: Final = re.compile(r"…\[\+([0-9]{1,12})\]\Z")


def marked(text: str, gone: int) -> str:
    """Mark a text as cut; ``gone`` characters are missing."""
    return f"{text}…[+{gone}]"


def _shorten(text: str, keep: int) -> str:
    """Cut a text, which may have been cut before: the mark counts all that is gone."""
    before = _MARKED.search(text)
    if before is None:
        return marked(text[:keep], len(text) - keep)
    head = text[: min(keep, before.start())]
    return marked(head, before.start() - len(head) + int(before[1]))


def _strings(value: Any) -> list[tuple[Any, Any]]:
    """List where the strings of a JSON value are, as (container, key or index)."""
    found: list[tuple[Any, Any]] = []
    containers: list[Any] = [value]
    while containers:
        container = containers.pop()
        is_object = isinstance(container, dict)
        keys: Iterable[Any] = cast("Any", container) if is_object else range(len(container))
        for key in keys:
            item = container[key]
            if isinstance(item, str):
                found.append((container, key))
            elif isinstance(item, (dict, list)):
                containers.append(item)
    return found
