"""``make bench``: measures, prints tables, compares with the goals, and writes all of it.

The JSON is what counts; beside it lie the same tables in Markdown, and charts.

Always ends with 0 when it could measure: a goal that is missed on one machine, on one day, is a
finding and no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    application,
    backlog,
    caller,
    end_to_end,
    freshness,
    growth,
    importing,
    latency,
    page,
    reading,
    redaction,
    shipping,
    transactional,
    writers,
)
from benchmarks.results import Goal, Section, print_goals, print_section, to_json

SUBJECTS = (
    "caller",
    "latency",
    "application",
    "redaction",
    "shipping",
    "end-to-end",
    "freshness",
    "backlog",
    "writers",
    "transactional",
    "growth",
    "reading",
    "importing",
)

GROWN = (10_000, 1_000_000, 10_000_000)
"""Rows in the table; the last with ``--full`` alone."""


def main() -> None:
    options = parse()
    quick: bool = options.quick
    full: bool = options.full
    measuring: dict[str, Callable[[], list[Section]]] = {
        "caller": lambda: caller.measure(
            rounds=2 if quick else 5, bursts=4 if quick else 15, quick=quick
        ),
        "latency": lambda: [
            latency.measure(rounds=1 if quick else 5, seconds=0.2 if quick else 0.6, quick=quick)
        ],
        "application": lambda: [
            application.measure(rounds=1 if quick else 14, seconds=0.5 if quick else 1.2)
        ],
        "redaction": lambda: [
            redaction.measure(rounds=1 if quick else 5, bursts=3 if quick else 10)
        ],
        "shipping": lambda: shipping.measure(
            rounds=3 if quick else 11, rows=20_000 if quick else 30_000
        ),
        "end-to-end": lambda: [
            end_to_end.measure(
                rounds=2 if quick else 5,
                first_rounds=3 if quick else 7,
                rows=20_000 if quick else 50_000,
            )
        ],
        "freshness": lambda: [
            freshness.measure(
                rounds=1 if quick else 3,
                seconds=3 if quick else 5,
                idle_seconds=2 if quick else 5,
            )
        ],
        "backlog": lambda: [
            backlog.measure(
                rounds=1 if quick or full else 2,
                rows=20_000 if quick else 1_000_000 if full else 200_000,
            )
        ],
        "writers": lambda: writers.measure(
            rounds=1 if quick else 3, rows=5_000 if quick else 20_000
        ),
        "transactional": lambda: [
            transactional.measure(rounds=3 if quick else 11, calls=200 if quick else 1000)
        ],
        "growth": lambda: [
            growth.measure(
                rounds=1 if quick else 5,
                table_rows=(10_000, 50_000) if quick else GROWN if full else GROWN[:2],
            )
        ],
        "reading": lambda: [
            reading.measure(
                rounds=5 if quick else 21,
                rows=100_000 if quick else 10_000_000 if full else 1_000_000,
            )
        ],
        "importing": lambda: importing.measure(rounds=5 if quick else 25),
    }
    unmeasured: dict[str, tuple[Goal, ...]] = {
        "caller": caller.goals(),
        "latency": (),
        "application": application.goals(),
        "redaction": (),
        "shipping": shipping.goals(),
        "end-to-end": end_to_end.goals(),
        "freshness": freshness.goals(),
        "backlog": backlog.goals(),
        "writers": writers.goals(),
        "transactional": transactional.goals(),
        "growth": growth.goals(),
        "reading": reading.goals(),
        "importing": importing.goals(),
    }
    begin, load = time.monotonic(), os.getloadavg()[0]
    cpus = os.cpu_count() or 1
    print(f"{cpus} CPUs, load {load:.2f} at the start: ranges tell how quiet the machine was.")
    sections: list[Section] = []
    goals: list[Goal] = []
    for subject in SUBJECTS:
        if subject not in options.only:
            goals += unmeasured[subject]
            continue
        for section in measuring[subject]():
            print_section(section)
            sections.append(section)
            goals += section.goals
    print_goals(goals)
    load_average = {"start": load, "end": os.getloadavg()[0]}
    report = to_json(sections, quick=quick, load=load_average)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2)
    options.output.write_text(f"{text}\n")
    page.write_alone(json.loads(text), options.output.with_suffix(".md"))
    if options.page:
        page.write(json.loads(text), page.PAGE)
    print(f"\n{time.monotonic() - begin:.0f} s; written to {options.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: less than a minute")
    parser.add_argument(
        "--full", action="store_true", help="backlog and tables of millions: some minutes more"
    )
    parser.add_argument(
        "--only", action="append", choices=SUBJECTS, default=None, help="may be given several times"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the results into the documentation as well"
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    options.only = options.only or list(SUBJECTS)
    return options


if __name__ == "__main__":
    main()
