"""Schemas: what pydantic made of a model, read and compiled. Knows no event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from pydantic import BaseModel
from pydantic_core import SchemaSerializer, SchemaValidator, core_schema


def config_of(model: type[BaseModel]) -> Any:
    """Give the options that a model was compiled with."""
    return cast("Any", model.__pydantic_core_schema__).get("config", {})


def fields_alone(model: type[BaseModel]) -> dict[str, Any] | None:
    """Give the schemas of the fields of a model that is nothing but them; None where it is more.

    Model validators or serializers, computed fields, ``__init__``, ``model_post_init`` and
    recursive types are more.
    """
    schema: Any = model.__pydantic_core_schema__
    if schema["type"] != "model" or any(
        schema.get(more) for more in ("custom_init", "post_init", "serialization")
    ):
        return None
    inner = schema["schema"]
    if inner["type"] != "model-fields" or inner.get("computed_fields"):
        return None
    return dict(inner["fields"])


def compile_dict(
    model: type[BaseModel], context: Any = None
) -> Callable[[Mapping[str, Any]], bytes] | None:
    """Compile a model's own field schemas into a dictionary's, which costs half the time.

    None where the model is more than its fields: then the model itself does both. Serializers are
    given ``context``.
    """
    inner = fields_alone(model)
    if inner is None:
        return None
    fields = {
        name: core_schema.typed_dict_field(
            field["schema"],
            required=field["schema"]["type"] != "default",
            serialization_alias=field.get("serialization_alias"),
            serialization_exclude=field.get("serialization_exclude"),
            serialization_exclude_if=field.get("serialization_exclude_if"),
        )
        for name, field in inner.items()
    }
    config = config_of(model)
    compiled = core_schema.typed_dict_schema(fields, extra_behavior="ignore", config=config)
    validate = SchemaValidator(compiled, config).validate_python
    to_json = SchemaSerializer(compiled, config).to_json

    def freeze(values: Mapping[str, Any]) -> bytes:
        return to_json(validate(values), by_alias=True, exclude_none=True)

    def freeze_with_context(values: Mapping[str, Any]) -> bytes:
        return to_json(validate(values), by_alias=True, exclude_none=True, context=context)

    return freeze if context is None else freeze_with_context  # an option costs its 0.05 us


def plain_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """List the fields whose values may be kept as given, where an event is refused.

    Those with validators or serializers of their own (``Sensitive`` is one), and those that are
    excluded, are not among them: such code may be what masks a secret, and it has not run.
    """
    schema: Any = model.__pydantic_core_schema__
    shared = _has_own_code(schema.get("definitions", ()), shared=False)
    while schema["type"] != "model-fields":
        if "serialization" in schema or "schema" not in schema:
            return ()
        schema = schema["schema"]
    return tuple(
        name for name, field in schema["fields"].items() if not _has_own_code(field, shared=shared)
    )


def fields_of(model: type[BaseModel]) -> dict[str, Any]:
    """Give the schemas of a model's fields by name."""
    schema: Any = model.__pydantic_core_schema__
    while schema["type"] != "model-fields":
        if "schema" not in schema:
            return {}
        schema = schema["schema"]
    return dict(schema["fields"])


def _has_own_code(schema: Any, *, shared: bool) -> bool:
    """Say whether code runs for a schema; ``shared``: for one of those that it refers to."""
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        kind = str(members.get("type"))
        return (
            "serialization_exclude" in members
            or "serialization_exclude_if" in members
            or kind.startswith("function-")
            or (shared and kind == "definition-ref")
            or any(_has_own_code(member, shared=shared) for member in members.values())
        )
    if isinstance(schema, (list, tuple)):
        return any(_has_own_code(member, shared=shared) for member in cast("list[Any]", schema))
    return False


def is_scalar(model: type[BaseModel]) -> bool:
    """Say whether each field is of a type that never iterates over what it is given."""
    fields = fields_alone(model)
    return fields is not None and not any(_iterates(field["schema"]) for field in fields.values())


def _iterates(schema: Any) -> bool:
    kind = schema["type"]
    if kind == "union":
        choices = cast("list[Any]", schema["choices"])
        return any(_iterates(choice[0] if type(choice) is tuple else choice) for choice in choices)
    if kind in {"default", "nullable", "function-after"}:
        return _iterates(schema["schema"])
    return kind not in _SCALARS


_SCALARS: Final = frozenset(
    {
        "none",
        "bool",
        "int",
        "float",
        "decimal",
        "str",
        "literal",
        "enum",
        "date",
        "time",
        "datetime",
        "timedelta",
        "uuid",
    }
)
"""Types of pydantic-core's schemas that never iterate over what they validate."""
