"""Tenants: their API keys, and what their plans include."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

import psycopg

from helpdesk.database import Pool

Plan = Literal["free", "team", "business"]

QuotaType = Literal["messages", "documents"]

LIMITS: Final[dict[str, dict[QuotaType, int]]] = {
    "free": {"messages": 40, "documents": 20},
    "team": {"messages": 1_000, "documents": 200},
    "business": {"messages": 20_000, "documents": 5_000},
}
"""Messages a month, and documents in all. A plan that is not listed is treated as free."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is behind an API key."""

    tenant_id: UUID
    key_name: str


def create_tenant(
    connection: psycopg.Connection, name: str, *, plan: str = "free", key_name: str = "default"
) -> tuple[UUID, str]:
    """Make a tenant with an API key; give both. The key is not stored, and shown only here."""
    ((tenant_id,),) = connection.execute(
        "INSERT INTO helpdesk.tenants (name, plan) VALUES (%s, %s) RETURNING id", [name, plan]
    ).fetchall()
    key = f"hd_{secrets.token_urlsafe(24)}"
    connection.execute(
        "INSERT INTO helpdesk.api_keys (key_hash, tenant_id, name) VALUES (%s, %s, %s)",
        [_hash(key), tenant_id, key_name],
    )
    return tenant_id, key


async def find_caller(pool: Pool, key: str) -> Caller | None:
    """Find out whose key it is; None for a key that is nobody's."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT tenant_id, name FROM helpdesk.api_keys WHERE key_hash = %s", [_hash(key)]
        )
        row = await cursor.fetchone()
    return None if row is None else Caller(row["tenant_id"], row["name"])


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
