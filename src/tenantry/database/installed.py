"""What is installed in a database: the version of the schema, its tenant type, its roles.

Asks the catalogue, which any role may read, so that a missing privilege can be told from a missing
schema.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, cast

import psycopg
from psycopg import sql

from tenantry.exceptions import ConfigurationError

TenantType = Literal["uuid", "bigint", "text"]

_TENANT_SINCE: Final = 6
"""The migration that added the tenant role."""

MAX_IDENTIFIER_BYTES: Final = 63
"""PostgreSQL cuts longer names (NAMEDATALEN - 1)."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of the five group roles."""

    writer: str = "tenantry_writer"
    reader: str = "tenantry_reader"
    admin: str = "tenantry_admin"
    maintainer: str = "tenantry_maintainer"
    tenant: str = "tenantry_tenant"

    def __post_init__(self) -> None:
        for role in fields(self):
            check_identifier(getattr(self, role.name), f"the {role.name} role")
        if self.tenant in {self.writer, self.reader, self.admin, self.maintainer}:
            raise ConfigurationError(
                f"{self.tenant!r} cannot name the tenant role and another one: logins that are "
                "bound to a tenant would get that one's rights. Choose a name of its own."
            )


@dataclass(frozen=True, slots=True)
class Installed:
    """What a database holds.

    ``version`` is 0 when the connected role may not read it.
    """

    version: int
    tenant_type: str
    roles: Roles
    user: str
    is_writer: bool
    """Whether the connected role is a member of the writer role, with its privileges."""

    def lacks(self, roles: Roles) -> bool:
        """Say whether one of ``roles`` has another name here.

        An older schema has fewer roles; those that it has not yet are no difference.
        """
        named = replace(roles, tenant=self.roles.tenant) if self.version < _TENANT_SINCE else roles
        return self.roles != named


# Qualified, here and wherever a function takes arguments of any type: whoever may create functions
# in a schema of the search_path could else have this session call one that fits better. Temporary
# tables are found before those of the catalogue.
_CATALOGUE: Final = """
    SELECT format_type(tenant.atttypid, NULL),
           (SELECT pg_catalog.json_object_agg(policy.polname, pg_get_userbyid(policy.polroles[1]))
              FROM pg_catalog.pg_policy AS policy WHERE policy.polrelid = events.oid),
           current_user::pg_catalog.text,
           (SELECT pg_has_role(policy.polroles[1], 'USAGE')
              FROM pg_catalog.pg_policy AS policy
             WHERE policy.polrelid = events.oid AND policy.polname = 'writer'),
           has_schema_privilege(events.relnamespace, 'USAGE')
               AND has_table_privilege(migrations.oid, 'SELECT')
      FROM pg_catalog.pg_namespace AS namespace
      JOIN pg_catalog.pg_class AS events
        ON events.relnamespace = namespace.oid AND events.relname = 'events'
      JOIN pg_catalog.pg_attribute AS tenant
        ON tenant.attrelid = events.oid AND tenant.attname = 'tenant_id'
      JOIN pg_catalog.pg_class AS migrations
        ON migrations.relnamespace = namespace.oid AND migrations.relname = 'migrations'
      JOIN pg_catalog.pg_attribute AS checksum  -- other tools call a table "migrations", too
        ON checksum.attrelid = migrations.oid AND checksum.attname = 'sha256'
     WHERE namespace.nspname = %s
"""


def read_installed(connection: psycopg.Connection[Any], schema: str) -> Installed | None:
    """Return what ``schema`` holds, or None when Tenantry's tables are not there."""
    row = connection.execute(_CATALOGUE, [schema]).fetchone()
    if row is None:
        return None
    tenant_type, policies, user, is_writer, version_is_readable = row
    named = cast("dict[str, str]", policies or {})
    roles = {role.name: named[role.name] for role in fields(Roles) if role.name in named}
    version = 0
    if version_is_readable:
        query = sql.SQL("SELECT coalesce(max(version), 0) FROM {}.migrations")
        found = connection.execute(query.format(sql.Identifier(schema))).fetchone()
        version = found[0] if found else 0
    return Installed(
        version=version,
        tenant_type=tenant_type.removeprefix("pg_catalog."),  # an odd search_path shows it
        roles=Roles(**roles),
        user=user,
        is_writer=bool(is_writer),
    )


def check_identifier(name: str, what: str) -> None:
    """Refuse a name that PostgreSQL would cut, or that no script should carry.

    Raises:
        ConfigurationError: naming ``what`` and the name.
    """
    if (
        not name.isprintable()
        or not 0 < len(name.encode()) <= MAX_IDENTIFIER_BYTES
        or any(character in name for character in "\"'$\\{}%;")
    ):
        raise ConfigurationError(
            f"{name[:80]!r} cannot name {what}: use 1 to {MAX_IDENTIFIER_BYTES} bytes of "
            "printable text without quotes, semicolons, backslashes, braces, $ and %."
        )


def check_tenant_type(tenant_type: str) -> TenantType:
    """Return ``tenant_type`` if it is one of uuid, bigint and text.

    Raises:
        ConfigurationError: for any other.
    """
    match tenant_type:
        case "uuid" | "bigint" | "text":
            return tenant_type
        case _:
            raise ConfigurationError(
                f"tenant_type {tenant_type[:80]!r} is not one of 'uuid', 'bigint' and 'text'."
            )
