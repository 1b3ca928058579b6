"""What the benchmarks give back, the goals, and how both are printed. Measures nothing."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyperf  # type: ignore[import-untyped]  # it has no annotations


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
class Section:
    """The results of one subject."""

    title: str
    measurements: tuple[Measurement, ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()


def at_most(name: str, limit: float, unit: str, measured: float) -> Goal:
    return Goal(name, f"<= {limit:g}{unit}", measured, measured <= limit)


def below(name: str, limit: float, unit: str, measured: float) -> Goal:
    return Goal(name, f"< {limit:g}{unit}", measured, measured < limit)


def at_least(name: str, limit: float, unit: str, measured: float) -> Goal:
    return Goal(name, f">= {limit:g}{unit}", measured, measured >= limit)


def unmeasured(name: str, limit: str) -> Goal:
    return Goal(name, limit, None, None)


def print_section(section: Section) -> None:
    print(f"\n{section.title}")
    rows = [
        (m.name, m.unit, _figure(m.median), f"{_figure(m.low)} .. {_figure(m.high)}", str(m.rounds))
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
            "-" if goal.measured is None else _figure(goal.measured),
            "not measured" if goal.met is None else "met" if goal.met else "MISSED",
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
            name: version(name)
            for name in ("tenantry", "opentelemetry-sdk", "psycopg", "pydantic", "wrapt")
        },
        "sections": [asdict(section) for section in sections],
    }


def _figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _print_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join([first, *rest]).rstrip())
