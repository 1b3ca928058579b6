"""``make bench``: measures, prints tables, compares with the goals, and writes JSON.

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

from benchmarks import caller, end_to_end, importing, shipping
from benchmarks.results import Goal, Section, print_goals, print_section, to_json

SUBJECTS = ("caller", "shipping", "end-to-end", "importing")


def main() -> None:
    options = parse()
    quick: bool = options.quick
    measuring: dict[str, Callable[[], list[Section]]] = {
        "caller": lambda: [
            caller.measure(rounds=3, bursts=10, quick=True)
            if quick
            else caller.measure(rounds=7, bursts=25, quick=False)
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
        "importing": lambda: [importing.measure(rounds=7 if quick else 25)],
    }
    unmeasured: dict[str, tuple[Goal, ...]] = {
        "caller": caller.goals(),
        "shipping": shipping.goals(),
        "end-to-end": end_to_end.goals(),
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
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{time.monotonic() - begin:.0f} s; written to {options.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: less than a minute")
    parser.add_argument(
        "--only", action="append", choices=SUBJECTS, default=None, help="may be given several times"
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    options.only = options.only or list(SUBJECTS)
    return options


if __name__ == "__main__":
    main()
