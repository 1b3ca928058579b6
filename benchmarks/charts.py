"""Charts as SVG, written by hand: bars and lines, which needs no library for drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.results import figure

_WIDTH = 760
_OURS, _OTHERS = "#0b6e4f", "#9aa5b1"
_COLOURS = ("#0b6e4f", "#c2410c", "#1d4ed8", "#7c3aed", "#b45309", "#475569")
_LABELS, _ROW, _TOP = 330, 24, 40
_LEFT, _RIGHT, _HEIGHT, _BOTTOM = 90, 190, 360, 60


def bars(title: str, unit: str, rows: Sequence[tuple[str, float]], ours: str) -> str:
    """Draw a bar for each row; those whose name contains ``ours`` stand out."""
    longest = max(value for _, value in rows)
    room = _WIDTH - _LABELS - 80
    parts = [_text(16, 24, title, weight="bold")]
    for number, (name, value) in enumerate(rows):
        y = _TOP + number * _ROW
        colour = _OURS if ours in name else _OTHERS
        width = max(1.0, room * value / longest)
        parts += [
            _text(_LABELS - 8, y + 15, name, anchor="end"),
            f'<rect x="{_LABELS}" y="{y + 3}" width="{width:.1f}" height="16" fill="{colour}"/>',
            _text(_LABELS + width + 6, y + 15, f"{figure(value)} {unit}"),
        ]
    said = "; ".join(f"{name}: {figure(value)} {unit}" for name, value in rows)
    return _svg(_TOP + len(rows) * _ROW + 12, title, said, parts)


def lines(chart: Mapping[str, Any]) -> str:
    """Draw a ``Chart`` as JSON has it: y from zero, x by its logarithm where it spans decades."""
    series = chart["series"]
    xs = [x for each in series for x in each["x"]]
    top = max((y for each in series for y in each["y"]), default=1.0) * 1.1 or 1.0
    is_wide = min(xs) > 0 and max(xs) / min(xs) >= 20
    scale = math.log10 if is_wide else float
    low, high = scale(min(xs)), scale(max(xs))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = (scale(x) - low) / (high - low) if high > low else 0.5
        return _LEFT + width * across, _TOP + height * (1 - y / top)

    frame = f'x="{_LEFT}" y="{_TOP + 4}" width="{width}" height="{height - 4}"'
    parts = [
        _text(16, 24, chart["title"], weight="bold"),
        _text(_LEFT, _HEIGHT - 12, chart["x_label"]),
        _text(_LEFT, _TOP - 2, chart["y_label"]),
        f'<rect {frame} fill="none" stroke="#d0d7de"/>',
        *(
            _text(_LEFT - 8, place(xs[0], value)[1] + 4, figure(value), anchor="end")
            for value in (0.0, top / 2, top)
        ),
        *(
            _text(place(x, 0)[0], _TOP + height + 20, f"{x:,.10g}", anchor="middle")
            for x in sorted(set(xs))
        ),
    ]
    beside = _WIDTH - _RIGHT + 12
    for number, each in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [place(x, y) for x, y in zip(each["x"], each["y"], strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        # Not at the lines' ends, where names would lie on one another.
        y = _TOP + 16 + number * 20
        parts += [
            f'<rect x="{beside}" y="{y - 9}" width="10" height="10" fill="{colour}"/>',
            _text(beside + 16, y, each["name"]),
        ]
    said = "; ".join(
        f"{each['name']}: "
        + ", ".join(f"{figure(y)} at {x:,.10g}" for x, y in zip(each["x"], each["y"], strict=True))
        for each in series
    )
    return _svg(_HEIGHT, f"{chart['title']}: {chart['y_label']} by {chart['x_label']}", said, parts)


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.page { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
text { fill: #e6ebf1; }
.page { fill: #14181d; }
}
</style>"""


def _svg(height: float, title: str, description: str, parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img"'
        f' aria-labelledby="title desc">\n<title id="title">{escape(title)}</title>\n'
        f'<desc id="desc">{escape(description)}</desc>\n{_STYLE}\n'
        f'<rect class="page" width="{_WIDTH}" height="{height:.0f}"/>\n{inside}\n</svg>\n'
    )
