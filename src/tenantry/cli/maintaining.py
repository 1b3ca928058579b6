"""``tenantry maintain``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Final

import typer

from tenantry.cli.connection import opened, resolved
from tenantry.cli.options import Dsn, Exit, Json, Schema
from tenantry.cli.output import (
    console,
    print_columns,
    print_hint,
    print_json,
    print_table,
    progress_bar,
)
from tenantry.database.maintain import Compaction, compact
from tenantry.database.upkeep import Caretaker, Gone, Upkeep, Wishes
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
    ahead: Annotated[
        int,
        typer.Option(help="Months to have partitions for beside the current one.", min=0, max=120),
    ] = 24,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Detach the months that are older, and delete rejected events that are: a number "
            "with `months` or `d` behind it. Without it, everything is kept."
        ),
    ] = None,
    drop_detached: Annotated[
        str | None,
        typer.Option(
            help="Drop, for good, the months that were detached so long ago: a number with s, m, h "
            "or d behind it; 0d for all that earlier runs detached. See them first, with "
            "`--dry-run`."
        ),
    ] = None,
    lock_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds that others may have to wait behind one attempt at a lock, and while it "
            "is held.",
            min=0.01,
            max=60.0,
        ),
    ] = 0.5,
    timeout: Annotated[
        float, typer.Option(help="Seconds to try and get a lock, in many attempts.", min=0.0)
    ] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Make partitions ahead, detach and drop old ones, and fold the cursors of ended journals.

    Rows in the DEFAULT partition go to their month. Every process leaves a row in journal_cursors;
    folding keeps their number small, and their sum as it is. Run it daily, any number at once,
    beside running applications. Needs the role tenantry_maintainer, and for partitions the owner
    of the tables. Exits with 3 when something that was due could not be done.
    """
    seconds = read_duration("--after", after)
    wishes = Wishes(
        ahead,
        None if keep is None else _read_age(keep),
        None if drop_detached is None else read_duration("--drop-detached", drop_detached),
    )
    with resolved(dsn) as real, opened(real, schema) as source:
        source.require(source.installed.roles.maintainer)
        compaction = compact(source.connection, schema, after=seconds, dry_run=dry_run)
        caretaker = Caretaker(
            source.connection,
            schema,
            source.installed,
            lock_timeout=lock_timeout,
            timeout=timeout,
        )
        if dry_run:
            upkeep = caretaker.survey(wishes)
        else:
            with progress_bar("partitions", unit="months") as show:
                upkeep = caretaker.keep_up(wishes, show)
    if as_json:
        print_json(
            dry_run=dry_run,
            compacted=[asdict(each) for each in compaction.compacted],
            left=[asdict(each) for each in compaction.left],
            recent=compaction.recent,
            partitions=asdict(upkeep),
        )
    else:
        _print_compaction(compaction, dry_run=dry_run)
        _print_upkeep(upkeep, dry_run=dry_run)
    if upkeep.problems:
        raise typer.Exit(Exit.INCOMPLETE)


def _print_compaction(done: Compaction, *, dry_run: bool) -> None:
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


def _print_upkeep(done: Upkeep, *, dry_run: bool) -> None:
    if done.made:
        print_table(
            "Would be made" if dry_run else "Made",
            ("partition", "rows from DEFAULT"),
            [(each.partition, each.rows) for each in done.made],
        )
    _print_gone("Would be detached" if dry_run else "Detached", done.detached)
    _print_gone("Would be dropped" if dry_run else "Dropped", done.dropped)
    if done.discarded:
        print_table(
            "Would be discarded" if dry_run else "Discarded",
            ("what", "rows"),
            [("rejected events", done.discarded)],
        )
    if done.strays:
        print_table(
            "Left in DEFAULT",
            ("month", "rows", "first", "last"),
            [
                (f"{each.month:%Y-%m}" if each.month else "other", each.rows, each.first, each.last)
                for each in done.strays
            ],
        )
    if done.kept_detached:
        print_hint(
            f"Detached, and not dropped: {', '.join(each.table for each in done.kept_detached)}."
        )
    if done.until is not None and not dry_run:
        print_hint(f"Partitions reach to {done.until:%Y-%m-%d} (UTC).")
    for problem in done.problems:
        sys.stderr.write(f"tenantry: {problem}\n")


def _print_gone(title: str, gone: Sequence[Gone]) -> None:
    if gone:
        print_table(title, ("table", "rows"), [(each.table, each.rows) for each in gone])


def read_duration(option: str, text: str) -> float:
    """Read a length of time in seconds; raises ``ConfigurationError``, which names the option."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or (seconds := float(match[1]) * _UNITS[match[2]]) > _LONGEST:
        raise ConfigurationError(
            f"{option} {text[:80]!r} is no length of time: give a number with s, m, h or d behind "
            "it, as in 90m or 1d, and no more than 36500d"
        )
    return seconds


def _read_age(text: str) -> str:
    """Read ``--keep``, as an interval of PostgreSQL: a month has no number of seconds."""
    match = re.fullmatch(r"([1-9]\d{0,4})(d|months?)", text)
    if match is None or int(match[1]) > (36500 if match[2] == "d" else 1200):
        raise ConfigurationError(
            f"--keep {text[:80]!r} is no age: give a whole number with months or d behind it, as "
            "in 13months or 400d, from 1 on and no more than a hundred years"
        )
    return f"{match[1]} {'days' if match[2] == 'd' else 'months'}"


_LONGEST: Final = 36500 * 86400
"""A hundred years: what lies before it, PostgreSQL's timestamps can surely hold."""
