"""OpenTelemetry metrics of the books; beside tracing, the only file that knows OpenTelemetry.

Observed when the application's reader asks, so that they cost an event nothing. Without a
configured meter provider nothing is ever asked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cache
from typing import Final

from opentelemetry.metrics import Observation, get_meter

from tenantry.report import Stats

Read = Callable[[], Sequence[Stats]]

_UNIT: Final = "{event}"
"""An annotation, as UCUM and OpenTelemetry's semantic conventions write counted things."""


@cache
def register(read: Read) -> None:
    """Make the instruments, once for one ``read``, which gives the books of each pipeline."""
    meter = get_meter("tenantry")
    meter.create_observable_counter(
        "tenantry.events",
        [lambda _: _outcomes(read())],
        unit=_UNIT,
        description="Emitted events, by what became of them.",
    )
    meter.create_observable_counter(
        "tenantry.events.dropped",
        [lambda _: _drops(read())],
        unit=_UNIT,
        description="Events that were lost on purpose.",
    )
    meter.create_observable_up_down_counter(
        "tenantry.events.pending",
        [lambda _: _pending(read())],
        unit=_UNIT,
        description="Accepted events that the destination does not have yet.",
    )


def _outcomes(books: Iterable[Stats]) -> Generator[Observation]:
    totals = {"accepted": 0, "handed": 0, "sampled_out": 0, "dropped": 0}
    for stats in books:
        totals["accepted"] += stats.accepted
        totals["handed"] += stats.handed
        totals["sampled_out"] += stats.sampled_out
        totals["dropped"] += sum(stats.dropped.values())
    for outcome, count in totals.items():
        yield Observation(count, {"tenantry.outcome": outcome})


def _drops(books: Iterable[Stats]) -> Generator[Observation]:
    totals: dict[tuple[str, str, str], int] = {}
    for stats in books:
        for drop in stats.drops:
            kind = (drop.reason, drop.tenant_id or "", drop.name or "")
            totals[kind] = totals.get(kind, 0) + drop.count
    for (reason, tenant_id, name), count in totals.items():
        attributes = {
            "tenantry.reason": reason,
            "tenantry.tenant.id": tenant_id,
            "event.name": name,
        }
        yield Observation(count, {key: value for key, value in attributes.items() if value})


def _pending(books: Iterable[Stats]) -> Generator[Observation]:
    yield Observation(sum(stats.pending for stats in books))
