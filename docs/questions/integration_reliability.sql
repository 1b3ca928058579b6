-- How reliable is each integration of each tenant?
-- Window: calls that ended in the last 30 days. Counts are estimated where rows are sampled.
--   type, integration  what kind of integration, and which one
--   calls              calls that ended: succeeded and failed together
--   success_pct        succeeded as a share of calls
--   p95_ms             95 of 100 calls took at most so many milliseconds, failed ones included
--   top_error          the most frequent error code of the failed ones
-- All tenants of the role that runs it: row-level security decides which rows there are.
WITH calls AS (
    SELECT
        tenant_id,
        data ->> 'type' AS type,
        data ->> 'integrationId' AS integration,
        name = 'integration_succeeded' AS is_success,
        1 / sample_rate AS weight,
        duration_ms,
        error_code
    FROM tenantry.events
    WHERE name IN ('integration_succeeded', 'integration_failed')
        AND created_at >= now() - interval '30 days'
),
weighed AS (
    -- The weighted percentile: the least duration that enough of the weight is at or below.
    SELECT
        calls.*,
        sum(weight) FILTER (WHERE duration_ms IS NOT NULL)
            OVER (PARTITION BY tenant_id, type, integration ORDER BY duration_ms) AS cumulative,
        sum(weight) FILTER (WHERE duration_ms IS NOT NULL)
            OVER (PARTITION BY tenant_id, type, integration) AS total,
        sum(weight) FILTER (WHERE NOT is_success AND error_code IS NOT NULL)
            OVER (PARTITION BY tenant_id, type, integration, error_code) AS code_weight
    FROM calls
)
SELECT
    tenant_id,
    type,
    integration,
    round(sum(weight))::bigint AS calls,
    round(coalesce(sum(weight) FILTER (WHERE is_success), 0))::bigint AS succeeded,
    round(coalesce(sum(weight) FILTER (WHERE NOT is_success), 0))::bigint AS failed,
    round((100 * coalesce(sum(weight) FILTER (WHERE is_success), 0) / sum(weight))::numeric, 1) AS success_pct,
    round(min(duration_ms) FILTER (WHERE cumulative >= 0.95 * total))::bigint AS p95_ms,
    (array_agg(error_code ORDER BY code_weight DESC, error_code)
        FILTER (WHERE code_weight IS NOT NULL))[1] AS top_error
FROM weighed
GROUP BY tenant_id, type, integration
ORDER BY success_pct, sum(weight) DESC, tenant_id, type, integration;
