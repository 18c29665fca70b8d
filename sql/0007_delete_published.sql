-- The relay's mark: rows that the broker acknowledged are deleted, where the relay still holds their
-- shards. A function for its settings alone: the outbox is often empty, and a planner that was told so
-- would compare each of its rows with each of those published, which takes for ever once it is not.
-- With nothing else allowed, rows are found by their place. A row that was moved since it was read is
-- not found there: it is read and published again.
CREATE OR REPLACE FUNCTION messaging.delete_published(
    published_shards smallint[], published_ids bigint[], published_places tid[],
    held_shards smallint[], held_tokens bigint[], relay text
) RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_indexscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM messaging.outbox waiting
    USING unnest(published_shards, published_ids, published_places) AS published (shard, id, place)
    WHERE waiting.ctid = published.place AND waiting.id = published.id
        AND waiting.shard = published.shard
        AND published.shard = ANY (ARRAY(
            SELECT lease.shard FROM messaging.outbox_leases lease
            JOIN unnest(held_shards, held_tokens) AS held (shard, fencing_token)
                ON lease.shard = held.shard AND lease.fencing_token = held.fencing_token
            WHERE lease.owner = relay));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;
REVOKE EXECUTE ON FUNCTION messaging.delete_published FROM PUBLIC;
GRANT EXECUTE ON FUNCTION messaging.delete_published TO realchat_relay;
