"""OpenTelemetry metrics of the books; beside tracing, the only file that knows OpenTelemetry.

Observed when the application's reader asks, so that they cost an event nothing. Without a
configured meter provider nothing is ever asked.

Names and units follow OpenTelemetry's semantic conventions, and their metrics of SDKs
(``otel.sdk.*``) where those have the like: nouns in the singular with what happened behind them, no
unit in the name, ``error.type`` for why, ``usage`` and ``limit`` for what fills up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, NamedTuple

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from tenantry.report import Stats

Read = Callable[[], Sequence[Stats]]

_EVENT: Final = "{event}"
"""An annotation, as UCUM and OpenTelemetry's semantic conventions write counted things."""


class Instrument(NamedTuple):
    """A metric, and how it is observed."""

    name: str
    kind: Literal["counter", "up_down_counter", "gauge"]
    unit: str
    description: str
    observe: Callable[[Sequence[Stats]], Iterable[Observation]]


def _sum(read: Callable[[Stats], int]) -> Callable[[Sequence[Stats]], Iterable[Observation]]:
    return lambda books: [Observation(sum(map(read, books)))]


def _drops(books: Sequence[Stats]) -> Iterable[Observation]:
    totals: dict[tuple[str, str, str], int] = {}
    for stats in books:
        for drop in stats.drops:
            kind = (drop.reason, drop.tenant_id or "", drop.name or "")
            totals[kind] = totals.get(kind, 0) + drop.count
    for (reason, tenant_id, name), count in totals.items():
        attributes = {
            "error.type": reason,
            "tenantry.tenant.id": tenant_id,
            "tenantry.event.name": name,
        }
        yield Observation(count, {key: value for key, value in attributes.items() if value})


def _lag(books: Sequence[Stats]) -> Iterable[Observation]:
    return [Observation(max((stats.lag for stats in books), default=0.0))]


def _usage(books: Sequence[Stats]) -> Iterable[Observation]:
    each = _directories(books)
    retained = sum(stats.retained_bytes for stats in each)
    total = sum(stats.journal_bytes for stats in each)
    for state, count in (("needed", total - retained), ("retained", retained)):
        yield Observation(count, {"tenantry.journal.state": state})


def _limit(books: Sequence[Stats]) -> Iterable[Observation]:
    return [Observation(sum(stats.journal_max_bytes for stats in _directories(books)))]


def _directories(books: Sequence[Stats]) -> list[Stats]:
    """Take each directory once: pipelines that share one report all of it."""
    files: Mapping[Any, Stats] = {stats.directory: stats for stats in books if stats.directory}
    return [*files.values(), *(stats for stats in books if stats.directory is None)]


INSTRUMENTS: Final = (
    Instrument(
        "tenantry.event.emitted",
        "counter",
        _EVENT,
        "Events that the application emitted.",
        _sum(lambda stats: stats.emitted),
    ),
    Instrument(
        "tenantry.event.accepted",
        "counter",
        _EVENT,
        "Events that were written into the journal, refused ones included.",
        _sum(lambda stats: stats.accepted),
    ),
    Instrument(
        "tenantry.event.handed",
        "counter",
        _EVENT,
        "Events that were written into a transaction of the application's.",
        _sum(lambda stats: stats.handed),
    ),
    Instrument(
        "tenantry.event.sampled_out",
        "counter",
        _EVENT,
        "Events that were left out by sampling.",
        _sum(lambda stats: stats.sampled_out),
    ),
    Instrument(
        "tenantry.event.dropped",
        "counter",
        _EVENT,
        "Events that were lost on purpose.",
        _drops,
    ),
    Instrument(
        "tenantry.event.stored",
        "counter",
        _EVENT,
        "Accepted events that the destination has stored.",
        _sum(lambda stats: stats.stored),
    ),
    Instrument(
        "tenantry.event.rejected",
        "counter",
        _EVENT,
        "Accepted events that were refused, and are kept with the reason.",
        _sum(lambda stats: stats.rejected),
    ),
    Instrument(
        "tenantry.event.pending",
        "up_down_counter",
        _EVENT,
        "Accepted events that the destination does not have yet.",
        _sum(lambda stats: stats.pending),
    ),
    Instrument(
        "tenantry.event.lag",
        "gauge",
        "s",
        "How long the oldest pending event has waited.",
        _lag,
    ),
    Instrument(
        "tenantry.journal.usage",
        "up_down_counter",
        "By",
        "What the journals of the directory take.",
        _usage,
    ),
    Instrument(
        "tenantry.journal.limit",
        "up_down_counter",
        "By",
        "What they may take.",
        _limit,
    ),
)


class _Moment:
    """The books as all instruments see them in one collection, in which each asks once."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._books: Sequence[Stats] = ()
        self._asked: set[str] | None = None

    def books(self, asking: str) -> Sequence[Stats]:
        if self._asked is None or asking in self._asked:
            self._books, self._asked = self._read(), set()
        self._asked.add(asking)
        return self._books


@cache
def register(read: Read) -> None:
    """Make the instruments, once for one ``read``, which gives the books of each pipeline."""
    meter, moment = get_meter("tenantry"), _Moment(read)
    for instrument in INSTRUMENTS:
        _create(meter, instrument, moment)


def _create(meter: Meter, instrument: Instrument, moment: _Moment) -> None:

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return instrument.observe(moment.books(instrument.name))

    create = getattr(meter, f"create_observable_{instrument.kind}")
    create(
        instrument.name,
        [observe],
        unit=instrument.unit,
        description=instrument.description,
    )
