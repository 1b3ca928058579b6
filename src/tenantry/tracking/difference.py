"""What changed between two snapshots, and whether it breaks those who emit or read the events.

A change breaks when a call that was right is refused or loses a key now, or when rows of one name
and version mean two things. Raising the event's version makes its breaking changes acceptable:
readers can tell the rows apart by ``event_version``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from tenantry.tracking.snapshot import DeclaredEvent, Key, Snapshot, marks_in, phase_of
from tenantry.tracking.types import covers, words

Verdict = Literal["breaking", "versioned", "compatible"]


class ChangeKind(StrEnum):
    """Every kind of change."""

    EVENT_ADDED = "event_added"
    EVENT_REMOVED = "event_removed"
    PHASE_REMOVED = "phase_removed"
    EVENT_RETIRED = "event_retired"
    NAME_REUSED = "name_reused"
    VERSION_RAISED = "version_raised"
    VERSION_LOWERED = "version_lowered"
    REQUIRED_KEY_ADDED = "required_key_added"
    OPTIONAL_KEY_ADDED = "optional_key_added"
    KEY_REMOVED = "key_removed"
    KEY_MADE_REQUIRED = "key_made_required"
    KEY_MADE_OPTIONAL = "key_made_optional"
    TYPE_NARROWED = "type_narrowed"
    TYPE_CHANGED = "type_changed"
    TYPE_WIDENED = "type_widened"
    SENSITIVITY_CHANGED = "sensitivity_changed"
    DEFAULT_CHANGED = "default_changed"
    DETECTION_CHANGED = "detection_changed"
    DESCRIPTION_CHANGED = "description_changed"
    OWNER_CHANGED = "owner_changed"
    PATTERN_ADDED = "pattern_added"
    PATTERN_REMOVED = "pattern_removed"


VERSIONABLE: Final = frozenset(
    {
        ChangeKind.NAME_REUSED,
        ChangeKind.REQUIRED_KEY_ADDED,
        ChangeKind.KEY_REMOVED,
        ChangeKind.KEY_MADE_REQUIRED,
        ChangeKind.TYPE_NARROWED,
        ChangeKind.TYPE_CHANGED,
        ChangeKind.SENSITIVITY_CHANGED,
    }
)
"""What breaks, unless the event's version was raised with it."""

BREAKING: Final = VERSIONABLE | {
    ChangeKind.EVENT_REMOVED,
    ChangeKind.PHASE_REMOVED,
    ChangeKind.VERSION_LOWERED,
    ChangeKind.PATTERN_REMOVED,
}
"""What breaks. An event that is gone has no version to raise: a snapshot lists it as retired."""


_ENDS: Final = {"started": "starts", "completed": "completes", "failed": "fails"}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    kind: ChangeKind
    verdict: Verdict
    event: str | None
    """None for a pattern of open names."""
    key: str | None
    message: str


def compare(old: Snapshot, new: Snapshot) -> list[Change]:
    """List the changes from ``old`` to ``new``, by name; empty where there is none."""
    found: list[Change] = []
    for name in sorted({*old.events, *new.events}):
        before, after = old.events.get(name), new.events.get(name)
        if after is None:
            found.append(_removed(name, old, new))
        elif before is None:
            found.append(_added(name, after, old.retired.get(name)))
        else:
            found += _changed(name, before, after)
    for pattern in sorted({*old.open_taxonomy} ^ {*new.open_taxonomy}):
        if pattern in old.open_taxonomy:
            text = f"names like {pattern} are no longer open"
            found.append(_make(ChangeKind.PATTERN_REMOVED, text))
        else:
            found.append(_make(ChangeKind.PATTERN_ADDED, f"names like {pattern} are open now"))
    return found


def _make(
    kind: ChangeKind,
    message: str,
    *,
    event: str | None = None,
    key: str | None = None,
    is_raised: bool = False,
) -> Change:
    verdict: Verdict = "compatible"
    if kind in BREAKING:
        verdict = "versioned" if is_raised and kind in VERSIONABLE else "breaking"
    return Change(kind, verdict, event, key, message)


def _removed(name: str, old: Snapshot, new: Snapshot) -> Change:
    if name in new.retired:
        return _make(ChangeKind.EVENT_RETIRED, "the event was retired", event=name)
    phase = phase_of(name, old.events)
    siblings = [phase_of(each, old.events) for each in new.events]
    if phase is not None and phase[0] in {each[0] for each in siblings if each}:
        message = f"the operation {phase[0]!r} no longer records when it {_ENDS[phase[1]]}"
        return _make(ChangeKind.PHASE_REMOVED, message, event=name)
    return _make(ChangeKind.EVENT_REMOVED, "the event was removed", event=name)


def _added(name: str, after: DeclaredEvent, before: DeclaredEvent | None) -> Change:
    if before is not None:
        changes = [*_compare_events(name, before, after, is_raised=False)]
        broken = [change for change in changes if change.verdict == "breaking"]
        if broken:
            listed = "; ".join(
                f"{change.key}: {change.message}" if change.key else change.message
                for change in broken
            )
            return _make(
                ChangeKind.NAME_REUSED,
                f"the name of an event that was retired at version {before.version} came back with "
                f"another shape, at version {after.version} ({listed})",
                event=name,
                is_raised=after.version > before.version,
            )
    return _make(ChangeKind.EVENT_ADDED, "the event was added", event=name)


def _changed(name: str, before: DeclaredEvent, after: DeclaredEvent) -> Iterator[Change]:
    if after.version != before.version:
        is_raised = after.version > before.version
        yield _make(
            ChangeKind.VERSION_RAISED if is_raised else ChangeKind.VERSION_LOWERED,
            f"the version went from {before.version} to {after.version}",
            event=name,
        )
    yield from _compare_events(name, before, after, is_raised=after.version > before.version)


def _compare_events(
    name: str, before: DeclaredEvent, after: DeclaredEvent, *, is_raised: bool
) -> Iterator[Change]:
    if after.description != before.description:
        yield _make(ChangeKind.DESCRIPTION_CHANGED, "the description changed", event=name)
    if after.owner != before.owner:
        text = f"the owner changed from {before.owner or 'none'} to {after.owner or 'none'}"
        yield _make(ChangeKind.OWNER_CHANGED, text, event=name)
    if after.detect != before.detect:
        text = f"texts are {'now' if after.detect else 'no longer'} searched for secrets"
        yield _make(ChangeKind.DETECTION_CHANGED, text, event=name)
    for key in sorted({*before.keys, *after.keys}):
        one, other = before.keys.get(key), after.keys.get(key)
        if one is None:
            is_required = after.keys[key].required
            kind = ChangeKind.REQUIRED_KEY_ADDED if is_required else ChangeKind.OPTIONAL_KEY_ADDED
            text = f"the {'required' if is_required else 'optional'} key was added"
            yield _make(kind, text, event=name, key=key, is_raised=is_raised)
        elif other is None:
            text = "the key was removed"
            yield _make(ChangeKind.KEY_REMOVED, text, event=name, key=key, is_raised=is_raised)
        else:
            for kind, text in _compare_keys(one, before, other, after):
                yield _make(kind, text, event=name, key=key, is_raised=is_raised)


def _compare_keys(
    one: Key, before: DeclaredEvent, other: Key, after: DeclaredEvent
) -> Iterator[tuple[ChangeKind, str]]:
    if one.description != other.description:
        yield ChangeKind.DESCRIPTION_CHANGED, "the description changed"
    if other.required and not one.required:
        yield ChangeKind.KEY_MADE_REQUIRED, "the optional key is required now"
    if one.required and not other.required:
        yield ChangeKind.KEY_MADE_OPTIONAL, "the required key is optional now"
    mine, yours = one.json_schema, other.json_schema
    is_wider = covers(yours, after.definitions, mine, before.definitions)
    is_narrower = covers(mine, before.definitions, yours, after.definitions)
    if not (is_wider and is_narrower):
        kind = (
            ChangeKind.TYPE_WIDENED
            if is_wider
            else ChangeKind.TYPE_NARROWED
            if is_narrower
            else ChangeKind.TYPE_CHANGED
        )
        was, now = words(mine, before.definitions), words(yours, after.definitions)
        yield kind, f"the type went from {was} to {now}"
    if marks_in(mine, before.definitions) != marks_in(yours, after.definitions):
        yield ChangeKind.SENSITIVITY_CHANGED, "what of it is stored as drop, mask or hash changed"
    if mine.get("default") != yours.get("default"):
        yield ChangeKind.DEFAULT_CHANGED, "the default changed"
