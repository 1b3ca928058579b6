"""Checks of what guards the rows: row-level security, policies, privileges, views, functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final, LiteralString, cast

from psycopg import sql

from tenantry.database.doctor.design import (
    COMMANDS,
    PRIVILEGES,
    TABLES,
    Policy,
    is_same,
)
from tenantry.database.doctor.findings import Finding, mended_by_sql
from tenantry.database.doctor.survey import Grant, PolicyRow, Relation, Survey


def check_row_security(survey: Survey) -> Iterator[Finding]:
    """See that row-level security is enabled and forced wherever tenants' rows lie."""
    guarded = [table for table in survey.tables if TABLES[table.name].policies]
    for table in [*guarded, *survey.partitions]:
        if table.is_secured and table.is_forced:
            continue
        state = "not enabled" if not table.is_secured else "not forced, and does not bind its owner"
        yield mended_by_sql(
            "row_security_off",
            _name(survey, table.name),
            f"row-level security is {state}",
            sql.SQL(
                "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            ).format(table=survey.identify(table.name)),
        )


def check_policies(survey: Survey) -> Iterator[Finding]:
    """Compare the policies with those of the design."""
    there = {(policy.table, policy.name): policy for policy in survey.policies}
    for table in survey.tables:
        for name, policy in TABLES[table.name].policies.items():
            found = there.pop((table.name, name), None)
            role = survey.groups[name]
            if role not in survey.server_roles:
                continue  # said by another check, which brings the policy as well
            if found is None:
                yield mended_by_sql(
                    "policy_missing",
                    _name(survey, table.name),
                    f"the policy {name!r} of {role} is gone: its members see or write no row",
                    create_policy(survey, table.name, name, policy),
                )
            elif changes := _compare(survey, found, policy, role):
                yield mended_by_sql(
                    "policy_changed",
                    _name(survey, table.name),
                    f"the policy {name!r} is not as it was made: {changes}",
                    sql.SQL("BEGIN; {drop} {create} COMMIT;").format(
                        drop=_drop_policy(survey, found),
                        create=create_policy(survey, table.name, name, policy),
                    ),
                )
    ours = {table.name for table in [*survey.tables, *survey.partitions]}
    for (table_name, name), row in there.items():
        if table_name in ours and row.is_permissive:
            yield mended_by_sql(
                "policy_extra",
                _name(survey, table_name),
                f"the policy {name!r} opens rows to {', '.join(row.roles)} beside those that "
                "Tenantry's policies open; make it RESTRICTIVE if it is meant to narrow",
                _drop_policy(survey, row),
            )


def _compare(survey: Survey, found: PolicyRow, policy: Policy, role: str) -> str:
    def expected(expression: LiteralString | None) -> str | None:
        return None if expression is None else _condition(survey, expression).as_string(None)

    differences = {
        f"it is for {', '.join(found.roles)}, not {role}": found.roles != (role,),
        "it is RESTRICTIVE": not found.is_permissive,
        f"it is for {COMMANDS.get(found.command)}, not {COMMANDS[policy.command]}": (
            found.command != policy.command
        ),
        f"its USING is {_one_line(found.using)}": not is_same(found.using, expected(policy.using)),
        f"its WITH CHECK is {_one_line(found.check)}": not is_same(
            found.check, expected(policy.check)
        ),
    }
    return "; ".join(text for text, differs in differences.items() if differs)


def _one_line(expression: str | None) -> str | None:
    return None if expression is None else " ".join(expression.split())


def _condition(survey: Survey, expression: LiteralString) -> sql.Composed:
    """Fill the names into an expression of a policy."""
    return sql.SQL(expression).format(
        schema=sql.Identifier(survey.schema), tenant_type=sql.SQL(survey.tenant_type)
    )


def create_policy(survey: Survey, table: str, name: str, policy: Policy) -> sql.Composed:
    """Give the statement that makes a policy of the design."""
    parts = [
        sql.SQL("CREATE POLICY {} ON {} FOR {} TO {}").format(
            sql.Identifier(name),
            survey.identify(table),
            sql.SQL(COMMANDS[policy.command]),
            sql.Identifier(survey.groups[name]),
        )
    ]
    if policy.using is not None:
        parts.append(sql.SQL(" USING ({})").format(_condition(survey, policy.using)))
    if policy.check is not None:
        parts.append(sql.SQL(" WITH CHECK ({})").format(_condition(survey, policy.check)))
    return sql.Composed([*parts, sql.SQL(";")])


def _drop_policy(survey: Survey, policy: PolicyRow) -> sql.Composed:
    return sql.SQL("DROP POLICY {} ON {};").format(
        sql.Identifier(policy.name), survey.identify(policy.table)
    )


def check_privileges(survey: Survey) -> Iterator[Finding]:
    """Compare the privileges on tables, columns and partitions with those of the design."""
    for table in survey.tables:
        designed = {
            (survey.groups[role], PRIVILEGES[letter])
            for role, letters in TABLES[table.name].grants.items()
            for letter in letters
        }
        missing: defaultdict[str, list[str]] = defaultdict(list)
        held = {(grant.grantee, grant.privilege) for grant in table.grants if not grant.column}
        for role, privilege in sorted(designed - held):
            if role in survey.server_roles:
                missing[role].append(privilege)
        for role, privileges in missing.items():
            yield mended_by_sql(
                "grant_missing",
                _name(survey, table.name),
                f"{role} lacks {', '.join(privileges)}",
                sql.SQL("GRANT {} ON {} TO {};").format(
                    sql.SQL(", ").join(map(_privilege, privileges)),
                    survey.identify(table.name),
                    sql.Identifier(role),
                ),
            )
        excess = [
            grant
            for grant in table.grants
            if grant.column or (grant.grantee, grant.privilege) not in designed
        ]
        yield from _revoke(survey, table, excess, "grant_excess")
    for partition in survey.partitions:
        yield from _revoke(survey, partition, partition.grants, "partition_grant")


def _revoke(
    survey: Survey, table: Relation, grants: tuple[Grant, ...] | list[Grant], code: str
) -> Iterator[Finding]:
    by_grantee: defaultdict[str, list[Grant]] = defaultdict(list)
    for grant in grants:
        by_grantee[grant.grantee].append(grant)
    for grantee, excess in sorted(by_grantee.items()):
        statements: list[sql.Composable] = []
        for column in sorted({grant.column for grant in excess}, key=str):
            listed = sorted({grant.privilege for grant in excess if grant.column == column})
            of_column = sql.SQL(" ({})").format(sql.Identifier(column)) if column else sql.SQL("")
            statements.append(
                sql.SQL("REVOKE {} ON {} FROM {} CASCADE;").format(
                    sql.SQL(", ").join(_privilege(each) + of_column for each in listed),
                    survey.identify(table.name),
                    _grantee(grantee),
                )
            )
        words = sorted(
            grant.privilege + (f" of the column {grant.column}" if grant.column else "")
            for grant in excess
        )
        yield mended_by_sql(
            code,
            _name(survey, table.name),
            f"{grantee} has {', '.join(words)}, which no role needs there",
            sql.SQL(" ").join(statements),
        )


def _privilege(name: str) -> sql.SQL:
    return sql.SQL(cast("Any", name))  # a keyword, which aclexplode gave


def _grantee(name: str) -> sql.Composable:
    return sql.SQL("PUBLIC") if name == "PUBLIC" else sql.Identifier(name)


def check_schema(survey: Survey) -> Iterator[Finding]:
    """See that nobody but its owner makes objects in the schema."""
    for (grantee,) in survey.rows(_CREATORS, survey.schema):
        yield mended_by_sql(
            "schema_create",
            survey.schema,
            f"{grantee} may create tables, views and functions in the schema",
            sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {} CASCADE;").format(
                sql.Identifier(survey.schema), _grantee(grantee)
            ),
        )


def check_views(survey: Survey) -> Iterator[Finding]:
    """Find the views, of any schema, that show the rows of our tables past the policies."""
    guarded = [table for table in survey.tables if TABLES[table.name].policies]
    oids = [table.oid for table in [*guarded, *survey.partitions]]
    for schema, name, kind in survey.rows(_VIEWS, oids):
        view = sql.Identifier(schema, name)
        if kind == "m":
            yield mended_by_sql(
                "materialized_view",
                f"{schema}.{name}",
                "it holds copies of events, and PostgreSQL has no row-level security for it",
                sql.SQL("DROP MATERIALIZED VIEW {};").format(view),
            )
        else:
            yield mended_by_sql(
                "view_as_owner",
                f"{schema}.{name}",
                "whoever may select from it sees the rows that its owner sees",
                sql.SQL("ALTER VIEW {} SET (security_invoker = true);").format(view),
            )


def check_rules_and_triggers(survey: Survey) -> Iterator[Finding]:
    """Find the rules and the row triggers on our tables."""
    tables = {table.oid: table.name for table in [*survey.tables, *survey.partitions]}
    for oid, rule in survey.rows(_RULES, list(tables)):
        yield mended_by_sql(
            "rule_on_table",
            _name(survey, tables[oid]),
            f"the rule {rule!r} rewrites statements: rows may go elsewhere, or nowhere",
            sql.SQL("DROP RULE {} ON {};").format(
                sql.Identifier(rule), survey.identify(tables[oid])
            ),
        )
    for oid, trigger, function, owner in survey.rows(_TRIGGERS, list(tables)):
        yield mended_by_sql(
            "row_trigger",
            _name(survey, tables[oid]),
            f"the trigger {trigger!r} gives each row of each tenant to {function}, a function of "
            f"{owner}, and makes each insert slower",
            sql.SQL("DROP TRIGGER {} ON {};").format(
                sql.Identifier(trigger), survey.identify(tables[oid])
            ),
        )


def check_functions(survey: Survey) -> Iterator[Finding]:
    """Find functions that run as their owner unguarded, or that see rows before the policies."""
    rows = survey.rows(_FUNCTIONS, survey.schema, survey.schema)
    for schema, name, arguments, routine, is_open, is_for_all, is_leakproof in rows:
        function = sql.SQL("{} {}({})").format(
            sql.SQL(routine), sql.Identifier(schema, name), sql.SQL(arguments)
        )
        subject = f"{schema}.{name}({arguments})"
        if is_open:
            yield mended_by_sql(
                "function_search_path",
                subject,
                "it runs with its owner's rights, and whoever calls it chooses what its names mean",
                sql.SQL("ALTER {} SET search_path = pg_catalog, pg_temp;").format(function),
            )
        if is_for_all:
            yield mended_by_sql(
                "function_for_all",
                subject,
                "it runs with its owner's rights, and everybody may call it",
                sql.SQL("REVOKE EXECUTE ON {} FROM PUBLIC;").format(function),
            )
        if is_leakproof:
            yield mended_by_sql(
                "function_leakproof",
                subject,
                "a condition that calls it is asked about the rows of all tenants",
                sql.SQL("ALTER {} NOT LEAKPROOF;").format(function),
            )


def _name(survey: Survey, table: str) -> str:
    return f"{survey.schema}.{table}"


_CREATORS: Final = """
    SELECT coalesce(grantee.rolname::text, 'PUBLIC')
      FROM pg_catalog.pg_namespace AS namespace
     CROSS JOIN LATERAL aclexplode(namespace.nspacl) AS acl
      LEFT JOIN pg_catalog.pg_roles AS grantee ON grantee.oid = acl.grantee
     WHERE namespace.nspname = %s AND acl.privilege_type = 'CREATE'
       AND acl.grantee <> namespace.nspowner
     ORDER BY 1
"""
# A view over a view: the outer one's owner is asked, whatever the inner one says of itself.
_VIEWS: Final = """
    WITH RECURSIVE above (oid) AS (
        SELECT relation.oid FROM pg_catalog.pg_class AS relation
         WHERE relation.oid = ANY(%s::oid[])
        UNION
        SELECT rule.ev_class
          FROM above
          JOIN pg_catalog.pg_depend AS link
            ON link.refobjid = above.oid AND link.refclassid = 'pg_catalog.pg_class'::regclass
           AND link.classid = 'pg_catalog.pg_rewrite'::regclass
          JOIN pg_catalog.pg_rewrite AS rule ON rule.oid = link.objid
    )
    SELECT namespace.nspname::text, view.relname::text, view.relkind::text
      FROM above
      JOIN pg_catalog.pg_class AS view ON view.oid = above.oid
      JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = view.relnamespace
     WHERE view.relkind = 'm'
        OR view.relkind = 'v' AND NOT coalesce((
               SELECT option.option_value::boolean
                 FROM pg_options_to_table(view.reloptions) AS option
                WHERE option.option_name = 'security_invoker'), false)
     ORDER BY 1, 2
"""
_RULES: Final = """
    SELECT ev_class::bigint, rulename::text FROM pg_catalog.pg_rewrite
     WHERE ev_class = ANY(%s::oid[]) ORDER BY 1, 2
"""
_TRIGGERS: Final = """
    SELECT trigger.tgrelid::bigint, trigger.tgname::text, function.proname::text,
           pg_get_userbyid(function.proowner)::text
      FROM pg_catalog.pg_trigger AS trigger
      JOIN pg_catalog.pg_proc AS function ON function.oid = trigger.tgfoid
     WHERE trigger.tgrelid = ANY(%s::oid[]) AND NOT trigger.tgisinternal
       AND trigger.tgparentid = 0 AND trigger.tgtype & 1 = 1  -- TRIGGER_TYPE_ROW
     ORDER BY 1, 2
"""
# Leakproof ones are looked for everywhere: a superuser made them, or an extension.
_FUNCTIONS: Final = """
    SELECT * FROM (
        SELECT namespace.nspname::text, function.proname::text,
               pg_get_function_identity_arguments(function.oid),
               CASE WHEN function.prokind = 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
               namespace.nspname = %s AND function.prosecdef AND NOT EXISTS (
                   SELECT FROM pg_catalog.unnest(function.proconfig) AS setting
                    WHERE setting LIKE 'search_path=%%'),
               namespace.nspname = %s AND function.prosecdef AND EXISTS (
                   SELECT FROM aclexplode(coalesce(
                       function.proacl, acldefault('f', function.proowner))) AS acl
                    WHERE acl.grantee = 0),
               function.proleakproof AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_depend AS link
                    WHERE link.objid = function.oid AND link.deptype = 'e'
                      AND link.classid = 'pg_catalog.pg_proc'::regclass)
          FROM pg_catalog.pg_proc AS function
          JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = function.pronamespace
         WHERE function.prokind IN ('f', 'p')
           AND namespace.nspname NOT IN ('pg_catalog', 'information_schema')
    ) AS found (schema, name, arguments, routine, is_open, is_for_all, is_leakproof)
     WHERE is_open OR is_for_all OR is_leakproof
     ORDER BY 1, 2, 3
"""
