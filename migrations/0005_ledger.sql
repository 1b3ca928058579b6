-- Why:    corrections. A count once written is final: a reject that is retried or discarded, and
--         journals that are compacted, are lines of a ledger of their own. A reject keeps the whole
--         row, so that it can be stored after all; a cursor notes that its journal has ended.
-- Locks:  rejected_events and journal_cursors for an instant, exclusively: a column without a
--         default is added to each, and no row is rewritten.
-- Runs:   as the user who ran 0001.

ALTER TABLE {schema}.rejected_events ADD COLUMN event jsonb;
ALTER TABLE {schema}.journal_cursors ADD COLUMN ended_at timestamptz;

CREATE TABLE {schema}.ledger (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL CHECK (kind IN ('retried', 'discarded', 'compacted', 'erased')),
    tenant_id {tenant_type},
    name text,
    reason text,
    count bigint NOT NULL,
    -- Not current_user: who logged in, whatever role was set since.
    by text NOT NULL DEFAULT session_user
);

ALTER TABLE {schema}.ledger ENABLE ROW LEVEL SECURITY;
ALTER TABLE {schema}.ledger FORCE ROW LEVEL SECURITY;

CREATE POLICY reader ON {schema}.ledger FOR SELECT TO {reader}
    USING (tenant_id = (SELECT nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type}));
CREATE POLICY admin ON {schema}.ledger FOR SELECT TO {admin} USING (true);
CREATE POLICY maintainer ON {schema}.ledger FOR ALL TO {maintainer} USING (true) WITH CHECK (true);

REVOKE ALL ON {schema}.ledger FROM PUBLIC;
GRANT SELECT ON {schema}.ledger TO {reader}, {admin};
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {schema}.ledger TO {maintainer};
-- To fold cursors into one: the writer may do so to its own already.
GRANT INSERT, UPDATE ON {schema}.journal_cursors TO {maintainer};

COMMENT ON COLUMN {schema}.rejected_events.event IS 'For database, the whole row as it was sent, so that it can be retried; null where jsonb cannot hold it.';
COMMENT ON COLUMN {schema}.journal_cursors.process IS 'host:pid of the process that wrote the journal; for a compacted row, how many journals are in it.';
COMMENT ON COLUMN {schema}.journal_cursors.ended_at IS 'When its journal had ended for good: shipped whole, and removed. Null before, and where nobody could note it.';

COMMENT ON TABLE {schema}.ledger IS 'Corrections of the books: what became of rows after they were counted.';
COMMENT ON COLUMN {schema}.ledger.id IS 'A random id.';
COMMENT ON COLUMN {schema}.ledger.at IS 'When it was done, by the server''s clock.';
COMMENT ON COLUMN {schema}.ledger.kind IS 'retried: rejects that became events; discarded: rejects that were deleted; compacted: cursors that were folded into one; erased: events that were deleted.';
COMMENT ON COLUMN {schema}.ledger.tenant_id IS 'Whose rows; null for compacted, and where the reject had no valid tenant.';
COMMENT ON COLUMN {schema}.ledger.name IS 'Name of the events; null for compacted, and where the reject had none.';
COMMENT ON COLUMN {schema}.ledger.reason IS 'For retried and discarded, the reason of the rejects, or stored_already; for compacted, the service.';
COMMENT ON COLUMN {schema}.ledger.count IS 'How many rows.';
COMMENT ON COLUMN {schema}.ledger.by IS 'The login that did it.';
