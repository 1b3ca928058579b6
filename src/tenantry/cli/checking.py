"""``tenantry check``."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from tenantry.checking.check import check as check_application
from tenantry.checking.findings import Code, Report
from tenantry.checking.importing import import_application, search_path
from tenantry.cli.options import AppDir, Exit, Json, OpenTaxonomy
from tenantry.cli.output import print_hint, print_json
from tenantry.cli.tracking import load


def check(
    modules: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE[:ATTRIBUTE]…",
            help="What a server or worker would import, as in `helpdesk.app:app`; may be several.",
        ),
    ],
    *,
    taxonomy: Annotated[
        str | None,
        typer.Option(
            envvar="TENANTRY_TAXONOMY",
            help="The taxonomy, as `module` or `module:attribute`; default: the one that the "
            "modules give to `configure()`.",
        ),
    ] = None,
    open_taxonomy: OpenTaxonomy = None,
    app_dir: AppDir = Path(),
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for warnings, too.")
    ] = False,
    ignore: Annotated[
        list[Code] | None,
        typer.Option(help="Leave findings of this code out; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every use of `emits` and `log_event` in an application against its taxonomy.

    Imports the modules as a server would, and configures nothing: no database is needed. Looks at
    those modules, at what they import of the same package, and at what they import from below
    `--app-dir`; not at what is installed. Exits with 1 when there is an error.
    """
    with search_path(app_dir):
        application = import_application(modules, app_dir)
        declared = None if taxonomy is None else load(taxonomy, open_taxonomy)
        report = check_application(application, declared)
    left_out = set(ignore or ())
    kept = [finding for finding in report.findings if finding.code not in left_out]
    report = replace(report, findings=kept)
    errors, warnings = report.count("error"), report.count("warning")
    if as_json:
        _print_json(report)
    else:
        _print(report)
    if errors or (strict and warnings):
        raise typer.Exit(Exit.CHECK_FAILED)


def _print_json(report: Report) -> None:
    print_json(
        modules=report.modules,
        events=report.events,
        functions=report.functions,
        blocks=report.blocks,
        facts=report.facts,
        unchecked=[asdict(place) for place in report.unchecked],
        errors=report.count("error"),
        warnings=report.count("warning"),
        findings=[
            {
                "code": str(finding.code),
                "level": finding.level,
                **asdict(finding.place),
                "name": finding.name,
                "key": finding.key,
                "message": finding.message,
            }
            for finding in report.findings
        ],
    )


def _print(report: Report) -> None:
    for finding in report.findings:
        place = f"{finding.place.file}:{finding.place.line}"
        sys.stdout.write(f"{place}: {finding.level}: {finding.message} [{finding.code}]\n")
    sys.stdout.flush()
    print_hint(
        f"{_count(report.functions, 'function')}, {_count(report.blocks, 'block')} and "
        f"{_count(report.facts, 'fact')} in {_count(len(report.modules), 'module')}, against "
        f"{_count(report.events, 'event')}: {_count(report.count('error'), 'error')}, "
        f"{_count(report.count('warning'), 'warning')}."
    )
    if report.unchecked:
        places = ", ".join(f"{place.file}:{place.line}" for place in report.unchecked)
        print_hint(f"Names or keys known only at run time, not checked in full: {places}.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
