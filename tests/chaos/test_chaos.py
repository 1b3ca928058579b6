"""Every cell of the matrix, in its short form. The full one: ``make chaos``."""

from __future__ import annotations

import pytest

from tests.chaos import matrix
from tests.chaos.harness import Cell, Scale, run_cell
from tests.fix_postgres import Server


@pytest.mark.parametrize(
    "chosen", [each for each in matrix.CELLS if not each.full_only], ids=lambda each: each.id
)
def test_nothing_lost_nothing_twice(chosen: Cell, postgres18: Server):
    measured = run_cell(chosen, postgres18, Scale("short"))
    if measured.skipped:
        pytest.skip(measured.skipped)
    assert not measured.problems, "\n".join(measured.problems)
