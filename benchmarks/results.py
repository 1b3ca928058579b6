"""What the benchmarks give back, the goals, and how both are printed. Measures nothing."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from typing import Any

import pyperf  # type: ignore[import-untyped]  # it has no annotations

DISTRIBUTIONS = {
    "tenantry",
    "psycopg",
    "pydantic",
    "wrapt",
    "ddtrace",
    "eliot",
    "logfire",
    "opentelemetry-sdk",
    "posthog",
    "segment-analytics-python",
    "sentry-sdk",
    "structlog",
}
"""Whose versions matter."""


@dataclass(frozen=True)
class Measurement:
    """A figure: the median of its rounds, and their range."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float]) -> Measurement:
        return cls(name, unit, statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Goal:
    """What was promised, and what came of it; ``measured`` is None where it was not measured."""

    name: str
    limit: str
    measured: float | None
    met: bool | None


@dataclass(frozen=True)
class Series:
    """A line of a chart: what was measured at each of ``x``."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """What a page may draw; ``x_label`` and ``y_label`` carry the units."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Section:
    """The results of one subject."""

    title: str
    measurements: tuple[Measurement, ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    bars: bool = False
    """Whether a page draws a bar for each measurement in the unit of the first."""


def at_most(name: str, limit: float, unit: str, measured: float | None) -> Goal:
    is_met = None if measured is None else measured <= limit
    return Goal(name, f"<= {limit:g}{unit}", measured, is_met)


def below(name: str, limit: float, unit: str, measured: float | None) -> Goal:
    is_met = None if measured is None else measured < limit
    return Goal(name, f"< {limit:g}{unit}", measured, is_met)


def at_least(name: str, limit: float, unit: str, measured: float | None) -> Goal:
    is_met = None if measured is None else measured >= limit
    return Goal(name, f">= {limit:g}{unit}", measured, is_met)


def unmeasured(name: str, limit: str) -> Goal:
    return Goal(name, limit, None, None)


def print_section(section: Section) -> None:
    print(f"\n{section.title}")
    rows = [
        (m.name, m.unit, figure(m.median), f"{figure(m.low)} .. {figure(m.high)}", str(m.rounds))
        for m in section.measurements
    ]
    _print_table(("", "unit", "median", "range", "rounds"), rows)
    for note in section.notes:
        print(f"  {note}")


def print_goals(goals: Sequence[Goal]) -> None:
    print("\nGoals")
    rows = [
        (
            goal.name,
            goal.limit,
            "-" if goal.measured is None else figure(goal.measured),
            verdict(goal.met),
        )
        for goal in goals
    ]
    _print_table(("", "goal", "measured", "result"), rows)


def to_json(sections: Sequence[Section], *, quick: bool, load: dict[str, float]) -> dict[str, Any]:
    """Give all results, and on what they were measured, as JSON writes them."""
    return {
        "format": 1,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "load_average": load,
        "machine": pyperf.Run([1.0], collect_metadata=True).get_metadata(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "versions": {
            each.name: each.version for each in distributions() if each.name in DISTRIBUTIONS
        },
        "sections": [asdict(section) for section in sections],
    }


def verdict(met: bool | None) -> str:  # noqa: FBT001  # the value itself
    return "not measured" if met is None else "met" if met else "MISSED"


def figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _print_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join([first, *rest]).rstrip())
