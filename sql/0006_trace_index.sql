-- Messages are looked up by id for a trace only, and their ids are UUIDv7: as old as their rows. A
-- block range index finds them, and costs an insert almost nothing.
DROP INDEX IF EXISTS messaging.events_message;
CREATE INDEX IF NOT EXISTS events_message_range ON messaging.events
    USING brin (message_id) WITH (autosummarize = on);
