"""How commands print: tables for people, columns apart by tabs for pipes, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

JSON_VERSION: Final = 1
"""Of what ``--json`` prints. Keys may be added to a version; a changed meaning is a new version."""

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def print_json(**members: Any) -> None:
    """Print one line: an object with ``version`` and the members."""
    sys.stdout.write(json.dumps({"version": JSON_VERSION, **members}, default=_plain) + "\n")
    sys.stdout.flush()


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    marked: Collection[int] = (),
) -> None:
    """Print a table; numbers go to the right. ``marked`` rows stand out in a terminal."""
    if not console.is_terminal:
        print_columns([f"# {title}"])
        print_columns(columns)
        for row in rows:
            print_columns(row)
        return
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(columns):
        right = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for index, row in enumerate(rows):
        style = "bold yellow" if index in marked else None
        table.add_row(*(Text(_cell(cell)) for cell in row), style=style)
    console.print(table)


@contextmanager
def progress_bar(
    doing: str = "draining", *, unit: str = "events"
) -> Generator[Callable[[int, int], None]]:
    """Show a bar on stderr where that is a terminal; gives what moves it: (done, total)."""
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(done, total))


def print_columns(cells: Sequence[object]) -> None:
    """Print one line of cells with tabs between them; flushed, since a follower may wait for it."""
    sys.stdout.write("\t".join(_cell(cell).replace("\t", " ") for cell in cells) + "\n")
    sys.stdout.flush()


def print_hint(text: str) -> None:
    """Print a remark on stderr."""
    errors.print(Text(text, style="dim"), soft_wrap=not errors.is_terminal)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return " ".join(str(value).splitlines())


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
