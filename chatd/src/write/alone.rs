//! A few messages of one conversation in one statement, which is one transaction: a lone send costs a
//! single round trip, and the disk's.

use super::columns::{EventColumns, OutboxColumns};
use super::plan::Plan;
use crate::db::{Connection, Query, signed};
use postgres::Error;

/// Nothing is written if the conversation is not as it was planned with: then no row comes back.
const APPEND_ALONE: Query = Query {
    name: "append_alone",
    sql: "WITH moved AS (
              UPDATE messaging.conversations c
              SET last_sequence_number = $3, last_message_number = $4, membership_version = $5,
                  last_event_at_us = $6, title = COALESCE($7, c.title)
              WHERE c.conversation_id = $1 AND c.last_sequence_number = $2
              RETURNING c.conversation_id
          ), logged AS (
              INSERT INTO messaging.events (conversation_id, sequence_number, kind, message_id,
                  message_number, sender_id, sender_device_id, idempotency_key, body_hash, text,
                  details, created_at_us)
              SELECT moved.conversation_id, new.*
              FROM moved, unnest($8::bigint[], $9::smallint[], $10::uuid[], $11::bigint[],
                  $12::uuid[], $13::uuid[], $14::text[], $15::bytea[], $16::text[], $17::bytea[],
                  $18::bigint[]) AS new
          ), queued AS (
              INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
              SELECT new.shard, new.topic, new.key, new.value, new.headers, new.created_at_us
              FROM moved, unnest($19::smallint[], $20::text[], $21::bytea[], $22::bytea[],
                  $23::bytea[], $24::bigint[])
                  WITH ORDINALITY
                  AS new (shard, topic, key, value, headers, created_at_us, ordinal)
              ORDER BY new.ordinal
          )
          SELECT conversation_id FROM moved",
};

/// Commits a plan of one conversation, in which no membership changes. False: the conversation is not
/// as planned, and nothing was written.
pub(super) fn append_alone(connection: &mut Connection, plan: &Plan<'_>) -> Result<bool, Error> {
    let Some((conversation_id, row)) = plan.conversations.first_key_value() else {
        return Ok(true);
    };
    let events = EventColumns::of(&plan.events);
    let outbox = OutboxColumns::of(plan.outbox.iter());
    let rows = connection.rows(
        &APPEND_ALONE,
        &[
            conversation_id,
            &signed(row.before_sequence_number.unwrap_or_default()),
            &signed(row.after.last_sequence_number),
            &signed(row.after.last_message_number),
            &signed(row.after.membership_version),
            &signed(row.after.last_event_at_us),
            &row.title,
            &events.sequence_numbers,
            &events.kinds,
            &events.message_ids,
            &events.message_numbers,
            &events.senders,
            &events.devices,
            &events.keys,
            &events.body_hashes,
            &events.texts,
            &events.details,
            &events.created_at_us,
            &outbox.shards,
            &outbox.topics,
            &outbox.keys,
            &outbox.values,
            &outbox.headers,
            &outbox.created_at_us,
        ],
    )?;
    Ok(!rows.is_empty())
}
