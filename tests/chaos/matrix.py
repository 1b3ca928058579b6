"""The matrix: all cells, group by group."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from tests.chaos import harness

MODULES = (
    *("death", "processes", "database", "disk", "pressure", "poison", "reentrancy", "deadlines"),
    "soak",
)

for module in MODULES:
    if find_spec(f"tests.chaos.{module}"):
        importlib.import_module(f"tests.chaos.{module}")

CELLS = list(harness.CELLS.values())
