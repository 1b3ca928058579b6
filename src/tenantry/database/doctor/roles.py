"""Checks of who is who: group roles, the logins in them, bound logins, and settings of roles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from psycopg import sql

from tenantry.database.doctor.access import create_policy
from tenantry.database.doctor.design import PRIVILEGES, TABLES
from tenantry.database.doctor.findings import Finding, advised, mended_by_sql
from tenantry.database.doctor.survey import Role, Survey, Unchecked

_ROLES_NEED_ADMIN: Final = 160000
"""From then on CREATEROLE administers only the roles that it made (release notes of 16)."""


def check_group_roles(survey: Survey) -> Iterator[Finding]:
    """See that the group roles are there, and only group roles."""
    for kind, name in survey.groups.items():
        role = survey.server_roles.get(name)
        if role is None:
            yield mended_by_sql(
                "role_missing",
                f"role {name}",
                f"the {kind} role does not exist, and whoever needs it can do nothing",
                _make_role(survey, kind, name),
            )
            continue
        if role.logs_in:
            yield mended_by_sql(
                "group_role_login",
                f"role {name}",
                "it may log in, and a login cannot be taken from one application only",
                sql.SQL("ALTER ROLE {} NOLOGIN;").format(sql.Identifier(name)),
            )
        yield from _check_powers(kind, role)
        yield from _check_nesting(survey, name)


def _make_role(survey: Survey, kind: str, name: str) -> sql.Composed:
    role = sql.Identifier(name)
    statements: list[sql.Composable] = [
        sql.SQL("CREATE ROLE {} NOLOGIN;").format(role),
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {};").format(sql.Identifier(survey.schema), role),
    ]
    for table in survey.tables:
        design = TABLES[table.name]
        if letters := design.grants.get(kind):
            privileges = sql.SQL(", ").join(sql.SQL(PRIVILEGES[letter]) for letter in letters)
            statements.append(
                sql.SQL("GRANT {} ON {} TO {};").format(
                    privileges, survey.identify(table.name), role
                )
            )
        is_there = any(
            (policy.table, policy.name) == (table.name, kind) for policy in survey.policies
        )
        if kind in design.policies and not is_there:
            statements.append(create_policy(survey, table.name, kind, design.policies[kind]))
    return sql.SQL(" ").join(statements)


def _check_powers(kind: str, role: Role) -> Iterator[Finding]:
    # Who sees all anyway, and who may not even select, gains nothing here by passing by policies.
    bypasses = role.bypasses and kind in {"reader", "tenant"}
    powers: dict[LiteralString, bool] = {
        "NOSUPERUSER": role.is_superuser,
        "NOBYPASSRLS": bypasses,
        "NOCREATEROLE": role.makes_roles,
    }
    if any(powers.values()):
        without: list[LiteralString] = [power for power, has in powers.items() if has]
        yield mended_by_sql(
            "group_role_powerful",
            f"role {role.name}",
            f"the {kind} role has {', '.join(each.removeprefix('NO') for each in without)}: its "
            "members take that with SET ROLE",
            sql.SQL("ALTER ROLE {} {};").format(
                sql.Identifier(role.name), sql.SQL(" ").join(sql.SQL(power) for power in without)
            ),
        )


def _check_nesting(survey: Survey, name: str) -> Iterator[Finding]:
    paths = survey.paths(name)
    # The owner is in most groups: what it leads to is gone with it.
    forbidden = {survey.owner} if survey.owner in paths else set(survey.groups.values())
    for group in sorted(forbidden & paths.keys()):
        yield mended_by_sql(
            "group_role_nested",
            f"role {name}",
            f"it is a member of {group}, and so are all its members",
            _revoke(group, paths[group]),
        )


def _revoke(group: str, member: str) -> sql.Composed:
    return sql.SQL("REVOKE {} FROM {};").format(sql.Identifier(group), sql.Identifier(member))


def check_logins(survey: Survey) -> Iterator[Finding]:
    """Look at each login that is in a group role, but for the owner of the tables."""
    roles = survey.roles
    groups = set(survey.groups.values())
    for role in sorted(survey.server_roles.values(), key=lambda each: each.name):
        reached = survey.reach(role.name) if role.logs_in else set[str]()
        if role.name == survey.owner or role.name in groups or not reached & groups:
            continue
        subject, identifier = f"role {role.name}", sql.Identifier(role.name)
        listed = ", ".join(sorted(reached & groups))
        if role.passes_by:
            yield mended_by_sql(
                "login_bypasses",
                subject,
                f"it is in {listed}, and row-level security does not bind it",
                sql.SQL("ALTER ROLE {} NOSUPERUSER NOBYPASSRLS;").format(identifier)
                if role.is_superuser
                else sql.SQL("ALTER ROLE {} NOBYPASSRLS;").format(identifier),
            )
        if role.makes_roles and survey.session.server_version < _ROLES_NEED_ADMIN:
            yield mended_by_sql(
                "login_makes_roles",
                subject,
                f"it is in {listed}, and with CREATEROLE it makes itself a member of any role",
                sql.SQL("ALTER ROLE {} NOCREATEROLE;").format(identifier),
            )
        if survey.owner in reached:
            yield mended_by_sql(
                "login_is_owner",
                subject,
                f"as a member of {survey.owner} it may switch policies off",
                _revoke(survey.owner, survey.paths(role.name)[survey.owner]),
            )
            continue
        yield from _check_combination(survey, role.name, reached)
        others = {roles.reader, roles.writer, roles.admin, roles.maintainer} & reached
        if roles.tenant in reached and others:
            paths = survey.paths(role.name)
            yield mended_by_sql(
                "bound_login_unbound",
                subject,
                f"it is in {roles.tenant}, for logins of one tenant, and in "
                f"{', '.join(sorted(others))}",
                sql.SQL(" ").join(_revoke(group, paths[group]) for group in sorted(others)),
            )


def _check_combination(survey: Survey, login: str, reached: set[str]) -> Iterator[Finding]:
    roles = survey.roles
    if roles.writer not in reached or roles.tenant in reached:
        return
    paths = survey.paths(login)
    seeing = sorted({roles.admin, roles.maintainer} & reached)
    if seeing:
        yield mended_by_sql(
            "writer_sees_all",
            f"role {login}",
            f"it writes events, as application servers do, and is in {', '.join(seeing)} as well",
            sql.SQL(" ").join(_revoke(group, paths[group]) for group in seeing),
        )
    elif roles.reader in reached:
        yield mended_by_sql(
            "writer_reads",
            f"role {login}",
            f"it is in {roles.writer} and in {roles.reader}; two logins would part what one that "
            "is stolen can do",
            _revoke(roles.reader, paths[roles.reader]),
        )


def check_session(survey: Survey) -> Iterator[Finding]:
    """Look at the login of the DSN, as if it were the application's."""
    session = survey.session
    user = survey.server_roles[session.login]
    subject = f"role {user.name}"
    reached = survey.reach(user.name) | {user.name}
    groups = set(survey.groups.values()) - {survey.roles.tenant}
    separate = sql.SQL("CREATE ROLE {name} LOGIN PASSWORD '...' IN ROLE {writer};").format(
        name=sql.Identifier("app"), writer=sql.Identifier(survey.roles.writer)
    )
    if user.is_superuser:
        yield advised(
            "login_superuser",
            subject,
            "it is a superuser: no policy binds it, and no privilege stops it",
            f"If an application connects so, give it a login of its own: {separate.as_string(None)}"
            " Run the doctor as a member of the admin role",
        )
    elif user.bypasses and not reached & groups:
        yield advised(
            "login_bypasses",
            subject,
            "row-level security does not bind it",
            f"If an application connects so, give it a login of its own: {separate.as_string(None)}"
            " Run the doctor as a member of the admin role",
        )
    elif survey.owner in reached or groups <= reached:
        yield advised(
            "one_user_setup",
            subject,
            "it owns the tables, or is in all group roles: whoever has its password reads all "
            "tenants, and may switch the policies off",
            f"Give applications logins of their own: {separate.as_string(None)}",
        )
    elif not reached & set(survey.groups.values()):
        yield mended_by_sql(
            "login_without_role",
            subject,
            "it is in none of the group roles: it neither writes events nor sees any",
            _grant(survey.roles.writer, user.name),
        )


def _grant(group: str, member: str) -> sql.Composed:
    return sql.SQL("GRANT {} TO {};").format(sql.Identifier(group), sql.Identifier(member))


def check_bindings(survey: Survey) -> Iterator[Finding]:
    """Find bindings whose login is gone."""
    if "tenant_roles" not in survey.relations:
        return
    if not survey.sees_all_tenants:
        raise Unchecked("row-level security hides which logins are bound")
    for (login,) in survey.rows("SELECT role::text FROM {schema}.tenant_roles ORDER BY role"):
        if login not in survey.server_roles:
            yield mended_by_sql(
                "binding_without_role",
                f"role {login}",
                "it is bound to a tenant and does not exist: a login that is made under this name "
                "would see that tenant",
                sql.SQL("DELETE FROM {} WHERE role = {};").format(
                    survey.identify("tenant_roles"), sql.Literal(login)
                ),
            )


def check_settings(survey: Survey) -> Iterator[Finding]:
    """Find a tenant or a search_path that roles or the database begin their sessions with."""
    presets = 0
    for role, is_here, name, value in survey.rows(_SETTINGS, survey.session.database_oid):
        whom = role or ("database" if is_here else "all roles")
        reset = _reset(survey, role, name, is_here=is_here)
        if name == "tenantry.tenant_id":
            presets += 1
            yield mended_by_sql(
                "tenant_preset",
                f"setting of {whom}",
                "its sessions begin with a tenant set, and read that tenant's rows where code "
                "forgot to set one",
                reset,
            )
        elif name == "search_path" and (early := _before_catalogue(value)):
            yield mended_by_sql(
                "search_path_first",
                f"setting of {whom}",
                f"names are looked up in {early} before PostgreSQL's own: whoever creates "
                "functions or operators there replaces them",
                reset,
            )
    session = survey.session
    if session.tenant and not presets:
        yield advised(
            "tenant_preset",
            "this session",
            "it began with a tenant set: by the DSN, by the server's configuration, or, behind a "
            "pooler, by a client that used SET without LOCAL",
            "Set the tenant within each transaction: SELECT set_config('tenantry.tenant_id', "
            "'...', true)",
        )


def _reset(survey: Survey, role: str | None, name: str, *, is_here: bool) -> sql.Composed:
    setting = sql.SQL(".").join(map(sql.Identifier, name.split(".")))
    database = sql.Identifier(survey.session.database)
    if role is None and is_here:
        return sql.SQL("ALTER DATABASE {} RESET {};").format(database, setting)
    whom = sql.SQL("ALL") if role is None else sql.Identifier(role)
    where = sql.SQL(" IN DATABASE {}").format(database) if is_here else sql.SQL("")
    return sql.SQL("ALTER ROLE {}{} RESET {};").format(whom, where, setting)


def _before_catalogue(search_path: str) -> str:
    """Name the schemas that a search_path has before pg_catalog; empty where that comes first."""
    schemas = [schema.strip().strip('"') for schema in search_path.split(",")]
    if "pg_catalog" not in schemas:
        return ""  # then it is searched first
    return ", ".join(schemas[: schemas.index("pg_catalog")])


_SETTINGS: Final = """
    SELECT CASE WHEN setrole <> 0 THEN pg_get_userbyid(setrole)::text END, setdatabase <> 0,
           split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)
      FROM pg_catalog.pg_db_role_setting
     CROSS JOIN LATERAL pg_catalog.unnest(setconfig) AS setting
     WHERE setdatabase IN (0, %s)
     ORDER BY 1, 2, 3
"""
