"""What happened lately, for the tenant itself: its own events, read under row-level security."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request

from helpdesk.database import pool_of
from helpdesk.middleware import Tenant

router = APIRouter(prefix="/v1")

_NEWEST: Final = """
    SELECT id, name, phase, created_at, data, actor_id, correlation_id, duration_ms, error_code,
           trace_id
      FROM tenantry.events WHERE tenant_id = %s
     ORDER BY created_at DESC, id DESC LIMIT %s
"""


@router.get("/activity")
async def read_activity(
    request: Request,
    tenant_id: Tenant,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> dict[str, list[dict[str, Any]]]:
    async with pool_of(request).connection() as connection:
        # Without it a reader sees nothing; with it, nothing of others, whatever the query says. It
        # ends with the transaction, so that the next user of the connection does not inherit it.
        await connection.execute(
            "SELECT set_config('tenantry.tenant_id', %s, true)", [str(tenant_id)]
        )
        cursor = await connection.execute(_NEWEST, [tenant_id, limit])
        return {"events": await cursor.fetchall()}
