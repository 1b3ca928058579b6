-- Why:    rows that come from an older table of events. Which of them were taken is kept by their
--         ids and not by a highest one: ids are given before the commit, so that a lower one may
--         appear after a higher one, however much later. The ledger says where the events came from.
-- Locks:  ledger for an instant, exclusively: a check is replaced, and its rows are read once.
-- Runs:   as the user who ran 0001.

CREATE TABLE {schema}.adoptions (
    source text NOT NULL,
    part bigint NOT NULL,
    ids int8multirange NOT NULL,
    adopted bigint NOT NULL,
    rejected bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, part)
);

REVOKE ALL ON {schema}.adoptions FROM PUBLIC;
-- It carries nothing of any tenant: no row-level security. Only its owner writes it.
GRANT SELECT ON {schema}.adoptions TO {admin}, {maintainer};

ALTER TABLE {schema}.ledger DROP CONSTRAINT ledger_kind_check;
ALTER TABLE {schema}.ledger ADD CONSTRAINT ledger_kind_check
    CHECK (kind IN ('retried', 'discarded', 'compacted', 'erased', 'moved', 'detached', 'dropped', 'adopted'));

COMMENT ON TABLE {schema}.adoptions IS 'Which rows of an older table of events were taken over.';
COMMENT ON COLUMN {schema}.adoptions.source IS 'The older table, with its schema.';
COMMENT ON COLUMN {schema}.adoptions.part IS 'The ids of this row divided by 4,096, rounded down.';
COMMENT ON COLUMN {schema}.adoptions.ids IS 'Ids of the older table that were taken: adopted or rejected.';
COMMENT ON COLUMN {schema}.adoptions.adopted IS 'Of those, the ones that are events.';
COMMENT ON COLUMN {schema}.adoptions.rejected IS 'Of those, the ones that went to rejected_events.';
COMMENT ON COLUMN {schema}.adoptions.updated_at IS 'When rows of this part were last taken.';
COMMENT ON COLUMN {schema}.ledger.kind IS 'retried: rejects that became events; discarded: rejects that were deleted; compacted: cursors that were folded into one; erased: events that were deleted; moved: events that went from DEFAULT to their month; detached: events of a month that was detached; dropped: of those, the ones dropped for good; adopted: events from an older table.';
COMMENT ON COLUMN {schema}.ledger.tenant_id IS 'Whose rows; null for compacted, moved, detached, dropped and adopted, and where the reject had no valid tenant.';
COMMENT ON COLUMN {schema}.ledger.name IS 'Name of the events; null for compacted, moved, detached, dropped and adopted, and where the reject had none.';
COMMENT ON COLUMN {schema}.ledger.reason IS 'For retried and discarded, the reason of the rejects, or stored_already; for compacted, the service; for moved, detached, dropped and adopted, the table.';
