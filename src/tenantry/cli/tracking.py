"""``tenantry taxonomy``: what is generated of a taxonomy, and what changed in it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tenantry.checking.importing import search_path
from tenantry.cli.options import EPILOG, AppDir, Exit, Json, OpenTaxonomy
from tenantry.cli.output import print_columns, print_hint, print_json
from tenantry.exceptions import ConfigurationError, TaxonomyError
from tenantry.registry import Taxonomy, load_taxonomy
from tenantry.sampling import Sampling
from tenantry.tracking.difference import Change, compare
from tenantry.tracking.markdown import tracking_plan
from tenantry.tracking.snapshot import Snapshot, read_snapshot, take_snapshot
from tenantry.tracking.stored import json_schema
from tenantry.tracking.typescript import typescript as types_of

taxonomy_app = typer.Typer(
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Publish a taxonomy, and compare it with what it was.",
)

Source = Annotated[
    str,
    typer.Argument(
        envvar="TENANTRY_TAXONOMY",
        metavar="TAXONOMY",
        help="`module`, `module:attribute`, or a snapshot: a file `….json`, or `-` for stdin.",
        show_default=False,
    ),
]


@taxonomy_app.command(epilog=EPILOG)
def docs(
    taxonomy: Source,
    *,
    sampling: Annotated[
        str | None,
        typer.Option(
            help="`module:attribute` of the mapping that `configure(sampling=…)` is given."
        ),
    ] = None,
    open_taxonomy: OpenTaxonomy = None,
    app_dir: AppDir = Path(),
) -> None:
    """Write a tracking plan: a page of Markdown with every event, its keys, and what they mean."""
    with search_path(app_dir):
        rules = {} if sampling is None else load_sampling(sampling)
        sys.stdout.write(tracking_plan(_read(taxonomy, open_taxonomy), rules))


@taxonomy_app.command(epilog=EPILOG)
def jsonschema(
    taxonomy: Source, *, open_taxonomy: OpenTaxonomy = None, app_dir: AppDir = Path()
) -> None:
    """Write one JSON Schema (draft 2020-12), with the stored payload of each event in `$defs`."""
    with search_path(app_dir):
        document = json_schema(_read(taxonomy, open_taxonomy))
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


@taxonomy_app.command(epilog=EPILOG)
def typescript(
    taxonomy: Source, *, open_taxonomy: OpenTaxonomy = None, app_dir: AppDir = Path()
) -> None:
    """Write TypeScript types of the events as they are stored, told apart by their name."""
    with search_path(app_dir):
        sys.stdout.write(types_of(_read(taxonomy, open_taxonomy)))


@taxonomy_app.command(epilog=EPILOG)
def snapshot(
    taxonomy: Source,
    *,
    update: Annotated[
        Path | None,
        typer.Option(
            help="Write to this file, and keep what it knows of events that are gone.",
            dir_okay=False,
        ),
    ] = None,
    open_taxonomy: OpenTaxonomy = None,
    app_dir: AppDir = Path(),
) -> None:
    """Write the taxonomy as JSON, to be committed, and compared by `diff`.

    With `--update`, an event that the file has and the taxonomy lacks is kept as retired: its
    removal is then known to be meant, and its name cannot come back unnoticed.
    """
    with search_path(app_dir):
        previous = None
        if update is not None and update.exists():
            previous = read_snapshot(_text_of(str(update)), str(update))
        taken = take_snapshot(load(taxonomy, open_taxonomy), previous)
    if update is None:
        sys.stdout.write(taken.text())
    else:
        update.write_text(taken.text(), encoding="utf-8")


@taxonomy_app.command(epilog=EPILOG)
def diff(
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="The committed snapshot, or any taxonomy.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The taxonomy as it is now.")],
    *,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Exit with 1 for any difference: the snapshot is to be the current one."
        ),
    ] = False,
    open_taxonomy: OpenTaxonomy = None,
    app_dir: AppDir = Path(),
    as_json: Json = False,
) -> None:
    """Say what changed from OLD to NEW, and whether it breaks those who emit or read the events.

    Each is a module, `module:attribute`, or a snapshot. A breaking change is acceptable where the
    version of its event was raised. Exits with 1 when a change is breaking.
    """
    with search_path(app_dir):
        before, after = _read(old, open_taxonomy), _read(new, open_taxonomy)
    changes = compare(before, after)
    is_breaking = any(change.verdict == "breaking" for change in changes)
    if as_json:
        print_json(breaking=is_breaking, changes=[_plain(change) for change in changes])
    else:
        _print_changes(changes)
    if is_breaking or (exact and changes):
        raise typer.Exit(Exit.CHECK_FAILED)


def _plain(change: Change) -> dict[str, Any]:
    return {**asdict(change), "kind": str(change.kind)}


def _print_changes(changes: list[Change]) -> None:
    for change in changes:
        name = ".".join(part for part in (change.event, change.key) if part) or "open names"
        print_columns([change.verdict, name, f"{change.message} [{change.kind}]"])
    breaking = sum(1 for change in changes if change.verdict == "breaking")
    if not changes:
        print_hint("Nothing changed.")
    elif breaking:
        print_hint(
            f"{breaking} of {len(changes)} changes break. Raise the version of the event where its "
            "rows mean something else from now on; for an event that is to go, run "
            "`tenantry taxonomy snapshot --update`."
        )


# What the arguments name.


def load(source: str, open_taxonomy: str | None) -> Taxonomy:
    """Load a taxonomy that an option names; raises ``ConfigurationError``."""
    patterns = [each.strip() for each in (open_taxonomy or "").split(",") if each.strip()]
    try:
        return load_taxonomy(source, patterns)
    except TaxonomyError as error:
        raise ConfigurationError(str(error)) from error


def _read(source: str, open_taxonomy: str | None) -> Snapshot:
    if source == "-" or source.endswith(".json"):
        return read_snapshot(_text_of(source), "stdin" if source == "-" else source)
    return take_snapshot(load(source, open_taxonomy))


def _text_of(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(
            f"the snapshot {source:.200} cannot be read: {why}. Write one with "
            "`tenantry taxonomy snapshot --update FILE`"
        ) from None


def load_sampling(source: str) -> dict[str, Sampling]:
    """Load the mapping that ``--sampling`` names; raises ``ConfigurationError``."""
    module, _, attribute = source.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"--sampling {source!r:.120} cannot be imported: {error}. Give module:attribute"
        ) from error
    rules = cast("dict[str, Any]", {**found} if isinstance(found, Mapping) else {})
    if not rules or not all(isinstance(each, Sampling) for each in rules.values()):
        raise ConfigurationError(
            f"--sampling {source!r:.120} is no mapping of names to Sampling, as in "
            '{"ingest": Sampling(0.1)}'
        )
    return rules
