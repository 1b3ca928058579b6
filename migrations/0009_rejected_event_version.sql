-- Why:    an event that the application's side refused is mended by its declaration, and that has a
--         version. A row that the database refused has it within `event` already, and here as well.
-- Locks:  rejected_events for an instant, exclusively: a column without a default rewrites nothing.
-- Runs:   as the user who ran 0001.

ALTER TABLE {schema}.rejected_events ADD COLUMN event_version smallint;

COMMENT ON COLUMN {schema}.rejected_events.event_version IS 'Version of the event''s declaration; null where none was found.';
