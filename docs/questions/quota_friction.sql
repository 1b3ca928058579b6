-- Which tenants run into their quotas, how hard, and do they pay for more?
-- Window: the last 30 days.
--   times_hit    how often the quota was exceeded, estimated where rows are sampled
--   days_hit     days in UTC on which it was; with sampled rows, at least so many
--   largest_pct  the largest attempt in per cent of its limit; empty where the limit was 0
--   paid_in_7d   yes: a checkout was completed within 7 days of a hit; no: none was;
--                open: none so far, and the last hit is less than 7 days old
-- All tenants of the role that runs it: row-level security decides which rows there are.
WITH hits AS (
    SELECT
        tenant_id,
        data ->> 'quotaType' AS quota_type,
        created_at AS hit_at,
        1 / sample_rate AS weight,
        (data ->> 'attempted')::numeric / nullif((data ->> 'limit')::numeric, 0) AS load
    FROM tenantry.events
    WHERE name = 'quota_exceeded' AND created_at >= now() - interval '30 days'
),
checkouts AS (
    SELECT tenant_id, created_at AS paid_at
    FROM tenantry.events
    WHERE name = 'checkout_completed' AND created_at >= now() - interval '30 days'
),
paid AS (
    SELECT DISTINCT tenant_id, quota_type, true AS is_paid
    FROM hits JOIN checkouts USING (tenant_id)
    WHERE paid_at >= hit_at AND paid_at < hit_at + interval '168 hours'
)
SELECT
    tenant_id,
    quota_type,
    round(sum(weight))::bigint AS times_hit,
    count(DISTINCT (hit_at AT TIME ZONE 'UTC')::date) AS days_hit,
    round(100 * max(load))::bigint AS largest_pct,
    CASE
        WHEN bool_or(is_paid) THEN 'yes'
        WHEN max(hit_at) > now() - interval '168 hours' THEN 'open'
        ELSE 'no'
    END AS paid_in_7d
FROM hits LEFT JOIN paid USING (tenant_id, quota_type)
GROUP BY tenant_id, quota_type
ORDER BY sum(weight) DESC, tenant_id, quota_type;
