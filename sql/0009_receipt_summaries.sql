-- How far the members of each conversation have come that is too large to tell of each of them. Counted
-- as cursors move, under the row's lock, which is taken before receipts' and after conversations'.
CREATE TABLE IF NOT EXISTS messaging.receipt_summaries (
    conversation_id uuid PRIMARY KEY,
    -- The client protocol's ReceiptSummary, in protobuf.
    summary         bytea NOT NULL,
    -- When the members were told last, by this server's clock, which all instances share; and whether
    -- that is what `summary` says now. Whoever turns that tells the members.
    told_at         timestamptz NOT NULL,
    is_told         boolean NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- What is still to be told: conversations in which somebody acked within the last seconds.
CREATE INDEX IF NOT EXISTS receipt_summaries_due ON messaging.receipt_summaries (told_at)
    WHERE NOT is_told;

GRANT SELECT, INSERT, UPDATE ON messaging.receipt_summaries TO realchat_messaging;
