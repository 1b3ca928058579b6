"""Integrations: where a tenant wants to be told of escalations, and what is to be told."""

import base64
import secrets
from typing import Any, Final, Literal
from uuid import UUID

import httpx
from fastapi import APIRouter, HTTPException, Request
from psycopg.types.json import Jsonb
from pydantic import BaseModel, HttpUrl

from helpdesk.database import Connection, pool_of
from helpdesk.middleware import Tenant
from helpdesk.outbound import check_url
from helpdesk.tracing import carry_trace
from tenantry import current_scope

router = APIRouter(prefix="/v1/integrations")

_SET: Final = """
    INSERT INTO helpdesk.integrations (tenant_id, type, url, secret) VALUES (%s, %s, %s, %s)
    ON CONFLICT (tenant_id, type) DO UPDATE SET url = EXCLUDED.url
    RETURNING id, secret
"""

_ENQUEUE: Final = """
    INSERT INTO helpdesk.outbox (tenant_id, integration_id, payload, headers, correlation)
    SELECT tenant_id, id, %(payload)s, %(headers)s, %(correlation)s
      FROM helpdesk.integrations WHERE tenant_id = %(tenant)s ORDER BY type
    RETURNING integration_id
"""


class Endpoint(BaseModel):
    url: HttpUrl


class Integration(BaseModel):
    """What the endpoint's owner needs to verify that a delivery comes from us."""

    id: UUID
    secret: str


@router.put("/{integration_type}")
async def set_integration(
    integration_type: Literal["webhook", "slack", "crm"],
    endpoint: Endpoint,
    request: Request,
    tenant_id: Tenant,
) -> Integration:
    url = str(endpoint.url)
    try:
        await check_url(httpx.URL(url))
    except (httpx.InvalidURL, httpx.RequestError) as error:
        raise HTTPException(422, str(error)) from error
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    async with pool_of(request).connection() as connection:
        cursor = await connection.execute(_SET, [tenant_id, integration_type, url, secret])
        [row] = await cursor.fetchall()
    return Integration(**row)


async def enqueue(connection: Connection, tenant_id: UUID, payload: dict[str, Any]) -> UUID | None:
    """Have each of the tenant's integrations told, if and when the transaction commits.

    Gives the id of the one that is told first, or None where there is none. The dispatcher goes on
    in the trace, and with the correlation id, of what happens here.
    """
    scope = current_scope()
    cursor = await connection.execute(
        _ENQUEUE,
        {
            "tenant": tenant_id,
            "payload": Jsonb(payload),
            "headers": Jsonb(carry_trace()),
            "correlation": None if scope is None else scope.correlation,
        },
    )
    first = await cursor.fetchone()
    return None if first is None else first["integration_id"]
