"""What the checks look at: the schema's relations, policies and roles, read once.

Reads the catalogue, which any role may; changes nothing, in transactions that could not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple

from psycopg import sql

from tenantry.database.connect import DeadlineConnection
from tenantry.database.doctor.design import EVENTS, TABLES
from tenantry.database.installed import Roles, TenantType


class Unchecked(Exception):  # a condition, as all our names of errors
    """A check cannot run as this user; says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the doctor begins to speak; seconds but for the first two."""

    oldest_server: int = 150000
    """As ``server_version_num``."""
    months_ahead: int = 3
    clock_skew: float = 5.0
    open_transaction: float = 60.0
    unsettled: float = 3600.0
    ended: float = 86400.0


class Grant(NamedTuple):
    """A privilege of somebody other than the owner; ``column`` where it is of one."""

    grantee: str
    privilege: str
    column: str | None


@dataclass(frozen=True, slots=True)
class Relation:
    """A table of ours, or a partition."""

    oid: int
    name: str
    owner: str
    is_secured: bool
    is_forced: bool
    is_partition: bool
    """Of events, attached or not."""
    is_attached: bool
    bound: str | None
    bytes: int
    grants: tuple[Grant, ...]


class PolicyRow(NamedTuple):
    """A policy as the catalogue has it. ``roles`` has PUBLIC for everybody."""

    table: str
    name: str
    command: str
    is_permissive: bool
    roles: tuple[str, ...]
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the server."""

    name: str
    is_superuser: bool
    bypasses: bool
    makes_roles: bool
    logs_in: bool

    @property
    def passes_by(self) -> bool:
        """Whether row-level security does not bind it."""
        return self.is_superuser or self.bypasses


@dataclass(frozen=True, slots=True)
class Session:
    """Who is connected, and to what."""

    login: str
    user: str
    database: str
    database_oid: int
    server_version: int
    is_standby: bool
    is_read_only: bool
    backend_pid: int
    now: datetime
    tenant: str
    search_path: str


@dataclass(frozen=True, slots=True)
class Survey:
    """All that several checks ask for."""

    connection: DeadlineConnection
    schema: str
    limits: Limits
    session: Session
    relations: dict[str, Relation]
    policies: tuple[PolicyRow, ...]
    roles: Roles
    tenant_types: dict[str, str]
    """Of tenant_id, by table."""
    server_roles: dict[str, Role]
    memberships: dict[str, set[str]]
    """What each role is a direct member of."""

    def rows(self, query: LiteralString, *values: Any, **names: sql.Composable) -> list[Any]:
        """Run a query; ``names`` fill its braces, ``{schema}`` among them."""
        composed = sql.SQL(query).format(schema=sql.Identifier(self.schema), **names)
        return self.connection.execute(composed, values or None).fetchall()

    @property
    def tables(self) -> list[Relation]:
        """Tables of the design that are there."""
        return [self.relations[name] for name in TABLES if name in self.relations]

    @property
    def partitions(self) -> list[Relation]:
        """Partitions of events, the detached ones too."""
        return [each for each in self.relations.values() if each.is_partition]

    @property
    def owner(self) -> str:
        """Who owns the events."""
        return self.relations[EVENTS].owner

    @property
    def tenant_type(self) -> TenantType:
        """The type of tenant ids; text where it is none of ours."""
        found = self.tenant_types.get(EVENTS)
        return "uuid" if found == "uuid" else "bigint" if found == "bigint" else "text"

    @property
    def groups(self) -> dict[str, str]:
        """The names of the group roles, by what they are."""
        return {each.name: getattr(self.roles, each.name) for each in fields(Roles)}

    def identify(self, name: str) -> sql.Identifier:
        """Name a relation of the schema in SQL."""
        return sql.Identifier(self.schema, name)

    def reach(self, role: str) -> set[str]:
        """Collect the roles that a role is a member of, through others too."""
        return set(self.paths(role))

    def paths(self, role: str) -> dict[str, str]:
        """Give the roles that a role is a member of, each with the member that is next to it."""
        found: dict[str, str] = {}
        pending = [role]
        while pending:
            member = pending.pop()
            for group in sorted(self.memberships.get(member, ())):
                if group not in found and group != role:
                    found[group] = member
                    pending.append(group)
        return found

    @property
    def sees_all_tenants(self) -> bool:
        """Whether row-level security hides nothing from the connected role."""
        user = self.server_roles[self.session.user]
        return user.passes_by or not {self.roles.admin, self.roles.maintainer}.isdisjoint(
            self.reach(user.name) | {user.name}
        )


def survey(connection: DeadlineConnection, schema: str, limits: Limits) -> Survey | None:
    """Read the catalogue; None when the schema has no events table."""
    relations = _read_relations(connection, schema)
    if EVENTS not in relations:
        return None
    policies = _read_policies(connection, schema)
    server_roles, memberships = _read_roles(connection)
    types = connection.execute(_TENANT_TYPES, [schema, list(TABLES)]).fetchall()
    return Survey(
        connection,
        schema,
        limits,
        read_session(connection),
        relations,
        policies,
        _name_roles(policies),
        dict(types),
        server_roles,
        memberships,
    )


def read_session(connection: DeadlineConnection) -> Session:
    """Ask who is connected, and to what."""
    row = connection.execute(_SESSION).fetchone()
    assert row is not None  # noqa: S101  # a query without FROM gives a row
    return Session(*row)


def _read_relations(connection: DeadlineConnection, schema: str) -> dict[str, Relation]:
    found: dict[str, Relation] = {}
    values = {"schema": schema, "tables": list(TABLES)}
    for *row, grants in connection.execute(_RELATIONS, values).fetchall():
        columns: list[Any] = [*row, tuple(Grant(*grant) for grant in grants)]
        found[columns[1]] = Relation(*columns)
    return found


def _read_policies(connection: DeadlineConnection, schema: str) -> tuple[PolicyRow, ...]:
    rows: Iterable[Any] = connection.execute(_POLICIES, [schema]).fetchall()
    return tuple(
        PolicyRow(table, name, command, is_permissive, tuple(roles), using, check)
        for table, name, command, is_permissive, roles, using, check in rows
    )


def _read_roles(connection: DeadlineConnection) -> tuple[dict[str, Role], dict[str, set[str]]]:
    roles = {row[0]: Role(*row) for row in connection.execute(_ROLES).fetchall()}
    memberships: defaultdict[str, set[str]] = defaultdict(set)
    for member, group in connection.execute(_MEMBERSHIPS).fetchall():
        memberships[member].add(group)
    return roles, dict(memberships)


def _name_roles(policies: Iterable[PolicyRow]) -> Roles:
    """Take the names that most policies agree on: one of them may have been changed."""
    named: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for policy in policies:
        if len(policy.roles) == 1 and policy.roles[0] != "PUBLIC" and policy.table in TABLES:
            named[policy.name][policy.roles[0]] += 1
    return Roles(
        **{
            role.name: named[role.name].most_common(1)[0][0]
            for role in fields(Roles)
            if named[role.name]
        }
    )


_SESSION: Final = """
    SELECT session_user::text, current_user::text, current_database()::text,
           (SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = current_database()),
           current_setting('server_version_num')::integer, pg_is_in_recovery(),
           current_setting('default_transaction_read_only')::boolean, pg_backend_pid(),
           clock_timestamp(), coalesce(current_setting('tenantry.tenant_id', true), ''),
           (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'search_path')
"""
# What was detached keeps its name, and nothing in the catalogue says what it was.
_RELATIONS: Final = """
    SELECT relation.oid::bigint, relation.relname::text, pg_get_userbyid(relation.relowner)::text,
           relation.relrowsecurity, relation.relforcerowsecurity,
           relation.relname <> ALL(%(tables)s), relation.relispartition,
           pg_get_expr(relation.relpartbound, relation.oid),
           CASE WHEN relation.relkind = 'r' THEN pg_relation_size(relation.oid) ELSE 0 END,
           (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(
                       coalesce(grantee.rolname::text, 'PUBLIC'), acl.privilege_type, acl.attname)),
                       '[]')
              FROM (SELECT (aclexplode(relation.relacl)).*, NULL::text AS attname
                    UNION ALL
                    SELECT (aclexplode(attacl)).*, attname::text
                      FROM pg_catalog.pg_attribute
                     WHERE attrelid = relation.oid AND attacl IS NOT NULL) AS acl
              LEFT JOIN pg_catalog.pg_roles AS grantee ON grantee.oid = acl.grantee
             WHERE acl.grantee <> relation.relowner)
      FROM pg_catalog.pg_class AS relation
      JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
     WHERE namespace.nspname = %(schema)s AND relation.relkind IN ('r', 'p')
       AND (relation.relname = ANY(%(tables)s)
            OR relation.relname ~ '^events_(\\d{4}_\\d{2}|default)'
            OR EXISTS (SELECT FROM pg_catalog.pg_inherits AS link
                        JOIN pg_catalog.pg_class AS parent ON parent.oid = link.inhparent
                       WHERE link.inhrelid = relation.oid AND parent.relname = 'events'
                         AND parent.relnamespace = namespace.oid))
     ORDER BY relation.relname
"""
_POLICIES: Final = """
    SELECT relation.relname::text, policy.polname::text, policy.polcmd::text, policy.polpermissive,
           ARRAY(SELECT CASE WHEN role = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(role)::text END
                   FROM pg_catalog.unnest(policy.polroles) AS role),
           pg_get_expr(policy.polqual, policy.polrelid),
           pg_get_expr(policy.polwithcheck, policy.polrelid)
      FROM pg_catalog.pg_policy AS policy
      JOIN pg_catalog.pg_class AS relation ON relation.oid = policy.polrelid
      JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
     WHERE namespace.nspname = %s
     ORDER BY 1, 2
"""
_ROLES: Final = """
    SELECT rolname::text, rolsuper, rolbypassrls, rolcreaterole, rolcanlogin
      FROM pg_catalog.pg_roles
"""
# From PostgreSQL 16 on, a membership may be there to administer only.
_MEMBERSHIPS: Final = """
    SELECT pg_get_userbyid(member)::text, pg_get_userbyid(roleid)::text
      FROM pg_catalog.pg_auth_members AS link
     WHERE coalesce((pg_catalog.to_jsonb(link)->>'inherit_option')::boolean, true)
        OR coalesce((pg_catalog.to_jsonb(link)->>'set_option')::boolean, true)
"""
_TENANT_TYPES: Final = """
    SELECT relation.relname::text, format_type(tenant.atttypid, NULL)
      FROM pg_catalog.pg_attribute AS tenant
      JOIN pg_catalog.pg_class AS relation ON relation.oid = tenant.attrelid
      JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
     WHERE tenant.attname = 'tenant_id' AND namespace.nspname = %s AND relation.relname = ANY(%s)
"""
