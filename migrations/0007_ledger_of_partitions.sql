-- Why:    rows that maintenance moves, takes out of sight, or drops with their partition are lines of
--         the ledger as well.
-- Locks:  ledger for an instant, exclusively, while its lines are checked once.
-- Runs:   as the user who ran 0001.

ALTER TABLE {schema}.ledger DROP CONSTRAINT ledger_kind_check;
ALTER TABLE {schema}.ledger ADD CONSTRAINT ledger_kind_check
    CHECK (kind IN ('retried', 'discarded', 'compacted', 'erased', 'moved', 'detached', 'dropped'));

COMMENT ON COLUMN {schema}.ledger.kind IS 'retried: rejects that became events; discarded: rejects that were deleted; compacted: cursors that were folded into one; erased: events that were deleted; moved: events that went from DEFAULT to their month; detached: events of a month that was detached; dropped: of those, the ones dropped for good.';
COMMENT ON COLUMN {schema}.ledger.tenant_id IS 'Whose rows; null for compacted, moved, detached and dropped, and where the reject had no valid tenant.';
COMMENT ON COLUMN {schema}.ledger.name IS 'Name of the events; null for compacted, moved, detached and dropped, and where the reject had none.';
COMMENT ON COLUMN {schema}.ledger.reason IS 'For retried and discarded, the reason of the rejects, or stored_already; for compacted, the service; for moved, detached and dropped, the table.';
