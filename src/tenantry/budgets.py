"""Budgets: rates that follow from what was emitted just before, so that no flood is kept whole.

Counts what is emitted by tenant and name, and says at which rate the next is kept. It never refuses
because something is used up: each event has a known chance to be kept, and carries it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from typing import Final

from tenantry.context import tenant_of
from tenantry.sampling import Budget, Sampling

INTERVAL: Final = 10.0
"""Seconds whose counts set the rates of the seconds after them."""

PRESSED_INTERVAL: Final = 1.0
"""The same while the journal is short of room."""

MAX_KINDS: Final = 4000
"""Pairs of tenant and name that are told apart in an interval, which bounds its end's few
milliseconds. Of further ones the tenant alone is counted; as many tenants later, all in one."""

LASTING: Final = 300.0
"""Seconds that the room left in a journal is to last, once half of it is used."""

EVENT_BYTES: Final = 512
"""Of a journal that one event takes, about; an operation's two lines are two events."""

_Counts = dict[tuple[str, str], "count[int]"]  # at run time that class takes no parameter

NOBODY: Final = '"tenant_id":"?",'
"""Stands for the scope of events that have no tenant, or a bad one."""

_OTHER: Final = ""
"""Stands for tenants and names beyond ``MAX_KINDS``; none is empty."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates that are in force. What is not listed was not seen in the interval before."""

    tenants: Mapping[str, float] = field(default_factory=dict[str, float])
    names: Mapping[str, float] = field(default_factory=dict[str, float])

    def find(self, tenant: str, name: str) -> float:
        """Multiply the tenant's rate by the name's."""
        by_tenant = self.tenants.get(tenant)
        if by_tenant is None:
            by_tenant = self.tenants.get(_OTHER, 1.0)
        by_name = self.names.get(name)
        if by_name is None:
            by_name = self.names.get(_OTHER, 1.0)
        return by_tenant * by_name


class Meter:
    """What was emitted in this interval, and the rates that follow from the one before."""

    def __init__(self) -> None:
        """Begin with nothing known: everything is kept."""
        self.counts: _Counts = {}
        self.rates = Rates()

    def add(self, tenant: str, name: str, events: int) -> None:
        """Count; a single call moves a counter, so that no thread's step is lost.

        But for this: a step that comes while the interval ends may count for neither.
        """
        counts = self.counts
        counter = counts.get((tenant, name))
        if counter is None:
            kind = (tenant, name)
            if len(counts) >= MAX_KINDS:
                kind = (tenant, _OTHER)
                if kind not in counts and len(counts) >= 2 * MAX_KINDS:
                    kind = (_OTHER, _OTHER)
            counter = counts.setdefault(kind, count(0, events))
        next(counter)

    def take(self) -> dict[tuple[str, str], int]:
        """Give the counts of the interval, and begin the next."""
        counts, self.counts = self.counts, {}
        return {kind: next(counter) for kind, counter in list(counts.items())}


class Budgets:
    """The rates of one pipeline, in this process.

    No lock is waited for: one thread ends an interval, the others go on with the rates as they are.
    ``declared`` are the pipeline's own rates, which leave less to be budgeted. ``now`` gives
    nanoseconds.
    """

    def __init__(
        self, budgets: Iterable[Budget], declared: Mapping[str, Sampling], now: Callable[[], int]
    ) -> None:
        """Begin an interval, without pressure."""
        self._per_second = {budget.per: budget.per_second for budget in budgets}
        self._declared: dict[bool, Mapping[str, Sampling]] = {False: declared, True: {}}
        """By whether events failed: their rate is not declared."""
        self._now = now
        self._room: int | None = None
        self._ending = threading.Lock()
        """Never waited for; whoever has it ends the interval."""
        self.restart()

    def restart(self) -> None:
        """Forget what was counted: for a while nobody counted."""
        self._meters = {False: Meter(), True: Meter()}
        """Of failed events, and of all others."""
        self._began_at = self._now()
        self._set_end()

    def _set_end(self) -> None:
        seconds = INTERVAL if self._room is None else PRESSED_INTERVAL
        self._ends_at = self._began_at + round(seconds * 1e9)

    @property
    def is_needed(self) -> bool:
        """Whether events have to be counted: there are budgets, or the journal is short of room."""
        return bool(self._per_second) or self._room is not None

    def press(self, room: int | None) -> None:
        """Note how many bytes are left in the journal; None where there are enough.

        While it is short of room, tenants that use more than their share are sampled.
        """
        was_needed, before = self.is_needed, self._room
        self._room = room
        if not was_needed:
            self.restart()
        elif (room is None) is not (before is None):
            self._ends_at = self._began_at + round(PRESSED_INTERVAL * 1e9)

    def limit(
        self,
        sampling: Sampling | None,
        scope: str,
        name: str,
        *,
        events: int = 1,
        failed: bool = False,
    ) -> Sampling | None:
        """Count an operation or a fact, and say how it is sampled; ``sampling`` itself as declared.

        ``scope`` is the fragment of one. ``events`` are those that it is about to emit.
        """
        now = self._now()
        if now >= self._ends_at:
            self._end_interval(now)
        tenant = tenant_of(scope)
        meter = self._meters[failed]
        meter.add(tenant, name, events)
        rate = meter.rates.find(tenant, name)
        if rate >= 1:
            return sampling
        if sampling is None:
            return Sampling(rate)
        return Sampling(rate * sampling.rate, sampling.key)

    def _end_interval(self, now: int) -> None:
        if not self._ending.acquire(blocking=False):
            return
        try:
            if now < self._ends_at:
                return  # somebody else has just done it
            seconds = (now - self._began_at) / 1e9
            self._began_at = now
            self._set_end()
            for failed, meter in self._meters.items():
                meter.rates = self._make_rates(meter.take(), self._declared[failed], seconds)
        finally:
            self._ending.release()

    def _make_rates(
        self,
        counts: Mapping[tuple[str, str], int],
        declared: Mapping[str, Sampling],
        seconds: float,
    ) -> Rates:
        """Set each rate so that, were it to go on as it went, the budget would just be used up.

        In this order, so that nobody pays for another: tenants; names, with what the tenants' rates
        leave; then the tenants' shares of the journal, with what both leave.
        """
        kept = {
            (tenant, name): n * (declared[name].rate if name in declared else 1.0)
            for (tenant, name), n in counts.items()
        }
        tenants = _fit(_sum(kept, 0), self._per_second.get("tenant"), seconds)
        kept = {kind: n * tenants.get(kind[0], 1.0) for kind, n in kept.items()}
        names = _fit(_sum(kept, 1), self._per_second.get("name"), seconds)
        room = self._room
        if room is not None:
            kept = {kind: n * names.get(kind[1], 1.0) for kind, n in kept.items()}
            used = _sum(kept, 0)
            level = fair_level(list(used.values()), seconds * room / EVENT_BYTES / LASTING)
            for tenant, n in used.items():
                tenants[tenant] = tenants.get(tenant, 1.0) * (level / n if n > level else 1.0)
        return Rates(tenants, names)

    def list_limited(self) -> dict[str, float]:
        """List the rates below 1 that are in force, the lowest first: of tenants and of names."""
        limited: dict[str, float] = {}
        for meter in self._meters.values():
            rates = meter.rates
            for kind, found in (("tenant", rates.tenants), ("name", rates.names)):
                for key, rate in found.items():
                    if rate < 1:
                        label = f"{kind} {key or 'others'}"
                        limited[label] = min(rate, limited.get(label, 1.0))
        return dict(sorted(limited.items(), key=itemgetter(1)))


def fair_level(used: list[float], capacity: float) -> float:
    """Say how much each may use at the most, so that together they use ``capacity``.

    What some leave of their equal parts goes to the others (max-min fairness). Nobody is held below
    twice the median: a load that all share alike is nobody's fault.
    """
    left, parts = capacity, len(used)
    in_order = sorted(used)
    for n in in_order:
        if n * parts > left:
            return max(left / parts, 2.0 * in_order[(len(used) - 1) // 2])
        left -= n
        parts -= 1
    return float("inf")


def _sum(kept: Mapping[tuple[str, str], float], place: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for kind, n in kept.items():
        sums[kind[place]] = sums.get(kind[place], 0.0) + n
    return sums


def _fit(used: Mapping[str, float], per_second: float | None, seconds: float) -> dict[str, float]:
    """Give each the rate that keeps it within its budget."""
    if per_second is None:
        return {}
    allowed = per_second * seconds
    return {key: allowed / n if n > allowed else 1.0 for key, n in used.items()}
