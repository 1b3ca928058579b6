"""Writers: what writes the payload of one declared event, made once from its fields.

Where each field is a text, a number or a boolean, a value of exactly that type is valid as it is,
and a function of a few lines writes it, in half the time that pydantic takes to check a dictionary
and to write it. Whatever else comes, the function gives None and pydantic does both.

The functions are written as Python and executed, as ``dataclasses`` does it: a loop over the
fields would take twice as long. Names and values of the declaration go in as ``repr`` or under a
name of our own; no value of an event ever does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring
from keyword import iskeyword
from typing import Any, Final, Literal, NamedTuple, cast

from pydantic import BaseModel

from tenantry.schemas import config_of, fields_alone

Write = Callable[[Mapping[str, Any]], str | None]
"""Writes the values of an event's fields as a JSON object; None where pydantic has to."""

Extend = Callable[[Any], str | None]
"""Writes what a result adds to an object that lacks its last brace; None as in ``Write``."""


def write_nothing(_values: Mapping[str, Any]) -> None:
    """Leave every event to pydantic."""


_MISSING: Final = object()

_SIZE_LIMIT: Final = 10**13
"""Numbers from here on may be those of cards: they are not written without a search."""


class Member(NamedTuple):
    """A field that can be written without pydantic."""

    field: str
    key: str
    kind: Literal["str", "int", "float", "bool"]
    bounds: tuple[tuple[str, Any], ...] = ()
    """Comparisons that hold: of a number with a number, or of the length of a text."""
    choices: tuple[str, ...] | None = None
    default: Any = _MISSING
    is_nullable: bool = False

    @property
    def is_optional(self) -> bool:
        """Whether a valid event may be without it, or a payload: None is not written."""
        return self.is_nullable or self.default is not _MISSING


_SHAPES: Final[dict[str, frozenset[str]]] = {
    "str": frozenset({"type", "metadata", "strict", "coerce_numbers_to_str"}),
    "int": frozenset({"type", "metadata", "strict"}),
    "float": frozenset({"type", "metadata", "strict", "allow_inf_nan"}),
    "bool": frozenset({"type", "metadata", "strict"}),
    "literal": frozenset({"type", "metadata", "expected"}),
    "nullable": frozenset({"type", "metadata", "schema"}),
    "default": frozenset({"type", "metadata", "schema", "default"}),
    "model-field": frozenset({"type", "metadata", "schema", "serialization_alias"})
    | {"validation_alias", "frozen"},
    "config": frozenset({"allow_inf_nan", "coerce_numbers_to_str", "extra_fields_behavior"})
    | {"title", "validate_by_alias", "validate_by_name", "strict", "hide_input_in_errors"},
}
"""The parts of pydantic-core's schemas that change nothing for a value of exactly the type."""

_BOUNDS: Final = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_LENGTHS: Final = {"min_length": ">=", "max_length": "<="}


def members_of(model: type[BaseModel]) -> tuple[Member, ...] | None:
    """Read a model's fields; None where one of them, or the model, asks for more than a type."""
    fields = fields_alone(model)
    if fields is None or not _SHAPES["config"].issuperset(config_of(model)):
        return None
    members: list[Member] = []
    for name, field in fields.items():
        member = _read_field(name, field) if _SHAPES["model-field"].issuperset(field) else None
        if member is None:
            return None
        members.append(member)
    return tuple(members)


def _read_field(name: str, field: Any) -> Member | None:
    schema, default, is_nullable = field["schema"], _MISSING, False
    if schema["type"] == "default":
        if not _SHAPES["default"].issuperset(schema):
            return None
        default, schema = schema["default"], schema["schema"]
    if schema["type"] == "nullable":
        if not _SHAPES["nullable"].issuperset(schema):
            return None
        is_nullable, schema = True, schema["schema"]
    if type(default) not in {object, type(None), str, int, float, bool}:
        return None
    kind = schema["type"]
    if kind not in {"str", "int", "float", "bool", "literal"}:
        return None
    named = _LENGTHS if kind == "str" else _BOUNDS if kind in {"int", "float"} else {}
    if not schema.keys() <= _SHAPES[kind] | named.keys():
        return None
    choices: tuple[str, ...] | None = None
    if kind == "literal":
        choices = tuple(schema["expected"])
        if any(type(choice) is not str for choice in choices):
            return None
    bounds = tuple((sign, schema[key]) for key, sign in named.items() if key in schema)
    key: str = field.get("serialization_alias") or name
    written = cast("Literal['str', 'int', 'float', 'bool']", "str" if choices else kind)
    return Member(name, key, written, bounds, choices, default, is_nullable)


def make_writer(members: tuple[Member, ...]) -> Write:
    """Make what writes an event of these fields."""
    source = _Source()
    for number, member in enumerate(members):
        if member.default is _MISSING:
            source.read(f"v{number} = values[{member.field!r}]")
        else:
            default = source.name(member.default)
            source.read(f"v{number} = values.get({member.field!r}, {default})")
        source.write(number, member)
    return source.compile("values", "KeyError", opening="{")


def make_extender(members: Iterable[Member], reads: Literal["attributes", "keys"]) -> Extend | None:
    """Make what writes the members that a result adds; None where a name cannot be looked up."""
    source = _Source()
    for number, member in enumerate(members):
        name = member.field
        if reads == "keys":
            if member.default is not _MISSING and member.key != name:
                return None  # it may be there in the other spelling
            looked_up, otherwise = f"result[{name!r}]", f"result.get({name!r}, "
        else:
            if not name.isidentifier() or iskeyword(name) or not name.isascii():
                return None
            looked_up, otherwise = f"result.{name}", f"getattr(result, {name!r}, "
        if member.default is _MISSING:
            source.read(f"v{number} = {looked_up}")
        else:
            source.read(f"v{number} = {otherwise}{source.name(member.default)})")
        source.write(number, member)
    error = "KeyError" if reads == "keys" else "AttributeError"
    return source.compile("result", error, opening="")


class _Source:
    """The source of one function, as it grows."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {"text": encode_basestring}
        self._reads: list[str] = []
        self._tests: list[str] = []
        self._optional: list[str] = []
        self._always: list[str] = []
        self._maybe: list[str] = []

    def name(self, value: Any) -> str:
        """Give a value of the declaration a name in the function."""
        name = f"d{len(self._names)}"
        self._names[name] = value
        return name

    def read(self, statement: str) -> None:
        self._reads.append(statement)

    def write(self, number: int, member: Member) -> None:
        """Test the value ``v<number>``, and write it."""
        value = f"v{number}"
        test, written = self._test(value, member), _WRITTEN[member.kind].format(value)
        text = f'"{member.key}":{written}'
        if not member.is_nullable:
            self._tests.append(test)
            self._always.append(text)
            return
        self._tests.append(f"({value} is None or {test})")
        self._optional.append(f"o{number} = '' if {value} is None else f',{text}'")
        self._maybe.append(f"{{o{number}}}")

    def _test(self, value: str, member: Member) -> str:
        test = f"type({value}) is {member.kind}"
        if member.kind in {"int", "float"}:
            test += f" and {-_SIZE_LIMIT} < {value} < {_SIZE_LIMIT}"
        measured = f"len({value})" if member.kind == "str" else value
        for sign, bound in member.bounds:
            test += f" and {measured} {sign} {self.name(bound)}"
        if member.choices is not None:
            test += f" and {value} in {self.name(frozenset(member.choices))}"
        return test

    def compile(self, argument: str, error: str, *, opening: str) -> Callable[[Any], str | None]:
        """Make the function; ``opening`` is what stands before the first member, else a comma."""
        always, maybe = ",".join(self._always), "".join(self._maybe)
        if not opening:
            made = f"f'{',' if always else ''}{always}{maybe}}}}}'"
        elif always or not maybe:
            made = f"f'{opening * 2}{always}{maybe}}}}}'"
        else:
            made = f"'{opening}' + f'{maybe}'[1:] + '}}'"
        lines = [
            f"def write({argument}):",
            "    try:",
            *(f"        {line}" for line in self._reads or ["pass"]),
            f"    except {error}:",
            "        return None",
            f"    if not ({' and '.join(self._tests) or 'True'}):",
            "        return None",
            *(f"    {line}" for line in self._optional),
            f"    return {made}",
        ]
        names = dict(self._names)
        exec("\n".join(lines), names)  # noqa: S102  # made of declarations alone: see above
        return cast("Callable[[Any], str | None]", names["write"])


_WRITTEN: Final = {
    "str": "{{text({})}}",
    "int": "{{{}}}",
    "float": "{{{}!r}}",
    "bool": '{{"true" if {} else "false"}}',
}
