"""The README's example runs as it is printed, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

ROOT = DOCS.parent
README = (ROOT / "README.md").read_text()


def test_example_stores_its_five_events_on_an_embedded_server(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    (place / "example.py").write_text(example)
    monkeypatch.setenv("TENANTRY_JOURNAL", str(place / "journal"))

    done = subprocess.run(
        [sys.executable, "example.py"], capture_output=True, text=True, check=False, timeout=50
    )

    assert done.stdout == (
        "FlushReport(settled=True, stored=5, rejected=0, pending=0, mode='journal', error=None)\n"
    ), done.stderr


@pytest.mark.parametrize("target", ["demo", "test"])
def test_two_commands_are_targets_of_the_makefile(target: str):
    assert f"make {target} " in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
