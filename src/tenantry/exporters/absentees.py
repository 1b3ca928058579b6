"""Tenants that events refer to and that are not there: how long each is waited for.

Where the host lets ``events.tenant_id`` refer to its own tenants, an event may come before the
sign-up's transaction commits, or after its tenant was deleted. Knows nothing of SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

PATIENCE: Final = 10.0
"""Seconds for which a batch waits for a tenant, from its first row that was refused."""

REMEMBERED: Final = 900.0
"""Seconds for which nobody waits again, from the last row that was refused."""

MOST: Final = 10_000
"""Tenants that are remembered; beyond it nobody is waited for. A batch has about 4,500 rows."""


class Absentees:
    """The tenants that were absent lately. Not thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin with none; ``monotonic`` gives seconds."""
        self._monotonic = monotonic
        self._seen: dict[str, tuple[float, float]] = {}
        """The times of the first and of the last refused row, ordered by the last."""

    def __bool__(self) -> bool:
        return bool(self._seen)

    def must_wait_for(self, tenants: Iterable[str]) -> bool:
        """Note that ``tenants`` are absent now; say whether their rows wait, and are not rejected.

        Every one begins to be waited for at once, so that many cost no more time than one.
        """
        now = self._monotonic()
        for tenant, (_, last) in list(self._seen.items()):
            if now - last < REMEMBERED:
                break
            del self._seen[tenant]
        waits = False
        for tenant in tenants:
            if tenant not in self._seen and len(self._seen) >= MOST:
                continue
            first, _ = self._seen.pop(tenant, (now, now))
            self._seen[tenant] = (first, now)
            waits = waits or now - first < PATIENCE
        return waits

    def welcome(self, tenants: Iterable[str | None]) -> None:
        """Forget those whose rows were accepted: the next time they are waited for again."""
        for tenant in tenants:
            if tenant is not None:
                self._seen.pop(tenant, None)
