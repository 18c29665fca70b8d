-- Deleting a message empties the edits of it, too.
CREATE INDEX IF NOT EXISTS events_edits ON messaging.events (message_id) WHERE kind = 2;
