-- How many conversations did each tenant have on each day?
-- Window: 30 days in UTC, today included. Tenants without any conversation in it are left out.
--   day            day in UTC
--   conversations  conversations that began on it, estimated where rows are sampled
-- All tenants of the role that runs it: row-level security decides which rows there are.
WITH bounds AS (
    SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AS today
),
conversations AS (
    -- A conversation counts once, on the day of its first row; it is seen with its highest rate.
    SELECT
        tenant_id,
        (min(created_at) AT TIME ZONE 'UTC')::date AS day,
        1 / max(sample_rate) AS weight
    FROM tenantry.events
    WHERE name = 'conversation_started'
        AND created_at >= (SELECT (today - interval '29 days') AT TIME ZONE 'UTC' FROM bounds)
        AND created_at < (SELECT (today + interval '1 day') AT TIME ZONE 'UTC' FROM bounds)
    GROUP BY tenant_id, data ->> 'conversationId'
),
days AS (
    SELECT generate_series(today - interval '29 days', today, interval '1 day')::date AS day
    FROM bounds
)
SELECT
    tenants.tenant_id,
    days.day,
    round(coalesce(sum(conversations.weight), 0))::bigint AS conversations
FROM (SELECT DISTINCT tenant_id FROM conversations) AS tenants
CROSS JOIN days
LEFT JOIN conversations ON conversations.tenant_id = tenants.tenant_id AND conversations.day = days.day
GROUP BY tenants.tenant_id, days.day
ORDER BY tenants.tenant_id, days.day DESC;
