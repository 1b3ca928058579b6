"""The design that a live database is compared with: policies, privileges and indexes.

The migrations make it; this says it once more, since a database cannot be asked what it was. A test
holds the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, LiteralString

EVENTS: Final = "events"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy; ``{schema}`` and ``{tenant_type}`` are filled in."""

    command: str
    """As ``pg_policy.polcmd`` has it."""
    using: LiteralString | None
    check: LiteralString | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """What is fixed about a table. Names of roles are the fields of ``Roles``."""

    grants: dict[str, str]
    """Privileges by role, as letters of an ACL."""
    indexes: tuple[LiteralString, ...]
    """As ``pg_get_indexdef`` has them, from the method on; the first is the primary key."""
    policies: dict[str, Policy] = field(default_factory=dict[str, Policy])
    """By name, which is the role's as well; none where the table has no row-level security."""


_BOUND: Final = (
    "SELECT bound.tenant_id FROM {schema}.tenant_roles bound WHERE bound.role = SESSION_USER"
)
_SET: Final = "nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type}"
_READER: Final = f"tenant_id = (SELECT coalesce(({_BOUND}), {_SET}))"
_TENANT: Final = f"tenant_id = ({_BOUND})"
_OWN_ROW: Final = "role = SESSION_USER"

_ALL: Final = {
    "admin": Policy("r", "true"),
    "maintainer": Policy("*", "true", "true"),
}
_POLICIES: Final = {
    "writer": Policy("a", None, "true"),
    "reader": Policy("r", _READER),
    "tenant": Policy("r", _TENANT),
    **_ALL,
}
_GRANTS: Final = {"writer": "a", "reader": "r", "tenant": "r", "admin": "r", "maintainer": "arwdD"}

TABLES: Final = {
    EVENTS: Table(
        _GRANTS,
        ("btree (tenant_id, created_at, id)", "btree (tenant_id, name, created_at DESC)"),
        _POLICIES,
    ),
    "rejected_events": Table(
        _GRANTS,
        ("btree (id)", "hash (tenant_id)"),
        {
            **_POLICIES,
            "reader": Policy("r", f"tenant_id = (SELECT coalesce(({_BOUND}), {_SET})::text)"),
            "tenant": Policy(
                "r",
                "tenant_id = (SELECT bound.tenant_id::text FROM {schema}.tenant_roles bound"
                " WHERE bound.role = SESSION_USER)",
            ),
        },
    ),
    "event_tallies": Table(_GRANTS, ("btree (tenant_id, journal_id, segment, name)",), _POLICIES),
    "journal_cursors": Table(
        {"writer": "arw", "admin": "r", "maintainer": "arwd"}, ("btree (journal_id)",)
    ),
    "ledger": Table(
        {role: letters for role, letters in _GRANTS.items() if role != "writer"},
        ("btree (id)",),
        {role: policy for role, policy in _POLICIES.items() if role != "writer"},
    ),
    "tenant_roles": Table(
        {"reader": "r", "tenant": "r", "admin": "r", "maintainer": "arwd"},
        ("btree (role)",),
        {"reader": Policy("r", _OWN_ROW), "tenant": Policy("r", _OWN_ROW), **_ALL},
    ),
    "adoptions": Table({"admin": "r", "maintainer": "r"}, ("btree (source, part)",)),
    "migrations": Table(
        dict.fromkeys(("writer", "reader", "tenant", "admin", "maintainer"), "r"),
        ("btree (version)",),
    ),
}

PRIVILEGES: Final[dict[str, LiteralString]] = {
    "a": "INSERT",
    "r": "SELECT",
    "w": "UPDATE",
    "d": "DELETE",
    "D": "TRUNCATE",
}
"""PostgreSQL's manual, "Privileges": the letters of an ACL."""

COMMANDS: Final[dict[str, LiteralString]] = {
    "r": "SELECT",
    "a": "INSERT",
    "w": "UPDATE",
    "d": "DELETE",
    "*": "ALL",
}


def is_same(expression: str | None, expected: str | None) -> bool:
    """Compare an expression as PostgreSQL prints it with one of the design."""
    return _plain(expression) == _plain(expected)


def _plain(expression: str | None) -> str | None:
    """Leave out what PostgreSQL adds: brackets, aliases of columns, quotes, casts to text."""
    if expression is None:
        return None
    without_aliases = re.sub(r'\sAS "?\w+"?', "", expression)
    return re.sub(r'[\s()"]|::text|pg_catalog\.', "", without_aliases).lower()
