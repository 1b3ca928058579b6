"""``tenantry erase``."""

from __future__ import annotations

import socket
from typing import Annotated

import psycopg
import typer
from platformdirs import user_state_path

from tenantry.cli.connection import Source, opened, resolved
from tenantry.cli.erasure import Eradication, Erasure, Place
from tenantry.cli.feed import stored_form
from tenantry.cli.options import Dsn, Exit, JournalRoot, Json, Schema
from tenantry.cli.output import print_hint, print_json, print_table, progress_bar
from tenantry.context import PLATFORM, canonical_tenant, safe_text, shown
from tenantry.database.connect import describe_destination
from tenantry.database.erase import Subject
from tenantry.database.installed import check_tenant_type
from tenantry.exceptions import ConfigurationError, TenantryError


def erase(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    journal: JournalRoot = None,
    tenant: Annotated[str, typer.Option(help="Whose data, as the tenant's id is stored.")],
    actor: Annotated[
        str | None,
        typer.Option(
            help="Of this tenant, only what names this actor as its own: a person's request.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Erase. Without it, it is only said what there is.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is, and erase nothing: the default.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for journals of this machine.", min=0.1)
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Erase what is stored of a tenant, or of one actor of it, for good.

    Only says what there is, unless `--yes` is given. Then journals on this machine are shipped and
    emptied, events and rejected events are deleted from all partitions, tallies are counted for no
    customer, and older lines of the ledger lose the tenant. The ledger and an event
    `data_erased` record it. It may be interrupted and run again at any time, beside running
    applications. Needs the role tenantry_maintainer, and the writer's where journals of dead
    processes are to be shipped. Exits with 3 when something is left; run it on each machine that
    has journals.
    """
    if yes and dry_run:
        raise ConfigurationError("--yes and --dry-run contradict each other: give one of them")
    _check_actor(actor)
    root = journal or user_state_path("tenantry")
    with resolved(dsn) as real, opened(real, schema) as source, progress_bar("erasing") as show:
        source.require(source.installed.roles.maintainer)
        report = Erasure(
            subject=_read_subject(source, tenant, actor),
            destination=f"{describe_destination(real)}/{schema}",
            journal_root=root,
            dry_run=not yes,
            login=source.installed.user,
        )
        eradication = Eradication(source, real, report, timeout, show)
        try:
            if yes:
                eradication.run()
            else:
                eradication.look()
        except (KeyboardInterrupt, TenantryError, psycopg.Error, OSError):
            _say_how_far(report)
            raise
    if as_json:
        _print_json(report)
    else:
        _print(report)
    _print_hints(report)
    if yes and not report.is_complete:
        raise typer.Exit(Exit.INCOMPLETE)


def _check_actor(actor: str | None) -> None:
    """Refuse an actor that nobody can be: an empty one must not mean the whole tenant."""
    if actor is not None and (not actor or safe_text(actor) != actor):
        raise ConfigurationError(
            f"--actor {shown(actor)} is no actor as it is stored: those have 1 to 200 characters, "
            "all of them valid text. Give it as `actor_id` has it, or leave --actor out to erase "
            "the whole tenant"
        )


def _read_subject(source: Source, tenant: str, actor: str | None) -> Subject:
    stored = str(stored_form(source, tenant))
    tenant_type = check_tenant_type(source.installed.tenant_type)
    if actor is None and stored == str(canonical_tenant(PLATFORM, tenant_type)):
        raise ConfigurationError(
            f"--tenant {shown(tenant)} is PLATFORM, whose events belong to no customer: they are "
            "not erased as a whole, and the record of every erasure is among them. Name a tenant, "
            "or an --actor whose events of PLATFORM are to go"
        )
    return Subject(stored, actor)


def _say_how_far(report: Erasure) -> None:
    if report.erased.rows:
        print_hint(f"{report.erased.rows} rows erased, until it stopped. Run it again to go on.")


def _print(report: Erasure) -> None:
    whose = f"the tenant {report.subject.tenant}"
    if report.subject.actor is not None:
        whose = f"{report.subject.actor}, an actor of {whose}"
    columns = ("kind", "place", "found", "erased", "left", "reason")
    print_table(
        f"{'Would be erased' if report.dry_run else 'Erased'}: {whose}",
        columns,
        [_cells(place, dry_run=report.dry_run) for place in report.places],
        marked=[
            index
            for index, place in enumerate(report.places)
            if place.reason or (not report.dry_run and not place.is_done)
        ],
    )


def _print_hints(report: Erasure) -> None:
    print_hint(f"Journals read in {report.journal_root}: {report.journals}.")
    if report.bound_logins:
        print_hint(
            f"Logins that are bound to this tenant, and stay: {', '.join(report.bound_logins)}. "
            f"Drop them, and their rows of {report.destination.rpartition('/')[2]}.tenant_roles."
        )
    if report.unattributed:
        print_hint(
            f"Rejected events of this tenant that name no actor, and stay: {report.unattributed}. "
            "See whether they are of this one: `tenantry rejected list --tenant`."
        )
    if not report.dry_run and report.event_id is None:
        print_hint(
            "No event records it: a constraint of events refuses one of PLATFORM. The ledger does."
        )
    if report.dry_run:
        print_hint("Nothing is erased. Run it with --yes to erase.")
    elif not report.is_complete:
        print_hint("Something is left. Do as the reasons say, and run it again.")


def _cells(place: Place, *, dry_run: bool) -> list[object]:
    unknown = "unknown"
    found = unknown if place.found is None else place.found
    left = unknown if place.left is None else place.left
    return [
        *(place.kind, place.name, found, place.erased),
        "" if dry_run else left,
        place.reason,
    ]


def _print_json(report: Erasure) -> None:
    print_json(
        tenant=report.subject.tenant,
        actor=report.subject.actor,
        dry_run=report.dry_run,
        complete=not report.dry_run and report.is_complete,
        destination=report.destination,
        login=report.login,
        host=socket.gethostname(),
        journal=report.journal_root,
        journals=report.journals,
        began_at=report.began_at,
        ended_at=report.ended_at,
        event_id=report.event_id,
        places=[
            {
                "kind": place.kind,
                "place": place.name,
                "found": place.found,
                "erased": place.erased,
                "left": place.left,
                "reason": place.reason or None,
            }
            for place in report.places
        ],
        bound_logins=list(report.bound_logins),
        unattributed=report.unattributed,
    )
