"""Checks of how the database runs: server, migrations, partitions, indexes, watermark, books."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from psycopg import sql

from tenantry.database.doctor.design import EVENTS, TABLES
from tenantry.database.doctor.findings import (
    Finding,
    advised,
    mended_by_command,
    mended_by_sql,
)
from tenantry.database.doctor.survey import Limits, Session, Survey, Unchecked
from tenantry.database.migrate import find_migrations
from tenantry.database.partitions import Layout, months_ahead, read_layout, read_strays
from tenantry.database.retention import read_detached

_LISTED: Final = 20
"""Journals that findings are made of; more are counted."""


def check_server(
    session: Session, limits: Limits, client_pid: int, now: float
) -> Iterator[Finding]:
    """Look at the server itself; ``now`` is this machine's clock, ``client_pid`` the session's."""
    subject = f"database {session.database}"
    if session.server_version < limits.oldest_server:
        yield advised(
            "server_too_old",
            subject,
            f"it runs PostgreSQL {session.server_version // 10000}: Tenantry needs "
            f"{limits.oldest_server // 10000} or later",
            "Upgrade the server",
        )
    if session.is_standby:
        yield mended_by_sql(
            "standby",
            subject,
            "this server is a standby: events stay in the journals",
            sql.SQL("SELECT pg_promote();"),
        )
    skew = session.now.timestamp() - now
    if abs(skew) > limits.clock_skew:
        yield advised(
            "clock_skew",
            subject,
            f"the server's clock is {abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} "
            "this machine's: created_at and recorded_at do not compare",
            "Let both follow the same time servers (chrony, systemd-timesyncd)",
        )
    if session.backend_pid != client_pid:
        yield advised(
            "behind_pooler",
            subject,
            "a pooler hands sessions from client to client: a plain SET of the tenant would reach "
            "the next one",
            "Set the tenant within each transaction: SELECT set_config('tenantry.tenant_id', "
            "'...', true)",
        )


def check_read_only(survey: Survey) -> Iterator[Finding]:
    """See whether sessions may write."""
    if survey.session.is_read_only:
        database = sql.Identifier(survey.session.database)
        user = sql.Identifier(survey.session.login)
        yield mended_by_sql(
            "read_only",
            f"database {survey.session.database}",
            "default_transaction_read_only is on: events stay in the journals",
            sql.SQL(
                "BEGIN READ WRITE; "
                "ALTER DATABASE {database} RESET default_transaction_read_only; "
                "ALTER ROLE {user} RESET default_transaction_read_only; "
                "ALTER ROLE {user} IN DATABASE {database} RESET default_transaction_read_only; "
                "COMMIT;"
            ).format(database=database, user=user),
        )


def check_migrations(survey: Survey) -> Iterator[Finding]:
    """Compare the migrations that ran with those of this package."""
    ran: dict[int, str] = dict(
        survey.rows("SELECT version, sha256 FROM {schema}.migrations ORDER BY version")
    )
    known = find_migrations()
    version = max(ran, default=0)
    pending = [each for each in known if each.version > version]
    if pending:
        yield mended_by_command(
            "schema_behind",
            survey.schema,
            f"it has version {version}, and this package {known[-1].version}: policies and "
            "privileges are compared when it is up to date",
            *("tenantry", "migrate", "--schema", survey.schema),
            *("--tenant-type", survey.tenant_type, *_role_options(survey)),
        )
    if version > known[-1].version:
        yield advised(
            "schema_ahead",
            survey.schema,
            f"it has version {version}, and this package knows {known[-1].version}: policies and "
            "privileges were not compared",
            "Run the doctor of the version that migrated it",
        )
    for migration in known:
        if ran.get(migration.version, migration.sha256) != migration.sha256:
            yield advised(
                "migration_changed",
                survey.schema,
                f"{migration.version:04}_{migration.name} ran with another content than this "
                "package has",
                "Install the version of Tenantry that applied it, or a later one",
            )
    types = {k: v for k, v in survey.tenant_types.items() if k != "rejected_events"}  # always text
    if len(set(types.values())) > 1:
        listed = ", ".join(f"{table}: {kind}" for table, kind in sorted(types.items()))
        yield advised(
            "tenant_types_differ",
            survey.schema,
            f"tenant_id is of several types ({listed}): rows of one table are refused",
            "Restore the column's type, or migrate into a new schema",
        )


def _role_options(survey: Survey) -> Iterator[str]:
    for kind, name in survey.groups.items():
        if name != f"tenantry_{kind}":
            yield from (f"--{kind}-role", name)


def check_partitions(survey: Survey) -> Iterator[Finding]:
    """Look at the months ahead, at DEFAULT, and at what is detached."""
    maintain = ("tenantry", "maintain", "--schema", survey.schema)
    layout = read_layout(survey.connection, survey.schema)
    missing = layout.missing(months_ahead(layout.now, survey.limits.months_ahead))
    if missing:
        yield mended_by_command(
            "partitions_short",
            f"{survey.schema}.{EVENTS}",
            f"no partition takes {', '.join(f'{month:%Y-%m}' for month in missing)}: events of "
            "then would go to DEFAULT",
            *maintain,
        )
    default = survey.relations.get(layout.default or "")
    if default is not None and default.bytes:
        yield from _check_default(survey, layout, f"{survey.schema}.{default.name}", maintain)
    of_maintain = {each.name for each in read_detached(survey.connection, survey.schema)}
    for partition in survey.partitions:
        if partition.is_attached:
            continue
        subject = f"{survey.schema}.{partition.name}"
        detail = f"it is detached, and holds {partition.bytes // 1024} kB that no query sees"
        if partition.name in of_maintain:
            yield mended_by_command(
                "partition_detached", subject, detail, *maintain, "--drop-detached", "0d"
            )
        else:
            yield mended_by_sql(
                "partition_detached",
                subject,
                detail,
                sql.SQL("DROP TABLE {};").format(survey.identify(partition.name)),
            )


def _check_default(
    survey: Survey, layout: Layout, subject: str, maintain: tuple[str, ...]
) -> Iterator[Finding]:
    if not survey.sees_all_tenants:
        raise Unchecked("rows are in DEFAULT, or were, and row-level security hides them")
    ahead = survey.limits.months_ahead
    for stray in read_strays(survey.connection, survey.schema, layout, ahead):
        times = f"{stray.rows} events, created from {stray.first} to {stray.last}"
        if stray.month is None:
            yield mended_by_command(
                "odd_clocks",
                subject,
                f"{times}, are of no month that is built: the clocks that stamped them were odd",
                *("tenantry", "tail", "--schema", survey.schema),
            )
        else:
            yield mended_by_command(
                "rows_in_default", subject, f"{times}, lie in DEFAULT", *maintain
            )


def check_indexes(survey: Survey) -> Iterator[Finding]:
    """See that the indexes of the design are there, and that all are valid."""
    ours = {table.oid: table for table in [*survey.tables, *survey.partitions]}
    there: set[tuple[str, str]] = set()
    for oid, name, is_valid, is_primary, definition in survey.rows(_INDEXES, list(ours)):
        table = ours[oid].name
        columns = definition.partition(" USING ")[2]
        there.add((table, columns))
        if not is_valid:
            index = survey.identify(name)
            is_ours = is_primary or ours[oid].is_partition or columns in TABLES[table].indexes
            yield mended_by_sql(
                "index_invalid",
                f"{survey.schema}.{name}",
                "it is not valid: no query uses it, and each insert pays for it",
                sql.SQL("REINDEX INDEX {};" if is_ours else "DROP INDEX {};").format(index),
            )
    for relation in survey.tables:
        for number, columns in enumerate(TABLES[relation.name].indexes):
            if (relation.name, columns) in there:
                continue
            identifier = survey.identify(relation.name)
            second = sql.SQL("CREATE INDEX ON {} USING {};").format(identifier, sql.SQL(columns))
            primary = sql.SQL("ALTER TABLE {} ADD PRIMARY KEY {};").format(
                identifier, sql.SQL(columns.removeprefix("btree "))
            )
            yield mended_by_sql(
                "index_missing",
                f"{survey.schema}.{relation.name}",
                f"it has no index {columns}"
                + ("" if number else ", its primary key: replays would be stored twice"),
                second if number else primary,
            )


def check_watermark(survey: Survey) -> Iterator[Finding]:
    """Find the oldest transaction that writes: nothing behind it is shown by ``tail --follow``."""
    for pid, gid, login, application, database, state, seconds in survey.rows(_WATERMARK):
        who = f"prepared transaction {gid}" if gid else f"pid {pid}"
        if seconds is None:
            yield mended_by_sql(
                "watermark_unseen",
                who,
                f"a transaction of {login} writes, and since when is hidden from this login",
                sql.SQL("GRANT pg_read_all_stats TO {};").format(
                    sql.Identifier(survey.session.login)
                ),
            )
            continue
        if seconds < survey.limits.open_transaction:
            continue
        yield mended_by_sql(
            "watermark_held",
            who,
            f"a transaction of {login} in {database} ({application or 'no application name'}, "
            f"{state or 'prepared'}) is open for {seconds:.0f} seconds: those who follow new "
            "events wait for it",
            sql.SQL("ROLLBACK PREPARED {};").format(sql.Literal(gid))
            if gid
            else sql.SQL("SELECT pg_terminate_backend({});").format(sql.Literal(pid)),
        )


def check_dump(survey: Survey) -> Iterator[Finding]:
    """Say who can dump the tables."""
    owner = survey.server_roles[survey.owner]
    if owner.passes_by:
        return
    able = sorted(
        role.name for role in survey.server_roles.values() if role.logs_in and role.passes_by
    )
    yield advised(
        "dump_by_owner",
        f"role {owner.name}",
        "pg_dump as the tables' owner stops with an error, since row-level security binds it",
        f"Dump as a superuser or a role with BYPASSRLS ({', '.join(able[:5])}), never with "
        "--enable-row-security, which would leave rows out",
    )


def check_books(survey: Survey) -> Iterator[Finding]:
    """Look at the cursors: those that do not add up, that stand still, and that have ended."""
    limits = survey.limits
    rows = survey.rows(_CURSORS, limits.unsettled)
    for kind, journal, process, service, accepted, settled, emitted, known in rows[:_LISTED]:
        subject, whose = f"journal {journal}", f"{process}, service {service or 'without a name'}"
        if kind == "unbalanced":
            what = f"{accepted} accepted, {settled} stored or rejected"
            yield mended_by_command(
                "books_unbalanced",
                subject,
                f"{whose}: {what if accepted != settled else f'{emitted} emitted, {known} known'}",
                *("tenantry", "stats", "--schema", survey.schema),
            )
        else:
            yield mended_by_command(
                "journal_unsettled",
                subject,
                f"{whose}: {accepted - settled} events are accepted and not stored, and nothing "
                "has come for a while. If its process died, run this on its machine",
                *("tenantry", "drain", "--schema", survey.schema),
            )
    if len(rows) > _LISTED:
        yield mended_by_command(
            "journal_unsettled",
            f"{len(rows) - _LISTED} more journals",
            "they do not add up either, or stand still",
            *("tenantry", "stats", "--schema", survey.schema),
        )
    (ended,) = survey.rows(_ENDED, limits.ended)[0]
    if ended:
        yield mended_by_command(
            "journals_ended",
            f"{survey.schema}.journal_cursors",
            f"{ended} rows are of journals that have ended",
            *("tenantry", "maintain", "--schema", survey.schema),
        )


def check_rejected(survey: Survey) -> Iterator[Finding]:
    """Count the rejected events that wait."""
    if not survey.sees_all_tenants:
        raise Unchecked("row-level security hides rejected events of other tenants")
    rows: list[Any] = survey.rows(_REJECTED)
    for reason, count in rows:
        yield mended_by_command(
            "rejected_waiting",
            f"{survey.schema}.rejected_events",
            f"{count} events were rejected as {reason!r}",
            *("tenantry", "rejected", "list", "--schema", survey.schema, f"--reason={reason}"),
        )


_INDEXES: Final = """
    SELECT index.indrelid::bigint, relation.relname::text, index.indisvalid AND index.indisready,
           index.indisprimary, pg_get_indexdef(index.indexrelid)
      FROM pg_catalog.pg_index AS index
      JOIN pg_catalog.pg_class AS relation ON relation.oid = index.indexrelid
     WHERE index.indrelid = ANY(%s::oid[])
     ORDER BY 2
"""
# Every role sees all locks; when a transaction began, only some do. A prepared one has no process.
_WATERMARK: Final = """
    SELECT lock.pid, prepared.gid, coalesce(activity.usename, prepared.owner)::text,
           activity.application_name, coalesce(activity.datname, prepared.database)::text,
           activity.state,
           extract(epoch FROM clock_timestamp()
                              - coalesce(prepared.prepared, activity.xact_start))::double precision
      FROM pg_catalog.pg_locks AS lock
      LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = lock.pid
      LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared
        ON lock.pid IS NULL AND prepared.transaction = lock.transactionid
     WHERE lock.locktype = 'transactionid' AND lock.mode = 'ExclusiveLock' AND lock.granted
     ORDER BY age(lock.transactionid) DESC
     LIMIT 1
"""
# No row of journal_cursors belongs to a tenant.
_CURSORS: Final = """
    SELECT CASE WHEN is_unbalanced THEN 'unbalanced' ELSE 'unsettled' END,
           journal_id::text, process, service, accepted, settled, emitted, known
      FROM (SELECT *, settled > accepted OR ended_at IS NOT NULL
                      AND (settled <> accepted OR emitted <> known) AS is_unbalanced
              FROM (SELECT *, stored + rejected AS settled, accepted + handed + sampled_out + (
                               SELECT coalesce(sum(value::bigint), 0)::bigint
                                 FROM jsonb_each_text(dropped)) AS known
                      FROM {schema}.journal_cursors) AS counted) AS judged
     WHERE is_unbalanced OR accepted <> settled
       AND updated_at < clock_timestamp() - make_interval(secs => %s)
     ORDER BY 1, journal_id
"""
_ENDED: Final = """
    SELECT count(*) FROM {schema}.journal_cursors
     WHERE ended_at < clock_timestamp() - make_interval(secs => %s)
       AND process !~ ' journals$'  -- those are many folded into one
"""
# Of all tenants, by intention.
_REJECTED: Final = """
    SELECT reason, count(*) FROM {schema}.rejected_events GROUP BY reason ORDER BY 2 DESC LIMIT 10
"""
