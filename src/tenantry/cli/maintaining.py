"""``tenantry maintain``."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Final

import typer

from tenantry.cli.connection import opened, resolved
from tenantry.cli.options import Dsn, Json, Schema
from tenantry.cli.output import console, print_columns, print_hint, print_json, print_table
from tenantry.database.maintain import Compaction, compact
from tenantry.exceptions import ConfigurationError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LISTED: Final = 20
"""Journals that a terminal is shown; each living process has one."""


def maintain(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    after: Annotated[
        str,
        typer.Option(
            help="How long ago a journal must have ended: a number with s, m, h or d behind it."
        ),
    ] = "1d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Fold the cursors of journals that have ended into one row for each service.

    Every process leaves a row in journal_cursors; this keeps their number small, and their sum as
    it is. A row that does not balance, or whose end was not noted, is left alone and listed. Run
    it daily, any number at once. Needs the role tenantry_maintainer.
    """
    seconds = _read_duration(after)
    with resolved(dsn) as real, opened(real, schema) as source:
        source.require(source.installed.roles.maintainer)
        done = compact(source.connection, schema, after=seconds, dry_run=dry_run)
    if as_json:
        print_json(
            dry_run=dry_run,
            compacted=[asdict(each) for each in done.compacted],
            left=[asdict(each) for each in done.left],
            recent=done.recent,
        )
    else:
        _print(done, dry_run=dry_run)


def _print(done: Compaction, *, dry_run: bool) -> None:
    if done.compacted:
        print_table(
            "Would be compacted" if dry_run else "Compacted",
            ("service", "journals"),
            [(each.service, each.journals) for each in done.compacted],
        )
    else:
        print_columns(["nothing to compact"])
    listed = done.left[:_LISTED] if console.is_terminal else done.left
    if listed:
        print_table(
            "Left alone",
            ("journal", "process", "service", "reason"),
            [(each.journal_id, each.process, each.service, each.reason) for each in listed],
        )
    if len(listed) < len(done.left):
        print_hint(f"{len(done.left) - len(listed)} more; `--json` has them all.")
    if done.recent:
        print_hint(f"Journals that ended too short a time ago: {done.recent}.")


def _read_duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or (seconds := float(match[1]) * _UNITS[match[2]]) > _LONGEST:
        raise ConfigurationError(
            f"--after {text[:80]!r} is no length of time: give a number with s, m, h or d behind "
            "it, as in 90m or 1d, and no more than 36500d"
        )
    return seconds


_LONGEST: Final = 36500 * 86400
"""A hundred years: what lies before it, PostgreSQL's timestamps can surely hold."""
