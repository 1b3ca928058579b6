"""``python -m benchmarks.page build/bench.json`` writes the results into the documentation.

Tables go between the markers of ``docs/explanation/performance.md``, charts into files beside it.
What it wrote before is replaced, charts that are no more are removed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.processes import ROOT
from benchmarks.results import figure, verdict

PAGE = ROOT / "docs/explanation/performance.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PREFIX = "performance-"
LONG = 24
"""Rows above which a table is folded away."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("result", type=Path, help="what make bench wrote")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    write(json.loads(options.result.read_text()), options.page)


def write_alone(report: Mapping[str, Any], page: Path) -> None:
    """Write the results as a page of their own."""
    page.write_text(f"# Benchmarks\n\n{BEGIN}\n{END}\n")
    write(report, page)


def write(report: Mapping[str, Any], page: Path) -> None:
    """Write the results into a page that has the markers, and the charts beside it."""
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{page} does not have {BEGIN} and {END}, once each: put them back")
    for old in page.parent.glob(f"{PREFIX}*.svg"):
        old.unlink()
    drawn = draw(report["sections"])
    for name, svg in drawn.values():
        (page.parent / name).write_text(svg)
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    names = {title: name for title, (name, _) in drawn.items()}
    page.write_text(f"{before}{BEGIN}\n\n{tell(report, names)}\n{END}{after}")


def draw(sections: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Give each chart's file name and SVG, by its title."""
    drawn: dict[str, tuple[str, str]] = {}
    for section in sections:
        if section["bars"]:
            title, unit = section["title"], section["measurements"][0]["unit"]
            rows = [(m["name"], m["median"]) for m in section["measurements"] if m["unit"] == unit]
            drawn[title] = name_file(title), charts.bars(title, unit, rows, ours="@emits")
        for chart in section["charts"]:
            drawn[chart["title"]] = name_file(chart["title"]), charts.lines(chart)
    return drawn


def name_file(title: str) -> str:
    """Name it by the title up to a colon: what follows may have counts that change."""
    return f"{PREFIX}{re.sub(r'[^a-z0-9]+', '-', title.partition(':')[0].lower()).strip('-')}.svg"


def tell(report: Mapping[str, Any], names: Mapping[str, str]) -> str:
    machine = report["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(report["versions"].items())
    )
    load = report["load_average"]
    measured = (
        f"Measured on {report['made_at'][:10]}: {report['cpus']} CPUs"
        f" ({machine.get('cpu_model_name', 'of unknown model')}),"
        f" {machine.get('platform', 'unknown platform')}, Python {report['python']}; load average"
        f" {load['start']:.1f} at the start and {load['end']:.1f} at the end"
    )
    if report["quick"]:
        measured += "; with --quick, which is no result to quote"
    lines = [
        f"{measured}.",
        "",
        f"Versions: {versions}.",
        "",
        "### Goals",
        "",
        *table(
            ("", "Goal", "Measured", ""),
            [
                (
                    goal["name"],
                    goal["limit"],
                    "" if goal["measured"] is None else figure(goal["measured"]),
                    f"**{verdict(goal['met'])}**" if goal["met"] is False else verdict(goal["met"]),
                )
                for section in report["sections"]
                for goal in section["goals"]
            ],
        ),
    ]
    for section in report["sections"]:
        lines += ["", f"### {section['title']}", ""]
        for title in (section["title"], *(chart["title"] for chart in section["charts"])):
            if title in names:
                lines += [f"![{title}]({names[title]})", ""]
        lines += fold(
            table(
                ("", "Unit", "Median", "Range", "Rounds"),
                [
                    (
                        m["name"],
                        m["unit"],
                        figure(m["median"]),
                        f"{figure(m['low'])} to {figure(m['high'])}",
                        str(m["rounds"]),
                    )
                    for m in section["measurements"]
                ],
            )
        )
        for note in section["notes"]:
            lines += ["", note if note.endswith(".") else f"{note}."]
    return "\n".join(lines) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join(["---"] + ["--:"] * (len(heads) - 1)) + "|"
    return [line(heads), rule, *(line(row) for row in rows)]


def fold(rows: list[str]) -> list[str]:
    if len(rows) - 2 <= LONG:
        return rows
    summary = f"<details><summary>{len(rows) - 2} figures</summary>"
    return [summary, "", *rows, "", "</details>"]


if __name__ == "__main__":
    main()
