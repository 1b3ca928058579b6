-- Why:    events that were refused, kept with the reason, so that the books balance and somebody
--         can look.
-- Locks:  none that anybody waits for; every object is new.
-- Runs:   as the user who ran 0001.

CREATE TABLE {schema}.rejected_events (
    id uuid PRIMARY KEY,
    -- Text: an id that is not of the tenant type is a reason to be refused.
    tenant_id text,
    name text,
    phase text,
    created_at timestamptz NOT NULL,
    reason text NOT NULL,
    detail text,
    data jsonb,
    other_keys jsonb,
    operation_id uuid,
    parent_operation_id uuid,
    service text,
    environment text,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Hashed, because a refused id may be longer than a btree entry.
CREATE INDEX rejected_events_tenant_id_idx ON {schema}.rejected_events USING hash (tenant_id);

ALTER TABLE {schema}.rejected_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE {schema}.rejected_events FORCE ROW LEVEL SECURITY;

CREATE POLICY writer ON {schema}.rejected_events FOR INSERT TO {writer} WITH CHECK (true);
CREATE POLICY reader ON {schema}.rejected_events FOR SELECT TO {reader}
    USING (tenant_id = (SELECT nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type}::text));
CREATE POLICY admin ON {schema}.rejected_events FOR SELECT TO {admin} USING (true);
CREATE POLICY maintainer ON {schema}.rejected_events FOR ALL TO {maintainer} USING (true) WITH CHECK (true);

REVOKE ALL ON {schema}.rejected_events FROM PUBLIC;
GRANT INSERT ON {schema}.rejected_events TO {writer};
GRANT SELECT ON {schema}.rejected_events TO {reader}, {admin};
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {schema}.rejected_events TO {maintainer};

COMMENT ON TABLE {schema}.rejected_events IS 'Events that were refused, by the application or by the database, with the reason.';
COMMENT ON COLUMN {schema}.rejected_events.id IS 'The event''s id; derived from its bytes when it had no valid one.';
COMMENT ON COLUMN {schema}.rejected_events.tenant_id IS 'The tenant''s id as text; null when there was none, or it was no tenant id.';
COMMENT ON COLUMN {schema}.rejected_events.name IS 'Name of the event, as it was given.';
COMMENT ON COLUMN {schema}.rejected_events.phase IS 'Phase of the operation; with operation_id it shows that an operation did end.';
COMMENT ON COLUMN {schema}.rejected_events.created_at IS 'When it happened, by the application''s clock; when it was refused, if that is unknown.';
COMMENT ON COLUMN {schema}.rejected_events.reason IS 'A short code; database when the database refused the row.';
COMMENT ON COLUMN {schema}.rejected_events.detail IS 'What is wrong; for database, the SQLSTATE and the message.';
COMMENT ON COLUMN {schema}.rejected_events.data IS 'The declared keys with their values; null if they are no valid jsonb.';
COMMENT ON COLUMN {schema}.rejected_events.other_keys IS 'Undeclared keys with the names of their types, never with values.';
COMMENT ON COLUMN {schema}.rejected_events.operation_id IS 'The operation it belongs to.';
COMMENT ON COLUMN {schema}.rejected_events.parent_operation_id IS 'The operation around it.';
COMMENT ON COLUMN {schema}.rejected_events.service IS 'The service that emitted it.';
COMMENT ON COLUMN {schema}.rejected_events.environment IS 'Its deployment environment.';
COMMENT ON COLUMN {schema}.rejected_events.recorded_at IS 'When the database stored it, by the server''s clock.';
