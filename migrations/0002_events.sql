-- Why:    the events. The primary key deduplicates replays, carries the partition key, shards by
--         tenant, and scanned backwards is a tenant's feed of activity.
-- Locks:  none that anybody waits for; every object is new.
-- Runs:   as the user who ran 0001, who owns the tables.
--
-- Partitions are months in UTC: the previous one, the current one, 24 ahead, and DEFAULT for
-- whatever an odd clock produces. The parent's policies do not apply to a partition that is
-- addressed by its own name, so partitions get forced row-level security without a policy, and no
-- grants.

CREATE TABLE {schema}.events (
    id uuid NOT NULL,
    tenant_id {tenant_type} NOT NULL,
    name text NOT NULL,
    phase text CHECK (phase IN ('started', 'completed', 'failed')),
    created_at timestamptz NOT NULL,
    data jsonb NOT NULL DEFAULT '{}',
    event_version smallint NOT NULL DEFAULT 1,
    operation_id uuid,
    parent_operation_id uuid,
    actor_id text,
    correlation_id text,
    duration_ms double precision,
    error_code text,
    trace_id text,
    span_id text,
    service text,
    environment text,
    -- Queries weigh a row by 1 / sample_rate.
    sample_rate double precision NOT NULL DEFAULT 1 CHECK (sample_rate > 0 AND sample_rate <= 1),
    -- Not now(): a row that joins a caller's long transaction is stored late in it.
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (tenant_id, created_at, id)
) PARTITION BY RANGE (created_at);

CREATE INDEX events_tenant_id_name_created_at_idx ON {schema}.events (tenant_id, name, created_at DESC);

DO $partitions$
DECLARE
    first_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month';
    month timestamp;
    partition_name text;
BEGIN
    FOR month IN SELECT generate_series(first_month, first_month + interval '25 months', interval '1 month')
    LOOP
        partition_name := 'events_' || to_char(month, 'YYYY_MM');
        EXECUTE format(
            'CREATE TABLE %I.%I PARTITION OF %I.events FOR VALUES FROM (%L) TO (%L)',
            {schema_text}, partition_name, {schema_text},
            month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC'
        );
    END LOOP;
    EXECUTE format('CREATE TABLE %I.events_default PARTITION OF %I.events DEFAULT', {schema_text}, {schema_text});

    FOR partition_name IN
        SELECT child.relname
        FROM pg_inherits AS link JOIN pg_class AS child ON child.oid = link.inhrelid
        WHERE link.inhparent = '{schema}.events'::regclass
        ORDER BY child.relname
    LOOP
        EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY', {schema_text}, partition_name);
        EXECUTE format('ALTER TABLE %I.%I FORCE ROW LEVEL SECURITY', {schema_text}, partition_name);
        EXECUTE format('REVOKE ALL ON %I.%I FROM PUBLIC', {schema_text}, partition_name);
    END LOOP;
END
$partitions$;

ALTER TABLE {schema}.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE {schema}.events FORCE ROW LEVEL SECURITY;

CREATE POLICY writer ON {schema}.events FOR INSERT TO {writer} WITH CHECK (true);
-- nullif: a setting that a SET LOCAL made and that has ended is '', not null.
CREATE POLICY reader ON {schema}.events FOR SELECT TO {reader}
    USING (tenant_id = (SELECT nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type}));
CREATE POLICY admin ON {schema}.events FOR SELECT TO {admin} USING (true);
CREATE POLICY maintainer ON {schema}.events FOR ALL TO {maintainer} USING (true) WITH CHECK (true);

REVOKE ALL ON {schema}.events FROM PUBLIC;
GRANT INSERT ON {schema}.events TO {writer};
GRANT SELECT ON {schema}.events TO {reader}, {admin};
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {schema}.events TO {maintainer};

COMMENT ON TABLE {schema}.events IS 'What happened, one row an event; append-only; partitioned by month of created_at.';
COMMENT ON COLUMN {schema}.events.id IS 'UUIDv7, made by the application at the call.';
COMMENT ON COLUMN {schema}.events.tenant_id IS 'Whose event it is.';
COMMENT ON COLUMN {schema}.events.name IS 'Name of the event in the taxonomy, in snake_case.';
COMMENT ON COLUMN {schema}.events.phase IS 'started, completed or failed for an event of an operation; null for a plain fact.';
COMMENT ON COLUMN {schema}.events.created_at IS 'When it happened, by the application''s clock.';
COMMENT ON COLUMN {schema}.events.data IS 'The declared keys, in camelCase.';
COMMENT ON COLUMN {schema}.events.event_version IS 'Version of the event''s declaration.';
COMMENT ON COLUMN {schema}.events.operation_id IS 'UUIDv7 of the operation''s start; null for a plain fact.';
COMMENT ON COLUMN {schema}.events.parent_operation_id IS 'The operation around this one, or around the fact.';
COMMENT ON COLUMN {schema}.events.actor_id IS 'Who did it.';
COMMENT ON COLUMN {schema}.events.correlation_id IS 'What ties events together across services.';
COMMENT ON COLUMN {schema}.events.duration_ms IS 'Run time of the operation by a monotonic clock, in milliseconds.';
COMMENT ON COLUMN {schema}.events.error_code IS 'Why it failed: a short code, never a message.';
COMMENT ON COLUMN {schema}.events.trace_id IS 'OpenTelemetry trace, 32 hexadecimal digits.';
COMMENT ON COLUMN {schema}.events.span_id IS 'OpenTelemetry span, 16 hexadecimal digits.';
COMMENT ON COLUMN {schema}.events.service IS 'The service that emitted it.';
COMMENT ON COLUMN {schema}.events.environment IS 'Its deployment environment.';
COMMENT ON COLUMN {schema}.events.sample_rate IS 'Share of such events that are kept; a row stands for 1 / sample_rate events.';
COMMENT ON COLUMN {schema}.events.recorded_at IS 'When the database stored it, by the server''s clock.';
COMMENT ON COLUMN {schema}.events.transaction_id IS 'Transaction that stored it; readers tail below pg_snapshot_xmin(pg_current_snapshot()).';
