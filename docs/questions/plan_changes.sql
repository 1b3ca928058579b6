-- Which tenants changed their plan, and how did it end?
-- Window: the last 30 days, newest first; one line a change.
--   changed_at     when, in UTC
--   previous_plan  the plan before
--   new_plan       the plan after; the same when only the status changed
--   status         as the application gave it; active is good
-- All tenants of the role that runs it: row-level security decides which rows there are.
SELECT
    tenant_id,
    to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS changed_at,
    data ->> 'previousPlan' AS previous_plan,
    data ->> 'newPlan' AS new_plan,
    data ->> 'status' AS status
FROM tenantry.events
WHERE name = 'plan_updated' AND created_at >= now() - interval '30 days'
ORDER BY created_at DESC, id DESC;
