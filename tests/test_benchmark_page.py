"""The page of results: written from JSON, again and again, with what was missed."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import page
from benchmarks.results import Chart, Measurement, Section, Series, at_most, to_json

SECTION = Section(
    "The caller: bursts of 1000 calls",
    (Measurement.of("@emits <two>", "us", [9.0, 10.0, 11.0]), Measurement.of("a|b", "x", [0.5])),
    (at_most("kept", 0.3, " x", 0.2), at_most("missed", 0.3, " x", 0.5)),
    ("a note",),
    (Chart("As it grows", "rows", "us", (Series("a call", (1e4, 1e6, 1e7), (9, 9, 9)),)),),
    bars=True,
)


@pytest.fixture
def report() -> dict[str, Any]:
    made = to_json([SECTION], quick=True, load={"start": 0.1, "end": 0.2})
    return json.loads(json.dumps(made))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(f"# Before\n{page.BEGIN}\nold\n{page.END}\n## After\n")
    return path


def test_results_stand_between_the_markers(report: dict[str, Any], written: Path) -> None:
    page.write(report, written)
    text = written.read_text()
    assert text.startswith(f"# Before\n{page.BEGIN}\n")
    assert text.endswith(f"{page.END}\n## After\n")
    assert "old" not in text
    assert "| @emits <two> | us | 10.00 | 9.00 to 11.00 | 3 |" in text
    assert "| a\\|b | x | 0.50 | 0.50 to 0.50 | 1 |" in text
    assert "no result to quote" in text


def test_a_missed_goal_is_shown_as_missed(report: dict[str, Any], written: Path) -> None:
    page.write(report, written)
    assert "| missed | <= 0.3 x | 0.50 | **MISSED** |" in written.read_text()
    assert "| kept | <= 0.3 x | 0.20 | met |" in written.read_text()


def test_writing_again_changes_nothing(report: dict[str, Any], written: Path) -> None:
    page.write(report, written)
    before = {path.name: path.read_text() for path in written.parent.iterdir()}
    page.write(report, written)
    assert {path.name: path.read_text() for path in written.parent.iterdir()} == before


def test_charts_are_drawn_and_old_ones_removed(report: dict[str, Any], written: Path) -> None:
    (written.parent / "performance-gone.svg").write_text("<svg/>")
    page.write(report, written)
    names = sorted(path.name for path in written.parent.glob("*.svg"))
    assert names == ["performance-as-it-grows.svg", "performance-the-caller.svg"]
    for name in names:
        assert f"]({name})" in written.read_text()
        assert ET.parse(written.parent / name).getroot().tag.endswith("svg")


def test_a_page_without_markers_is_refused(report: dict[str, Any], written: Path) -> None:
    written.write_text("# Nothing\n")
    with pytest.raises(SystemExit, match=r"put them back"):
        page.write(report, written)


def test_the_documentation_has_the_markers() -> None:
    text = page.PAGE.read_text()
    assert (text.count(page.BEGIN), text.count(page.END)) == (1, 1)
