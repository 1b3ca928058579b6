"""Pictures of the documentation can be read by everybody: by eye, in light and dark, and by ear."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.docs.pages import DOCS

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = [path for path in sorted(DOCS.rglob("*.svg")) if "_build" not in path.parts]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_picture_says_what_it_shows(picture: Path):
    root = ET.parse(picture).getroot()  # a file of ours
    labels = str(root.get("aria-labelledby")).split()
    texts = {
        child.get("id"): child.text for child in root if child.tag in {SVG + "title", SVG + "desc"}
    }
    assert root.get("role") == "img"
    assert labels == list(texts)
    assert all(texts.values())


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_picture_has_its_own_ground_and_a_dark_one(picture: Path):
    source = picture.read_text()
    box = re.search(r'viewBox="0 0 (\d+) (\d+)"', source)
    assert box
    assert f'<rect class="page" width="{box[1]}" height="{box[2]}"' in source
    light, dark = source.split("@media (prefers-color-scheme: dark)")
    assert ".page { fill:" in light
    assert ".page { fill:" in dark
