"""What the doctor says: findings, and the one list of their codes.

A code is a promise to programs: it keeps its name and its severity. Where a thing is worse in one
place than in another, it has two codes.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from psycopg import sql

Severity = Literal["problem", "warning", "note"]
"""problem: events or tenants are at risk now; warning: they will be; note: works as it was chosen,
and is worth knowing."""

RemedyKind = Literal["sql", "command", "advice"]


class Code(NamedTuple):
    """A kind of finding."""

    severity: Severity
    meaning: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. Carries no password."""

    code: str
    subject: str
    """What it is about: a table, a role, a journal."""
    detail: str
    """What is wrong, and what that leads to."""
    remedy: str
    remedy_kind: RemedyKind

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CODES[self.code].severity


def mended_by_sql(code: str, subject: str, detail: str, remedy: sql.Composable) -> Finding:
    """Make a finding that SQL mends, run by the owner of the thing."""
    return Finding(code, subject, detail, remedy.as_string(None), "sql")


def mended_by_command(code: str, subject: str, detail: str, *words: str) -> Finding:
    """Make a finding that a command mends; its words are quoted for a shell.

    Some of them are names and reasons that anybody may have chosen.
    """
    return Finding(code, subject, detail, shlex.join(words), "command")


def advised(code: str, subject: str, detail: str, remedy: str) -> Finding:
    """Make a finding whose remedy is a decision."""
    return Finding(code, subject, detail, remedy, "advice")


def is_well(findings: list[Finding]) -> bool:
    """Say whether there is nothing but notes."""
    return all(finding.severity == "note" for finding in findings)


SECURITY: Final = {
    "row_security_off": Code(
        "problem", "Row-level security is not enabled, or not forced, on a table or a partition."
    ),
    "policy_missing": Code("problem", "A policy of ours is gone: its role sees or writes nothing."),
    "policy_changed": Code("problem", "A policy of ours lets others in, or other rows out."),
    "policy_extra": Code(
        "problem", "A permissive policy that is not ours opens rows beside those that ours open."
    ),
    "grant_missing": Code("problem", "A group role lacks a privilege that its work needs."),
    "grant_excess": Code(
        "problem", "A privilege on a table that the design does not give, columns included."
    ),
    "partition_grant": Code(
        "problem", "A privilege on a partition, where the policies of the parent do not apply."
    ),
    "schema_create": Code("problem", "Others than its owner may create objects in the schema."),
    "view_as_owner": Code(
        "problem", "A view shows the rows that its owner sees: it is no security_invoker."
    ),
    "materialized_view": Code(
        "problem", "A materialised view copies rows to where no policy guards them."
    ),
    "rule_on_table": Code("problem", "A rule rewrites statements on a table of ours."),
    "row_trigger": Code("note", "A row trigger of yours sees, and may refuse, each row."),
    "function_search_path": Code(
        "problem", "A SECURITY DEFINER function in the schema has no search_path of its own."
    ),
    "function_for_all": Code(
        "problem", "Everybody may call a SECURITY DEFINER function in the schema."
    ),
    "function_leakproof": Code(
        "problem", "A function declared LEAKPROOF is called with rows before policies hide them."
    ),
}

ROLES: Final = {
    "role_missing": Code("problem", "A group role does not exist."),
    "group_role_login": Code("warning", "A group role may log in itself."),
    "group_role_powerful": Code(
        "problem", "A group role is a superuser, passes by policies, or may make roles."
    ),
    "group_role_nested": Code("problem", "A group role is a member of another, or of the owner."),
    "login_superuser": Code("problem", "The login of the DSN is a superuser: no policy binds it."),
    "login_bypasses": Code("problem", "A login in a group role passes by row-level security."),
    "login_makes_roles": Code(
        "problem", "A login in a group role may make itself a member of any, before PostgreSQL 16."
    ),
    "login_is_owner": Code(
        "warning", "A login in a group role is a member of the tables' owner: it can change them."
    ),
    "login_without_role": Code("warning", "The login of the DSN is in no group role."),
    "one_user_setup": Code(
        "note", "The login of the DSN owns the tables, or is in all group roles."
    ),
    "writer_sees_all": Code("warning", "A login that writes events reads those of all tenants."),
    "writer_reads": Code("note", "A login both writes events and reads them, a tenant at a time."),
    "bound_login_unbound": Code(
        "problem", "A login that is bound to one tenant is in a role that leads to others."
    ),
    "binding_without_role": Code(
        "warning", "A login that is bound to a tenant is gone: the next of that name inherits it."
    ),
    "tenant_preset": Code(
        "problem", "tenantry.tenant_id is set before any transaction sets it: a tenant by default."
    ),
    "search_path_first": Code(
        "problem", "A search_path names a schema before pg_catalog: functions can be replaced."
    ),
}

SERVER: Final = {
    "unreachable": Code("problem", "The database cannot be reached; nothing in it was looked at."),
    "unchecked": Code("warning", "A check could not run."),
    "server_too_old": Code("problem", "The server is older than PostgreSQL 15."),
    "standby": Code("problem", "The server is a standby: nothing can be written."),
    "read_only": Code("problem", "Transactions are read-only by default."),
    "clock_skew": Code("warning", "The clocks of this machine and the server differ."),
    "statement_pooling": Code("problem", "A pooler refuses transactions."),
    "behind_pooler": Code(
        "note", "A pooler is in between: set the tenant in the transaction only."
    ),
    "schema_missing": Code("problem", "The schema has no tables of Tenantry."),
    "schema_behind": Code("problem", "Migrations are pending."),
    "schema_ahead": Code(
        "warning", "A newer Tenantry migrated the schema, which was not compared."
    ),
    "migration_changed": Code("problem", "A migration ran with another content than this one has."),
    "tenant_types_differ": Code("problem", "Tables have tenant ids of different types."),
    "partitions_short": Code("warning", "Partitions for less than three months are ahead."),
    "rows_in_default": Code("warning", "Events lie in the DEFAULT partition."),
    "odd_clocks": Code(
        "note", "Events lie in DEFAULT for good: their times are no month's that is built."
    ),
    "partition_detached": Code("note", "A partition is detached, and its rows are in no query."),
    "index_missing": Code("problem", "An index that the design has is gone."),
    "index_invalid": Code("warning", "An index is not valid: it costs, and serves nobody."),
    "watermark_held": Code(
        "warning", "A transaction that stays open holds back those who follow new events."
    ),
    "watermark_unseen": Code(
        "note", "A transaction writes, and this login may not see for how long it is open."
    ),
    "dump_by_owner": Code("note", "The tables' owner cannot dump them."),
    "books_unbalanced": Code("problem", "The numbers of a journal do not add up."),
    "journal_unsettled": Code(
        "warning", "A journal accepted events that it has not stored, and sends nothing."
    ),
    "journals_ended": Code("note", "Cursors of journals that have ended can be folded."),
    "rejected_waiting": Code("note", "Rejected events wait for somebody to look."),
}

JOURNALS: Final = {
    "journal_root_missing": Code("note", "The directory of the journals does not exist."),
    "journal_unsafe": Code(
        "problem", "Others could replace, or write to, the directory of journals or one in it."
    ),
    "journal_readable": Code("problem", "Others may read a journal."),
    "journal_volatile": Code("warning", "Journals lie in memory, or on a network."),
    "journal_near_limit": Code("warning", "The journals are near their size limit."),
    "journal_dead": Code("warning", "A process died, and its journal waits to be sent."),
    "journal_behind": Code("warning", "A living process has not sent events for a while."),
    "journal_unreadable": Code("problem", "A journal cannot be read."),
    "journal_other_format": Code("warning", "Another version of Tenantry wrote a journal."),
    "journal_other_tenant_type": Code(
        "problem", "A journal has tenant ids of another type than the schema."
    ),
    "journal_other_destination": Code("note", "A journal is meant for another database or schema."),
}

APPLICATION: Final = {
    "app_failed": Code("problem", "The application cannot be imported."),
    "app_not_configured": Code("problem", "Importing the application configures no pipeline."),
    "app_in_memory": Code("warning", "The application keeps its events in memory only."),
    "app_other_destination": Code("problem", "The application sends its events elsewhere."),
    "app_other_tenant_type": Code(
        "problem", "The application has tenant ids of another type than the schema."
    ),
    "app_other_journal": Code("note", "The application keeps its journals in another directory."),
    "app_without_taxonomy": Code("warning", "The application declares no event."),
    "app_strict": Code("note", "Strict mode is on: bad events raise in the application."),
}

CODES: Final = {**SECURITY, **ROLES, **SERVER, **JOURNALS, **APPLICATION}
