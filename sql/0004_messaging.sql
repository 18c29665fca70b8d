-- Conversations and their logs. Sequence numbers of a conversation are 1, 2, 3, ... without a hole:
-- they are taken under a lock on the conversation's row, so that their order is commit order.
-- The write engine's tables carry no foreign keys: it checks under that lock, once per batch.

CREATE TABLE IF NOT EXISTS messaging.conversations (
    conversation_id      uuid PRIMARY KEY,
    title                text NOT NULL,
    created_by           uuid NOT NULL,
    created_at_us        bigint NOT NULL,
    -- The last event's number, and how many of the events are messages.
    last_sequence_number bigint NOT NULL DEFAULT 0,
    last_message_number  bigint NOT NULL DEFAULT 0,
    -- Grows with every change of membership; audience caches compare it.
    membership_version   bigint NOT NULL DEFAULT 0,
    -- The last event's time; a conversation's times never go back, whatever the clock does.
    last_event_at_us     bigint NOT NULL,
    CONSTRAINT conversations_counters CHECK (
        last_message_number >= 0 AND last_message_number <= last_sequence_number
    )
-- Updated with every batch, no indexed column among it: room for updates within the page.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- Who is or was a member. A member sees the events from joined_sequence_number (its own joining) to
-- left_sequence_number (its own leaving), inclusive; who joins again sees from the new joining.
CREATE TABLE IF NOT EXISTS messaging.members (
    conversation_id        uuid NOT NULL,
    user_id                uuid NOT NULL,
    joined_sequence_number bigint NOT NULL,
    left_sequence_number   bigint,
    PRIMARY KEY (conversation_id, user_id),
    CONSTRAINT members_bounds CHECK (left_sequence_number > joined_sequence_number)
) WITH (fillfactor = 90);
CREATE INDEX IF NOT EXISTS members_user ON messaging.members (user_id, conversation_id);

-- The log. kind: 1 message, 2 message edited, 3 message deleted, 4 reaction,
-- 5 membership changed, 6 settings changed.
CREATE TABLE IF NOT EXISTS messaging.events (
    conversation_id  uuid NOT NULL,
    sequence_number  bigint NOT NULL,
    kind             smallint NOT NULL,
    -- The message that this event is, or is about.
    message_id       uuid,
    -- How many messages the log holds up to here, this one included.
    message_number   bigint NOT NULL,
    sender_id        uuid NOT NULL,
    sender_device_id uuid NOT NULL,
    idempotency_key  text COLLATE "C" NOT NULL,
    -- The first 16 bytes of SHA-256 over kind and body: is a repeated key the same request?
    body_hash        bytea NOT NULL,
    -- A message's current text.
    text             text,
    -- Other kinds: the client protocol's message of that kind, in protobuf.
    details          bytea,
    created_at_us    bigint NOT NULL,
    PRIMARY KEY (conversation_id, sequence_number)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
CREATE UNIQUE INDEX IF NOT EXISTS events_idempotency_key
    ON messaging.events (conversation_id, sender_id, idempotency_key);
-- Message ids are UUIDv7, so this index grows at its end.
CREATE INDEX IF NOT EXISTS events_message ON messaging.events (message_id) WHERE kind = 1;

-- How far each device of each member has come; only ever forward.
CREATE TABLE IF NOT EXISTS messaging.receipts (
    conversation_id           uuid NOT NULL,
    user_id                   uuid NOT NULL,
    device_id                 uuid NOT NULL,
    delivered_sequence_number bigint NOT NULL,
    read_sequence_number      bigint NOT NULL,
    updated_at_us             bigint NOT NULL,
    PRIMARY KEY (conversation_id, user_id, device_id),
    CONSTRAINT receipts_order CHECK (read_sequence_number <= delivered_sequence_number)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

GRANT SELECT, INSERT, UPDATE ON messaging.conversations, messaging.members, messaging.events,
    messaging.receipts TO realchat_messaging;
