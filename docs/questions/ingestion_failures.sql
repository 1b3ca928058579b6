-- Why did ingestions fail?
-- Window: the last 30 days.
--   error_code   the code of the failure, never a message; - where there is none
--   failures     ingestions of the tenant that failed with it, estimated where rows are sampled
--   share_pct    their share of the tenant's failures
--   last_failed  when it happened last, in UTC
-- All tenants of the role that runs it: row-level security decides which rows there are.
SELECT
    tenant_id,
    coalesce(error_code, '-') AS error_code,
    round(sum(1 / sample_rate))::bigint AS failures,
    round((100 * sum(1 / sample_rate)
        / sum(sum(1 / sample_rate)) OVER (PARTITION BY tenant_id))::numeric, 1) AS share_pct,
    to_char(max(created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS last_failed
FROM tenantry.events
WHERE name = 'ingest_failed' AND created_at >= now() - interval '30 days'
GROUP BY tenant_id, coalesce(error_code, '-')
ORDER BY tenant_id, sum(1 / sample_rate) DESC, error_code;
