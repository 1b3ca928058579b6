"""How the demonstration prints: tables in a terminal, columns apart by tabs in a pipe."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

console: Final = Console(highlight=False)
_begun: Final = time.monotonic()


def step(text: str) -> None:
    """Print what happens now, and when, in seconds from the start."""
    say(f"{time.monotonic() - _begun:5.1f} s  {text}")


def say(text: str, style: str = "", *, to_copy: bool = False) -> None:
    """Print a line; one ``to_copy`` is not folded."""
    console.print(Text(text, style=style), soft_wrap=to_copy or not console.is_terminal)


def heading(text: str) -> None:
    """Print what comes next."""
    say(f"\n{text}", "bold")


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    limit: int = 30,
    marked: Sequence[int] = (),
) -> None:
    """Print a table; numbers go to the right, and marked rows stand out.

    Of one with more than ``limit`` rows, each tenant's first ones.
    """
    heading(title)
    shown = _cut(rows, limit) if columns[0] == "tenant" else rows[:limit]
    if console.is_terminal:
        _print_rich(columns, shown, marked)
    else:
        for row in [columns, *shown]:
            sys.stdout.write("\t".join(cell(value) for value in row) + "\n")
        sys.stdout.flush()
    if len(rows) > len(shown):
        say(f"… and {len(rows) - len(shown)} more rows", "dim")
    elif not rows:
        say("(none)", "dim")


def _cut(rows: Sequence[Sequence[object]], limit: int) -> Sequence[Sequence[object]]:
    if len(rows) <= limit:
        return rows
    share = max(1, limit // len({row[0] for row in rows}))
    seen: Counter[object] = Counter()
    shown = []
    for row in rows:
        seen[row[0]] += 1
        if seen[row[0]] <= share:
            shown.append(row)
    return shown


def _print_rich(
    columns: Sequence[str], rows: Sequence[Sequence[object]], marked: Sequence[int]
) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        is_number = bool(rows) and all(
            row[index] is None or isinstance(row[index], (int, float, Decimal)) for row in rows
        )
        words = [cell(row[index], short=True) for row in rows]
        table.add_column(
            column,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=not any(" " in word for word in [column, *words]),
        )
    for index, row in enumerate(rows):
        style = "bold yellow" if index in marked else None
        table.add_row(*(Text(cell(value, short=True)) for value in row), style=style)
    console.print(table)


def cell(value: object, *, short: bool = False) -> str:
    """Show a value in one line; the long ones of ids are their ends, if it is to be short."""
    match value:
        case None:
            return ""
        case float():
            return f"{value:.2f}"
        case datetime():
            return f"{value.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]
        case UUID():
            return f"…{str(value)[-8:]}" if short else str(value)
        case _:
            return " ".join(str(value).split())
