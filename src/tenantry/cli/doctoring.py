"""``tenantry doctor``."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from platformdirs import user_state_path
from rich.text import Text

from tenantry.cli.books import DiskJournal
from tenantry.cli.connection import resolved
from tenantry.cli.doctor_application import examine_application
from tenantry.cli.doctor_journals import Expected, examine_journals
from tenantry.cli.options import Dsn, Exit, JournalRoot, Json, Schema
from tenantry.cli.output import console, print_columns, print_json, print_table
from tenantry.database.connect import describe_destination, destination_fingerprint
from tenantry.database.doctor import Finding, Severity, advised, examine, is_well
from tenantry.exceptions import ConfigurationError, DatabaseUnreachable
from tenantry.settings import Settings

_ORDER: Final[tuple[Severity, ...]] = ("problem", "warning", "note")
_STYLES: Final = {"problem": "bold red", "warning": "bold yellow", "note": "dim"}


def doctor(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    journal: JournalRoot = None,
    app: Annotated[
        str | None,
        typer.Option(
            help="Look at this application as well: a module that configures when it is imported, "
            "or `module:attribute` of a Pipeline. Its pipeline begins to work, and is shut down."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for what is wrong with the database, the journals and an application; change nothing.

    Each finding says what mends it, as SQL or as a command. A problem is a risk now, a warning one
    to come, a note is as you chose it. Connect as a member of the role tenantry_admin, and of
    pg_read_all_stats: others are not shown everything, and what was not looked at is a warning.
    Exits with 1 when there is a problem or a warning, and with 4 when the database cannot be
    reached; the journals are looked at all the same.
    """
    root = journal or user_state_path("tenantry")
    with resolved(dsn) as real:
        destination = destination_fingerprint(real, schema)
        tenant_type: str | None = None
        is_unreachable = False
        try:
            findings, tenant_type = examine(real, schema=schema)
        except DatabaseUnreachable as error:
            is_unreachable = True
            findings = [_unreachable(describe_destination(real), error)]
        expected = Expected(destination, schema, tenant_type, _read_max_bytes())
        found, journals = examine_journals(root, expected)
        findings += found
        if app is not None:
            findings += examine_application(
                app, destination=destination, tenant_type=tenant_type, root=root
            )
    findings.sort(key=lambda finding: _ORDER.index(finding.severity))
    if as_json:
        _print_json(findings, journals)
    else:
        _print(findings, journals)
    if is_unreachable:
        raise typer.Exit(Exit.DATABASE)
    if not is_well(findings):
        raise typer.Exit(Exit.CHECK_FAILED)


def _unreachable(destination: str, error: DatabaseUnreachable) -> Finding:
    why, _, remedy = str(error).partition(". ")
    return advised("unreachable", destination, why, remedy)


def _read_max_bytes() -> int:
    text = os.environ.get("TENANTRY_JOURNAL_MAX_BYTES") or str(
        Settings.model_fields["journal_max_bytes"].default
    )
    if not text.isdecimal():
        raise ConfigurationError(
            f"TENANTRY_JOURNAL_MAX_BYTES={text[:80]!r} is no number of bytes: correct it, or take "
            "it out of the environment"
        )
    return int(text)


def _print_json(findings: list[Finding], journals: list[DiskJournal]) -> None:
    print_json(
        is_well=is_well(findings),
        findings=[{**asdict(each), "severity": each.severity} for each in findings],
        journals=[_describe(each) for each in journals],
    )


def _describe(journal: DiskJournal) -> dict[str, Any]:
    return {
        "id": journal.id,
        "process": journal.process,
        "service": journal.service,
        "destination": journal.destination,
        "is_live": journal.is_live,
        "bytes": journal.bytes,
        "pending": journal.pending,
        "pending_since": journal.pending_since,
    }


def _print(findings: list[Finding], journals: list[DiskJournal]) -> None:
    for finding in findings:
        if console.is_terminal:
            _print_block(finding)
        else:
            texts = (finding.subject, finding.detail, finding.remedy)
            print_columns([finding.severity, finding.code, *map(_visible, texts)])
    if journals:
        print_table(
            "Journals",
            ("journal", "process", "service", "state", "pending", "bytes"),
            [
                (
                    each.id,
                    each.process,
                    each.service,
                    "live" if each.is_live else "dead",
                    each.pending,
                    each.bytes,
                )
                for each in journals
            ],
        )
    counts = Counter(finding.severity for finding in findings)
    listed = [
        f"{count} {severity}{'' if count == 1 else 's'}"
        for severity in _ORDER
        if (count := counts[severity])
    ]
    print_columns([", ".join(listed) or "all is well"])


def _print_block(finding: Finding) -> None:
    console.print(
        Text.assemble(
            (finding.severity, _STYLES[finding.severity]),
            f"  {finding.code}  {_visible(finding.subject)}\n",
            f"  {_visible(finding.detail)}.\n",
            (
                f"  {_visible(finding.remedy)}\n",
                "dim" if finding.remedy_kind == "advice" else "cyan",
            ),
        ),
        soft_wrap=finding.remedy_kind != "advice",  # what is to be copied is not broken
    )


def _visible(text: str) -> str:
    """Show what would steer a terminal: anybody may have chosen the name of a view or a role."""
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )
