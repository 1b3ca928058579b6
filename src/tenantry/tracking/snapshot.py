"""Snapshots: a taxonomy as plain data, which can be committed, compared and rendered."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Collection
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from tenantry.exceptions import ConfigurationError
from tenantry.redaction import Sensitive
from tenantry.registry import Taxonomy
from tenantry.taxonomy import COMPLETED, FAILED, STARTED, Event, EventType

JsonSchema: TypeAlias = dict[str, Any]

SENSITIVE: Final = "x-sensitive"
"""The keyword that says how a value is stored: drop, mask or hash. JSON Schema ignores ``x-``."""

_NULL: Final[JsonSchema] = {"type": "null"}


class Key(BaseModel):
    """One key of an event, under its stored name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    required: bool
    """Whether it must be given; one that is may still be left out of the row where it is None."""
    json_schema: JsonSchema
    """Of the value as it is given and stored; ``$ref`` points into the event's definitions."""
    description: str = ""


class DeclaredEvent(BaseModel):
    """One event, as it was declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    description: str = ""
    owner: str | None = None
    detect: bool = True
    keys: dict[str, Key]
    definitions: dict[str, JsonSchema] = {}


class Snapshot(BaseModel):
    """A taxonomy as plain data.

    ``retired`` keeps what was removed, so that a name which comes back with another meaning is
    known for one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["tenantry-taxonomy"] = "tenantry-taxonomy"
    format_version: Literal[1] = 1
    events: dict[str, DeclaredEvent]
    open_taxonomy: tuple[str, ...] = ()
    retired: dict[str, DeclaredEvent] = {}

    def text(self) -> str:
        """Write it as JSON, the same for the same taxonomy, with a key a line for reviews."""
        return self.model_dump_json(indent=2, exclude_defaults=False) + "\n"


def as_schema(part: object) -> JsonSchema | None:
    """Give a part of a JSON Schema that is an object; None for anything else."""
    return cast("JsonSchema", part) if isinstance(part, dict) else None


def as_list(part: object) -> list[Any] | None:
    """Give a part of a JSON Schema that is a list; None for anything else."""
    return part if isinstance(part, list) else None  # pyright: ignore[reportUnknownVariableType]  # of JSON


def read_snapshot(text: str, source: str) -> Snapshot:
    """Read what ``text`` wrote; raises ``ConfigurationError``."""
    try:
        return Snapshot.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            f"{source:.200} is no snapshot of a taxonomy that this version reads: "
            f"{place + ': ' if place else ''}{first['msg']}. Write one with `tenantry taxonomy "
            "snapshot`"
        ) from None


def take_snapshot(taxonomy: Taxonomy, previous: Snapshot | None = None) -> Snapshot:
    """Describe a taxonomy; what ``previous`` had and it lacks is kept as retired."""
    events = {event.name: _describe(event) for event in taxonomy}
    known = {} if previous is None else {**previous.retired, **previous.events}
    return Snapshot(
        events=dict(sorted(events.items())),
        open_taxonomy=tuple(sorted(set(taxonomy.open_patterns))),
        retired={name: known[name] for name in sorted(known) if name not in events},
    )


def phase_of(name: str, names: Collection[str]) -> tuple[str, str] | None:
    """Give operation and phase of an event that has a sibling in ``names``; None for a fact.

    ``conversation_started`` alone is a fact: names that begin alike make an operation.
    """
    for phase, endings in (("started", STARTED), ("completed", COMPLETED), ("failed", FAILED)):
        for ending in endings:
            operation = name.removesuffix(f"_{ending}")
            if operation == name:
                continue
            others = (*STARTED, *COMPLETED, *FAILED)
            if any(f"{operation}_{other}" in names for other in others if other not in endings):
                return operation, phase
    return None


def without_null(schema: JsonSchema) -> tuple[JsonSchema, bool]:
    """Give a value's schema without null, which is never stored, and whether it was allowed."""
    choices = as_list(schema.get("anyOf"))
    if choices is None or _NULL not in choices:
        return schema, False
    rest: list[JsonSchema] = [choice for choice in choices if choice != _NULL]
    others = {key: value for key, value in schema.items() if key != "anyOf"}
    if others.get("default", 0) is None:
        del others["default"]
    return ({**rest[0], **others} if len(rest) == 1 else {**others, "anyOf": rest}), True


def marks_in(schema: Any, definitions: dict[str, JsonSchema]) -> dict[str, str]:
    """Find how the values within a schema are stored: path to ``drop``, ``mask`` or ``hash``."""
    found: dict[str, str] = {}
    pending: list[tuple[str, Any, tuple[str, ...]]] = [("", schema, ())]
    while pending:
        path, part, behind = pending.pop()
        # A union's order means nothing.
        pending.extend((path, each, behind) for each in as_list(part) or ())
        members = as_schema(part) or {}
        if SENSITIVE in members:
            found[path] = str(members[SENSITIVE])
        name = str(members.get("$ref", "")).rpartition("/")[2]
        if name in definitions and name not in behind:
            pending.append((path, definitions[name], (*behind, name)))
        for keyword, inner in members.items():
            if keyword == "properties":
                pending += [(f"{path}.{key}", each, behind) for key, each in inner.items()]
            elif keyword in {"items", "prefixItems", "additionalProperties"}:
                pending.append((f"{path}[]", inner, behind))
            elif keyword in {"anyOf", "oneOf", "allOf"}:
                pending.append((path, inner, behind))
    return found


def _describe(event: EventType) -> DeclaredEvent:
    model = event.model
    if model is None:
        raise AssertionError(event.name)
    schema = model.model_json_schema(
        by_alias=True, mode="serialization", schema_generator=_DeclaredSchema
    )
    definitions: dict[str, JsonSchema] = schema.pop("$defs", {})
    if "$ref" in schema:  # an event that holds itself
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    fields = {key: field for field, key in event.stored_keys.items()}
    texts = attribute_docstrings(model)
    keys: dict[str, Key] = {}
    for name, value in schema.get("properties", {}).items():
        field = fields.get(name)
        about = {key: part for key, part in value.items() if key not in {"title", "description"}}
        keys[name] = Key(
            required=field is not None and model.model_fields[field].is_required(),
            json_schema=about,
            description=str(value.get("description") or texts.get(field or name, "")),
        )
    return DeclaredEvent(
        version=event.version,
        description=inspect.cleandoc(model.__doc__ or ""),
        owner=model.event_owner,
        detect=model.event_detect,
        keys=keys,
        definitions=definitions,
    )


class _DeclaredSchema(GenerateJsonSchema):
    """Marks what is ``Sensitive``, and lets any value stand where a type has no JSON Schema."""

    def ser_schema(self, schema: Any) -> JsonSchema | None:
        mark = getattr(schema.get("function"), "__self__", None)
        if not isinstance(mark, Sensitive):
            return super().ser_schema(schema)
        return {**self.generate_inner(schema["schema"]), SENSITIVE: mark.how}

    def decimal_schema(
        self,
        schema: core_schema.DecimalSchema,  # noqa: ARG002  # pydantic's signature
    ) -> JsonSchema:
        """Leave out the pattern, which changes with pydantic's versions."""
        return {"type": "string", "format": "decimal"}

    def handle_invalid_for_json_schema(
        self,
        schema: Any,  # noqa: ARG002  # pydantic's signature
        error_info: str,  # noqa: ARG002
    ) -> JsonSchema:
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Say nothing: a default without JSON form is left out."""


def attribute_docstrings(model: type[Event]) -> dict[str, str]:
    """Read the texts below the fields of an event and of those that it inherits from."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if owner is Event or not issubclass(owner, Event):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError, SyntaxError):
            continue  # made at run time
        body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in pairwise(body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(doc))),
                ):
                    found[name] = inspect.cleandoc(doc)
                case _:
                    pass
    return found
