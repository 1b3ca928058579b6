-- Which operations began and have no end?
-- Window: begun in the last 7 days, the latest first; one line an operation.
--   operation     name of the operation
--   operation_id  the same in all of its rows
--   state         in flight: begun within the last hour; unresolved: before that
--   age           time since it began
--   actor         who began it
-- All tenants of the role that runs it: row-level security decides which rows there are.
SELECT
    started.tenant_id,
    regexp_replace(started.name, '_started$', '') AS operation,
    started.operation_id,
    CASE
        WHEN started.created_at >= now() - interval '1 hour' THEN 'in flight'
        ELSE 'unresolved'
    END AS state,
    date_trunc('second', now() - started.created_at) AS age,
    started.actor_id AS actor
FROM tenantry.events AS started
WHERE started.phase = 'started' AND started.created_at >= now() - interval '7 days'
    AND NOT EXISTS (
        -- From a day earlier: a clock may have been set back between start and end.
        SELECT FROM tenantry.events AS ended
        WHERE ended.phase IN ('completed', 'failed') AND ended.created_at >= now() - interval '8 days'
            AND ended.tenant_id = started.tenant_id AND ended.operation_id = started.operation_id
    )
    AND NOT EXISTS (
        -- By the operation alone: the tenant is text here, and an operation has only one.
        SELECT FROM tenantry.rejected_events AS refused
        WHERE refused.phase IN ('completed', 'failed') AND refused.operation_id = started.operation_id
    )
ORDER BY started.created_at DESC, started.id DESC;
