-- Until when a member wants no push requests of a conversation. Nothing: it is not muted. Leaving and
-- joining again does not change it.
ALTER TABLE messaging.members ADD COLUMN IF NOT EXISTS muted_until_us bigint;

-- Before somebody without a session is pushed, the relay asks whether that is still wanted.
GRANT SELECT (conversation_id, user_id, joined_sequence_number, left_sequence_number, muted_until_us)
    ON messaging.members TO realchat_relay;
GRANT SELECT (conversation_id, user_id, read_sequence_number) ON messaging.receipts TO realchat_relay;
