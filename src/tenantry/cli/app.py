"""The commands: their options, and what they print. What they do is in the modules beside this."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_state_path

import tenantry
from tenantry.cli import draining, interrupts, tables
from tenantry.cli.books import read_books
from tenantry.cli.checking import check
from tenantry.cli.connection import Source, opened, resolved
from tenantry.cli.demo import run_demo
from tenantry.cli.doctoring import doctor
from tenantry.cli.erasing import erase
from tenantry.cli.feed import Feed, Row
from tenantry.cli.maintaining import maintain, read_duration
from tenantry.cli.migration import migrate_app
from tenantry.cli.options import EPILOG, Dsn, Exit, JournalRoot, Json, Schema
from tenantry.cli.output import print_hint, print_json, progress_bar
from tenantry.cli.rejects import rejected_app
from tenantry.cli.tracking import taxonomy_app
from tenantry.cli.volume import measure, print_measured, print_measured_json
from tenantry.database.connect import destination_fingerprint
from tenantry.exceptions import (
    ConfigurationError,
    DatabaseError,
    InvalidTenant,
    MissingExtra,
    TenantryError,
)

app = typer.Typer(
    help="Business events of multi-tenant applications, kept exactly once in your own PostgreSQL.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(migrate_app, name="migrate")
app.add_typer(rejected_app, name="rejected")
app.add_typer(taxonomy_app, name="taxonomy")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and give its exit code; errors become one line on stderr."""
    # What the libraries log is reported by the commands in their own words.
    for name in ("tenantry", "psycopg"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        app(arguments, prog_name="tenantry")
    except DatabaseError as error:
        return _fail(error, Exit.DATABASE)
    except (ConfigurationError, MissingExtra, InvalidTenant) as error:
        return _fail(error, Exit.USAGE)
    except TenantryError as error:
        return _fail(error, Exit.CHECK_FAILED)
    except OSError as error:
        return _fail(error, Exit.USAGE)  # a journal or a folder that this user may not read
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.DONE
    return Exit.DONE


def _fail(error: Exception, code: Exit) -> int:
    sys.stderr.write(f"tenantry: {error}\n")
    return code


def _show_version(value: bool) -> None:  # noqa: FBT001  # typer's callbacks take the value so
    if value:
        sys.stdout.write(f"tenantry {tenantry.__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


# tail.


@app.command(epilog=EPILOG)
def tail(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            "-f",
            help="Go on with each new event, exactly once, until Ctrl-C (which exits with 0).",
        ),
    ] = False,
    tenant: Annotated[
        str | None,
        typer.Option(help="Events of this tenant only; then a plain reader's role is enough."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Events of this name only.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="How many of the newest events.", min=0)
    ] = 20,
    as_json: Json = False,
) -> None:
    """Show the newest events, the oldest of them first.

    Reads as the role that the DSN names: without `--tenant` that role must be a member of
    tenantry_admin to see anything. `--follow` misses no row, whatever other transactions do;
    in return a row appears only when every transaction older than its own has ended. With
    `--json`, one object holds all events; with `--follow` each line is one event. In a pipe the
    columns are time, tenant, name, milliseconds, error code and data, with tabs between them.
    """
    options = _Tail(schema, tenant, name, limit, as_json=as_json)
    if not follow:
        options.show_newest(dsn)
        return
    with interrupts.noted() as interruption:
        try:
            options.follow(dsn, interruption)
        except (KeyboardInterrupt, TenantryError):
            if not interruption.came:
                raise


@dataclass(frozen=True, slots=True)
class _Tail:
    """What to show; the two ways to do so."""

    schema: str
    tenant: str | None
    name: str | None
    limit: int
    as_json: bool

    def show_newest(self, dsn: str | None) -> None:
        with resolved(dsn) as real, opened(real, self.schema) as source:
            rows = Feed(source, tenant=self.tenant, name=self.name).newest(self.limit)
            if self.as_json:
                print_json(events=rows)
            else:
                tables.print_events(rows)
            self._hint(source, rows)

    def follow(self, dsn: str | None, interruption: interrupts.Interruption) -> None:
        with resolved(dsn) as real, opened(real, self.schema) as source:
            # psycopg would cancel the query and wait for the server to agree, however long.
            interruption.end_wait = source.connection.pgconn.finish
            feed = Feed(source, tenant=self.tenant, name=self.name)
            rows, place = feed.begin(self.limit)
            self._hint(source, rows)
            self._print_stream(rows)
            for page in feed.follow(place, time.sleep):
                self._print_stream(page)

    def _print_stream(self, rows: Sequence[Row]) -> None:
        if not self.as_json:
            tables.print_events(rows)
            return
        for row in rows:
            print_json(event=row)

    def _hint(self, source: Source, rows: Sequence[Row]) -> None:
        """Explain an empty result where row-level security is the likely reason."""
        if rows or not self.limit or self.tenant is not None or source.sees_all_tenants():
            return
        print_hint(
            f"No row is visible to {source.installed.user!r}, which is no member of "
            f"{source.installed.roles.admin}: row-level security hides every tenant from it. "
            "Pass --tenant, or connect as a member."
        )


# drain.


@app.command(epilog=EPILOG)
def drain(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    journal: JournalRoot = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which the rest is left for later.", min=0.1)
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Ship what dead processes have left in their journals, and end what they left open.

    Running applications do the same when they start and every few seconds; this is for machines
    where none runs any more. Journals of living processes, and those meant for another database
    or schema, are left alone and listed. Exits with 3 when something remains.
    """
    root = journal or user_state_path("tenantry")
    with resolved(dsn) as real, progress_bar() as show:
        report = draining.drain(
            real,
            schema=schema,
            root=root,
            timeout=timeout,
            on_progress=lambda p: show(p.settled, p.total),
        )
    if as_json:
        tables.print_drain_json(report)
    else:
        tables.print_drain(report, root)
    if not report.is_complete:
        raise typer.Exit(Exit.INCOMPLETE)


# stats.


@app.command(epilog=EPILOG)
def stats(
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    journal: JournalRoot = None,
    volume: Annotated[
        bool,
        typer.Option(
            "--volume",
            help="Show instead how much is stored, by name and by tenant, and how it grows.",
        ),
    ] = False,
    sizes: Annotated[
        bool,
        typer.Option("--sizes", help="Show instead how large the payloads are, and how many cut."),
    ] = False,
    since: Annotated[
        str,
        typer.Option(
            help="With these two: how far back, and as far again before that: a number with s, m, "
            "h or d behind it."
        ),
    ] = "1d",
    top: Annotated[
        int, typer.Option(help="With --volume: how many of the largest tenants.", min=1)
    ] = 10,
    timeout: Annotated[
        float,
        typer.Option(help="With these two: seconds for each of up to three queries.", min=0.1),
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Show the books of every journal, and whether they balance.

    emitted = accepted + handed + sampled out + dropped, and accepted = stored + rejected +
    pending. What is stored is counted by the database, what is pending by reading the journals on
    this machine's disk. A journal that is neither settled nor found counts as `elsewhere` while
    its process may run, and as `missing` when it cannot. Needs the role tenantry_admin. Exits
    with 1 when a journal does not balance.

    `--volume` and `--sizes` read events instead, of a length of time up to now and of the same
    length before it. Payload bytes are those of their JSON text; events are estimated from sample
    rates.
    """
    if volume or sizes:
        seconds = read_duration("--since", since)
        with resolved(dsn) as real, opened(real, schema) as source:
            measured = measure(
                source, volume=volume, sizes=sizes, since=seconds, top=top, timeout=timeout
            )
        if as_json:
            print_measured_json(measured)
        else:
            print_measured(measured, since)
        return
    with resolved(dsn) as real, opened(real, schema) as source:
        books = read_books(
            source.connection,
            schema=schema,
            root=journal or user_state_path("tenantry"),
            destination=destination_fingerprint(real, schema),
        )
    if as_json:
        tables.print_books_json(books)
    else:
        tables.print_stats(books)
    if not books.balance:
        raise typer.Exit(Exit.CHECK_FAILED)


# doctor.

app.command(epilog=EPILOG)(doctor)


# maintain.

app.command(epilog=EPILOG)(maintain)


# erase.

app.command(epilog=EPILOG)(erase)
# check.

app.command(epilog=EPILOG)(check)


# demo.


@app.command(epilog=EPILOG)
def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of texts to ingest; default: Python's standard library.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    *,
    dsn: Annotated[
        str | None,
        typer.Option(
            help="A database to use instead of an embedded PostgreSQL. The schema is migrated, and "
            "the events of the demonstration stay in it.",
        ),
    ] = None,
    schema: Schema = "tenantry",
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Keep the events, in the embedded server that `--dsn embedded` names.",
        ),
    ] = False,
) -> None:
    """Ingest real texts in four processes, kill one of them, and show that nothing was lost.

    Takes less than a minute and needs nothing but this package with its extras. It leaves nothing
    behind without `--keep` or `--dsn`. Exits with 1 when the books do not balance or an event was
    lost or stored twice.
    """
    try:
        succeeded = run_demo(folder, dsn=dsn, schema=schema, keep=keep)
    except KeyboardInterrupt:
        print_hint("Interrupted; everything is cleaned up.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    if not succeeded:
        raise typer.Exit(Exit.CHECK_FAILED)
