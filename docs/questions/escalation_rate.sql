-- Which share of each tenant's conversations was passed on to people, and why?
-- Window: conversations that began in the last 30 days. Counts are estimated where rows are sampled.
--   conversations   conversations that began
--   escalated       of those, the ones that were passed on, each counted once
--   escalated_pct   their share
--   top_reasons     the three most frequent reasons, each with its number of conversations
-- All tenants of the role that runs it: row-level security decides which rows there are.
WITH started AS (
    -- What is sampled by its conversation is seen with the highest rate of its rows.
    SELECT
        tenant_id,
        data ->> 'conversationId' AS conversation_id,
        max(sample_rate) AS start_rate
    FROM tenantry.events
    WHERE name = 'conversation_started' AND created_at >= now() - interval '30 days'
    GROUP BY tenant_id, data ->> 'conversationId'
),
escalations AS (
    SELECT
        tenant_id,
        data ->> 'conversationId' AS conversation_id,
        data ->> 'reason' AS reason,
        max(sample_rate) AS escalation_rate
    FROM tenantry.events
    WHERE name = 'escalation_triggered' AND created_at >= now() - interval '30 days'
    GROUP BY tenant_id, data ->> 'conversationId', data ->> 'reason'
),
reasons AS (
    SELECT
        tenant_id,
        reason,
        sum(1 / least(start_rate, escalation_rate)) AS conversations,
        row_number() OVER (
            PARTITION BY tenant_id
            ORDER BY sum(1 / least(start_rate, escalation_rate)) DESC, reason
        ) AS place
    FROM escalations JOIN started USING (tenant_id, conversation_id)
    GROUP BY tenant_id, reason
),
top AS (
    SELECT tenant_id, string_agg(reason || ' ' || round(conversations), ', ' ORDER BY place) AS reasons
    FROM reasons
    WHERE place <= 3
    GROUP BY tenant_id
),
totals AS (
    SELECT
        tenant_id,
        sum(1 / start_rate) AS conversations,
        coalesce(sum(1 / least(start_rate, escalation_rate))
            FILTER (WHERE escalation_rate IS NOT NULL), 0) AS escalated
    FROM started
    LEFT JOIN (
        SELECT tenant_id, conversation_id, max(escalation_rate) AS escalation_rate
        FROM escalations
        GROUP BY tenant_id, conversation_id
    ) AS escalated USING (tenant_id, conversation_id)
    GROUP BY tenant_id
)
SELECT
    totals.tenant_id,
    round(totals.conversations)::bigint AS conversations,
    round(totals.escalated)::bigint AS escalated,
    round((100 * totals.escalated / totals.conversations)::numeric, 1) AS escalated_pct,
    top.reasons AS top_reasons
FROM totals LEFT JOIN top USING (tenant_id)
ORDER BY escalated_pct DESC, conversations DESC, tenant_id;
