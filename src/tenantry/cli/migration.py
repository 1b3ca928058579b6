"""``tenantry migrate`` and ``tenantry migrate status``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from tenantry.cli.connection import resolved
from tenantry.cli.options import EPILOG, Dsn, Exit, Json, Schema
from tenantry.cli.output import print_columns, print_hint, print_json
from tenantry.database import migrate as migrations
from tenantry.database.installed import Roles

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
    timeout: Annotated[
        float, typer.Option(help="Seconds in all, waiting for locks included.", min=0.1)
    ] = 60.0,
    sql: Annotated[
        bool,
        typer.Option(
            "--sql",
            help="Print all migrations as one script for psql, for a database where nothing is "
            "installed; connects to nothing.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Apply the migrations that the database lacks.

    Any number may run at once: one works, the others wait. Connect as a user who may create
    schemas and roles; it becomes a member of all but the tenant role. The same for psql:
    `tenantry migrate --sql | psql "$TENANTRY_DSN"`.
    """
    if context.invoked_subcommand is not None:
        context.obj = {"dsn": dsn, "schema": schema, "as_json": as_json}
        return
    roles = Roles(writer_role, reader_role, admin_role, maintainer_role, tenant_role)
    if sql:
        sys.stdout.write(migrations.sql(schema=schema, tenant_type=tenant_type, roles=roles))
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
            on_progress=report,
            timeout=timeout,
        )
    if as_json:
        print_json(schema=schema, applied=[asdict(step) for step in applied])
    elif not applied:
        print_columns(["nothing to apply: the schema is up to date"])


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
