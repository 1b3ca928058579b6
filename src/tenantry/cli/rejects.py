"""``tenantry rejected``: list, retry, discard."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.text import Text

from tenantry.cli.connection import Source, opened, resolved
from tenantry.cli.feed import stored_form
from tenantry.cli.options import EPILOG, Dsn, Exit, Json, Schema
from tenantry.cli.output import (
    console,
    print_columns,
    print_hint,
    print_json,
    print_table,
    progress_bar,
)
from tenantry.database.rejected import Count, Rejects, Retried, Selection
from tenantry.exceptions import ConfigurationError, TenantryError

rejected_app = typer.Typer(
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at rejected events, store them after all, or discard them.",
)

_DETAILS_SHOWN: Final = 10

Id = Annotated[list[str] | None, typer.Option("--id", help="This event only; may be repeated.")]
Reason = Annotated[str | None, typer.Option(help="Rejected for this reason only.")]
Name = Annotated[str | None, typer.Option(help="Events of this name only.")]
Tenant = Annotated[str | None, typer.Option(help="Events of this tenant only.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@rejected_app.command("list", epilog=EPILOG)
def list_rejected(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    reason: Reason = None,
    name: Name = None,
    tenant: Annotated[
        str | None,
        typer.Option(help="Events of this tenant only; then a plain reader's role is enough."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="How many of the newest rows.", min=0)
    ] = 20,
    as_json: Json = False,
) -> None:
    """Count the rejected events by reason and name, and show the newest.

    `retryable` are those that carry their whole row. Needs the role tenantry_admin.
    """
    with resolved(dsn) as real, opened(real, schema) as source:
        roles = source.installed.roles
        allowed = (roles.admin, roles.maintainer)
        source.require(*allowed, *(() if tenant is None else (roles.reader,)))
        rejects = Rejects(source.connection, schema, source.installed)
        selection = _select(source, (), reason, name, tenant)
        groups = rejects.overview(selection)
        rows = rejects.newest(selection, limit)
    if as_json:
        print_json(groups=groups, rows=rows)
        return
    if not groups:
        print_columns(["nothing is rejected"])
        return
    print_table(
        "Rejected events",
        ("reason", "name", "count", "newest", "retryable"),
        [[*group.values()] for group in groups],
    )
    if console.is_terminal:
        console.print()
        for row in rows:
            _print_row(row)
    elif rows:
        print_table(
            "The newest",
            ("recorded", "id", "tenant", "name", "retryable", "reason", "detail"),
            [_row_cells(row) for row in rows],
        )


def _row_cells(row: dict[str, Any]) -> list[object]:
    return [
        *(row[key] for key in ("recorded_at", "id", "tenant_id", "name")),
        "no" if row["event"] is None else "yes",
        *(row[key] for key in ("reason", "detail")),
    ]


def _print_row(row: dict[str, Any]) -> None:
    """Print one line, as long as it is: an id that is folded cannot be copied."""
    text = Text(f"{row['recorded_at'].astimezone():%Y-%m-%d %H:%M:%S}", style="dim")
    text.append(f"  {row['id']}", style="not dim")
    text.append(f"  {row['tenant_id'] or '-'}")
    text.append(f"  {row['name'] or '-'}", style="not dim bold")
    text.append(f"  {row['reason']}", style="not dim red")
    text.append(f"  {' '.join((row['detail'] or '').splitlines())}", style="not dim")
    console.print(text, soft_wrap=True)


@rejected_app.command(epilog=EPILOG)
def retry(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    ids: Id = None,
    reason: Reason = None,
    name: Name = None,
    tenant: Tenant = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Store rejected events after all: those that the database refused, and that carry their row.

    Run it when the cause is gone; again at any time, and any number at once. What is refused again
    stays, with the new detail. Each stored row is counted in the ledger as `retried`. Needs the
    role tenantry_maintainer. Exits with 1 when a row was refused again, or one that `--id` names
    cannot be retried.
    """
    choice = _Choice(ids, reason, name, tenant, everything=everything)
    choice.check("retry")
    result = Retried()

    def note(so_far: Retried) -> None:
        nonlocal result
        result = so_far

    try:
        with resolved(dsn) as real, opened(real, schema) as source:
            rejects, selection = _begin(source, choice)
            total = sum(count.retryable for count in rejects.count(selection))
            with progress_bar("retrying") as show:

                def move(so_far: Retried) -> None:
                    note(so_far)
                    show(so_far.done, total)

                rejects.retry(selection, move)
            left = rejects.count(selection)
    except (KeyboardInterrupt, TenantryError):
        if result.done:
            print_hint(f"{_describe(result)}, until it stopped. Run it again to go on.")
        raise
    waiting = sum(count.retryable for count in left) - result.refused.total()
    remaining = [count for count in left if count.other]
    if as_json:
        print_json(
            retried=result.stored,
            stored_already=result.stored_already,
            refused=result.refused.total(),
            details=dict(result.refused),
            locked=max(0, waiting),
            not_retryable=[
                {"reason": each.reason, "count": each.other, "remedy": _remedy(each.reason)}
                for each in remaining
            ],
        )
    else:
        _print_retried(result, remaining, waiting)
    if result.refused or (ids and remaining):
        raise typer.Exit(Exit.CHECK_FAILED)


def _describe(result: Retried) -> str:
    text = f"{result.stored} retried, {result.refused.total()} refused again"
    if result.stored_already:
        text += f", {result.stored_already} stored already"
    return text


def _print_retried(result: Retried, remaining: Sequence[Count], waiting: int) -> None:
    print_columns([_describe(result)])
    if result.refused:
        print_table(
            "Refused again",
            ("count", "detail"),
            [(count, detail) for detail, count in result.refused.most_common(_DETAILS_SHOWN)],
        )
    if remaining:
        print_table(
            "Cannot be retried",
            ("reason", "count", "what to do"),
            [(each.reason, each.other, _remedy(each.reason)) for each in remaining],
        )
    if waiting > 0:
        print_hint(f"Locked, since another retry has them: {waiting}. Run it again to make sure.")


def _remedy(reason: str) -> str:
    match reason:
        case "database":
            return (
                "the row is not kept: its JSON is what the database refused, or the schema was "
                "older then. Read its detail, then discard it"
            )
        case "gap":
            return "it stands for dropped events, and is none itself. Make a note, then discard it"
        case "corrupt":
            return "the line cannot be read any more. Look at the disk, then discard it"
        case _:
            return (
                "the application refused it, and keeps no whole row. Correct the call or the "
                "declaration, emit it again, then discard it"
            )


@rejected_app.command(epilog=EPILOG)
def discard(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    ids: Id = None,
    reason: Reason = None,
    name: Name = None,
    tenant: Tenant = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete rejected events for good, and count them in the ledger as `discarded`.

    Asks first on a terminal; elsewhere `--yes` must be given. Needs the role tenantry_maintainer.
    Exits with 1 when the answer is no.
    """
    choice = _Choice(ids, reason, name, tenant, everything=everything)
    choice.check("discard")
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigurationError("nobody can be asked here: pass --yes to discard without asking")
    with resolved(dsn) as real, opened(real, schema) as source:
        rejects, selection = _begin(source, choice)
        counts = rejects.count(selection)
        total = sum(count.retryable + count.other for count in counts)
        discarded = 0
        if total:
            if not yes and not _confirm(counts, total):
                print_hint("Nothing is discarded.")
                raise typer.Exit(Exit.CHECK_FAILED)
            with progress_bar("discarding") as show:
                discarded = rejects.discard(selection, lambda done: show(done, total))
    if as_json:
        print_json(discarded=discarded)
    else:
        print_columns([f"{discarded} discarded"])


def _confirm(counts: Sequence[Count], total: int) -> bool:
    reasons = ", ".join(f"{each.reason} {each.retryable + each.other}" for each in counts)
    retryable = sum(each.retryable for each in counts)
    hint = f" {retryable} of them could be retried." if retryable else ""
    try:
        return typer.confirm(f"Discard {total} rejected events ({reasons})?{hint}", err=True)
    except typer.Abort:
        raise typer.Exit(Exit.INTERRUPTED) from None


# Which rows.


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was asked for on the command line."""

    ids: list[str] | None
    reason: str | None
    name: str | None
    tenant: str | None
    everything: bool

    def check(self, what: str) -> None:
        """Refuse a choice that names nothing, or says two things."""
        by_content = any(each is not None for each in (self.reason, self.name, self.tenant))
        if [bool(self.ids), by_content, self.everything].count(True) != 1:
            raise ConfigurationError(
                f"it is not clear which events to {what}: give --id, or some of --reason, --name "
                "and --tenant, or --all, and only one of the three"
            )
        for text in self.ids or ():
            _read_id(text)


def _begin(source: Source, choice: _Choice) -> tuple[Rejects, Selection]:
    source.require(source.installed.roles.maintainer)
    rejects = Rejects(source.connection, source.schema, source.installed)
    ids = [_read_id(text) for text in choice.ids or ()]
    selection = _select(source, ids, choice.reason, choice.name, choice.tenant)
    # What applications add meanwhile was not counted, and was not asked about.
    return rejects, replace(selection, until=rejects.now())


def _select(
    source: Source,
    ids: Sequence[UUID],
    reason: str | None,
    name: str | None,
    tenant: str | None,
) -> Selection:
    stored = None if tenant is None else str(stored_form(source, tenant))
    return Selection(tuple(ids), reason, name, stored)


def _read_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ConfigurationError(
            f"--id {text[:80]!r} is no UUID: give the id that `tenantry rejected list` shows"
        ) from None
