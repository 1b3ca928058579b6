"""What the commands share: options, and exit codes."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final

import typer


class Exit(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    CHECK_FAILED = 1
    USAGE = 2
    INCOMPLETE = 3
    DATABASE = 4
    INTERRUPTED = 130


EPILOG: Final = (
    "Exit codes: 0 done; 1 a check failed (migrations are pending, the books do not balance, "
    "rejected events remain, the application or its taxonomy has an error, the doctor found "
    "something); 2 usage, settings, or a missing extra; 3 incomplete (something is left undrained, "
    "not erased or not adopted, or partitions that were due could not be changed); "
    "4 the database cannot be reached, or refuses; 130 interrupted."
)

Dsn = Annotated[
    str | None,
    typer.Option(
        envvar="TENANTRY_DSN",
        help="The database: a libpq connection string, or `embedded` for a PostgreSQL of "
        "Tenantry's own (extra `embedded`), which runs for as long as the command does.",
    ),
]
Schema = Annotated[
    str, typer.Option(envvar="TENANTRY_SCHEMA", help="The schema that holds Tenantry's tables.")
]
JournalRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="TENANTRY_JOURNAL",
        help="The directory of the journals, as given to `configure(journal=…)`; default: the "
        "user's state directory.",
        show_default=False,
        file_okay=False,
    ),
]
AppDir = Annotated[
    Path,
    typer.Option(
        help="Look for modules here first.",
        exists=True,
        file_okay=False,
    ),
]
OpenTaxonomy = Annotated[
    str | None,
    typer.Option(
        envvar="TENANTRY_OPEN_TAXONOMY",
        help="Patterns of event names that need no declaration, joined by commas.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs, with a `version` (now 1).")
]
