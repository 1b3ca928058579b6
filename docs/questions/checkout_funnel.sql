-- How many checkouts of each plan were completed, did the plan become active, and how long did it take?
-- Window: checkouts that began in the last 30 days. Counts are estimated where rows are sampled.
--   tenant          a tenant, or all tenants together where several checked out for the plan
--   started         checkouts that began
--   completed       of those, the ones that were completed (same tenant, same stripeSessionId)
--   active          of those, the ones after whose start the tenant's plan_updated said active
--   conversion_pct  completed as a share of started
--   median_time     from start to completion, of the completed ones
-- All tenants of the role that runs it: row-level security decides which rows there are.
WITH started AS (
    -- What is sampled by its session is seen with the highest rate of its rows.
    SELECT
        tenant_id,
        data ->> 'stripeSessionId' AS session_id,
        min(data ->> 'plan') AS plan,
        min(created_at) AS started_at,
        max(sample_rate) AS start_rate
    FROM tenantry.events
    WHERE name = 'checkout_started' AND created_at >= now() - interval '30 days'
    GROUP BY tenant_id, data ->> 'stripeSessionId'
),
completed AS (
    SELECT
        tenant_id,
        data ->> 'stripeSessionId' AS session_id,
        min(created_at) AS completed_at,
        max(sample_rate) AS completion_rate
    FROM tenantry.events
    WHERE name = 'checkout_completed' AND created_at >= now() - interval '30 days'
    GROUP BY tenant_id, data ->> 'stripeSessionId'
),
activated AS (
    -- Since the start and not the completion: a payment provider may report the plan first.
    SELECT tenant_id, session_id, max(sample_rate) AS activation_rate
    FROM started JOIN tenantry.events USING (tenant_id)
    WHERE name = 'plan_updated' AND created_at >= now() - interval '30 days'
        AND data ->> 'status' = 'active' AND data ->> 'newPlan' = plan AND created_at >= started_at
    GROUP BY tenant_id, session_id
),
checkouts AS (
    SELECT
        tenant_id,
        plan,
        1 / start_rate AS weight,
        1 / least(start_rate, completion_rate) AS completed_weight,
        1 / least(start_rate, completion_rate, activation_rate) AS active_weight,
        completed_at IS NOT NULL AS is_completed,
        completed_at IS NOT NULL AND activation_rate IS NOT NULL AS is_active,
        completed_at - started_at AS took
    FROM started
    LEFT JOIN completed USING (tenant_id, session_id)
    LEFT JOIN activated USING (tenant_id, session_id)
),
lines AS (
    SELECT line.tenant, checkouts.*
    FROM checkouts
    CROSS JOIN LATERAL (VALUES ('all tenants'), (checkouts.tenant_id::text)) AS line (tenant)
),
weighed AS (
    -- The weighted median: the least time that half of the weight is at or below.
    SELECT
        lines.*,
        sum(completed_weight) FILTER (WHERE is_completed)
            OVER (PARTITION BY tenant, plan ORDER BY took) AS cumulative,
        sum(completed_weight) FILTER (WHERE is_completed)
            OVER (PARTITION BY tenant, plan) AS total
    FROM lines
)
SELECT
    plan,
    tenant,
    round(sum(weight))::bigint AS started,
    round(coalesce(sum(completed_weight) FILTER (WHERE is_completed), 0))::bigint AS completed,
    round(coalesce(sum(active_weight) FILTER (WHERE is_active), 0))::bigint AS active,
    round((100 * coalesce(sum(completed_weight) FILTER (WHERE is_completed), 0)
        / sum(weight))::numeric, 1) AS conversion_pct,
    date_trunc('second', min(took) FILTER (WHERE is_completed AND cumulative >= 0.5 * total)) AS median_time
FROM weighed
GROUP BY plan, tenant
HAVING tenant <> 'all tenants' OR count(DISTINCT tenant_id) > 1
ORDER BY tenant <> 'all tenants', sum(weight) DESC, plan, tenant;
