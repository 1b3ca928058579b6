"""``tenantry migrate`` and ``tenantry migrate status``."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from tenantry.cli.connection import Source, opened, resolved
from tenantry.cli.options import EPILOG, Dsn, Exit, Json, Schema
from tenantry.cli.output import (
    print_columns,
    print_hint,
    print_json,
    print_table,
    progress_bar,
)
from tenantry.database import migrate as migrations
from tenantry.database.adopt import Adopter, Adoption
from tenantry.database.host_tables import HostTable, parse_table
from tenantry.database.installed import Roles
from tenantry.database.tenant_key import (
    OnDelete,
    add_tenant_key,
    check_on_delete,
    drop_tenant_key,
    has_platform_row,
    tenant_key_sql,
)
from tenantry.exceptions import ConfigurationError

migrate_app = typer.Typer(epilog=EPILOG, invoke_without_command=True, rich_markup_mode="markdown")


@migrate_app.callback()
def migrate(
    context: typer.Context,
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    tenant_type: Annotated[
        str,
        typer.Option(
            envvar="TENANTRY_TENANT_TYPE",
            metavar="[uuid|bigint|text]",
            help="The type of tenant ids; chosen with the first migration, for good.",
        ),
    ] = "uuid",
    writer_role: Annotated[str, typer.Option(help="The group role that may write.")] = (
        "tenantry_writer"
    ),
    reader_role: Annotated[str, typer.Option(help="Reads one tenant at a time.")] = (
        "tenantry_reader"
    ),
    admin_role: Annotated[str, typer.Option(help="Reads all tenants.")] = "tenantry_admin",
    maintainer_role: Annotated[str, typer.Option(help="Partitions, retention, erasure.")] = (
        "tenantry_maintainer"
    ),
    tenant_role: Annotated[
        str, typer.Option(help="Logins bound to one tenant, which write SQL of their own.")
    ] = "tenantry_tenant",
    tenants_table: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEMA.TABLE[(COLUMN)]",
            help="Let events refer to the tenants of your own by a foreign key; the column is `id` "
            "if none is named.",
        ),
    ] = None,
    on_delete: Annotated[
        str,
        typer.Option(
            metavar="[no-action|restrict|cascade]",
            help="What becomes of the events of a tenant that is deleted; for `--tenants-table`.",
        ),
    ] = "no-action",
    no_tenants_table: Annotated[
        bool, typer.Option("--no-tenants-table", help="Remove that foreign key.")
    ] = False,
    adopt: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEMA.TABLE",
            help="Take over the rows of an older table events(id, tenant_id, name, data, "
            "created_at), which is only read. Run it again to catch up.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds in all, waiting for locks included.", min=0.1)
    ] = 60.0,
    to: Annotated[
        int | None, typer.Option("--to", help="Stop after the migration of this number.")
    ] = None,
    sql: Annotated[
        bool,
        typer.Option(
            "--sql",
            help="Print the migrations as one script for psql, all of them for a database where "
            "nothing is installed; connects to nothing.",
        ),
    ] = False,
    from_version: Annotated[
        int, typer.Option("--from", help="With `--sql`: the version that the database has.", min=0)
    ] = 0,
    as_json: Json = False,
) -> None:
    """Apply the migrations that the database lacks.

    Any number may run at once: one works, the others wait. Connect as a user who may create
    schemas and roles; it becomes a member of all but the tenant role. The same for psql:
    `tenantry migrate --sql | psql "$TENANTRY_DSN"`. With `--adopt` it exits with 3 while rows of
    the older table wait, or transactions that write to it are open, and with 1 when its counts do
    not balance.
    """
    if context.invoked_subcommand is not None:
        context.obj = {"dsn": dsn, "schema": schema, "as_json": as_json}
        return
    roles = Roles(writer_role, reader_role, admin_role, maintainer_role, tenant_role)
    tenants = parse_table(tenants_table, column=True) if tenants_table else None
    extras = _Extras(
        tenants, check_on_delete(on_delete), adopt, timeout, drops_key=no_tenants_table
    )
    extras.check(sql=sql, from_version=from_version)
    if sql:
        sys.stdout.write(
            migrations.sql(
                schema=schema,
                tenant_type=tenant_type,
                roles=roles,
                from_version=from_version,
                to_version=to,
            )
        )
        if tenants is not None:
            sys.stdout.write(f"\n{tenant_key_sql(schema, tenants, extras.on_delete)};\n")
        return

    def report(step: migrations.Applied) -> None:
        if not as_json:
            print_columns([f"applied {step.version:04}_{step.name}", f"{step.duration_ms:.0f} ms"])

    with resolved(dsn) as real:
        applied = migrations.migrate(
            real,
            schema=schema,
            tenant_type=tenant_type,
            roles=roles,
            to_version=to,
            on_progress=report,
            timeout=timeout,
        )
        if not applied and not as_json:
            print_columns(["nothing to apply: the schema is up to date"])
        results = extras.run(real, schema, says=not as_json)
    if as_json:
        print_json(schema=schema, applied=[asdict(step) for step in applied], **results)
    if extras.exit_code:
        raise typer.Exit(extras.exit_code)


@dataclass(slots=True)
class _Extras:
    """What a migration does beside migrating, when it is asked to."""

    tenants: HostTable | None
    on_delete: OnDelete
    adopt: str | None
    timeout: float
    drops_key: bool
    exit_code: Exit = Exit.DONE

    def check(self, *, sql: bool, from_version: int) -> None:
        """Refuse options that say nothing together."""
        if self.tenants is not None and self.drops_key:
            raise ConfigurationError("--tenants-table and --no-tenants-table exclude each other.")
        if sql and (self.adopt or self.drops_key):
            option = "--adopt" if self.adopt else "--no-tenants-table"
            raise ConfigurationError(
                f"--sql prints a script, and {option} has to look at the database: run it without "
                "--sql."
            )
        if from_version and not sql:
            raise ConfigurationError(
                f"--from {from_version} goes with --sql: without it, the database itself says "
                "which migrations it has."
            )

    def run(self, dsn: str, schema: str, *, says: bool) -> dict[str, Any]:
        """Do it; gives what is to be printed as JSON."""
        results: dict[str, Any] = {}
        if self.tenants is None and not self.drops_key and self.adopt is None:
            return results
        with opened(dsn, schema) as source:
            if self.drops_key:
                results["tenant_key_dropped"] = drop_tenant_key(
                    source.connection, schema, timeout=self.timeout
                )
                if says:
                    done = results["tenant_key_dropped"]
                    print_columns(["foreign key to tenants", "removed" if done else "none"])
            if self.tenants is not None:
                results["tenant_key_added"] = self._refer(source, self.tenants, says=says)
            if self.adopt is not None:
                adoption = self._adopt(source, self.adopt)
                results["adoption"] = {**asdict(adoption), "balances": adoption.balances}
                if says:
                    _print_adoption(adoption)
        return results

    def _refer(self, source: Source, tenants: HostTable, *, says: bool) -> bool:
        added = add_tenant_key(
            source.connection,
            source.schema,
            source.installed,
            tenants,
            self.on_delete,
            timeout=self.timeout,
        )
        if says:
            state = "added" if added else "is there"
            what = f"{state}: {tenants}({tenants.column}) on delete {self.on_delete}"
            print_columns(["foreign key to tenants", what])
        source.allow()
        if not has_platform_row(source.connection, source.installed, tenants):
            print_hint(
                f"{tenants} has no row for tenantry.PLATFORM: events that belong to no customer "
                "will be rejected until it has one."
            )
        return added

    def _adopt(self, source: Source, table: str) -> Adoption:
        source.require(source.installed.roles.maintainer)
        adopter = Adopter(
            source.connection, source.schema, source.installed, table, timeout=self.timeout
        )
        total = adopter.report().waiting
        with progress_bar("adopting") as show:
            adoption = adopter.run(lambda done: show(done, total))
        if not adoption.balances:
            self.exit_code = Exit.CHECK_FAILED
        elif not adoption.is_complete:
            self.exit_code = Exit.INCOMPLETE
        return adoption


def _print_adoption(adoption: Adoption) -> None:
    print_table(
        f"Adoption of {adoption.source}",
        ("present", "gone", "adopted", "rejected", "waiting", "writers"),
        [
            (
                adoption.present,
                adoption.gone,
                adoption.adopted,
                adoption.rejected,
                adoption.waiting,
                adoption.writers,
            )
        ],
    )
    if not adoption.balances:
        print_hint("It does not balance: the table of adoptions was changed by hand.")
    if not adoption.is_complete:
        print_hint("Rows wait, or transactions that write are open: run it again to catch up.")


@migrate_app.command("status", epilog=EPILOG)
def migrate_status(
    context: typer.Context,
    *,
    dsn: Dsn = None,
    schema: Schema = "tenantry",
    as_json: Json = False,
) -> None:
    """Say which version the database has, and which migrations are pending; changes nothing.

    Exits with 1 when something is pending.
    """
    # The options may stand in front of `status` as well.
    outer: dict[str, Any] = context.obj or {}
    if schema == "tenantry":
        schema = outer.get("schema", schema)
    with resolved(dsn or outer.get("dsn")) as real:
        status = migrations.status(real, schema=schema)
    if as_json or outer.get("as_json"):
        print_json(
            schema=schema,
            schema_version=status.version,
            latest=status.latest,
            pending=status.pending,
            tenant_type=status.tenant_type,
            is_ahead=status.is_ahead,
        )
    else:
        print_columns(["schema", schema])
        print_columns(["version", f"{status.version} of {status.latest}"])
        print_columns(["tenant ids", status.tenant_type or "nothing is installed"])
        for name in status.pending:
            print_columns(["pending", name])
        if status.is_ahead:
            print_hint("A newer Tenantry migrated this database; this one writes what it knows.")
    if status.pending:
        raise typer.Exit(Exit.CHECK_FAILED)
