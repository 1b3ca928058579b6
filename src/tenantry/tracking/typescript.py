"""TypeScript types of the events as they are stored: a union that ``name`` tells apart."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tenantry.tracking.snapshot import DeclaredEvent, Snapshot, as_schema
from tenantry.tracking.stored import as_stored, stored_schema

_HEAD: Final = "// Written by `tenantry taxonomy typescript`; changes are lost.\n"
_PRIMITIVES: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}
_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


def typescript(snapshot: Snapshot) -> str:
    """Write the types; readable as a ``.ts`` or ``.d.ts`` module, strict mode or not."""
    taken: set[str] = {"TenantryEvent", "EventName"}
    names = {name: _unused(_pascal(name), taken) for name in snapshot.events}
    parts = [_HEAD]
    for name, event in snapshot.events.items():
        parts.append(_event(name, names[name], event, taken))
    union = "".join(f"\n  | {name}" for name in names.values()) or " never"
    parts.append(f"/** A row, told apart by its name. */\nexport type TenantryEvent ={union};\n")
    parts.append('export type EventName = TenantryEvent["name"];\n')
    return "\n".join(parts)


def _event(name: str, type_name: str, event: DeclaredEvent, taken: set[str]) -> str:
    inner = {key: _unused(f"{type_name}{_pascal(key)}", taken) for key in sorted(event.definitions)}
    texts = [
        f"export type {inner[key]} = {_type(as_stored(event.definitions[key]), inner, 0)};\n"
        for key in sorted(event.definitions)
    ]
    schema = stored_schema(event)
    about = schema.pop("description", "")
    texts.append(
        f"{_remark(about, '')}export interface {type_name} {{\n"
        f"  name: {json.dumps(name)};\n"
        f"  event_version: {event.version};\n"
        f"  data: {_type(schema, inner, 1)};\n"
        "}\n"
    )
    return "\n".join(texts)


def _type(part: Any, inner: dict[str, str], depth: int) -> str:
    schema = as_schema(part)
    if schema is None:
        return "unknown" if part else "never"
    if "$ref" in schema:
        return inner.get(str(schema["$ref"]).rpartition("/")[2], "unknown")
    if "const" in schema:
        return _literal(schema["const"])
    if "enum" in schema:
        return " | ".join(_literal(value) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(dict.fromkeys(_type(each, inner, depth) for each in schema[union]))
    kind = schema.get("type")
    if kind == "array":
        return _list(schema, inner, depth)
    if kind == "object":
        return _object(schema, inner, depth)
    return _PRIMITIVES.get(str(kind), "unknown")


def _list(schema: dict[str, Any], inner: dict[str, str], depth: int) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(_type(each, inner, depth) for each in schema['prefixItems'])}]"
    return f"Array<{_type(schema.get('items', True), inner, depth)}>"


def _object(schema: dict[str, Any], inner: dict[str, str], depth: int) -> str:
    members: dict[str, Any] = schema.get("properties", {})
    if not members:
        further = schema.get("additionalProperties", "properties" not in schema)
        return f"Record<string, {_type(further, inner, depth)}>"
    indent = "  " * (depth + 1)
    required = schema.get("required", ())
    lines = [
        f"{_remark((as_schema(each) or {}).get('description', ''), indent)}"
        f"{indent}{key if _IDENTIFIER.fullmatch(key) else json.dumps(key)}"
        f"{'' if key in required else '?'}: {_type(each, inner, depth + 1)};\n"
        for key, each in members.items()
    ]
    return "{\n" + "".join(lines) + "  " * depth + "}"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (str, int, float, bool)) else "null"


def _remark(text: str, indent: str) -> str:
    """Write a comment, which no text of a declaration can end."""
    lines = text.replace("*/", "*\\/").strip().splitlines()
    if not lines:
        return ""
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return "".join(
        [
            f"{indent}/**\n",
            *[f"{indent} * {line}".rstrip() + "\n" for line in lines],
            f"{indent} */\n",
        ]
    )


def _pascal(name: str) -> str:
    words = re.split(r"[^A-Za-z0-9]+", name)
    return "".join(word[:1].upper() + word[1:] for word in words) or "Inner"


def _unused(name: str, taken: set[str]) -> str:
    """Give the name, with a number behind it where another event has it."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}{number}", number + 1
    taken.add(found)
    return found
