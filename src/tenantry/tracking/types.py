"""Types of values, as JSON Schema: whether one takes all that another takes, and its words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from tenantry.tracking.snapshot import SENSITIVE, JsonSchema, as_schema

Definitions: TypeAlias = Mapping[str, JsonSchema]

_REMARKS: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "discriminator"}
) | {SENSITIVE}
"""Keywords that allow and forbid nothing; ``discriminator`` (OpenAPI) is a hint beside a oneOf."""

_AT_LEAST: Final = ("minLength", "minItems", "minProperties")
_AT_MOST: Final = ("maxLength", "maxItems", "maxProperties")
_BOUNDS: Final = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_OBJECT: Final = ("properties", "required", "additionalProperties")
_LIST: Final = ("items", "prefixItems")


def covers(
    wide: JsonSchema, wide_definitions: Definitions, narrow: JsonSchema, definitions: Definitions
) -> bool:
    """Say whether every value of ``narrow`` surely is one of ``wide``; each type covers itself."""
    return _Cover(wide_definitions, definitions).covers(wide, narrow)


class _Cover:
    def __init__(self, wide: Definitions, narrow: Definitions) -> None:
        self._wide = wide
        self._narrow = narrow
        self._assumed: set[str] = set()

    def covers(self, wide: Any, narrow: Any) -> bool:
        if narrow is False or wide is True:
            return True
        if wide is False:
            return False
        pair = json.dumps([wide, narrow], sort_keys=True)
        if pair in self._assumed:  # recursive types: it holds unless something else contradicts
            return True
        self._assumed.add(pair)
        takers = alternatives(wide, self._wide)
        found = all(
            any(self._covers_one(taker, given) for taker in takers)
            for given in alternatives(narrow, self._narrow)
        )
        if not found:
            self._assumed.discard(pair)
        return found

    def _covers_one(self, wide: JsonSchema, narrow: JsonSchema) -> bool:
        if "const" in wide:
            return "const" in narrow and _same(wide["const"], narrow["const"])
        if "const" in narrow:
            return _holds(narrow["const"], wide)
        kind = wide.get("type")
        numbers = (kind, narrow.get("type")) == ("number", "integer")
        if kind is not None and kind != narrow.get("type") and not numbers:
            return False
        if any(low in wide and narrow.get(low, 0) < wide[low] for low in _AT_LEAST):
            return False
        if any(high in wide and narrow.get(high, math.inf) > wide[high] for high in _AT_MOST):
            return False
        return (
            _bounds_lie_within(wide, narrow)
            and self._covers_items(wide, narrow)
            and self._covers_members(wide, narrow)
            and _others_agree(wide, narrow)
        )

    def _covers_items(self, wide: JsonSchema, narrow: JsonSchema) -> bool:
        if not any(keyword in wide for keyword in _LIST):
            return True
        first_wide, first = wide.get("prefixItems", []), narrow.get("prefixItems", [])
        rest_wide, rest = wide.get("items", True), narrow.get("items", True)
        if len(first_wide) > len(first):
            return False
        takers = [*first_wide, *[rest_wide] * (len(first) - len(first_wide))]
        if not all(map(self.covers, takers, first)):
            return False
        is_full = bool(first) and narrow.get("maxItems") == len(first)
        return is_full or self.covers(rest_wide, rest)

    def _covers_members(self, wide: JsonSchema, narrow: JsonSchema) -> bool:
        if not any(keyword in wide for keyword in _OBJECT):
            return True
        if not set(wide.get("required", ())) <= set(narrow.get("required", ())):
            return False
        members, given = wide.get("properties", {}), narrow.get("properties", {})
        more, more_given = _further(wide), _further(narrow)
        return all(
            self.covers(members.get(name, more), given.get(name, more_given))
            for name in {*members, *given}
        ) and self.covers(more, more_given)


def _further(schema: JsonSchema) -> Any:
    """Give what members without names may be; pydantic drops what it does not know."""
    return schema.get("additionalProperties", "properties" not in schema)


def alternatives(schema: Any, definitions: Definitions) -> list[JsonSchema]:
    """Resolve references, and take unions, enums and lists of types apart."""
    if schema is True:
        return [{}]
    if schema is False:
        return []
    rest = {key: value for key, value in schema.items() if key not in _REMARKS}
    if "$ref" in rest:
        target = definitions.get(rest.pop("$ref").rpartition("/")[2], {})
        return alternatives({**target, **rest}, definitions)
    for union in ("anyOf", "oneOf"):
        if union in rest:
            choices = rest.pop(union)
            return [
                each
                for choice in choices
                for each in alternatives({**_opened(choice, definitions), **rest}, definitions)
            ]
    if "enum" in rest:
        return [{"const": value} for value in rest["enum"]]
    if "const" in rest:
        return [{"const": rest["const"]}]
    if isinstance(rest.get("type"), list):
        return [{**rest, "type": kind} for kind in rest["type"]]
    return [rest]


def _opened(schema: JsonSchema, definitions: Definitions) -> JsonSchema:
    """Follow references, so that what stands beside one is not lost."""
    if "$ref" not in schema:
        return schema
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    return {**definitions.get(schema["$ref"].rpartition("/")[2], {}), **rest}


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _bounds_lie_within(wide: JsonSchema, narrow: JsonSchema) -> bool:
    return _low(wide) <= _low(narrow) and _high(narrow) <= _high(wide)


def _low(schema: JsonSchema) -> tuple[float, bool]:
    """Give the lower bound; an exclusive one is higher."""
    return max(
        (schema.get("minimum", -math.inf), False),
        (schema.get("exclusiveMinimum", -math.inf), "exclusiveMinimum" in schema),
    )


def _high(schema: JsonSchema) -> tuple[float, bool]:
    """Give the upper bound; an exclusive one is lower."""
    return min(
        (schema.get("maximum", math.inf), True),
        (schema.get("exclusiveMaximum", math.inf), "exclusiveMaximum" not in schema),
    )


_COMPARED: Final = frozenset({"type", *_AT_LEAST, *_AT_MOST, *_BOUNDS, *_OBJECT, *_LIST})


def _others_agree(wide: JsonSchema, narrow: JsonSchema) -> bool:
    """Say whether what is not understood (patterns, formats) is the same on both sides."""
    return all(
        keyword in narrow and _same(narrow[keyword], value)
        for keyword, value in wide.items()
        if keyword not in _COMPARED
    )


_KINDS: Final[dict[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}


def _holds(value: Any, schema: JsonSchema) -> bool:
    """Say whether a value surely is one of a type without alternatives."""
    kind = schema.get("type")
    if kind is None:
        return not schema
    if kind not in _KINDS or not _KINDS[kind](value):
        return False
    if isinstance(value, str):
        size = len(value)
        if not schema.get("minLength", 0) <= size <= schema.get("maxLength", math.inf):
            return False
        known = {"minLength", "maxLength", "pattern"}
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return False
    else:
        known = set(_BOUNDS)
        exact: JsonSchema = {} if value is None else {"minimum": value, "maximum": value}
        if not _bounds_lie_within(schema, exact):
            return False
    return schema.keys() <= known | {"type"}


# Words.

_WORDS: Final = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
}
_FORMATS: Final = {
    "date-time": "time",
    "date": "date",
    "decimal": "decimal number as text",
    "uuid": "UUID",
    "uri": "URL",
}
_LIMITS: Final = (
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "more than {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "less than {}"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("pattern", "matching {}"),
)


def words(part: Any, definitions: Definitions, behind: tuple[str, ...] = ()) -> str:
    """Say in words what a type is."""
    schema = as_schema(part)
    if schema is None:
        return "any value" if part else "no value"
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name:
        if name in behind:
            return name
        return words(_opened(schema, definitions), definitions, (*behind, name))
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return " or ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(words(each, definitions, behind) for each in schema[union])
    kind = schema.get("type")
    text = _FORMATS.get(str(schema.get("format"))) or _WORDS.get(str(kind), "any value")
    if kind == "array":
        items = schema.get("prefixItems")
        inner = (
            ", ".join(words(each, definitions, behind) for each in items)
            if items
            else words(schema.get("items", True), definitions, behind)
        )
        text = f"list of {inner}"
    elif kind == "object":
        text = _object_words(schema, definitions, behind)
    limits = [form.format(schema[word]) for word, form in _LIMITS if word in schema]
    return ", ".join([text, *limits])


def _object_words(schema: JsonSchema, definitions: Definitions, behind: tuple[str, ...]) -> str:
    members = schema.get("properties", {})
    if members:
        required = schema.get("required", ())
        named = [
            f"{key}{'' if key in required else '?'}: {words(each, definitions, behind)}"
            for key, each in members.items()
        ]
        return "{" + "; ".join(named) + "}"
    further = _further(schema)
    return f"map of {words(further, definitions, behind)}" if further else "empty object"
