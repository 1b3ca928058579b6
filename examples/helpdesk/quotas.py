"""The usage limiter: what a plan includes, and ``quota_exceeded`` when a tenant passes it."""

from uuid import UUID

from helpdesk.database import Connection
from helpdesk.tenants import LIMITS, QuotaType
from tenantry import log_event
from tenantry.taxonomies.saas import QuotaExceeded


class QuotaReached(Exception):
    """The tenant's plan includes no more of this; what was begun is rolled back."""

    def __init__(self, quota_type: QuotaType, limit: int, attempted: int) -> None:
        super().__init__(f"the plan includes {limit} {quota_type}, and this would be {attempted}")
        self.quota_type = quota_type
        self.limit = limit
        self.attempted = attempted


async def use(
    connection: Connection, tenant_id: UUID, quota_type: QuotaType, amount: int = 1
) -> None:
    """Count usage in the connection's transaction; raises ``QuotaReached`` above the limit.

    Messages are counted by calendar month (UTC), documents in all. The row stays locked until the
    transaction ends, so that two requests never share the last one that is left.
    """
    cursor = await connection.execute(
        """
        INSERT INTO helpdesk.usage AS usage (tenant_id, quota_type, period, used)
        VALUES (%(tenant)s, %(type)s, CASE %(type)s
            WHEN 'messages' THEN date_trunc('month', now() AT TIME ZONE 'UTC')::date
            ELSE DATE '1970-01-01' END, %(amount)s)
        ON CONFLICT (tenant_id, quota_type, period) DO UPDATE SET used = usage.used + EXCLUDED.used
        RETURNING used, (SELECT plan FROM helpdesk.tenants WHERE id = %(tenant)s) AS plan
        """,
        {"tenant": tenant_id, "type": quota_type, "amount": amount},
    )
    (row,) = await cursor.fetchall()
    limit = LIMITS.get(row["plan"], LIMITS["free"])[quota_type]
    if row["used"] > limit:
        attempted = int(row["used"])
        # Not with conn=: the transaction is about to be rolled back, and this did happen.
        log_event(QuotaExceeded(quota_type=quota_type, limit=limit, attempted=attempted))
        raise QuotaReached(quota_type, limit, attempted)
