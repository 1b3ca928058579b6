"""What is kept of a line that the database refused: whatever a text column can surely hold.

Pure functions from bytes to bytes; they know nothing of connections.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import NAMESPACE_OID, UUID, uuid5

from tenantry.record import EVENT_COLUMNS, REJECT_COLUMNS

REASON: Final = "database"
"""``rejected_events.reason`` of a row that the database refused."""

_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""An escaped NUL, which jsonb refuses; an escaped backslash before ``u0000`` is none."""

_TEXT_LIMIT: Final = 1000
"""Characters kept of a text value; whoever looks needs a hint, not a megabyte."""

_EVENT_KEYS: Final = frozenset(column.name for column in EVENT_COLUMNS)
_UUIDS: Final = frozenset(column.name for column in REJECT_COLUMNS if column.type == "uuid")
_TEXTS: Final = frozenset(column.name for column in REJECT_COLUMNS if column.type == "text")


def salvage(line: bytes, sqlstate: str, message: str) -> bytes:
    """Turn a refused event into a line for ``rejected_events``, with its ``data`` as it is.

    ``event`` is the whole row, to be stored after all when its reason is gone. Values that their
    column could not hold are left out elsewhere. An id that is missing or invalid is derived from
    the bytes, so that a replay gives the same row.
    """
    event = _read(line)
    kept = _keep(event, line)
    whole = {key: value for key, value in event.items() if key in _EVENT_KEYS}
    if whole and _fits_jsonb(line, whole):
        kept["event"] = whole
    if isinstance(event.get("data"), dict):
        kept["data"] = event["data"]
    version = event.get("event_version", 1)  # a line leaves out what is the column's default
    if type(version) is int and 0 < version < 2**15:
        kept["event_version"] = version
    kept["reason"] = REASON
    kept["detail"] = _clean(f"{sqlstate}: {message}")
    return json.dumps(kept).encode()


def strip(line: bytes, sqlstate: str, message: str) -> bytes:
    """Turn a line that ``rejected_events`` refused into one that it cannot refuse."""
    reject = _read(line)
    kept = _keep(reject, line)
    kept.setdefault("reason", REASON)
    kept.setdefault("detail", _clean(f"{sqlstate}: {message}"))
    return json.dumps(kept).encode()


def _read(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _fits_jsonb(line: bytes, event: dict[str, Any]) -> bool:
    """Say whether jsonb takes what was sent, as far as it can be told: else ``data`` goes too."""
    try:
        line.decode()  # else it was read with replacements, and is not what was sent
        # As deep as it will stand in the reject.
        text = json.dumps({"event": event}, ensure_ascii=False, allow_nan=False)
        text.encode()  # fails at a lone surrogate
    except (ValueError, RecursionError):
        return False
    return _NUL.search(text) is None


def _keep(row: dict[str, Any], line: bytes) -> dict[str, Any]:
    """Take the columns that have no JSON in them."""
    kept: dict[str, Any] = {"id": str(uuid5(NAMESPACE_OID, line.hex()))}
    kept["created_at"] = _read_time(row.get("created_at"))
    for name in _UUIDS & row.keys():
        if (identifier := _read_uuid(row[name])) is not None:
            kept[name] = identifier
    for name in _TEXTS & row.keys():
        if isinstance(row[name], str | int | float):
            kept[name] = _clean(str(row[name]))
    return kept


def _read_uuid(value: object) -> str | None:
    try:
        return str(UUID(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def _read_time(value: object) -> str:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    return (moment or datetime.now(UTC)).isoformat()


def _clean(text: str) -> str:
    """Replace what is no valid text in PostgreSQL: NUL and lone surrogates."""
    return text[:_TEXT_LIMIT].replace("\0", "\ufffd").encode(errors="replace").decode()
