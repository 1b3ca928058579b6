"""Runs the matrix in its full form: ``python -m tests.chaos [--only GROUP/CELL] …``.

Ends with the measured table, and with exit code 1 when any cell fails.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from tests.chaos import matrix
from tests.chaos.harness import Measured, Scale, run_cell, table, to_json
from tests.fix_postgres import run_postgres18

HEAD = """\
# The delivery matrix, measured

Written by `make chaos`, {when}. What is promised is in [delivery](delivery.md). Counts are of
events, by id: *stored* are rows of `events`, *duplicates* are rows beyond the first of an id,
*pending* is what no drain brought in. *Dropped* events have a reason in the books; where a process
was killed, it is `interrupted`: the call had not returned.

"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--only", action="append", metavar="GROUP/CELL", help="a part will do")
    parser.add_argument("--short", action="store_true", help="the form that the tests run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--matrix", type=Path, metavar="FILE")
    options = parser.parse_args()
    parts = [part.lower() for part in options.only or [""]]
    cells = [each for each in matrix.CELLS if any(part in each.id.lower() for part in parts)]
    if not cells:
        parser.error(f"no cell has {options.only} in its name: {[c.id for c in matrix.CELLS]}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped as well
    scale = Scale("short" if options.short else "full")
    begin = time.monotonic()
    rows: list[Measured] = []
    with run_postgres18("tenantry-chaos-") as server:
        for number, each in enumerate(cells, 1):
            print(f"[{number:2}/{len(cells)}] {each.id} … ", end="", flush=True)
            row = run_cell(each, server, scale)
            rows.append(row)
            print(verdict(row), flush=True)
    print(f"\n{table(rows)}")
    failed = [row for row in rows if row.problems]
    print(f"{len(rows)} cells, {len(failed)} failed, {time.monotonic() - begin:.0f} s")
    if options.json:
        options.json.write_text(to_json(rows))
    if options.matrix:
        when = time.strftime("on %Y-%m-%d", time.gmtime())
        options.matrix.write_text(HEAD.format(when=when) + table(rows))
    return 1 if failed else 0


def verdict(row: Measured) -> str:
    if row.skipped:
        return f"skipped: {row.skipped}"
    if row.problems:
        return f"FAILED in {row.seconds:.1f} s\n    " + "\n    ".join(row.problems)
    return f"{row.stored:,} stored in {row.seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
