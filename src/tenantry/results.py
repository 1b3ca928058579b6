"""Results: what the events of an operation take from what its function returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MemberDescriptorType
from typing import Any, Final, NamedTuple, cast

from pydantic import BaseModel

from tenantry import payload
from tenantry.interruptions import is_interruption
from tenantry.taxonomy import EventType
from tenantry.writers import Extend, Member, make_extender, write_nothing

NO_RESULT: Final = object()

PLAIN_RESULTS: Final = (str, bytes, int, float, bool, type(None), list, set, frozenset)
"""Results whose attributes are never data."""

_TYPES_KEPT: Final = 1000

Read = Callable[[EventType, Any, Mapping[str, Any]], dict[str, Any]]
"""Takes an event's data from a result, given what is known without it, which counts for more."""

ResultOption = Callable[[Any], Mapping[str, Any]] | str | None
"""The option ``result=``: a function of the result, or the key that its whole is stored under."""


class Reading(NamedTuple):
    """How the results of one type are read."""

    read: Read
    extend: Extend
    """Writes what is added to the payload of the start, where no more is to be done."""


class Results:
    """How results are read, for one operation of one pipeline."""

    __slots__ = ("_added", "_field_of", "_how", "_readings", "_suspects", "begins")

    def __init__(
        self,
        how: ResultOption,
        field_of: Callable[[str], str | None],
        started: EventType | None,
        completed: EventType | None,
    ) -> None:
        """Look at what the completed event has beyond its started one."""
        self._how = how
        self._field_of = field_of
        self._added = None if how is not None else _find_added(started, completed)
        self.begins = -1 if self._added is None or started is None else len(started.fields)
        """How many values a start has, whose payload ``go_on`` takes."""
        self._suspects = None
        if completed is not None and any(m.kind == "str" for m in self._added or ()):
            self._suspects = completed.suspects
        self._readings: dict[type, Reading] = {}

    def of(self, kind: type) -> Reading:
        """Give how results of a type are read; looked up once."""
        try:
            reading = self._readings.get(kind)
        except Exception as error:  # the type's metaclass says how to hash and compare it
            if is_interruption(error):
                raise
            return Reading(self._make_reader(kind), write_nothing)
        if reading is None:
            read = self._make_reader(kind)
            reading = Reading(read, self._make_extender(kind, read))
            if len(self._readings) < _TYPES_KEPT:
                self._readings[kind] = reading
        return reading

    def go_on(self, begun: str, result: object, max_bytes: int) -> str | None:
        """Write a completed event's payload: that of its start, and what the result adds to it.

        The start's has been checked and searched; what is added is, here. None where it takes more
        than that: all of it is then read and frozen anew.
        """
        try:
            more = self.of(type(result)).extend(result)
        except Exception as error:  # a dictionary's keys are the application's own, too
            if is_interruption(error):
                raise
            return None
        if (
            more is None
            or not more.isascii()
            or len(begun) + len(more) > max_bytes + 1  # the brace goes
            or (self._suspects is not None and self._suspects(more))
        ):
            return None
        return begun[:-1] + more

    def _make_reader(self, kind: type) -> Read:
        how = self._how
        if callable(how):
            return self._read_by(how)
        if how is not None:
            return self._read_whole(self._field_of(how))
        try:
            if issubclass(kind, Mapping):
                return read_mapping
        except Exception as error:  # the type's metaclass: abc hashes and compares types
            if is_interruption(error):
                raise
            return read_attributes
        return read_nothing if issubclass(kind, PLAIN_RESULTS) else read_attributes

    def _make_extender(self, kind: type, read: Read) -> Extend:
        extend: Extend | None = None
        if self._added == ():
            extend = _end
        elif self._added and kind is dict:
            extend = make_extender(self._added, "keys")
        elif self._added and read is read_attributes and _is_plain(kind, self._added):
            extend = make_extender(self._added, "attributes")
        return extend or write_nothing

    @staticmethod
    def _read_whole(name: str | None) -> Read:
        def read(_event: EventType, result: Any, _known: Mapping[str, Any]) -> dict[str, Any]:
            return {} if name is None else {name: result}

        return read

    def _read_by(self, make: Callable[[Any], Mapping[str, Any]]) -> Read:
        def read(_event: EventType, result: Any, _known: Mapping[str, Any]) -> dict[str, Any]:
            given = make(result)
            return {name: v for key, v in given.items() if (name := self._field_of(key))}

        return read


def _find_added(
    started: EventType | None, completed: EventType | None
) -> tuple[Member, ...] | None:
    """List what a completed event has beyond its start; None where it does not begin like that.

    With the same values both write the members that they share alike; no start leaves one out, and
    both are searched alike.
    """
    if started is None or completed is None or not started.members or completed.members is None:
        return None
    begun = set(started.members)
    if (
        not begun.issubset(completed.members)
        or any(member.is_optional for member in begun)
        or started.suspects is not completed.suspects
        or completed.is_rewritten
    ):
        return None
    return tuple(member for member in completed.members if member not in begun)


def _end(_result: object) -> str:
    return "}"


_SLOTS: Final[tuple[type, ...]] = (
    MemberDescriptorType,
    type(cast("object", vars(Reading)["read"])),
)
_DEFAULTS: Final = (str, int, float, bool, type(None))
_PYDANTICS: Final = BaseModel.__dict__["__getattr__"]
"""Raises for what is missing, and runs no code of the application's."""


def _is_plain(kind: type, added: tuple[Member, ...]) -> bool:
    """Say whether no code of the application's runs when these attributes are read.

    Such code is to run once; and what ``go_on`` leaves is read again.
    """
    for base in payload.bases_of(kind):
        if base is object or base is tuple:
            continue
        members = payload.members_of(base)
        if (
            "__getattribute__" in members
            or members.get("__getattr__", _PYDANTICS) is not _PYDANTICS
        ):
            return False
        if not all(type(members.get(member.field)) in (*_SLOTS, *_DEFAULTS) for member in added):
            return False
    return True


def read_nothing(_event: EventType, _result: Any, _known: Mapping[str, Any]) -> dict[str, Any]:
    """Take nothing from a result."""
    return {}


def read_mapping(event: EventType, result: Any, _known: Mapping[str, Any]) -> dict[str, Any]:
    """Take the declared keys of a mapping, in either spelling."""
    return {name: result[key] for key, name in event.keys.items() if key in result}


def read_attributes(event: EventType, result: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Take the attributes that are named like fields, but no methods, and none that raises."""
    found: dict[str, Any] = {}
    for name in event.fields:
        if name not in known:
            try:
                value = getattr(result, name, NO_RESULT)
            except Exception as error:  # the result's own property; the others are taken
                if is_interruption(error):
                    raise
                continue
            if value is not NO_RESULT and not callable(value):
                found[name] = value
    return found
