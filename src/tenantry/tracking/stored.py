"""The payload as it is stored: JSON Schema of a row's ``data``, for those who read the events."""

from __future__ import annotations

from typing import Any, Final

from tenantry.tracking.snapshot import (
    SENSITIVE,
    DeclaredEvent,
    JsonSchema,
    Snapshot,
    as_list,
    as_schema,
    without_null,
)

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def stored_schema(event: DeclaredEvent) -> JsonSchema:
    """Describe the payload: what is marked is text or missing, and null is never stored."""
    properties: dict[str, JsonSchema] = {}
    required: list[str] = []
    for name, key in event.keys.items():
        schema, is_nullable = without_null(key.json_schema)
        how = schema.get(SENSITIVE)
        if how == "drop":
            continue
        value = as_stored(schema)
        properties[name] = {
            **value,
            **({"description": key.description} if key.description else {}),
        }
        if key.required and not is_nullable and how != "hash":  # a hash needs keys to be made
            required.append(name)
    return {
        "type": "object",
        **({"description": event.description} if event.description else {}),
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def as_stored(schema: Any) -> Any:
    """Replace what is marked, at any depth, by what is stored of it."""
    items, members = as_list(schema), as_schema(schema)
    if items is not None:
        return [as_stored(each) for each in items]
    if members is None:
        return schema
    if SENSITIVE in members:
        return {"type": "string"} if members[SENSITIVE] != "drop" else {}
    found: JsonSchema = {
        keyword: (
            {key: as_stored(each) for key, each in value.items() if not _is_dropped(each)}
            if keyword == "properties"
            else value
            if keyword in {"enum", "const", "default", "required"}
            else as_stored(value)
        )
        for keyword, value in members.items()
    }
    if "required" in found and "properties" in found:
        marked = {key for key, each in members["properties"].items() if SENSITIVE in each}
        found["required"] = [key for key in found["required"] if key not in marked]
    return found


def _is_dropped(schema: Any) -> bool:
    return (as_schema(schema) or {}).get(SENSITIVE) == "drop"


def json_schema(snapshot: Snapshot) -> JsonSchema:
    """Make one document, with the payload of each event in ``$defs`` under its name.

    As a whole it holds for objects with ``name``, ``event_version`` and ``data``: rows.
    """
    definitions: dict[str, JsonSchema] = {}
    for name, event in snapshot.events.items():
        definitions[name] = _moved(stored_schema(event), name)
        for inner, schema in event.definitions.items():
            definitions[f"{name}.{inner}"] = _moved(as_stored(schema), name)
    rows: list[JsonSchema] = [
        {
            "properties": {
                "name": {"const": name},
                "event_version": {"const": event.version},
                "data": {"$ref": f"#/$defs/{name}"},
            }
        }
        for name, event in snapshot.events.items()
    ]
    if snapshot.open_taxonomy:
        rows.append({"properties": {"name": {"not": {"enum": list(snapshot.events)}}}})
    return {
        "$schema": DIALECT,
        "title": "Events",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "event_version": {"type": "integer"},
            "data": {"type": "object"},
        },
        "required": ["name", "event_version", "data"],
        "oneOf": rows,
        "$defs": definitions,
    }


def _moved(schema: Any, event: str) -> Any:
    """Point the references within an event's schema to where the document has its definitions."""
    items, members = as_list(schema), as_schema(schema)
    if items is not None:
        return [_moved(each, event) for each in items]
    if members is None:
        return schema
    return {
        keyword: f"#/$defs/{event}.{str(value).rpartition('/')[2]}"
        if keyword == "$ref" and isinstance(value, str)
        else {"propertyName": value["propertyName"]}  # its mapping has references of its own
        if keyword == "discriminator" and as_schema(value)
        else _moved(value, event)
        for keyword, value in members.items()
    }
