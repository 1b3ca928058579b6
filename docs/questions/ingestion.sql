-- How much did each tenant ingest, how fast, and how often did it fail?
-- Window: ingestions that ended in the last 30 days. Counts are estimated where rows are sampled.
--   ingestions          ingestions that ended: completed and failed together
--   failed_pct          failed as a share of ingestions
--   docs, chunks        what the completed ones produced
--   chunks_s            chunks per second of ingestion time
--   p50_ms, p95_ms      half, and 95 of 100, of the completed ones took at most so many milliseconds
-- All tenants of the role that runs it: row-level security decides which rows there are.
WITH ended AS (
    SELECT
        tenant_id,
        name = 'ingest_completed' AS is_completed,
        1 / sample_rate AS weight,
        duration_ms,
        (data ->> 'docs')::double precision AS docs,
        (data ->> 'chunks')::double precision AS chunks
    FROM tenantry.events
    WHERE name IN ('ingest_completed', 'ingest_failed') AND created_at >= now() - interval '30 days'
),
weighed AS (
    -- The weighted percentile: the least duration that enough of the weight is at or below.
    SELECT
        ended.*,
        is_completed AND duration_ms IS NOT NULL AS is_timed,
        sum(weight) FILTER (WHERE is_completed AND duration_ms IS NOT NULL)
            OVER (PARTITION BY tenant_id ORDER BY duration_ms) AS cumulative,
        sum(weight) FILTER (WHERE is_completed AND duration_ms IS NOT NULL)
            OVER (PARTITION BY tenant_id) AS total
    FROM ended
)
SELECT
    tenant_id,
    round(sum(weight))::bigint AS ingestions,
    round(coalesce(sum(weight) FILTER (WHERE is_completed), 0))::bigint AS completed,
    round(coalesce(sum(weight) FILTER (WHERE NOT is_completed), 0))::bigint AS failed,
    round((100 * coalesce(sum(weight) FILTER (WHERE NOT is_completed), 0)
        / sum(weight))::numeric, 1) AS failed_pct,
    round(coalesce(sum(docs * weight) FILTER (WHERE is_completed), 0))::bigint AS docs,
    round(coalesce(sum(chunks * weight) FILTER (WHERE is_completed), 0))::bigint AS chunks,
    round((1000 * sum(chunks * weight) FILTER (WHERE is_timed)
        / nullif(sum(duration_ms * weight) FILTER (WHERE is_timed), 0))::numeric, 1) AS chunks_s,
    round(min(duration_ms) FILTER (WHERE is_timed AND cumulative >= 0.5 * total))::bigint AS p50_ms,
    round(min(duration_ms) FILTER (WHERE is_timed AND cumulative >= 0.95 * total))::bigint AS p95_ms
FROM weighed
GROUP BY tenant_id
ORDER BY sum(weight) DESC, tenant_id;
