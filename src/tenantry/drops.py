"""Drops: which events were lost on purpose, by reason, tenant and name.

The books count every drop and survive a kill; this says whose they were, for as long as the process
lives. Knows nothing of who is told.
"""

from __future__ import annotations

import itertools
from typing import Final

from tenantry.journal import DROP_REASONS, Slot, peek
from tenantry.report import Drop

MAX_KINDS: Final = 1000
"""Tenants and names told apart; drops of further ones are counted by their reason alone."""

_Kind = tuple[Slot, str | None, str | None]


class Drops:
    """Counts of dropped events; thread-safe and safe to re-enter by the same means as the books."""

    def __init__(self) -> None:
        self._counts: dict[_Kind, itertools.count[int]] = {}

    def add(self, slot: Slot, tenant_id: str | None, name: str | None) -> None:
        """Count an event."""
        counter = self._counts.get((slot, tenant_id, name))
        if counter is None:
            kind = (slot, tenant_id, name)
            if len(self._counts) >= MAX_KINDS:
                kind = (slot, None, None)
            counter = self._counts.setdefault(kind, itertools.count())
        next(counter)

    def totals(self) -> dict[_Kind, int]:
        """Read the counts, in the order in which the kinds were first seen."""
        return {kind: peek(count) for kind, count in list(self._counts.items())}


class News:
    """What was dropped since it was last asked; of one reader's own thread."""

    def __init__(self, drops: Drops) -> None:
        self._drops = drops
        self._told: dict[_Kind, int] = drops.totals()

    def __bool__(self) -> bool:
        return self._drops.totals() != self._told

    def take(self) -> list[Drop]:
        """Give what is new, and take it as told."""
        told, self._told = self._told, self._drops.totals()
        return make_drops({kind: n - told.get(kind, 0) for kind, n in self._told.items()})


def make_drops(totals: dict[_Kind, int]) -> list[Drop]:
    """Make what users see of counts."""
    return [
        Drop(DROP_REASONS[slot], tenant_id, name, n)
        for (slot, tenant_id, name), n in totals.items()
        if n
    ]
