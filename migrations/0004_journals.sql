-- Why:    how far each journal has come, moved in the transaction that stores its rows: that is
--         what makes delivery exact, and what the books are checked against.
-- Locks:  none that anybody waits for; every object is new.
-- Runs:   as the user who ran 0001.

CREATE TABLE {schema}.journal_cursors (
    journal_id uuid PRIMARY KEY,
    segment bigint NOT NULL,
    "position" bigint NOT NULL,
    emitted bigint NOT NULL,
    accepted bigint NOT NULL,
    handed bigint NOT NULL,
    sampled_out bigint NOT NULL,
    dropped jsonb NOT NULL,
    stored bigint NOT NULL,
    rejected bigint NOT NULL,
    last_rejected bigint NOT NULL,
    service text,
    process text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);  -- updated with each batch: room for it on the same page

CREATE TABLE {schema}.event_tallies (
    tenant_id {tenant_type} NOT NULL,
    journal_id uuid NOT NULL,
    segment bigint NOT NULL,
    name text NOT NULL,
    accepted bigint NOT NULL,
    PRIMARY KEY (tenant_id, journal_id, segment, name)
);

ALTER TABLE {schema}.event_tallies ENABLE ROW LEVEL SECURITY;
ALTER TABLE {schema}.event_tallies FORCE ROW LEVEL SECURITY;

CREATE POLICY writer ON {schema}.event_tallies FOR INSERT TO {writer} WITH CHECK (true);
CREATE POLICY reader ON {schema}.event_tallies FOR SELECT TO {reader}
    USING (tenant_id = (SELECT nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type}));
CREATE POLICY admin ON {schema}.event_tallies FOR SELECT TO {admin} USING (true);
CREATE POLICY maintainer ON {schema}.event_tallies FOR ALL TO {maintainer} USING (true) WITH CHECK (true);

REVOKE ALL ON {schema}.journal_cursors, {schema}.event_tallies FROM PUBLIC;
-- The cursors carry nothing of any tenant: no row-level security.
GRANT SELECT, INSERT, UPDATE ON {schema}.journal_cursors TO {writer};
GRANT SELECT ON {schema}.journal_cursors TO {admin};
GRANT SELECT, DELETE ON {schema}.journal_cursors TO {maintainer};
GRANT INSERT ON {schema}.event_tallies TO {writer};
GRANT SELECT ON {schema}.event_tallies TO {reader}, {admin};
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {schema}.event_tallies TO {maintainer};

COMMENT ON TABLE {schema}.journal_cursors IS 'How far each journal has come, with its counters as of then.';
COMMENT ON COLUMN {schema}.journal_cursors.journal_id IS 'The journal: the local log of one process.';
COMMENT ON COLUMN {schema}.journal_cursors.segment IS 'Segment of the journal that the next batch begins in.';
COMMENT ON COLUMN {schema}.journal_cursors."position" IS 'Byte in that segment where the next batch begins.';
COMMENT ON COLUMN {schema}.journal_cursors.emitted IS 'Events that the process emitted.';
COMMENT ON COLUMN {schema}.journal_cursors.accepted IS 'Of those, the ones appended to the journal.';
COMMENT ON COLUMN {schema}.journal_cursors.handed IS 'Of those, the ones written into a caller''s own transaction.';
COMMENT ON COLUMN {schema}.journal_cursors.sampled_out IS 'Of those, the ones that sampling left out.';
COMMENT ON COLUMN {schema}.journal_cursors.dropped IS 'Of those, the ones that were lost on purpose, by reason.';
COMMENT ON COLUMN {schema}.journal_cursors.stored IS 'Events of this journal that are stored; a replay under an idempotency key counts, and adds no row.';
COMMENT ON COLUMN {schema}.journal_cursors.rejected IS 'Rows of rejected_events that came from this journal.';
COMMENT ON COLUMN {schema}.journal_cursors.last_rejected IS 'Of those, the ones of the last batch: the answer to a sender that lost it.';
COMMENT ON COLUMN {schema}.journal_cursors.service IS 'The service that the process belongs to.';
COMMENT ON COLUMN {schema}.journal_cursors.process IS 'host:pid of the process that wrote the journal.';
COMMENT ON COLUMN {schema}.journal_cursors.started_at IS 'When its first batch arrived.';
COMMENT ON COLUMN {schema}.journal_cursors.updated_at IS 'When its last batch arrived.';

COMMENT ON TABLE {schema}.event_tallies IS 'Accepted events per journal segment, tenant and name, written when the segment closes.';
COMMENT ON COLUMN {schema}.event_tallies.tenant_id IS 'Whose events they are.';
COMMENT ON COLUMN {schema}.event_tallies.journal_id IS 'The journal they came from.';
COMMENT ON COLUMN {schema}.event_tallies.segment IS 'The segment of that journal.';
COMMENT ON COLUMN {schema}.event_tallies.name IS 'Name of the events.';
COMMENT ON COLUMN {schema}.event_tallies.accepted IS 'How many of them the segment carried.';
