-- What is committed and not yet published. The relay reads a shard in the order of id, publishes
-- and deletes. Rows with one key are inserted under one row lock (the conversation's, the receipt's
-- or the profile's), so that within a key the order of id is commit order; between keys a row with
-- a lower id may become visible later, and is simply found by the next read.

CREATE TABLE IF NOT EXISTS messaging.outbox (
    shard         smallint NOT NULL,
    -- CACHE 1: a session that kept numbers back would break the order within a key.
    id            bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
    topic         text COLLATE "C" NOT NULL,
    key           bytea NOT NULL, -- the Kafka key: 16 raw bytes of a conversation's or user's id
    value         bytea NOT NULL, -- the Kafka value: an encoded ServerFrame with one event
    headers       bytea NOT NULL, -- an encoded RecordHeaders
    attempts      integer NOT NULL DEFAULT 0,
    created_at_us bigint NOT NULL,
    PRIMARY KEY (shard, id)
-- A queue: rows live for milliseconds, so dead ones must go quickly, and statistics mean nothing.
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 20000,
    toast.autovacuum_vacuum_cost_delay = 0
);
-- Read back once and deleted: compressing it costs more than it saves.
ALTER TABLE messaging.outbox ALTER COLUMN value SET STORAGE EXTERNAL;
ALTER TABLE messaging.outbox ALTER COLUMN headers SET STORAGE EXTERNAL;

-- Which relay publishes which shard. The token grows with every change of owner.
CREATE TABLE IF NOT EXISTS messaging.outbox_leases (
    shard         smallint PRIMARY KEY,
    owner         text NOT NULL,
    fencing_token bigint NOT NULL,
    expires_at    timestamptz NOT NULL
) WITH (fillfactor = 50);

GRANT SELECT, INSERT ON messaging.outbox TO realchat_messaging;
GRANT SELECT, DELETE, UPDATE (attempts) ON messaging.outbox TO realchat_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging.outbox_leases TO realchat_relay;
