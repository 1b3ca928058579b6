"""The tracking plan: a page of Markdown that says what is recorded, when, and with which keys."""

from __future__ import annotations

from collections.abc import Mapping

from tenantry.sampling import Sampling
from tenantry.tracking.snapshot import (
    DeclaredEvent,
    Key,
    Snapshot,
    marks_in,
    phase_of,
    without_null,
)
from tenantry.tracking.types import words


def tracking_plan(snapshot: Snapshot, sampling: Mapping[str, Sampling]) -> str:
    """Write the page, its events by name."""
    count = len(snapshot.events)
    parts = ["# Tracking plan\n", f"{count} event{'' if count == 1 else 's'}, by name.\n"]
    for name, event in snapshot.events.items():
        parts.append(_section(name, event, snapshot, sampling))
    if snapshot.open_taxonomy:
        patterns = ", ".join(f"`{pattern}`" for pattern in snapshot.open_taxonomy)
        parts.append(f"## Open names\n\nEvents named like {patterns} may carry any keys.\n")
    return "\n".join(parts)


def _section(
    name: str, event: DeclaredEvent, snapshot: Snapshot, sampling: Mapping[str, Sampling]
) -> str:
    phase = phase_of(name, snapshot.events)
    operation = name if phase is None else phase[0]
    facts = [
        "a fact" if phase is None else f"phase `{phase[1]}` of the operation `{operation}`",
        f"version {event.version}",
    ]
    if event.owner:
        facts.append(f"owner: {_cell(event.owner)}")
    rule = sampling.get(operation)
    if rule is not None:
        by = f", by `{rule.key}`" if rule.key else ""
        is_failed = phase is not None and phase[1] == "failed"
        facts.append("all are kept" if is_failed else f"a share of {rule.rate:g} is kept{by}")
    if not event.detect:
        facts.append("texts are not searched for secrets")
    lines = [f"## {name}\n"]
    if event.description:
        lines.append(f"{event.description}\n")
    lines.append(_sentence(facts))
    if not event.keys:
        return "\n".join([*lines, "No keys.\n"])
    rows = [_row(key, about, event) for key, about in event.keys.items()]
    head = ["| Key | Type | Required | Stored | Description |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *head, *rows, ""])


_STORED = {
    "drop": "not stored",
    "mask": "masked",
    "hash": "hashed",
}


def _row(name: str, key: Key, event: DeclaredEvent) -> str:
    schema, is_nullable = without_null(key.json_schema)
    marks = marks_in(key.json_schema, event.definitions)
    inner = sorted({_STORED[mark] for path, mark in marks.items() if path})
    stored = _STORED[marks[""]] if "" in marks else f"in part {', '.join(inner)}" if inner else ""
    stored = f"**{stored}**" if stored else "as given"
    required = "yes" if key.required else "no"
    if key.required and is_nullable:
        required = "yes, or None"
    cells = (
        f"`{name}`",
        _cell(words(schema, event.definitions)),
        required,
        stored,
        _cell(key.description),
    )
    return f"| {' | '.join(cells)} |"


def _sentence(facts: list[str]) -> str:
    text = "; ".join(facts)
    return f"{text[0].upper()}{text[1:]}.\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
